"""Credit of a rollout batch: baselines, penalties, weights, selections, and the groups that are trained on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import one_device

from jaxfc.algorithm import Algorithm, HighEntropy, Overlong, TokenEntropyBonus
from jaxfc.credit import make_credit, make_selection, make_whole
from jaxfc.sharding import make_mesh, place_rows
from jaxfc.types import Prompts, Rollouts, TokenScores
from jaxfc.variants import (
    Baseline,
    Centred,
    ClipCov,
    GroupDeviation,
    Importance,
    KlCov,
    LeaveOneOut,
    Masked,
    Surrogate,
    Truncated,
)

P, G, T = 4, 4, 6
REWARDS = np.array([[1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]], np.float32)
LENGTHS = np.random.default_rng(0).integers(1, T + 1, P * G).astype(np.int32)
MASK = np.arange(T) < LENGTHS[:, None]
COT = MASK & (np.arange(T) < 2)
KEY = jax.random.key(0)


def random(seed):
    return np.random.default_rng(seed).normal(size=(P * G, T)).astype(np.float32)


SAMPLED = TokenScores(jnp.asarray(-1 - abs(random(1))), jnp.asarray(abs(random(2))))
OLD = TokenScores(SAMPLED.logprobs + 0.5 * random(3), jnp.asarray(abs(random(4))))


def credit_of(rewards=REWARDS, key=KEY, old=OLD, **settings):
    config = Algorithm(**{"group_size": G, "entropy": None} | settings)
    credit, metrics = make_credit(config, one_device())(
        jnp.asarray(rewards), jnp.asarray(COT), jnp.asarray(LENGTHS), SAMPLED, old, key
    )
    return credit, {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        # Rewards 1 0 0 0: mean 1/4, standard deviation 1/2 (ddof 1) or sqrt(3) / 4; the others' means 0 and 1/3.
        (None, [1.5, -0.5, -0.5, -0.5]),
        (Baseline(group=GroupDeviation()), [1.5, -0.5, -0.5, -0.5]),
        (Baseline(group=GroupDeviation(ddof=0)), [3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)]),
        (Baseline(centred=Centred()), [0.75, -0.25, -0.25, -0.25]),
        (Baseline(leave_one_out=LeaveOneOut()), [1, -1 / 3, -1 / 3, -1 / 3]),
    ],
    ids=["default", "ddof-1", "ddof-0", "centred", "leave-one-out"],
)
def test_rewards_are_measured_against_the_baseline_of_the_settings(baseline, expected):
    credit, _ = credit_of(baseline=baseline)
    np.testing.assert_allclose(credit.advantages[:G], expected, atol=1e-5)
    assert not credit.advantages[G : 2 * G].any() and not credit.advantages[3 * G :].any()
    assert credit.of_tokens is None and credit.weights is None and credit.selected is None


@pytest.mark.parametrize(
    "baseline", [Baseline(centred=Centred(whitened=True)), Baseline(leave_one_out=LeaveOneOut(whitened=True))]
)
def test_whitened_advantages_have_one_deviation_for_all_groups(baseline):
    credit, _ = credit_of(baseline=baseline)
    assert credit.advantages.mean() == pytest.approx(0, abs=1e-6)
    assert credit.advantages.std(ddof=1) == pytest.approx(1, rel=1e-4)


def test_a_completion_near_the_limit_loses_reward():
    # Room for 6, a buffer of 2: 4 tokens lose nothing, 5 lose 1/2, 6 lose 1.
    plain = REWARDS - np.array([0, 0.5, 1])[np.maximum(LENGTHS - 4, 0)].reshape(P, G)
    credit, _ = credit_of(overlong=Overlong(buffer=2), baseline=Baseline(centred=Centred()))
    np.testing.assert_allclose(credit.advantages, (plain - plain.mean(axis=1, keepdims=True)).reshape(-1), atol=1e-6)
    assert len(set(LENGTHS[LENGTHS > 4])) == 2


def test_the_bonus_of_tokens_is_of_each_token_s_entropy():
    credit, metrics = credit_of(token_entropy=TokenEntropyBonus(scale=0.4, cap=2.0))
    a = np.asarray(credit.advantages)[:, None]
    bonus = np.minimum(0.4 * np.asarray(OLD.entropies), np.abs(a) / 2)
    np.testing.assert_allclose(credit.of_tokens, np.where(MASK, a + bonus, 0), atol=1e-6)
    assert metrics["entropy/bonus_mean"] == pytest.approx(bonus[MASK].mean(), rel=1e-5)


@pytest.mark.parametrize("of", ["token", "sequence"])
def test_importance_weights_are_ratios_of_trainer_to_sampler(of):
    gap = np.where(MASK, np.asarray(OLD.logprobs, np.float64) - np.asarray(SAMPLED.logprobs), 0)
    ratios = np.exp(gap if of == "token" else gap.sum(axis=1, keepdims=True) * np.ones(T))
    credit, metrics = credit_of(importance=Importance(truncated=Truncated(of=of, cap=1.5)))
    np.testing.assert_allclose(credit.weights, np.where(MASK, np.minimum(ratios, 1.5), 0), rtol=1e-4)
    assert metrics["importance/changed"] == pytest.approx((ratios > 1.5)[MASK].mean(), rel=1e-5)
    credit, _ = credit_of(importance=Importance(masked=Masked(of=of, low=0.7, high=1.5)))
    kept = MASK & (ratios >= 0.7) & (ratios <= 1.5)
    np.testing.assert_allclose(credit.weights, np.where(kept, ratios, 0), rtol=1e-4)
    assert 0 < kept.sum() < MASK.sum()


def test_only_tokens_of_high_entropy_have_weight_and_importance_is_kept_on_them():
    entropies, tokens = np.where(MASK, np.asarray(OLD.entropies), -1).reshape(-1), MASK.sum()
    chosen = np.isin(np.arange(entropies.size), np.argsort(-entropies)[: int(0.2 * tokens)]).reshape(MASK.shape)
    np.testing.assert_array_equal(credit_of(high_entropy=HighEntropy(fraction=0.2))[0].weights, chosen)
    importance = Importance(truncated=Truncated())
    both = credit_of(high_entropy=HighEntropy(fraction=0.2), importance=importance)[0].weights
    np.testing.assert_array_equal(both, np.where(chosen, credit_of(importance=importance)[0].weights, 0))


def test_kl_cov_selects_the_tokens_of_highest_covariance_of_the_whole_batch():
    credit, _ = credit_of(surrogate=Surrogate(kl_cov=KlCov(fraction=0.1)))
    logprobs = np.asarray(OLD.logprobs, np.float64)
    a = np.broadcast_to(np.asarray(credit.advantages, np.float64)[:, None], MASK.shape)
    product = np.where(MASK, (logprobs - logprobs[MASK].mean()) * (a - a[MASK].mean()), -np.inf).reshape(-1)
    chosen = np.argsort(-product)[: int(0.1 * MASK.sum())]
    assert set(np.flatnonzero(credit.selected)) == set(chosen.tolist())


def test_clip_cov_draws_by_the_key():
    surrogate = Surrogate(clip_cov=ClipCov(fraction=0.1, covariance_low=-9.0, covariance_high=9.0))
    one, same = (credit_of(surrogate=surrogate)[0].selected for _ in range(2))
    other = credit_of(surrogate=surrogate, key=jax.random.key(1))[0].selected
    np.testing.assert_array_equal(one, same)
    assert (np.asarray(one) != np.asarray(other)).any() and not np.asarray(one)[~MASK].any()
    assert one.sum() == other.sum() == int(0.1 * MASK.sum())


def test_what_the_sampler_said_is_measured_unless_it_is_all_there_is():
    gap = (np.asarray(OLD.logprobs, np.float64) - np.asarray(SAMPLED.logprobs))[MASK]
    _, metrics = credit_of()
    assert metrics["kl/sampler"] == pytest.approx((np.exp(gap) - gap - 1).mean(), rel=1e-4)
    assert metrics["kl/sampler_max_gap"] == pytest.approx(abs(gap).max(), rel=1e-5)
    _, metrics = credit_of(old_logprobs="sampler", old=SAMPLED)
    assert not {"kl/sampler", "kl/sampler_max_gap"} & set(metrics)


# Which groups are trained on


def rollouts() -> Rollouts:
    """Rows that say which group and completion they are."""
    numbers = np.arange(P * G, dtype=np.int32)
    prompts = Prompts(np.arange(P, dtype=np.int32)[:, None] * np.ones((1, 3), np.int32), np.full(P, 3, np.int32))
    tokens = numbers[:, None] * np.ones((1, T), np.int32)
    scores = TokenScores(*(tokens.astype(np.float32),) * 2)
    return Rollouts(prompts, tokens, LENGTHS, np.ones(P * G, bool), scores)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 1)])
def test_the_first_live_groups_are_taken_whole(shape):
    mesh = make_mesh(shape, jax.devices()[: np.prod(shape)])
    rewards = np.concatenate([REWARDS[[1, 0, 3, 2]], REWARDS])
    twice = jax.tree.map(lambda a: np.concatenate([a, a + P * G if a.dtype != bool else a]), rollouts())
    twice = twice._replace(lengths=np.tile(LENGTHS, 2))
    lesson = make_selection(4, mesh)(*place_rows(mesh, (rewards, twice, np.tile(COT, (2, 1)))))
    # Of the eight groups 1, 3, 4 and 6 have unequal rewards.
    assert lesson.groups.tolist() == [1, 3, 4, 6]
    np.testing.assert_array_equal(lesson.rewards, rewards[[1, 3, 4, 6]])
    rows = (np.array([1, 3, 4, 6])[:, None] * G + np.arange(G)).reshape(-1)
    np.testing.assert_array_equal(lesson.rollouts.tokens, twice.tokens[rows])
    np.testing.assert_array_equal(lesson.rollouts.prompts.tokens, twice.prompts.tokens[[1, 3, 4, 6]])
    np.testing.assert_array_equal(lesson.rollouts.lengths, twice.lengths[rows])
    np.testing.assert_array_equal(lesson.cot_mask, np.tile(COT, (2, 1))[rows])


def test_where_too_few_groups_are_live_the_others_have_no_token():
    lesson = make_selection(3, one_device())(*place_rows(one_device(), (REWARDS, rollouts(), COT)))
    assert lesson.groups.tolist() == [0, 2, 1]
    lengths = np.asarray(lesson.rollouts.lengths).reshape(3, G)
    np.testing.assert_array_equal(lengths, np.concatenate([LENGTHS.reshape(P, G)[[0, 2]], np.zeros((1, G))]))
    assert not np.asarray(lesson.cot_mask)[2 * G :].any()


def test_without_dynamic_sampling_all_that_was_sampled_is_trained_on():
    given = place_rows(one_device(), (REWARDS, rollouts(), COT))
    lesson = make_whole(P, one_device())(*given)
    assert lesson.groups.tolist() == list(range(P))
    jax.tree.map(np.testing.assert_array_equal, (lesson.rewards, lesson.rollouts, lesson.cot_mask), given)
