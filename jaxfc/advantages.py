"""Rewards and entropies -> advantages: GRPO's group advantage, and EGPO's entropy bonus on top of it."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxfc.types import Metrics

STD_EPSILON = 1e-6
"""Added to a group's standard deviation, so that a group of equal rewards divides by something."""


def group_advantages(rewards: Float[Array, "P G"]) -> Float[Array, "P G"]:
    """How far each reward lies from its group's mean, in standard deviations of the group.

        A = (r - mean(r)) / (std(r) + 1e-6)          std with ddof = 1

    A group of equal rewards ("dead") has advantage 0 exactly, whatever the reward.

    Args:
        rewards: one reward per rollout; a row is the group of one prompt, of at least 2 rollouts.

    References: GRPO, arXiv:2402.03300, section 4.1.2.
    """
    # Measured from the group's first reward, equal rewards are exact zeros; their float32 mean may miss them by an ulp.
    offsets = rewards - rewards[:, :1]
    centred = offsets - offsets.mean(axis=1, keepdims=True)
    return centred / (offsets.std(axis=1, ddof=1, keepdims=True) + STD_EPSILON)


def mean_cot_entropy(entropies: Float[Array, "B T"], cot_mask: Bool[Array, "B T"]) -> Float[Array, " B"]:
    """Mean entropy of each completion's chain of thought, in nats; 0 where it has no token of it.

    Args:
        entropies: of each token's distribution over the vocabulary, in nats, at the sampling temperature.
        cot_mask: True on the tokens of the chain of thought. Values off the mask, even NaN, have no effect.

    References: EGPO, arXiv:2508.05118v4, section 3.
    """
    total = jnp.where(cot_mask, entropies, 0.0).sum(axis=1)
    return total / jnp.maximum(cot_mask.sum(axis=1), 1)


def entropy_bonus(
    advantages: Float[Array, "P G"], cot_entropy: Float[Array, "P G"], *, scale: float, cap: float
) -> Float[Array, "P G"]:
    """What the entropy of its chain of thought adds to a rollout's advantage.

        bonus = min(scale * E, |A| / cap)

    So 0 <= bonus <= |A| / cap: a cap above 1 keeps the sign of A, and an advantage of 0 stays 0.

    Args:
        advantages: A, of each rollout within its group.
        cot_entropy: E, mean entropy of the rollout's chain of thought, in nats; not differentiated.
        scale: lambda, the advantage that one nat is worth.
        cap: alpha, the bonus is at most this part of |A|.

    References: EGPO, arXiv:2508.05118v4, eq. 5.
    """
    # Rounding can leave the entropy of a certain distribution just below 0.
    entropy = jnp.maximum(jax.lax.stop_gradient(cot_entropy), 0.0)
    return jnp.minimum(scale * entropy, jnp.abs(advantages) / cap)


def egpo_advantages(
    advantages: Float[Array, "P G"], cot_entropy: Float[Array, "P G"], *, scale: float, cap: float
) -> Float[Array, "P G"]:
    """A + min(scale * E, |A| / cap): the advantage of EGPO. Arguments as of `entropy_bonus`.

    References: EGPO, arXiv:2508.05118v4, eq. 5.
    """
    return advantages + entropy_bonus(advantages, cot_entropy, scale=scale, cap=cap)


def clipped_entropy_advantages(
    advantages: Float[Array, "P G"], cot_entropy: Float[Array, "P G"], *, scale: float, cap: float
) -> Float[Array, "P G"]:
    """A + scale * clip(E, -|A| / cap, |A| / cap): a variant in circulation, with the scale outside the cap.

    It differs from `egpo_advantages` where the cap binds, which here is already at E = |A| / cap. Arguments as of
    `entropy_bonus`.
    """
    limit = jnp.abs(advantages) / cap
    return advantages + scale * jnp.clip(jax.lax.stop_gradient(cot_entropy), -limit, limit)


def advantage_metrics(advantages: Float[Array, "P G"]) -> Metrics:
    """`advantage/abs_mean`: the mean of |A| over all rollouts, those of dead groups included."""
    return {"advantage/abs_mean": jnp.abs(advantages).mean()}


def entropy_metrics(
    advantages: Float[Array, "P G"], cot_entropy: Float[Array, "P G"], *, scale: float, cap: float
) -> Metrics:
    """How much the bonus of `entropy_bonus` is, and how often its cap binds.

    Args:
        advantages: before the bonus. A group is live if any of its advantages is not 0.
        cot_entropy: mean entropy of each rollout's chain of thought, in nats.
        scale: lambda.
        cap: alpha.

    Returns:
        `entropy/bonus_mean`, over all rollouts, and `entropy/cap_active`, the part of the live groups' rollouts in
        which scale * E exceeds |A| / cap (0 when no group is live).
    """
    live = jnp.broadcast_to((advantages != 0).any(axis=1, keepdims=True), advantages.shape)
    capped = live & (scale * cot_entropy > jnp.abs(advantages) / cap)
    return {
        "entropy/bonus_mean": entropy_bonus(advantages, cot_entropy, scale=scale, cap=cap).mean(),
        "entropy/cap_active": capped.sum() / jnp.maximum(live.sum(), 1),
    }


class NoSignal(RuntimeError):
    """The entropy bonus is on and cannot do anything."""


def require_signal(metrics: Mapping[str, float]):
    """Stop a run whose entropy bonus is silently 0, the known way to get this method wrong.

    Args:
        metrics: `reward/live_groups`, `entropy/live_cot_tokens` and `entropy/bonus_max` of one rollout batch.

    Raises:
        NoSignal: there are live groups, and none of their rollouts has a token of chain of thought, or no bonus is
            above 0.
    """
    if metrics["reward/live_groups"] == 0:
        return
    if metrics["entropy/live_cot_tokens"] == 0:
        raise NoSignal(
            "no rollout of a live group has a chain-of-thought token, so the entropy bonus is 0 for all and this run "
            "would be plain GRPO. Check that completions hold <think>...</think>, that prompt.opens_think says whether "
            "the prompt opens the block, or set algorithm.entropy=null for GRPO."
        )
    if metrics["entropy/bonus_max"] <= 0:
        raise NoSignal(
            "the entropy bonus is 0 for every rollout although algorithm.entropy is set: the entropies of the chain of "
            "thought are 0. Check rollout.temperature, or set algorithm.entropy=null for GRPO."
        )
