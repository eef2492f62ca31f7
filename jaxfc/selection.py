"""Which tokens of a batch a loss singles out: those of highest entropy, or of highest covariance.

Each function ranks the tokens of the rows it is given. Called on a whole rollout batch, with its old log-probabilities
and entropies, it gives a mask to cut into micro-batches along with the rest, and the update does not depend on the cut.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, UInt32


def top_fraction(values: Float[Array, "B T"], mask: Bool[Array, "B T"], *, fraction: float) -> Bool[Array, "B T"]:
    """The tokens with the highest values: max(1, floor(fraction * N)) of the N on the mask, and any that tie with them.

    With entropies and a fraction of 0.2 these are the tokens of the 80/20 rule: multiply the surrogate's terms by them
    and leave the weights, whose normaliser counts all tokens, alone. With covariances they are those of KL-Cov.

    Args:
        values: what to rank by, such as entropies in nats; not differentiated.
        mask: True on the tokens that count. Values off it have no effect; none of them is selected.
        fraction: part of the tokens to select, at most 1.

    References: 80/20, arXiv:2506.01939, section 5; KL-Cov, arXiv:2505.22617, eq. 13.
    """
    return _largest(_sortable(values), mask, _part(fraction, mask))


def covariances(
    logprobs: Float[Array, "B T"],
    advantages: Float[Array, " B"] | Float[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> Float[Array, "B T"]:
    """How each token takes part in the covariance of log-probability and advantage; 0 off the mask.

        cov_t = (logprob_t - mean(logprob)) * (A_t - mean(A))          means over the mask

    A likely token with a high advantage has a high one, and such tokens are what lowers the policy's entropy. The paper
    takes log-probabilities at the update; those from before it are equal at the first update of a batch, and do not
    depend on micro-batches.

    Args:
        logprobs: each token, in nats; not differentiated.
        advantages: of each completion, used on all its tokens, or of each token; not differentiated.
        mask: True on the tokens that count. Values off it have no effect.

    References: arXiv:2505.22617, eq. 10.
    """
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    return _centred(logprobs, mask) * _centred(jnp.broadcast_to(advantages, mask.shape), mask)


def random_between(
    key: Key[Array, ""],
    values: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    fraction: float,
    low: float,
    high: float,
) -> Bool[Array, "B T"]:
    """Tokens drawn at random among those with low <= value <= high: the tokens that Clip-Cov detaches.

    As many as max(1, floor(fraction * N)) of the N on the mask, or all candidates when there are fewer.

    Args:
        key: decides the draw.
        values: of `covariances`; not differentiated.
        mask: True on the tokens that count. Values off it have no effect; none of them is selected.
        fraction: part of all tokens to select; 2e-4 in the paper.
        low: the smallest value of a candidate; 1 in the paper's code.
        high: the largest; 5 in the paper's code.

    References: Clip-Cov, arXiv:2505.22617, eq. 11.
    """
    values = jax.lax.stop_gradient(values)
    candidates = mask & (low <= values) & (values <= high)
    return _largest(jax.random.bits(key, values.shape, "uint32"), candidates, _part(fraction, mask))


def _centred(values: Float[Array, "B T"], mask: Bool[Array, "B T"]) -> Float[Array, "B T"]:
    values = jnp.where(mask, jax.lax.stop_gradient(values), 0.0)
    return jnp.where(mask, values - values.sum() / jnp.maximum(mask.sum(), 1), 0.0)


def _part(fraction: float, mask: Bool[Array, "B T"]):
    return jnp.maximum(jnp.floor(fraction * mask.sum()).astype(jnp.int32), 1)


def _sortable(values: Float[Array, "B T"]) -> UInt32[Array, "B T"]:
    """Integers in the order of the values."""
    values = jax.lax.stop_gradient(values).astype(jnp.float32)
    # -0 and 0 are one value and two patterns of bits.
    bits = jax.lax.bitcast_convert_type(jnp.where(values == 0, 0.0, values), jnp.uint32)
    sign = jnp.uint32(1 << 31)
    return jnp.where(bits & sign, ~bits, bits | sign)


def _largest(keys: UInt32[Array, "B T"], mask: Bool[Array, "B T"], count) -> Bool[Array, "B T"]:
    """The `count` largest keys on the mask, and any that tie with the smallest of them.

    Their threshold is found bit by bit, each by a count over the batch: a sort would gather a sharded batch.
    """

    def settle(place, threshold):
        raised = threshold | (jnp.uint32(1 << 31) >> place.astype(jnp.uint32))
        return jnp.where((mask & (keys >= raised)).sum() >= count, raised, threshold)

    return mask & (keys >= jax.lax.fori_loop(0, 32, settle, jnp.uint32(0)))
