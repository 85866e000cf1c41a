"""A command ends with the code of its work, whatever becomes of what it prints and whenever it is told to end."""

import datetime
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from command import COMMAND, Ended, process, selector, write_policy
from conftest import text_of, write_jsonl
from selector.cli import streams
from selector.cli.app import print_json

LOUD = """
import dataclasses, os, subprocess, sys
import pyarrow as pa
from selector.rate import Rater

@dataclasses.dataclass(frozen=True, kw_only=True)
class Loud(Rater):
    "Prints in every way there is."
    higher_is = "harder"
    def rate(self, batch):
        print("by print")
        os.write(1, b"by its number\\n")
        print("by another name", file=sys.__stdout__, flush=True)
        print("and not flushed", file=sys.__stdout__)
        subprocess.run(["echo", "by a child"])
        return pa.record_batch({"score": [1.0] * batch.num_rows})
"""


@dataclass(frozen=True)
class Made:
    """A finished run."""

    folder: Path
    policy: Path
    uri: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    rows = [{"text": text_of(number, 8), "source": ("web", "büro")[number % 2]} for number in range(20)]
    policy = {
        "corpus": {"paths": [str(write_jsonl(folder / "a corpus.jsonl", rows))], "source": "source"},
        "rate": ["length"],
        "select": {"budget": {"documents": 8}},
        "order": {"using": {"by_score": {"score": "length"}}},
        "manifest": {"difficulty": "length"},
    }
    path = write_policy(folder, policy)
    ended = selector("run", path, "--root", folder / "runs", "--executor", "local", "--json")
    assert ended.code == 0, ended.err
    return Made(folder, path, ended.json["manifest"])


def in_shell(words: str) -> Ended:
    command = " ".join(("exec", sys.executable, "-m", "selector", words))
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    return Ended(code=ended.returncode, out=ended.stdout, err=ended.stderr)


PLACES = [
    ("> /dev/full", "The result could not be printed: No space left on device.\n"),
    ("2> /dev/full", ""),
    ("> /dev/full 2> /dev/full", ""),
    (">&-", ""),
    ("2>&-", ""),
    ("<&- >&- 2>&-", ""),
]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "told"), PLACES)
def test_the_exit_code_is_that_of_the_work_wherever_it_is_printed(place: str, told: str, made: Made) -> None:
    for words, code in ((f"show {made.uri}", 0), (f"show {made.uri} --json", 0), (f"at {made.uri} 99 --json", 4)):
        ended = in_shell(f"{words} {place}")
        assert ended.code == code and "Traceback" not in ended.err
        if code == 0:
            assert ended.err == told
            assert bool(ended.out) == (">" not in place.replace("2>", ""))


@pytest.mark.slow
def test_a_console_that_knows_only_ascii_is_told_all_of_it(made: Made) -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    shown = process("show", made.uri, env=ascii_only)
    assert (shown.code, shown.err) == (0, "") and "#" in shown.out and "b\\xfcro" in shown.out and shown.out.isascii()
    told = process("show", made.uri, "--json", env=ascii_only)
    assert told.out.isascii() and "büro" in told.json["sources"]
    ran = process("run", made.policy, "--root", made.folder / "runs", "--executor", "local", env=ascii_only)
    assert ran.code == 0 and ran.out.isascii() and "survey" in ran.out


def test_characters_that_a_console_has_not_got_are_replaced_or_escaped() -> None:
    streams.known()
    written = io.BytesIO()
    with io.TextIOWrapper(written, "ascii", streams.PLAIN) as console:
        console.write("██▍ cut…  café \udce9")
        console.flush()
        assert written.getvalue() == b"##  cut.  caf\\xe9 \\udce9"


@pytest.mark.slow
def test_nothing_that_a_plug_in_prints_comes_to_stdout(made: Made) -> None:
    (made.folder / "loud_plugin.py").write_text(LOUD)
    words = ["run", made.policy, "--root", made.folder / "loud", "--executor", "local", "--json"]
    words += ["--set", "rate=[loud_plugin:Loud]", "--set", "order.using=shuffled", "--set", "manifest={}"]
    path = f"{made.folder}:{os.environ.get('PYTHONPATH', '')}"
    ended = process(*words, env={"PYTHONPATH": path})
    assert ended.code == 0, ended.err
    assert ended.json["documents"] == 8 and ended.out.count("\n") == 1
    for said in ("by print", "by its number", "by another name", "and not flushed", "by a child"):
        assert said in ended.err


def test_what_is_printed_as_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"cut": float("nan"), 1: [float("inf"), -0.5, datetime.date(2024, 5, 1)], "path": "caf\udce9"})
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told == {"cut": None, "1": [None, -0.5, "2024-05-01"], "path": "caf\udce9"}


TOLD_TO_END = """
import os, signal, sys
from selector import __main__

class Tells:
    def find_spec(self, name, *_):
        if name == "selector.cli":
            os.kill(os.getpid(), signal.{name})

sys.meta_path.insert(0, Tells())
sys.argv = ["selector", "show", "nowhere", "--json"]
__main__.main()
"""


@pytest.mark.parametrize(("name", "code", "kind"), [("SIGINT", 130, "Interrupted"), ("SIGTERM", 143, "Terminated")])
def test_a_signal_before_anything_is_imported_ends_the_command_in_words(name: str, code: int, kind: str) -> None:
    script = TOLD_TO_END.format(name=name)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    message = f"{kind}. Nothing was begun."
    assert (ended.returncode, ended.stderr) == (code, f"{message}\n")
    assert json.loads(ended.stdout) == {"error": {"kind": kind, "message": message, "exit_code": code}}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_after_the_work_does_not_change_how_it_ended(name: str) -> None:
    script = f"import atexit, os, signal; atexit.register(lambda: os.kill(os.getpid(), signal.{name})); {COMMAND[-1]}"
    words = [sys.executable, "-c", script, "--version", "--json"]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "") and list(json.loads(ended.stdout)) == ["version"]
