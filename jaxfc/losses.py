"""Log-probabilities and advantages -> loss.

A surrogate (`clipped_policy_terms` and its kin) gives each token's loss, a function of `aggregation` says what each
token weighs, and `weighted_loss` puts them together with the KL and the entropy:

    terms, parts = gspo_terms(logprobs, old_logprobs, advantages, mask, clip_low=3e-4, clip_high=4e-4)
    weights = sequence_mean_weights(mask, sequences=sequences)
    loss, metrics = weighted_loss(terms, weights, mask)
    metrics |= token_means(parts, mask, normalizer=tokens)

What divides (`sequences` and `tokens` here) is counted over the whole batch and given by the caller: the losses,
metrics and gradients of micro-batches then add up to those of the batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Num

from jaxfc.aggregation import token_mean_weights
from jaxfc.kl import k3_kl
from jaxfc.types import Metrics

Parts = dict[str, Float[Array, "B T"]]
"""Each token's part in some metrics; 0 off the mask."""

LOG_RATIO_LIMIT = 20.0
"""Nats beyond which a ratio is no longer followed: it cannot overflow, and the gradient of such a token is 0."""


def masked_sum(values: Float[Array, "*axes"], mask: Bool[Array, "*axes"]) -> Float[Array, ""]:
    """Sum of the values on the mask. Values off it, even NaN, have no effect."""
    return jnp.where(mask, values, 0.0).sum()


def masked_mean(values: Float[Array, "*axes"], mask: Bool[Array, "*axes"]) -> Float[Array, ""]:
    """Mean of the values on the mask; 0 when the mask is empty. Values off it, even NaN, have no effect."""
    return masked_sum(values, mask) / jnp.maximum(mask.sum(), 1)


def clipped_policy_terms(
    logprobs: Float[Array, "B T"],
    old_logprobs: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[Float[Array, "B T"], Parts]:
    """PPO's clipped surrogate, token by token, as a loss.

        loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)          r = exp(logprobs - old_logprobs)
        with dual clip, where A < 0: min(loss, -dual_clip A)

    Args:
        logprobs: each token under the policy being trained, in nats.
        old_logprobs: the same under the policy before this update; not differentiated.
        advantages: credit of each token; not differentiated.
        mask: True on the tokens to train on. Values off the mask have no effect.
        clip_low: how far the ratio may fall below 1 before its gradient stops.
        clip_high: how far it may rise above 1; DAPO's clip-higher is 0.28 with 0.2 below.
        dual_clip: how large the ratio may become at a negative advantage, above 1; 3 in the paper, None is no bound.

    Returns:
        Each token's loss, and its part in `loss/clip_fraction` (1 where the clip lowers the surrogate) and
        `loss/ratio_mean`, and with dual clip `loss/dual_clip_fraction`; 0 off the mask.

    References: PPO, arXiv:1707.06347, eq. 7; clip-higher, DAPO, arXiv:2503.14476, eq. 10; dual clip, arXiv:1912.09729,
        "Dual-clip PPO".
    """
    ratios = jnp.exp(_log_ratios(logprobs, old_logprobs, mask))
    terms, parts = _clipped(ratios, advantages, mask, clip_low, clip_high)
    if dual_clip is None:
        return terms, parts
    bound = jnp.where(advantages < 0, -dual_clip * jax.lax.stop_gradient(advantages), jnp.inf)
    parts["loss/dual_clip_fraction"] = (bound < terms).astype(jnp.float32)
    return jnp.minimum(terms, bound), parts


def gspo_terms(
    logprobs: Float[Array, "B T"],
    old_logprobs: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Float[Array, "B T"], Parts]:
    """GSPO's surrogate: the clip acts on one ratio per completion, the geometric mean of its tokens' ratios.

        loss = -min(s A, clip(s, 1 - clip_low, 1 + clip_high) A)          s = exp(mean over t of log r_t)

    Each token carries the loss of its completion: with `sequence_mean_weights` and one advantage per completion the sum
    is the paper's mean over completions.

    Args:
        clip_low: how far s may fall below 1; 3e-4 in the paper.
        clip_high: how far s may rise above 1; 4e-4 in the paper.

    The others, and what is returned, as of `clipped_policy_terms`.

    References: GSPO, arXiv:2507.18071, eq. 5 and 7.
    """
    ratios = jnp.exp(_sequence_log_ratios(_log_ratios(logprobs, old_logprobs, mask), mask))
    return _clipped(jnp.broadcast_to(ratios, mask.shape), advantages, mask, clip_low, clip_high)


def gspo_token_terms(
    logprobs: Float[Array, "B T"],
    old_logprobs: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Float[Array, "B T"], Parts]:
    """GSPO-token: the value of GSPO, with the gradient of each token's own log-probability.

        loss = -min(s_t A_t, clip(s_t, 1 - clip_low, 1 + clip_high) A_t)
        s_t = sg(s) exp(logprob_t - sg(logprob_t))

    With one advantage per completion and `sequence_mean_weights` it equals `gspo_terms` in value and gradient; with
    advantages of tokens it gives each token its own. Arguments and what is returned as of `gspo_terms`.

    References: GSPO, arXiv:2507.18071, eq. 13 and 14.
    """
    log_ratios = _log_ratios(logprobs, old_logprobs, mask)
    own = log_ratios - jax.lax.stop_gradient(log_ratios)
    ratios = jnp.exp(jax.lax.stop_gradient(_sequence_log_ratios(log_ratios, mask)) + own)
    return _clipped(ratios, advantages, mask, clip_low, clip_high)


def cispo_terms(
    logprobs: Float[Array, "B T"],
    old_logprobs: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Float[Array, "B T"], Parts]:
    """CISPO's surrogate: REINFORCE under a clipped importance weight, so that no token loses its gradient.

        loss = -sg(clip(r, 1 - clip_low, 1 + clip_high)) A logprob

    Args:
        clip_low: how far the weight may fall below 1; 1 is no lower bound, as in the paper's runs.
        clip_high: how far it may rise above 1.

    The others as of `clipped_policy_terms`.

    Returns:
        Each token's loss, and its part in `loss/clip_fraction` (1 where the weight is clipped) and `loss/ratio_mean`.

    References: CISPO (MiniMax-M1), arXiv:2506.13585, eq. 4 and 5.
    """
    ratios = jax.lax.stop_gradient(jnp.exp(_log_ratios(logprobs, old_logprobs, mask)))
    weights = jnp.clip(ratios, 1 - clip_low, 1 + clip_high)
    terms, _ = reinforce_terms(logprobs, advantages, mask)
    return weights * terms, {
        "loss/clip_fraction": (weights != ratios).astype(jnp.float32),
        "loss/ratio_mean": jnp.where(mask, ratios, 0.0),
    }


def reinforce_terms(
    logprobs: Float[Array, "B T"], advantages: Float[Array, "B T"], mask: Bool[Array, "B T"]
) -> tuple[Float[Array, "B T"], Parts]:
    """REINFORCE, token by token: loss = -A logprob.

    RLOO is this with `leave_one_out_advantages`, summed over the tokens and averaged over the completions:
    `constant_weights(mask, constant=completions)`.

    Args:
        logprobs: each token under the policy being trained, which sampled it, in nats.
        advantages: credit of each token; not differentiated.
        mask: True on the tokens to train on. Values off the mask have no effect.

    Returns:
        Each token's loss, and no metrics.

    References: R. J. Williams, 1992; for language models, RLOO, arXiv:2402.14740, section 3.
    """
    return -jnp.where(mask, logprobs, 0.0) * _credit(advantages, mask), {}


def clip_cov_terms(
    logprobs: Float[Array, "B T"],
    old_logprobs: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    selected: Bool[Array, "B T"],
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Float[Array, "B T"], Parts]:
    """Clip-Cov: PPO's clipped surrogate, and 0 for a few tokens of high covariance.

        loss = 0 where selected, else that of `clipped_policy_terms`

    Args:
        selected: the tokens to leave out, of `selection.random_between` on the `selection.covariances` of the batch.

    The others as of `clipped_policy_terms`.

    Returns:
        Each token's loss, and its part in the metrics of `clipped_policy_terms` and in `loss/selected`.

    References: arXiv:2505.22617, eq. 12.
    """
    terms, parts = clipped_policy_terms(
        logprobs, old_logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high
    )
    parts["loss/selected"] = (mask & selected).astype(jnp.float32)
    return jnp.where(selected, 0.0, terms), parts


def kl_cov_terms(
    logprobs: Float[Array, "B T"],
    old_logprobs: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    selected: Bool[Array, "B T"],
    *,
    coefficient: float,
) -> tuple[Float[Array, "B T"], Parts]:
    """KL-Cov: the surrogate without a clip, and a penalty on the change of the tokens of highest covariance.

        loss = -r A + coefficient |log r| where selected, else -r A          r = exp(logprobs - old_logprobs)

    Args:
        selected: the tokens to hold back, of `selection.top_fraction` on the `selection.covariances` of the batch.
        coefficient: what a nat of change costs; 1 in the paper.

    The others as of `clipped_policy_terms`.

    Returns:
        Each token's loss, and its part in `loss/ratio_mean` and `loss/selected`.

    References: arXiv:2505.22617, eq. 14; |log r| for the KL as in the paper's listing.
    """
    log_ratios = _log_ratios(logprobs, old_logprobs, mask)
    ratios = jnp.exp(log_ratios)
    # JAX gives abs the gradient 1 at 0, where every token of a first update stands; this |log r| has 0 there.
    change = log_ratios * jax.lax.stop_gradient(jnp.sign(log_ratios))
    penalty = jnp.where(selected, coefficient * change, 0.0)
    return penalty - ratios * _credit(advantages, mask), {
        "loss/ratio_mean": jnp.where(mask, ratios, 0.0),
        "loss/selected": (mask & selected).astype(jnp.float32),
    }


def _credit(advantages, mask):
    return jnp.where(mask, jax.lax.stop_gradient(advantages), 0.0)


def _log_ratios(logprobs, old_logprobs, mask):
    # Off the mask the ratio may overflow, and 0 * inf is NaN in the backward pass.
    log_ratios = jnp.where(mask, logprobs - jax.lax.stop_gradient(old_logprobs), 0.0)
    return jnp.clip(log_ratios, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def _sequence_log_ratios(log_ratios: Float[Array, "B T"], mask: Bool[Array, "B T"]) -> Float[Array, "B 1"]:
    return log_ratios.sum(axis=1, keepdims=True) / jnp.maximum(mask.sum(axis=1, keepdims=True), 1)


def _clipped(ratios, advantages, mask, clip_low, clip_high) -> tuple[Float[Array, "B T"], Parts]:
    """-min(r A, clip(r) A), and where the clip lowers it."""
    advantages = _credit(advantages, mask)
    unclipped = ratios * advantages
    surrogate = jnp.minimum(unclipped, jnp.clip(ratios, 1 - clip_low, 1 + clip_high) * advantages)
    return -surrogate, {
        "loss/clip_fraction": (surrogate < unclipped).astype(jnp.float32),
        "loss/ratio_mean": jnp.where(mask, ratios, 0.0),
    }


def token_means(parts: Parts, mask: Bool[Array, "B T"], *, normalizer: Num[ArrayLike, ""]) -> Metrics:
    """Means over tokens of each token's parts in some metrics, which add up over micro-batches.

    Args:
        parts: as the surrogates return them. Values off the mask have no effect.
        mask: True on the tokens that count.
        normalizer: number of mask tokens of the whole batch.
    """
    return {name: masked_sum(part, mask) / jnp.maximum(normalizer, 1) for name, part in parts.items()}


def weighted_loss(
    terms: Float[Array, "B T"],
    weights: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    kl: Float[Array, "B T"] | None = None,
    kl_coefficient: float = 0.0,
    entropies: Float[Array, "B T"] | None = None,
    entropy_coefficient: float = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """A policy loss from its parts: surrogate, KL to the reference, and a bonus for entropy.

        L = sum over mask of weights * (terms + kl_coefficient * kl - entropy_coefficient * entropies)

    Args:
        terms: of a surrogate, such as `clipped_policy_terms`; importance weights and masks of selected tokens are
            multiplied into them.
        weights: of `token_mean_weights`, `sequence_mean_weights` or `constant_weights`; not differentiated.
        mask: True on the tokens to train on. Values off it have no effect.
        kl: of `kl.k3_kl` or its kin, in nats; None leaves it out.
        kl_coefficient: beta, the weight of the KL.
        entropies: of each token's distribution under the policy being trained, in nats, differentiated; None leaves
            them out.
        entropy_coefficient: c, what a nat of entropy is worth.

    Returns:
        The loss to minimise, and the metrics `loss/total`, `loss/policy`, and for what is given `loss/kl` and
        `loss/entropy` (the weighted sums, before their coefficients). All add up over micro-batches.

    References: GRPO, arXiv:2402.03300, eq. 3; entropy bonus, PPO, arXiv:1707.06347, eq. 9.
    """
    weights = jax.lax.stop_gradient(weights)

    def weigh(values):
        return (jnp.where(mask, values, 0.0) * jnp.where(mask, weights, 0.0)).sum()

    loss = weigh(terms)
    metrics = {"loss/policy": loss}
    if kl is not None:
        metrics["loss/kl"] = weigh(kl)
        loss += kl_coefficient * metrics["loss/kl"]
    if entropies is not None:
        metrics["loss/entropy"] = weigh(entropies)
        loss -= entropy_coefficient * metrics["loss/entropy"]
    return loss, metrics | {"loss/total": loss}


def policy_loss(
    logprobs: Float[Array, "B T"],
    old_logprobs: Float[Array, "B T"],
    reference_logprobs: Float[Array, "B T"],
    advantages: Float[Array, " B"] | Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    clip_low: float,
    clip_high: float,
    kl_coefficient: float,
    normalizer: Num[ArrayLike, ""],
) -> tuple[Float[Array, ""], Metrics]:
    """The objective of GRPO and EGPO: the clipped surrogate plus the KL to the reference, as a mean over tokens.

        L = 1 / normalizer * sum over mask of [ -min(r A, clip(r) A) + kl_coefficient * k3 ]

    The mean is over tokens, so a long completion weighs more than a short one.

    Args:
        logprobs: each token under the policy being trained, in nats, at the sampling temperature.
        old_logprobs: the same under the policy before this update; not differentiated.
        reference_logprobs: the same under the frozen reference; not differentiated.
        advantages: credit of each completion, used on all its tokens, or of each token; not differentiated.
        mask: True on the tokens of the completions, the one that ends them included. Values off it have no effect.
        clip_low: how far the ratio may fall below 1 before its gradient stops.
        clip_high: how far it may rise above 1.
        kl_coefficient: beta, the weight of the KL term.
        normalizer: number of mask tokens of the whole batch, of which these rows may be one micro-batch.

    Returns:
        The loss to minimise, and the metrics `loss/total`, `loss/policy`, `loss/clip_fraction`, `loss/ratio_mean` and
        `kl/reference` (nats), which like the loss add up over micro-batches.

    References: GRPO, arXiv:2402.03300, eq. 3; token mean, DAPO, arXiv:2503.14476, section 3.3.
    """
    if advantages.ndim == 1:
        advantages = jnp.broadcast_to(advantages[:, None], mask.shape)
    terms, parts = clipped_policy_terms(
        logprobs, old_logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high
    )
    kl = k3_kl(logprobs, reference_logprobs, mask)
    weights = token_mean_weights(mask, tokens=normalizer)
    loss, metrics = weighted_loss(terms, weights, mask, kl=kl, kl_coefficient=kl_coefficient)
    metrics["kl/reference"] = metrics.pop("loss/kl")
    return loss, metrics | token_means(parts, mask, normalizer=normalizer)


def sft_loss(
    logprobs: Float[Array, "B T"], mask: Bool[Array, "B T"], *, normalizer: Num[ArrayLike, ""]
) -> tuple[Float[Array, ""], Metrics]:
    """Cross-entropy of the tokens on the mask, in nats per token.

        L = -1 / normalizer * sum over mask of logprobs

    Args:
        logprobs: each token under the model being trained, in nats, at temperature 1.
        mask: True on the tokens to learn: completions, the token that ends them included. Values off it have no effect.
        normalizer: number of mask tokens of the whole batch, of which these rows may be one micro-batch.

    Returns:
        The loss to minimise, and it again as the metric `loss/total`.
    """
    loss = -masked_sum(logprobs, mask) / normalizer
    return loss, {"loss/total": loss}
