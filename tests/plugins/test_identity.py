"""What makes a plug-in another one: its family, name, version and options, and of somebody else's also its origin."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from runs import policy_of, run, uncached, write_corpus
from selector import plugins
from selector.rate import Rater, length

MINE = '''
    """A rater that is nobody's but mine."""

    from dataclasses import dataclass

    import pyarrow as pa

    from selector.rate import Rater


    @dataclass(frozen=True, kw_only=True)
    class Mine(Rater):
        higher_is = "rarer"

        def rate(self, batch):
            return pa.record_batch({"score": pa.array([text.count("a") for text in batch["text"].to_pylist()])})
    '''


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose modules can be imported; they are forgotten at the end."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    forget("mine")


def forget(module: str) -> None:
    """As a new process would, which imports what is there by then."""
    sys.modules.pop(module, None)
    importlib.invalidate_caches()


def write(folder: Path, source: str) -> None:
    """Writes mine.py, and no bytecode of it that could be taken for the new file."""
    (folder / "mine.py").write_text(dedent(source), "utf-8")
    for compiled in (folder / "__pycache__").glob("mine.*"):
        compiled.unlink()
    forget("mine")


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """The rater `length`, as if its file lay in another folder of the package."""
    name = "selector.rate.of_words.length"
    spec = importlib.util.spec_from_file_location(name, length.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module.Length


def test_a_file_of_ours_that_moved_is_the_same_plug_in(moved: type[Any]) -> None:
    assert moved is not length.Length and moved.__module__ != length.Length.__module__
    every: list[dict[str, Any]] = [{}, {"unit": "tokens"}]
    for options in every:
        there, here = plugins.identity(moved(**options)), plugins.identity(length.Length(**options))
        assert there == here and "origin" not in here
        assert (here["family"], here["name"], here["version"]) == ("raters", "length", 1)
    assert plugins.identity(moved()) != plugins.identity(moved(unit="bytes"))
    moved.version = 2
    assert plugins.identity(moved()) != plugins.identity(length.Length())


def test_a_file_of_ours_that_moved_runs_no_step_again(moved: type[Any], tiny_model: Path, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")

    def policy(rater: Any) -> dict[str, Any]:
        sections: dict[str, Any] = {"order": {"using": {"by_score": {"score": "length"}}}, "manifest": {}}
        sections["select"] = {"budget": {"documents": 20}, "using": {"top": {"score": "length"}}}
        return policy_of(corpus, tiny_model, rate=[rater], **sections)

    before = run(policy("length"), tmp_path / "root")
    after = run(policy({f"{moved.__module__}:Length": {}, "as": "length"}), tmp_path / "root")
    assert uncached(after) == ["manifest"], "which tells the policy, and that names the file by its new place"
    fingerprints = [{step.name: step.fingerprint for step in outcome.steps[:-1]} for outcome in (before, after)]
    assert fingerprints[0] == fingerprints[1]
    assert before.manifest.info["plugins"] == after.manifest.info["plugins"]


def test_an_edited_file_of_somebody_else_is_another_plug_in(elsewhere: Path, tiny_model: Path, tmp_path: Path) -> None:
    policy = policy_of(write_corpus(tmp_path / "corpus"), tiny_model, rate=["mine:Mine"], manifest={"quality": "Mine"})
    policy |= {"select": {"budget": {"documents": 20}}, "order": {"using": "shuffled"}}
    write(elsewhere, MINE)
    first = run(policy, tmp_path / "root")
    assert len(first.manifest.info["plugins"]["rate.Mine"]["origin"]["sha256"]) == 64
    forget("mine")
    assert uncached(run(policy, tmp_path / "root")) == [], "read again, it is the same"

    write(elsewhere, MINE.replace('count("a")', 'count("e")'))
    edited = run(policy, tmp_path / "root")
    assert uncached(edited) == ["rate/Mine", "manifest"]
    assert edited.manifest.digest != first.manifest.digest
    qualities = [outcome.manifest.rows(0, 20)["quality"].to_pylist() for outcome in (first, edited)]
    assert qualities[0] != qualities[1]

    write(elsewhere, MINE)
    again = run(policy, tmp_path / "root")
    assert uncached(again) == [] and again.manifest.digest == first.manifest.digest


def test_another_version_of_a_distribution_is_another_plug_in(elsewhere: Path) -> None:
    write(elsewhere, MINE)
    info = elsewhere / "mine.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[selector.raters]\nhers = mine:Mine\n", "utf-8")
    found: list[dict[str, Any]] = []
    for version in ("1.0", "1.1", "1.0"):
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mine\nVersion: {version}\n", "utf-8")
        forget("mine")
        by_name, by_place = (plugins.make("raters", name, {}, "rate.0", Rater) for name in ("hers", "mine:Mine"))
        assert plugins.name_of(by_name) == "hers"
        assert plugins.identity(by_name) == plugins.identity(by_place), "however the policy names it"
        found.append(plugins.identity(by_name))
        assert found[-1]["origin"] == {"distribution": "mine", "version": version}
    assert found[0] != found[1] and found[0] == found[2]
