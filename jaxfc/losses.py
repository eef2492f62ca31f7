"""Log-probabilities and advantages -> loss.

Every loss is a sum over tokens divided by `normalizer`, the number of tokens of the whole batch: the losses, metrics
and gradients of micro-batches then add up to those of the batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Num

from jaxfc.types import Metrics


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
) -> tuple[Float[Array, "B T"], dict[str, Float[Array, "B T"]]]:
    """PPO's clipped surrogate, token by token, as a loss.

        loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)
        r = exp(logprobs - old_logprobs)

    Args:
        logprobs: each token under the policy being trained, in nats.
        old_logprobs: the same under the policy before this update; not differentiated.
        advantages: credit of each token; not differentiated.
        mask: True on the tokens to train on. Values off the mask have no effect.
        clip_low: how far the ratio may fall below 1 before its gradient stops.
        clip_high: how far it may rise above 1.

    Returns:
        Each token's loss, and each token's part in the metrics `loss/clip_fraction` (1 where the clip lowers the
        surrogate) and `loss/ratio_mean`; 0 off the mask.

    References: PPO, arXiv:1707.06347, eq. 7.
    """
    old_logprobs, advantages = jax.lax.stop_gradient((old_logprobs, advantages))
    # Off the mask the ratio may overflow, and 0 * inf is NaN in the backward pass.
    ratio = jnp.exp(jnp.where(mask, logprobs - old_logprobs, 0.0))
    advantages = jnp.where(mask, advantages, 0.0)
    unclipped = ratio * advantages
    surrogate = jnp.minimum(unclipped, jnp.clip(ratio, 1 - clip_low, 1 + clip_high) * advantages)
    return -surrogate, {
        "loss/clip_fraction": (surrogate < unclipped).astype(jnp.float32),
        "loss/ratio_mean": jnp.where(mask, ratio, 0.0),
    }


def k3_kl(
    logprobs: Float[Array, "B T"], reference_logprobs: Float[Array, "B T"], mask: Bool[Array, "B T"]
) -> Float[Array, "B T"]:
    """Estimate of KL(policy || reference) from each sampled token, in nats; never negative, 0 off the mask.

        k3 = exp(d) - d - 1          d = reference_logprobs - logprobs

    Unbiased for tokens sampled from the policy. The reference is not differentiated.

    References: J. Schulman, "Approximating KL divergence", 2020; GRPO, arXiv:2402.03300, eq. 4.
    """
    difference = jnp.where(mask, jax.lax.stop_gradient(reference_logprobs) - logprobs, 0.0)
    # expm1 keeps the digits that exp(d) - 1 loses for the small d of a policy near its reference.
    return jnp.expm1(difference) - difference


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
    policy, parts = clipped_policy_terms(
        logprobs, old_logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high
    )
    parts |= {"loss/policy": policy, "kl/reference": k3_kl(logprobs, reference_logprobs, mask)}
    metrics = {name: masked_sum(part, mask) / normalizer for name, part in parts.items()}
    metrics["loss/total"] = metrics["loss/policy"] + kl_coefficient * metrics["kl/reference"]
    return metrics["loss/total"], metrics


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
