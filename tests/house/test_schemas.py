"""The published schemas are those of the code, and say of a file what the code says of it."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet as pq
import pytest
import yaml

from command import with_value
from conftest import text_of, write_jsonl
from runs import policy_of, run
from selector import tables
from selector.errors import PolicyError
from selector.policy import Policy, schema
from selector.tune import schema as study_schema

FOLDER = Path(__file__).parents[2] / "schemas"
POLICY = """
seed: 7
corpus:
  paths: ["web/*.parquet", "instruct/*.jsonl.gz"]
  text: "{instruction}\\n{output}"
  source: {"web/*": web, "instruct/*": chats}
embed: {model: all-MiniLM-L6-v2, max_tokens: 256, long_documents: truncate}
cluster: {num_clusters: 1024}
rate:
  - readability
  - length: {unit: tokens}
  - column: {column: edu, higher_is: better}
  - prototypicality: {}
  - package.module:Rater: {anything: 3}
select:
  where: "num_tokens >= 32 AND language = 'en'"
  budget: {tokens: 30B, overshoot: fill}
  using: {kmeans_quality: {score: edu, temperature: 2.0}}
  missing: last
order:
  using: {by_score: {score: readability, direction: anti_curriculum}}
manifest: {difficulty: readability}
"""


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name).read_text("utf-8"))


def problems(name: str, value: Any) -> list[str]:
    """What the published schema has to say against a value."""
    validator: Any = jsonschema.Draft202012Validator(read(name))
    return [error.message for error in validator.iter_errors(value)]


def test_the_published_schemas_are_those_of_the_code(tmp_path: Path) -> None:
    for module in (schema, study_schema):
        module.write(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in FOLDER.iterdir())
    for name in names:
        written, published = (tmp_path / name).read_text("utf-8"), (FOLDER / name).read_text("utf-8")
        package = "tune" if name == "study.schema.json" else "policy"
        assert written == published, f"schemas/{name} is old. Type: python -m selector.{package}.schema schemas"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_a_published_schema_is_one(name: str) -> None:
    published = read(name)
    jsonschema.Draft202012Validator.check_schema(published)
    assert published["$schema"] == "https://json-schema.org/draft/2020-12/schema" and published["title"]
    words = {"gt", "ge", "lt", "le", "min_length", "max_length"}  # what pydantic leaves where it finds no word for it
    places: list[Any] = [published]
    while places:
        place = places.pop()
        if isinstance(place, dict):
            assert not words & set(place)  # pyright: ignore[reportUnknownArgumentType]
            places += place.values()
        elif isinstance(place, list):
            places += place


EDU = {"column": "edu", "higher_is": "better"}
GOOD: list[tuple[str, Any]] = [
    ("corpus.paths", "one.jsonl"),
    ("corpus.source", "source"),
    ("cluster.num_clusters", "auto"),
    ("rate", []),
    ("rate", ["length", {"length": {"unit": "tokens"}, "as": "tokens"}, {"column": EDU, "as": "grade"}]),
    ("select.budget", {"documents": 10_000}),
    ("select.budget", {"documents": "10_000"}),
    ("select.budget", {"fraction": 0.1}),
    ("select.using", "random"),
    ("select.using", {"random": None}),
    ("order.using", "package.module.Order"),
    ("order.using", {"interleaved": {"score": None}}),
]
BAD: list[tuple[str, Any]] = [
    ("slect", {}),
    ("select.buget", {"tokens": 5}),
    ("select.budget.toknes", 5),
    ("corpus.path", "a"),
    ("embed.max_token", 3),
    ("seed", "x"),
    ("seed", -1),
    ("corpus", None),
    ("corpus.paths", []),
    ("rate", "length"),
    ("rate", ["lenght"]),
    ("rate", [{"lenght": {}}]),
    ("rate", [{"length": {"units": "words"}}]),
    ("rate", [{"length": {"unit": "wrds"}}]),
    ("rate", [{"length": {}, "readability": {}}]),
    ("rate", [{"column": {"column": "edu"}}]),
    ("rate", ["column"]),
    ("rate", [{"length": {}, "as": "two words"}]),
    ("rate", [{"length": {}, "as": None}]),
    ("select.using", {"random": {}, "as": "r"}),
    ("select.budget", {"tokens": 0}),
    ("select.budget", {"tokens": "30X"}),
    ("select.budget", {"fraction": 1.5}),
    ("select.using", {"kmeans_quality": {"score": "edu", "temperatur": 2}}),
    ("select.missing", "ignore"),
    ("order.using", {"by_score": None}),
    ("order.using", {"by_score": {"score": "edu", "direction": "up"}}),
    ("manifest.dificulty", "edu"),
]


@pytest.mark.parametrize(("key", "value"), GOOD)
def test_a_policy_that_can_be_read_fits_the_schema(key: str, value: Any) -> None:
    policy = yaml.safe_load(POLICY)
    del policy["rate"][-1]
    changed = with_value(policy, key, value)
    assert problems("policy.schema.json", changed) == []
    if value != "package.module.Order":
        Policy.of(changed)


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_policy_with_a_misspelt_key_name_or_value_does_not_fit(key: str, value: Any) -> None:
    policy = yaml.safe_load(POLICY)
    del policy["rate"][-1]
    changed = with_value(policy, key, value)
    assert problems("policy.schema.json", changed)
    with pytest.raises(PolicyError):
        Policy.of(changed)


def test_the_policies_of_the_documentation_fit_the_schema() -> None:
    assert problems("policy.schema.json", yaml.safe_load(POLICY)) == []
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    blocks = [block.partition("```")[0] for block in readme.split("```yaml\n")[1:]]
    assert blocks
    for block in blocks:
        policy = yaml.safe_load(block)
        assert problems("policy.schema.json", policy) == []
        resolved = Policy.of(policy).resolved()
        assert problems("policy.schema.json", resolved) == [], "with every default spelt out it still fits"


def test_a_manifest_is_what_its_schema_says(tiny_model: Path, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", [*({"text": text_of(n % 50, 8)} for n in range(60)), {"text": None}])
    outcome = run(policy_of(corpus, tiny_model, cluster={"num_clusters": "auto"}), tmp_path / "runs")
    manifest = json.loads(Path(outcome.uri, "manifest/manifest.json").read_text("utf-8"))
    assert problems("manifest.schema.json", manifest) == []
    assert problems("policy.schema.json", manifest["policy"]) == []
    for key in manifest:
        less = {name: value for name, value in manifest.items() if name != key}
        assert problems("manifest.schema.json", less), f"{key} is required"
    assert problems("manifest.schema.json", {**manifest, "more": 1})
    assert problems("manifest.schema.json", {**manifest, "digest": "0"})
    columns = read("manifest.schema.json")["columns"]
    for name, files in {
        "parts": list(Path(outcome.uri).glob("manifest/parts/*.parquet")),
        "files.parquet": [Path(outcome.uri, "manifest/files.parquet")],
        "ids.parquet": [Path(outcome.uri, "manifest/ids.parquet")],
        "decisions": list(Path(outcome.uri).glob("decisions/*.parquet")),
    }.items():
        assert files
        for file in files:
            found = [(field.name, str(field.type), field.nullable) for field in pq.read_schema(file)]
            assert found == [(column["name"], column["type"], column["nullable"]) for column in columns[name]]
    assert [column["name"] for column in columns["parts"]] == tables.MANIFEST.names
