"""What objectives measure, on texts where the answer is known."""

import math
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from selector import plugins, tables
from selector.errors import PolicyError, SelectorError
from selector.tune.diversity import entropy, vendi_score
from selector.tune.objectives import HeldOut, Objective, Trial
from selector.tune.objectives.measured import near_duplicates
from selector.tune.objectives.probe import bits_of, padded
from selector.tune.objectives.proxy import Proxy


def bits_per_byte(trained: list[str], held_out: str, order: int) -> float:
    text = held_out.encode()
    bits = bits_of(padded([one.encode() for one in trained], order), padded([text], order), order)
    return float(bits.sum() / len(text))


def test_a_model_that_has_seen_nothing_gives_every_byte_eight_bits() -> None:
    assert bits_per_byte([], "anything", 3) == 8.0


def test_counts_are_interpolated_as_witten_and_bell_say() -> None:
    """Of aab: a twice, b once, so two kinds; after a come a and b, each once; at the beginning an a."""
    first = (2 + 2 / 256) / 5
    after_nothing = (1 + 1 * first) / 2  # at the beginning
    after_a = (1 + 2 * first) / 4
    bits = bits_of(padded([b"aab"], 1), padded([b"aa"], 1), 1)
    assert bits.tolist() == pytest.approx([-math.log2(after_nothing), -math.log2(after_a)])


def test_chances_of_all_bytes_add_up_to_one() -> None:
    trained = padded([b"abracadabra", b"alakazam"], 3)
    total = sum(2.0 ** -float(bits_of(trained, padded([b"ab" + bytes([byte])], 3), 3)[2]) for byte in range(256))
    assert total == pytest.approx(1)


def test_shuffled_words_teach_less_than_text_in_order() -> None:
    generator = np.random.default_rng(0)
    words = [f"w{i:x}ord" for i in range(200)]
    follow = generator.integers(0, 200, (200, 3))  # what may come after each word

    def text(length: int) -> list[str]:
        at, said = 0, list[str]()
        for _ in range(length):
            at = int(follow[at, generator.integers(3)])
            said.append(words[at])
        return said

    trained, held_out = [text(100) for _ in range(40)], " ".join(text(400))
    shuffled = [list(generator.permutation(one)) for one in trained]
    plain, mixed = (
        bits_per_byte([" ".join(one) for one in texts], held_out, 7)
        for texts in (trained, [*trained[:28], *shuffled[28:]])
    )
    assert plain < mixed


def test_repetition_teaches_nothing_and_makes_surer() -> None:
    texts = [f"document {i * 7919 % 1000} of many" for i in range(40)]
    held_out = "document 11 of some others"
    assert bits_per_byte(texts, held_out, 5) < bits_per_byte(texts[:1] * 40, held_out, 5)


@pytest.mark.parametrize("orders", [[], [8], [5, 3], [4, 4], [-1]])
def test_contexts_that_cannot_be_are_refused(orders: list[int]) -> None:
    with pytest.raises(PolicyError, match=r"probe\.orders"):
        plugins.make("objectives", "probe", {"orders": orders}, "objective", Objective)


@pytest.mark.parametrize("name", plugins.ours("objectives"))
def test_an_objective_says_what_it_measures_in_its_first_line(name: str) -> None:
    cls = plugins.find("objectives", name)
    assert cls.__doc__ and cls.__doc__.strip().splitlines()[0].endswith(".")
    assert "Evidence:" in cls.__doc__ or "arXiv" in cls.__doc__


def test_vendi_and_entropy_are_those_of_their_definitions() -> None:
    assert entropy([5, 5], 2) == pytest.approx(1) and entropy([9], 1) == 0
    assert entropy([1, 1, 2], 4) == pytest.approx(1.5 * math.log(2) / math.log(4))
    assert vendi_score(np.eye(3)) == pytest.approx(3) and vendi_score(np.ones((4, 1))) == pytest.approx(1)


def trial_of(tmp_path: Path, **values: Any) -> Trial:
    """A trial without a manifest, which keeps files in a folder."""

    def keep(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    documents = pa.table(
        [
            pa.array([bytes(15) + b"a", bytes(15) + b"b"], tables.DOC_ID),
            ["web", "web"],
            [4, 12],
            ["text", "other text a"],
        ],
        schema=tables.HELD_OUT,
    )
    whole: Any = {
        "arm": "top", "manifest": None, "run": "runs/1", "held_out": HeldOut(documents=documents), "seed": 3,
        "scale": "", "setting": "", "columns": None, "embed": None, "keep": keep, **values,
    }  # fmt: skip
    return Trial(**whole)


def command_of(folder: Path, code: str = "", **options: Any) -> Objective:
    """An objective that runs a script of Python."""
    (folder / "train.py").write_text(code, "utf-8")
    words = [sys.executable, str(folder / "train.py"), "{manifest}", "{metrics}", "{seed}", "{held_out}"]
    options = {"run": words, "reports": {"loss": "lower"}, **options}
    return plugins.make("objectives", "command", options, "objective", Objective)


WRITES = "import json, sys; json.dump({}, open(sys.argv[2], 'w'))"


def test_a_command_is_told_all_and_its_numbers_are_taken(tmp_path: Path) -> None:
    code = WRITES.format("{'loss': int(sys.argv[3]) / 2, 'run': print(sys.argv[1])}")
    measured = command_of(tmp_path, code).measure(trial_of(tmp_path))
    assert measured.to_pylist() == [{"metric": "loss", "doc_id": None, "domain": None, "value": 1.5, "weight": 1.0}]
    assert (tmp_path / "output.txt").read_text() == "runs/1\n"


def test_a_command_may_give_a_number_for_each_held_out_document(tmp_path: Path) -> None:
    code = WRITES.format("{'loss': {row['doc_id']: len(row['text']) for row in map(json.loads, open(sys.argv[4]))}}")
    measured = command_of(tmp_path, code).measure(trial_of(tmp_path))
    assert measured["value"].to_pylist() == [4, 12] and measured["weight"].to_pylist() == [4, 12]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import sys; print('no such column'); sys.exit(7)",
            "exit code 7 for the arm top, seed 3.*ends: no such column",
        ),
        ("pass", "wrote no metrics of the arm top, seed 3"),
        ("import sys; open(sys.argv[2], 'w').write('loss=3')", "are no JSON"),
        (WRITES.format("{'lass': 3}"), "have loss=None"),
        (WRITES.format("{'loss': float('nan')}"), "have loss=nan"),
        (WRITES.format("{'loss': {'00': 1}}"), "has no number for the document 0000"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
    ],
)
def test_a_command_that_fails_says_why(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(SelectorError, match=message):
        command_of(tmp_path, code).measure(trial_of(tmp_path))


@pytest.mark.slow
def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    hangs = ["sh", "-c", "sleep 600 & echo $!; wait"]
    with pytest.raises(SelectorError, match=r"wrote nothing for 1 seconds \(command\.deadline\) and was ended"):
        command_of(tmp_path, run=hangs, deadline=1).measure(trial_of(tmp_path))
    child = int((tmp_path / "output.txt").read_text())
    for _ in range(1 << 20):  # whoever was killed takes a moment to be gone
        if _is_gone(child):
            break
        os.sched_yield()
    assert _is_gone(child)


def _is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run": ""}, "command.run is empty"),
        ({"run": "train {manifests}"}, "{manifests} cannot be filled in. Did you mean 'manifest'"),
        ({"reports": {}}, "command.reports is empty"),
        ({"deadline": 0}, "command.deadline=0.0 leaves no time"),
    ],
)
def test_a_command_that_cannot_be_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(message)):
        command_of(tmp_path, **options)


def test_a_changed_script_is_another_objective(tmp_path: Path) -> None:
    before = command_of(tmp_path, "print(1)").contents()
    after = command_of(tmp_path, "print(2)").contents()
    script = str(tmp_path / "train.py")
    assert before[script] != after[script] and before[sys.executable] == after[sys.executable]


def test_a_command_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SelectorError, match=r"cannot be started \(No such file or directory\)"):
        command_of(tmp_path, run="no-such-command {manifest}").measure(trial_of(tmp_path))


def test_near_duplicates_are_those_that_have_another_one_near() -> None:
    angles = np.deg2rad([0, 5, 90, 180, 200])
    assert near_duplicates(np.column_stack([np.cos(angles), np.sin(angles)])) == pytest.approx(2 / 5)
    assert near_duplicates(np.empty((0, 2))) == 0


def test_a_target_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    options = {"target": str(tmp_path / "no.jsonl")}
    with pytest.raises(PolicyError, match=r"measured\.target: .*no\.jsonl is not there"):
        plugins.make("objectives", "measured", options, "objective", Objective)


def test_what_was_measured_holds_whatever_other_scales_and_settings_a_study_has(tmp_path: Path) -> None:
    few, more = (command_of(tmp_path, at_scales=("a", *others), at_settings=("b", *others)) for others in ((), ("c",)))
    assert plugins.identity(few) == plugins.identity(more)
    one, two = (Proxy(sizes=sizes, learning_rates=rates) for sizes, rates in ((("5M",), (0.1,)), (("15M",), (0.2,))))
    assert plugins.identity(one) == plugins.identity(two) != plugins.identity(Proxy(context=64))
