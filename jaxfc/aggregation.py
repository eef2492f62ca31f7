"""What each token weighs in a policy loss: means over tokens, over completions, or a sum over a constant.

The numbers that divide are counted over the whole batch and given by the caller, so that micro-batches add up.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Num


def token_mean_weights(mask: Bool[Array, "B T"], *, tokens: Num[ArrayLike, ""]) -> Float[Array, "B T"]:
    """What each token weighs in a mean over tokens, in which a long completion weighs more than a short one.

        w = 1 / tokens on the mask, else 0

    Args:
        mask: True on the tokens to train on.
        tokens: N, of the mask of the whole batch.

    References: DAPO, arXiv:2503.14476, eq. 12.
    """
    return mask / jnp.maximum(tokens, 1)


def sequence_mean_weights(mask: Bool[Array, "B T"], *, sequences: Num[ArrayLike, ""]) -> Float[Array, "B T"]:
    """What each token weighs in a mean over completions of the mean over the tokens of each.

        w_it = 1 / (sequences * |o_i|) on the mask, else 0          |o_i| tokens of completion i

    Args:
        mask: True on the tokens to train on. A row without any weighs nothing.
        sequences: completions with at least one token in the whole batch.

    References: GRPO, arXiv:2402.03300, eq. 3.
    """
    return mask / (jnp.maximum(mask.sum(axis=1, keepdims=True), 1) * jnp.maximum(sequences, 1))


def constant_weights(mask: Bool[Array, "B T"], *, constant: Num[ArrayLike, ""]) -> Float[Array, "B T"]:
    """What each token weighs in a sum over tokens divided by a constant, whatever the lengths.

        w = 1 / constant on the mask, else 0

    Args:
        mask: True on the tokens to train on.
        constant: above 0. Dr.GRPO divides by the completions of the batch times the token limit, RLOO by the
            completions.

    References: Dr.GRPO, arXiv:2503.20783, section 3.2.
    """
    return mask / jnp.asarray(constant, jnp.float32)
