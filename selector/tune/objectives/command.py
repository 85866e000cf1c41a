"""A command of the user's own that is run for every trial: a manifest goes in, a JSON file of metrics comes out."""

import hashlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from selector.errors import PolicyError, SelectorError, did_you_mean
from selector.tune.objectives import Better, Objective, Trial, answer

_LOOKED_AT = 0.2  # seconds between two looks at a command that is at work
_TO_END = 10.0  # seconds that a command has after SIGTERM
_SHOWN = 2_000  # bytes of output in a message
_NAMES = ("manifest", "metrics", "held_out", "seed", "scale", "setting", "arm")


@dataclass(frozen=True, kw_only=True)
class Command(Objective):
    """Runs your command once for every arm, seed, scale and setting, and reads what it measured.

    `run` is a line, or a list of words, in which {manifest}, {metrics}, {held_out}, {seed}, {scale}, {setting} and
    {arm} are filled in; no shell reads it. The command finds the same in the environment, as SELECTOR_TRIAL_MANIFEST
    and so on. `manifest` is the run's folder, for `ManifestDataset`; `held_out` a JSONL file of the documents that no
    arm has (doc_id, domain, text); into the file `metrics` it writes a JSON object that has each of `reports`: a
    number, or an object with a number for each held-out doc_id, which makes far narrower intervals. `reports` says of
    each whether lower or higher is better, `at_scales` and `at_settings` what there are of these.

    A command that writes nothing to its output for `deadline` seconds counts as hung. It and all processes that it
    started are ended, as they are when the study is interrupted; its output is kept. Files that `run` names are part of
    what it is: a changed script is asked again.

    Evidence: that of your command. With fewer than three seeds nothing is told apart.
    """

    runs_programs: ClassVar[bool] = True

    run: str | tuple[str, ...]
    reports: Mapping[str, Better]
    at_scales: tuple[str, ...] = field(default=(), metadata={"apart": True})  # a trial says which one it has
    at_settings: tuple[str, ...] = field(default=(), metadata={"apart": True})
    deadline: float = field(default=3600.0, metadata={"apart": True})

    def __post_init__(self) -> None:
        if not self.words:
            raise PolicyError("command.run is empty. Write e.g. run: python train.py {manifest} {metrics}.")
        if not self.reports:
            raise PolicyError("command.reports is empty. Write what is measured: reports: {loss: lower}.")
        if not self.deadline > 0:
            raise PolicyError(f"command.deadline={self.deadline} leaves no time to work. Write seconds above 0.")
        try:
            self._filled(dict.fromkeys(_NAMES, ""))
        except (KeyError, ValueError, IndexError) as error:
            name = str(error.args[0]) if error.args else ""
            raise PolicyError(
                f"command.run: {{{name}}} cannot be filled in. {did_you_mean(name, _NAMES)} For braces write {{{{ and"
                " }}."
            ) from error

    @property
    def metrics(self) -> Mapping[str, Better]:
        return self.reports

    @property
    def words(self) -> tuple[str, ...]:
        """The command, word by word."""
        return tuple(shlex.split(self.run)) if isinstance(self.run, str) else tuple(self.run)

    @property
    def scales(self) -> tuple[str, ...]:
        return self.at_scales or ("",)

    @property
    def settings(self) -> tuple[str, ...]:
        return self.at_settings or ("",)

    def contents(self) -> Mapping[str, str]:
        return {
            word: hashlib.sha256(Path(word).read_bytes()).hexdigest() for word in self.words if os.path.isfile(word)
        }

    def tokens(self, scale: str, num_tokens: int) -> int:
        return num_tokens

    def measure(self, trial: Trial) -> pa.Table:
        with tempfile.TemporaryDirectory(prefix="selector-") as folder:
            paths = {"metrics": f"{folder}/metrics.json", "held_out": f"{folder}/held_out.jsonl"}
            rows = trial.held_out.documents.to_pylist()
            lines = (json.dumps({**row, "doc_id": row["doc_id"].hex()}) + "\n" for row in rows)
            Path(paths["held_out"]).write_text("".join(lines), "utf-8")
            values = {
                **paths, "manifest": trial.run, "seed": str(trial.seed), "scale": trial.scale,
                "setting": trial.setting, "arm": trial.arm,
            }  # fmt: skip
            output = Path(folder, "output")
            problem = self._problem(values, output)
            kept = trial.keep("output.txt", output.read_bytes())
            if problem is not None:
                raise SelectorError(
                    f"The command {shlex.join(self.words)!r} {problem} for the arm {trial.arm}, seed {trial.seed}. Its"
                    f" output is in {kept}, and ends: {_end_of(output)}"
                )
            return self._read(Path(paths["metrics"]), trial, kept)

    def _filled(self, values: Mapping[str, str]) -> list[str]:
        return [word.format(**values) for word in self.words]

    def _problem(self, values: Mapping[str, str], output: Path) -> str | None:
        """Runs the command; what went wrong, if something did."""
        variables = {f"SELECTOR_TRIAL_{name.upper()}": value for name, value in values.items()}
        with output.open("wb") as file:
            try:
                process = subprocess.Popen(
                    self._filled(values), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                    env={**os.environ, **variables}, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                return f"cannot be started ({error.strerror or error})"
        try:
            return self._watched(process, output)
        finally:
            _end(process)

    def _watched(self, process: "subprocess.Popen[bytes]", output: Path) -> str | None:
        size, since = 0, time.monotonic()
        while True:
            try:
                code = process.wait(min(_LOOKED_AT, self.deadline))
            except subprocess.TimeoutExpired:
                now = output.stat().st_size
                if now > size:
                    size, since = now, time.monotonic()
                if time.monotonic() - since > self.deadline:
                    return f"wrote nothing for {self.deadline:g} seconds (command.deadline) and was ended"
                continue
            if code:
                return f"ended with {f'exit code {code}' if code > 0 else signal.Signals(-code).name}"
            return None

    def _read(self, path: Path, trial: Trial, kept: str) -> pa.Table:
        where = f"of the arm {trial.arm}, seed {trial.seed}; its output is in {kept}"
        try:
            written: Any = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise SelectorError(f"The command wrote no metrics {where}. Let it write JSON to {{metrics}}.") from None
        except ValueError as error:
            raise SelectorError(f"The metrics {where}, are no JSON: {error}.") from error
        tables: list[pa.Table] = []
        for name in self.metrics:
            value = written.get(name) if isinstance(written, dict) else None
            if isinstance(value, dict):
                ids = [doc_id.hex() for doc_id in trial.held_out.documents["doc_id"].to_pylist()]
                missing = [doc_id for doc_id in ids if not _is_number(value.get(doc_id))]
                if missing:
                    raise SelectorError(f"The metric {name} {where}, has no number for the document {missing[0]}.")
                tables.append(answer(name, [float(value[one]) for one in ids], documents=trial.held_out.documents))
            elif _is_number(value):
                tables.append(answer(name, value))
            else:
                raise SelectorError(
                    f"The metrics {where}, have {name}={value!r:.80}. Write a number, or one for each held-out doc_id."
                )
        return pa.concat_tables(tables)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a command and all that it started, whether it is still at work or not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        try:
            process.wait(_TO_END)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _end_of(output: Path) -> str:
    """The last lines of an output."""
    data = output.read_bytes()[-_SHOWN:].decode("utf-8", "replace").strip()
    return data or "(nothing)"
