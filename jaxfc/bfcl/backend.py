"""Simulated APIs in a process of their own, in an interpreter of its own: sessions that outlive its death."""

import contextlib
import dataclasses
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxfc.command import InputError

Side = Literal["model", "reference"]

_MODULES = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code"
BFCL_CLASSES = {
    "GorillaFileSystem": f"{_MODULES}.gorilla_file_system:GorillaFileSystem",
    "MathAPI": f"{_MODULES}.math_api:MathAPI",
    "MessageAPI": f"{_MODULES}.message_api:MessageAPI",
    "TicketAPI": f"{_MODULES}.ticket_api:TicketAPI",
    "TradingBot": f"{_MODULES}.trading_bot:TradingBot",
    "TravelAPI": f"{_MODULES}.travel_booking:TravelAPI",
    "TwitterAPI": f"{_MODULES}.posting_api:TwitterAPI",
    "VehicleControlAPI": f"{_MODULES}.vehicle_control:VehicleControlAPI",
}
"""BFCL's simulated APIs, where the package bfcl-eval has them: name -> `module:class`."""

_START_SECONDS = 60.0
_READ = 2**16


class EnvironmentFailure(Exception):
    """A session that cannot go on: `timeout`, `worker died` or `result too large`."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """The simulated objects that a conversation begins with."""

    classes: tuple[str, ...]
    config: Mapping[str, Any]
    """Class -> its state, as its own loader reads it."""
    long_context: bool
    """The state is padded with things that nothing asks for."""


class Backend:
    """A worker process with simulated APIs. As a context manager, it is gone in the end, whatever it is at."""

    def __init__(
        self,
        python: str = sys.executable,
        classes: Mapping[str, str] = BFCL_CLASSES,
        path: Sequence[str | Path] = (),
        deadline: float = 10.0,
    ):
        """Start the process.

        Args:
            python: the interpreter in whose environment the classes are installed.
            classes: class name -> `module:class`.
            path: folders in which it finds modules, besides its own.
            deadline: seconds for an answer.

        Raises:
            InputError: there is no such interpreter, or the classes are not installed there.
        """
        self._python, self._deadline, self._opened = python, deadline, 0
        folders = [str(Path(folder).resolve()) for folder in path]
        self._first = {"classes": dict(classes), "path": folders, "seconds": math.ceil(2 * deadline)}
        self.deaths = 0
        """How often the process has come to an end; what a session had in it is then gone."""
        self._start()

    def __enter__(self) -> "Backend":
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End the process."""
        self._end()

    def open(self, scene: Scene) -> "Session":
        """A session of its own, with the objects of the model and of the reference."""
        self._opened += 1
        return Session(self, self._opened, scene)

    def ask(self, request: Mapping[str, Any], seconds: float | None = None) -> Any:
        """The answer to one request.

        Raises:
            EnvironmentFailure: the answer is too large, late, or did not come; the process was then started anew.
        """
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            answer = json.loads(self._line(seconds or self._deadline))
        except BrokenPipeError:
            raise self._death() from None
        if "error" in answer:
            raise EnvironmentFailure(answer["error"], answer["detail"])
        return answer["value"]

    def _start(self):
        self._rest = b""
        worker = Path(__file__).with_name("worker.py")
        try:
            self._process = subprocess.Popen(
                [self._python, str(worker)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._environment(),
            )
        except OSError as error:
            raise InputError(
                f"{self._python}: no Python interpreter can be started there ({error.strerror})."
            ) from error
        try:
            self.ask(self._first, _START_SECONDS)
        except EnvironmentFailure as failure:
            self._end()
            raise InputError(
                f"{self._python}: its environment lacks the simulated APIs ({failure.detail}). Install bfcl-eval there "
                "(pip install --no-deps bfcl-eval mpmath suffices), or name the interpreter of one that has it."
            ) from failure

    def _environment(self) -> dict[str, str]:
        """Without the folders that are there for this interpreter, where it is another one."""
        ours = self._python == sys.executable
        kept = {key: value for key, value in os.environ.items() if ours or key != "PYTHONPATH"}
        # Texts that list a set are then the same in every process.
        return kept | {"PYTHONHASHSEED": "0"}

    def _line(self, seconds: float) -> bytes:
        """The next line that the process writes, within so many seconds."""
        end, output = time.monotonic() + seconds, self._process.stdout.fileno()
        while b"\n" not in self._rest:
            ready, _, _ = select.select([output], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                self._end()
                self._start()
                raise EnvironmentFailure("timeout", f"not done after {seconds:g} s")
            read = os.read(output, _READ)
            if not read:
                raise self._death()
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _death(self) -> Exception:
        code = self._process.wait()
        self._end()
        if code > 0:
            # A bug, of ours or of the simulated APIs, or data that they cannot load.
            return RuntimeError(f"the process of the simulated APIs ended with code {code}; see standard error.")
        self._start()
        return EnvironmentFailure("worker died", f"killed by {signal.Signals(-code).name}" if code else "it ended")

    def _end(self):
        self.deaths += 1
        self._process.kill()
        self._process.wait()
        # A request that the process did not read is still to be written.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()


class Session:
    """The objects of one conversation, of the model's side and of the reference's."""

    def __init__(self, backend: Backend, number: int, scene: Scene):
        """As `Backend.open` makes it; the process is asked for its objects when something is to be run."""
        self._backend, self._number, self._scene = backend, number, scene
        self._deaths: int | None = None
        self._past: list[tuple[Side, list[str]]] = []

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Let the process forget the objects."""
        if self._deaths == self._backend.deaths:
            # A process that has died has forgotten them too.
            with contextlib.suppress(EnvironmentFailure):
                self._ask("close")

    def run(self, side: Side, calls: Sequence[str]) -> list[str]:
        """Run calls, given as source, one after another, and give the text of each result.

        Raises:
            EnvironmentFailure: they had no results in time, or too large ones, or ended the process.
        """
        self._revive()
        results = self._ask("run", side=side, calls=list(calls))
        self._past.append((side, list(calls)))
        return results

    def differences(self) -> list[str]:
        """The attributes, `class.attribute`, in which the objects of the two sides differ.

        Raises:
            EnvironmentFailure: as of `run`.
        """
        self._revive()
        return self._ask("compare")

    def _revive(self):
        """Open the session where the process is new, and do there what has been done; it has the same results."""
        if self._deaths == self._backend.deaths:
            return
        self._deaths = self._backend.deaths
        self._ask("open", world=dataclasses.asdict(self._scene))
        for side, calls in self._past:
            self._ask("run", side=side, calls=calls)

    def _ask(self, what: str, **details: Any) -> Any:
        return self._backend.ask({"do": what, "session": self._number, **details})
