import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.advantages import (
    advantage_metrics,
    clipped_entropy_advantages,
    egpo_advantages,
    entropy_bonus,
    entropy_metrics,
    group_advantages,
    mean_cot_entropy,
)

PAPER = {"scale": 0.4, "cap": 2.0}


def group_of(correct: int, size: int = 8):
    return jnp.array([[1.0] * correct + [0.0] * (size - correct)])


@pytest.mark.parametrize(
    ("correct", "rollout", "entropy", "advantage", "shaped", "variant"),
    [
        # k of 8 correct: mean = k/8, variance = k (8 - k) / (8 * 7). k = 7: std = sqrt(1/8) = 0.35355, so the correct
        # have 0.125 / 0.35355 = 0.35355 and the wrong one -0.875 / 0.35355 = -2.47487.
        (7, 0, 0.03, 0.3536, 0.3656, 0.3656),
        (7, 7, 0.03, -2.4749, -2.4629, -2.4629),
        (7, 0, 0.30, 0.3536, 0.4736, 0.4243),
        (7, 0, 0.60, 0.3536, 0.5303, 0.4243),
        (7, 7, 0.60, -2.4749, -2.2349, -2.2349),
        (4, 0, 1.50, 0.9354, 1.4031, 1.1225),
        (4, 7, 1.50, -0.9354, -0.4677, -0.7483),
        (1, 7, 0.30, -0.3536, -0.2336, -0.2828),
        (0, 0, 1.50, 0.0, 0.0, 0.0),
        (8, 3, 1.50, 0.0, 0.0, 0.0),
    ],
)
def test_golden_table_of_the_method(correct, rollout, entropy, advantage, shaped, variant):
    advantages = group_advantages(group_of(correct))
    entropies = jnp.full((1, 8), entropy)
    np.testing.assert_allclose(advantages[0, rollout], advantage, atol=1e-4)
    np.testing.assert_allclose(egpo_advantages(advantages, entropies, **PAPER)[0, rollout], shaped, atol=1e-4)
    np.testing.assert_allclose(
        clipped_entropy_advantages(advantages, entropies, **PAPER)[0, rollout], variant, atol=1e-4
    )


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -3.7, 1e6])
@pytest.mark.parametrize("size", [2, 3, 7, 8])
def test_equal_rewards_give_exactly_zero_advantage(reward, size):
    advantages = group_advantages(jnp.full((2, size), reward))
    np.testing.assert_array_equal(advantages, 0.0)
    np.testing.assert_array_equal(egpo_advantages(advantages, jnp.ones((2, size)), **PAPER), 0.0)


def test_groups_do_not_see_each_other():
    alone = group_advantages(group_of(3))
    together = group_advantages(jnp.concatenate([group_of(3), 50 * group_of(5)]))
    np.testing.assert_array_equal(together[:1], alone)


def test_advantages_sum_to_zero_and_ignore_the_rewards_offset_and_scale():
    rewards = jnp.array([[0.0, 1.0, 0.5, 0.5, 0.25, 1.0]])
    advantages = group_advantages(rewards)
    np.testing.assert_allclose(advantages.sum(), 0.0, atol=1e-6)
    np.testing.assert_allclose(group_advantages(3 + 2 * rewards), advantages, atol=1e-5)


@pytest.mark.parametrize("shaped", [egpo_advantages, clipped_entropy_advantages])
def test_scale_zero_is_bitwise_grpo(shaped):
    rewards = jax.random.uniform(jax.random.key(0), (32, 8))
    entropies = jax.random.exponential(jax.random.key(1), (32, 8))

    @jax.jit
    def without_bonus(rewards, entropies):
        return shaped(group_advantages(rewards), entropies, scale=0.0, cap=2.0)

    np.testing.assert_array_equal(without_bonus(rewards, entropies), jax.jit(group_advantages)(rewards))


def test_bonus_lies_between_zero_and_its_cap_and_keeps_the_sign():
    advantages = jax.random.normal(jax.random.key(0), (64, 8)).at[0].set(0.0)
    entropies = jax.random.exponential(jax.random.key(1), (64, 8)).at[0, 0].set(-1e-7)
    bonus = entropy_bonus(advantages, entropies, **PAPER)
    assert (bonus >= 0).all() and (bonus <= jnp.abs(advantages) / 2).all()
    np.testing.assert_array_equal(bonus[0], 0.0)
    np.testing.assert_array_equal(jnp.sign(egpo_advantages(advantages, entropies, **PAPER)), jnp.sign(advantages))


def test_no_gradient_flows_through_the_entropy():
    def total(entropies):
        return egpo_advantages(group_advantages(group_of(4)), entropies, **PAPER).sum()

    np.testing.assert_array_equal(jax.grad(total)(jnp.full((1, 8), 0.1)), 0.0)


def test_cot_entropy_is_the_mean_over_the_cot_alone():
    # Row 0: (0.2 + 0.4) / 2; row 1: only 0.9; row 2: no chain of thought.
    entropies = jnp.array([[0.2, 0.4, 5.0], [7.0, 0.9, 5.0], [1.0, 1.0, 1.0]])
    mask = jnp.array([[True, True, False], [False, True, False], [False, False, False]])
    np.testing.assert_allclose(mean_cot_entropy(entropies, mask), [0.3, 0.9, 0.0], rtol=1e-6)


@pytest.mark.parametrize("padding", [jnp.nan, jnp.inf, -jnp.inf])
def test_padding_never_reaches_the_cot_entropy(padding):
    entropies = jnp.array([[0.2, padding], [padding, padding]])
    mask = jnp.array([[True, False], [False, False]])
    np.testing.assert_allclose(mean_cot_entropy(entropies, mask), [0.2, 0.0], rtol=1e-6)


def test_metrics_count_the_cap_over_live_groups_only():
    # Group 0: 4 of 8 correct, |A| / 2 = 0.4677 and the cap binds above E = 1.169: in 2 of its 8 rollouts.
    # Group 1 is dead: its bonus is 0 and its rollouts are not counted.
    advantages = group_advantages(jnp.concatenate([group_of(4), group_of(8)]))
    entropies = jnp.array([[1.5, 1.2, 1.1, 0, 0, 0, 0, 0], [2.0] * 8])
    metrics = entropy_metrics(advantages, entropies, **PAPER)
    np.testing.assert_allclose(metrics["entropy/cap_active"], 2 / 8)
    np.testing.assert_allclose(metrics["entropy/bonus_mean"], (2 * 0.46771 + 0.44) / 16, rtol=1e-4)
    # Eight rollouts of |A| = 0.5 / 0.53452 = 0.93541, eight of 0.
    np.testing.assert_allclose(advantage_metrics(advantages)["advantage/abs_mean"], 0.93541 / 2, rtol=1e-4)


def test_cap_is_never_active_without_a_live_group():
    metrics = entropy_metrics(jnp.zeros((2, 8)), jnp.ones((2, 8)), **PAPER)
    assert metrics["entropy/cap_active"] == 0 and metrics["entropy/bonus_mean"] == 0
