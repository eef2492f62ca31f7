"""Several processes, one on each host: how they join, what they tell each other, and how they leave together."""

import contextlib
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np

from jaxfc.command import InputError, Preempted
from jaxfc.files import OutputError

S = TypeVar("S")
T = TypeVar("T")

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
"""What tells a process of the others, where no TPU's own environment does."""
JOIN_SECONDS = 300
"""For which a process waits for the others to start."""
HEARTBEAT_SECONDS = 60
"""After which a process that is not heard of counts as dead, and the others end."""
PARTING_SECONDS = 20
"""For which a process that has failed waits for the others to hear why."""
_HEADER, _CHUNK = 8, 2**14
"""Bytes of a message's length, and of what travels with it at once: one shape, so one program."""


class Share(NamedTuple):
    """Which rows of a batch are this process's.

    It feeds those that its devices hold. Where several processes hold the same ones, each row is judged and counted by
    one of them.
    """

    batch: int
    """Rows of the whole batch."""
    held: np.ndarray
    """[p] those on this process's devices, rising."""
    own: np.ndarray
    """[p] bool: which of them this process judges and counts; every row of the batch is one process's own."""
    is_exclusive: bool
    """No row is held by two processes."""

    @classmethod
    def whole(cls, batch: int) -> "Share":
        """All of it."""
        return cls(batch, np.arange(batch), np.ones(batch, bool), True)


class _Failure(NamedTuple):
    """In place of what a process would say."""

    message: str


class _Told(InputError):
    """A failure that all processes know of."""


# Joining and leaving


def run_joined(program: Callable[..., T], *arguments, **settings) -> T | None:
    """Run a program as one of the processes that the environment tells of.

    What it returns is returned by the process that speaks, None by the others. A mistake in the input that one process
    finds, or a file that it cannot write, ends all of them with code 2 and that message, if what they do next is to
    exchange something. Otherwise, and where one dies, JAX aborts the others: at once if it was process 0, else after
    `HEARTBEAT_SECONDS`.
    """
    with joined():
        result = program(*arguments, **settings)
        return result if index() == 0 else None


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the other processes, if there are any, and leave together with them."""
    join()
    try:
        yield
    except Preempted:
        raise
    except (InputError, OutputError) as error:
        if count() == 1:
            raise
        # Said before it is announced, which the collective operations of the others may not survive.
        print(error, file=sys.stderr, flush=True)
        if not isinstance(error, _Told):
            _announce(error)
        _leave()
        # A normal exit has been seen to wait for ever for processes that have gone.
        os._exit(2)
    except BaseException as error:
        if count() > 1:
            _end(error)
        raise
    finally:
        _leave()


def join(seconds: int = JOIN_SECONDS):
    """Connect this process with the others, before anything touches a device; one that is alone does nothing.

    The others are known from `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`; or, where JAX is to
    use TPUs (it finds them when it is imported, or `JAX_PLATFORMS` says so), from what a TPU VM, GKE or a multislice
    job provides.

    Args:
        seconds: to wait for them.

    Raises:
        InputError: these variables are incomplete or wrong. If the others do not come, the process ends with code 2.
    """
    import jax

    given = _given()
    on_tpu = "tpu" in (jax.config.jax_platforms or "").split(",")
    if jax.distributed.is_initialized() or not (given or on_tpu):
        return
    is_complete = len(given) == 3
    if not (is_complete or on_tpu):
        missing = [name for name in (ADDRESS, COUNT, INDEX) if not os.environ.get(name)]
        raise InputError(
            f"environment: {' and '.join(missing)} not set; a process that is one of several needs {ADDRESS} "
            f"(host:port of process 0), {COUNT} and {INDEX} (0 to the number less 1), one that is alone none of them."
        )
    # JAX itself would abort the process.
    late = threading.Timer(seconds, _give_up, [seconds, given])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            **given,
            cluster_detection_method="deactivate" if is_complete else None,
            initialization_timeout=2 * seconds,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        if given:
            raise InputError(f"environment: {given} does not describe one of several processes: {error}.") from error
        # A TPU outside of any cluster that JAX knows of: it is used alone.
    except OSError as error:
        raise InputError(f"the TPU's environment does not tell of the other processes: {error}.") from error
    finally:
        late.cancel()


def _give_up(seconds: int, given: Mapping[str, Any]):
    print(
        f"this process did not meet the others within {seconds} s; it knows of {given or 'what the TPU provides'}. "
        f"Start the same command on every host at about the same time, each with its own {INDEX}, and see that the "
        "hosts reach the port of process 0.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _given() -> dict[str, Any]:
    """What the environment says, as arguments of `jax.distributed.initialize`, which itself reads the address only."""
    given: dict[str, Any] = {}
    if address := os.environ.get(ADDRESS):
        given["coordinator_address"] = address
    for name, argument in ((COUNT, "num_processes"), (INDEX, "process_id")):
        if text := os.environ.get(name):
            if not text.isdecimal():
                raise InputError(f"environment: {name} is {text!r}, but should be a whole number.")
            given[argument] = int(text)
    return given


def _leave():
    import jax

    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def _announce(error: Exception):
    """Let the other processes fail with this message in their next exchange; end at once if they do not come to one."""
    thread = threading.Thread(target=_tell, args=[_Failure(str(error))], daemon=True)
    thread.start()
    thread.join(PARTING_SECONDS)
    if thread.is_alive():
        os._exit(2)


def _tell(failure: _Failure):
    with contextlib.suppress(_Told):
        exchange(failure)


def _end(error: BaseException) -> NoReturn:
    """End now: at a normal exit JAX waits for the others, who wait for this process in a collective operation."""
    if isinstance(error, KeyboardInterrupt):
        print("Interrupted; the same command resumes from what was saved.", file=sys.stderr, flush=True)
        os._exit(130)
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


# What they tell each other


def count() -> int:
    """How many processes there are."""
    import jax

    return jax.process_count()


def index() -> int:
    """Which of them this is."""
    import jax

    return jax.process_index()


def process_of(device) -> int:
    """Which of them has this device."""
    return device.process_index


def exchange(value: T) -> list[T]:
    """What each process gives, in their order, on every process; all of them call it, at the same place.

    It is for what is small: every process is sent everything.

    Raises:
        InputError: one of them has failed.
    """
    if count() == 1:
        return [value]
    values = [pickle.loads(message) for message in _gather(pickle.dumps(value))]
    failure = next((each for each in values if isinstance(each, _Failure)), None)
    if failure is not None:
        raise _Told(failure.message)
    return values


def _gather(message: bytes) -> list[bytes]:
    """The message of each process. They travel in chunks, as many as the longest has."""
    from jax.experimental import multihost_utils

    size, received, rounds, longest = np.int64(len(message)).tobytes(), [], 0, 1
    while rounds * _CHUNK < longest:
        chunk = message[rounds * _CHUNK : (rounds + 1) * _CHUNK]
        sent = np.frombuffer((size + chunk).ljust(_HEADER + _CHUNK, b"\0"), np.uint8)
        received.append(multihost_utils.process_allgather(sent))
        sizes = received[0][:, :_HEADER].copy().view(np.int64)[:, 0]
        longest, rounds = int(sizes.max()), rounds + 1
    whole = np.concatenate([each[:, _HEADER:] for each in received], axis=1)
    return [row[:size].tobytes() for row, size in zip(whole, sizes, strict=True)]


def from_writer(make: Callable[[], T]) -> T:
    """What process 0 makes, on every process; the others wait for it."""
    return exchange(make() if index() == 0 else None)[0]


def deal(function: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """`[function(item) for item in items]`, each process working on its part of the items."""
    parts = exchange([function(item) for item in items[index() :: count()]])
    results: list[Any] = [None] * len(items)
    for process, part in enumerate(parts):
        results[process :: len(parts)] = part
    return results
