"""What a person sees of a finished run, a manifest, a plan or the plug-ins: text on stdout."""

import json
import re
import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from selector.cli.doctor import Finding
from selector.engine import lease
from selector.engine.gc import Garbage
from selector.engine.step import Result, Step
from selector.errors import DamagedError, SelectorError
from selector.manifest import Manifest
from selector.manifest.describe import rows_not_read, undone
from selector.manifest.header import FORMAT_VERSION, content_of
from selector.pipeline import FinishedRun
from selector.policy import Policy
from selector.steps.foreseen import Foreseen
from selector.storage import Storage

_WIDEST_MIXTURE = 12
_MOST_TEXT = 300
_AMOUNT = r"select\.budget\.(documents|tokens|fraction)="
_MOST_NAMES = 8  # of scores that every document has
_MOST_COLUMNS = 12  # of a table of correlations; --json and --picture have all
_WIDE = 80  # a terminal of so many columns has room for long bars


def as_json(finished: FinishedRun, controls: Sequence[FinishedRun] = ()) -> dict[str, Any]:
    """A run as `selector run --json` prints it; `scores`, `shortfall`, `waiting`, `absent` (names that no document
    has), `feedback` (rows of it that are not read) and `controls` are there only where there are some."""
    counts = finished.manifest.info["counts"]
    keys = ("name", "fingerprint", "cached", "rows_in", "rows_out", "seconds")
    facts = finished.manifest.header.facts.select
    return {
        "manifest": finished.uri,
        "digest": finished.manifest.digest,
        "documents": counts["kept"],
        "tokens": counts["tokens"],
        "seconds": finished.seconds,
        "steps": [{key: getattr(step, key) for key in keys} for step in finished.steps],
        **{name: facts[name] for name in ("shortfall", "waiting", "absent") if name in facts},
        **({"feedback": feedback} if (feedback := rows_not_read(facts)) else {}),
        **({"scores": scores} if (scores := finished.manifest.header.facts.scores) else {}),
        **(
            {"controls": [{"manifest": one.uri, "digest": one.manifest.digest} for one in controls]} if controls else {}
        ),
    }


def print_run(
    finished: FinishedRun, policy: Policy, repeated: Sequence[str], controls: Sequence[FinishedRun] = ()
) -> None:
    """A finished run: its build, its funnel, its mixture, its difficulty, its controls, and what to try next.
    `repeated` are the words of the command that made it."""
    console = _console()
    console.print(_tree(finished.flow, finished.steps))
    print_manifest(finished.manifest, console)
    for number, control in enumerate(controls):
        console.print(f"control {number}     {control.manifest.digest}  {control.uri}", soft_wrap=True)
    first = finished.manifest.at(0)["doc_id"] if len(finished.manifest) else "DOC_ID"
    state = "It was finished before: nothing was made anew. " if all(step.cached for step in finished.steps) else ""
    console.print(f"\n{state}{finished.seconds:.1f} s. Try next:", style="bold")
    for command in (
        ["selector", "verify", finished.uri],
        ["selector", "explain", finished.uri, first],
        [*_without_budget(repeated), "--set", _half_budget(policy)],
    ):
        console.print(f"  {shlex.join(command)}", soft_wrap=True)


def _without_budget(command: Sequence[str]) -> list[str]:
    """A command's words, but for a --set of the amount that may be chosen."""
    pairs = list(zip(command, [*command[1:], ""], strict=True))
    amounts = [at for at, (word, value) in enumerate(pairs) if word == "--set" and re.match(_AMOUNT, value)]
    return [word for at, word in enumerate(command) if at not in amounts and at - 1 not in amounts]


def _half_budget(policy: Policy) -> str:
    """The policy's budget halved, as `--set` takes it."""
    budget = policy.select.budget
    if budget.fraction is not None:
        return f"select.budget.fraction={budget.fraction / 2:g}"
    unit, amount = ("tokens", budget.tokens) if budget.documents is None else ("documents", budget.documents)
    return f"select.budget.{unit}={max(1, (amount or 0) // 2)}"


def print_change(change: Mapping[str, Any]) -> None:
    """What another policy would choose, beside what the first one does."""
    console = _console()
    totals = Table("", "before", "after", "change", box=None, pad_edge=False)
    coverage = {f"{name} with some": change["coverage"][name] for name in ("sources", "clusters")}
    for name, values in {**{name: change[name] for name in ("documents", "visits", "tokens")}, **coverage}.items():
        totals.add_row(name, *(f"{values[side]:,}" for side in ("before", "after")), f"{_difference(values):+,}")
    if None not in change["quality"].values():
        quality = change["quality"]
        totals.add_row("mean quality", *(f"{quality[side]:.4g}" for side in quality), f"{_difference(quality):+.4g}")
    console.print(totals)
    for word, moved in (("enter", change["enter"]), ("leave", change["leave"])):
        console.print(f"\n{moved['documents']:,} documents {word}", style="bold")
        for name in ("sources", "clusters", "reasons"):
            shown = list(moved[name].items())[:_WIDEST_MIXTURE]
            listed = ", ".join(f"{_shown(str(group))} {count:,}" for group, count in shown)
            rest = f", and {len(moved[name]) - len(shown)} more" if len(moved[name]) > len(shown) else ""
            if shown:
                console.print(f"  {name}: {listed}{rest}", soft_wrap=True, markup=False)


def print_ratings(rated: Mapping[str, Any]) -> None:
    """What the scores of a policy are like, and how they agree, where that was asked."""
    console = _console()
    console.print(f"{rated['documents']:,} documents, of which {rated['sample']:,} are shown\n")
    scores = Table("score", "higher is", "have it", "median", "middle half", "range", box=None, pad_edge=False)
    scores.columns[0].overflow = "fold"  # long names differ at their ends
    for score in rated["scores"]:
        low, first, middle, third, high = map(_value, score.get("quantiles", [None] * 5))
        where = [middle, f"{first} to {third}", f"{low} to {high}"] if middle else ["", "", ""]
        if words := score.get("most_frequent"):
            where = [", ".join(f"{_shown(word)} {count:,}" for word, count in list(words.items())[:3]), "", ""]
        scores.add_row(score["name"], score["higher_is"], f"{score['ok'] / max(1, rated['sample']):.1%}", *where)
    console.print(scores)
    if "agreement" not in rated:
        return
    agreed = rated["agreement"]
    console.print("\nrank correlations; of a label the correlation ratio of the ranks\n", style="bold")
    console.print(_matrix(agreed) if len(agreed["columns"]) <= _MOST_COLUMNS else _most_alike(agreed))


def _value(quantile: float | str | None) -> str:
    """A value of a score, which is a word where it is a date."""
    return quantile if isinstance(quantile, str) else "" if quantile is None else f"{quantile:.4g}"


def _matrix(agreed: Mapping[str, Any]) -> Table:
    listed = Table("score", *agreed["columns"], box=None, pad_edge=False)
    for column in listed.columns:
        column.overflow = "fold"
    for name, values in zip(agreed["rows"], agreed["values"], strict=True):
        listed.add_row(name, *("" if value is None else f"{value:.2f}" for value in values))
    return listed


def _most_alike(agreed: Mapping[str, Any]) -> Table:
    """For each score that has two values its correlations with length, and the strongest ones with others."""
    lengths = agreed["columns"][len(agreed["rows"]) : len(agreed["columns"]) - len(agreed["labels"])]
    listed = Table("score", *lengths, "strongest others", box=None, pad_edge=False)
    listed.columns[0].overflow = "fold"
    for name, values in zip(agreed["rows"], agreed["values"], strict=True):
        known = {other: value for other, value in zip(agreed["columns"], values, strict=True) if value is not None}
        others = [(other, value) for other, value in known.items() if other not in (name, *lengths)]
        strongest = sorted(others, key=lambda pair: -abs(pair[1]))[:3]
        if known:
            of_lengths = [f"{known[length]:.2f}" if length in known else "" for length in lengths]
            listed.add_row(name, *of_lengths, ", ".join(f"{other} {value:.2f}" for other, value in strongest))
    return listed


def _difference(values: Mapping[str, Any]) -> Any:
    return values["after"] - values["before"]


def print_manifest(manifest: Manifest, console: Console | None = None) -> None:
    """What was kept, what was left out and why, the mixture before and after, and difficulty along the order."""
    console = console or _console()
    description = manifest.describe()
    cells = 20 if console.width >= _WIDE else 8
    shown = [_funnel(description), _mixture(description, cells)]
    if "corpus" in description["facts"]:
        shown.insert(0, _files(description["facts"]["corpus"]["files"]))
    if tried := description["facts"].get("cluster", {}).get("tried"):
        shown.append(_evidence(tried))
    if any(value is not None for value in description["difficulty"]):
        shown.append(_difficulty(description["difficulty"], cells))
    if description["visits"]:
        shown.append(_measures(description["measures"]))
    if training := description["facts"].get("training"):
        shown.append(_updates(training, cells))
    for table in shown:
        console.print()
        console.print(table)
    if scores := description["facts"].get("scores"):
        console.print(f"\n{_shown(_coverage(scores))}", soft_wrap=True)
    if repeats := description["facts"].get("repeats"):
        console.print(f"\n{_repeats(repeats)}", soft_wrap=True)
    for line in undone(manifest.header):
        console.print(f"\n{_shown(line)}", soft_wrap=True)
    console.print(f"\ndigest        {manifest.digest}", soft_wrap=True)
    console.print(f"order digest  {manifest.info['order_digest']}", soft_wrap=True)
    if parent := manifest.header.parent:
        console.print(f"parent        {parent.digest}, to position {parent.position:,}", soft_wrap=True)


def list_runs(storage: Storage) -> list[dict[str, Any]]:
    """Every run below a root: its name, and what its manifest holds if it has one.

    So that runs can be told apart, its selector and its order stand beside it. A manifest that this Selector does not
    read has its `format_version` in the entry, a damaged one a `problem`; a run that is at work has `at_work`.
    """
    at_work = {held.run for held in lease.live(storage).values()}
    names = sorted(
        {key.split("/")[0] for key, _ in storage.list("") if key.endswith("/plan.json") and key.count("/") == 1}
    )
    runs: list[dict[str, Any]] = []
    for name in names:
        key = f"{name}/manifest/manifest.json"
        runs.append({"run": name, "digest": None, "documents": None, "tokens": None})
        if name in at_work:
            runs[-1]["at_work"] = True
        data = storage.get(key)
        if data is None:
            plan: Any = json.loads(storage.get(f"{name}/plan.json") or b"{}")
            runs[-1] |= _chosen_by(plan.get("policy"))
            continue
        try:
            info = content_of(key, data)
            counts = info["counts"]
            runs[-1] |= {"digest": info["digest"], "documents": counts["kept"], "tokens": counts["tokens"]}
        except (DamagedError, KeyError, TypeError):
            runs[-1]["problem"] = "manifest.json is damaged"
            continue
        if info["format_version"] != FORMAT_VERSION:
            runs[-1]["format_version"] = info["format_version"]
        else:
            runs[-1] |= _chosen_by(info["policy"])
    return runs


def _chosen_by(policy: Any) -> dict[str, str]:
    """The names of the selector and the order of a policy as a manifest or a plan has it, or nothing."""
    try:
        return {name: next(iter(policy[key]["using"])) for name, key in (("selector", "select"), ("order", "order"))}
    except (KeyError, TypeError, StopIteration):
        return {}


def print_runs(root: str, runs: Sequence[Mapping[str, Any]]) -> None:
    table = _table("run", "documents", "tokens", "digest", "selector", "order", "", right=[1, 2])
    for run in runs:
        plugins = run.get("selector", ""), run.get("order", "")
        if run["digest"] is None:
            state = run.get("problem", "at work" if "at_work" in run else "unfinished")
            table.add_row(run["run"], "", "", "", *plugins, state)
        else:
            old = f"format version {run['format_version']}" if "format_version" in run else ""
            numbers = _number(run["documents"]), _number(run["tokens"])
            table.add_row(run["run"], *numbers, run["digest"][:12], *plugins, old)
    _console().print(table if runs else f"There is no run in {root}.")


def print_plan(planned: Foreseen) -> None:
    """What a run would do with each step, and where its updates would count."""
    table = _table("step", "action", "fingerprint", "parts")
    for step in planned.steps:
        parts = "" if step.parts is None else f"{step.parts_cached} of {step.parts} cached"
        table.add_row(step.name, step.action, (step.fingerprint or "")[:12], parts)
    console = _console()
    console.print(table)
    if planned.training is None:
        return
    if planned.training["visits"] is None:
        console.print(f"\nWhere updates count is not known: {planned.training['because']}.", soft_wrap=True)
        return
    console.print()
    if "estimate" in planned.training:
        visits = f"about {planned.training['visits']:,} visits, {planned.training['estimate']}"
        console.print(f"Where updates count, for {visits}:", soft_wrap=True)
    console.print(_updates(planned.training, 20 if console.width >= _WIDE else 8))
    for line in planned.warnings:
        console.print(f"\n{line}", soft_wrap=True)


def seen(manifest: Manifest, visit: Mapping[str, Any]) -> dict[str, Any]:
    """What `Manifest.at` returns, with its file and the beginning of its text, or why that cannot be read."""
    from selector.consume import Texts

    position = visit["position"]
    try:
        text = _shown(Texts(manifest).read(manifest.rows(position, position + 1))[0][:_MOST_TEXT])
    except SelectorError as error:
        text = f"cannot be read: {_shown(str(error))}"
    return {**visit, "uri": _shown(manifest.files["uri"][visit["file"]].as_py()), "text": text}


def readable(explanation: Mapping[str, Any]) -> dict[str, Any]:
    """What `Manifest.explain` returns, in the words and the order that a person reads; None where there is nothing to
    show."""
    is_kept = explanation["outcome"] == "kept"
    rank = explanation["rank"] if explanation["of"] is None else f"{explanation['rank']} of {explanation['of']:,}"
    return {
        "doc_id": explanation["doc_id"],
        "outcome": explanation["outcome"],
        "reason": _shown(explanation["reason"]),
        "other": explanation["other"],
        "positions": ", ".join(map(str, explanation["positions"])) or None,
        "unvisited": "; ".join(map(_shown, explanation["unvisited"])) or None,
        "visits": explanation["visits"] if is_kept else None,
        "round": explanation["round"] or None,
        "value": explanation["value"],
        "cut": explanation["cut"],
        "rank": rank,
        "inclusion_probability": explanation["inclusion_probability"],
        "uri": _shown(explanation["uri"]),
        "row": explanation["row"],
        "copies": "; ".join(f"row {copy['row']} of {_shown(copy['uri'])}" for copy in explanation["copies"]) or None,
    }


def of_garbage(garbage: Garbage, *, is_removed: bool) -> str:
    """How much nobody needs, in a line, and a line for each run that has no manifest or is at work."""
    many = "1 object" if len(garbage.keys) == 1 else f"{len(garbage.keys):,} objects"
    state = "given up" if is_removed else "unfinished: its command finishes it, --unfinished gives it up"
    lines = [f"{run} is {state}" for run in garbage.unfinished]
    lines += [f"{run} is at work: what it needs stays" for run in garbage.at_work]
    if not garbage.keys:
        return "\n".join([*lines, f"{many}: everything here is needed"])
    word = "removed" if is_removed else "could go; --delete removes them"
    return "\n".join([*lines, f"{many}, {_size(garbage.num_bytes)}: {word}"])


# What an option's type asks for, where its name alone does not say it.
_TYPES = {
    "ScoreName": "the name of a score; select.missing says what becomes of a document without it",
    "SignalName": "the name of a score that a document may lack",
    "Endpoint": "the address of an OpenAI-compatible server, http://host:port/v1",
    "ArtefactPath": "a file that a command of selector wrote",
    "ModelPath": "a model folder, a packaged model's name, or hf://owner/name@revision",
    "TablePath": "a JSONL or Parquet file with these columns",
    "TextsPath": "a JSONL or Parquet file with the column text",
    "ManifestPath": "a finished run's folder",
    "Order": "another order, as in {by_score: {score: length}}",
    "Mapping": "{name: value, ...}",
    "tuple": "a list, [a, b, ...]",
}


def print_plugins(families: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """All plug-ins in a line each, or those that come with their docstring in full."""
    console = _console()
    for family, members in families.items():
        console.print(family, style="bold")
        for member in members:
            if "docstring" in member:
                console.print(f"  {member['name']}\n", soft_wrap=True)
                console.print(textwrap.indent(member["docstring"], "    ") + "\n", soft_wrap=True)
            else:
                console.print(f"  {member['name']:<16} {member['summary']}", soft_wrap=True)
            for name, option in member["options"].items():
                default = "required" if option["required"] else f"default {option['default']!r}"
                console.print(f"  {'':<16}   {name}: {option['type']} ({default})", style="dim", soft_wrap=True)
            if "docstring" in member:
                types = " ".join(option["type"] for option in member["options"].values())
                for kind in (kind for kind in _TYPES if re.search(rf"\b{kind}\b", types)):
                    console.print(f"  {'':<16}   {kind}: {_TYPES[kind]}", style="dim", soft_wrap=True)
    if not any("docstring" in member for members in families.values() for member in members):
        console.print("selector plugins NAME says all of one: what its options mean, where it is from, what it gave.")


def print_findings(findings: Iterable[Finding]) -> None:
    console = _console()
    for finding in findings:
        console.print(f"{'ok ' if finding.ok else 'BAD'}  {finding.name:<22} {finding.detail}", soft_wrap=True)


class _Console(Console):
    """A console that shows text as it is, and leaves a closed pipe to whoever runs the command."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _console() -> Console:
    console = _Console(highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console.width = 120
    return console


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table on stdout, as wide as it is, so that nothing of it is cut."""
    table = _table(*headers)
    for row in rows:
        table.add_row(*row)
    console = _console()
    console.width = max(console.width, console.measure(table, options=console.options.update_width(1 << 20)).maximum)
    console.print(table)


def _table(*headers: str, right: Sequence[int] = ()) -> Table:
    """A plain table; columns listed in `right` are numbers."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index in right else "left", no_wrap=index > 0)
    return table


def _tree(flow: Sequence[Step], steps: Sequence[Result]) -> Tree:
    """The build: every step once, below the first of the steps that read it and are not read by a nearer one."""
    reads = {step.name: step.reads for step in flow}
    results = {result.name: result for result in steps}
    below: dict[str, set[str]] = {}
    for step in flow:
        below[step.name] = {name for read in step.reads for name in (read, *below[read])}
    shown = set[str]()

    def grow(tree: Tree, name: str) -> Tree:
        nearest = [read for read in reads[name] if not any(read in below[other] for other in reads[name])]
        for read in nearest:
            if read not in shown:
                shown.add(read)
                grow(tree.add(_label(results[read])), read)
        return tree

    last = flow[-1].name
    return grow(Tree(_label(results[last]), guide_style="dim"), last)


def _label(step: Result) -> Text:
    state = "cached" if step.cached else f"{step.seconds:.1f} s"
    rest = f" {step.fingerprint[:12]}  {step.rows_out:,} rows, {_size(step.num_bytes)}, {state}"
    return Text.assemble((step.name, "bold"), rest)


def _shown(text: str) -> str:
    """A text of the corpus or of the policy on one line, with nothing that a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _files(counts: Mapping[str, Mapping[str, int]]) -> Table:
    """The files of the corpus by the ending of their names, and why some are not read."""
    table = _table("files", "read", "not read", "", right=[1, 2])
    for ending, counted in counts.items():
        others = {reason: count for reason, count in counted.items() if reason != "read"}
        reasons = "; ".join(reason if len(others) == 1 else f"{count:,} {reason}" for reason, count in others.items())
        unread = _number(sum(others.values())) if others else ""
        table.add_row(_shown(ending), _number(counted.get("read", 0)), unread, _shown(reasons))
    return table


def _funnel(description: Mapping[str, Any]) -> Table:
    counts = description["counts"]
    table = _table("where the rows went", "rows", right=[1])
    table.add_row("in the corpus", _number(counts["rows"]))
    if counts["duplicate"]:
        table.add_row("  the same text as another document", f"-{_number(counts['duplicate'])}")
    for reason, count in sorted(description["reasons"].items(), key=lambda item: -item[1]):
        table.add_row(f"  {_shown(reason)}", f"-{_number(count)}")
    if unvisited := counts["kept"] - description["documents"]:
        reasons = description["facts"].get("order", {}).get("left", {})
        reason = f": {_shown(next(iter(reasons)))}" if len(reasons) == 1 else ""
        table.add_row(f"  chosen, and not in the order{reason}", f"-{_number(unvisited)}")
    visits = "" if description["visits"] == description["documents"] else f"{_number(description['visits'])} visits, "
    kept = f"in the manifest ({visits}{_number(description['tokens'])} tokens)"
    table.add_row(kept, _number(description["documents"]), style="bold")
    return table


def _mixture(description: Mapping[str, Any], bar_cells: int) -> Table:
    before = {source: tokens for source, (_, tokens) in description["counts"]["sources"].items()}
    after = {source: entry["tokens"] for source, entry in description["sources"].items()}
    table = _table("tokens by source", "corpus", "", "manifest", "", right=[1, 3])
    totals = max(1, sum(before.values())), max(1, sum(after.values()))
    share = {source: max(before[source] / totals[0], after.get(source, 0) / totals[1]) for source in before}
    largest = sorted(before, key=lambda source: (-share[source], source))
    rest = largest[_WIDEST_MIXTURE:]
    rows = [(source, before[source], after.get(source, 0)) for source in largest[:_WIDEST_MIXTURE]]
    if rest:
        rows.append(
            (f"{len(rest)} more", sum(before[source] for source in rest), sum(after.get(source, 0) for source in rest))
        )
    most = max(
        [
            *(tokens / totals[0] for _, tokens, _ in rows),
            *(tokens / totals[1] for _, _, tokens in rows),
            1e-9,
        ]
    )
    for source, old, new in rows:
        shares = old / totals[0], new / totals[1]
        cells = [cell for share in shares for cell in (f"{share:.1%}", _bar(share / most, bar_cells))]
        table.add_row(_shown(source), *cells)
    return table


def _difficulty(means: Sequence[float | None], bar_cells: int) -> Table:
    known = [value for value in means if value is not None]
    low, high = min([0.0, *known]), max([0.0, *known])
    table = _table("through the order", "mean difficulty", "", right=[1])
    for tenth, value in enumerate(means):
        span = f"{tenth * 10:>2}% to {tenth * 10 + 10:>3}%"
        table.add_row(
            span,
            "" if value is None else f"{value:.2f}",
            "" if value is None else _bar((value - low) / ((high - low) or 1), bar_cells),
        )
    return table


_MEANINGS = {
    "tau": "1: low scores first, -1: high ones, 0: as at random",
    "displacement": "visits from the place by score alone",
    "continuity": "step from visit to visit; 1: as at random",
}


def _measures(measures: Mapping[str, Any]) -> Table:
    """How the order goes through its scores and its groups."""
    scores = [name for name in ("difficulty", "quality") if measures[name] is not None]
    columns = scores or [""]
    table = _table("the order, measured", *columns, "", right=range(1, len(columns) + 1))
    table.columns[0].no_wrap = True
    for measure, meaning in _MEANINGS.items() if scores else ():
        table.add_row(measure, *(_measured(measures[name][measure]) for name in scores), meaning)
    greatest = [measures[name]["greatest_difference"] for name in scores]
    if any(greatest):
        width = f"between {measures['window']:,} visits and the next"
        shown = ["" if one is None else f"{one['difference']:+.4g} at {one['position']:,}" for one in greatest]
        table.add_row("greatest jump", *shown, width)
    borders = [measures[name]["borders"] for name in scores]
    for same in list(zip(*borders, strict=True))[:_WIDEST_MIXTURE]:
        jumps = ["" if one["difference"] is None else f"{one['difference']:+.4g}" for one in same]
        table.add_row(f"  into {_shown(same[0]['phase'])}", *jumps, f"at {same[0]['position']:,}")
    for name, diversity in measures["diversity"].items():
        if diversity is not None:
            meaning = f"of the {name}s that {measures['window']:,} visits could have"
            table.add_row(f"{name} diversity", f"{diversity:.1%}", *[""] * (len(columns) - 1), meaning)
    return table


def _measured(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"


def _updates(training: Mapping[str, Any], bar_cells: int) -> Table:
    """How much a visit of each tenth of the order counts in the weights at the end."""
    counts: list[float | None] = training["counts"]
    most = max((count for count in counts if count is not None), default=1.0)
    table = _table("where updates count", "of the average", "", right=[1])
    for tenth, count in enumerate(counts):
        shown = ("", "") if count is None else (f"{count:.2f}", _bar(count / most, bar_cells))
        table.add_row(f"{tenth * 10:>2}% to {tenth * 10 + 10:>3}%", *shown)
    if "best" in training:
        best = training["best"]["counts"]
        table.add_row("best tenth by quality", f"{best:.2f}", _bar(min(best / most, 1.0), bar_cells), style="bold")
    return table


def _evidence(tried: Sequence[Mapping[str, Any]]) -> Table:
    """What each number of clusters that was tried comes to; the one that was taken is bold, and marked."""
    table = _table("clusters tried", "silhouette", "± error", "agreement", "mean distance", "", right=[0, 1, 2, 3, 4])
    for row in tried:
        numbers = [f"{row[name]:.4f}" for name in ("silhouette", "standard_error", "agreement", "mean_distance")]
        is_taken = row["is_chosen"]
        mark = "taken" if is_taken else ""
        table.add_row(_number(row["num_clusters"]), *numbers, mark, style="bold" if is_taken else "")
    return table


def _coverage(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """How many documents have each score, in a sentence; those that all have come first, and many of them as a
    number."""
    whole = [name for name, of in scores.items() if of["scored"] == of["documents"]]
    parts = [
        f"{name} {of['scored']:,} of {of['documents']:,} ({of['scored'] / of['documents']:.1%})"
        for name, of in scores.items()
        if name not in whole
    ]
    if whole:
        few = ", ".join(whole) if len(whole) <= _MOST_NAMES else f"{len(whole)} scores"
        parts.insert(0, f"{few} all {scores[whole[0]]['documents']:,}")
    return f"documents with a score: {'; '.join(parts)}"


def _repeats(facts: Mapping[str, Any]) -> str:
    """How much is seen again, and what all of it is worth."""
    again, total, worth = (
        _number(count) for count in (facts["tokens"] - facts["tokens_once"], facts["tokens"], facts["worth_tokens"])
    )
    return (
        f"repeats: {again} of {total} tokens are seen again, in up to {facts['most_visits']:,} visits of a document; "
        f"all visits are worth {worth} tokens of new text (arXiv 2305.16264)"
    )


def _bar(share: float, cells: int) -> str:
    eighths = round(share * cells * 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def _number(value: int) -> str:
    return f"{value:,}"


def _size(num_bytes: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes = num_bytes / 1000  # pyright: ignore[reportAssignmentType]
    return f"{num_bytes:.1f} TB"
