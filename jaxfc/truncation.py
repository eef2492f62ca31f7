"""Which tokens can be drawn: temperature, the cut of top-k and top-p, and the masks of a grammar, as bits."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxfc.types import Sampling

WORD = 32
"""Bits in a word of a mask."""


def words_of(vocabulary: int) -> int:
    """W, the words of a mask."""
    return -(-vocabulary // WORD)


def divisor(sampling: Sampling) -> Float[Array, "*rows"]:
    """What logits are divided by: the temperature, or 1 when it is 0 (greedy). One for all rows, or one for each."""
    return jnp.where(sampling.temperature > 0, sampling.temperature, 1.0)


def is_cut(sampling: Sampling) -> Bool[Array, ""]:
    """Whether top-k or top-p is on, for any row."""
    return ((sampling.top_k > 0) | (sampling.top_p < 1)).any()


def least_kept(logits: Float[Array, "N V"], sampling: Sampling, axes: tuple[str, ...] = ()) -> Float[Array, " N"]:
    """A threshold for each row that exactly the logits reach which top-k and top-p keep.

    Kept are the top_k likeliest tokens, and of those the fewest likeliest that have probability top_p together, at
    least one. Equal logits cannot be told apart: with one of them, all are kept. The threshold lies halfway between
    the least logit kept and the greatest one cut, so that the same logits, rounded otherwise, are cut alike; where
    nothing is cut it is -inf.

    It is found by bisection of the 32 bits of a float, in sums over the row. So nothing is sorted, and a row may be
    spread over devices.

    Args:
        logits: float32, tempered, -inf for what cannot be drawn.
        sampling: `top_k` and `top_p`, for all rows or for each.
        axes: the mesh axes over which the columns are split, inside `jax.shard_map`.
    """
    keys = _ordered(logits)
    nothing = jnp.zeros(logits.shape[:1], jnp.uint32)

    def total(values: Array) -> Array:
        return jax.lax.psum(values.sum(axis=1), axes)

    def greatest(values: Array) -> Array:
        return jax.lax.pmax(values.max(axis=1), axes)

    def of_top_k() -> Array:
        kth = _last(lambda key: total((keys >= key[:, None]).astype(jnp.int32)) >= sampling.top_k, nothing)
        return jnp.where(sampling.top_k > 0, kth, nothing)

    def of_top_p(kth: Array) -> Array:
        top = greatest(logits)
        weights = jnp.where(keys >= kth[:, None], jnp.exp(logits - top[:, None]), 0.0)
        mass = sampling.top_p * total(weights)
        # A token stays while the likelier ones have less than top_p; the likeliest stays whatever top_p is.
        full = _last(lambda key: total(jnp.where(keys > key[:, None], weights, 0.0)) >= mass, nothing)
        return jnp.where(sampling.top_p < 1, jnp.maximum(kth, jnp.minimum(full, _ordered(top) - 1) + 1), kth)

    first = jax.lax.cond((sampling.top_k > 0).any(), of_top_k, lambda: nothing)
    first = jax.lax.cond((sampling.top_p < 1).any(), of_top_p, lambda kth: kth, first)
    kept = keys >= first[:, None]
    least = -greatest(jnp.where(kept, -logits, -jnp.inf))
    lost = greatest(jnp.where(kept, -jnp.inf, logits))
    middle = (least + lost) / 2
    return jnp.where(jnp.isneginf(lost) | (middle > lost), middle, least)


def _ordered(values: Float[Array, "..."]) -> UInt32[Array, "..."]:
    """Integers in the order of the floats."""
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _last(holds: Callable[[Array], Array], nothing: UInt32[Array, " N"]) -> UInt32[Array, " N"]:
    """The greatest key for which `holds(keys)` is true, row by row, bit by bit from the highest; 0 if for none.

    `holds` is true up to some key and false from there on; `nothing` is 0 for each row.
    """

    def add_bit(number: Array, found: Array) -> Array:
        trial = found | (jnp.uint32(1) << (31 - number).astype(jnp.uint32))
        return jnp.where(holds(trial), trial, found)

    return jax.lax.fori_loop(0, WORD, add_bit, nothing)


def padded_words(table: UInt32[Array, "M W"], columns: int, vocabulary: int) -> UInt32[Array, "M U"]:
    """Masks with room for every slice of up to `columns` columns that `allowed_columns` may take.

    Raises:
        ValueError: the masks have fewer bits than there are tokens.
    """
    words = table.shape[1]
    if words * WORD < vocabulary:
        raise ValueError(
            f"masks of {words} words say something of {words * WORD} tokens, but the vocabulary has {vocabulary}: "
            f"{words_of(vocabulary)} words are needed."
        )
    return jnp.pad(table, ((0, 0), (0, max(0, -(-columns // WORD) + 2 - words))))


def allowed_columns(
    table: UInt32[Array, "M U"], index: Int[Array, " N"], start: Int[Array, ""] | int, size: int
) -> Bool[Array, "N size"]:
    """Columns `start` to `start + size` of the masks of N positions, unpacked: True where the token may be drawn."""
    count = -(-size // WORD) + 1
    words = jax.lax.dynamic_slice_in_dim(table, start // WORD, count, axis=1)[index]
    bits = (words[:, :, None] >> jnp.arange(WORD, dtype=jnp.uint32)) & 1
    return jax.lax.dynamic_slice_in_dim(bits.reshape(-1, count * WORD) == 1, start % WORD, size, axis=1)
