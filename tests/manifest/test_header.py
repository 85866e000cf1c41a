"""manifest.json: one type, read strictly, written in one way, published as a schema; other versions are named."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from command import with_value
from selector import tables
from selector.engine.canonical import canonical_json
from selector.engine.step import Done
from selector.engine.store import Store
from selector.errors import DamagedError, SelectorError
from selector.manifest import Manifest, commit
from selector.manifest.header import Counts, Header, seal, unseal
from selector.policy import schema
from selector.storage import open_storage

SHA = "0f" * 32
CONTENT: dict[str, Any] = {
    "format_version": 2,
    "digest": SHA,
    "order_digest": SHA,
    "leaf_digests": [SHA],
    "counts": {
        **dict.fromkeys(("rows", "documents", *tables.OUTCOMES, "visits", "tokens"), 3),
        "reasons": {"not_json": 2},
        "sources": {"web": [3, 90]},
        "without_source": 1,
        "clusters_tried": [[8, 0.25, 1e-7]],
    },
    "facts": {"select": {"quotas": [1, {"a": None}], "spent": 0.5}, "order": {}},
    "parts": [{"name": "part-00000.parquet", "rows": 3, "sha256": SHA, "first_position": 0}],
    "files": {"rows": 1, "sha256": SHA},
    "ids": {"rows": 3, "sha256": SHA},
    "unvisited": None,
    "decisions": [{"name": "part-00000.parquet", "rows": 3, "sha256": SHA, "first_file": 0, "first_row": 2}],
    "phases": [{"name": "main", "first_position": 0, "rows": 3, "tokens": 90, "facts": {"mixture": {"web": 1}}}],
    "policy": {"seed": 7},
    "lineage": {"select": "5e1ec7"},
    "models": {"embed": {"name": "tiny"}},
    "plugins": {},
    "versions": {"pyarrow": "26.0.1"},
    "parent": {"digest": SHA, "position": 0},
}

WRONG: list[tuple[str, Any, str]] = [
    ("format_version", "2", "format_version is '2' and is to be 2"),
    ("order_digest", "0F" * 32, "order_digest is '0F0F.* and is to match"),
    ("order_digest", SHA + "\n", "order_digest is .* and is to match"),
    ("leaf_digests", [], "leaf_digests has 0 members and is to have at least 1"),
    ("leaf_digests", SHA, "leaf_digests is '0f.* and is to be a list"),
    ("counts.kept", -1, "counts.kept is -1 and is to be at least 0"),
    ("counts.kept", True, "counts.kept is True and is to be a whole number"),
    ("counts.kept", 3.0, "counts.kept is 3.0 and is to be a whole number"),
    ("counts.kept", None, "counts.kept is None and is to be a whole number"),
    ("counts.fate", 3, "counts.fate is not a key of it"),
    ("counts.reasons.not_json", "2", "counts.reasons.not_json is '2' and is to be a whole number"),
    ("counts.sources.web", [3], r"counts.sources.web has 1 members and is to have 2"),
    ("counts.clusters_tried", [["8"]], r"counts.clusters_tried\[0\]\[0\] is '8' and is to be a number"),
    ("facts", [], r"facts is \[\] and is to be an object"),
    ("parts", [{"rows": 3}], r"parts\[0\].name is missing"),
    ("unvisited", {"rows": 3}, "unvisited.sha256 is missing"),
    ("lineage.select", 7, "lineage.select is 7 and is to be text"),
    ("parent", SHA, "parent is '0f.* and is to be an object"),
    ("more", 1, "more is not a key of it"),
]


def written(content: Any) -> bytes:
    """JSON as Selector 0.1 wrote it: numbers as Python prints them."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def problems(content: Any) -> list[str]:
    validator: Any = jsonschema.Draft202012Validator(schema.manifest_schema())
    return [error.message for error in validator.iter_errors(content)]


def test_a_header_is_the_json_that_it_was_read_from() -> None:
    header = Header.from_json(CONTENT)
    assert header.to_json() == CONTENT
    assert Header.from_json(header.to_json()) == header
    assert header.counts.sources == {"web": (3, 90)}
    assert {field.name for field in dataclasses.fields(Counts)} >= set(tables.OUTCOMES)
    assert problems(CONTENT) == []
    data = seal(CONTENT)
    assert unseal("manifest.json", data) == dataclasses.replace(header, digest=json.loads(data)["digest"])


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_a_header_that_says_something_else_is_refused_with_the_place(key: str, value: Any, message: str) -> None:
    changed = with_value(CONTENT, key, value)
    with pytest.raises(ValueError, match=f"^{message}"):
        Header.from_json(changed)
    if value != 3.0 and value != SHA + "\n":  # to JSON Schema 3.0 is a whole number, and `$` lets a line end
        assert problems(changed), "and the published schema refuses it too"
    if not key.startswith("format"):
        with pytest.raises(DamagedError, match=r"m\.json is damaged: it is no manifest\.json of format version 2: "):
            unseal("m.json", seal(with_value(changed, key, 3.5 if value == 3.0 else value)))


def test_every_key_is_required() -> None:
    for key in CONTENT:
        less = {name: value for name, value in CONTENT.items() if name != key}
        with pytest.raises(ValueError, match=f"^{key} is missing"):
            Header.from_json(less)
        assert problems(less)


def test_the_published_schema_is_that_of_the_type() -> None:
    path = Path(__file__).parents[2] / "schemas/manifest.schema.json"
    told = json.loads(path.read_text("utf-8"))
    assert told == schema.manifest_schema(), "Type: python -m selector.policy.schema schemas"
    jsonschema.Draft202012Validator.check_schema(told)
    assert set(told["properties"]) == set(CONTENT) and set(told["columns"]) >= {"parts", "ids.parquet", "decisions"}
    assert [column["name"] for column in told["columns"]["parts"]] == tables.MANIFEST.names


def test_a_manifest_json_that_is_written_another_way_is_not_ours() -> None:
    spaced = json.dumps({**CONTENT, "digest": SHA}, sort_keys=True).encode()
    rest = spaced.replace(f'"digest": "{SHA}", '.encode(), b"", 1)
    digest = hashlib.blake2b(rest, digest_size=32).hexdigest()
    loose = rest.replace(b'"facts":', f'"digest":"{digest}","facts":'.encode(), 1)
    with pytest.raises(DamagedError, match="it is not written as canonical JSON"):
        unseal("manifest.json", loose)


@pytest.mark.parametrize(
    ("version", "cure"),
    [
        (1, r"Run the policy again to have it in version 2, or read it with Selector 0\.1\."),
        (3, r"Install a newer Selector\."),
    ],
)
def test_a_manifest_of_another_version_is_refused_in_words(tmp_path: Path, version: int, cure: str) -> None:
    content = {"counts": {"kept": 1}, "format_version": version, "policy": {"x": [1e16, 1.0]}, "parent": None}
    digest = hashlib.blake2b(written(content), digest_size=32).hexdigest()
    data = written({**content, "digest": digest})
    assert canonical_json(json.loads(data)) != data
    path = tmp_path / "run/manifest/manifest.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    manifest = Manifest.open(str(tmp_path / "run"))
    told = rf"manifest/manifest\.json has format version {version}, and this is Selector for version 2\. {cure}"
    for use in (lambda: manifest.info, lambda: len(manifest), lambda: manifest.when("0" * 32), manifest.describe):
        with pytest.raises(SelectorError, match=told) as caught:
            use()
        assert not isinstance(caught.value, DamagedError)
    found = manifest.verify()
    assert (found.ok, found.digest, len(found.problems)) == (False, "", 1)
    assert cure.replace("\\", "") in found.problems[0]
    path.write_bytes(data.replace(b'"kept":1', b'"kept":2'))
    assert "it does not match its own digest" in Manifest.open(str(tmp_path / "run")).verify().problems[0]


def test_a_manifest_of_another_version_is_never_overwritten(tmp_path: Path) -> None:
    content: dict[str, Any] = {"format_version": 1, "counts": {}, "parent": None}
    path = tmp_path / "run/manifest/manifest.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(seal(content))
    given: dict[str, Any] = {"counts": {}, "policy": {}, "lineage": {}, "models": {}, "versions": {}}
    files = tables.FILES.empty_table()
    with pytest.raises(SelectorError, match="has format version 1, and this is Selector for version 2"):
        commit(Done(Store(open_storage(str(tmp_path)))), "run", parts=[], files=files, decisions=[], **given)
    assert path.read_bytes() == seal(content)
