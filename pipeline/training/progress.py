"""How far a long stage is: a bar in a terminal, a plain line now and then in a job's log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class StageProgress:
    """Counts a stage's units; use as a context.

    Args:
        title: the stage, as the user reads it.
        total: units in all.
        unit: what is counted ("samples", "cases", "trials").
        done: units already done when a stage is resumed.
        seconds: least time between two plain lines.
        stream: where to write; the bar needs a terminal.
    """

    def __init__(
        self, title: str, total: int, unit: str, done: int = 0, seconds: float = 20.0, stream: TextIO | None = None
    ) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self._stream = stream if stream is not None else sys.stderr
        self._start_done, self._began = done, time.monotonic()
        self._seconds, self._last = seconds, time.monotonic()
        self._moved = self._began  # when a unit was last done
        self._bar = _bar(self._stream) if self._stream.isatty() else None
        self._task = self._bar.add_task(title, total=total, completed=done, unit=unit, note="") if self._bar else None

    def update(self, done: int, note: str = "") -> None:
        """Say that `done` units are done; the note (a loss, a DSC) is shown beside."""
        moved = done != self.done
        if moved:
            self.done, self._moved = done, time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif (moved and done >= self.total) or time.monotonic() - self._last >= self._seconds:
            self._last = time.monotonic()
            print(self._line(note), file=self._stream, flush=True)

    def __enter__(self) -> StageProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _line(self, note: str) -> str:
        elapsed = time.monotonic() - self._began
        fresh = self.done - self._start_done
        left = ""
        if fresh > 0 and self.done < self.total:  # the unit in progress has taken some of its time already
            each, waited = (self._moved - self._began) / fresh, elapsed - (self._moved - self._began)
            left = f", {_clock(max(0.0, each * (self.total - self.done) - waited))} left"
        share = f" ({self.done / self.total:.0%})" if self.total else ""
        note = f", {note}" if note else ""
        return f"{self.title}: {self.done}/{self.total} {self.unit}{share}{note}, {_clock(elapsed)} elapsed{left}"


def _bar(stream: TextIO) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]} {task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(file=stream),
        expand=True,
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
