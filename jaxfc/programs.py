"""The closed set of compiled programs of a run: made before the first step, listed, and counted ever after."""

import time
from collections.abc import Callable, Sequence

import jax

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class Programs:
    """Compiles ahead of time and counts whatever is compiled later."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        """Name of each program -> seconds that its compilation took."""
        self._compiles = 0
        jax.monitoring.register_event_duration_secs_listener(self._count)

    def _count(self, event: str, _: float, **__):
        self._compiles += event == _COMPILE_EVENT

    def compiles(self) -> int:
        """Programs compiled since this was last asked, whoever asked for them."""
        count, self._compiles = self._compiles, 0
        return count

    def listing(self) -> str:
        """One line: how many programs there are, and the seconds that each took."""
        each = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
        return f"{len(self.seconds)} programs compiled: {each}"

    def compile(self, name: str, function: Callable, *arguments) -> Callable:
        """Compile a jitted function for the shapes and placements of its arguments."""
        start = time.perf_counter()
        compiled = function.lower(*arguments).compile()
        self.seconds[name] = time.perf_counter() - start
        return compiled

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
