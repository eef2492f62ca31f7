"""Worker processes that answer before a deadline or are replaced; they start without the caller's modules and JAX."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Lost(NamedTuple):
    """In place of the result of an item whose worker had to be replaced."""

    reason: str
    """`timeout` or `worker died`."""
    detail: str


class Here:
    """Works in this process, at once; nothing can be stopped, so there is no deadline."""

    def __init__(self, function: Callable[[Any], Any]):
        self._function = function

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, items: Sequence[Any]) -> Future:
        """The results of the items, in order; what the function raises is raised."""
        future = Future()
        future.set_result([self._function(item) for item in items])
        return future


class Workers:
    """Processes that call one function. As a context manager, they are gone in the end, whatever they are at."""

    def __init__(self, function: Callable[[Any], Any], count: int, deadline: float):
        """Start them; they get ready while the caller goes on.

        Args:
            function: item -> result. It is pickled, so its module is imported there.
            count: processes.
            deadline: seconds for an item.
        """
        self._processes = [_Process(function, deadline) for _ in range(count)]
        self._idle = queue.SimpleQueue()
        for process in self._processes:
            self._idle.put(process)
        # A thread for each process: it waits for the answer, and for nothing else.
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="worker")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.close()
        self._threads.shutdown()

    def submit(self, items: Sequence[Any]) -> Future:
        """The results of the items, in order, worked on by one process.

        The items have the deadline together. If they miss it, or their process is killed, it is replaced and each item
        is tried once more on its own; the result of one that then fails too is `Lost`. The future raises RuntimeError
        if the function raised, which is a bug in it: its traceback is on standard error.
        """
        return self._threads.submit(self._run, items)

    def _run(self, items: Sequence[Any]) -> list[Any]:
        process = self._idle.get()
        try:
            return process.results(items)
        finally:
            self._idle.put(process)


class _Gone(Exception):
    def __init__(self, lost: Lost):
        super().__init__(lost)
        self.lost = lost


class _Process:
    """One process, used by one thread at a time."""

    def __init__(self, function: Callable[[Any], Any], deadline: float):
        self._function, self._deadline = function, deadline
        self._closed, self._closing = False, threading.Lock()
        self._start()

    def _start(self):
        self._ready = False
        self._connection, theirs = Pipe()
        path = os.pathsep.join(map(os.path.abspath, sys.path))
        with theirs:
            # Not multiprocessing's own start, which would import the script that runs here, and JAX with it.
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from jaxfc.workers import serve; serve({theirs.fileno()})"],
                env=os.environ | _ONE_THREAD | {"PYTHONPATH": path},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def results(self, items: Sequence[Any]) -> list[Any]:
        try:
            return self._ask(items)
        except _Gone as gone:
            if len(items) == 1 and gone.lost.reason == "timeout":
                return [gone.lost]
        return [self._result(item) for item in items]

    def _result(self, item: Any) -> Any:
        try:
            return self._ask([item])[0]
        except _Gone as gone:
            return gone.lost

    def _ask(self, items: Sequence[Any]) -> list[Any]:
        try:
            if not self._ready:
                self._connection.send(self._function)
                self._ready = self._connection.recv()
            self._connection.send(items)
            if self._connection.poll(self._deadline):
                return self._connection.recv()
        except (EOFError, ConnectionError):
            raise self._death() from None
        self._replace()
        raise _Gone(Lost("timeout", f"not done after {self._deadline:g} s"))

    def _death(self) -> Exception:
        code = self._process.wait()
        self._replace()
        if code < 0:
            return _Gone(Lost("worker died", f"killed by {signal.Signals(-code).name}"))
        return RuntimeError(f"a worker process ended with code {code}; its traceback is on standard error.")

    def _replace(self):
        self._process.kill()
        self._process.wait()
        self._connection.close()
        with self._closing:
            if self._closed:
                raise CancelledError
            self._start()

    def close(self):
        """End the process; the thread that waits for it, if any, is then told so."""
        with self._closing:
            self._closed = True
            self._process.kill()
            self._process.wait()


def serve(handle: int):
    """The life of a worker: take the function, then answer each list of items with the list of their results."""
    # Ctrl-C and the notice that the machine is taken away are for the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = Connection(handle)
    function = connection.recv()
    message = True
    while _sent(connection, message):
        try:
            items = connection.recv()
        except EOFError:
            return  # The parent is gone.
        message = [function(item) for item in items]


def _sent(connection: Connection, message: Any) -> bool:
    try:
        connection.send(message)
    except ConnectionError:
        return False
    return True
