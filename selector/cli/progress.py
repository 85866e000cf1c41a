"""What a person sees while a run is going on: on stderr, one live line for the step and one line when it is done."""

import time
from collections.abc import Sequence
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from selector.engine.alive import Stall
from selector.engine.part import Receipt
from selector.engine.step import Result

_SECONDS = 30.0  # between two lines about a step that goes on


class Watch:
    """Watches a run. On a terminal with a live bar; elsewhere with a line now and then, and one for each step that is
    done."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description:<24}"), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("parts"),
            TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(compact=True),
            console=self._console, transient=True, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task: Any = None
        self._rows = self._shown = 0  # documents of finished parts, and all that were shown
        self._began = self._last_line = 0.0  # the step, and its last line
        self._stalls: set[tuple[str, str]] = set()  # parts and workers that were told of

    def __enter__(self) -> Self:
        self._bar.start()
        self._begin("policy and corpus", None, "looking at them")
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.stop()

    def began(self, name: str, num_parts: int) -> None:
        """A live line for a step that has work to do."""
        self._begin(name, num_parts, "")

    def advanced(self, name: str, receipt: Receipt) -> None:
        """One part more."""
        del name
        self._rows += receipt.num_rows
        self._bar.update(self._task, advance=1)
        self._show(0)
        self._tell()

    def at_work(self, name: str, num_rows: int | None) -> None:
        """So many documents of the parts in hand."""
        del name
        if num_rows is not None and self._task is not None:
            self._show(num_rows)
        self._tell()

    def waiting(self, name: str, awaited: str) -> None:
        """Why there is nothing to count."""
        del name
        if self._task is not None:
            self._bar.update(self._task, rate=awaited)
        self._tell()

    def stalled(self, name: str, stalls: Sequence[Stall]) -> None:
        """A line for a worker that gives no sign, the first time that this is seen."""
        for stall in stalls:
            if (stall.part, stall.worker) not in self._stalls:
                line = (
                    f"{name}: no sign for {stall.seconds:.0f} s from {stall.part} on worker {stall.worker} {stall.node}"
                )
                self._console.print(line.rstrip(), markup=False, soft_wrap=True)
        self._stalls = {(stall.part, stall.worker) for stall in stalls}

    def _begin(self, name: str, num_parts: int | None, rate: str) -> None:
        self._end()
        self._rows, self._shown = 0, 0
        self._began = self._last_line = time.monotonic()
        self._task = self._bar.add_task(name, total=num_parts, rate=rate)

    def _end(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def _show(self, num_rows: int) -> None:
        """How many documents are done, which never goes down, though a part may be begun again."""
        self._shown = max(self._shown, self._rows + num_rows)
        if self._shown:
            rate = self._shown / max(1e-9, time.monotonic() - self._began)
            self._bar.update(self._task, rate=f"{self._shown:,} documents, {rate:,.0f}/s")

    def _tell(self) -> None:
        """A line on what is no terminal, if the last one is a while ago."""
        if self._task is None or self._console.is_terminal or time.monotonic() - self._last_line < _SECONDS:
            return
        self._last_line = time.monotonic()
        (task,) = self._bar.tasks
        parts = "" if task.total is None else f"{task.completed:,.0f} of {task.total:,.0f} parts  "
        line = f"{task.description:<24} {parts}{task.fields['rate']}"
        self._console.print(line, markup=False, soft_wrap=True)

    def ended(self, result: Result) -> None:
        """The step's line: name, fingerprint, rows in, rows out, seconds."""
        self._end()
        state = "cached" if result.cached else f"{result.seconds:.1f} s"
        line = (
            f"{result.name:<24} {result.fingerprint[:12]}  {result.rows_in:>9,} in  {result.rows_out:>9,} out  {state}"
        )
        self._console.print(line, markup=False, soft_wrap=True)
