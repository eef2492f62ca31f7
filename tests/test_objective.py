"""The loss of an update against formulas written out, and its sum over micro-batches against the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.algorithm import Algorithm
from jaxfc.learner import deal
from jaxfc.objective import count, policy_objective
from jaxfc.types import Prompts, TokenScores, TrainBatch
from jaxfc.variants import (
    Aggregation,
    Cispo,
    Clip,
    ClipCov,
    Constant,
    Gspo,
    GspoToken,
    KlCov,
    Reinforce,
    SequenceMean,
    Surrogate,
    TokenMean,
)

P, G, T = 4, 2, 5
LENGTHS = np.array([5, 1, 4, 2, 3, 5, 0, 4])
MASK = np.arange(T) < LENGTHS[:, None]
SURROGATES = {
    "clip": Surrogate(clip=Clip(dual=1.5)),
    "gspo": Surrogate(gspo=Gspo(low=0.05, high=0.05)),
    "gspo_token": Surrogate(gspo_token=GspoToken(low=0.05, high=0.05)),
    "cispo": Surrogate(cispo=Cispo()),
    "clip_cov": Surrogate(clip_cov=ClipCov()),
    "kl_cov": Surrogate(kl_cov=KlCov()),
    "reinforce": Surrogate(reinforce=Reinforce()),
}
AGGREGATIONS = {
    "token_mean": Aggregation(token_mean=TokenMean()),
    "sequence_mean": Aggregation(sequence_mean=SequenceMean()),
    "constant": Aggregation(constant=Constant(tokens=7.0)),
}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


LOGPROBS = -1 - abs(normal(0, P * G, T))
ENTROPIES = abs(normal(1, P * G, T))


def batch(**changes) -> TrainBatch:
    given = TrainBatch(
        prompts=Prompts(jnp.zeros((P, 3), jnp.int32), jnp.full(P, 3)),
        completions=jnp.zeros((P * G, T), jnp.int32),
        lengths=jnp.asarray(LENGTHS),
        old_logprobs=LOGPROBS + 0.3 * normal(2, P * G, T),
        reference_logprobs=LOGPROBS + 0.5 * normal(3, P * G, T),
        advantages=normal(4, P * G),
        weights=jnp.asarray(np.random.default_rng(5).uniform(0, 2, (P * G, T)), jnp.float32),
        selected=jnp.asarray(np.random.default_rng(6).random((P * G, T)) < 0.3),
    )
    return given._replace(**changes)


def settings(**changes) -> Algorithm:
    return Algorithm(**{"group_size": G, "kl_coefficient": 0.1, "entropy": None} | changes)


@functools.partial(jax.jit, static_argnames="config")
def value_and_gradient(scores, taken, counts, config):
    (loss, tally), gradient = jax.value_and_grad(policy_objective, has_aux=True)(scores, taken, counts, config)
    return loss, tally, gradient


def whole(config, taken=None):
    taken = taken or batch()
    return value_and_gradient(TokenScores(LOGPROBS, ENTROPIES), taken, count(taken.lengths), config)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_micro_batches_add_up_to_the_whole(surrogate, aggregation):
    config = settings(
        surrogate=SURROGATES[surrogate],
        aggregation=AGGREGATIONS[aggregation],
        entropy_coefficient=0.2,
        old_logprobs="sampler",
    )
    loss, tally, gradient = whole(config)
    scores, counts = TokenScores(LOGPROBS, ENTROPIES), count(batch().lengths)
    # Each row of the gradient is given where the row is; `deal` says which those are.
    parts, rows = deal((batch().prompts, scores, batch()), 2), deal((batch().prompts, jnp.arange(P * G)), 2)[1]
    found = [value_and_gradient(*jax.tree.map(lambda a, at=at: a[at], parts)[1:], counts, config) for at in range(2)]
    assert loss == pytest.approx(float(found[0][0] + found[1][0]), rel=1e-5)
    added = found[0][1] + found[1][1]
    for name, value in (tally.sums | tally.tops).items():
        assert (added.sums | added.tops)[name] == pytest.approx(float(value), rel=1e-5), name
    for at in range(2):
        for field, other in zip(gradient, found[at][2], strict=True):
            np.testing.assert_allclose(field[rows[at]], other, rtol=1e-5, atol=1e-8)
    assert all(np.asarray(field)[MASK].any() for field in gradient)


def plain_terms(surrogate, logprobs, taken):
    """Surrogates by their formulas, row by row."""
    ratio = np.exp(logprobs - np.asarray(taken.old_logprobs, np.float64))
    a = np.broadcast_to(np.asarray(taken.advantages, np.float64)[:, None], MASK.shape)
    selected = np.asarray(taken.selected)
    means = [np.mean((logprobs - np.asarray(taken.old_logprobs))[i, :n]) if n else 0 for i, n in enumerate(LENGTHS)]
    s = np.exp(np.array(means))[:, None] * np.ones(T)

    def clipped(ratio, width):
        return -np.minimum(ratio * a, np.clip(ratio, 1 - width, 1 + width) * a)

    match surrogate:
        case "clip":
            loss = clipped(ratio, 0.2)
            return np.where(a < 0, np.minimum(loss, -1.5 * a), loss)
        case "gspo" | "gspo_token":
            return clipped(s, 0.05)
        case "cispo":
            return -np.clip(ratio, 0, 1.2) * a * logprobs
        case "clip_cov":
            return np.where(selected, 0, clipped(ratio, 0.2))
        case "kl_cov":
            return -ratio * a + np.where(selected, np.abs(np.log(ratio)), 0)
        case "reinforce":
            return -a * logprobs


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_settings_put_together_the_loss_that_they_name(surrogate, aggregation):
    config = settings(surrogate=SURROGATES[surrogate], aggregation=AGGREGATIONS[aggregation], entropy_coefficient=0.2)
    logprobs, taken = np.asarray(LOGPROBS, np.float64), batch()
    terms = plain_terms(surrogate, logprobs, taken) * np.asarray(taken.weights)
    d = np.asarray(taken.reference_logprobs, np.float64) - logprobs
    k3 = np.exp(d) - d - 1
    each = terms + 0.1 * k3 - 0.2 * np.asarray(ENTROPIES, np.float64)
    sums = np.array([each[i, :n].sum() for i, n in enumerate(LENGTHS)])
    # Seven of the eight completions have tokens, 24 in all.
    expected = {
        "token_mean": sums.sum() / 24,
        "sequence_mean": (sums / np.maximum(LENGTHS, 1)).sum() / 7,
        "constant": sums.sum() / (7 * 7.0),
    }
    loss, tally, _ = whole(config)
    assert loss == pytest.approx(expected[aggregation], rel=1e-5)
    assert tally.sums["kl/reference"] == pytest.approx(k3[MASK].sum() / 24, rel=1e-5)
    assert tally.tops == {}


def test_the_kl_is_estimated_as_the_settings_say_and_measured_as_k3():
    d = (np.asarray(batch().reference_logprobs, np.float64) - np.asarray(LOGPROBS))[MASK]
    k3 = np.exp(d) - d - 1
    for estimator, each in {"k1": -d, "k2": d**2 / 2, "k3": k3}.items():
        _, tally, _ = whole(settings(kl_estimator=estimator))
        assert tally.sums["loss/kl"] == pytest.approx(each.mean(), rel=1e-5), estimator
        assert tally.sums["kl/reference"] == pytest.approx(k3.mean(), rel=1e-5)


def test_without_a_kl_there_is_no_reference():
    loss, tally, _ = whole(settings(kl_coefficient=0.0), batch(reference_logprobs=None))
    assert loss == tally.sums["loss/policy"] and not {"kl/reference", "loss/kl"} & set(tally.sums)


def test_the_sampler_s_log_probabilities_are_measured_against_the_policy_that_they_stand_for():
    _, tally, _ = whole(settings(old_logprobs="sampler"))
    gap = (np.asarray(LOGPROBS, np.float64) - np.asarray(batch().old_logprobs))[MASK]
    assert tally.sums["kl/sampler"] == pytest.approx((np.exp(gap) - gap - 1).mean(), rel=1e-4)
    assert tally.tops["kl/sampler_max_gap"] == pytest.approx(abs(gap).max(), rel=1e-5)


def test_advantages_of_tokens_take_the_place_of_those_of_completions():
    of_rows = batch()
    of_tokens = batch(advantages=jnp.repeat(of_rows.advantages[:, None], T, axis=1))
    jax.tree.map(np.testing.assert_array_equal, whole(settings(), of_rows), whole(settings(), of_tokens))
    doubled = batch(advantages=of_tokens.advantages.at[0, 1].multiply(2))
    assert whole(settings(), doubled)[0] != whole(settings(), of_rows)[0]


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_what_is_off_the_mask_reaches_neither_value_nor_gradient(surrogate):
    config = settings(surrogate=SURROGATES[surrogate], entropy_coefficient=0.2, old_logprobs="sampler")
    clean = batch(advantages=normal(7, P * G, T))
    scores = TokenScores(LOGPROBS, ENTROPIES)
    for hidden in (jnp.inf, jnp.nan):
        dirty = clean._replace(
            **{
                name: jnp.where(MASK, getattr(clean, name), hidden)
                for name in ("old_logprobs", "reference_logprobs", "advantages", "weights")
            }
        )
        spoiled = TokenScores(*(jnp.where(MASK, field, hidden) for field in scores))
        one = value_and_gradient(spoiled, dirty, count(clean.lengths), config)
        other = value_and_gradient(scores, clean, count(clean.lengths), config)
        jax.tree.map(np.testing.assert_array_equal, one, other)
