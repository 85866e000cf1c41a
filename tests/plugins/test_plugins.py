"""A plug-in is one file: found by its name, an entry point or a dotted name, listed, and run like ours."""

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from command import Ended, selector, write_policy
from conftest import text_of, write_jsonl
from runs import policy_of, run
from selector import plugins
from selector.engine import inside
from selector.engine.store import Store
from selector.errors import PolicyError
from selector.pipeline import FinishedRun
from selector.storage import open_storage
from selector.testing.orders import check_order
from selector.testing.raters import check_rater
from selector.testing.selectors import check_selector

pytestmark = pytest.mark.slow

# One file each, as somebody else would write it.
FILES = {
    "share.py": """
        from dataclasses import dataclass
        import pyarrow as pa
        from selector.rate import Rater

        @dataclass(frozen=True, kw_only=True)
        class Share(Rater):
            '''The share of the text that one character has.'''
            higher_is = "rarer"
            character: str = "a"

            def rate(self, batch):
                texts = batch["text"].to_pylist()
                shares = [text.count(self.character) / len(text) if text else None for text in texts]
                return pa.record_batch({"score": pa.array(shares, pa.float64())})
        """,
    "zscore.py": """
        from dataclasses import dataclass
        import numpy as np
        import pyarrow as pa
        from selector.rate import Fit, Rater

        @dataclass(frozen=True, kw_only=True)
        class ZScore(Fit):
            '''How far from the mean length a text is, in standard deviations.'''
            higher_is = "harder"
            sample = None
            power: float = 1.0

            def fit(self, sample, seed):
                texts = sample.table("text")["text"].to_pylist()
                lengths = np.array([len(text) ** self.power for text in texts] or [0.0])
                return pa.table({"mean": [lengths.mean()], "std": [lengths.std() or 1.0], "n": [sample.num_documents]})

            def rater(self, fitted):
                (row,) = fitted.to_pylist()
                return Standardised(mean=row["mean"], deviation=row["std"], power=self.power)

        @dataclass(frozen=True, kw_only=True)
        class Standardised(Rater):
            '''Made by the fit.'''
            higher_is = "harder"
            mean: float
            deviation: float
            power: float

            def rate(self, batch):
                lengths = [len(text) ** self.power for text in batch["text"].to_pylist()]
                scores = [(length - self.mean) / self.deviation for length in lengths]
                return pa.record_batch({"score": pa.array(scores, pa.float64())})

        @dataclass(frozen=True, kw_only=True)
        class SampledZScore(ZScore):
            '''The same, from a sample of about 40 documents.'''
            sample = 40
        """,
    "lowest.py": """
        from dataclasses import dataclass
        import functools
        import numpy as np
        from selector.exact import Queued, keyed, take
        from selector.select import Decisions, Selector, reasons, verdicts

        @dataclass(frozen=True, kw_only=True)
        class Lowest(Selector):
            '''Takes the documents with the lowest ids.'''

            def select(self, pool, budget, seed):
                def queues(work):
                    asked = functools.partial(of_batch, budget, work)
                    return pool.map(asked, "doc_id", "num_tokens")

                amount = np.array([min(budget.amount, sum(queues(size)))])
                taken = take(queues, amount, budget.overshoot)
                return Decisions(decide=functools.partial(decide, budget, taken), columns=("doc_id", "num_tokens"))

        def queued(budget, batch):
            ids = keyed.words(batch["doc_id"])
            return Queued(group=np.zeros(len(ids), np.int64), key=ids[:, 0], ids=ids, sizes=budget.sizes(batch))

        def of_batch(budget, work, batch):
            return work(queued(budget, batch))

        def size(queued):
            return int(queued.sizes.sum())

        def decide(budget, taken, batch):
            kept = taken.mask(queued(budget, batch))
            said = reasons(kept.astype(np.int32), ["a high id", "a low id"])
            return verdicts(kept, inclusion_probability=kept.astype(np.float32), **said)
        """,
    "backwards.py": """
        from dataclasses import dataclass
        import numpy as np
        from selector.exact import keyed
        from selector.order import Order, Positions

        @dataclass(frozen=True, kw_only=True)
        class Backwards(Order):
            '''Arranges the documents by id, last first.'''

            def arrange(self, chosen, seed):
                ids = keyed.words(chosen.table("doc_id")["doc_id"])
                return Positions.of(np.lexsort((ids[:, 1], ids[:, 0]))[::-1], ids)
        """,
}
ENTRY_POINTS = {
    "raters": {"share": "share:Share", "zscore": "zscore:ZScore", "sampled": "zscore:SampledZScore"},
    "selectors": {"lowest": "lowest:Lowest"},
    "orders": {"backwards": "backwards:Backwards"},
}

TEXTS = [text_of(n, 8) for n in range(100)]

Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package of plug-ins as pip would, and returns its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def do(files: dict[str, str], points: dict[str, dict[str, str]], name: str = "") -> str:
        name = name or f"elsewhere_{tmp_path.name}".replace("-", "_")
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        for file, source in files.items():
            (tmp_path / name / file).write_text(dedent(source), "utf-8")
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines: list[str] = []
        for family, members in points.items():
            lines += [f"[selector.{family}]", *(f"{key} = {name}.{place}" for key, place in members.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        return name

    return do


@pytest.fixture
def elsewhere(install: Install) -> str:
    return install(FILES, ENTRY_POINTS)


NAMES = [(family, name, place) for family, members in ENTRY_POINTS.items() for name, place in members.items()]


@pytest.mark.parametrize(("family", "name", "place"), NAMES)
def test_a_plug_in_from_elsewhere_is_found_by_entry_point_and_by_dotted_name(
    family: str, name: str, place: str, elsewhere: str
) -> None:
    module, _, attribute = place.partition(":")
    found = plugins.find(family, name)
    assert (found.__module__, found.__name__) == (f"{elsewhere}.{module}", attribute)
    assert plugins.find(family, f"{elsewhere}.{place}") is found
    assert plugins.find(family, f"{elsewhere}.{module}.{attribute}") is found
    assert name in plugins.names(family)
    with pytest.raises(PolicyError, match=rf"^There is no {family[:-1]} called '{name}x'\. Did you mean '{name}'\?$"):
        plugins.find(family, f"{name}x")


@pytest.mark.usefixtures("elsewhere")
def test_a_plug_in_from_elsewhere_is_listed_beside_ours() -> None:
    told = selector("plugins", "--json").json
    (share,) = (member for member in told["raters"] if member["name"] == "share")
    assert share == {
        "name": "share",
        "summary": "The share of the text that one character has.",
        "options": {"character": {"type": "str", "default": "a", "required": False}},
    }
    assert {"length", "share", "zscore"} <= {member["name"] for member in told["raters"]}
    assert "lowest" in [member["name"] for member in told["selectors"]]
    assert "backwards" in [member["name"] for member in told["orders"]]


@pytest.mark.usefixtures("elsewhere")
def test_a_plug_in_from_elsewhere_is_covered_by_the_law_tests() -> None:
    assert {"share", "zscore"} <= set(plugins.names("raters"))
    check_rater("share", examples=5)
    check_rater("zscore", examples=5)
    check_selector("lowest", examples=5)
    check_order("backwards", examples=5)


def write_corpus(folder: Path) -> Path:
    """A folder of two files with 100 different documents."""
    for index in range(2):
        write_jsonl(folder / f"{index}.jsonl", [{"text": text} for text in TEXTS[50 * index : 50 * index + 50]])
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def policy_with_plugins(corpus: Path, model: Path, prefix: str = "", **sections: Any) -> dict[str, Any]:
    """A policy whose rater, selector and order are from elsewhere: by entry point, or dotted."""
    names = ("share", "zscore", "lowest", "backwards")
    if prefix:
        names = (
            f"{prefix}.share:Share",
            f"{prefix}.zscore:ZScore",
            f"{prefix}.lowest:Lowest",
            f"{prefix}.backwards.Backwards",
        )
    scores = ("Share", "ZScore") if prefix else names[:2]
    return policy_of(
        corpus,
        model,
        rate=[{names[0]: {"character": "e"}}, names[1]],
        select={"budget": {"documents": 50}, "using": names[2]},
        order={"using": names[3]},
        manifest={"difficulty": scores[1], "quality": scores[0]},
        **sections,
    )


@pytest.mark.parametrize("is_dotted", [False, True], ids=["entry point", "dotted name"])
def test_plug_ins_from_elsewhere_run_through_the_whole_flow(
    is_dotted: bool, elsewhere: str, corpus: Path, tiny_model: Path, tmp_path: Path
) -> None:
    policy = write_policy(tmp_path, policy_with_plugins(corpus, tiny_model, elsewhere if is_dotted else ""))
    ended: Ended = selector("run", policy, "--root", tmp_path / "runs", "--executor", "local", "--json")
    assert ended.code == 0, ended.err
    names = ("Share", "ZScore") if is_dotted else ("share", "zscore")
    steps = [step["name"] for step in ended.json["steps"]]
    rated = [f"fit/{names[1]}", *(f"rate/{name}" for name in names)]
    assert steps == ["survey", "ingest", "dedup", *rated, "select", "order", "manifest"]
    rows = pq.read_table(Path(ended.json["manifest"]) / "manifest/parts").to_pylist()
    ids = [row["doc_id"] for row in rows]
    assert len(ids) == 50 and ids == sorted(ids, reverse=True)
    assert {row["reason"] for row in rows} == {"a low id"}
    shares = {np.float32(text.count("e") / len(text)).round(5) for text in TEXTS}
    assert {np.float32(row["quality"]).round(5) for row in rows} <= shares


def fitted(outcome: FinishedRun, root: Path, name: str) -> dict[str, Any]:
    (step,) = (step for step in outcome.steps if step.name == f"fit/{name}")
    (row,) = Store.open(str(root)).read(f"fit/{name}/{step.fingerprint}", "fit").to_pylist()
    return row


def done(outcome: FinishedRun) -> list[str]:
    """The steps that were not cached."""
    return [step.name for step in outcome.steps if not step.cached]


@pytest.mark.usefixtures("elsewhere")
def test_a_rater_that_fits_the_corpus_has_a_step_for_it_cached_and_keyed(tmp_path: Path, tiny_model: Path) -> None:
    corpus, root = write_corpus(tmp_path / "corpus"), tmp_path / "runs"

    def policy(*rate: Any, **sections: Any) -> dict[str, Any]:
        more = {
            "select": {"budget": {"fraction": 1}},
            "order": {"using": "shuffled"},
            "manifest": {"difficulty": "zscore"},
        }
        return policy_of(corpus, tiny_model, **{**more, "rate": list(rate or ["zscore"]), **sections})

    first = run(policy(), root)
    assert fitted(first, root, "zscore")["n"] == 100
    scores = pq.read_table(f"{first.uri}/manifest/parts")["difficulty"].to_numpy()
    assert abs(scores.mean()) < 1e-5 and abs(scores.std() - 1) < 1e-5, "every part is measured against the whole corpus"

    below = ["rate/zscore", "manifest"]  # which carries the score; nothing else reads it
    assert done(run(policy(), root)) == []
    assert done(run(policy(select={"budget": {"fraction": 0.5}}), root)) == ["select", "order", "manifest"]
    assert done(run(policy("length", "zscore"), root)) == ["rate/length", "manifest"]
    assert "fit/zscore" not in done(run(policy("length", "zscore", seed=7), root))
    assert done(run(policy({"zscore": {"power": 2}}), root)) == ["fit/zscore", *below]
    assert done(run(policy(seed=8), root)) == ["fit/zscore", "rate/zscore", "select", "order", "manifest"], (
        "a fit may draw, and so may those that choose and arrange"
    )
    write_jsonl(corpus / "3.jsonl", [{"text": "a much longer text " * 50}])
    more = run(policy(), root)
    assert "fit/zscore" in done(more) and "rate/zscore" in done(more)
    assert fitted(more, root, "zscore")["n"] == 101
    assert fitted(more, root, "zscore")["mean"] > fitted(first, root, "zscore")["mean"]


@pytest.mark.usefixtures("elsewhere")
def test_a_fit_sees_a_keyed_sample_that_does_not_depend_on_the_cut(tmp_path: Path, tiny_model: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    found: list[dict[str, Any]] = []
    for rows_per_part in (13, 50):
        policy = policy_of(corpus, tiny_model, rate=["sampled"], manifest={}, order={"using": "shuffled"})
        policy |= {"corpus": {"paths": [str(corpus)], "rows_per_part": rows_per_part}}
        policy |= {"select": {"budget": {"fraction": 0.5}}}
        found.append(fitted(run(policy, tmp_path / "runs"), tmp_path / "runs", "sampled"))
    assert found[0] == found[1] and 20 < found[0]["n"] < 60


# ---------------------------------------------------------------- plug-ins that are none

BROKEN = {
    "wrong.py": """
        import dataclasses
        from selector.rate import Rater

        class NoDataclass(Rater):
            '''Has forgotten its decorator.'''
            higher_is = "harder"
            def rate(self, batch):
                return batch

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Unfinished(Rater):
            '''Does not rate.'''
            higher_is = "harder"

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Stranger:
            '''Is something else.'''

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Fine(Rater):
            '''Has options with odd defaults.'''
            higher_is = "harder"
            words: tuple[str, ...] = ("a",)
            more: list[str] = dataclasses.field(default_factory=list)
            where: complex = 1j
            def rate(self, batch):
                return batch
        """,
    "raises.py": "raise ZeroDivisionError('at import')\n",
}
BROKEN_POINTS = {
    "raters": {
        "bare": "wrong:NoDataclass",
        "unfinished": "wrong:Unfinished",
        "stranger": "wrong:Stranger",
        "fine": "wrong:Fine",
        "gone": "wrong:Gone",
        "raises": "raises:Any",
        "missing": "not_there:Any",
    }
}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bare", r"'bare' is not a dataclass\. Write @dataclass\(frozen=True, kw_only=True\) above its class\."),
        ("unfinished", r"'unfinished' is not finished: it does not define rate\."),
        ("stranger", r"'stranger' is no rater: it does not extend selector\.rate\.Rater or selector\.rate\.Fit\."),
        ("gone", "The rater 'gone' cannot be imported: AttributeError: "),
        ("raises", r"The rater 'raises' cannot be imported: ZeroDivisionError: at import\."),
        ("missing", "The rater 'missing' cannot be imported: ModuleNotFoundError: "),
    ],
)
def test_a_plug_in_that_is_none_is_refused_when_it_is_named(name: str, message: str, install: Install) -> None:
    install(BROKEN, BROKEN_POINTS)
    with pytest.raises(PolicyError, match=f"^{message}"):
        plugins.make("raters", name, {}, "rate.0")


def test_a_broken_plug_in_does_not_hide_the_others(install: Install) -> None:
    install(BROKEN, BROKEN_POINTS)
    ended = selector("plugins", "--json")
    told = {member["name"]: member for member in ended.json["raters"]}
    assert told["raises"]["summary"] == "The rater 'raises' cannot be imported: ZeroDivisionError: at import."
    assert told["length"]["summary"] == "How long the text is."
    defaults = {name: option["default"] for name, option in told["fine"]["options"].items()}
    assert defaults == {"words": ["a"], "more": [], "where": "1j"}
    assert selector("plugins").code == 0


def test_two_plug_ins_of_one_name_are_told_apart_by_their_dotted_names(install: Install) -> None:
    points = {"raters": {"length": "share:Share", "share": "share:Share"}}
    name = install(FILES, points)
    with pytest.raises(
        PolicyError,
        match=rf"^There are several raters called 'length': selector\.rate\.length, {name}\.share:Share\. Write",
    ):
        plugins.find("raters", "length")
    install(FILES, {"raters": {"share": "zscore:ZScore"}}, "another_package")
    with pytest.raises(PolicyError, match=rf"^There are several raters called 'share': a.*, {name}\.share:Share\."):
        plugins.find("raters", "share")
    assert plugins.find("raters", f"{name}.share:Share").__name__ == "Share"
    for module in [module for module in sys.modules if module.startswith("another_package")]:
        del sys.modules[module]


def test_an_address_never_imports_a_module(install: Install) -> None:
    name = install({"owned.py": "raise SystemExit('imported')\n"}, {})
    for scheme in (f"{name}.owned", f"{name}:owned", f"{name}.owned:It"):
        with pytest.raises(PolicyError, match="There is no storage called"):
            open_storage(f"{scheme}://runs")
    assert f"{name}.owned" not in sys.modules


def test_a_module_that_is_not_found_is_told_with_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    with pytest.raises(
        PolicyError, match=r"No module named 'beside_it'\. If it is yours: write PYTHONPATH=FOLDER before"
    ):
        plugins.find("raters", "beside_it:Mine")
    (tmp_path / "beside_it.py").write_text("raise KeyboardInterrupt('as it is imported')")
    with pytest.raises(PolicyError, match=r"It lies in .*, where Python does not look: write PYTHONPATH=\. before"):
        plugins.find("raters", "beside_it:Mine")
    monkeypatch.syspath_prepend(tmp_path)
    with inside.stays(), pytest.raises(PolicyError, match="cannot be imported: KeyboardInterrupt: as it is imported"):
        plugins.find("raters", "beside_it:Mine")
