"""Arrow columns that are made without copies: what they are worth, and that nobody can tell them from any others."""

import pyarrow as pa
import pytest

from selector import tables
from selector.plugins.blame import count_null


def test_a_column_that_lies_in_one_array_is_not_copied() -> None:
    column = pa.chunked_array([pa.array([1, 2, None])])
    assert tables.whole(column).buffers()[1].address == column.chunk(0).buffers()[1].address
    assert tables.whole(pa.chunked_array([[1], [2, None]])).equals(pa.array([1, 2, None]))
    assert tables.whole(pa.chunked_array([], pa.int8())).equals(pa.array([], pa.int8()))
    assert tables.whole(column.chunk(0)) is column.chunk(0) or tables.whole(column.chunk(0)).equals(column.chunk(0))


@pytest.mark.parametrize("num_rows", [0, 1, 7, 8, 9, 1000])
@pytest.mark.parametrize(
    "kind", [pa.binary(16), pa.int64(), pa.float32(), pa.uint16(), pa.bool_(), pa.string(), tables.LABEL, pa.date32()]
)
def test_nulls_that_take_no_memory_are_nulls(kind: pa.DataType, num_rows: int) -> None:
    column = tables.nulls(num_rows, kind)
    column.validate(full=True)
    assert column.equals(pa.nulls(num_rows, kind)) and column.null_count == num_rows
    assert column.slice(num_rows // 2).null_count == num_rows - num_rows // 2
    assert pa.concat_arrays([column, pa.nulls(1, kind)]).null_count == num_rows + 1


def test_a_label_is_null_by_its_number_or_by_its_word() -> None:
    by_number = pa.DictionaryArray.from_arrays(pa.array([0, None, 1]), pa.array(["a", "b"]))
    by_word = pa.DictionaryArray.from_arrays(pa.array([0, None, 1]), pa.array(["a", None]))
    assert [count_null(column) for column in (by_number, by_word)] == [1, 2]
    assert count_null(pa.chunked_array([by_word, by_word])) == 4
