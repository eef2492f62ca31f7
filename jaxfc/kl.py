"""Estimates of KL(policy || reference), token by token, from log-probabilities of sampled tokens.

As numbers, all three estimate the same KL. As losses they differ: over tokens sampled from the policy, the gradient of
k1 is 0 on average, that of k2 is the gradient of KL(policy || reference), and that of k3 is the gradient of
KL(reference || policy).

References: J. Schulman, "Approximating KL divergence", 2020; the gradients, arXiv:2506.09477.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def k1_kl(
    logprobs: Float[Array, "B T"], reference_logprobs: Float[Array, "B T"], mask: Bool[Array, "B T"]
) -> Float[Array, "B T"]:
    """The plain estimate, in nats: unbiased, of high variance, negative for some tokens; 0 off the mask.

        k1 = logprobs - reference_logprobs

    Args:
        logprobs: each token under the policy, which sampled it, in nats.
        reference_logprobs: the same under the reference; not differentiated.
        mask: True on the tokens that count. Values off it have no effect.

    References: J. Schulman, "Approximating KL divergence", 2020.
    """
    return -_difference(logprobs, reference_logprobs, mask)


def k2_kl(
    logprobs: Float[Array, "B T"], reference_logprobs: Float[Array, "B T"], mask: Bool[Array, "B T"]
) -> Float[Array, "B T"]:
    """Half the squared log-ratio, in nats: biased, of low variance, never negative; 0 off the mask.

        k2 = (logprobs - reference_logprobs)^2 / 2

    On average over tokens sampled from the policy, its gradient is that of KL(policy || reference). Arguments as of
    `k1_kl`.

    References: J. Schulman, "Approximating KL divergence", 2020; arXiv:2506.09477.
    """
    return _difference(logprobs, reference_logprobs, mask) ** 2 / 2


def k3_kl(
    logprobs: Float[Array, "B T"], reference_logprobs: Float[Array, "B T"], mask: Bool[Array, "B T"]
) -> Float[Array, "B T"]:
    """The estimate of GRPO, in nats: unbiased, of low variance, never negative; 0 off the mask.

        k3 = exp(d) - d - 1          d = reference_logprobs - logprobs

    On average over tokens sampled from the policy, its gradient is that of KL(reference || policy). Arguments as of
    `k1_kl`.

    References: J. Schulman, "Approximating KL divergence", 2020; GRPO, arXiv:2402.03300, eq. 4.
    """
    difference = _difference(logprobs, reference_logprobs, mask)
    # expm1 keeps the digits that exp(d) - 1 loses for the small d of a policy near its reference.
    return jnp.expm1(difference) - difference


def _difference(logprobs, reference_logprobs, mask):
    return jnp.where(mask, jax.lax.stop_gradient(reference_logprobs) - logprobs, 0.0)
