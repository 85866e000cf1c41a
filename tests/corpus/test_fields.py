"""A name of a column: dots lead into nested columns, quotes keep a dot as it is."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector.corpus import fields
from selector.errors import PolicyError

ROW = {"a": 1, "meta": {"url": "x", "a.b": 2, "deep": {"k": None}}, "meta.url": "top", "none": None, "list": [{"k": 1}]}


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("a", ("a",), 1),
        ("meta.url", ("meta", "url"), "x"),
        ('"meta.url"', ("meta.url",), "top"),
        ('meta."a.b"', ("meta", "a.b"), 2),
        ('"meta"."url"', ("meta", "url"), "x"),
        ("meta.deep.k", ("meta", "deep", "k"), None),
        ("none.k", ("none", "k"), None),
        ("meta.deep.k.more", ("meta", "deep", "k", "more"), None),
        ("a.k", ("a", "k"), fields.ABSENT),
        ("list.k", ("list", "k"), fields.ABSENT),
        ("gone", ("gone",), fields.ABSENT),
        ("meta.gone", ("meta", "gone"), fields.ABSENT),
        ("odd name", ("odd name",), fields.ABSENT),
        ('"say ""yes"""', ('say "yes"',), fields.ABSENT),
    ],
)
def test_a_dot_leads_into_a_nested_column_and_a_quoted_one_is_part_of_the_name(
    name: str, path: tuple[str, ...], value: object
) -> None:
    assert fields.path_of(name) == path
    assert fields.path_of(fields.name_of(path)) == path
    assert fields.column_of(name) == path[0]
    assert fields.find(ROW, name) is value or fields.find(ROW, name) == value


@pytest.mark.parametrize("name", ["", ".", "a.", ".a", "a..b", '"a', 'a"b', '"a"b', '""', '"a".'])
def test_what_is_no_name_is_refused_with_how_to_write_one(name: str) -> None:
    with pytest.raises(PolicyError, match=r"is not the name of a column\. A dot leads into a nested column"):
        fields.path_of(name)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_every_path_has_a_name(path: list[str]) -> None:
    assert fields.path_of(fields.name_of(path)) == tuple(path)


def test_the_columns_of_a_row_and_of_a_schema_have_the_same_names() -> None:
    names = fields.names_in(ROW)
    assert names == [
        "a", "meta", "meta.url", 'meta."a.b"', "meta.deep", "meta.deep.k", '"meta.url"', "none", "list"
    ]  # fmt: skip
    assert fields.names_of(pa.Table.from_pylist([ROW]).schema) == names
    assert fields.names_in(ROW, most=3) == names[:3]


def test_a_dot_leads_to_the_key_of_a_map_and_nowhere_in_a_list() -> None:
    inner = pa.array([[("k", 1), ("a.b", 2), ("k", 3)]], pa.map_(pa.string(), pa.int64()))
    (row,) = pa.table({"map": inner, "spans": [[pa.MonthDayNano([1, 2, 3])]], "lists": [[["k", "v"]]]}).to_pylist()
    assert (fields.find(row, "map.k"), fields.find(row, 'map."a.b"')) == (3, 2), "the last of a key"
    for name in ("map.gone", "spans.k", "lists.k"):
        assert fields.find(row, name) is fields.ABSENT
