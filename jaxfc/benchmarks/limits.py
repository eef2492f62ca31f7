"""What the machine can do and what the work needs: copy bandwidth, matmul rate, FLOPs of a jaxpr, bytes of decoding."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxfc.models.decoder import parameter_count
from jaxfc.models.network import DecoderConfig


class Limits(NamedTuple):
    """What one device was measured to do at its best."""

    copy_bytes_per_s: float
    """Read and written together."""
    matmul_flops_per_s: float


def measure_limits(dtype: Any, *, copy_bytes: int | None = None, size: int | None = None, runs: int = 5) -> Limits:
    """The best of several runs on the first device.

    Args:
        dtype: of the matrix products.
        copy_bytes: length of the copied array; null is 256 MiB on CPU and 2 GiB elsewhere.
        size: of the square matrices; null is 2,048 on CPU and 8,192 elsewhere.
        runs: of each.
    """
    on_cpu = jax.default_backend() == "cpu"
    copy_bytes = copy_bytes or (2**28 if on_cpu else 2**31)
    size = size or (2048 if on_cpu else 8192)
    # Negation, because a plain copy may be elided.
    array = jnp.ones(copy_bytes // 4, jnp.float32)
    copied = 2 * copy_bytes / _best(jax.jit(jnp.negative), array, runs=runs)
    matrix = jnp.ones((size, size), dtype)
    return Limits(copied, 2 * size**3 / _best(jax.jit(jnp.matmul), matrix, matrix, runs=runs))


def _best(function: Callable, *arguments: jax.Array, runs: int) -> float:
    def once() -> float:
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        return time.perf_counter() - start

    once()
    return min(once() for _ in range(runs))


def matmul_flops(function: Callable, *arguments) -> int:
    """FLOPs (2 per multiply-add) of all matrix products in one call of a function, from its jaxpr.

    A scan's body counts once per turn and the branches of a condition as the dearest of them.

    Args:
        function: traced, not run.
        arguments: arrays or their shapes.

    Raises:
        ValueError: a matrix product stands in a while loop, whose turns no one can count.
    """
    return _flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _flops(jaxpr) -> int:
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
        return 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)
    inner = [_flops(each) for each in _inner(parameters)]
    if name == "cond":
        return max(inner)
    if name == "while" and any(inner):
        raise ValueError("a matrix product in a while loop has no number of FLOPs; count one turn of it.")
    # What stands in a shard_map is one device's share.
    times = {"scan": parameters.get("length"), "shard_map": getattr(parameters.get("mesh"), "size", None)}
    return sum(inner) * times.get(name, 1)


def _inner(parameters: dict):
    for value in jax.tree.leaves(list(parameters.values()), is_leaf=_is_jaxpr):
        if _is_jaxpr(value):
            yield getattr(value, "jaxpr", value)


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def decode_bytes(
    config: DecoderConfig, *, prompts: int, group_size: int, prompt_length: int, steps: int, weight: int, cache: int
) -> int:
    """Bytes that decoding must read at the least: all weights once a step, and each key and value that counts.

    A prompt's keys and values count once for its group.

    Args:
        config: the architecture.
        prompts: P.
        group_size: G.
        prompt_length: S.
        steps: of decoding, after the one that gave the first token.
        weight: bytes of a parameter.
        cache: bytes of a number in the cache.
    """
    # The embedding is read as the head; an untied one is only looked up.
    embedding = 0 if config.tied else config.vocab_size * config.width
    per_position = 2 * config.layers * config.kv_heads * config.head_width * cache
    # Of the prompt, position S is the first input of its completions and the first of their own.
    positions = prompts * (prompt_length - 1) * steps + prompts * group_size * sum(range(2, steps + 2))
    return steps * (parameter_count(config) - embedding) * weight + positions * per_position
