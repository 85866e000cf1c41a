"""What a person sees of a study: its table, and in a sentence what follows from it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from selector.cli.report import print_table
from selector.tune.arms import written
from selector.tune.result import counted, documents_of, sentence

_WIDEST = 10  # arms of a table that has a column for each
_WORST_CHANCE = 0.005  # a smaller one is not shown in digits


def print_study(content: Mapping[str, Any]) -> None:
    """A study's table on stdout, a row for each arm and condition."""
    better = "more is better" if content["better"] == "higher" else "less is better"
    seeds, held_out = counted(len(content["seeds"]), "seed"), content["held_out"]
    on = f", {documents_of(held_out)}" if held_out else ""
    print(f"{content['metric']} by {content['objective']} ({better}), {seeds}{on}\n")
    crosses = {arm["name"]: ", ".join(arm["crosses"]) for arm in content["arms"]}
    _print_rows(
        ["arm", "at", "rank", content["metric"], "95 %", "beside random", "95 %", "best", "crosses", "tokens"],
        [
            [
                cell["arm"],
                cell["condition"],
                "" if cell["rank"] is None else str(cell["rank"]),
                _number(cell["mean"]),
                _interval(cell),
                "" if cell["beside_random"] is None else f"{cell['beside_random']['mean']:+.4g}",
                "" if cell["beside_random"] is None else _interval(cell["beside_random"], "+"),
                _chance(cell["chance_of_being_best"]),
                crosses[cell["arm"]],
                f"{cell['tokens']:,}",
            ]
            for cell in content["cells"]
        ],
    )
    overlap = content.get("overlap") or {}
    if 1 < len(overlap) <= _WIDEST:
        print("\nof the documents of an arm, the share that others have too")
        names = [arm["name"] for arm in content["arms"] if arm["name"] in overlap]
        _print_rows(
            ["arm", *names],
            [[name, *("" if other == name else f"{overlap[name][other]:.0%}" for other in names)] for name in names],
        )
    _print_proposals(content)
    if held_out.get("left"):
        left = counted(held_out["left"], "document")
        print(f"\n{left} drawn to be held out but like one that may be chosen: not evaluated on (--json names them)")
    for names in content.get("alike") or []:
        print(f"\nthe same visits in the same order at {content['conditions'][-1]}: {', '.join(names)}")
    print(f"\n{sentence(content)}")
    if content["stopped"]:
        print(f"stopped: {content['stopped']}")
    if content["below_floor"]:
        print(content["below_floor"])
    for name in ("policy", "picture"):
        if content.get(name):
            print(f"{name}: {content[name]}")
    print(f"study: {content['study']}")


def _print_proposals(content: Mapping[str, Any]) -> None:
    """How the arms that the study found by itself were come by."""
    tried_by_name = [arm for arm in content["arms"] if re.fullmatch(r"trial [0-9]+", arm["name"])]
    if tried_by_name:
        print("\n" + "\n".join(f"{arm['name']}: {written(arm['changes'])}" for arm in tried_by_name))
    if "filters" in content:
        tried = content["filters"]["tried"]
        print(f"\nthe best of {len(tried):,} filters")
        _print_rows(
            ["where", content["metric"]], [[one["where"], _number(one[content["metric"]])] for one in tried[:5]]
        )
    if "mixture" in content:
        mixture = content["mixture"]
        print(
            f"\nweights by {mixture['by']}, of {mixture['runs']} runs: a run that the law has not seen is foretold"
            f" within {mixture['error']:.1%}, ranks with a correlation of {mixture['rank_correlation']:.2f}"
        )
        _print_rows(
            ["group", "corpus", "most", "proposed"],
            [
                [name, *(f"{one[word]:.3f}" for word in ("corpus", "most", "proposed"))]
                for name, one in mixture["sources"].items()
            ],
        )


def print_plan(planned: Mapping[str, Any]) -> None:
    """What a study will do and cost."""
    least, most = planned["seeds"]["least"], planned["seeds"]["most"]
    seeds = counted(most, "seed") if least == most else f"{least} to {most} seeds"
    print(f"{planned['metric']} by {planned['objective']}, {seeds}\n")
    _print_rows(
        ["arm", "at", "tokens", "measurements", "stored"],
        [
            [row["arm"], row["budget"], _count(row["tokens"]), str(row["measurements"]), str(row["stored"])]
            for row in planned["arms"]
        ],
    )
    done = planned["manifests_stored"], planned["measurements_stored"]
    for at, name in enumerate(("manifests", "measurements")):
        print(f"{name}: {planned[name]:,} with {counted(least, 'seed')}, {done[at]:,} of them stored")
    if planned["finalists"]["arms"]:
        for name, tried in (("searched", planned["searched"]), ("the best of them", planned["finalists"])):
            arms = f"{_count(tried['arms'])} arm{'s' if tried['arms'] != 1 else ''}"
            print(f"{name}: {arms}, {_count(tried['measurements_at_most'])} measurements at most")
    least_tokens, most_tokens = planned["tokens"]["least"], planned["tokens"]["most"]
    bound = "at most " if planned["tokens_are_at_most"] and least_tokens is not None else ""
    amounts = dict.fromkeys((_count(least_tokens), _count(most_tokens)))
    print(f"tokens trained on: {bound}{' to '.join(amounts)}")
    if planned["all_is_affordable"] is None:
        print("all: whether it is affordable is not known yet, so it is not counted")
    if planned["above_ceiling"]:
        print(planned["above_ceiling"])
    print(f"steps for all arms together: {', '.join(planned['steps_to_run']) or 'all are stored'}")
    if planned["below_floor"]:
        print(planned["below_floor"])


def _count(value: int | None) -> str:
    return "not known yet" if value is None else f"{value:,}"


def _print_rows(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table without columns that are empty."""
    used = [i for i in range(len(headings)) if any(row[i] for row in rows)]
    print_table([headings[i] for i in used], [[row[i] for i in used] for row in rows])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _interval(cell: Mapping[str, Any], sign: str = "") -> str:
    if cell["low"] is None or cell["high"] is None:
        return "unknown"
    return f"[{cell['low']:{sign}.4g}, {cell['high']:{sign}.4g}]"


def _chance(value: float | None) -> str:
    if value is None:
        return ""
    return f"< {_WORST_CHANCE:.1%}" if value < _WORST_CHANCE else f"{value:.0%}"
