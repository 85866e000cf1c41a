"""The command that learns a rater from what people or a judge said of some texts."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from selector.cli.app import Json, Verbose, app, check_folder_of, only_our_output, print_json
from selector.storage import path_here

if TYPE_CHECKING:
    from selector.cli.labelled import Labelled
    from selector.models.agreement import Estimate


@app.command("fit-rater")
def fit_rater(
    labelled: Annotated[
        Path, typer.Argument(metavar="FILE", help="Labelled texts, in any format of a corpus.", parser=path_here)
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="The artefact that a policy names: a .parquet or .jsonl file.", parser=path_here),
    ],
    higher_is: Annotated[
        Literal["harder", "better", "rarer", "closer"], typer.Option("--higher-is", help="What a large score means.")
    ],
    text: Annotated[str, typer.Option("--text", help="A column or a template, as in a policy.")] = "text",
    label: Annotated[str | None, typer.Option("--label", help="The column with the label, a number.")] = None,
    pair: Annotated[
        tuple[str, str] | None, typer.Option("--pair", help="For judgements: the two texts that were compared.")
    ] = None,
    better: Annotated[
        str, typer.Option("--better", help="Their better one: a column's name, or the chance that it is the first.")
    ] = "better",
    kind: Annotated[
        Literal["auto", "ridge", "logistic", "ordinal"],
        typer.Option("--kind", help="How labels are learned; by default logistic for 0 and 1, else ridge."),
    ] = "auto",
    uses: Annotated[
        Literal["embedding and counts", "embedding", "counts"], typer.Option("--uses", help="What the rater looks at.")
    ] = "embedding and counts",
    group: Annotated[
        str | None, typer.Option("--group", help="A column: texts that share its value are left out together.")
    ] = None,
    model: Annotated[str, typer.Option("--model", help="As embed.model of the policy.")] = "all-MiniLM-L6-v2",
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=16, help="As embed.max_tokens.")] = 256,
    long_documents: Annotated[
        Literal["mean", "truncate"], typer.Option("--long-documents", help="As embed.long_documents.")
    ] = "mean",
    folds: Annotated[int, typer.Option("--folds", min=2, help="Each is predicted by a model of the others.")] = 5,
    duplicates: Annotated[
        float,
        typer.Option("--duplicates", min=0, max=1, help="Texts with a cosine above this are left out together."),
    ] = 0.9,
    seed: Annotated[int, typer.Option("--seed", help="Which texts share a fold.")] = 0,
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Learn a rater from labels or from judgements of pairs, and say how well it agrees with those it did not see."""
    from selector.cli import labelled as learning
    from selector.errors import UsageError

    if (label is None) == (pair is None):
        raise UsageError("Say what was said of the texts: --label COLUMN, or --pair FIRST SECOND --better COLUMN.")
    if out.suffix not in (".parquet", ".jsonl"):
        raise UsageError(f"--out {out}: write a name that ends in .parquet or .jsonl.")
    check_folder_of(out, "--out")
    with only_our_output():
        if pair is not None:
            read = learning.judgements(labelled, *pair, better, group)
        else:
            assert label is not None
            read = learning.labels(labelled, text, label, group)
        encoder = learning.encoder(model, max_tokens, long_documents)
        fitted = learning.fit(
            read, encoder, kind=kind, uses=uses, higher_is=higher_is, folds=folds, seed=seed, duplicates=duplicates
        )
        learning.write(fitted.learned, out)
    if json:
        print_json(_as_json(fitted, read, out))
        return
    print(f"{out}: {fitted.learned.kind}, of {len(read.texts):,} texts and {len(read.values):,} rows", file=sys.stderr)
    if read.num_left_out:
        lacking = "two texts or a judgement" if pair is not None else "a text or a label"
        print(f"{read.num_left_out:,} rows of {labelled} lack {lacking}, and are left out", file=sys.stderr)
    if read.bad:
        reasons = learning.reasons(read.bad)
        print(f"{len(read.bad):,} rows of {labelled} cannot be read, and are left out ({reasons})", file=sys.stderr)
    for line in _lines(fitted.agreement):
        print(line)


def _as_json(fitted: Any, read: "Labelled", out: Path) -> dict[str, Any]:
    return {
        "artefact": str(out),
        "kind": fitted.learned.kind,
        "texts": len(read.texts),
        "rows": len(read.values),
        "left_out": read.num_left_out,
        "unreadable": len(read.bad),
        "penalty": fitted.penalty,
        "calibration_error": fitted.calibration_error,
        "agreement": {
            figure: {name: asdict(estimate) for name, estimate in of_figure.items()}
            for figure, of_figure in fitted.agreement.items()
        },
    }


def _lines(agreement: dict[str, dict[str, "Estimate"]]) -> list[str]:
    lines: list[str] = []
    for figure, estimates in agreement.items():
        width = max(map(len, estimates))
        lines.append(figure)
        for name, estimate in estimates.items():
            line = f"  {name:<{width}}  {estimate.value:+.3f}  [{estimate.low:+.3f}, {estimate.high:+.3f}]"
            if estimate.group_low is not None:
                line += f"  over groups [{estimate.group_low:+.3f}, {estimate.group_high:+.3f}]"
            lines.append(line)
    return lines
