"""One device's share of the scores of tokens, and of their gradients, in tiles of tokens x vocabulary.

The vocabulary is the outer loop: a tile of the head is read (and, where a mesh splits its width, gathered) once for
all tokens, and its gradient is written once. The backward pass computes the logits of a tile again, so that nothing is
kept that grows with tokens x vocabulary.

Axes: V and E are this device's part of the vocabulary and of the head's width, D is the whole width, C the columns of a
tile of the head, N the tokens of a tile.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxfc.truncation import allowed_columns, least_kept
from jaxfc.types import Sampling

NOTHING = -200.0
"""Nats: its exponential is 0 in float32, and 0 times it is 0, which 0 times -inf is not."""


class Plan(NamedTuple):
    """What is known when the program is made."""

    vocabulary: int
    """Tokens that exist."""
    columns: int
    """Columns of a tile, at most."""
    rows: int
    """Tokens of a tile, at most."""
    row_numbers: int
    """Logits held at once where whole rows are needed, for top-k and top-p."""
    mesh: Mesh | None
    """Tokens are split over `data` and `fsdp`; the head over `tensor` by vocabulary and over `fsdp` by width."""

    @property
    def vocabulary_axes(self) -> tuple[str, ...]:
        """The mesh axes over which a row of logits is split."""
        return ("tensor",) if self.mesh else ()


class Tokens(NamedTuple):
    """What was drawn and from what. N is [B, T], or tiles and their tokens, or the tokens of one tile."""

    ids: Int[Array, "*N"]
    cuts: Float[Array, "*N"]
    """Below this logit nothing was drawn (`least_kept`)."""
    index: Int[Array, "*N"] | None
    """The mask of each token."""


class Shared(NamedTuple):
    """What the tokens on a device have in common."""

    divisor: Float[Array, ""]
    """The temperature."""
    table: UInt32[Array, "N U"] | None
    """Their masks, as `padded_words` makes them."""


class Shape(NamedTuple):
    """Each token's distribution, as the backward pass needs it: log p = (z - top) - log_total."""

    top: Float[Array, "*N"]
    log_total: Float[Array, "*N"]
    entropies: Float[Array, "*N"]


class Slopes(NamedTuple):
    """Derivatives of the loss with respect to what was returned for each token."""

    logprobs: Float[Array, "*N"]
    entropies: Float[Array, "*N"]
    normalizers: Float[Array, "*N"]


class _Sums(NamedTuple):
    """What is known of each token's distribution after some columns, of logits z."""

    top: Float[Array, "*N"]
    """The greatest z, m."""
    total: Float[Array, "*N"]
    """The sum of exp(z - m)."""
    weighted: Float[Array, "*N"]
    """The sum of exp(z - m) (z - m)."""
    chosen: Float[Array, "*N"]
    """z of the token itself."""


class _Columns(NamedTuple):
    """A tile of the head."""

    weights: Float[Array, "C D"]
    start: Int[Array, ""]
    """Where it begins in this device's part of the head."""
    ids: Int[Array, " C"]
    fresh: Bool[Array, " C"]
    """False for columns that an earlier tile had: the last one begins early enough to be full."""


def product(left: Float[Array, "..."], right: Float[Array, "..."], contracted: tuple[int, int]) -> Float[Array, "..."]:
    """A matrix product over these axes, in float32."""
    dimensions = (((contracted[0],), (contracted[1],)), ((), ()))
    return jax.lax.dot_general(left, right, dimensions, preferred_element_type=jnp.float32)


def forward(
    plan: Plan, hidden: Float[Array, "B T D"], head: Float[Array, "V E"], tokens: Tokens, shared: Shared
) -> tuple[Float[Array, "B T"], Shape]:
    """Log-probabilities of the tokens, and the shapes of their distributions."""
    states, taken = _split((hidden, tokens), plan.rows)
    zeros = jnp.zeros(taken.ids.shape, jnp.float32)

    def add_columns(sums: _Sums, number: Array):
        columns = _load(plan, head, number, hidden.dtype)

        def add_to_rows(row_tile):
            sums, states, tokens = row_tile
            return _add(sums, *_logits(plan, columns, states, tokens, shared))

        return jax.lax.map(add_to_rows, (sums, states, taken)), None

    sums = _Sums(jnp.full_like(zeros, -jnp.inf), zeros, zeros, zeros)
    sums, _ = jax.lax.scan(add_columns, sums, jnp.arange(_tiles(plan, head)))
    top = jax.lax.pmax(sums.top, plan.vocabulary_axes)
    _, total, weighted, chosen = _rebase(sums, _finite(top))
    total, weighted, chosen = jax.lax.psum((total, weighted, chosen), plan.vocabulary_axes)
    shape = Shape(top, jnp.log(total), jnp.log(total) - weighted / total)
    return _join((chosen - shape.top - shape.log_total, shape), hidden.shape[:2])


def backward(
    plan: Plan,
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V E"],
    tokens: Tokens,
    shared: Shared,
    shape: Shape,
    slopes: Slopes,
) -> tuple[Float[Array, "B T D"], Float[Array, "V E"]]:
    """The gradients of hidden states and head, added up in float32 and returned in the dtypes of both."""
    states, *rows = _split((hidden, tokens, shape, slopes), plan.rows)

    def add_columns(gradients: tuple[Array, Array], number: Array):
        by_states, by_head = gradients
        columns = _load(plan, head, number, hidden.dtype)

        def add_rows(tile: Array, gradients: tuple[Array, Array]):
            by_states, by_weights = gradients
            own_states, tokens, shape, slopes = jax.tree.map(lambda a: a[tile], (states, *rows))
            logits, is_token = _logits(plan, columns, own_states, tokens, shared)
            # Where nothing depends on a token, its hidden state may be anything, and 0 * inf is NaN.
            live = jnp.any(jnp.stack(slopes) != 0, axis=0)[:, None]
            slope = jnp.where(live, _logit_slopes(logits, is_token, shape, slopes) / shared.divisor, 0.0)
            slope, own_states = slope.astype(hidden.dtype), jnp.where(live, own_states, 0)
            by_weights += product(slope, own_states, (0, 0))
            return by_states.at[tile].add(product(slope, columns.weights, (1, 0))), by_weights

        none = jnp.zeros(columns.weights.shape, jnp.float32)
        by_states, by_weights = jax.lax.fori_loop(0, states.shape[0], add_rows, (by_states, none))
        return (by_states, _store(plan, by_head, columns, by_weights)), None

    start = jnp.zeros(states.shape, jnp.float32), jnp.zeros_like(head)
    (by_states, by_head), _ = jax.lax.scan(add_columns, start, jnp.arange(_tiles(plan, head)))
    by_states = jax.lax.psum(by_states, plan.vocabulary_axes)
    return _join(by_states, hidden.shape[:2]).astype(hidden.dtype), by_head


def cuts(
    plan: Plan,
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V E"],
    tokens: Tokens,
    shared: Shared,
    sampling: Sampling,
) -> Float[Array, "B T"]:
    """The logits below which top-k and top-p leave nothing to draw (`least_kept`), in tiles of whole rows.

    A tile of the head is read once for each tile of rows. Not differentiable.
    """
    states, taken = _split((hidden, tokens), max(1, plan.row_numbers // head.shape[0]))

    def cut(row_tile):
        states, tokens = row_tile

        def part(number: Array) -> Array:
            columns = _load(plan, head, number, states.dtype)
            logits = product(states, columns.weights, (1, 1)) / shared.divisor
            return jnp.where(_allowed(plan, columns, tokens, shared), logits, -jnp.inf)

        logits = jax.lax.map(part, jnp.arange(_tiles(plan, head))).swapaxes(0, 1)
        return least_kept(logits.reshape(states.shape[0], -1), sampling, plan.vocabulary_axes)

    return _join(jax.lax.map(cut, (states, taken)), hidden.shape[:2])


def _split(tree, limit: int):
    """Arrays [B, T, ...] -> [tiles, tokens, ...], the last tile filled up with zeros."""

    def split(array: Array) -> Array:
        count = math.prod(array.shape[:2])
        tiles = -(-count // limit)
        size = -(-count // tiles)
        flat = array.reshape(count, *array.shape[2:])
        flat = jnp.pad(flat, ((0, tiles * size - count), *((0, 0),) * (flat.ndim - 1)))
        return flat.reshape(tiles, size, *array.shape[2:])

    return jax.tree.map(split, tree)


def _join(tree, shape: tuple[int, int]):
    """Undo `_split`."""

    def join(array: Array) -> Array:
        return array.reshape(-1, *array.shape[2:])[: math.prod(shape)].reshape(*shape, *array.shape[2:])

    return jax.tree.map(join, tree)


def _tiles(plan: Plan, head: Float[Array, "V E"]) -> int:
    return -(-head.shape[0] // plan.columns)


def _load(plan: Plan, head: Float[Array, "V E"], number: Array, dtype: jnp.dtype) -> _Columns:
    """A tile of the head in this dtype, of its whole width."""
    size = min(plan.columns, head.shape[0])
    start = jnp.minimum(number * plan.columns, head.shape[0] - size)
    weights = jax.lax.dynamic_slice_in_dim(head, start, size).astype(dtype)
    own, before = start + jnp.arange(size), 0
    if plan.mesh:
        weights = jax.lax.all_gather(weights, "fsdp", axis=1, tiled=True)
        before = jax.lax.axis_index("tensor") * head.shape[0]
    return _Columns(weights, start, before + own, own >= number * plan.columns)


def _store(plan: Plan, by_head: Array, columns: _Columns, by_weights: Float[Array, "C D"]) -> Array:
    """Add the gradient of a tile of the head, summed over all devices' tokens, to that of this device's part."""
    if plan.mesh:
        by_weights = jax.lax.psum_scatter(by_weights, "fsdp", scatter_dimension=1, tiled=True)
        by_weights = jax.lax.psum(by_weights, "data")
    before = jax.lax.dynamic_slice_in_dim(by_head, columns.start, columns.ids.size)
    # What overlaps an earlier tile is 0 here.
    return jax.lax.dynamic_update_slice_in_dim(
        by_head, before + by_weights.astype(by_head.dtype), columns.start, axis=0
    )


def _allowed(plan: Plan, columns: _Columns, tokens: Tokens, shared: Shared) -> Bool[Array, "#N C"]:
    """Which columns may be drawn as far as vocabulary and masks go."""
    real = (columns.fresh & (columns.ids < plan.vocabulary))[None]
    if shared.table is None:
        return real
    return real & allowed_columns(shared.table, tokens.index, columns.ids[0], columns.ids.size)


def _logits(
    plan: Plan, columns: _Columns, states: Float[Array, "N D"], tokens: Tokens, shared: Shared
) -> tuple[Float[Array, "N C"], Bool[Array, "N C"]]:
    """The tile's logits, -inf where nothing can be drawn, and which of them are the tokens' own."""
    logits = product(states, columns.weights, (1, 1)) / shared.divisor
    is_token = (columns.ids == tokens.ids[:, None]) & columns.fresh
    possible = _allowed(plan, columns, tokens, shared) & (logits >= tokens.cuts[:, None])
    possible |= is_token & (columns.ids < plan.vocabulary)
    return jnp.where(possible, logits, -jnp.inf), is_token


def _finite(top: Float[Array, "..."]) -> Float[Array, "..."]:
    """Where no token is possible yet, any finite number will do to subtract."""
    return jnp.where(jnp.isneginf(top), 0.0, top)


def _rebase(sums: _Sums, top: Float[Array, "*N"]) -> _Sums:
    """The same sums of exp(z - top)."""
    moved = jnp.where(jnp.isneginf(sums.top), 0.0, sums.top - top)
    scale = jnp.exp(moved)
    return _Sums(top, sums.total * scale, (sums.weighted + sums.total * moved) * scale, sums.chosen)


def _add(sums: _Sums, logits: Float[Array, "N C"], is_token: Bool[Array, "N C"]) -> _Sums:
    """Count more columns in."""
    top = jnp.maximum(sums.top, logits.max(axis=1))
    _, total, weighted, chosen = _rebase(sums, _finite(top))
    below = logits - _finite(top)[:, None]
    weights = jnp.exp(below)
    return _Sums(
        top,
        total + weights.sum(axis=1),
        weighted + (weights * jnp.maximum(below, NOTHING)).sum(axis=1),
        chosen + jnp.where(is_token, logits, 0.0).sum(axis=1),
    )


def _logit_slopes(
    logits: Float[Array, "N C"], is_token: Bool[Array, "N C"], shape: Shape, slopes: Slopes
) -> Float[Array, "N C"]:
    """Derivatives of the loss with respect to tempered logits.

    With p the probabilities and H the entropy, d log p_i / d z_v = [i = v] - p_v, d H / d z_v = -p_v (log p_v + H) and
    d log sum exp / d z_v = p_v.
    """
    logprobs = logits - shape.top[:, None] - shape.log_total[:, None]
    weight = slopes.normalizers - slopes.logprobs - slopes.entropies * shape.entropies
    weight = weight[:, None] - slopes.entropies[:, None] * jnp.maximum(logprobs, NOTHING)
    own = jnp.where(is_token & ~jnp.isneginf(logits), slopes.logprobs[:, None], 0.0)
    return jnp.exp(logprobs) * weight + own
