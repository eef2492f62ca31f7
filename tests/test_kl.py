import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.kl import k1_kl, k2_kl, k3_kl

ESTIMATES = [k1_kl, k2_kl, k3_kl]
POLICY = jnp.log(jnp.array([[0.5, 0.3, 0.2]]))
REFERENCE = jnp.log(jnp.array([[0.25, 0.15, 0.6]]))
ALL = jnp.ones((1, 3), bool)


def exact_kl(logits, other):
    """KL(softmax(logits) || softmax(other)) in nats."""
    p, q = jax.nn.log_softmax(logits), jax.nn.log_softmax(other)
    return (jnp.exp(p) * (p - q)).sum()


def average_gradient(estimate):
    """Gradient of an estimate, by the policy's logits, averaged over tokens sampled from the policy."""

    def loss(logits):
        logprobs = jax.nn.log_softmax(logits)
        return (jnp.exp(jax.lax.stop_gradient(logprobs)) * estimate(logprobs, REFERENCE, ALL)).sum()

    return jax.grad(loss)(POLICY)


def test_k1_is_the_log_ratio_and_k2_half_its_square():
    # logprob - reference: 1.5 and -0.5; halves of 2.25 and 0.25; off the mask: 0.
    new, old, mask = jnp.array([[-0.5, -2.5, -1.0]]), jnp.array([[-2.0, -2.0, -9.0]]), jnp.array([[True, True, False]])
    np.testing.assert_allclose(k1_kl(new, old, mask), [[1.5, -0.5, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(k2_kl(new, old, mask), [[1.125, 0.125, 0.0]], rtol=1e-6)


def test_k3_is_exp_d_minus_d_minus_1():
    # d = 0.5: 1.648721 - 1.5 = 0.148721; d = -1: 0.367879 + 1 - 1 = 0.367879; off the mask: 0.
    kl = k3_kl(jnp.array([[-1.0, -1.0, -1.0]]), jnp.array([[-0.5, -2.0, -9.0]]), jnp.array([[True, True, False]]))
    np.testing.assert_allclose(kl, [[0.148721, 0.367879, 0.0]], rtol=1e-5)


def test_k3_keeps_its_digits_near_the_reference():
    # d = 1e-3: d^2 / 2 + d^3 / 6 = 5.0016671e-7. The difference of two numbers near 1e-3 is good to two of their
    # float32 steps, 2.4e-10; exp(d) - 1 would be off by a step of 1, which is 1.2e-7.
    kl = k3_kl(jnp.zeros((1, 1)), jnp.full((1, 1), 1e-3), jnp.ones((1, 1), bool))
    np.testing.assert_allclose(kl, [[5.0016671e-7]], rtol=0, atol=2.4e-10)


@pytest.mark.parametrize("estimate", [k1_kl, k3_kl])
def test_k1_and_k3_average_to_the_kl_over_samples_of_the_policy(estimate):
    average = (jnp.exp(POLICY) * estimate(POLICY, REFERENCE, ALL)).sum()
    np.testing.assert_allclose(average, exact_kl(POLICY, REFERENCE), rtol=1e-5)


def test_the_average_gradient_of_k1_is_zero():
    np.testing.assert_allclose(average_gradient(k1_kl), 0.0, atol=1e-7)


def test_the_average_gradient_of_k2_is_that_of_the_kl_to_the_reference():
    np.testing.assert_allclose(average_gradient(k2_kl), jax.grad(exact_kl)(POLICY, REFERENCE), rtol=1e-5)


def test_the_average_gradient_of_k3_is_that_of_the_kl_from_the_reference():
    np.testing.assert_allclose(average_gradient(k3_kl), jax.grad(exact_kl, argnums=1)(REFERENCE, POLICY), rtol=1e-5)


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_the_reference_is_not_differentiated(estimate):
    gradient = jax.grad(lambda reference: estimate(POLICY, reference, ALL).sum())(REFERENCE)
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("padding", [jnp.inf, -jnp.inf, jnp.nan])
@pytest.mark.parametrize("estimate", ESTIMATES)
def test_padding_reaches_neither_an_estimate_nor_its_gradient(estimate, padding):
    mask = jnp.array([[True, True, False]])
    new, reference = (jnp.where(mask, x, padding) for x in (POLICY, REFERENCE))
    values, gradient = (
        f(new) for f in (lambda x: estimate(x, reference, mask), jax.grad(lambda x: estimate(x, reference, mask).sum()))
    )
    np.testing.assert_array_equal(values[:, 2], 0.0)
    np.testing.assert_array_equal(gradient[:, 2], 0.0)
    np.testing.assert_array_equal(values[:, :2], estimate(POLICY, REFERENCE, ALL)[:, :2])
    assert jnp.isfinite(gradient).all()
