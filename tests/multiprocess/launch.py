"""Several JAX processes on this machine: started, waited for, and ended whatever happens."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SECONDS = 240


class Ended(NamedTuple):
    """What became of a process."""

    code: int
    out: str
    errors: str


class Processes:
    """The same command in `count` processes that know of each other, with as many devices each. A context manager."""

    def __init__(
        self, arguments: Sequence[str] | Sequence[Sequence[str]], count: int, *, devices: int = 8, folder: Path = ROOT
    ):
        """Start them.

        Args:
            arguments: of Python, for all of them; or a list for each.
            count: of processes. One alone is told of no others.
            devices: CPU devices of all together.
            folder: where they work.
        """
        several = arguments if not isinstance(arguments[0], str) else [arguments] * count
        address = f"127.0.0.1:{free_port()}"
        self._running, self._said = [], tempfile.TemporaryDirectory()
        for number, own in enumerate(several):
            env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
            # Compiling is most of the time.
            env |= {"JAX_NUM_CPU_DEVICES": str(devices // count), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
            if count > 1:
                env |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
                env |= {"JAX_PROCESS_ID": str(number)}
            paths = [Path(self._said.name) / f"{number}.{kind}" for kind in ("out", "errors")]
            with paths[0].open("w") as out, paths[1].open("w") as errors:
                process = subprocess.Popen([sys.executable, *own], env=env, stdout=out, stderr=errors, cwd=folder)
            self._running.append((process, paths))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process, _ in self._running:
            process.kill()
            process.wait()
        self._said.cleanup()

    def __getitem__(self, number: int) -> subprocess.Popen:
        return self._running[number][0]

    def is_running(self) -> bool:
        """Whether none has ended."""
        return all(process.poll() is None for process, _ in self._running)

    def ended(self, seconds: float = SECONDS) -> list[Ended]:
        """Wait for all of them; those that run on for longer are killed, and that is an error."""
        end = time.monotonic() + seconds
        late = []
        for number, (process, _) in enumerate(self._running):
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                late.append(number)
        for process, _ in self._running:
            process.kill()
            process.wait()
        found = [
            Ended(process.returncode, *(path.read_text(errors="replace") for path in paths))
            for process, paths in self._running
        ]
        assert not late, f"processes {late} had not ended after {seconds} s\n{report(found)}"
        return found

    def succeeded(self) -> list[Ended]:
        """Wait for all of them to end well."""
        found = self.ended()
        assert all(each.code == 0 for each in found), report(found)
        return found


def report(found: Sequence[Ended]) -> str:
    """What all of them said."""
    return "\n".join(f"--- process {at}: exit code {each.code}\n{each.errors}" for at, each in enumerate(found))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
