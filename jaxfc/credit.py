"""What each completion or token is credited with: all that needs the whole rollout batch, ahead of its updates."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Key

from jaxfc.advantages import (
    advantage_metrics,
    centred_advantages,
    egpo_advantages,
    entropy_bonus,
    entropy_metrics,
    group_advantages,
    group_rows,
    leave_one_out_advantages,
    live_groups,
    mean_cot_entropy,
    overlong_penalty,
    select_groups,
    token_entropy_advantages,
    whitened_advantages,
)
from jaxfc.algorithm import Algorithm, EntropyBonus, TokenEntropyBonus
from jaxfc.importance import importance_parts, masked, sequence_ratios, token_ratios, truncated
from jaxfc.kl import k3_kl
from jaxfc.logprobs import length_mask
from jaxfc.losses import masked_mean
from jaxfc.selection import covariances, random_between, top_fraction
from jaxfc.sharding import place_rows, replicated, rows
from jaxfc.types import Credit, Lesson, Metrics, Rollouts, TokenScores
from jaxfc.variants import Centred, ClipCov, GroupDeviation, KlCov, LeaveOneOut, Masked, Truncated


def make_selection(batch: int, mesh: Mesh):
    """Compile `(rewards [P, G], rollouts, cot_mask [B, T]) -> Lesson`: the first `batch` groups whose rewards differ.

    Where there are fewer, others fill the batch, with no token that counts.
    """

    def select(rewards: Float[Array, "P G"], rollouts: Rollouts, cot_mask: Bool[Array, "B T"]) -> Lesson:
        groups = select_groups(live_groups(rewards), count=batch)
        taken = group_rows(groups.order, group_size=rewards.shape[1])
        live = jnp.repeat(groups.live, rewards.shape[1])
        kept = rollouts.of_groups(groups.order)
        kept = kept._replace(lengths=jnp.where(live, kept.lengths, 0))
        return Lesson(kept, rewards[groups.order], cot_mask[taken] & live[:, None], groups.order)

    return jax.jit(select, out_shardings=rows(mesh))


def make_whole(batch: int, mesh: Mesh):
    """Make `(rewards, rollouts, cot_mask) -> Lesson`: all of the `batch` groups that were sampled."""

    def take(rewards: Float[Array, "P G"], rollouts: Rollouts, cot_mask: Bool[Array, "B T"]) -> Lesson:
        return Lesson(rollouts, rewards, cot_mask, place_rows(mesh, np.arange(batch, dtype=np.int32)))

    return take


def make_credit(config: Algorithm, mesh: Mesh):
    """Compile `(rewards [P, G], cot_mask [B, T], lengths [B], sampled, old, key) -> (Credit, metrics)`.

    `sampled` and `old` are the scores of the completions by the sampler and as of before the update; `key` decides
    which tokens Clip-Cov draws.
    """

    def credit(rewards, cot_mask, lengths, sampled: TokenScores, old: TokenScores, key: Key[Array, ""]):
        mask = length_mask(lengths, cot_mask.shape[1])
        if config.overlong is not None:
            limit, buffer = cot_mask.shape[1], config.overlong.buffer
            rewards += overlong_penalty(lengths.reshape(rewards.shape), max_tokens=limit, buffer=buffer)
        advantages = measured(config, rewards, (lengths > 0).reshape(rewards.shape))
        metrics = advantage_metrics(advantages) | _signal_metrics(advantages, old.entropies, cot_mask)
        if config.entropy is not None:
            advantages, more = _with_bonus(advantages, old.entropies, cot_mask, config.entropy)
            metrics |= more
        of_rows, of_tokens = advantages.reshape(-1), None
        if config.token_entropy is not None:
            of_tokens, more = _with_token_bonus(of_rows, old.entropies, mask, config.token_entropy)
            metrics |= more
        weights, more = _importance(config, old.logprobs, sampled.logprobs, mask)
        metrics |= more
        if config.high_entropy is not None:
            chosen = top_fraction(old.entropies, mask, fraction=config.high_entropy.fraction)
            weights = jnp.where(chosen, 1.0 if weights is None else weights, 0.0)
        if config.old_logprobs == "trainer":
            metrics |= sampler_gap(sampled.logprobs, old.logprobs, mask)
        selected = _selected(config, key, old.logprobs, of_rows if of_tokens is None else of_tokens, mask)
        return Credit(of_rows, of_tokens, weights, selected), metrics

    return jax.jit(credit, out_shardings=(rows(mesh), replicated(mesh)))


def measured(config: Algorithm, rewards: Float[Array, "P G"], counted: Bool[Array, "P G"]) -> Float[Array, "P G"]:
    """Advantages against the baseline of the settings. Rollouts that are not counted only fill the batch."""
    match config.chosen_baseline:
        case GroupDeviation(ddof=ddof):
            return group_advantages(rewards, ddof=ddof)
        case Centred(whitened=whiten):
            advantages = centred_advantages(rewards)
        case LeaveOneOut(whitened=whiten):
            advantages = leave_one_out_advantages(rewards)
    return whitened_advantages(advantages, counted) if whiten else advantages


def sampler_gap(
    sampled: Float[Array, "B T"], logprobs: Float[Array, "B T"], mask: Bool[Array, "B T"]
) -> dict[str, Float[Array, ""]]:
    """How far the sampler's log-probabilities are from the trainer's: `kl/sampler` and `kl/sampler_max_gap`, nats."""
    gap = jnp.where(mask, sampled - logprobs, 0.0)
    return {
        "kl/sampler": masked_mean(k3_kl(sampled, logprobs, mask), mask),
        "kl/sampler_max_gap": jnp.abs(gap).max(),
    }


def _signal_metrics(
    advantages: Float[Array, "P G"], entropies: Float[Array, "B T"], cot_mask: Bool[Array, "B T"]
) -> Metrics:
    """What an entropy bonus has to work with."""
    live = (advantages != 0).any(axis=1, keepdims=True)
    return {
        "entropy/cot_mean": mean_cot_entropy(entropies, cot_mask).mean(),
        "entropy/live_cot_tokens": (cot_mask.sum(axis=1).reshape(advantages.shape) * live).sum(),
        "reward/live_groups": live.sum(),
    }


def _with_bonus(
    advantages: Float[Array, "P G"], entropies: Float[Array, "B T"], cot_mask: Bool[Array, "B T"], config: EntropyBonus
) -> tuple[Float[Array, "P G"], Metrics]:
    """EGPO's advantages."""
    cot_entropy = mean_cot_entropy(entropies, cot_mask).reshape(advantages.shape)
    values = {"scale": config.scale, "cap": config.cap}
    metrics = entropy_metrics(advantages, cot_entropy, **values)
    metrics["entropy/bonus_max"] = entropy_bonus(advantages, cot_entropy, **values).max()
    return egpo_advantages(advantages, cot_entropy, **values), metrics


def _with_token_bonus(
    advantages: Float[Array, " B"],
    entropies: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    config: TokenEntropyBonus,
) -> tuple[Float[Array, "B T"], Metrics]:
    """Advantages of tokens, and the mean of what their entropies add."""
    of_tokens = token_entropy_advantages(advantages, entropies, mask, scale=config.scale, cap=config.cap)
    return of_tokens, {"entropy/bonus_mean": masked_mean(of_tokens - advantages[:, None], mask)}


def _importance(
    config: Algorithm, logprobs: Float[Array, "B T"], sampled: Float[Array, "B T"], mask: Bool[Array, "B T"]
) -> tuple[Float[Array, "B T"] | None, Metrics]:
    """Weights between sampler and trainer; None where the settings have none."""
    if config.importance is None:
        return None, {}
    chosen = config.importance.chosen
    ratios = (token_ratios if chosen.of == "token" else sequence_ratios)(logprobs, sampled, mask)
    match chosen:
        case Truncated(cap=cap):
            weights = truncated(ratios, cap=cap)
        case Masked(low=low, high=high):
            weights = masked(ratios, low=low, high=high)
    return weights, {name: masked_mean(part, mask) for name, part in importance_parts(ratios, weights).items()}


def _selected(
    config: Algorithm,
    key: Key[Array, ""],
    logprobs: Float[Array, "B T"],
    advantages: Float[Array, " B"] | Float[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> Bool[Array, "B T"] | None:
    """The tokens that the surrogate singles out; None where it singles out none."""
    match config.chosen_surrogate:
        case ClipCov(fraction=fraction, covariance_low=low, covariance_high=high):
            values = covariances(logprobs, advantages, mask)
            return random_between(key, values, mask, fraction=fraction, low=low, high=high)
        case KlCov(fraction=fraction):
            return top_fraction(covariances(logprobs, advantages, mask), mask, fraction=fraction)
    return None
