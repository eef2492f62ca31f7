import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.importance import importance_parts, masked, sequence_ratios, token_ratios, truncated

MASK = jnp.array([[True, True, True], [True, False, False], [False, False, False]])
SAMPLER = jnp.zeros((3, 3))
TRAINER = jnp.log(jnp.array([[2.0, 0.5, 3.0], [0.25, 9.0, 9.0], [9.0, 9.0, 9.0]]))


def test_a_token_weighs_by_its_own_ratio_and_a_completion_by_the_product():
    np.testing.assert_allclose(token_ratios(TRAINER, SAMPLER, MASK), [[2, 0.5, 3], [0.25, 0, 0], [0, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(sequence_ratios(TRAINER, SAMPLER, MASK), [[3, 3, 3], [0.25, 0, 0], [0, 0, 0]], rtol=1e-6)


def test_truncated_keeps_what_is_small_and_masked_what_is_between():
    ratios = jnp.array([[0.1, 0.5, 1.0, 2.0, 2.5, jnp.inf]])
    np.testing.assert_array_equal(truncated(ratios, cap=2.0), jnp.array([[0.1, 0.5, 1.0, 2.0, 2.0, 2.0]]))
    np.testing.assert_array_equal(masked(ratios, low=0.5, high=2.0), [[0.0, 0.5, 1.0, 2.0, 0.0, 0.0]])


def test_a_completion_that_the_sampler_would_not_have_made_ends_in_a_finite_weight():
    # 3 * 40 nats are more than float32 holds.
    ratios = sequence_ratios(jnp.full((1, 3), 40.0), jnp.zeros((1, 3)), jnp.ones((1, 3), bool))
    np.testing.assert_array_equal(ratios, jnp.inf)
    np.testing.assert_array_equal(truncated(ratios, cap=2.0), 2.0)
    np.testing.assert_array_equal(masked(ratios, low=0.0, high=2.0), 0.0)


def test_truncated_weights_average_to_one_when_the_cap_does_not_bind():
    # Over tokens drawn by the sampler: sum of p_sampler * p_trainer / p_sampler.
    sampler, trainer = jnp.array([[0.5, 0.3, 0.2]]), jnp.array([[0.4, 0.35, 0.25]])
    ratios = token_ratios(jnp.log(trainer), jnp.log(sampler), jnp.ones((1, 3), bool))
    np.testing.assert_allclose((sampler * truncated(ratios, cap=2.0)).sum(), 1.0, rtol=1e-6)


@pytest.mark.parametrize("padding", [jnp.inf, -jnp.inf, jnp.nan])
@pytest.mark.parametrize("ratios", [token_ratios, sequence_ratios])
def test_padding_has_no_weight_and_no_effect(ratios, padding):
    dirty = ratios(jnp.where(MASK, TRAINER, padding), jnp.where(MASK, SAMPLER, padding), MASK)
    np.testing.assert_array_equal(dirty, ratios(TRAINER, SAMPLER, MASK))
    np.testing.assert_array_equal(dirty[~MASK], 0.0)


@pytest.mark.parametrize("ratios", [token_ratios, sequence_ratios])
def test_weights_are_not_differentiated(ratios):
    gradients = jax.grad(lambda *x: truncated(ratios(*x, MASK), cap=99.0).sum(), argnums=(0, 1))(TRAINER, SAMPLER)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("ratios", [token_ratios, sequence_ratios])
def test_a_row_weighs_the_same_alone(ratios):
    np.testing.assert_array_equal(ratios(TRAINER[:1], SAMPLER[:1], MASK[:1]), ratios(TRAINER, SAMPLER, MASK)[:1])


def test_parts_tell_the_weight_and_where_it_is_not_the_ratio():
    ratios = token_ratios(TRAINER, SAMPLER, MASK)
    parts = importance_parts(ratios, truncated(ratios, cap=1.5))
    np.testing.assert_allclose(parts["importance/weight_mean"], [[1.5, 0.5, 1.5], [0.25, 0, 0], [0, 0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(parts["importance/changed"], [[1, 0, 1], [0, 0, 0], [0, 0, 0]])
