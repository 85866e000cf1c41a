"""A policy that comes from elsewhere, or goes there."""

import sys
from pathlib import Path
from typing import Any

import pytest

from command import selector, write_policy
from conftest import write_jsonl
from selector.errors import PolicyError
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


def outside(folder: Path) -> list[dict[str, Any]]:
    """Policies that look beyond `corpus`, beside which lies `secret`."""
    corpus, secret = folder / "corpus", folder / "secret"
    link = corpus / "way_out.jsonl"
    link.symlink_to(secret / "s.jsonl")
    budget: dict[str, Any] = {"budget": {"documents": 3}}
    return [
        {"corpus": {"paths": [str(secret)]}},
        {"corpus": {"paths": [f"{corpus}/../secret"]}},
        {"corpus": {"paths": [f"{corpus}/*/../../secret/*.jsonl"]}},
        {"corpus": {"paths": [f"{folder}/*/s.jsonl"]}},
        {"corpus": {"paths": [f"{folder}/[s]ecret/s.jsonl"]}},
        {"corpus": {"paths": [f"{corpus}x"]}},
        {"corpus": {"paths": [str(link)]}},
        {"corpus": {"paths": [f"{corpus}/*.jsonl"]}},
        {"corpus": {"paths": ["~/x.jsonl"]}},
        {"corpus": {"paths": ["s3://bucket/a.jsonl"]}},
        {"corpus": {"paths": [str(corpus / "a.jsonl")], "tokenizer": "/etc/passwd"}},
        {"embed": {"model": str(secret)}},
        {"embed": {"model": "hf://owner/name@main"}},
        {"select": {**budget, "exclude": [str(secret)]}},
        {"select": {**budget, "include": str(secret / "s.jsonl")}},
        {"order": {"parent": str(secret)}},
    ]


@pytest.mark.parametrize("number", range(16))
def test_a_policy_that_looks_outside_of_what_is_allowed_is_refused(number: int, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "secret" / "s.jsonl", [{"text": "secret"}])
    (tmp_path / "corpus").mkdir()
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"text": "a"}])
    sections = outside(tmp_path)[number]
    base = {"corpus": {"paths": [str(tmp_path / "corpus" / "a.jsonl")]}, "select": {"budget": {"documents": 3}}}
    policy = write_policy(tmp_path, {**base, **sections})
    ended = selector("check", policy, "--allowed", tmp_path / "corpus")
    assert ended.code == 2 and ("does not lie below" in ended.err or "leads out of" in ended.err), ended.err


def test_a_policy_that_stays_within_is_taken(tmp_path: Path) -> None:
    policy = write_policy(tmp_path, policy_of(tmp_path))
    assert selector("check", policy, "--allowed", tmp_path / "other", "--allowed", tmp_path / "corpus").code == 0


def test_a_policy_goes_whole_and_comes_back_the_same(tmp_path: Path) -> None:
    import json

    policy = Policy.of(policy_of(tmp_path, rate=["length", "readability"], seed=3))
    parcel, requires = elsewhere.parcel(policy)
    again = Policy.of(json.loads(parcel.files["policy.json"]))
    assert again.resolved() == policy.resolved() and list(requires) == ["selector"]


def test_where_a_relative_path_would_lie_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    policy = Policy.of({**policy_of(tmp_path), "corpus": {"paths": ["corpus/*.jsonl"]}})
    with pytest.raises(PolicyError, match=f"Write {tmp_path}/corpus"):
        elsewhere.parcel(policy)
