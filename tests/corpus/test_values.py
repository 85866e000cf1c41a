"""A column of the corpus has one type, found over all rows, or is a mixture that is told with two places in it."""

import datetime
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import MemoryStorage, text_of, write_jsonl
from runs import policy_of, run
from selector.corpus import values
from selector.engine.local import LocalExecutor
from selector.engine.runner import Runner
from selector.engine.step import Done
from selector.engine.store import Store
from selector.errors import CorpusError, PolicyError
from selector.policy import Policy
from selector.policy.resolve import resolve
from selector.steps import columns
from selector.steps.plan import Plan


def json_file(path: Path, held: Sequence[Any]) -> Path:
    """A file of JSON whose rows have these values as `x`; of one that is `...` there is none."""
    rows = [{"text": text_of(n, 8)} | ({} if value is ... else {"x": value}) for n, value in enumerate(held)]
    return write_jsonl(path, rows)


def parquet_file(path: Path, held: Any, name: str = "x") -> Path:
    """A file of Parquet with this column, and texts of its own."""
    texts = [f"{path.stem} {text_of(n, 8)}" for n in range(len(held))]
    pq.write_table(pa.table({"text": texts, name: held}), path)
    return path


def done_with(paths: Sequence[Path], rows_per_part: int | None = None, name: str = "x") -> Done:
    """The steps that read the corpus, done."""
    corpus = {"paths": [str(path) for path in paths], "rows_per_part": rows_per_part}
    select = {"budget": {"fraction": 1.0}, "using": "random"}
    plan = Plan.of(resolve(Policy.of({"corpus": corpus, "select": select, "rate": ["length"]})), "cpu")
    step = columns.Columns(survey=plan.survey, names=(name,), max_document_bytes=1 << 20)
    with Runner(Store(MemoryStorage()), LocalExecutor(workers=1)) as runner:
        return runner.run([plan.survey, plan.ingest, step])


def column_of(done: Done, name: str = "x") -> pa.ChunkedArray:
    """The whole column in its type."""
    kind = columns.types(done)[name]
    parts = [values.as_type(done.store.table(seal, values.table_of(name)), kind) for seal in done["columns"].parts]
    return pa.chunked_array(parts, kind)


def disagreement(done: Done) -> str | None:
    (row,) = done.table("columns", "types").to_pylist()
    return row["disagree"]


NANOSECONDS = pa.array([1_700_000_000_000_001_001, None], pa.timestamp("ns"))


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ([1, None, 2.5], pa.array([1, None, 2.5], pa.float64())),
        ([2**53 - 1, 0.5], pa.array([2**53 - 1, 0.5], pa.float64())),
        ([2**53 + 1, -5], pa.array([2**53 + 1, -5], pa.int64())),
        ([2**64 - 1, 0], pa.array([2**64 - 1, 0], pa.uint64())),
        ([2**64 - 1, -1], pa.array([2**64 - 1, -1], pa.decimal128(38, 0))),
        ([True, None, False], pa.array([True, None, False])),
        (["a", None, ""], pa.array(["a", None, ""])),
        ([["é"], {"a": 1}], pa.array(['["é"]', '{"a": 1}'])),
        ([["\ud800"]], pa.array(['["\\ud800"]'])),
        ([None, ...], pa.nulls(2)),
        ([..., ..., 7], pa.array([None, None, 7])),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rows_per_part", [1, None])
def test_a_column_of_json_has_the_type_that_all_its_rows_tell(
    rows_per_part: int | None, held: list[Any], expected: pa.Array, tmp_path: Path
) -> None:
    done = done_with([json_file(tmp_path / "a.jsonl", held)], rows_per_part)
    assert column_of(done).combine_chunks().equals(expected) and disagreement(done) is None


@pytest.mark.parametrize(
    "held",
    [
        NANOSECONDS,
        pa.array([1_700_000_000_000_001_001, None], pa.timestamp("ns", "Europe/Paris")),
        pa.array([10**17, -(10**17)], pa.timestamp("ms")),
        *(pa.array([-(2**63), 2**63 - 1], pa.timestamp(unit)) for unit in ("ms", "us", "ns")),
        pa.array([-(2**63), 1], pa.timestamp("us", "UTC")),
        pa.array([-(2**63), 2**63 - 1], pa.duration("s")),
        pa.array([4_000_000, -4_000_000], pa.date32()),
        pa.array([2**64 - 1, None], pa.uint64()),
        pa.array([1.5, None], pa.float32()),
        pa.array([Decimal("1.10"), None], pa.decimal128(20, 2)),
        pa.array([1, None], pa.time64("ns")),
        pa.array([b"\xff", None]),
        pa.array([True, None]),
    ],
    ids=lambda held: str(held.type),
)
def test_a_column_of_parquet_keeps_the_type_that_it_has(held: pa.Array, tmp_path: Path) -> None:
    found = column_of(done_with([parquet_file(tmp_path / "a.parquet", held)], 1))
    assert found.combine_chunks().equals(held)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (pa.array([1], pa.int8()), pa.array([2**63], pa.uint64()), pa.array([1, 2**63], pa.uint64())),
        (pa.array([-1], pa.int8()), pa.array([2**63], pa.uint64()), pa.array([-1, 2**63], pa.decimal128(38, 0))),
        (pa.array([1.5], pa.float32()), pa.array([0.1]), pa.array([1.5, 0.1])),
        (pa.array([1], pa.int32()), pa.array([0.5], pa.float32()), pa.array([1, 0.5])),
        (pa.array(["a"]).dictionary_encode(), pa.array(["b"], pa.large_string()), pa.array(["a", "b"])),
        (pa.array([1], pa.timestamp("us")), pa.array([1], pa.timestamp("ns")), pa.array([1000, 1], pa.timestamp("ns"))),
        (pa.array([Decimal("1.5")]), pa.array([Decimal("10.25")]), pa.array([Decimal("1.5"), Decimal("10.25")])),
        (pa.nulls(1), pa.array([3], pa.int16()), pa.array([None, 3], pa.int64())),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("is_turned", [False, True])
def test_files_whose_types_are_alike_make_one_column(
    is_turned: bool, first: pa.Array, second: pa.Array, expected: pa.Array, tmp_path: Path
) -> None:
    held = [second, first] if is_turned else [first, second]
    paths = [parquet_file(tmp_path / f"{n}.parquet", array) for n, array in enumerate(held)]
    found = column_of(done_with(paths)).combine_chunks()
    wanted = expected.take(pa.array([1, 0])) if is_turned else expected
    assert found.equals(wanted)


@pytest.mark.parametrize(
    ("held", "one", "other"),
    [
        (["5", 5], "text in row 0", "an integer in row 1"),
        ([None, 5, "5"], "an integer in row 1", "text in row 2"),
        ([True, 1], "true or false in row 0", "an integer in row 1"),
        ([0.5, 2**53], "an integer of 2^53 or more in row 1", "a number in row 0"),
        ([[1], "a"], "an object or a list in row 0", "text in row 1"),
    ],
)
@pytest.mark.parametrize("rows_per_part", [1, None])
def test_a_mixture_names_the_first_two_places_that_disagree_and_is_kept_as_text(
    rows_per_part: int | None, held: list[Any], one: str, other: str, tmp_path: Path
) -> None:
    path = json_file(tmp_path / "a.jsonl", held)
    done = done_with([path], rows_per_part)
    assert disagreement(done) == f"{one} of {path} and {other} of {path}"
    spelt = [value if isinstance(value, str | None) else json.dumps(value) for value in held]
    assert column_of(done).to_pylist() == spelt


def test_files_of_two_types_disagree_too(tmp_path: Path) -> None:
    pairs = [
        (pa.array(["1"]), pa.array([1])),
        (pa.array([datetime.date(2024, 1, 1)]), pa.array([datetime.datetime(2024, 1, 1)])),
        (pa.array([1], pa.timestamp("us")), pa.array([1], pa.timestamp("us", "UTC"))),
        (pa.array([Decimal("1.5")]), pa.array([1])),
        (pa.array([10**17], pa.timestamp("ms")), pa.array([1], pa.timestamp("ns"))),
    ]
    for number, held in enumerate(pairs):
        paths = [parquet_file(tmp_path / f"{number} {n}.parquet", array) for n, array in enumerate(held)]
        told = disagreement(done_with(paths))
        assert told is not None and all(f"row 0 of {path}" in told for path in paths), held


def test_a_value_that_no_type_holds_costs_its_document_and_nothing_else(tmp_path: Path) -> None:
    done = done_with([json_file(tmp_path / "a.jsonl", [1, 10**400, 10**37, None, -(10**38)])])
    (seal,) = done["columns"].parts
    lost = done.store.table(seal, "quarantine").to_pylist()
    assert [(row["place"], row["reason"], row["detail"]) for row in lost] == [
        (1, "no_type", "the column 'x' holds an integer of 401 digits"),
        (4, "no_type", "the column 'x' holds an integer of 39 digits"),
    ]
    assert column_of(done).to_pylist() == [1, None, 10**37, None, None]
    for written, detail in ((f"-{'7' * 5000}", "an integer of 5000 digits"), ("1e400", "a number beyond any float")):
        (tmp_path / "b.jsonl").write_text(f'{{"text": "a", "x": {written}}}\n')
        done = done_with([tmp_path / "b.jsonl"])
        (lost,) = done.store.table(done["columns"].parts[0], "quarantine").to_pylist()
        assert lost["detail"] == f"the column 'x' holds {detail}"


MOMENT = 1_700_000_000_000_001_001
ODD: dict[str, tuple[pa.Array, list[Any]]] = {  # values that Python may not hold, and what is kept of them
    "an interval": (pa.array([pa.MonthDayNano([1, 2, 3]), None]), ["[1, 2, 3]", None]),
    "moments in a list": (pa.array([[MOMENT]], pa.list_(pa.timestamp("ns"))), ['["2023-11-14 22:13:20.000001001"]']),
    "durations in a list": (pa.array([[1001]], pa.list_(pa.duration("ns"))), ["[1001]"]),
    "a map": (
        pa.array([[("a", MOMENT)]], pa.map_(pa.string(), pa.timestamp("ns"))),
        ['[["a", "2023-11-14 22:13:20.000001001"]]'],
    ),
    "a view": (pa.array(["a", None], pa.string_view()), ["a", None]),
    "a wide decimal": (pa.array([Decimal("1.5"), Decimal(10**60)], pa.decimal256(70, 2)), [Decimal("1.50"), None]),
    "runs": (
        pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array([1.5, float("nan")])),
        [1.5, 1.5, None],
    ),
    "codes of numbers": (pa.array([5, 6, None]).dictionary_encode(), [5, 6, None]),
    "json": (pa.array(['{"a": 1}']).cast(pa.json_()), ['{"a": 1}']),
    "a struct of nothing": (pa.array([{}], pa.struct([])), ["{}"]),
    "bytes": (pa.array([b"\xff"], pa.binary_view()), [b"\xff"]),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_column_of_an_odd_type_is_kept_as_what_it_comes_to(kind: str, tmp_path: Path) -> None:
    held, expected = ODD[kind]
    table = pa.table({"text": [text_of(n, 8) for n in range(len(held))], "x": held})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    assert column_of(done_with([tmp_path / "a.arrow"])).to_pylist() == expected


def test_a_date_in_milliseconds_is_its_day_or_is_lost_where_there_is_no_such_day(tmp_path: Path) -> None:
    held = pa.array([86_400_000, -86_400_000, 86_400_000 * 10**10, None, -86_400_000 * 10**10], pa.int64()).view(
        pa.date64()
    )
    table = pa.table({"text": [text_of(n, 8) for n in range(len(held))], "x": held})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    done = done_with([tmp_path / "a.arrow"])
    assert column_of(done).cast(pa.int32()).to_pylist() == [1, -1, None, None, None]
    (seal,) = done["columns"].parts
    lost = done.store.table(seal, "quarantine").to_pylist()
    assert [(row["place"], row["reason"]) for row in lost] == [(2, "no_type"), (4, "no_type")]


def test_nan_is_null(tmp_path: Path) -> None:
    for kind in (pa.float16(), pa.float32(), pa.float64()):
        held = pa.array([1.5, float("nan"), None, float("inf")], pa.float32()).cast(kind)
        assert column_of(done_with([parquet_file(tmp_path / "a.parquet", held)])).to_pylist() == [
            1.5, None, None, float("inf")
        ]  # fmt: skip


def test_a_nested_column_is_read_from_every_kind_of_file(tmp_path: Path) -> None:
    held = [{"k": 1, "a.b": "x", "deep": {"d": [1]}}, None, {"k": None}, {}]
    paths = [json_file(tmp_path / "a.jsonl", held)]
    kind = pa.struct({"k": pa.int64(), "a.b": pa.string(), "deep": pa.struct({"d": pa.list_(pa.int64())})})
    paths.append(parquet_file(tmp_path / "b.parquet", pa.array(held, kind)))
    paths.append(parquet_file(tmp_path / "c.parquet", pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64()))))
    for name, expected, last in (("x.k", [1, None, None, None], 1), ('x."a.b"', ["x", *[None] * 3], None)):
        assert column_of(done_with(paths, name=name), name).to_pylist() == [*expected * 2, last]
    assert column_of(done_with(paths, name="x.deep.d"), "x.deep.d").to_pylist()[:1] == ["[1]"]


def csv_file(path: Path, cells: Sequence[str]) -> Path:
    """A file of CSV whose rows have these cells in the column `x`."""
    lines = ["text,x", *(f"{path.stem} {text_of(n, 8)},{cell}" for n, cell in enumerate(cells))]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["5", "-7", "", "0"], pa.array([5, -7, None, 0])),
        (["5", "2.5", "1e3", "nan"], pa.array([5, 2.5, 1000, None], pa.float64())),
        ([".5", "-0", "inf"], pa.array([0.5, -0.0, float("inf")], pa.float64())),
        (["true", "FALSE", ""], pa.array([True, False, None])),
        (["5", "five"], pa.array(["5", "five"])),
        (["007", "12"], pa.array(["007", "12"])),
        (["true", "1"], pa.array(["true", "1"])),
        (["9007199254740993", "5"], pa.array([2**53 + 1, 5])),
        (["1" * 30, "5"], pa.array([int("1" * 30), 5], pa.decimal128(38, 0))),
        (["1" * 39, "2" * 40], pa.array(["1" * 39, "2" * 40])),
        (["1" * 39, "5", "five"], pa.array(["1" * 39, "5", "five"])),
        (["e5", "5"], pa.array(["e5", "5"])),
        (["2024-07-01", "x"], pa.array(["2024-07-01", "x"])),
        (["", ""], pa.nulls(2)),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("rows_per_part", [1, None])
def test_a_column_of_csv_has_the_narrowest_type_that_all_its_cells_spell(
    rows_per_part: int | None, cells: list[str], expected: pa.Array, tmp_path: Path
) -> None:
    done = done_with([csv_file(tmp_path / "a.csv", cells)], rows_per_part)
    assert column_of(done).combine_chunks().equals(expected) and disagreement(done) is None


@pytest.mark.parametrize(
    ("cells", "one", "other"),
    [
        (["0.5", "9007199254740993"], "an integer of 2^53 or more in row 1", "a number in row 0"),
        (["5", "1" * 39], "an integer in row 0", "an integer of more than 38 digits in row 1"),
        (["1" * 39, "0.5"], "an integer of more than 38 digits in row 0", "a number in row 1"),
    ],
)
@pytest.mark.parametrize("rows_per_part", [1, None])
def test_numbers_of_csv_that_no_one_type_holds_are_a_mixture(
    rows_per_part: int | None, cells: list[str], one: str, other: str, tmp_path: Path
) -> None:
    path = csv_file(tmp_path / "a.csv", cells)
    done = done_with([path], rows_per_part)
    assert disagreement(done) == f"{one} of {path} and {other} of {path}"
    assert column_of(done).to_pylist() == cells


def test_a_file_of_many_parts_of_csv_is_of_one_type() -> None:
    """What the parts say is looked at once."""
    one = values.FirstOfKind(part=0, kind="spelt integer", type=pa.string(), place=0, low=1, high=2, large=None)
    assert values.type_of([one] * 200_000).type == pa.int64()


def test_csv_joins_files_of_types_where_its_cells_spell_them(tmp_path: Path) -> None:
    typed = {
        "integers": parquet_file(tmp_path / "i.parquet", pa.array([2**62])),
        "texts": json_file(tmp_path / "t.jsonl", ["a"]),
        "numbers": json_file(tmp_path / "n.jsonl", [0.5]),
    }
    for cells, other, expected in (
        (["5"], "integers", [5, 2**62]), (["5"], "texts", ["5", "a"]), (["5", "0.25"], "numbers", [5.0, 0.25, 0.5])
    ):  # fmt: skip
        done = done_with([csv_file(tmp_path / "a.csv", cells), typed[other]])
        assert column_of(done).to_pylist() == expected and disagreement(done) is None
    told = disagreement(done_with([csv_file(tmp_path / "a.csv", ["word"]), typed["integers"]]))
    assert told == f"text in row 0 of {tmp_path / 'a.csv'} and an integer in row 0 of {typed['integers']}"


@pytest.mark.parametrize(
    "held", [NANOSECONDS, pa.array([4_000_000, None], pa.date32()), pa.array([2**64 - 1, 1], pa.uint64())]
)
def test_a_column_of_an_arrow_file_keeps_its_type_too(held: pa.Array, tmp_path: Path) -> None:
    table = pa.table({"text": [text_of(n, 8) for n in range(2)], "x": held})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    assert column_of(done_with([tmp_path / "a.arrow"], 1)).combine_chunks().equals(held)


# ---------------------------------------------------------------- whole runs


def rule_of(where: str, **select: Any) -> dict[str, Any]:
    return {"budget": {"fraction": 1.0}, "using": "random", "where": where, **select}


def kept(
    where: str, paths: Sequence[Path], model: Path, root: Path, rows_per_part: int | None = None
) -> list[tuple[int, int]]:
    """What a whole run keeps, as (file, row)."""
    policy = policy_of(
        paths[0], model, corpus={"paths": [str(path) for path in paths], "rows_per_part": rows_per_part},
        rate=["length"], select=rule_of(where), order={"using": "shuffled"}, manifest={},
    )  # fmt: skip
    manifest = run(policy, root).manifest
    rows = manifest.rows(0, len(manifest))
    return sorted(zip(rows["file"].to_pylist(), rows["row"].to_pylist(), strict=True))


@pytest.mark.slow
def test_a_mixture_is_refused_before_dedup_unless_the_rule_casts_it(tiny_model: Path, tmp_path: Path) -> None:
    path = json_file(tmp_path / "a.jsonl", ["5" if n < 30 else 5 for n in range(60)])
    for rows_per_part in (30, None):
        root = tmp_path / f"root {rows_per_part}"
        with pytest.raises(CorpusError, match=r"^select\.where: the column 'x' of the corpus has no one type: text in"):
            kept("x = '5'", [path], tiny_model, root, rows_per_part)
        assert not list(root.glob("artifacts/dedup*")), "nothing was done for it"
        assert len(kept("CAST(x AS VARCHAR) = '5'", [path], tiny_model, root, rows_per_part)) == 60


@pytest.mark.slow
def test_a_column_may_come_late_or_in_one_file_only(tiny_model: Path, tmp_path: Path) -> None:
    late = json_file(tmp_path / "a.jsonl", [*[...] * 120, *[9] * 5])
    assert len(kept("x >= 5", [late], tiny_model, tmp_path / "root")) == 5
    with pytest.raises(
        CorpusError, match=r"no document of the corpus has a column 'y'\. There is: cluster, .*, text, x\."
    ):
        kept("y >= 5", [late], tiny_model, tmp_path / "root")
    paths = [
        parquet_file(tmp_path / "b.parquet", pa.array([1, 7])), parquet_file(tmp_path / "c.parquet", pa.array([3]), "z")
    ]  # fmt: skip
    assert kept("x >= 5", paths, tiny_model, tmp_path / "root") == [(0, 1)]
    assert kept("x IS NULL", paths, tiny_model, tmp_path / "root") == [(1, 0)]
    with pytest.raises(CorpusError, match=r"none of the 2 files of the corpus has a column 'xx'\. There is: .*'x'\?$"):
        kept("xx > 3", paths, tiny_model, tmp_path / "root")


def test_a_rule_that_does_not_fit_types_that_are_known_late_is_refused_then(tiny_model: Path, tmp_path: Path) -> None:
    late = json_file(tmp_path / "a.jsonl", [*[...] * 120, *["word"] * 5])
    with pytest.raises(PolicyError, match=r"does not fit the columns x \(text\): it compares text"):
        kept("x >= 5", [late], tiny_model, tmp_path / "root")


@pytest.mark.slow
def test_an_unholdable_value_is_quarantined_by_name_in_a_run(tiny_model: Path, tmp_path: Path) -> None:
    path = json_file(tmp_path / "a.jsonl", [*range(20), 10**400])
    policy = policy_of(
        path, tiny_model, select=rule_of("x >= 5"), rate=["length"], order={"using": "shuffled"}, manifest={}
    )
    outcome = run(policy, tmp_path / "root")
    assert len(outcome.manifest) == 15 and outcome.num_quarantined == 1
    (lost,) = [json.loads(line) for line in Path(outcome.uri, "quarantine.jsonl").read_text("utf-8").splitlines()]
    assert (lost["step"], lost["reason"], lost["row"]) == ("columns", "no_type", 20)


def test_columns_that_are_named_in_time_are_read_in_the_pass_that_ingest_makes(tmp_path: Path) -> None:
    """The same is stored, whether ingest set it aside or the corpus was read again."""
    paths = [json_file(tmp_path / "a.jsonl", [1, ..., "a", [2]])]
    paths.append(parquet_file(tmp_path / "b.parquet", NANOSECONDS))
    told: list[list[dict[str, str]]] = []
    for where in ("CAST(x AS VARCHAR) = 'a'", None):
        select = {"budget": {"fraction": 1.0}, "where": where, "using": "random"}
        policy = {"corpus": {"paths": [str(path) for path in paths]}, "select": select, "rate": ["length"]}
        plan = Plan.of(resolve(Policy.of(policy)), "cpu")
        step = columns.Columns(survey=plan.survey, names=("x",), max_document_bytes=1 << 20)
        with Runner(Store(MemoryStorage()), LocalExecutor(workers=1)) as runner:
            done = runner.run([plan.survey, plan.ingest, step])
        assert all((values.table_of("x") in seal.tables) == (where is not None) for seal in done["ingest"].parts)
        told.append([{name: table.sha256 for name, table in seal.tables.items()} for seal in done["columns"].parts])
    assert told[0] == told[1]


@pytest.mark.slow
def test_a_mixture_that_only_a_rater_names_is_refused_before_dedup(tiny_model: Path, tmp_path: Path) -> None:
    path = json_file(tmp_path / "a.jsonl", [2**53 + n if n % 2 else n + 0.5 for n in range(9)])
    rater = {"column": {"column": "x", "higher_is": "better"}}
    policy = policy_of(
        path, tiny_model, rate=[rater], select=rule_of("CAST(x AS VARCHAR) <> ''"), order={"using": "shuffled"},
        manifest={},
    )  # fmt: skip
    with pytest.raises(
        CorpusError, match=r"^rate\.x: the column 'x' of the corpus has no one type: .* Write it in one"
    ):
        run(policy, tmp_path / "root")
    assert not list((tmp_path / "root").glob("artifacts/dedup*")), "nothing was done for it"


@pytest.mark.slow
def test_a_type_that_no_score_holds_is_refused_before_dedup(tiny_model: Path, tmp_path: Path) -> None:
    wide = {"uint64": pa.array([2**63 + n for n in range(5)], pa.uint64())}
    wide["decimal128\\(19, 1\\)"] = pa.array([Decimal(n) for n in range(5)], pa.decimal128(19, 1))
    for number, (kind, held) in enumerate(wide.items()):
        path = parquet_file(tmp_path / f"{number}.parquet", held)
        rater = {"column": {"column": "x", "higher_is": "better"}}
        policy = policy_of(
            path, tiny_model, rate=[rater], select=rule_of("x > 0"), order={"using": "shuffled"}, manifest={}
        )  # fmt: skip
        with pytest.raises(CorpusError, match=f"^The column 'x' of the corpus is {kind}, and a score holds"):
            run(policy, tmp_path / "root")
        assert not list((tmp_path / "root").glob("artifacts/dedup*")), "nothing was done for it"


@pytest.mark.slow
def test_a_key_of_a_map_can_be_named_wherever_a_column_can(tiny_model: Path, tmp_path: Path) -> None:
    texts = [text_of(n, 8) for n in range(9)]
    for kind in (pa.string(), pa.large_string()):
        inner = pa.array([[("k", n), ("k", n + 1)] for n in range(9)], pa.map_(kind, pa.int64()))
        table = pa.table({"text": texts, "meta": inner, "deep": pa.StructArray.from_arrays([inner], names=["map"])})
        pq.write_table(table, tmp_path / "a.parquet")
        for name in ("meta.k", "deep.map.k"):
            policy = policy_of(
                tmp_path / "a.parquet", tiny_model,
                corpus={
                    "paths": [str(tmp_path / "a.parquet")], "text": f"{{{name}}} {{text}}", "source": name, "key": name,
                },
                rate=[{"column": {"column": name, "higher_is": "better"}}],
                select=rule_of(f"{name} > 3", using={"top": {"score": name}}, budget={"documents": 2}),
                order={"using": "shuffled"}, manifest={},
            )  # fmt: skip
            manifest = run(policy, tmp_path / "root").manifest
            rows = manifest.rows(0, len(manifest)).to_pylist()
            assert sorted((row["row"], row["source"]) for row in rows) == [(7, "8"), (8, "9")]
    with pytest.raises(CorpusError, match=r"select\.where: no document of the corpus has a column 'meta\.kk'"):
        run(policy_of(tmp_path / "a.parquet", tiny_model, select=rule_of("meta.kk > 3")), tmp_path / "root")
