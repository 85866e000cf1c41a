"""Nine policies of real text compared by a study, and its result as a section of a page in Markdown.

Texts are cut into passages of some hundred characters, so that also a selection of a few thousand tokens has many of
them. The short form trains models of 0.3 and 1.3 million parameters for up to two hundred steps each; the long form has
eight times the text. Both train at two learning rates. Neither says which policy is good for a large model: see the
line about the floor.
"""

import contextlib
import hashlib
import json
import os
import resource
import statistics
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selector.cli.studies import print_study
from selector.engine.local import LocalExecutor
from selector.errors import UsageError
from selector.tune import kept
from selector.tune.arms import RANDOM
from selector.tune.result import sentence
from selector.tune.run import run
from selector.tune.study import Study

_SCORE = "prototypicality"
_BY_SCORE = {"score": _SCORE}
ARMS: dict[str, dict[str, Any]] = {
    "top": {"select.using": {"top": _BY_SCORE}},
    "kmeans quality": {"select.using": {"kmeans_quality": _BY_SCORE}},
    "quality sampling": {"select.using": {"quality_sampling": _BY_SCORE}},
    "iterative": {"select.using": {"iterative": {"inner": {"kmeans_quality": _BY_SCORE}, "signal": _SCORE}}},
    "pruned": {"select.using": {"prune": {"most": 0.8}}},
    "curriculum": {"order.using": {"by_score": {"score": "readability"}}},
    "anti-curriculum": {"order.using": {"by_score": {"score": "readability", "direction": "anti_curriculum"}}},
    "interleaved": {"order.using": {"interleaved": {"by": "cluster", "score": "readability"}}},
}
"""What each policy says otherwise than the control, which draws at random and shuffles."""

_LEAST, _MOST = 300, 400  # characters of a passage, and of a line that is not cut
_DOMAIN = "domain"


@dataclass(frozen=True, kw_only=True)
class Form:
    """How much a study compares."""

    budgets: tuple[int, int]  # tokens
    passages: int  # of the corpus, at most
    per_domain: int  # held out and evaluated on
    learning_rates: tuple[float, ...]  # of proxies


SHORT = Form(budgets=(3_000, 12_000), passages=3_000, per_domain=6, learning_rates=(0.003, 0.001))
LONG = Form(budgets=(25_000, 100_000), passages=12_000, per_domain=20, learning_rates=(0.003, 0.001))


def tune(
    paths: Sequence[str], *, root: str, sources: Sequence[str], only: Mapping[str, str], objective: str, is_long: bool
) -> None:
    """Prints a section of a page: all arms at two budgets and two sizes, by five seeds."""
    form = LONG if is_long else SHORT
    corpus = Path(root, "passages", f"{'long' if is_long else 'short'}.jsonl")
    domains = write_passages(paths, corpus, sources, only, form.passages)
    study, runs = study_of(corpus, form, objective), Path(root, "runs")
    began, spent = time.monotonic(), _cpu_seconds()
    outcome = run(study, root=runs, executor=LocalExecutor(), tell=lambda line: print(line, file=sys.stderr))
    content = kept.keep(runs, study, outcome)
    took, spent = time.monotonic() - began, _cpu_seconds() - spent
    name = f"{'Long' if is_long else 'Short'} form, {objective}"
    print("\n".join(section(name, content, sum(domains.values()), len(domains))))
    print(
        f"\nIt took {took / 60:.1f} minutes, {spent / 60:.1f} minutes of CPU, on {os.cpu_count()} cores with a load of"
        f" {os.getloadavg()[2]:.1f} in the last quarter of an hour, its own included. What was stored costs nothing."
    )
    with contextlib.redirect_stdout(sys.stderr):
        print_study(content)


def study_of(corpus: Path, form: Form, objective: str) -> Study:
    """The study of the arms on a file of passages."""
    objectives: dict[str, dict[str, Any]] = {
        "proxy": {
            "sizes": ["0.3M", "1.3M"], "learning_rates": form.learning_rates, "context": 128, "evaluated": 192,
        },
        "probe": {"orders": [3, 5]},
    }  # fmt: skip
    return Study.of(
        {
            "base": {
                "corpus": {"paths": [str(corpus)], "source": _DOMAIN},
                "embed": {"max_tokens": 64, "long_documents": "truncate"}, "cluster": {"num_clusters": 64},
                "rate": [_SCORE, "readability"], "select": {"budget": {"tokens": form.budgets[0]}},
                "order": {"using": "shuffled"},
            },
            "arms": ARMS, "budgets": [{"tokens": budget} for budget in form.budgets], "controls": {"all": False},
            "objective": {objective: objectives[objective]}, "seeds": {"least": 5, "most": 5},
            "held_out": {"share": 0.05, "most": form.per_domain},
        }
    )  # fmt: skip


def write_passages(
    paths: Sequence[str], into: Path, sources: Sequence[str], only: Mapping[str, str], most: int
) -> dict[str, int]:
    """Writes passages of JSON Lines with a `text`, and returns how many of each domain: the first of the columns
    `sources` that a row has, or its file. Rows that have another value in a column of `only` are left out; of too many
    passages those with the lowest digests are taken."""
    passages: dict[str, str] = {}
    for path in paths:
        if not path.endswith(".jsonl"):
            raise UsageError(f"{path} is not JSON Lines. Write paths that end with .jsonl.")
        with Path(path).open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                if any(str(row.get(column, value)) != value for column, value in only.items()):
                    continue
                domain = next((str(row[source]) for source in sources if row.get(source)), Path(path).stem)
                passages |= dict.fromkeys(cut(row["text"]), domain)
    digests = {hashlib.blake2b(text.encode(), digest_size=16).digest(): text for text in passages}
    taken = [digests[digest] for digest in sorted(digests)[:most]]
    into.parent.mkdir(parents=True, exist_ok=True)
    into.write_text("".join(json.dumps({"text": text, _DOMAIN: passages[text]}) + "\n" for text in taken), "utf-8")
    return {domain: sum(passages[text] == domain for text in taken) for domain in {passages[text] for text in taken}}


def cut(text: str) -> Iterator[str]:
    """Passages of a text: whole lines until it is long enough; what is left at the end is dropped where it is short."""
    passage = ""
    for line in text.splitlines():
        whole = [line] if len(line) <= _MOST else textwrap.wrap(line, _MOST, drop_whitespace=False, expand_tabs=False)
        for piece in whole:
            passage = f"{passage}\n{piece}" if passage else piece
            if len(passage) >= _LEAST:
                yield passage
                passage = ""


def section(name: str, content: Mapping[str, Any], num_passages: int, num_domains: int) -> list[str]:
    """A study in Markdown: what each arm has beside the random control at each budget and size, and what follows."""
    conditions, held_out, cells = content["conditions"], content["held_out"], _cells(content)
    lines = [
        f"## {name}", "",
        f"{num_passages:,} passages of {num_domains} domains; {content['objective']}; {len(content['seeds'])} seeds;"
        f" {held_out['documents']} held-out passages, {held_out['left']} more left since another passage has half of"
        " their text. Bits per byte of the random control, and how much more each policy has, with 95 % intervals:"
        " less is better.", "",
        f"| policy | {' | '.join(conditions)} | best |", f"|---{'|---' * len(conditions)}|---|",
    ]  # fmt: skip
    for arm in (arm["name"] for arm in content["arms"]):
        shown = [_cell(cells[arm, condition], arm == RANDOM) for condition in conditions]
        chance = cells[arm, conditions[-1]]["chance_of_being_best"]
        lines.append(f"| {arm} | {' | '.join(shown)} | {chance:.0%} |")
    lines += ["", *_findings(content)]
    return [*lines, "", f"The study says: {sentence(content)}. {content['below_floor'] or ''}".rstrip()]


def _findings(content: Mapping[str, Any]) -> list[str]:
    """What follows from a study, in points: which arms are better or worse than random, and what cannot be told."""
    conditions, cells = content["conditions"], _cells(content)
    arms = [arm["name"] for arm in content["arms"] if arm["name"] != RANDOM]
    signs = {arm: [_sign(cells[arm, condition]["beside_random"]) for condition in conditions] for arm in arms}
    kinds = {
        "Better than random at every budget and size": lambda seen: set(seen) == {-1},
        "Worse than random at every budget and size": lambda seen: set(seen) == {1},
        "Better at some, and nowhere told to be worse": lambda seen: set(seen) == {-1, 0},
        "Worse at some, and nowhere told to be better": lambda seen: set(seen) == {1, 0},
        "Better at one and worse at another": lambda seen: {-1, 1} <= set(seen),
        "Not told apart from random anywhere": lambda seen: set(seen) == {0},
    }
    lines = [
        f"* {kind}: {', '.join(names)}."
        for kind, holds in kinds.items()
        if (names := [arm for arm, seen in signs.items() if holds(seen)])
    ]
    last = [cells[arm, conditions[-1]]["beside_random"] for arm in signs]
    reach = statistics.median([(one["high"] - one["low"]) / 2 for one in last if one["high"] > one["low"]] or [0.0])
    share = reach / cells[RANDOM, conditions[-1]]["mean"]
    lines.append(
        f"* What cannot be told at {conditions[-1]}: differences of less than about {reach:.3f} bits ({share:.1%}),"
        " which is how far a middling interval reaches."
    )
    alike = [" and ".join(names) for names in content["alike"]]
    lines += [f"* The same manifests: {'; '.join(alike)}."] if alike else []
    crossed = [f"{arm['name']} with {', '.join(arm['crosses'])}" for arm in content["arms"] if arm["crosses"]]
    lines += [f"* Ranks that change, told from noise: {'; '.join(crossed)}."] if crossed else []
    return lines


def _cells(content: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """What was measured, by arm and condition."""
    return {(cell["arm"], cell["condition"]): cell for cell in content["cells"]}


def _cpu_seconds() -> float:
    """Of this process, its threads, and the processes that it has ended."""
    return sum(sum(resource.getrusage(processes)[:2]) for processes in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _cell(cell: Mapping[str, Any], is_control: bool) -> str:
    if is_control:
        return f"{cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"
    one = cell["beside_random"]
    return f"{one['mean']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"


def _sign(one: Mapping[str, Any]) -> int:
    return int(one["low"] > 0) - int(one["high"] < 0)
