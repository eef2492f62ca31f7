import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.advantages import (
    NoSignal,
    advantage_metrics,
    centred_advantages,
    clipped_entropy_advantages,
    egpo_advantages,
    entropy_bonus,
    entropy_metrics,
    group_advantages,
    group_rows,
    leave_one_out_advantages,
    live_groups,
    mean_cot_entropy,
    overlong_penalty,
    require_signal,
    select_groups,
    token_entropy_advantages,
    whitened_advantages,
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


ESTIMATORS = [centred_advantages, group_advantages, leave_one_out_advantages]


def test_the_deviation_of_the_group_is_smaller_than_that_of_a_sample():
    # Rewards 1, 0, 0, 0: distances 0.75 and -0.25, squares sum to 0.75. ddof 1: std 0.5; ddof 0: 0.4330127.
    rewards = group_of(1, size=4)
    np.testing.assert_allclose(group_advantages(rewards, ddof=1), [[1.5, -0.5, -0.5, -0.5]], rtol=1e-5)
    np.testing.assert_allclose(
        group_advantages(rewards, ddof=0), [[1.7320508, -0.5773503, -0.5773503, -0.5773503]], rtol=1e-5
    )


def test_a_sample_of_one_has_no_deviation():
    with pytest.raises(ValueError, match="ddof=1: it needs 2"):
        group_advantages(jnp.ones((2, 1)))
    np.testing.assert_array_equal(group_advantages(jnp.ones((2, 1)), ddof=0), 0.0)


def test_undivided_advantages_are_distances_from_the_mean():
    np.testing.assert_allclose(centred_advantages(jnp.array([[1.0, 0.0, 0.5, 0.5]])), [[0.5, -0.5, 0.0, 0.0]])


def test_leave_one_out_compares_with_the_others():
    # 1 against the mean of 0, 0.5, 0.5; 0 against that of 1, 0.5, 0.5; 0.5 against that of 1, 0, 0.5.
    advantages = leave_one_out_advantages(jnp.array([[1.0, 0.0, 0.5, 0.5]]))
    np.testing.assert_allclose(advantages, [[2 / 3, -2 / 3, 0.0, 0.0]], rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out_advantages(jnp.ones((3, 1)))


def test_the_baseline_of_leave_one_out_ignores_the_rollouts_own_reward():
    rewards = jax.random.uniform(jax.random.key(0), (3, 6))
    raised = leave_one_out_advantages(rewards.at[:, 2].add(5.0))
    np.testing.assert_allclose(raised[:, 2] - leave_one_out_advantages(rewards)[:, 2], 5.0, rtol=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_estimator_gives_a_dead_group_an_advantage_or_a_gradient(estimator):
    rewards = jnp.concatenate([jnp.full((1, 8), 0.1), group_of(3)])
    np.testing.assert_array_equal(estimator(rewards)[0], 0.0)
    np.testing.assert_array_equal(jax.grad(lambda r: (estimator(r) ** 2).sum())(rewards), 0.0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_is_the_same_under_jit_and_vmap(estimator):
    rewards = jax.random.uniform(jax.random.key(0), (2, 3, 5))
    one_by_one = jnp.stack([estimator(part) for part in rewards])
    np.testing.assert_allclose(jax.vmap(estimator)(rewards), one_by_one, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jit(estimator)(rewards[0]), one_by_one[0], rtol=1e-5, atol=1e-6)


def test_whitened_advantages_have_one_mean_and_one_deviation():
    advantages = leave_one_out_advantages(jax.random.uniform(jax.random.key(0), (4, 8)))
    mask = jnp.ones((4, 8), bool).at[2].set(False)
    white = whitened_advantages(jnp.where(mask, advantages, jnp.nan), mask)
    np.testing.assert_array_equal(white[2], 0.0)
    np.testing.assert_allclose(white[mask].mean(), 0.0, atol=1e-6)
    np.testing.assert_allclose(jnp.std(white[mask], ddof=1), 1.0, rtol=1e-4)
    # A group of small differences stays smaller than one of large: it is not divided by its own deviation.
    mixed = whitened_advantages(jnp.array([[0.1, -0.1], [1.0, -1.0]]), jnp.ones((2, 2), bool))
    np.testing.assert_allclose(mixed[1], 10 * mixed[0], rtol=1e-5)


def test_whitening_moves_the_mean_to_zero():
    # Mean 2, squares 1 + 1 + 4 + 4 = 10 over 3: deviation 1.825742.
    white = whitened_advantages(jnp.array([[3.0, 1.0], [4.0, 0.0]]), jnp.ones((2, 2), bool))
    np.testing.assert_allclose(white, [[0.547723, -0.547723], [1.095445, -1.095445]], rtol=1e-5)


def test_whitening_is_not_differentiated():
    mask = jnp.ones((2, 4), bool)
    gradient = jax.grad(lambda a: (whitened_advantages(a, mask) ** 2)[0].sum())(jnp.arange(8.0).reshape(2, 4))
    np.testing.assert_array_equal(gradient, 0.0)


def test_a_batch_of_dead_groups_is_not_whitened():
    np.testing.assert_array_equal(whitened_advantages(jnp.zeros((2, 4)), jnp.ones((2, 4), bool)), 0.0)
    np.testing.assert_array_equal(whitened_advantages(jnp.full((2, 4), jnp.nan), jnp.zeros((2, 4), bool)), 0.0)


def test_the_overlong_penalty_falls_from_zero_to_minus_one_over_the_buffer():
    # Limit 100, buffer 20: free to 80, then a twentieth a token.
    lengths = jnp.array([0, 80, 81, 90, 100, 150])
    penalty = overlong_penalty(lengths, max_tokens=100, buffer=20)
    np.testing.assert_allclose(penalty, [0.0, 0.0, -0.05, -0.5, -1.0, -1.0], rtol=1e-6)
    for buffer in (0, 101):
        with pytest.raises(ValueError, match="buffer"):
            overlong_penalty(lengths, max_tokens=100, buffer=buffer)


def test_a_group_is_live_when_its_rewards_differ():
    rewards = jnp.concatenate([group_of(0), group_of(8), group_of(1), group_of(7), jnp.full((1, 8), 0.1)])
    np.testing.assert_array_equal(live_groups(rewards), [False, False, True, True, False])
    np.testing.assert_array_equal(live_groups(rewards), (group_advantages(rewards) != 0).any(axis=1))


def test_selection_takes_live_groups_in_order_and_fills_up_with_dead_ones():
    live = jnp.array([False, True, False, True, True])
    select = jax.jit(select_groups, static_argnames="count")
    few, many = select(live, count=2), select(live, count=4)
    np.testing.assert_array_equal(few.order, [1, 3])
    np.testing.assert_array_equal(few.live, [True, True])
    np.testing.assert_array_equal(many.order, [1, 3, 4, 0])
    np.testing.assert_array_equal(many.live, [True, True, True, False])
    nobody = select(jnp.zeros(5, bool), count=3)
    np.testing.assert_array_equal(nobody.order, [0, 1, 2])
    assert not nobody.live.any()


@pytest.mark.parametrize("count", [0, 6])
def test_a_selection_of_none_or_of_more_than_there_are_is_refused(count):
    with pytest.raises(ValueError, match=f"{count} groups cannot be selected from 5"):
        select_groups(jnp.ones(5, bool), count=count)


def test_the_rows_of_groups_are_those_of_their_completions():
    np.testing.assert_array_equal(group_rows(jnp.array([2, 0]), group_size=3), [6, 7, 8, 0, 1, 2])


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


@pytest.mark.parametrize("shaped", [egpo_advantages, clipped_entropy_advantages])
def test_no_gradient_flows_through_the_entropy(shaped):
    def total(entropies):
        return shaped(group_advantages(group_of(4)), entropies, **PAPER).sum()

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


@pytest.mark.parametrize("padding", [jnp.nan, jnp.inf, -jnp.inf])
def test_each_token_is_raised_by_its_own_entropy_up_to_its_cap(padding):
    # 0.4 * 0.5 = 0.2 under 1 / 2; 0.4 * 5 = 2 over it; at A = -0.2 the cap is 0.1; off the mask nothing.
    advantages = jnp.array([[1.0, 1.0, -0.2, padding]])
    entropies = jnp.array([[0.5, 5.0, 5.0, padding]])
    mask = jnp.array([[True, True, True, False]])
    shaped = token_entropy_advantages(advantages, entropies, mask, **PAPER)
    np.testing.assert_allclose(shaped, [[1.2, 1.5, -0.1, 0.0]], rtol=1e-6)


def test_tokens_of_a_completion_start_from_its_advantage():
    advantages, mask = jnp.array([1.0, -2.0, 0.0]), jnp.ones((3, 4), bool)
    entropies = jax.random.exponential(jax.random.key(0), (3, 4))
    per_token = jnp.broadcast_to(advantages[:, None], mask.shape)
    shaped = token_entropy_advantages(advantages, entropies, mask, **PAPER)
    np.testing.assert_array_equal(shaped, token_entropy_advantages(per_token, entropies, mask, **PAPER))
    np.testing.assert_array_equal(shaped[2], 0.0)
    np.testing.assert_array_equal(jnp.sign(shaped), jnp.sign(per_token))


def test_no_gradient_flows_through_a_tokens_entropy():
    def total(entropies):
        return token_entropy_advantages(jnp.ones(2), entropies, jnp.ones((2, 3), bool), **PAPER).sum()

    np.testing.assert_array_equal(jax.grad(total)(jnp.full((2, 3), 0.1)), 0.0)


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


SIGNAL = {"reward/live_groups": 3.0, "entropy/live_cot_tokens": 50.0, "entropy/bonus_max": 0.1}


def test_a_bonus_that_can_do_nothing_stops_the_run():
    require_signal(SIGNAL)
    require_signal(dict.fromkeys(SIGNAL, 0.0))
    with pytest.raises(NoSignal, match="no rollout of a live group has a chain-of-thought token"):
        require_signal(SIGNAL | {"entropy/live_cot_tokens": 0.0})
    with pytest.raises(NoSignal, match="bonus is 0 for every rollout"):
        require_signal(SIGNAL | {"entropy/bonus_max": 0.0})
