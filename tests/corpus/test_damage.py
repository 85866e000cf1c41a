"""Files of every format with damage anywhere: no crash, no row without an answer, the same by all four verbs."""

import random
from pathlib import Path
from typing import Any

import pytest

from corpus_files import form_of, named, part_of, reader_of, write
from selector.corpus import formats
from selector.engine.part import Task

NAMES = list(formats.known())
DOCUMENTS = [{"text": f'Document {n} déjà, "vu"\nline two, of {n}', "n": n} for n in range(40)]
AWKWARD = b'"\n,\\[]{}\0\t\xff'


def damaged(data: bytes, random: random.Random) -> bytes:
    """The bytes with some flipped, replaced, removed or added, or without their end."""
    damaged = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 5])):
        at = random.randrange(len(damaged))
        kind = random.choice(["flip", "flip", "replace", "remove", "add", "cut"])
        if kind == "flip":
            damaged[at] ^= 1 << random.randrange(8)
        elif kind == "replace":
            damaged[at] = random.choice(AWKWARD)
        elif kind == "remove":
            del damaged[at : at + random.randrange(1, 50)]
        elif kind == "add":
            damaged[at:at] = random.randbytes(random.randrange(1, 20))
        else:
            del damaged[at:]
        if not damaged:
            return b"x"
    return bytes(damaged)


def assert_every_row_has_an_answer(name: str, path: Path, random: random.Random) -> None:
    """The file is unreadable as a whole, or each of its rows is good, bad or blank, and good ones are read again."""
    form = form_of(name)
    try:
        form.peek(str(path), ["text", "n"], 1 << 20, 100)
        ranges = form.cut(str(path), random.choice([None, 1, 7]))
    except (formats.Corrupt, formats.NoRows):
        return
    good: dict[int, formats.RowRead] = {}
    seen = set[int]()
    for one in ranges:
        part = part_of(path, form, one, name)
        for _, _, read in formats.rows(part, ["text", "n"], 1 << 20, Task(key="", part=part).places):
            assert one.first_row <= read.number < one.first_row + one.num_rows and read.number not in seen
            seen.add(read.number)
            if not isinstance(read.row, formats.Bad):
                good[read.number] = read
    numbers = random.sample(sorted(good), len(good))
    reader = reader_of(path, form, named(name))
    again = reader.read([0] * len(numbers), numbers, ["text", "n"])
    rows: list[dict[str, Any]] = []
    for number in numbers:
        row = good[number].row
        assert not isinstance(row, formats.Bad)
        rows.append({key: row[key] for key in ("text", "n") if key in row})
    assert again == rows
    if numbers and good[numbers[0]].byte_offset is not None:
        spans = [[getattr(good[number], at) for number in numbers] for at in ("byte_offset", "byte_length")]
        assert reader.read([0] * len(numbers), numbers, ["text", "n"], *spans) == rows


@pytest.mark.parametrize("num_files", [2, pytest.param(80, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_lost_as_a_whole_or_row_by_row(name: str, num_files: int, tmp_path: Path) -> None:
    write(tmp_path / "whole", name, DOCUMENTS)
    whole = (tmp_path / "whole").read_bytes()
    for number in range(num_files):
        chosen = random.Random(f"{name} {number}")
        path = tmp_path / f"{number}"
        path.write_bytes(damaged(whole, chosen))
        assert_every_row_has_an_answer(name, path, chosen)
        path.unlink()
