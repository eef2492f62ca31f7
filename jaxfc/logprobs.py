"""Hidden states -> log-probabilities and entropies of completion tokens, tile by tile, never [B, T, V]."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as Spec
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxfc import tiles
from jaxfc.sharding import row_shards, spec
from jaxfc.truncation import allowed_columns, divisor, is_cut, least_kept, padded_words
from jaxfc.types import Allowed, Sampling, TokenScores

COLUMN_TILE = 4096
"""Vocabulary entries scored at once: a tile of the head, which is read, cast and, over `fsdp`, gathered by itself.

With ROW_TILE tokens a tile of logits has 32 MiB in float32, and two of them are about all that scoring needs beside its
inputs. On CPU 2,048 to 8,192 take the same time. An accelerator wants both sizes in the thousands: each
byte of the head that is read then serves a thousand operations, and the steps are few.
"""
ROW_TILE = 2048
"""Tokens scored at once, on each device: those for which a tile of the head is read once."""
WHOLE_ROW_NUMBERS = 2**22
"""Logits held at once where top-k and top-p need whole rows of them (16 MiB)."""


class TokenStatistics(NamedTuple):
    """What a model says of each completion token, under the distribution that is sampled. Nats."""

    logprobs: Float[Array, "B T"]
    entropies: Float[Array, "B T"]
    normalizers: Float[Array, "B T"]
    """log sum exp of the tempered logits that can be drawn: a token's logit less its logprob."""


def sampled_logits(
    logits: Float[Array, "N V"],
    sampling: Sampling,
    vocabulary: int,
    drawn: Int[Array, " N"] | None = None,
    allowed: UInt32[Array, "N W"] | None = None,
) -> Float[Array, "N V"]:
    """The logits of the distribution that is sampled: tempered, cut to top-k and top-p, without padded entries.

    What cannot be drawn is -inf. The sampler draws from this and `token_scores` measures it, so both agree on what a
    log-probability is. Temperature 0 (greedy) keeps the logits as they are.

    Args:
        logits: of the model, float32.
        sampling: `temperature`, `top_k` and `top_p`, for all rows or for each.
        vocabulary: tokens that exist; later columns only pad the matrix.
        drawn: the tokens that were drawn, which the cut then keeps: rounding, an update or another model's opinion can
            move one out of it, and of a probability of 0 neither ratio nor divergence would be finite.
        allowed: the mask of each row, as one of `Allowed.table`; top-k and top-p choose among what it allows.

    Raises:
        ValueError: the masks have fewer bits than there are tokens.
    """
    size = logits.shape[1]
    columns = jnp.arange(size)
    possible = jnp.broadcast_to(columns < vocabulary, logits.shape)
    if allowed is not None:
        words = padded_words(allowed, size, vocabulary)
        possible &= allowed_columns(words, jnp.arange(logits.shape[0]), 0, size)
    logits = logits / divisor(sampling)[..., None]

    def cut(logits: Array, possible: Array) -> Array:
        masked = jnp.where(possible, jax.lax.stop_gradient(logits), -jnp.inf)
        return possible & (logits >= least_kept(masked, sampling)[:, None])

    possible = jax.lax.cond(is_cut(sampling), cut, lambda _, possible: possible, logits, possible)
    if drawn is not None:
        possible |= (columns == drawn[:, None]) & (columns < vocabulary)
    return jnp.where(possible, logits, -jnp.inf)


def logit_scores(
    logits: Float[Array, "N V"], tokens: Int[Array, " N"]
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Log-probability of each token and entropy of its distribution, in nats. -inf marks what cannot be drawn."""
    normalizer = jax.nn.logsumexp(logits, axis=1)
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
    logprobs = jnp.where(jnp.isneginf(logits), tiles.NOTHING, logits - normalizer[:, None])
    return chosen - normalizer, -(jnp.exp(logprobs) * logprobs).sum(axis=1)


def head_logits(hidden: Float[Array, "N D"], head: Float[Array, "V D"]) -> Float[Array, "N V"]:
    """`hidden @ head.T` in the dtype of `hidden`, accumulated and returned in float32."""
    return tiles.product(hidden, head.astype(hidden.dtype), (1, 1))


def token_scores(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V D"],
    tokens: Int[Array, "B T"],
    sampling: Sampling,
    *,
    vocabulary: int,
    allowed: Allowed | None = None,
    mesh: Mesh | None = None,
) -> TokenScores:
    """Log-probability and entropy of each completion token, [B, T] in nats, under the distribution that is sampled.

    `token_statistics` without the normalizers; see there.
    """
    scores = token_statistics(hidden, head, tokens, sampling, vocabulary=vocabulary, allowed=allowed, mesh=mesh)
    return TokenScores(scores.logprobs, scores.entropies)


def token_statistics(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V D"],
    tokens: Int[Array, "B T"],
    sampling: Sampling,
    *,
    vocabulary: int,
    allowed: Allowed | None = None,
    mesh: Mesh | None = None,
) -> TokenStatistics:
    """Log-probability, entropy and normalizer of each completion token, under the distribution that is sampled.

        z = (hidden @ head.T) / temperature, -inf for what cannot be drawn (`sampled_logits`)
        logprob = z[token] - log sum exp z,  entropy = -sum p log p,  p = softmax(z)

    Works in tiles of tokens x vocabulary and keeps three numbers per token, so that memory grows with neither
    B * T * V nor V. The gradient computes each tile again:

        d logprob / d z_v = [v = token] - p_v,  d entropy / d z_v = -p_v (log p_v + entropy)

    It is taken with respect to `hidden` and `head` only (reverse mode), multiplied in the dtype of `hidden` and added
    up in float32. A token on whose scores nothing depends has no effect on it, whatever its hidden state, infinite or
    NaN.

    On a mesh each device scores its rows against its part of the vocabulary; only a few numbers per token, the
    gradient of `hidden`, and a tile of the head at a time (over `fsdp`) travel between devices.

    Args:
        hidden: `hidden[b, t]` predicts `tokens[b, t]` (`Decoder.extend` shifts them). Products are made in its dtype.
        head: row v gives the logit of token v; on a mesh, placed as `spec("vocab", "embed")`.
        tokens: the completions, which stay possible whatever is cut or masked. Off their mask any valid token will do.
        sampling: temperature, top-k and top-p of the rollout. With top-k or top-p the logits are computed once more,
            and the head is gathered once for every few tokens.
        vocabulary: tokens that exist; later rows of the head only pad it.
        allowed: the tokens that a grammar left to choose from; None is all.
        mesh: the mesh over which the arrays are spread by row; None if they are on one device.

    Raises:
        ValueError: the mesh does not divide the rows or prompts, or the masks have fewer bits than there are tokens.
    """
    for name, count in (
        ("rows", tokens.shape[0]),
        ("prompts' masks", 0 if allowed is None else allowed.table.shape[0]),
    ):
        if mesh is not None and count % row_shards(mesh):
            raise ValueError(f"{count} {name} cannot be spread evenly over {row_shards(mesh)} shards of the mesh.")
    plan = tiles.Plan(vocabulary, COLUMN_TILE, ROW_TILE, WHOLE_ROW_NUMBERS, mesh)
    sampling = jax.lax.stop_gradient(sampling)
    uncut = jnp.full(tokens.shape, -jnp.inf)
    table, index = (None, None) if allowed is None else _masks(allowed, head.shape[0], vocabulary, mesh)
    drawn = tiles.Tokens(tokens, uncut, index)
    shared = tiles.Shared(divisor(sampling), table)
    find_cuts = _on_mesh(mesh, functools.partial(tiles.cuts, plan), (*_INPUTS, Spec()), _ROWS)
    fixed = jax.lax.stop_gradient((hidden, head))
    cuts = jax.lax.cond(is_cut(sampling), lambda: find_cuts(*fixed, drawn, shared, sampling), lambda: uncut)
    return _statistics(plan, hidden, head, drawn._replace(cuts=cuts), shared)


_ROWS = spec("rows")
_HEAD = spec("vocab", "embed")
_INPUTS = (_ROWS, _HEAD, _ROWS, tiles.Shared(Spec(), _ROWS))
"""Where hidden states, head, tokens, and what tokens share are placed."""


def _masks(
    allowed: Allowed, columns: int, vocabulary: int, mesh: Mesh | None
) -> tuple[UInt32[Array, "N U"], Int[Array, "B T"]]:
    """The masks of all prompts in one table, and where each token's is in the part of it that its device has."""
    prompts, masks, words = allowed.table.shape
    here = prompts // (1 if mesh is None else row_shards(mesh))
    prompt = jnp.arange(allowed.index.shape[0]) // (allowed.index.shape[0] // prompts)
    table = padded_words(allowed.table.reshape(-1, words), columns, vocabulary)
    return table, allowed.index + (prompt % here * masks)[:, None]


def _on_mesh(mesh: Mesh | None, function, inputs, outputs):
    """`function` on each device's share."""
    if mesh is None:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _statistics(plan: tiles.Plan, hidden: Array, head: Array, tokens: tiles.Tokens, shared: tiles.Shared):
    return _statistics_forward(plan, hidden, head, tokens, shared)[0]


def _statistics_forward(plan: tiles.Plan, hidden: Array, head: Array, tokens: tiles.Tokens, shared: tiles.Shared):
    score = _on_mesh(plan.mesh, functools.partial(tiles.forward, plan), _INPUTS, (_ROWS, _ROWS))
    logprobs, shape = score(hidden, head, tokens, shared)
    statistics = TokenStatistics(logprobs, shape.entropies, shape.top + shape.log_total)
    return statistics, (hidden, head, tokens, shared, shape)


def _statistics_backward(plan: tiles.Plan, saved: tuple, slopes: TokenStatistics):
    differentiate = _on_mesh(
        plan.mesh, functools.partial(tiles.backward, plan), (*_INPUTS, _ROWS, _ROWS), (_ROWS, _HEAD)
    )
    return *differentiate(*saved, tiles.Slopes(*slopes)), None, None


_statistics.defvjp(_statistics_forward, _statistics_backward)


def length_mask(lengths: Int[Array, " B"], length: int) -> Bool[Array, "B T"]:
    """True on the first `lengths[b]` of `length` positions."""
    return jnp.arange(length) < lengths[:, None]
