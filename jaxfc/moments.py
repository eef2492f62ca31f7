"""An optimizer's moments in fewer bits: bfloat16, or 8 bits with a scale for every 32 numbers."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, BFloat16, Float, Int, Int8, UInt8

BLOCK = 32
"""Numbers that share a scale: successive ones of the last axis but one, as the 8-bit tiles of a TPU lie. A split of
that axis into parts of whole blocks leaves each block on one device."""
SIGNED_TOP, UNSIGNED_TOP = 127, 255
"""The largest codes."""


class Blocks(NamedTuple):
    """An array in 8 bits: codes in its own shape, so that they are placed as it was, and a scale for each block."""

    codes: Int8[Array, "*_ M N"] | UInt8[Array, "*_ M N"]
    """int8 of numbers of either sign, uint8 of numbers that are not negative."""
    scales: Float[Array, "*_ m N"]
    """Largest magnitude of each block; m = M / BLOCK."""


def quantise_signed(values: Float[Array, "*_ M N"], noise: Float[Array, "*_ M N"]) -> Blocks:
    """Numbers of either sign in 8 bits: x is about sign(code) (code / 127)^2 times the largest |x| of its block.

    The codes beside a number are chosen with the odds that make their mean the number itself. Spaced by a square law
    they resolve 1 / 127^2 of the largest, where the paper has a table for the same end, which is slow to look up.

    Args:
        values: M is a multiple of `BLOCK`.
        noise: uniform in [0, 1), independent for each number.

    References: 8-bit optimizers via block-wise quantization, arXiv:2110.02861, section 2.1.
    """
    scales, parts = _scaled(jnp.abs(values))
    codes = jnp.sign(values) * _rounded(parts, SIGNED_TOP, 2, noise)
    return Blocks(codes.astype(jnp.int8), scales)


def quantise_unsigned(values: Float[Array, "*_ M N"], noise: Float[Array, "*_ M N"]) -> Blocks:
    """Numbers that are not negative in 8 bits: x is about (code / 255)^4 times the largest x of its block.

    For second moments: the fourth power, because they are squares of what `quantise_signed` has a square law for; at
    random, because they move by less than a code in a step, and rounded to the nearest would not move at all. Only 0
    has code 0, or a step would be divided by nothing.

    Args:
        values: M is a multiple of `BLOCK`.
        noise: uniform in [0, 1), independent for each number.

    References: arXiv:2110.02861, section 2.1; the trouble with 0, arXiv:2309.01507, section 4.
    """
    scales, parts = _scaled(values)
    codes = jnp.where(values > 0, jnp.maximum(_rounded(parts, UNSIGNED_TOP, 4, noise), 1), 0)
    return Blocks(codes.astype(jnp.uint8), scales)


def _scaled(sizes: Float[Array, "*_ M N"]) -> tuple[Float[Array, "*_ m N"], Float[Array, "*_ M N"]]:
    """The largest of each block, and the numbers as parts of it."""
    blocks = _in_blocks(sizes)
    scales = blocks.max(axis=-2, keepdims=True)
    return scales[..., 0, :], (blocks / jnp.where(scales == 0, 1.0, scales)).reshape(sizes.shape)


def _rounded(parts: Float[Array, "*_ M N"], top: int, power: int, noise: Float[Array, "*_ M N"]) -> Array:
    """Codes c around each part, (c / top)^power, the upper one with the odds that make the mean exact."""
    low = jnp.clip(jnp.floor(top * parts ** (1 / power)), 0, top - 1)
    below, above = (low / top) ** power, ((low + 1) / top) ** power
    return low + (noise < (parts - below) / (above - below))


def dequantise(blocks: Blocks) -> Float[Array, "*_ M N"]:
    """The numbers that the codes stand for."""
    codes = blocks.codes.astype(jnp.float32)
    if blocks.codes.dtype == jnp.int8:
        parts = jnp.sign(codes) * (codes / SIGNED_TOP) ** 2
    else:
        parts = (codes / UNSIGNED_TOP) ** 4
    return (_in_blocks(parts) * blocks.scales[..., None, :]).reshape(blocks.codes.shape)


def _in_blocks(array: Float[Array, "*_ M N"]) -> Float[Array, "*_ m block N"]:
    return array.reshape(*array.shape[:-2], -1, BLOCK, array.shape[-1])


def round_to_bfloat16(values: Float[Array, "*axes"], key: Array) -> BFloat16[Array, "*axes"]:
    """The bfloat16 above or below each number, with the odds that make their mean the number itself."""
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    # What is cut off the end, plus a uniform number as long, carries into what is kept with just these odds.
    carried = bits + jax.random.bits(key, values.shape, jnp.uint16).astype(jnp.uint32)
    rounded = jax.lax.bitcast_convert_type(carried & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(values), rounded, values).astype(jnp.bfloat16)


class PackedState(NamedTuple):
    """The state of an optimizer whose moments are packed."""

    count: Int[Array, ""]
    """Updates so far."""
    packed: Any
    """Its own state, in which `mu` and `nu` are packed."""


def keep_moments(
    optimizer: optax.GradientTransformation,
    dtype: Literal["bfloat16", "int8"],
    is_matrix: Callable[[tuple, Array], bool],
) -> optax.GradientTransformation:
    """The optimizer, its moments (`mu` and `nu` in its state, as Optax has them) in fewer bits between updates.

    An update unpacks them to float32 and packs them again. What is random in it comes from the number of updates, so a
    run that goes on from a checkpoint repeats one that was never stopped.

    Args:
        optimizer: of Optax; float32 parameters.
        dtype: of the moments. Under int8 only matrices of a multiple of `BLOCK` rows are packed, the rest stays
            float32: biases and norms are sensitive, and next to nothing.
        is_matrix: (path of a parameter, its moment) -> whether its last two axes are those of a matrix.
    """

    def pack_leaf(path: tuple, leaf: Array, key: Array):
        fields = [getattr(part, "name", None) for part in path]
        at = next((at for at, field in enumerate(fields) if field in ("mu", "nu")), None)
        if at is None:
            return leaf
        if dtype == "bfloat16":
            return round_to_bfloat16(leaf, key)
        if not is_matrix(path[at + 1 :], leaf) or leaf.shape[-2] % BLOCK:
            return leaf
        return (quantise_signed if fields[at] == "mu" else quantise_unsigned)(leaf, jax.random.uniform(key, leaf.shape))

    def pack(count: Array, state) -> PackedState:
        leaves, structure = jax.tree.flatten_with_path(state)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), count), len(leaves))
        packed = [pack_leaf(path, leaf, key) for (path, leaf), key in zip(leaves, keys, strict=True)]
        return PackedState(count, structure.unflatten(packed))

    def init(params) -> PackedState:
        return pack(jnp.int32(0), optimizer.init(params))

    def update(updates, state: PackedState, params=None):
        updates, inner = optimizer.update(updates, unpack(state.packed), params)
        return updates, pack(state.count + 1, inner)

    return optax.GradientTransformation(init, update)


def unpack(state):
    """An optimizer's state with all its moments in float32."""

    def widen(leaf):
        if isinstance(leaf, Blocks):
            return dequantise(leaf)
        return leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf

    return jax.tree.map(widen, state, is_leaf=lambda node: isinstance(node, Blocks))
