"""Rewards and entropies -> advantages: what each completion, or each token, is worth, and which groups say anything."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxfc.types import Metrics

STD_EPSILON = 1e-6
"""Added to a standard deviation, so that a group of equal rewards divides by something."""


def centred_advantages(rewards: Float[Array, "P G"]) -> Float[Array, "P G"]:
    """How far each reward lies from its group's mean, in units of reward: the advantage of Dr.GRPO.

        A = r - mean(r)

    Undivided by the deviation, a group counts by how much its rewards differ. A group of equal rewards ("dead") has
    advantage 0 exactly, whatever the reward. Rewards are not differentiated.

    Args:
        rewards: one reward per rollout; a row is the group of one prompt.

    References: Dr.GRPO, arXiv:2503.20783, section 3.2.
    """
    # Measured from the group's first reward, equal rewards are exact zeros; their float32 mean may miss them by an ulp.
    rewards = jax.lax.stop_gradient(rewards)
    offsets = rewards - rewards[:, :1]
    return offsets - offsets.mean(axis=1, keepdims=True)


def group_advantages(rewards: Float[Array, "P G"], *, ddof: int = 1) -> Float[Array, "P G"]:
    """How far each reward lies from its group's mean, in standard deviations of the group: the advantage of GRPO.

        A = (r - mean(r)) / (std(r) + 1e-6)          std(r)^2 = sum (r - mean(r))^2 / (G - ddof)

    A group of equal rewards ("dead") has advantage 0 exactly, whatever the reward. Rewards are not differentiated.

    Args:
        rewards: one reward per rollout; a row is the group of one prompt.
        ddof: 1 is the deviation of a sample, as implementations have it; 0 that of the group, as papers write it.

    Raises:
        ValueError: a group has no more than `ddof` rollouts.

    References: GRPO, arXiv:2402.03300, section 4.1.2.
    """
    size = rewards.shape[1]
    if size <= ddof:
        raise ValueError(f"a group of {size} has no standard deviation with ddof={ddof}: it needs {ddof + 1} rollouts.")
    centred = centred_advantages(rewards)
    return centred / (centred.std(axis=1, ddof=ddof, keepdims=True) + STD_EPSILON)


def leave_one_out_advantages(rewards: Float[Array, "P G"]) -> Float[Array, "P G"]:
    """How far each reward lies from the mean of the others in its group: the advantage of RLOO.

        A_i = r_i - 1 / (G - 1) * sum over j != i of r_j  =  G / (G - 1) * (r_i - mean(r))

    The baseline of a rollout does not depend on its own reward, so the gradient is unbiased. A deviation of the others
    would divide by 0 whenever they agree, which a lone success or failure always meets; to normalise, use
    `whitened_advantages` on the result. Rewards are not differentiated.

    Args:
        rewards: one reward per rollout; a row is the group of one prompt.

    Raises:
        ValueError: a group has one rollout, and so no others.

    References: RLOO, arXiv:2402.14740, section 3.3.
    """
    size = rewards.shape[1]
    if size < 2:
        raise ValueError("a group of 1 has no other rollout to be compared with: leave-one-out needs at least 2.")
    return centred_advantages(rewards) * (size / (size - 1))


def whitened_advantages(advantages: Float[Array, "P G"], mask: Bool[Array, "P G"]) -> Float[Array, "P G"]:
    """Advantages of a whole batch brought to mean 0 and deviation 1, with one mean and one deviation for all groups.

        A' = (A - mean(A)) / (std(A) + 1e-6)          over the mask, std with ddof = 1

    It acts on the batch that it is given: call it before the batch is split. A batch of dead groups stays 0.

    Args:
        advantages: of `leave_one_out_advantages` or `centred_advantages`; not differentiated.
        mask: True on the rollouts that count. The others have no effect, and advantage 0.

    References: REINFORCE++, arXiv:2501.03262, section 3; normalised RLOO as in its public implementations.
    """
    advantages = jnp.where(mask, jax.lax.stop_gradient(advantages), 0.0)
    count = mask.sum()
    centred = jnp.where(mask, advantages - advantages.sum() / jnp.maximum(count, 1), 0.0)
    deviation = jnp.sqrt((centred**2).sum() / jnp.maximum(count - 1, 1))
    return centred / (deviation + STD_EPSILON)


def overlong_penalty(lengths: Int[Array, "*axes"], *, max_tokens: int, buffer: int) -> Float[Array, "*axes"]:
    """What a completion loses, in units of reward, for coming close to the token limit.

        penalty = 0                                     for length <= max_tokens - buffer
                  (max_tokens - buffer - length) / buffer          between
                  -1                                    for length >= max_tokens

    Add it to the rewards before they become advantages; select live groups by the rewards without it.

    Args:
        lengths: tokens of each completion, the one that ends it included.
        max_tokens: L_max, where a completion is cut.
        buffer: L_cache, over how many tokens before that the penalty grows.

    Raises:
        ValueError: the buffer is not within 1 and `max_tokens`.

    References: DAPO, arXiv:2503.14476, eq. 13.
    """
    if not 1 <= buffer <= max_tokens:
        raise ValueError(
            f"the overlong buffer is {buffer} tokens; with a limit of {max_tokens} it is 1 to {max_tokens}."
        )
    return jnp.clip((max_tokens - buffer - lengths) / buffer, -1.0, 0.0)


class GroupSelection(NamedTuple):
    """Groups to train on, in arrays whose shapes do not depend on how many are live."""

    order: Int[Array, " N"]
    """Indices into the P groups: the live ones first, each kind in its order."""
    live: Bool[Array, " N"]
    """True where `order` names a live group; the rest only fill the batch and are to be masked."""


def live_groups(rewards: Float[Array, "P G"]) -> Bool[Array, " P"]:
    """Which groups have unequal rewards; the others have advantage 0 throughout and teach nothing.

    Args:
        rewards: one reward per rollout, without any penalty on length; a row is the group of one prompt.

    References: DAPO, arXiv:2503.14476, eq. 11: 0 < correct < G.
    """
    return (rewards != rewards[:, :1]).any(axis=1)


def select_groups(live: Bool[Array, " P"], *, count: int) -> GroupSelection:
    """DAPO's dynamic sampling with closed shapes: of P groups sampled, the first `count` live ones.

    Sample more prompts than a batch holds, take these rows, and mask those of groups that are not live. Sampled groups
    that are live and left over are dropped.

    Args:
        live: which groups are, as of `live_groups`.
        count: N, groups to take.

    Raises:
        ValueError: `count` is not within 1 and P.

    References: DAPO, arXiv:2503.14476, section 3.2.
    """
    if not 1 <= count <= live.shape[0]:
        raise ValueError(f"{count} groups cannot be selected from {live.shape[0]}.")
    order = jnp.argsort(~live, stable=True)[:count]
    return GroupSelection(order, live[order])


def group_rows(order: Int[Array, " N"], *, group_size: int) -> Int[Array, " B"]:
    """Rows of the completions of some groups, in their order: row = p * G + g, B = N * G.

    Args:
        order: indices of groups.
        group_size: G.
    """
    return (order[:, None] * group_size + jnp.arange(group_size)).reshape(-1)


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
    advantages: Float[Array, "*axes"], entropies: Float[Array, "*axes"], *, scale: float, cap: float
) -> Float[Array, "*axes"]:
    """What its entropy adds to the advantage of a rollout, [P, G], or of a token, [B, T].

        bonus = min(scale * E, |A| / cap)

    So 0 <= bonus <= |A| / cap: a cap above 1 keeps the sign of A, and an advantage of 0 stays 0.

    Args:
        advantages: A, of each rollout within its group, or of each token.
        entropies: E, in nats: the mean over the rollout's chain of thought, or the token's; not differentiated.
        scale: lambda, the advantage that one nat is worth.
        cap: alpha, the bonus is at most this part of |A|.

    References: EGPO, arXiv:2508.05118v4, eq. 5; of tokens, arXiv:2506.14758, section 4.
    """
    # Rounding can leave the entropy of a certain distribution just below 0.
    entropies = jnp.maximum(jax.lax.stop_gradient(entropies), 0.0)
    return jnp.minimum(scale * entropies, jnp.abs(advantages) / cap)


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


def token_entropy_advantages(
    advantages: Float[Array, " B"] | Float[Array, "B T"],
    entropies: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    scale: float,
    cap: float,
) -> Float[Array, "B T"]:
    """Advantages of tokens, each raised by its own entropy.

        A'_t = A_t + min(scale * H_t, |A_t| / cap)

    Args:
        advantages: A, of each completion, used on all its tokens, or of each token.
        entropies: H, of each token's distribution over the vocabulary, in nats; not differentiated.
        mask: True on the tokens that count. Values off it have no effect, and advantage 0.
        scale: the advantage that one nat is worth; 0.4 in the paper's GRPO.
        cap: the bonus is at most this part of |A|; 2 in the paper. Above 1 it keeps the sign of A.

    References: "Reasoning with Exploration", arXiv:2506.14758, section 4.
    """
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    advantages = jnp.where(mask, advantages, 0.0)
    return advantages + entropy_bonus(advantages, jnp.where(mask, entropies, 0.0), scale=scale, cap=cap)


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
