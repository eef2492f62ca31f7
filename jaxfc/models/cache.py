"""Keys and values kept for decoding: by head, in the order in which a step's products read them; optionally int8."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from jaxfc.types import Cache

INT8_TOP = 127.0
"""The largest magnitude that int8 holds on both sides of 0."""


def empty_cache(rows: int, kv_heads: int, room: int, width: int, dtype: Any) -> Cache:
    """Room for `room` positions of `rows` sequences in one layer. int8 has a scale beside each vector."""
    keys = jnp.zeros((rows, kv_heads, width, room), dtype)
    scales = jnp.zeros((rows, kv_heads, room), jnp.float32) if keys.dtype == jnp.int8 else None
    return Cache(keys, keys.swapaxes(2, 3), scales, scales)


def pack(x: Float[Array, "... Dh"], dtype: Any) -> tuple[Num[Array, "... Dh"], Float[Array, "..."] | None]:
    """Vectors in the cache's type. int8 is x / scale, rounded, scale = max |x| / 127 of each vector; else a cast."""
    if jnp.dtype(dtype) != jnp.int8:
        return x.astype(dtype), None
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(axis=-1) / INT8_TOP
    return jnp.round(x / jnp.maximum(scale, 1e-30)[..., None]).astype(jnp.int8), scale


def make_cache(k: Float[Array, "N U K Dh"], v: Float[Array, "N U K Dh"], dtype: Any) -> Cache:
    """The cache that holds these keys and values."""
    (keys, key_scales), (values, value_scales) = (pack(a.swapaxes(1, 2), dtype) for a in (k, v))
    return Cache(keys.swapaxes(2, 3), values, key_scales, value_scales)


def write_rows(cache: Cache, k: Float[Array, "R Q K Dh"], v: Float[Array, "R Q K Dh"], at: Int[Array, " R"]) -> Cache:
    """Write Q successive positions of every row, the first at `at[row]`."""
    new = make_cache(k, v, cache.keys.dtype)

    def write(kept, new, axis):
        # The rows stay a batch dimension, so that a cache split by rows is written where it lies.
        return jax.vmap(lambda kept, new, at: jax.lax.dynamic_update_slice_in_dim(kept, new, at, axis))(kept, new, at)

    scales = (None, None)
    if new.key_scales is not None:
        scales = write(cache.key_scales, new.key_scales, 1), write(cache.value_scales, new.value_scales, 1)
    return Cache(write(cache.keys, new.keys, 2), write(cache.values, new.values, 1), *scales)
