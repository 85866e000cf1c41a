"""What a person sees while a run is going on: on stderr, one live line for the step and one line when it is done."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from selector.engine.alive import Stall
from selector.engine.part import Receipt
from selector.engine.step import Result

_SECONDS = 30.0  # between two lines about a step that goes on
_BEFORE = "policy and corpus"  # what is looked at before the first step


@dataclass(kw_only=True)
class _Step:
    """What is shown of a step that is going on."""

    task: Any  # the bar's
    began: float
    last_line: float
    rows: int = 0  # documents of finished parts
    shown: int = 0


class Watch:
    """Watches a run. On a terminal with a live bar for each step that is going on; elsewhere with a line now and then,
    and one for each step that is done."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description:<24}"), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("parts"),
            TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(compact=True),
            console=self._console, transient=True, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._steps: dict[str, _Step] = {}  # that are going on
        self._stalls: dict[str, set[tuple[str, str]]] = {}  # by step: parts and workers that were told of

    def __enter__(self) -> Self:
        self._bar.start()
        self._begin(_BEFORE, None, "looking at them")
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.stop()

    def began(self, name: str, num_parts: int) -> None:
        """A live line for a step that has work to do."""
        self._begin(name, num_parts, "")

    def advanced(self, name: str, receipt: Receipt) -> None:
        """One part more."""
        if (step := self._shown_step(name)) is not None:
            step.rows += receipt.num_rows
            self._bar.update(step.task, advance=1)
            self._show(step, 0)
            self._tell(step)

    def at_work(self, name: str, num_rows: int | None) -> None:
        """So many documents of the parts in hand."""
        if (step := self._shown_step(name)) is not None:
            if num_rows is not None:
                self._show(step, num_rows)
            self._tell(step)

    def waiting(self, name: str, awaited: str) -> None:
        """Why there is nothing to count."""
        if (step := self._shown_step(name)) is not None:
            self._bar.update(step.task, rate=awaited)
            self._tell(step)

    def stalled(self, name: str, stalls: Sequence[Stall]) -> None:
        """A line for a worker that gives no sign, the first time that this is seen."""
        for stall in stalls:
            if (stall.part, stall.worker) not in self._stalls.get(name, ()):
                line = (
                    f"{name}: no sign for {stall.seconds:.0f} s from {stall.part} on worker {stall.worker} {stall.node}"
                )
                self._console.print(line.rstrip(), markup=False, soft_wrap=True)
        self._stalls[name] = {(stall.part, stall.worker) for stall in stalls}

    def _begin(self, name: str, num_parts: int | None, rate: str) -> None:
        self._end(_BEFORE)
        self._end(name)
        for other in self._steps.values():  # until it is heard of again
            self._bar.update(other.task, visible=False)
        now = time.monotonic()
        self._steps[name] = _Step(task=self._bar.add_task(name, total=num_parts, rate=rate), began=now, last_line=now)

    def _shown_step(self, name: str) -> "_Step | None":
        """The step of this name, whose line is shown from now on."""
        step = self._steps.get(name)
        if step is not None:
            self._bar.update(step.task, visible=True)
        return step

    def _end(self, name: str) -> None:
        if (step := self._steps.pop(name, None)) is not None:
            self._bar.remove_task(step.task)

    def _show(self, step: "_Step", num_rows: int) -> None:
        """How many documents are done, which never goes down, though a part may be begun again."""
        step.shown = max(step.shown, step.rows + num_rows)
        if step.shown:
            rate = step.shown / max(1e-9, time.monotonic() - step.began)
            self._bar.update(step.task, rate=f"{step.shown:,} documents, {rate:,.0f}/s")

    def _tell(self, step: "_Step") -> None:
        """A line on what is no terminal, if the last one is a while ago."""
        if self._console.is_terminal or time.monotonic() - step.last_line < _SECONDS:
            return
        step.last_line = time.monotonic()
        (task,) = [task for task in self._bar.tasks if task.id == step.task]
        parts = "" if task.total is None else f"{task.completed:,.0f} of {task.total:,.0f} parts  "
        line = f"{task.description:<24} {parts}{task.fields['rate']}"
        self._console.print(line, markup=False, soft_wrap=True)

    def ended(self, result: Result) -> None:
        """The step's line: name, fingerprint, rows in, rows out, seconds."""
        self._end(_BEFORE)
        self._end(result.name)
        state = "cached" if result.cached else f"{result.seconds:.1f} s"
        line = (
            f"{result.name:<24} {result.fingerprint[:12]}  {result.rows_in:>9,} in  {result.rows_out:>9,} out  {state}"
        )
        self._console.print(line, markup=False, soft_wrap=True)
