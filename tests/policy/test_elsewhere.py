"""A policy that comes from elsewhere, or goes there."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from command import selector, write_policy
from conftest import write_jsonl
from selector.errors import PolicyError
from selector.plugins import allowed
from selector.policy import Policy, elsewhere

CODE = "raise SystemExit('this was imported')\n"


def policy_of(folder: Path, **sections: Any) -> dict[str, Any]:
    write_jsonl(folder / "corpus" / "a.jsonl", [{"text": f"text number {n}"} for n in range(9)])
    base = {"corpus": {"paths": [str(folder / "corpus")]}, "select": {"budget": {"documents": 3}}}
    return {**base, **sections}


FOREIGN: list[dict[str, Any]] = [
    {"rate": ["evil_module:Rater"]},
    {"rate": ["evil_module.Rater"]},
    {"rate": [{"evil_module:Rater": {"x": 1}}]},
    {"select": {"budget": {"documents": 3}, "using": "evil_module:Choice"}},
    {"select": {"budget": {"documents": 3}, "using": {"iterative": {"inner": "evil_module:Choice"}}}},
    {"order": {"using": "evil_module:Order"}},
    {"order": {"using": {"jittered": {"inner": {"evil_module:Order": {}}}}}},
    {"order": {"using": "os:system"}},
]


@pytest.mark.parametrize("sections", FOREIGN)
def test_a_policy_that_names_python_code_is_refused_before_that_is_imported(
    sections: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_module.py").write_text(CODE, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    policy = write_policy(tmp_path, policy_of(tmp_path, **sections))
    ended = selector("check", policy, "--no-foreign-plugins")
    assert ended.code == 2 and "names Python code" in ended.err and "evil_module" not in sys.modules
    assert "imported" not in selector("check", policy, env={"SELECTOR_NO_FOREIGN_PLUGINS": "1"}).out


def test_installed_plug_ins_are_used_all_the_same(tmp_path: Path) -> None:
    policy = write_policy(tmp_path, policy_of(tmp_path, rate=["length"]))
    assert selector("check", policy, "--no-foreign-plugins").code == 0


JUDGE = {"endpoint": "http://judge.example:8000/v1", "model": "m"}
DEEP = {"prerequisites": {"score": "length", "graph": "SECRET/s.jsonl"}}
OUTSIDE: dict[str, dict[str, Any]] = {
    "another folder": {"corpus": {"paths": ["SECRET"]}},
    "up and down": {"corpus": {"paths": ["CORPUS/../secret"]}},
    "up behind a wildcard": {"corpus": {"paths": ["CORPUS/*/../../secret/*.jsonl"]}},
    "a wildcard above": {"corpus": {"paths": ["FOLDER/*/s.jsonl"]}},
    "a class of characters above": {"corpus": {"paths": ["FOLDER/[s]ecret/s.jsonl"]}},
    "a name that begins like it": {"corpus": {"paths": ["CORPUSx"]}},
    "a link": {"corpus": {"paths": ["CORPUS/way_out.jsonl"]}},
    "a link below a wildcard": {"corpus": {"paths": ["CORPUS/*.jsonl"]}},
    "a link that looks like a pattern": {"corpus": {"paths": ["CORPUS/[z]/s.jsonl"]}},
    "a folder that is such a link": {"corpus": {"paths": ["CORPUS/[z]"]}},
    "the home folder": {"corpus": {"paths": ["~/x.jsonl"]}},
    "an object store": {"corpus": {"paths": ["s3://bucket/a.jsonl"]}},
    "a hub": {"corpus": {"paths": ["hf://datasets/owner/name/a.jsonl"]}},
    "an address of a file": {"order": {"parent": "file:///etc"}},
    "a tokenizer": {"corpus": {"paths": ["CORPUS/a.jsonl"], "tokenizer": "/etc/passwd"}},
    "a model": {"embed": {"model": "SECRET"}},
    "the home folder as a model": {"embed": {"model": "~"}},
    "a model of a hub": {"embed": {"model": "hf://owner/name@main"}},
    "a model with a link": {"embed": {"model": "CORPUS/model"}},
    "runs that are excluded": {"select": {"budget": {"documents": 3}, "exclude": ["SECRET"]}},
    "a list that is included": {"select": {"budget": {"documents": 3}, "include": "SECRET/s.jsonl"}},
    "a list behind such a link": {"select": {"budget": {"documents": 3}, "include": "CORPUS/[z]/s.jsonl"}},
    "a parent": {"order": {"parent": "SECRET"}},
    "centroids": {"cluster": {"from": "SECRET"}},
    "centroids of a run that lies higher up": {"cluster": {"from": "CORPUS/manifest"}},
    "what a rater has learned": {"rate": [{"fitted": {"artefact": "/etc/passwd"}}]},
    "a table deep in a plug-in": {"rate": ["length"], "order": {"using": {"spread": {"inner": DEEP}}}},
    "a server": {"rate": [{"judge": JUDGE}]},
}
BELOW = re.compile("does not lie below|leads out of")


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A folder `corpus` with links to `secret` beside it."""
    write_jsonl(tmp_path / "secret" / "s.jsonl", [{"text": "secret", "doc_id": "0" * 32}])
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"text": "a"}])
    (tmp_path / "corpus" / "way_out.jsonl").symlink_to(tmp_path / "secret" / "s.jsonl")
    (tmp_path / "corpus" / "[z]").symlink_to(tmp_path / "secret")
    for name in ("model", "manifest"):
        (tmp_path / "corpus" / name).mkdir()
    (tmp_path / "corpus" / "model" / "model.safetensors").touch()
    (tmp_path / "corpus" / "model" / "config.json").symlink_to(tmp_path / "secret" / "s.jsonl")
    (tmp_path / "corpus" / "manifest" / "manifest.json").write_text("{}", "utf-8")
    return tmp_path


def policy_in(house: Path, sections: dict[str, Any], scheme: str = "") -> Path:
    base = {"corpus": {"paths": ["CORPUS/a.jsonl"]}, "select": {"budget": {"documents": 1}}}
    text = json.dumps({**base, **sections})
    for name, folder in {"CORPUS": house / "corpus", "SECRET": house / "secret", "FOLDER": house}.items():
        text = text.replace(name, f"{scheme}{folder}")
    return write_policy(house, json.loads(text))


AS_ADDRESSES = (
    "another folder", "up and down", "a link", "a link below a wildcard", "a folder that is such a link",
    "a model with a link", "runs that are excluded", "centroids of a run that lies higher up",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "scheme"), [*((name, "") for name in OUTSIDE), *((name, "file://") for name in AS_ADDRESSES)]
)
def test_a_policy_that_looks_outside_of_what_is_allowed_is_refused(name: str, scheme: str, house: Path) -> None:
    ended = selector("check", policy_in(house, OUTSIDE[name], scheme), "--allowed", f"{scheme}{house / 'corpus'}")
    assert ended.code == 2 and BELOW.search(ended.err), ended.err


@pytest.mark.parametrize(
    "sections",
    [
        {"select": {"budget": {"documents": 1}, "include": "./~/s.jsonl"}},
        {"select": {"budget": {"documents": 1}, "exclude": ["./~/run"]}},
        {"corpus": {"paths": ["CORPUS/a.jsonl"], "tokenizer": "./~/tokenizer.json"}},
        {"corpus": {"paths": ["./~/s.jsonl"]}},
    ],
)
def test_a_folder_that_is_called_like_a_home_is_none(
    sections: dict[str, Any], house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(house / "secret"))
    monkeypatch.chdir(house / "corpus")
    ended = selector("check", policy_in(house, sections), "--allowed", house / "corpus")
    assert ended.code != 0 and str(house / "secret") not in ended.err
    assert re.search("there is no (file|tokenizer)|cannot be read|no manifest", ended.err, re.IGNORECASE), ended.err


def test_a_policy_is_the_same_one_however_its_paths_are_written(house: Path) -> None:
    one, other = (Policy.load(policy_in(house, {}, scheme)) for scheme in ("", "file://"))
    assert elsewhere.identity(one) == elsewhere.identity(other)
    for written in ("./~/x", "./s3:/x", "./C:/x"):
        resolved = Policy.load(
            write_policy(house, {"corpus": {"paths": [written]}, "select": {"budget": {"documents": 1}}})
        ).resolved()
        assert resolved["corpus"]["paths"] == [written]


@pytest.mark.parametrize(
    ("sections", "roots"),
    [
        ({"rate": ["level"]}, []),  # its classes come with this package
        ({"embed": {"model": "all-MiniLM-L6-v2"}, "rate": ["prototypicality"]}, []),
        ({"rate": [{"judge": JUDGE}]}, ["http://judge.example:8000"]),
        (
            {"rate": [{"judge": {**JUDGE, "key_variable": "JUDGE_KEY"}}]},
            ["http://judge.example:8000/v1", "env:JUDGE_KEY"],
        ),
    ],
)
def test_what_comes_with_it_and_what_is_allowed_is_taken(
    sections: dict[str, Any], roots: list[str], house: Path
) -> None:
    words = [word for root in [house / "corpus" / "a.jsonl", *roots] for word in ("--allowed", root)]
    ended = selector("check", policy_in(house, sections), *words)
    assert ended.code == 0, ended.err


def test_a_secret_of_the_environment_goes_nowhere_that_a_policy_of_somebody_elses_names(house: Path) -> None:
    judge = {**JUDGE, "key_variable": "AWS_SESSION_TOKEN"}
    words = ("--allowed", house / "corpus", "--allowed", "http://judge.example:8000")
    ended = selector("check", policy_in(house, {"rate": [{"judge": judge}]}), *words)
    assert ended.code == 2 and "AWS_SESSION_TOKEN' is not for this policy" in ended.err


WITH_A_SECRET = "SCHEME://user:hunter2@host/x?key=hunter2"


@pytest.mark.parametrize("scheme", ["https", "s3", "hf"])
@pytest.mark.parametrize(
    "sections",
    [
        {"corpus": {"paths": [WITH_A_SECRET]}},
        {"corpus": {"paths": ["CORPUS/a.jsonl"], "tokenizer": WITH_A_SECRET}},
        {"embed": {"model": WITH_A_SECRET}, "rate": ["prototypicality"]},
        {"cluster": {"from": WITH_A_SECRET}, "rate": ["prototypicality"]},
        {"rate": [{"fitted": {"artefact": WITH_A_SECRET}}]},
        {"rate": [{"level": {"taxonomy": WITH_A_SECRET}}]},
        {"rate": [{"judge": {**JUDGE, "endpoint": WITH_A_SECRET}}]},
        {"select": {"budget": {"documents": 1}, "include": WITH_A_SECRET}},
        {"select": {"budget": {"documents": 1}, "exclude": [WITH_A_SECRET]}},
        {"order": {"parent": WITH_A_SECRET}},
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(sections: dict[str, Any], scheme: str, house: Path) -> None:
    policy = policy_in(house, json.loads(json.dumps(sections).replace("SCHEME", scheme)))
    ended = selector("check", policy, "--json")
    assert ended.code in (2, 4) and "hunter2" not in ended.out + ended.err, ended.err
    ended = selector("check", policy, "--allowed", house / "corpus")
    assert ended.code == 2 and "hunter2" not in ended.err


@pytest.mark.parametrize(
    ("address", "root", "is_within"),
    [
        ("s3://bucket/data/a.jsonl", "s3://bucket/data", True),
        ("s3://bucket/data", "s3://bucket/data/", True),
        ("s3://bucket/data", "s3://", True),
        ("s3://bucket/database", "s3://bucket/data", False),
        ("s3://bucket/data/../other", "s3://bucket/data", False),
        ("s3://bucket/data/%2e%2e/other", "s3://bucket/data", False),
        ("s3://bucket/data/%252E%252e/other", "s3://bucket/data", False),
        ("s3://bucket/data/..\\other", "s3://bucket/data", False),
        ("s3://bucket/data/a?endpoint_override=evil", "s3://bucket/data", False),
        ("s3://bucket/data/a#b", "s3://bucket/data", False),
        ("s3://bucket/data\t/a", "s3://bucket/data", False),
        ("S3://bucket/data/a", "s3://bucket/data", False),
        ("gs://bucket/data/a", "s3://bucket/data", False),
        ("hf://datasets/owner/name@main/a", "hf://datasets/owner/name", True),
        ("hf://datasets/owner/name@main/a", "hf://datasets/owner/name@other", False),
        ("hf://datasets/owner@x/name2/a", "hf://datasets/owner/name", False),
        ("http://judge:8000/v1", "http://judge:8000", True),
        ("http://judge:8000@evil/v1", "http://judge:8000", False),
        ("http://judge:80001/v1", "http://judge:8000", False),
        ("http://judge.evil/v1", "http://judge", False),
        ("https://judge/v1", "http://judge", False),
        ("file:///data/a", "/data", True),
        ("/data/a", "file:///data", True),
        ("file:///data/../etc", "/data", False),
        ("/data\0/a", "/data", False),
        ("/data", "env:/data", False),
        ("/anything", "/", True),
        ("simplecache::s3://bucket/data/a", "s3://bucket/data", False),
    ],
)
def test_an_address_lies_below_another_or_does_not(address: str, root: str, is_within: bool) -> None:
    assert allowed.is_within(address, [root]) is is_within
    assert not allowed.is_within(address, [])


def test_a_policy_that_stays_within_is_taken(tmp_path: Path) -> None:
    policy = write_policy(tmp_path, policy_of(tmp_path))
    assert selector("check", policy, "--allowed", tmp_path / "other", "--allowed", tmp_path / "corpus").code == 0


def test_a_policy_goes_whole_and_comes_back_the_same(tmp_path: Path) -> None:
    policy = Policy.of(policy_of(tmp_path, rate=["length", "readability"], seed=3))
    parcel, requires = elsewhere.parcel(policy)
    again = Policy.of(json.loads(parcel.files["policy.json"]))
    assert again.resolved() == policy.resolved() and list(requires) == ["selector"]


@pytest.mark.parametrize(("address", "path"), [("/data/*", "/data/*"), ("file:///data", "/data"), ("s3://b/d", None)])
def test_the_paths_that_do_not_travel_are_those_on_a_file_system(
    address: str, path: str | None, tmp_path: Path
) -> None:
    policy = Policy.of({**policy_of(tmp_path), "corpus": {"paths": [address]}})
    paths = [one for key, one in elsewhere.parcel(policy)[0].paths if key == "corpus.paths"]
    assert paths == ([] if path is None else [path])


def test_where_a_relative_path_would_lie_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    policy = Policy.of({**policy_of(tmp_path), "corpus": {"paths": ["corpus/*.jsonl"]}})
    with pytest.raises(PolicyError, match=f"Write {tmp_path}/corpus"):
        elsewhere.parcel(policy)
