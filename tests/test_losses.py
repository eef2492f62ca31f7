import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.kl import k3_kl
from jaxfc.losses import clipped_policy_terms, masked_mean, masked_sum, policy_loss, sft_loss

CLIP = {"clip_low": 0.2, "clip_high": 0.2}


def random_batch(rows=6, length=5, seed=0):
    """Log-probabilities of three policies, advantages per completion, and a mask of ragged lengths."""
    keys = jax.random.split(jax.random.key(seed), 4)
    new, old, reference = (-jax.random.exponential(key, (rows, length)) for key in keys[:3])
    advantages = jax.random.normal(keys[3], (rows,))
    mask = jnp.arange(length)[None] < (jnp.arange(rows)[:, None] % length) + 1
    return new, old, reference, advantages, mask


def loss_of(new, old, reference, advantages, mask, **changed):
    settings = {**CLIP, "kl_coefficient": 0.1, "normalizer": mask.sum()} | changed
    return policy_loss(new, old, reference, advantages, mask, **settings)


def test_ratio_beyond_the_clip_is_worth_the_clip():
    # Ratios 1.5 and 0.5, advantage +1: the first counts as 1.2, the second is left alone.
    new, old, mask = jnp.log(jnp.array([[1.5, 0.5]])), jnp.zeros((1, 2)), jnp.ones((1, 2), bool)
    terms, parts = clipped_policy_terms(new, old, jnp.ones((1, 2)), mask, **CLIP)
    np.testing.assert_allclose(terms, [[-1.2, -0.5]], rtol=1e-6)
    np.testing.assert_allclose(parts["loss/clip_fraction"], [[1, 0]])
    np.testing.assert_allclose(parts["loss/ratio_mean"], [[1.5, 0.5]], rtol=1e-6)


def test_negative_advantage_is_clipped_from_below():
    # Advantage -1: -min(-1.5, -1.2) = 1.5 is left alone, -min(-0.5, -0.9) = 0.9 counts as the clip.
    new, old, mask = jnp.log(jnp.array([[1.5, 0.5]])), jnp.zeros((1, 2)), jnp.ones((1, 2), bool)
    terms, parts = clipped_policy_terms(new, old, -jnp.ones((1, 2)), mask, clip_low=0.1, clip_high=0.2)
    np.testing.assert_allclose(terms, [[1.5, 0.9]], rtol=1e-6)
    np.testing.assert_allclose(parts["loss/clip_fraction"], [[0, 1]])


def test_a_clipped_token_has_no_gradient():
    old, mask = jnp.zeros((1, 2)), jnp.ones((1, 2), bool)

    def total(new):
        return clipped_policy_terms(new, old, jnp.ones((1, 2)), mask, **CLIP)[0].sum()

    # d(-r)/d(logprob) = -r where the ratio is free.
    np.testing.assert_allclose(jax.grad(total)(jnp.log(jnp.array([[1.5, 0.5]]))), [[0.0, -0.5]], rtol=1e-6)


def test_on_policy_gradient_is_reinforce():
    # At ratio 1 and no KL, dL/dlogprob = -A / N on the mask.
    new, _, reference, advantages, mask = random_batch()
    gradient = jax.grad(lambda x: loss_of(x, new, reference, advantages, mask, kl_coefficient=0.0)[0])(new)
    np.testing.assert_allclose(gradient, jnp.where(mask, -advantages[:, None] / mask.sum(), 0.0), rtol=1e-6)


def test_k3_is_exp_d_minus_d_minus_1():
    # d = 0.5: 1.648721 - 1.5 = 0.148721; d = -1: 0.367879 + 1 - 1 = 0.367879; off the mask: 0.
    kl = k3_kl(jnp.array([[-1.0, -1.0, -1.0]]), jnp.array([[-0.5, -2.0, -9.0]]), jnp.array([[True, True, False]]))
    np.testing.assert_allclose(kl, [[0.148721, 0.367879, 0.0]], rtol=1e-5)


def test_k3_keeps_its_digits_near_the_reference():
    # d = 1e-3: d^2 / 2 + d^3 / 6 = 5.0016671e-7. The difference of two numbers near 1e-3 is good to two of their
    # float32 steps, 2.4e-10; exp(d) - 1 would be off by a step of 1, which is 1.2e-7.
    kl = k3_kl(jnp.zeros((1, 1)), jnp.full((1, 1), 1e-3), jnp.ones((1, 1), bool))
    np.testing.assert_allclose(kl, [[5.0016671e-7]], rtol=0, atol=2.4e-10)


def test_k3_averages_to_the_kl_over_samples_of_the_policy():
    policy, reference = jnp.array([0.5, 0.3, 0.2]), jnp.array([0.2, 0.3, 0.5])
    every_token = k3_kl(jnp.log(policy)[None], jnp.log(reference)[None], jnp.ones((1, 3), bool))[0]
    np.testing.assert_allclose((policy * every_token).sum(), (policy * jnp.log(policy / reference)).sum(), rtol=1e-5)


def test_policy_loss_is_surrogate_plus_weighted_kl_over_the_tokens():
    # Token 0: ratio 1, A = 2: -2. Token 1: ratio 1.5, clipped to 1.2: -2.4. k3 at d = 0 and d = -ln 1.5 = -0.405465:
    # 0 and 0.666667 + 0.405465 - 1 = 0.072132. (-4.4 + 0.5 * 0.072132) / 2 = -2.181967.
    new = jnp.log(jnp.array([[1.0, 1.5, 1.0]]))
    zeros, mask = jnp.zeros((1, 3)), jnp.array([[True, True, False]])
    loss, metrics = loss_of(new, zeros, zeros, jnp.array([2.0]), mask, kl_coefficient=0.5)
    np.testing.assert_allclose(loss, -2.181967, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss/total"], loss)
    np.testing.assert_allclose(metrics["loss/policy"], -2.2, rtol=1e-6)
    np.testing.assert_allclose(metrics["kl/reference"], 0.072132 / 2, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss/clip_fraction"], 0.5)
    np.testing.assert_allclose(metrics["loss/ratio_mean"], 1.25, rtol=1e-6)


def test_a_completions_advantage_is_that_of_all_its_tokens():
    new, old, reference, advantages, mask = random_batch()
    per_token = jnp.broadcast_to(advantages[:, None], mask.shape)
    per_row_loss, _ = loss_of(new, old, reference, advantages, mask)
    np.testing.assert_array_equal(per_row_loss, loss_of(new, old, reference, per_token, mask)[0])


def test_micro_batches_add_up_to_the_batch():
    batch = random_batch(rows=8)
    count = batch[-1].sum()
    loss = jax.value_and_grad(loss_of, has_aux=True)
    (whole, whole_metrics), whole_gradient = loss(*batch, normalizer=count)
    # Uneven pieces with different numbers of tokens.
    pieces = [loss(*(x[rows] for x in batch), normalizer=count) for rows in (slice(0, 3), slice(3, 4), slice(4, 8))]
    np.testing.assert_allclose(sum(value for (value, _), _ in pieces), whole, rtol=1e-5)
    for name, value in whole_metrics.items():
        np.testing.assert_allclose(sum(metrics[name] for (_, metrics), _ in pieces), value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(jnp.concatenate([gradient for _, gradient in pieces]), whole_gradient, rtol=1e-5)


@pytest.mark.parametrize("padding", [jnp.inf, -jnp.inf, jnp.nan, 1e30])
def test_padding_reaches_neither_the_policy_loss_nor_its_gradient(padding):
    new, old, reference, advantages, mask = random_batch()
    advantages = jnp.broadcast_to(advantages[:, None], mask.shape)
    loss = jax.value_and_grad(loss_of, has_aux=True)
    clean = loss(new, old, reference, advantages, mask)
    dirty = loss(*(jnp.where(mask, x, padding) for x in (new, old, reference, advantages)), mask)
    jax.tree.map(np.testing.assert_array_equal, dirty, clean)
    assert jnp.isfinite(dirty[1]).all()


@pytest.mark.parametrize("padding", [jnp.inf, -jnp.inf, jnp.nan])
def test_padding_reaches_neither_the_sft_loss_nor_its_gradient(padding):
    logprobs, *_, mask = random_batch()
    loss = jax.value_and_grad(lambda x: sft_loss(x, mask, normalizer=mask.sum())[0])
    jax.tree.map(np.testing.assert_array_equal, loss(jnp.where(mask, logprobs, padding)), loss(logprobs))


def test_only_the_policy_being_trained_is_differentiated():
    new, old, reference, advantages, mask = random_batch()
    gradients = jax.grad(lambda *arrays: loss_of(*arrays, mask)[0], argnums=(1, 2, 3))(new, old, reference, advantages)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0.0)


def test_sft_loss_is_the_mean_surprise_of_the_masked_tokens():
    # (0.5 + 1.5 + 1.0) / 3; the -9 is off the mask.
    logprobs = jnp.array([[-0.5, -1.5], [-1.0, -9.0]])
    mask = jnp.array([[True, True], [True, False]])
    loss, metrics = sft_loss(logprobs, mask, normalizer=3)
    np.testing.assert_allclose(loss, 1.0, rtol=1e-6)
    np.testing.assert_array_equal(metrics["loss/total"], loss)
    gradient = jax.grad(lambda x: sft_loss(x, mask, normalizer=3)[0])(logprobs)
    np.testing.assert_allclose(gradient, [[-1 / 3, -1 / 3], [-1 / 3, 0.0]], rtol=1e-6)


def test_masked_mean_divides_by_the_mask_not_by_the_length():
    values, mask = jnp.array([[1.0, 2.0, jnp.nan]]), jnp.array([[True, True, False]])
    assert masked_mean(values, mask) == 1.5
    assert masked_sum(values, mask) == 3.0
    assert masked_mean(values, jnp.zeros((1, 3), bool)) == 0.0
