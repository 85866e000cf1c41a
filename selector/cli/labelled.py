"""What somebody said of texts, read from a file, learned, and compared with the plain measures of a text.

A figure is of rows that the model had not seen, and of texts that are no near-duplicates of any that it had seen. It
comes with the word count, the characters and the Flesch-Kincaid grade of the same texts: a rater that is not above them
adds nothing.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selector import plugins, tables
from selector.corpus import fields, files, formats, render, tokens
from selector.errors import CorpusError, PolicyError, UsageError, did_you_mean
from selector.exact import Floats, Ints
from selector.models import agreement
from selector.models.agreement import Estimate
from selector.models.encoder import Encoder
from selector.models.linear import Kind
from selector.rate import HigherIs, Rater
from selector.rate._counts import KnownWords, counts
from selector.rate._learned import Learned, Uses, features_of
from selector.rate._learning import Examples, learn

_MOST_BYTES = 1 << 24  # of a row
_LARGEST = float(np.finfo(np.float32).max)  # of a label
_ALIKE_IN_LENGTH = 0.1  # the words of two texts differ by so much of the longer one, at most


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Texts, and what was said: labels of each, or judgements of two."""

    texts: Sequence[str]
    rows: Ints  # (rows, 1) or (rows, 2): places of texts
    values: Floats
    group: Ints | None  # of each text
    num_left_out: int = 0  # rows of the file without a text, or without what was said
    bad: Sequence[formats.Bad] = ()  # rows of the file that cannot be read


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The artefact, and its agreement with what it was not fitted on: by figure, then by score."""

    learned: Learned
    penalty: float
    calibration_error: float
    agreement: dict[str, dict[str, Estimate]]


def labels(path: Path, text: str, label: str, group: str | None) -> Labelled:
    """The texts of a file with their labels; rows without a label are left out."""
    of_each: list[tuple[str, float, Any]] = []
    read = _rows(path, (*render.file_columns(text), *_columns(label, group)))
    for row in read.rows:
        value = _number(_value(row, label), path, label)
        if value is None:
            continue
        try:
            of_each.append((render.render(row, text), value, _group(row, group)))
        except render.NoText:
            continue
    if not of_each:
        raise CorpusError(f"{path}: no row has both a text ({text!r}) and a label ({label!r}){_and_bad(read.bad)}.")
    texts, values, names = zip(*of_each, strict=True)
    return Labelled(
        texts=texts, rows=np.arange(len(texts))[:, None], values=np.array(values, np.float64),
        group=None if group is None else _numbered(names), num_left_out=len(read.rows) - len(texts),
        bad=read.bad,
    )  # fmt: skip


def judgements(path: Path, first: str, second: str, better: str, group: str | None) -> Labelled:
    """The pairs of a file and which of them is better; undecided pairs are kept, as one half."""
    places: dict[str, int] = {}
    group_of: dict[int, Any] = {}
    rows: list[tuple[int, int]] = []
    chances: list[float] = []
    read = _rows(path, _columns(first, second, better, group))
    for row in read.rows:
        chance = _chance(_value(row, better), path, first, second, better)
        pair = [_value(row, column) for column in (first, second)]
        if chance is None or not all(isinstance(text, str) and text.strip() for text in pair):
            continue
        rows.append((places.setdefault(pair[0], len(places)), places.setdefault(pair[1], len(places))))
        chances.append(chance)
        for place in rows[-1]:
            group_of.setdefault(place, _group(row, group))
    if not rows:
        raise CorpusError(
            f"{path}: no row has two texts ({first!r}, {second!r}) and a judgement ({better!r}){_and_bad(read.bad)}."
        )
    grouped = None if group is None else _numbered([group_of[place] for place in range(len(places))])
    return Labelled(
        texts=list(places), rows=np.array(rows), values=np.array(chances), group=grouped,
        num_left_out=len(read.rows) - len(rows), bad=read.bad,
    )  # fmt: skip


def encoder(model: str, max_tokens: int, long_documents: Literal["mean", "truncate"]) -> Encoder:
    """The encoder of a policy with these options, on this machine's CPUs."""
    return Encoder.of(model, device="cpu", max_tokens=max_tokens, long_documents=long_documents)


def fit(
    examples: Labelled,
    encoder: Encoder,
    *,
    kind: Literal["auto", "ridge", "logistic", "ordinal"],
    uses: Uses,
    higher_is: HigherIs,
    folds: int,
    seed: int,
    duplicates: float = 0.9,
    vectors: "np.ndarray[Any, np.dtype[np.float16]] | None" = None,
) -> Fit:
    """The rater that is learned, and how well it agrees; `vectors` are the texts' own, where they are known."""
    chosen = _kind(examples, kind)
    known = KnownWords.of_tokenizer(tokens.find_tokenizer(None, Path(encoder.folder)).read_text("utf-8"))
    if vectors is None:
        vectors = encoder.encode(examples.texts).astype(np.float16)
    features = features_of(uses, vectors.astype(np.float64), counts(examples.texts, known))
    given = np.arange(len(examples.texts)) if examples.group is None else examples.group
    group = agreement.groups(vectors, given, duplicates)
    num_groups = int(group.max()) + 1
    if num_groups < 2:
        raise UsageError(
            f"All texts are of one group, or have a cosine above {duplicates:g} with each other: none can be left out."
            " Raise --duplicates."
        )
    fold = agreement.folds(group, min(folds, num_groups), seed)
    outcome = learn(chosen, Examples(features=features, rows=examples.rows, labels=examples.values), fold)
    learned = Learned(
        kind=chosen, uses=uses, higher_is=higher_is, lows=outcome.standard.lows, highs=outcome.standard.highs,
        means=outcome.standard.means, scales=outcome.standard.scales, model=outcome.model, levels=outcome.levels,
        slope=outcome.slope, offset=outcome.offset,
        known=known if "counts" in uses else KnownWords(words=()), encoder=encoder.identity(),
    )  # fmt: skip
    predicted = ~np.isnan(outcome.predicted)
    plain = _plain_measures(examples.texts)
    of_rows = None if examples.group is None else examples.group[examples.rows[:, 0]]
    return Fit(
        learned=learned,
        penalty=outcome.penalty,
        calibration_error=agreement.calibration_error(outcome.predicted[predicted], examples.values[predicted]),
        agreement=_agreement(examples, outcome.gaps, predicted, plain, of_rows),
    )


def write(learned: Learned, out: Path) -> None:
    """The artefact, whole or absent, as Parquet or as JSON lines."""
    table, beside = learned.table(), out.with_name(f".{out.name}.new")
    if out.suffix == ".parquet":
        pq.write_table(table, beside, compression="zstd")
    else:
        beside.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), "utf-8")
    beside.replace(out)


def _agreement(
    examples: Labelled, predicted: Floats, known: "np.ndarray[Any, np.dtype[np.bool_]]", plain: Mapping[str, Floats],
    group: Ints | None,
) -> dict[str, dict[str, Estimate]]:  # fmt: skip
    """Figures over rows that were predicted."""
    grouped = None if group is None else _numbered(group[known].tolist())
    if examples.rows.shape[1] == 1:
        places = examples.rows[known, 0]
        scores = {"fitted": predicted[known], **{name: values[places] for name, values in plain.items()}}
        return {"Spearman": agreement.rank_correlations(scores, examples.values[known], grouped)}
    first, second = examples.rows[known].T
    gaps = {"fitted": predicted[known], **{name: values[first] - values[second] for name, values in plain.items()}}
    decided = examples.values[known]
    figures = {"right": agreement.accuracies(gaps, decided, grouped)}
    words = plain["words"]
    most = np.maximum(words[first], words[second])
    alike = np.abs(words[first] - words[second]) <= _ALIKE_IN_LENGTH * most
    if alike.any():
        some = {name: gap[alike] for name, gap in gaps.items()}
        of_some = None if grouped is None else _numbered(grouped[alike].tolist())
        figures[f"right, of {int(alike.sum()):,} pairs within 10 % in words"] = agreement.accuracies(
            some, decided[alike], of_some
        )
    return figures


def _plain_measures(texts: Sequence[str]) -> dict[str, Floats]:
    """Words, characters and the Flesch-Kincaid grade: what a rater has to be above."""
    ids = pa.array([place.to_bytes(16) for place in range(len(texts))], tables.DOC_ID)
    batch = pa.record_batch({"doc_id": ids, "text": pa.array(texts, pa.string())})
    wanted = {"words": ("length", {"unit": "words"}), "characters": ("length", {"unit": "characters"})}
    wanted["Flesch-Kincaid"] = ("readability", {})
    measures: dict[str, Floats] = {}
    for name, (rater, options) in wanted.items():
        plain = plugins.make("raters", rater, options, "fit-rater", Rater)
        column = plain.rate(batch.select(["doc_id", *plain.needs])).column(0)
        measures[name] = np.nan_to_num(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
    return measures


def _kind(examples: Labelled, kind: Literal["auto", "ridge", "logistic", "ordinal"]) -> Kind:
    if examples.rows.shape[1] == 2:
        if kind != "auto":
            raise UsageError(f"--kind {kind} is for labels. Judgements of pairs are learned in one way only.")
        return "preference"
    if kind == "auto":
        return "logistic" if np.isin(examples.values, (0, 1)).all() else "ridge"
    return kind


def reasons(bad: Sequence[formats.Bad]) -> str:
    """Why rows cannot be read: how many for each reason, and what the first of them holds instead."""
    counted = Counter(one.reason for one in bad)
    # a key of policies, which nobody wrote here
    first = {one.reason: re.sub(r"corpus\.max_document_bytes is", "at most", one.detail) for one in reversed(bad)}
    return "; ".join(f"{number:,} {reason}, such as: {first[reason]}" for reason, number in sorted(counted.items()))


def _and_bad(bad: Sequence[formats.Bad]) -> str:
    return f", and {len(bad):,} cannot be read ({reasons(bad)})" if bad else ""


def _rows(path: Path, columns: Sequence[str]) -> formats.Beginning:
    """All rows of a file. Raises CorpusError where none can be read, and PolicyError for a column that none has."""
    try:
        of_path = files.expand([str(path)]).files
    except CorpusError as error:
        raise CorpusError(f"FILE: {str(error).removeprefix('corpus.paths: ')}") from error
    if len(of_path) != 1:
        raise CorpusError(f"FILE: {str(path)!r} leads to {len(of_path):,} files. Give one of them.")
    file = of_path[0]
    form = formats.find(file.format, file.uri)
    try:
        num_rows = sum(extent.num_rows for extent in form.cut(file.uri, None))
        beginning = form.peek(file.uri, columns, _MOST_BYTES, num_rows)
    except (formats.Corrupt, formats.NoRows) as error:
        raise CorpusError(f"{path} cannot be read: {error}.") from error
    if not beginning.rows and beginning.bad:
        raise CorpusError(
            f"{path}: no row can be read ({reasons(beginning.bad)}). Write rows that can, e.g. as JSON lines."
        )
    for column in columns:
        if column in render.TOOLS:
            continue
        if all(fields.find(row, column) is fields.ABSENT for row in beginning.rows):
            known = sorted({name for row in beginning.rows[:100] for name in row})
            raise PolicyError(f"{path} has no column {column!r}. {did_you_mean(column, known)}")
    return beginning


def _value(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column in a row, None where the row has none."""
    value = fields.find(row, column)
    return None if value is fields.ABSENT else value


def _columns(*names: str | None) -> tuple[str, ...]:
    return tuple(name for name in names if name is not None)


def _group(row: Mapping[str, Any], group: str | None) -> Any:
    return None if group is None else str(_value(row, group))


def _numbered(names: Sequence[Any]) -> Ints:
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)


def _number(value: Any, path: Path, column: str) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise CorpusError(f"{path}: the label {value!r} in {column!r} is no number. Write numbers.") from error
    if math.isnan(number):
        return None
    if abs(number) > _LARGEST:
        raise CorpusError(f"{path}: the label {value!r} in {column!r} is beyond {_LARGEST:.1e}. Write smaller numbers.")
    return number


def _chance(value: Any, path: Path, first: str, second: str, better: str) -> float | None:
    """The probability that the first text is better."""
    if value is None:
        return None
    if value in (first, second):
        return float(value == first)
    number = _number(value, path, better) if not isinstance(value, str) or _is_number(value) else None
    if number is None or not 0 <= number <= 1:
        raise CorpusError(
            f"{path}: the judgement {value!r} in {better!r} names neither {first!r} nor {second!r}, and is no chance"
            " from 0 to 1 that the first is better. Write one of these."
        )
    return number


def _is_number(text: str) -> bool:
    parse: Callable[[str], float] = float
    try:
        parse(text)
    except ValueError:
        return False
    return True
