"""The loss of an update, put together from the settings of the algorithm."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxfc.aggregation import constant_weights, sequence_mean_weights, token_mean_weights
from jaxfc.algorithm import Algorithm
from jaxfc.kl import k1_kl, k2_kl, k3_kl
from jaxfc.logprobs import length_mask
from jaxfc.losses import (
    Parts,
    cispo_terms,
    clip_cov_terms,
    clipped_policy_terms,
    gspo_terms,
    gspo_token_terms,
    kl_cov_terms,
    reinforce_terms,
    token_means,
    weighted_loss,
)
from jaxfc.types import Metrics, TokenScores, TrainBatch
from jaxfc.variants import (
    Cispo,
    Clip,
    ClipCov,
    Constant,
    Gspo,
    GspoToken,
    KlCov,
    Reinforce,
    SequenceMean,
    TokenMean,
)


class Counts(NamedTuple):
    """What the means of an update are over, counted on its whole mini-batch: what micro-batches add up to."""

    tokens: Int[Array, ""]
    """At least 1."""
    completions: Int[Array, ""]
    """Those with a token; at least 1."""


class Tally(NamedTuple):
    """Metrics of a part of a mini-batch, and how they add up."""

    sums: Metrics
    """Add up."""
    tops: Metrics
    """The largest of all parts is that of the whole."""

    def __add__(self, other: "Tally") -> "Tally":
        sums = {name: value + other.sums[name] for name, value in self.sums.items()}
        return Tally(sums, {name: jnp.maximum(value, other.tops[name]) for name, value in self.tops.items()})


def count(lengths: Int[Array, " B"]) -> Counts:
    """Tokens and completions of a mini-batch."""
    return Counts(jnp.maximum(lengths.sum(), 1), jnp.maximum((lengths > 0).sum(), 1))


def policy_objective(
    scores: TokenScores, batch: TrainBatch, counts: Counts, config: Algorithm
) -> tuple[Float[Array, ""], Tally]:
    """The loss to minimise on these rows, which may be one micro-batch of those counted.

        L = sum over tokens of w_t (weight_t surrogate_t + kl_coefficient KL_t - entropy_coefficient H_t)

    w is what the aggregation says; the rest is of `losses.weighted_loss`.

    Args:
        scores: of the completions under the policy being trained; differentiated.
        batch: the rows.
        counts: of the whole mini-batch.
        config: which surrogate, aggregation, KL and entropy.

    Returns:
        The loss, and the metrics of `weighted_loss` and of the surrogate, `kl/reference` (k3, whatever the estimator)
        where there is a KL, and where `old_logprobs` is the sampler's `kl/sampler` and `kl/sampler_max_gap`.
    """
    mask = length_mask(batch.lengths, batch.completions.shape[1])
    advantages = batch.advantages if batch.advantages.ndim == 2 else batch.advantages[:, None]
    terms, parts = surrogate_terms(scores.logprobs, batch, jnp.broadcast_to(advantages, mask.shape), mask, config)
    if batch.weights is not None:
        terms = jnp.where(mask, batch.weights, 0.0) * terms
    kl = None
    if config.kl_coefficient:
        kl = _estimate_kl(scores.logprobs, batch.reference_logprobs, mask, config)
        parts["kl/reference"] = k3_kl(scores.logprobs, batch.reference_logprobs, mask)
    loss, metrics = weighted_loss(
        terms,
        token_weights(mask, counts, config),
        mask,
        kl=kl,
        kl_coefficient=config.kl_coefficient,
        entropies=scores.entropies if config.entropy_coefficient else None,
        entropy_coefficient=config.entropy_coefficient,
    )
    tops = {}
    if config.old_logprobs == "sampler":
        parts["kl/sampler"] = k3_kl(batch.old_logprobs, scores.logprobs, mask)
        tops["kl/sampler_max_gap"] = jnp.abs(jnp.where(mask, batch.old_logprobs - scores.logprobs, 0.0)).max()
    return loss, Tally(metrics | token_means(parts, mask, normalizer=counts.tokens), tops)


def surrogate_terms(
    logprobs: Float[Array, "B T"],
    batch: TrainBatch,
    advantages: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    config: Algorithm,
) -> tuple[Float[Array, "B T"], Parts]:
    """The surrogate of the settings, token by token, and each token's part in its metrics."""
    given = logprobs, batch.old_logprobs, advantages, mask
    match config.chosen_surrogate:
        case Clip(low=low, high=high, dual=dual):
            return clipped_policy_terms(*given, clip_low=low, clip_high=high, dual_clip=dual)
        case Gspo(low=low, high=high):
            return gspo_terms(*given, clip_low=low, clip_high=high)
        case GspoToken(low=low, high=high):
            return gspo_token_terms(*given, clip_low=low, clip_high=high)
        case Cispo(low=low, high=high):
            return cispo_terms(*given, clip_low=low, clip_high=high)
        case ClipCov(low=low, high=high):
            return clip_cov_terms(*given, batch.selected, clip_low=low, clip_high=high)
        case KlCov(coefficient=coefficient):
            return kl_cov_terms(*given, batch.selected, coefficient=coefficient)
        case Reinforce():
            return reinforce_terms(logprobs, advantages, mask)


def token_weights(mask: Bool[Array, "B T"], counts: Counts, config: Algorithm) -> Float[Array, "B T"]:
    """What each token weighs, as the aggregation of the settings says."""
    match config.chosen_aggregation:
        case TokenMean():
            return token_mean_weights(mask, tokens=counts.tokens)
        case SequenceMean():
            return sequence_mean_weights(mask, sequences=counts.completions)
        case Constant(tokens=tokens):
            return constant_weights(mask, constant=counts.completions * tokens)


def _estimate_kl(
    logprobs: Float[Array, "B T"], reference: Float[Array, "B T"], mask: Bool[Array, "B T"], config: Algorithm
) -> Float[Array, "B T"]:
    match config.kl_estimator:
        case "k1":
            return k1_kl(logprobs, reference, mask)
        case "k2":
            return k2_kl(logprobs, reference, mask)
        case "k3":
            return k3_kl(logprobs, reference, mask)
