"""Bad input gets a clear answer and nothing is lost: exit code 2 before any work, or its row in quarantine and 3."""

import gzip
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from command import Ended, selector, with_value, write_policy
from conftest import text_of, write_jsonl
from selector.corpus import files
from selector.corpus.formats.jsonl import Jsonl
from selector.manifest import Manifest

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Desk:
    """A policy over a small good corpus, and a folder to spoil it in."""

    folder: Path
    corpus: Path
    policy: dict[str, Any]

    @property
    def root(self) -> Path:
        return self.folder / "runs"

    def run(self, policy: dict[str, Any], *arguments: object, command: str = "run", root: object = None) -> Ended:
        path = write_policy(self.folder, policy)
        return selector(command, path, "--root", root or self.root, "--executor", "local", *arguments)

    def refused(self, policy: dict[str, Any], message: str, *arguments: object, root: object = None) -> None:
        """The policy is refused with this message before any work, and nothing is on stdout."""
        ended = self.run(policy, *arguments, root=root)
        assert_refused(ended, message)
        assert not self.root.exists(), "there was work before the answer"


def assert_refused(ended: Ended, message: str) -> None:
    assert ended.code == 2 and (not ended.out or ended.json["error"]["exit_code"] == 2), ended
    assert re.search(message, ended.err.partition("error: ")[2]), ended.err
    assert "Traceback" not in ended.err and "fault of selector" not in ended.err and "secret" not in ended.err


@pytest.fixture
def desk(tmp_path: Path, tiny_model: Path) -> Desk:
    rows = [{"id": n, "text": text_of(n, 8), "source": "web", "edu": n % 7, "lang": "en"} for n in range(40)]
    corpus = write_jsonl(tmp_path / "corpus/good.jsonl", rows)
    return Desk(tmp_path, corpus, policy_over([corpus], tiny_model))


def policy_over(paths: list[Path], model: Path) -> dict[str, Any]:
    return {
        "corpus": {"paths": [str(path) for path in paths]},
        "embed": {"model": str(model), "precision": "float32", "max_tokens": 32},
        "cluster": {"num_clusters": 3},
        "rate": ["prototypicality"],  # reads the vectors
        "select": {"budget": {"fraction": 0.5}},
    }


# ---------------------------------------------------------------- the policy

KMEANS_QUALITY = {"kmeans_quality": {"score": "readabilty"}}
VALUES: list[tuple[str, Any, str]] = [
    ("slect", {}, r"The policy has no key 'slect'\. Did you mean 'select'\?"),
    ("select.buget", {"tokens": 5}, r"select has no key 'buget'\. Did you mean 'budget'\?"),
    ("select.budget.toknes", 5, r"select\.budget has no key 'toknes'\. Did you mean 'tokens'\?"),
    ("corpus.path", ["a"], r"corpus has no key 'path'\. Did you mean 'paths'\?"),
    ("corpus", [1], r"corpus: write keys below it: paths, text, .*; it is \[1\]\."),
    ("corpus", None, r"corpus: write keys below it"),
    ("order", "shuffled", r"order: write keys below it: using, parent; it is 'shuffled'\."),
    ("order.using", "shufled", r"There is no order called 'shufled'\. Did you mean 'shuffled'\?"),
    ("select.using", "tpo", r"There is no selector called 'tpo'\. Did you mean 'top'\?"),
    ("rate", ["lenght"], r"There is no rater called 'lenght'\. Did you mean 'length'\?"),
    ("rate", ["nonsense"], r"There is no rater called 'nonsense'\. There is: .*column, .*length, "),
    ("rate", "length", r"rate: write a list, e\.g\. \[a, b\]; it is 'length'\."),
    ("rate", [{"length": {}, "readability": {}}], r"rate\.0: write a name, or one name with its options: \{name: "),
    ("rate", ["length", "length"], r"rate\.1: 'length' is there already\. Remove one, or give"),
    ("rate", [{"length": {"units": "words"}}], r"rate\.0\.length has no option 'units'\. Did you mean 'unit'\?"),
    ("rate", [{"length": {"unit": "wrds"}}], r"rate\.0\.length\.unit: input should be 'words', .*; it is 'wrds'\."),
    ("rate", [{"column": {"column": "edu"}}], r"rate\.0\.column\.higher_is is missing: column cannot do without it\."),
    ("order.using", {"interleaved": {"rounds": "three"}}, r"\.rounds: write a whole number; it is 'three'\."),
    ("order.using", {"interleaved": {"rounds": True}}, r"interleaved\.rounds: write a number; it is True\."),
    ("order.using", {"interleaved": {"rounds": 0}}, r"interleaved\.rounds=0 leaves no place"),
    ("order.using", "os.path:join", r"'os\.path:join' is no order: it does not extend selector\.order\.Order\."),
    ("order.using", "selector.order:Order", r"'selector\.order:Order' is not finished: it does not define arrange\."),
    ("order.using", "not_there.module:It", r"The order 'not_there\.module:It' cannot be imported: ModuleNotFoundError"),
    ("select.using", KMEANS_QUALITY, r"no rater gives the score 'readabilty'\. Did you mean 'readability'\?"),
    ("order.using", {"by_score": {"score": "length"}}, r"score 'length'\. There is a rater of that name: add it"),
    ("order.using", {"by_score": {"score": "x"}}, r"order\.using\.score: no rater gives the score 'x'\. There is: pro"),
    ("manifest.quality", "x", r"manifest\.quality: no rater gives the score 'x'\."),
    ("manifest.dificulty", "x", r"manifest has no key 'dificulty'\. Did you mean 'difficulty'\?"),
    ("seed", "x", r"seed: write a whole number; it is 'x'\."),
    ("seed", -1, r"seed: input should be greater than or equal to 0; it is -1\."),
    ("seed", True, r"seed: write a number; it is True\."),
    ("select.budget", {}, r"select\.budget: write one of documents, tokens and fraction, not none of them"),
    ("select.budget", {"tokens": 5, "fraction": 0.5}, r"select\.budget: write one of .*, not tokens and fraction; "),
    ("select.budget", 5, r"select\.budget: write keys below it: documents, tokens, fraction, overshoot; it is 5\."),
    *(("select.budget", {"documents": n}, rf"documents: input should be greater than 0; it is {n}") for n in (0, -1)),
    *(("select.budget", {"tokens": n}, "tokens: write a whole number, or one with k, M,") for n in ("abc", "-5", "")),
    ("select.budget", {"tokens": 1.5}, r"select\.budget\.tokens: write a whole number; it is 1\.5\."),
    ("select.budget", {"tokens": True}, r"select\.budget\.tokens: write a number; it is True\."),
    *(("select.budget", {"fraction": x}, r"fraction: input should be greater than 0") for x in (0, -0.5)),
    *(("select.budget", {"fraction": x}, r"less than or equal to 1") for x in (1.5, float("inf"), float("nan"))),
    ("select.budget", {"tokens": 5, "overshoot": "sotp"}, r"overshoot: input should be 'stop', 'fill' or 'cross'; "),
    *(("cluster.num_clusters", n, "write a whole number of 1 or more, or auto") for n in (0, -3, "atuo", 2.5, True)),
    ("corpus.paths", [], r"corpus\.paths: write at least one; it is \[\]\."),
    ("corpus.paths", [3], r"corpus\.paths\.0: write text, in quotes where YAML would read a number; it is 3\."),
    ("corpus.text", False, r"corpus\.text: write text, in quotes"),
    ("corpus.text", "{text", r"corpus\.text: the template '\{text' has a '\{' that names no column\. Write \{column\}"),
    ("corpus.text", "txet", r"has no column 'txet'\. There is: edu, id, lang, source, text\. Did you mean 'text'\?"),
    ("corpus.text", "{text} {inptu}", r"corpus\.text: .*good\.jsonl has no column 'inptu'\. There is: edu"),
    ("corpus.key", "idd", r"corpus\.key: .* has no column 'idd'\. There is: .*Did you mean 'id'\?"),
    ("corpus.source", "sorce", r"corpus\.source: .* has no column 'sorce'\. There is: .*Did you mean 'source'\?"),
    ("corpus.source", 5, r"corpus\.source: write the name of a column, or a constant per path: .*; it is 5\."),
    ("corpus.source", {"*/nowhere/*": "a"}, r"no file of the corpus matches '\*/nowhere/\*'\. .* a folder, or"),
    ("corpus.source", {"*.parquet": "a"}, r"no file of the corpus matches '\*\.parquet'\. Write a pattern"),
    ("rate", [{"column": {"column": "eud", "higher_is": "better"}}], r"rate\.eud: .*column 'eud'\..* you mean 'edu'\?"),
    ("corpus.tokenizer", "nowhere", r"corpus\.tokenizer: there is no tokenizer\.json at 'nowhere'\. Give the file"),
    ("corpus.rows_per_part", 0, r"corpus\.rows_per_part: input should be greater than 0; it is 0\."),
    ("embed.model", "all-MiniLM", r"embed\.model: there is no folder 'all-MiniLM'.* Did you mean 'all-MiniLM-L6-v2'\?"),
    ("embed.model", "hf://owner/name", r"'hf://owner/name' names no commit of a model\. Write hf://owner/name@<40 hex"),
    ("embed.max_tokens", 513, r"embed\.max_tokens is 513, and .* reads at most 512\. Lower it\."),
    ("embed.precision", "fp16", r"embed\.precision: input should be 'auto', 'float32', .*; it is 'fp16'\."),
    ("select.where", "", r"select\.where: string should have at least 1 character; it is ''\."),
    ("select.where", 5, r"select\.where: write text"),
    ("select.where", "num_tokens >=", r"select\.where: 'num_tokens >=' is not an SQL condition: "),
    ("select.where", 'source = "web"', r"no column 'web'\. There is: .*\. Double quotes are for names; text goes into"),
    ("select.where", "num_tokns > 3", r"no column 'num_tokns'\. There is: .* Did you mean 'num_tokens'\?"),
    ("select.where", "num_tokens + 1", r"'num_tokens \+ 1' is BIGINT, not true or false\. Write a comparison"),
    ("select.where", "num_tokens > 'x'", r"does not fit the columns num_tokens \(uint32\): 'x' is not a number"),
    ("select.where", "lang > 3", r"fit the columns lang \(text\): it compares text.* These are the types in .*good"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "message"), VALUES)
def test_a_policy_that_cannot_be_right_is_refused(key: str, value: Any, message: str, desk: Desk) -> None:
    policy = {**desk.policy, "rate": ["readability", "prototypicality"]}
    desk.refused(with_value(policy, key, value), message)


BUDGET = "select: {budget: {tokens: 5}}"
OWNED = "seed: !!python/object/apply:os.system ['touch owned']\n"
TEXTS: dict[str, tuple[str | bytes, str]] = {
    "not YAML": ("corpus: [\n", r"policy\.yaml, line 2 cannot be read as YAML: expected the node content"),
    "a tab": ("corpus:\n\t- b", r"policy\.yaml, line 2 cannot be read as YAML: found character '\\t'"),
    "a key twice": (f"{BUDGET}\nseed: 1\nseed: 2\n", r"line 3 .* the key 'seed' is there twice: remove one"),
    "a nested key twice": ("select:\n  budget: {tokens: 5, tokens: 6}", r"line 2 .*the key 'tokens' is there twice"),
    "a number as key twice": ("1: a\n'1': b\n", r"the key '1' is there twice"),
    "an alias": ("a: &x [1]\nb: *x\n", r"line 2 cannot be read as YAML: aliases are not read: write the value out"),
    "a bomb": ("a: &a [x]\n" + "".join(f"{b}: &{b} [*a, *a]\n" for b in "bcd"), "aliases are not read"),
    "a merge": ("<<: {seed: 3}\n", r"The policy has no key '<<'\."),
    "a list": ("- corpus\n", r"The policy '.*' is not a mapping\. Begin with corpus: and select:\."),
    "a word": ("hello", "is not a mapping"),
    "nothing": ("", "is not a mapping"),
    "a Python object": (OWNED, r"the tag !!python/object/apply:os\.system is not read: remove it"),
    "a Python name": ("seed: !!python/name:os.system\n", "the tag !!python/name:os.system is not read"),
    "a tag as key": ("!!python/object/new:os.system x: 1", r"The policy has no key 'x'"),
    "binary": ("seed: !!binary aGVsbG8=\n", "the tag !!binary is not read"),
    "a list as key": ("? [1, 2]\n: 3\n", "a key is a list or a mapping: write a word"),
    "two documents": ("seed: 1\n---\nseed: 2\n", "another document"),
    "Latin-1": (b"seed: \xe9\n", r"cannot be read: it is not UTF-8\. Give the path of a YAML file\."),
    "UTF-16": ("seed: 1".encode("utf-16"), "it is not UTF-8"),
    "a NUL": ("seed: 1\0\n", "special characters are not allowed"),
    "too deep": ("a: " + "[" * 5000, "cannot be read as YAML: maximum recursion depth exceeded"),
    "too long": ("#" * (1 << 21), r"is longer than 1 MiB\. A policy is a page\."),
}  # fmt: skip


@pytest.mark.parametrize("what", TEXTS)
def test_a_policy_that_is_not_plain_yaml_is_refused(what: str, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    text, message = TEXTS[what]
    monkeypatch.chdir(desk.folder)
    path = desk.folder / "policy.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_refused(selector("check", path), message)
    assert not (desk.folder / "owned").exists()


def test_a_policy_that_is_no_file_is_refused(desk: Desk) -> None:
    for path, reason in ((desk.folder / "nowhere.yaml", "No such file or directory"), (desk.folder, "Is a directory")):
        assert_refused(
            selector("run", path), rf"The policy '{path}' cannot be read: {reason}\. Give the path of a YAML file"
        )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", r"--set 'seed' is not of the form key=value, e\.g\. select\.budget\.tokens=50B\."),
        ("=3", "--set '=3' is not of the form key=value"),
        ("seed=[", "--set seed, line 1 cannot be read as YAML"),
        ("seed=", r"seed: write a whole number; it is None\."),
        ("seed.x=3", r"seed: write a whole number; it is \{'x': 3\}\."),
        ("select..budget=3", r"select has no key ''\."),
        ("select.budget.tokns=3", r"select\.budget has no key 'tokns'\. Did you mean 'tokens'\?"),
        ("select.budget.tokens=many", r"select\.budget\.tokens: write a whole number"),
    ],
)
def test_an_override_that_cannot_be_right_is_refused(override: str, message: str, desk: Desk) -> None:
    desk.refused(desk.policy, message, "--set", override)


def test_an_environment_variable_that_cannot_be_right_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, message in (
        ("[", "SELECTOR_SEED, line 1 cannot be read"),
        ("x", "seed: write a whole number; it is 'x'"),
    ):
        monkeypatch.setenv("SELECTOR_SEED", value)
        desk.refused(desk.policy, message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--executor", "lcoal"], r"There is no executor called 'lcoal'\. Did you mean 'local'\?"),
        (["--executor", "os.path:join"], r"'os\.path:join' is no executor: it is no class"),
        (["--actors", "2"], r"--actors is not for the executor local, which takes --workers and --deadline\."),
    ],
)
def test_an_executor_that_is_not_there_is_refused(arguments: list[str], message: str, desk: Desk) -> None:
    desk.refused(desk.policy, message, *arguments)


# ---------------------------------------------------------------- the corpus


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.jsonl", r"there is no file at 'nowhere\.jsonl' \(looked from .*\)\. Give files, folders or"),
        ("corpus/*.parquet", r"there is no file at 'corpus/\*\.parquet'"),
        ("folder", r"the folder 'folder' holds no file that is read \(1 unknown ending, e\.g\. .*globs of \.arrow"),
        ("folder/notes.md", r"'.*notes\.md' has an unknown format\. Known endings: \.arrow, \.csv, "),
        ("", "there is no file at ''"),
        ("a\0.jsonl", r"'a\\x00\.jsonl' has a null byte in it"),
        ("HTTP://user:secret@127.0.0.1:9/x.jsonl", r"There is no storage called 'HTTP'\."),
        ("simplecache::s3://bucket/x.jsonl", "carries a query, credentials, a chained protocol or encoded characters"),
        ("file:///etc/passwd", r"'/etc/passwd' has an unknown format"),
        ("folder/empty.jsonl", r"corpus\.paths: there is no row in folder/empty\.jsonl\. Give files with rows\."),
        ("folder/blank.jsonl", r"there is no row in folder/blank\.jsonl"),
        ("folder/empty.jsonl.gz", r"there is no row in folder/empty\.jsonl\.gz"),
        ("folder/empty.parquet", r"there is no row in folder/empty\.parquet"),
    ],
)  # fmt: skip
def test_a_corpus_that_is_not_there_is_refused(
    path: str, message: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk.folder)
    folder = desk.folder / "folder"
    folder.mkdir()
    (folder / "notes.md").touch()
    if path.startswith(("folder/empty", "folder/blank")):
        (folder / "empty.jsonl").touch()
        (folder / "blank.jsonl").write_bytes(b"\xef\xbb\xbf\n\r\n  \n")
        (folder / "empty.jsonl.gz").write_bytes(gzip.compress(b""))
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "empty.parquet")
    desk.refused(with_value(desk.policy, "corpus.paths", [path]), message)


BAD_LINES = b'{\n[]\n{"text": null}\n{"text": ""}\n{"text": " "}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.jsonl.gz", gzip.compress(b"a\n" * 999, mtime=0)[:-9], r"no readable row in .* \(.*end-of-stream.*\)\."),
        ("page.parquet", b"<html>", r"there is no readable row in .*page\.parquet \(.*\)\. Give files with rows"),
        ("bad.jsonl", BAD_LINES, r"is a document \(2 empty_text, 1 not_an_object, 1 not_json, 1 null_text\)\. Give"),
    ],
    ids=["a truncated gz", "HTML", "bad rows"],
)  # fmt: skip
def test_a_corpus_without_one_good_row_is_refused_with_the_reason(
    name: str, content: bytes, message: str, desk: Desk
) -> None:
    path = desk.folder / name
    path.write_bytes(content)
    assert_refused(desk.run(with_value(desk.policy, "corpus.paths", [str(path)])), message)


@pytest.mark.parametrize(
    ("key", "value", "message", "done"),
    [
        ("select.budget", {"documents": 41}, r"documents is 41, and the corpus has only 40 documents\. Lower", []),
        ("select.budget", {"tokens": "1M"}, r"is 1000000, and the corpus has only [0-9]+ tokens\.", ["ingest"]),
        ("cluster.num_clusters", 41, r"is 41, and the corpus has only 40 documents\. Lower it, or write auto", []),
    ],
)  # fmt: skip
def test_what_is_larger_than_the_corpus_is_refused_as_soon_as_its_size_is_known(
    key: str, value: Any, message: str, done: list[str], desk: Desk
) -> None:
    assert_refused(desk.run(with_value(desk.policy, key, value)), message)
    families = {path.parent.name.partition(".")[0] for path in desk.root.glob("artifacts/seals/*/*.json")}
    assert families <= {"survey", "steps", "dedup", *done}


def test_a_file_that_may_not_be_read_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.corpus.chmod(0)
    if os.access(desk.corpus, os.R_OK):  # whoever runs this may read everything

        def denied(*_: Any) -> Any:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Jsonl, "open", denied)
    desk.refused(desk.policy, r"The corpus file .*good\.jsonl cannot be read: Permission denied\.")


# ---------------------------------------------------------------- the root


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("corpus/good.jsonl", r"--root: .* cannot be used: File exists.*Give a directory that can be written to"),
        ("corpus/good.jsonl/below", r"--root: .*below cannot be used: .*Give a directory that can be written to\."),
        ("/proc/selector", r"--root: /proc/selector cannot be used: .*Give a directory that can be written to\."),
        ("file://", r"The address 'file://' is empty\. Give a path, e\.g\. \./runs\."),
        ("file://host/runs", r"The address 'file://host/runs' names a host\. Write file:// and an absolute path"),
        ("s4://bucket/runs", r"There is no storage called 's4'\. There is: az, file, gs, hf, s3"),
        ("s3://key:secret@bucket/runs", "carries a query, credentials, a chained protocol"),
        ("s3://bucket/runs?secret=x", "carries a query, credentials, a chained protocol"),
        ("http://127.0.0.1:9/runs#x", "There is no storage called 'http'"),
        ("simplecache::s3://bucket/runs", "carries a query, credentials, a chained protocol"),
        ("antigravity.x://runs", "There is no storage called 'antigravity.x'"),
        ("antigravity:x://runs", "There is no storage called 'antigravity:x'"),
    ],
)  # fmt: skip
def test_a_root_that_cannot_be_used_is_refused(
    root: str, message: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk.folder)
    for command in ("run", "gc", "show"):
        if command == "run":
            assert_refused(desk.run(desk.policy, root=root), message)
        elif "://" in root:
            assert_refused(selector(command, "--root", root), message)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("root", ["corpus", "corpus/runs"])
def test_a_root_inside_the_corpus_is_refused_since_a_run_would_read_what_it_wrote(root: str, desk: Desk) -> None:
    message = r"--root: .* lies inside the corpus folder '.*', so a run would read what it wrote\. Give another root\."
    for scheme in ("", "file://"):
        policy = with_value(desk.policy, "corpus.paths", [f"{scheme}{desk.corpus.parent}"])
        desk.refused(policy, message, root=desk.folder / root)
    assert os.listdir(desk.corpus.parent) == ["good.jsonl"]
    (desk.corpus.parent / "runs").mkdir()
    shutil.copy(desk.corpus, desk.corpus.parent / "runs")
    policy = with_value(desk.policy, "corpus.paths", [f"{desk.folder}/**/*.jsonl"])
    desk.refused(policy, r"--root: .* lies inside the corpus", root=desk.corpus.parent / "runs")


SMALL_DISK = """
import json, subprocess, sys
sys.path.insert(0, {tests!r})
from command import selector

def mount(*options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", {disk!r}], check=True)

def run(name):
    ended = selector("run", {policy!r}, "--root", {disk!r} + "/runs", "--executor", "local", "--json")
    told[name] = [ended.code, ended.out, ended.err]

told = {{}}
mount("size=4k", "ro")
run("read-only")
mount("remount", "rw", "size=4k")
with open({disk!r} + "/filler", "wb", buffering=0) as file:
    file.write(bytes(4096))
run("full before")
subprocess.run(["rm", {disk!r} + "/filler"])
mount("remount", "size=40k")
run("too small")
mount("remount", "size=120k")
run("too small for vectors")
mount("remount", "size=240k")
run("full midway")
mount("remount", "size=50m")
run("freed")
print(json.dumps(told))
"""


def test_a_read_only_or_full_disk_ends_a_run_cleanly_and_freed_space_finishes_it(desk: Desk) -> None:
    disk = desk.folder / "disk"
    disk.mkdir()
    policy = write_policy(desk.folder, desk.policy)
    script = SMALL_DISK.format(tests=str(Path(__file__).parents[1]), disk=str(disk), policy=str(policy))
    alone = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    try:
        subprocess.run([*alone, "mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine does not let a test mount a small disk: {error}")
    ended = subprocess.run([*alone, sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    told = {name: Ended(code=code, out=out, err=err) for name, (code, out, err) in json.loads(ended.stdout).items()}
    assert_refused(told["read-only"], r"--root: .* cannot be used: Read-only file system .*Give a directory that can")
    assert_refused(told["full before"], r"--root: The disk of .* is full\. Free some space")
    assert_refused(
        told["too small"], r"--root: .* has 0\.0\d MB free, and 40 rows need about 0\.0\d MB\. Free some space"
    )
    assert_refused(
        told["too small for vectors"], r"--root: .* MB free, and the vectors of 40 documents need about 0\.08 MB"
    )
    midway = told["full midway"]
    assert (midway.code, midway.json["error"]["kind"]) == (1, "FullError") and "Traceback" not in midway.err
    assert "is full. Free some space and run the same command again: finished parts are kept." in midway.err
    assert told["freed"].code == 0
    assert told["freed"].json["digest"] == desk.run(desk.policy, "--json").json["digest"]
    assert any(step["cached"] for step in told["freed"].json["steps"])


# ---------------------------------------------------------------- bad rows among good ones

LONG = b'{"id": "long", "text": "' + b"x" * (50 << 20) + b'"}'
BAD_ROWS: list[tuple[bytes, str]] = [
    (b"{not json", "not_json"),
    (b'["a list"]', "not_an_object"),
    (b'{"id": 1, "text": "a", "text": "b"}', "duplicate_json_key"),
    (b'{"id": 2, "text": "a", "x": NaN}', "not_json"),
    (b'{"id": 3, "text": "a", "x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", "nested_too_deeply"),
    (b'{"id": 4, "text": "\xff"}', "not_utf8"),
    (b'{"id": 5, "text": "\\ud800"}', "lone_surrogate"),
    (b'{"id": 6, "text": "a\0b"}', "not_json"),
    (b'{"id": 7, "text": null}', "null_text"),
    (b'{"id": 8, "text": ""}', "empty_text"),
    (b'{"id": 9, "text": " \\t "}', "empty_text"),
    (b'{"id": 10, "text": 5}', "not_text"),
    (b'{"id": 11, "text": ["a"]}', "not_text"),
    (b'{"id": 12}', "missing_column"),
    (LONG, "too_long"),
    (b'{"id": null, "text": "null key"}', "no_key"),
    (b'{"text": "without a key"}', "no_key"),
    (b'{"id": "g0", "text": "the key of another text"}', "duplicate_key"),
]


@dataclass(frozen=True)
class Messy:
    """A finished run over good and bad rows."""

    ended: Ended
    again: Ended
    manifest: Manifest
    quarantine: list[dict[str, Any]]
    uris: dict[str, str]


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Messy:
    folder = tmp_path_factory.mktemp("messy") / "corpus"
    folder.mkdir()

    def good(number: int, key: object = None) -> bytes:
        return json.dumps({"id": key or f"g{number}", "text": text_of(number, 8), "source": "web"}).encode()

    bad = [line for line, _ in BAD_ROWS]
    lines = [b"\xef\xbb\xbf" + good(0), b"", good(1), *(line for i in range(18) for line in (bad[i], good(2 + i)))]
    lines += [b"  \r", good(20), good(3, "a copy of g3"), good(4)]
    (folder / "a.jsonl").write_bytes(b"\n".join(lines))
    packed = gzip.compress(b"\n".join(good(100 + i) for i in range(20)))
    (folder / "b.jsonl.gz").write_bytes(packed)
    (folder / "c.jsonl.gz").write_bytes(packed[:-50])
    (folder / "d.jsonl.gz").write_bytes(b"<html>not found</html>")
    table = pa.table(
        {"id": [f"p{i}" for i in range(30)], "text": [text_of(200 + i, 8) for i in range(30)], "source": ["web"] * 30}
    )
    pq.write_table(table, folder / "e.parquet", row_group_size=10, write_page_checksum=True)
    data = bytearray((folder / "e.parquet").read_bytes())
    column: Any = pq.ParquetFile(folder / "e.parquet").metadata.row_group(1).column(1)
    data[(column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 5] ^= 4
    (folder / "e.parquet").write_bytes(data)
    (folder / "f.parquet").write_bytes(data[:-100])
    (folder / "g.parquet").touch()
    offsets = pa.array([0, 4, 6, 10], pa.int32()).buffers()[1]
    text = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"fine\xff\xfegood")])
    pq.write_table(pa.table({"id": ["u0", "u1", "u2"], "text": text, "source": ["web"] * 3}), folder / "h.parquet")

    policy = write_policy(folder, with_value(policy_over([folder], tiny_model), "corpus.key", "id"))
    root = folder.parent / "runs"
    ended, again = (selector("run", policy, "--root", root, "--executor", "local", "--json") for _ in range(2))
    assert ended.code == 3, ended.err
    run = Path(ended.json["manifest"])
    quarantine = [json.loads(line) for line in (run / "quarantine.jsonl").read_text("utf-8").splitlines()]
    uris = {Path(uri).name: uri for uri in files.expand([str(folder)]).uris}
    return Messy(ended, again, Manifest.open(str(run)), quarantine, uris)


def test_a_run_over_bad_rows_ends_with_3_and_says_where_they_are(messy: Messy) -> None:
    for ended in (messy.ended, messy.again):
        assert ended.code == 3 and ended.json["digest"] == messy.manifest.digest and "Traceback" not in ended.err
        assert f"{len(messy.quarantine)} rows are in quarantine" in ended.err and "quarantine.jsonl" in ended.err
    assert all(step["cached"] for step in messy.again.json["steps"])
    assert messy.manifest.verify().ok


def test_every_bad_row_is_in_the_quarantine_with_its_file_row_reason_and_detail(messy: Messy) -> None:
    found = {(Path(row["uri"]).name, row["row"]): row["reason"] for row in messy.quarantine}
    expected = {("a.jsonl", 3 + 2 * i): reason for i, (_, reason) in enumerate(BAD_ROWS)}
    expected |= {("e.parquet", row): "corrupt_file" for row in range(10, 20)} | {("h.parquet", 1): "not_utf8"}
    expected |= {(name, None): "corrupt_file" for name in ("c.jsonl.gz", "d.jsonl.gz", "f.parquet", "g.parquet")}
    assert found == expected and len(messy.quarantine) == len(expected)
    for row in messy.quarantine:
        assert row["uri"] == messy.uris[Path(row["uri"]).name]
        assert 0 < len(row["detail"]) <= 500 and row["step"] in ("survey", "ingest", "dedup")
        assert (row["doc_id"] is not None) == (row["reason"] == "duplicate_key")


def test_everything_else_has_a_decision_and_the_counts_add_up(messy: Messy) -> None:
    counts = messy.manifest.info["counts"]
    assert counts["rows"] == counts["kept"] + counts["left_out"] + counts["duplicate"] + counts["quarantined"]
    assert counts["quarantined"] == len(messy.quarantine)
    assert counts["duplicate"] == 1 + 1, "the copy under another key, and the copy of a whole row"
    assert counts["documents"] == 20 + 3 + 20 + 20 + 2 + 1
    reasons = Counter(f"quarantined in {row['step']}: {row['reason']}" for row in messy.quarantine)
    clash = "quarantined in dedup: its key is another document's"
    reasons[clash] = reasons.pop("quarantined in dedup: duplicate_key")
    assert {reason: n for reason, n in counts["reasons"].items() if reason.startswith("quarantined")} == reasons
    lost = {(row["uri"], row["row"]) for row in messy.quarantine if row["step"] != "dedup"}
    uris = messy.manifest.files["uri"].to_pylist()
    decided: list[tuple[str, int]] = []
    for path in sorted(Path(messy.ended.json["manifest"]).glob("decisions/*.parquet")):
        decided += [(uris[row["file"]], row["row"]) for row in pq.read_table(path).to_pylist()]
    assert len(decided) == len(set(decided)) == counts["documents"]
    lines = Path(messy.uris["a.jsonl"]).read_bytes().split(b"\n")
    rows = {(messy.uris["a.jsonl"], number) for number, line in enumerate(lines) if line.strip()}
    rows |= {(messy.uris["b.jsonl.gz"], number) for number in range(20)}
    rows |= {(messy.uris["e.parquet"], number) for number in range(30)}
    rows |= {(messy.uris["h.parquet"], number) for number in range(3)}
    assert rows == set(decided) | {place for place in lost if place[1] is not None}


def test_the_first_of_two_rows_with_one_key_stays_and_the_other_is_told_of_it(messy: Messy) -> None:
    (clash,) = (row for row in messy.quarantine if row["reason"] == "duplicate_key")
    told = messy.manifest.explain(clash["doc_id"])
    assert told["row"] == 0 and told["outcome"] in ("kept", "left_out")
    assert [(copy["row"], copy["outcome"]) for copy in told["copies"]] == [(clash["row"], "quarantined")]
    assert clash["detail"] == f"document {clash['doc_id']} has this key and another text"


def test_what_a_source_is_called_cannot_disturb_a_terminal(desk: Desk) -> None:
    labels = ["[/b]", "[red]x", "\x1b[31m", "a\nb", "\u202e", "日本"]
    rows = [{"text": text_of(n, 8), "source": labels[n % 6]} for n in range(60)]
    policy = with_value(desk.policy, "corpus.paths", [str(write_jsonl(desk.folder / "odd.jsonl", rows))])
    ended = desk.run(with_value(policy, "select.where", "source <> '[/i]' AND source <> 'a'"))
    assert (ended.code, "\x1b" in ended.out) == (0, False), ended.err
    for shown in ("[/b]", "[red]x", "\\x1b[31m", "a\\nb", "\\u202e", "日本"):
        assert re.search(rf"^{re.escape(shown)} +[0-9.]+%", ended.out, re.MULTILINE), ended.out


def test_a_column_that_changes_its_type_along_the_corpus_is_refused_by_a_rule_that_does_not_cast_it(desk: Desk) -> None:
    rows: list[dict[str, Any]] = [{"text": text_of(n, 8), "edu": 5, "lang": "en"} for n in range(120)]
    rows += [{"text": text_of(120 + n, 8), "edu": ("5", "n/a", None, [5])[n % 4]} for n in range(20)]
    rows += [{"text": text_of(140 + n, 8), "edu": None, "lang": None} for n in range(20)]
    path = write_jsonl(desk.folder / "drift.jsonl", rows)
    policy = with_value(desk.policy, "corpus", {"paths": [str(path)], "rows_per_part": 20})
    same = "coalesce(lang, 'en') = 'en'"
    rule = with_value(policy, "select", {"budget": {"fraction": 1}, "where": f"edu >= 5 AND {same}"})
    disagreement = r"the column 'edu' of the corpus has no one type: an integer in row 0 of .* and text in row 120 of "
    assert_refused(desk.run(rule, "--json"), disagreement)
    rule = with_value(policy, "select", {"budget": {"fraction": 1}, "where": f"CAST(edu AS VARCHAR) = '5' AND {same}"})
    ended = desk.run(rule, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["documents"] == 120 + 5


def run_of(desk: Desk, **changes: Any) -> Ended:
    policy = desk.policy
    for key, value in changes.items():
        policy = with_value(policy, key.replace("__", "."), value)
    return desk.run(policy, "--json")


@pytest.mark.parametrize(
    "changes",
    [{"select__where": "num_tokens < 0"}, {"select__budget": {"fraction": 1e-9}}],
    ids=["no document passes", "a budget of no token"],
)
def test_a_selection_of_nothing_is_a_failure_unless_the_policy_allows_it(changes: dict[str, Any], desk: Desk) -> None:
    refused = run_of(desk, **changes)
    assert refused.code == 1, "the run cannot do what the policy says"
    said = refused.json["error"]["message"]
    assert said.startswith("The manifest would be empty: select keeps no document (40 "), said
    assert "write select.allow_empty: true" in said
    assert not list(desk.folder.glob("runs/*/manifest")), "nothing is committed"
    ended = run_of(desk, select__allow_empty=True, **changes)
    assert ended.code == 0 and ended.json["documents"] == ended.json["tokens"] == 0
    manifest = Manifest.open(ended.json["manifest"])
    assert len(manifest) == 0 and manifest.verify().ok
    assert selector("show", ended.json["manifest"]).code == 0
    again = run_of(desk, **changes)
    assert again.code == 1 and again.json["error"]["message"] == said, "it is one still, though it is there"


def test_allowing_an_empty_selection_selects_nothing_anew(desk: Desk) -> None:
    first = run_of(desk)
    again = run_of(desk, select__allow_empty=True)
    assert first.code == again.code == 0
    assert first.json["digest"] == again.json["digest"]
    assert all(step["cached"] for step in again.json["steps"])


def lossy(desk: Desk, most: float) -> Ended:
    """A run over 40 good rows, 8 without text and 2 that are no JSON, of which so large a share may be lost."""
    bad = b'{"id": 1, "text": ""}\n' * 8 + b"{no json\n" * 2
    (desk.corpus.parent / "bad.jsonl").write_bytes(bad)
    return run_of(desk, corpus__paths=[str(desk.corpus.parent)], corpus__most_lost=most)


def test_a_run_stops_where_more_of_the_input_is_lost_than_the_policy_allows(desk: Desk) -> None:
    ended = lossy(desk, 0.19)
    assert ended.code == 1 and ended.json["error"]["kind"] == "SelectorError"
    said = ended.json["error"]["message"]
    assert said.startswith("corpus.most_lost is 0.19, and 0.2 of the input is lost: 8 empty_text, 2 not_json. "), said
    assert not list(desk.folder.glob("runs/*/manifest"))
    assert lossy(desk, 0.2).code == 3, "as much as that is allowed, and quarantined"


def test_a_file_that_cannot_be_read_is_lost_by_its_bytes(desk: Desk) -> None:
    (desk.corpus.parent / "cut.jsonl.gz").write_bytes(gzip.compress(random.Random(7).randbytes(3000))[:2000])
    ended = run_of(desk, corpus__paths=[str(desk.corpus.parent)], corpus__most_lost=0.01)
    assert ended.code == 1
    said = ended.json["error"]["message"]
    share = 2000 / (2000 + desk.corpus.stat().st_size)
    assert said.startswith(
        f"corpus.most_lost is 0.01, and {share:.2g} of the input is lost: 1 file that cannot be read."
    ), said


def test_nothing_may_be_lost_where_the_policy_says_so(desk: Desk) -> None:
    assert run_of(desk, corpus__most_lost=0).code == 0
    (desk.corpus.parent / "bad.jsonl").write_bytes(b"{no json\n")
    assert run_of(desk, corpus__paths=[str(desk.corpus.parent)], corpus__most_lost=0).code == 1


def test_no_message_hides_behind_a_traceback_unless_it_is_asked_for(desk: Desk) -> None:
    policy = write_policy(desk.folder, with_value(desk.policy, "seed", "x"))
    assert "Traceback" not in selector("check", policy).err
    told = selector("check", policy, "-v")
    assert told.code == 2 and "Traceback" in told.err and told.out == ""
    assert told.err.rstrip().endswith("error: seed: write a whole number; it is 'x'.")


def test_a_source_that_no_document_has_is_refused_however_late_that_is_known(desk: Desk) -> None:
    """A column of JSON lines may come late, so it is known only once all were read."""
    rows = [{"text": text_of(n, 8), "named": None, **({"late": "web"} if n == 299 else {})} for n in range(300)]
    path = str(write_jsonl(desk.folder / "corpus/long.jsonl", rows))
    for name in ("nmaed", "named"):
        ended = run_of(desk, corpus__paths=[path], corpus__source=name)
        assert_refused(
            ended, rf"^corpus\.source: no document of the corpus has a value in the column '{name}'\. Name another"
        )
    assert run_of(desk, corpus__paths=[path], corpus__source="late").code == 0
