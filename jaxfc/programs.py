"""The closed set of compiled programs of a run: made before the first step, listed, and counted ever after."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import jax

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
"""Sent for each program that becomes executable: compiled, or read from the cache."""
_CACHE_EVENT = "/jax/compilation_cache/cache_hits"
_WORTH_KEEPING = 0.1
"""Seconds of compilation from which a program is kept."""


@runtime_checkable
class Compiler(Protocol):
    """Makes programs ahead of time: of this run's devices, or of others to see what they would need."""

    def compile(self, name: str, function: Callable, *arguments) -> Callable:
        """Compile a jitted function for the shapes and placements of its arguments."""

    def by_bucket(self, name: str, function: Callable, buckets: Sequence[int], arguments: Callable) -> Callable:
        """Compile it for the arguments of each bucket."""


class Program(NamedTuple):
    """What became of a function to compile."""

    executable: Callable
    seconds: float
    """Of tracing and compilation; other programs may have been compiled meanwhile."""
    kept: bool
    """It was read from the cache."""


class Programs:
    """Compiles ahead of time, several programs at once, and counts whatever is compiled later."""

    def __init__(self, cache: str | None = None):
        """Begin with no program.

        Args:
            cache: folder where JAX keeps compiled programs for later runs; null leaves JAX's settings as they are. A
                folder that JAX was given (`$JAX_COMPILATION_CACHE_DIR`) goes before it.
        """
        self._making: dict[str, Future] = {}
        self._threads = ThreadPoolExecutor(max(2, os.cpu_count() or 2), thread_name_prefix="compile")
        self._this_thread, self._counting, self._compiles = threading.local(), threading.Lock(), 0
        if cache and not jax.config.jax_compilation_cache_dir:
            jax.config.update("jax_compilation_cache_dir", str(Path(cache).expanduser()))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING)
        jax.monitoring.register_event_duration_secs_listener(self._count)
        jax.monitoring.register_event_listener(self._note)

    def _count(self, event: str, _: float, **__):
        with self._counting:
            self._compiles += event == _COMPILE_EVENT

    def _note(self, event: str, **_):
        # Events come from the thread that compiles.
        if event == _CACHE_EVENT:
            self._this_thread.kept = True

    def compiles(self) -> int:
        """Programs that became executable since this was last asked, whoever asked for them."""
        with self._counting:
            count, self._compiles = self._compiles, 0
        return count

    def finish(self):
        """Wait until everything is compiled. What the compiler raised is raised."""
        for future in self._making.values():
            future.result()

    @property
    def seconds(self) -> dict[str, float]:
        """Name of each program -> seconds that its compilation took."""
        return {name: future.result().seconds for name, future in self._making.items()}

    def listing(self) -> str:
        """One line: how many programs there are, the seconds that each took, and which come from the cache."""
        made = {name: future.result() for name, future in self._making.items()}
        kept = sum(program.kept for program in made.values())
        each = (f"{name} {program.seconds:.1f} s{' (cache)' * program.kept}" for name, program in made.items())
        return f"{len(made)} programs, {len(made) - kept} compiled and {kept} from the cache: {', '.join(each)}"

    def compile(self, name: str, function: Callable, *arguments) -> Callable:
        """Compile a jitted function for the shapes and placements of its arguments.

        This traces it and returns; the compiler works on meanwhile. A call of the result waits for it.
        """
        start = time.perf_counter()
        lowered = function.lower(*arguments)
        traced = time.perf_counter() - start

        def make() -> Program:
            begin = time.perf_counter()
            self._this_thread.kept = False
            executable = lowered.compile()
            return Program(executable, traced + time.perf_counter() - begin, self._this_thread.kept)

        future = self._making[name] = self._threads.submit(make)
        return lambda *given: future.result().executable(*given)

    def by_bucket(self, name: str, function: Callable, buckets: Sequence[int], arguments: Callable) -> Callable:
        """Compile `function` for each bucket; a call goes to the program of its prompts' length.

        Args:
            name: of the program; each is listed as `name/bucket`.
            function: jitted, with the prompts (or what has them in field `prompts`) as second argument.
            buckets: lengths of prompts.
            arguments: bucket -> the arguments to compile for.
        """
        compiled = {bucket: self.compile(f"{name}/{bucket}", function, *arguments(bucket)) for bucket in buckets}

        def call(first, batch, *rest):
            prompts = getattr(batch, "prompts", batch)
            return compiled[prompts.tokens.shape[1]](first, batch, *rest)

        return call


def describe(tree, sharding):
    """The shapes, types and placement of arrays, without the arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def abstract(tree):
    """The shapes, types and own placements of arrays that exist."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)
