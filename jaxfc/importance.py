"""Importance weights between the policy that sampled and the one that is trained, when their numbers differ.

A weight multiplies the surrogate's loss of a token; the KL and entropy terms are left alone. Weights are ratios, of
tokens or of whole completions, made harmless by `truncated` or `masked`. They need no batch: micro-batches may be
weighted apart.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def token_ratios(
    logprobs: Float[Array, "B T"], sampler_logprobs: Float[Array, "B T"], mask: Bool[Array, "B T"]
) -> Float[Array, "B T"]:
    """How much likelier each token is to the trainer than to the sampler; 0 off the mask. Not differentiated.

        w_t = exp(logprobs - sampler_logprobs)

    Of low variance, but biased: it corrects the token and not what led to it.

    Args:
        logprobs: each token under the trainer before this update (`old_logprobs`), in nats.
        sampler_logprobs: the same as the sampler computed it.
        mask: True on the tokens that count. Values off it have no effect.

    References: F. Yao et al., "Your efficient RL framework secretly brings you off-policy RL training", 2025.
    """
    return jnp.where(mask, jnp.exp(_log_ratios(logprobs, sampler_logprobs, mask)), 0.0)


def sequence_ratios(
    logprobs: Float[Array, "B T"], sampler_logprobs: Float[Array, "B T"], mask: Bool[Array, "B T"]
) -> Float[Array, "B T"]:
    """How much likelier each completion is to the trainer than to the sampler, on each of its tokens; 0 off the mask.

        w = exp(sum over t of logprobs - sampler_logprobs)

    Unbiased, but its variance grows with the length. It may be infinite, which `truncated` and `masked` both end.
    Not differentiated. Arguments as of `token_ratios`.

    References: J. Liu et al., "When speed kills stability", 2025, section 4.2.
    """
    total = _log_ratios(logprobs, sampler_logprobs, mask).sum(axis=1, keepdims=True)
    return jnp.where(mask, jnp.exp(total), 0.0)


def truncated(ratios: Float[Array, "B T"], *, cap: float) -> Float[Array, "B T"]:
    """Truncated importance sampling: min(w, cap).

    Args:
        ratios: w, of `token_ratios` or `sequence_ratios`.
        cap: the largest weight.

    References: IMPALA, arXiv:1802.01561, section 4.1; between sampler and trainer, F. Yao et al., 2025.
    """
    return jnp.minimum(ratios, cap)


def masked(ratios: Float[Array, "B T"], *, low: float, high: float) -> Float[Array, "B T"]:
    """Masked importance sampling: w where low <= w <= high, else 0, so that outliers are left out of the update.

    Args:
        ratios: w, of `token_ratios` or `sequence_ratios`.
        low: the smallest weight that is kept; 0 leaves no small one out.
        high: the largest.

    References: IcePop, arXiv:2510.18855, section 3; of completions, J. Liu et al., 2025.
    """
    return jnp.where((low <= ratios) & (ratios <= high), ratios, 0.0)


def importance_parts(ratios: Float[Array, "B T"], weights: Float[Array, "B T"]) -> dict[str, Float[Array, "B T"]]:
    """Each token's part in the metrics `importance/weight_mean` and `importance/changed` (1: not the ratio)."""
    return {"importance/weight_mean": weights, "importance/changed": (weights != ratios).astype(jnp.float32)}


def _log_ratios(logprobs, sampler_logprobs, mask):
    return jnp.where(mask, jax.lax.stop_gradient(logprobs - sampler_logprobs), 0.0)
