"""Hidden states -> log-probabilities and entropies of completion tokens, tile by tile, never [B, T, V]."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxfc.types import Sampling, TokenScores

TILE_NUMBERS = 2**24
"""Logits held at once: a tile has as many tokens as fit (64 MiB in float32)."""


def sampled_logits(
    logits: Float[Array, "N V"], sampling: Sampling, vocabulary: int, drawn: Int[Array, " N"] | None = None
) -> Float[Array, "N V"]:
    """The logits of the distribution that is sampled: tempered, cut to top-k and top-p, without padded entries.

    What cannot be drawn is -inf. The sampler draws from this and `token_scores` measures it, so both agree on what a
    log-probability is. Temperature 0 (greedy) keeps the logits as they are.

    Args:
        logits: of the model, float32.
        sampling: `temperature`, `top_k` and `top_p`.
        vocabulary: tokens that exist; later columns only pad the matrix.
        drawn: the tokens that were drawn, which the cut then keeps: rounding, an update or another model's opinion can
            move one out of it, and of a probability of 0 neither ratio nor divergence would be finite.
    """
    size = logits.shape[1]
    if vocabulary < size:
        logits = jnp.where(jnp.arange(size) < vocabulary, logits, -jnp.inf)
    logits = logits / jnp.where(sampling.temperature > 0, sampling.temperature, 1.0)
    active = (sampling.top_k > 0) | (sampling.top_p < 1)
    return jax.lax.cond(active, _truncate, lambda logits, *_: logits, logits, sampling, drawn)


def _truncate(logits: Float[Array, "N V"], sampling: Sampling, drawn: Int[Array, " N"] | None) -> Float[Array, "N V"]:
    """Keep the top_k likeliest tokens, and of those the fewest that have probability top_p together."""
    falling = jnp.sort(jax.lax.stop_gradient(logits), axis=1, descending=True)
    rank = jnp.arange(logits.shape[1])
    falling = jnp.where((sampling.top_k > 0) & (rank >= sampling.top_k), -jnp.inf, falling)
    probabilities = jax.nn.softmax(falling, axis=1)
    before = jnp.cumsum(probabilities, axis=1) - probabilities
    # The likeliest token stays whatever top_p is, or a row would have nothing to draw.
    kept = (jnp.isfinite(falling) & (before < sampling.top_p)) | (rank == 0)
    possible = logits >= jnp.min(jnp.where(kept, falling, jnp.inf), axis=1, keepdims=True)
    if drawn is not None:
        possible |= jnp.arange(logits.shape[1]) == drawn[:, None]
    return jnp.where(possible, logits, -jnp.inf)


def logit_scores(
    logits: Float[Array, "N V"], tokens: Int[Array, " N"]
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Log-probability of each token and entropy of its distribution, in nats. -inf marks what cannot be drawn."""
    normalizer = jax.nn.logsumexp(logits, axis=1)
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
    probabilities = jnp.exp(logits - normalizer[:, None])
    finite = jnp.where(jnp.isfinite(logits), logits, 0.0)
    return chosen - normalizer, normalizer - (probabilities * finite).sum(axis=1)


def head_logits(hidden: Float[Array, "N D"], head: Float[Array, "D V"]) -> Float[Array, "N V"]:
    """`hidden @ head` in the dtype of `hidden`, accumulated and returned in float32."""
    return jnp.matmul(hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)


def token_scores(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "D V"],
    tokens: Int[Array, "B T"],
    sampling: Sampling,
    *,
    vocabulary: int,
) -> TokenScores:
    """Log-probability and entropy of each completion token, [B, T] in nats, under the distribution that is sampled.

    Works through the tokens in tiles of [tile, V] and recomputes each tile in the backward pass, so that memory does
    not grow with B * T * V. Differentiable in `hidden` and `head`.

    Args:
        hidden: `hidden[b, t]` predicts `tokens[b, t]` (`Decoder.extend` shifts them).
        head: hidden state -> logits.
        tokens: the completions. Off their mask any valid token will do.
        sampling: temperature, top-k and top-p of the rollout.
        vocabulary: tokens that exist; later columns of the head only pad it.
    """

    @jax.checkpoint
    def score_tile(tile):
        hidden, tokens = tile
        return logit_scores(sampled_logits(head_logits(hidden, head), sampling, vocabulary, tokens), tokens)

    count, width = tokens.size, hidden.shape[-1]
    size = min(count, max(1, TILE_NUMBERS // head.shape[1]))
    if size == count:
        scores = score_tile((hidden.reshape(count, width), tokens.reshape(count)))
    else:
        padding = -count % size
        flat_hidden = jnp.pad(hidden.reshape(count, width), ((0, padding), (0, 0)))
        flat_tokens = jnp.pad(tokens.reshape(count), (0, padding))
        scores = jax.lax.map(score_tile, (flat_hidden.reshape(-1, size, width), flat_tokens.reshape(-1, size)))
    return TokenScores(*(score.reshape(-1)[:count].reshape(tokens.shape) for score in scores))


def length_mask(lengths: Int[Array, " B"], length: int) -> Bool[Array, "B T"]:
    """True on the first `lengths[b]` of `length` positions."""
    return jnp.arange(length) < lengths[:, None]
