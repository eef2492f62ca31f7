"""Where numbers go: a line of JSON per step, TensorBoard, and the terminal."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from jaxfc.command import InputError
from jaxfc.files import explain_failure, to_json, write_atomically

FIGURES = ("reward/mean", "eval/overall", "loss/total", "entropy/cot_mean", "kl/reference", "length/completion_mean")
"""Metrics that the terminal shows, where a run has them."""
_SECONDS_BETWEEN_LINES = 10.0


def is_writer() -> bool:
    """Whether this process is the one that writes a run's files and speaks on the terminal."""
    import jax

    return jax.process_index() == 0


def say(text: str):
    """A line on standard error, from one process."""
    if is_writer():
        print(text, file=sys.stderr, flush=True)


class Metrics:
    """The numbers of a run: `metrics.jsonl`, `events.*` for TensorBoard, and progress on standard error.

    Every process makes one and calls it alike; only one of them writes. Use it as a context manager.
    """

    def __init__(self, folder: Path, start: int, steps: int):
        """Open the log of a run.

        Args:
            folder: of the run.
            start: the first step to be written. What is logged of it and of later steps, by a run that was cut off
                after its last checkpoint, is dropped: the file is then that of a run never cut off.
            steps: that the run will have.

        Raises:
            InputError: the file is no log of metrics.
            OutputError: it cannot be written.
        """
        self._writes = is_writer()
        if not self._writes:
            return
        self._path = folder / "metrics.jsonl"
        with explain_failure(folder):
            folder.mkdir(parents=True, exist_ok=True)
        _keep_steps_below(start, self._path)
        with explain_failure(self._path), contextlib.ExitStack() as opened:
            self._lines = opened.enter_context(self._path.open("a", encoding="utf-8"))
            self._events = _open_events(folder, start)
            opened.callback(self._events.close)
            self._terminal = opened.enter_context(_terminal(steps, start))
            self._opened = opened.pop_all()
        self._shown: dict[str, float] = {}

    def write(self, step: int, metrics: Mapping[str, Any]):
        """Log one step; its numbers may be Python's, NumPy's or JAX's.

        Raises:
            OutputError: the disk is full, for instance.
        """
        if not self._writes:
            return
        numbers = {name: float(value) for name, value in metrics.items()}
        with explain_failure(self._path):
            self._lines.write(to_json({"step": step} | numbers) + "\n")
            self._lines.flush()
            values = [Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
            self._events.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
            self._events.flush()
        self._shown |= {name: numbers[name] for name in FIGURES if name in numbers}
        self._terminal.show(step, "  ".join(f"{name} {number:.3g}" for name, number in self._shown.items()))

    def note(self, text: str):
        """Say something on the terminal."""
        if self._writes:
            self._terminal.say(text)

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_):
        if self._writes:
            with explain_failure(self._path):
                self._opened.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The steps that a run has logged; null stands for NaN and infinities. A last line that was cut off is left out.

    Raises:
        InputError: a line is no JSON object with a step.
    """
    lines = path.read_bytes().split(b"\n")
    rows = []
    # A complete line ends in a newline, so what follows the last one is empty or was cut off.
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
            rows.append(row | {"step": int(row["step"])})
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}:{number}: should be a JSON object with a step, as training wrote it.") from error
    return rows


def _keep_steps_below(start: int, path: Path):
    if not path.exists():
        return
    kept = [row for row in read_metrics(path) if row["step"] < start]
    write_atomically(path, "".join(to_json(row) + "\n" for row in kept))


def _open_events(folder: Path, start: int) -> EventsWriter:
    """TensorBoard's file, written as it is called: a writing thread would hang on a full disk."""
    # The process and the nanosecond keep apart runs of one second, whose files would have one name.
    writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{time.time_ns()}")
    # This makes TensorBoard forget steps from `start` on that an earlier file has.
    writer.write_event(Event(wall_time=time.time(), step=start, session_log=SessionLog(status=SessionLog.START)))
    return writer


# The terminal


@contextlib.contextmanager
def _terminal(steps: int, start: int) -> Iterator["_Bar | _Lines"]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(steps, start)
        return
    columns = (
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bar(progress, steps, start)


class _Bar:
    """A progress bar with the key figures."""

    def __init__(self, progress: Progress, steps: int, start: int):
        self._progress = progress
        self._task = progress.add_task("", total=steps, completed=start)

    def show(self, step: int, figures: str):
        self._progress.update(self._task, completed=step + 1, description=escape(figures))

    def say(self, text: str):
        self._progress.console.print(text, markup=False, highlight=False)


class _Lines:
    """A line for the first step, for the last, and for one every so often."""

    def __init__(self, steps: int, start: int):
        self._steps, self._start = steps, start
        self._opened = time.monotonic()
        self._said = -math.inf

    def show(self, step: int, figures: str):
        now = time.monotonic()
        if now - self._said < _SECONDS_BETWEEN_LINES and step + 1 < self._steps:
            return
        self._said = now
        pace = (now - self._opened) / (step + 1 - self._start)
        left = _duration(pace * (self._steps - step - 1))
        self.say(f"step {step + 1}/{self._steps}  {figures}  {pace:.2f} s/step, {left} left")

    def say(self, text: str):
        print(text, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"
