import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.aggregation import constant_weights, sequence_mean_weights, token_mean_weights
from jaxfc.kl import k3_kl
from jaxfc.losses import (
    cispo_terms,
    clip_cov_terms,
    clipped_policy_terms,
    gspo_terms,
    gspo_token_terms,
    kl_cov_terms,
    masked_mean,
    masked_sum,
    policy_loss,
    reinforce_terms,
    sft_loss,
    token_means,
    weighted_loss,
)

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


def selected_tokens(mask):
    """Every third token of a batch, by a rule that knows nothing of the batch's rows."""
    return jnp.broadcast_to(jnp.arange(mask.shape[1]) % 3 == 0, mask.shape)


SURROGATES = {
    "clip": lambda new, old, a, mask: clipped_policy_terms(new, old, a, mask, **CLIP),
    "dual clip": lambda new, old, a, mask: clipped_policy_terms(new, old, a, mask, **CLIP, dual_clip=1.5),
    "gspo": lambda new, old, a, mask: gspo_terms(new, old, a, mask, **CLIP),
    "gspo token": lambda new, old, a, mask: gspo_token_terms(new, old, a, mask, **CLIP),
    "cispo": lambda new, old, a, mask: cispo_terms(new, old, a, mask, **CLIP),
    "reinforce": lambda new, old, a, mask: reinforce_terms(new, a, mask),
    "clip cov": lambda new, old, a, mask: clip_cov_terms(new, old, a, mask, selected_tokens(mask), **CLIP),
    "kl cov": lambda new, old, a, mask: kl_cov_terms(new, old, a, mask, selected_tokens(mask), coefficient=1.0),
}
every_surrogate = pytest.mark.parametrize("surrogate", SURROGATES.values(), ids=SURROGATES)


def surrogate_batch(rows=6, length=5, seed=1):
    """(new, old, advantages of tokens, mask), the last row empty; ratios on both sides of the clip."""
    new, old, _, _, mask = random_batch(rows, length, seed)
    advantages = jax.random.normal(jax.random.key(seed + 100), mask.shape)
    return old + 0.3 * (new - old), old, advantages, mask.at[-1].set(False)


def total(surrogate):
    """Gradient of the sum of the terms, by the policy being trained."""
    return jax.value_and_grad(lambda new, *rest: surrogate(new, *rest)[0].sum())


@every_surrogate
@pytest.mark.parametrize("padding", [jnp.inf, -jnp.inf, jnp.nan, 1e30])
def test_padding_reaches_neither_a_surrogate_nor_its_gradient(surrogate, padding):
    *arrays, mask = surrogate_batch()
    dirty = [jnp.where(mask, x, padding) for x in arrays]
    jax.tree.map(np.testing.assert_array_equal, surrogate(*dirty, mask), surrogate(*arrays, mask))
    jax.tree.map(np.testing.assert_array_equal, total(surrogate)(*dirty, mask), total(surrogate)(*arrays, mask))
    terms, parts = surrogate(*dirty, mask)
    for values in (terms, *parts.values(), total(surrogate)(*dirty, mask)[1]):
        np.testing.assert_array_equal(values[~mask], 0.0)
        assert jnp.isfinite(values).all()


@every_surrogate
def test_a_surrogate_differentiates_only_the_policy_being_trained(surrogate):
    *arrays, mask = surrogate_batch()
    by_new, *others = jax.grad(lambda *x: surrogate(*x, mask)[0].sum(), argnums=(0, 1, 2))(*arrays)
    assert (by_new[mask] != 0).any()
    for gradient in others:
        np.testing.assert_array_equal(gradient, 0.0)


@every_surrogate
def test_a_dead_group_has_no_loss_and_no_gradient_however_far_the_policy_moved(surrogate):
    new, old, advantages, mask = surrogate_batch()
    value, gradient = total(surrogate)(new.at[:, 0].set(200.0), old, jnp.zeros_like(advantages), mask)
    chosen = selected_tokens(mask)
    if surrogate is SURROGATES["kl cov"]:
        # Only the penalty on the selected tokens is left, and its gradient is its sign.
        np.testing.assert_array_equal(gradient[~chosen], 0.0)
        assert jnp.isfinite(value) and set(np.unique(gradient)) <= {-1.0, 0.0, 1.0}
    else:
        assert value == 0.0
        np.testing.assert_array_equal(gradient, 0.0)


@every_surrogate
def test_a_surrogate_is_the_same_under_jit_and_vmap(surrogate):
    batch = surrogate_batch()
    # A difference of one float32 step in exp is all that compiling may make.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), jax.jit(surrogate)(*batch), surrogate(*batch)
    )
    twice = [jnp.stack([x, x[::-1]]) for x in batch]
    both = jax.vmap(surrogate)(*twice)
    for index, rows in enumerate((slice(None), slice(None, None, -1))):
        alone = surrogate(*(x[rows] for x in batch))
        jax.tree.map(lambda a, b, index=index: np.testing.assert_allclose(a[index], b, rtol=1e-6), both, alone)


@every_surrogate
def test_every_loss_adds_up_over_micro_batches(surrogate):
    *arrays, mask = surrogate_batch(rows=9)
    tokens, sequences = mask.sum(), mask.any(axis=1).sum()
    entropies = jax.random.exponential(jax.random.key(5), mask.shape)
    means = {
        "tokens": lambda mask: token_mean_weights(mask, tokens=tokens),
        "sequences": lambda mask: sequence_mean_weights(mask, sequences=sequences),
        "constant": lambda mask: constant_weights(mask, constant=64.0),
    }

    def loss(new, old, advantages, entropies, mask, weigh):
        terms, parts = surrogate(new, old, advantages, mask)
        value, metrics = weighted_loss(
            terms, weigh(mask), mask, kl=k3_kl(new, old, mask), kl_coefficient=0.1, entropies=entropies,
            entropy_coefficient=0.2,
        )  # fmt: skip
        return value, metrics | token_means(parts, mask, normalizer=tokens)

    gradient = jax.value_and_grad(loss, has_aux=True)
    for weigh in means.values():
        (whole, metrics), by_new = gradient(*arrays, entropies, mask, weigh)
        pieces = [slice(0, 4), slice(4, 5), slice(5, 9)]
        parts = [gradient(*(x[rows] for x in (*arrays, entropies, mask)), weigh) for rows in pieces]
        np.testing.assert_allclose(sum(value for (value, _), _ in parts), whole, rtol=1e-5)
        np.testing.assert_allclose(jnp.concatenate([g for _, g in parts]), by_new, rtol=1e-5, atol=1e-9)
        for name, value in metrics.items():
            np.testing.assert_allclose(sum(m[name] for (_, m), _ in parts), value, rtol=1e-5, err_msg=name)


@every_surrogate
def test_on_policy_every_surrogate_has_the_gradient_of_reinforce(surrogate):
    _, old, advantages, mask = surrogate_batch()
    if surrogate is SURROGATES["gspo"]:
        # One ratio per completion has room for one advantage.
        advantages = jnp.broadcast_to(advantages[:, :1], mask.shape)
    expected = jnp.where(mask, -advantages, 0.0)
    if surrogate is SURROGATES["clip cov"]:
        expected = jnp.where(selected_tokens(mask), 0.0, expected)
    np.testing.assert_allclose(total(surrogate)(old, old, advantages, mask)[1], expected, rtol=1e-6, atol=1e-7)


def test_dual_clip_bounds_the_loss_of_a_bad_token_whose_ratio_ran_away():
    # Ratio 4: at A = -1 the loss 4 becomes 3, without a gradient; at A = +1 the clip at 1.2 holds as ever. Ratio 2 at
    # A = -1 stays 2, and its gradient is r.
    new, old, mask = jnp.log(jnp.array([[4.0, 4.0, 2.0]])), jnp.zeros((1, 3)), jnp.ones((1, 3), bool)
    advantages = jnp.array([[-1.0, 1.0, -1.0]])
    terms, parts = clipped_policy_terms(new, old, advantages, mask, **CLIP, dual_clip=3.0)
    np.testing.assert_allclose(terms, [[3.0, -1.2, 2.0]], rtol=1e-6)
    np.testing.assert_array_equal(parts["loss/dual_clip_fraction"], [[1, 0, 0]])
    np.testing.assert_array_equal(parts["loss/clip_fraction"], [[0, 1, 0]])
    gradient = jax.grad(lambda new: clipped_policy_terms(new, old, advantages, mask, **CLIP, dual_clip=3.0)[0].sum())(
        new
    )
    np.testing.assert_allclose(gradient, [[0.0, 0.0, 2.0]], rtol=1e-6)


def test_gspo_clips_the_geometric_mean_of_a_completions_ratios():
    # Ratios 4 and 1: s = 2, clipped to 1.2 for both tokens. Ratios 4 and 0.25: s = 1, and neither is clipped. The
    # third token of row 0 is off the mask and does not count in the mean.
    new = jnp.log(jnp.array([[4.0, 1.0, 9.0], [4.0, 0.25, 1.0]]))
    mask = jnp.array([[True, True, False], [True, True, True]])
    for surrogate in (gspo_terms, gspo_token_terms):
        terms, parts = surrogate(new, jnp.zeros((2, 3)), jnp.ones((2, 3)), mask, **CLIP)
        np.testing.assert_allclose(terms, [[-1.2, -1.2, 0.0], [-1.0, -1.0, -1.0]], rtol=1e-6)
        np.testing.assert_allclose(parts["loss/ratio_mean"], [[2.0, 2.0, 0.0], [1.0, 1.0, 1.0]], rtol=1e-6)
        np.testing.assert_array_equal(parts["loss/clip_fraction"], [[1, 1, 0], [0, 0, 0]])


def test_both_forms_of_gspo_agree_when_a_completion_has_one_advantage():
    new, old, advantages, mask = surrogate_batch()
    per_row = jnp.broadcast_to(advantages[:, :1], mask.shape)
    weights = sequence_mean_weights(mask, sequences=mask.any(axis=1).sum())

    def loss(new, surrogate):
        return weighted_loss(surrogate(new, old, per_row, mask, **CLIP)[0], weights, mask)[0]

    by_sequence, by_token = (jax.value_and_grad(loss)(new, surrogate) for surrogate in (gspo_terms, gspo_token_terms))
    np.testing.assert_allclose(by_token[0], by_sequence[0], rtol=1e-6)
    np.testing.assert_allclose(by_token[1], by_sequence[1], rtol=1e-5, atol=1e-8)
    assert (by_sequence[1][mask] != 0).any() and (by_sequence[1][mask] == 0).any()


def test_cispo_keeps_the_gradient_of_a_clipped_token():
    # Ratios 4, 1, 0.1 have weights 1.3, 1, 0.8, at A = 2 a gradient of -2 w.
    new, old, mask = jnp.log(jnp.array([[4.0, 1.0, 0.1]])), jnp.zeros((1, 3)), jnp.ones((1, 3), bool)
    advantages = jnp.full((1, 3), 2.0)
    settings = {"clip_low": 0.2, "clip_high": 0.3}
    terms, parts = cispo_terms(new, old, advantages, mask, **settings)
    np.testing.assert_allclose(terms, -2 * jnp.array([[1.3, 1.0, 0.8]]) * new, rtol=1e-6)
    np.testing.assert_array_equal(parts["loss/clip_fraction"], [[1, 0, 1]])
    np.testing.assert_allclose(parts["loss/ratio_mean"], [[4.0, 1.0, 0.1]], rtol=1e-6)
    gradient = jax.grad(lambda new: cispo_terms(new, old, advantages, mask, **settings)[0].sum())(new)
    np.testing.assert_allclose(gradient, [[-2.6, -2.0, -1.6]], rtol=1e-6)


def test_clip_cov_leaves_out_the_selected_tokens_alone():
    new, old, advantages, mask = surrogate_batch()
    chosen = selected_tokens(mask)
    terms, parts = clip_cov_terms(new, old, advantages, mask, chosen, **CLIP)
    plain, _ = clipped_policy_terms(new, old, advantages, mask, **CLIP)
    np.testing.assert_array_equal(terms, jnp.where(chosen, 0.0, plain))
    np.testing.assert_array_equal(parts["loss/selected"], mask & chosen)


def test_kl_cov_charges_the_selected_tokens_for_their_change():
    # Ratios e and 1/e at A = 1: -e + 0.5 and -1/e + 0.5 where selected, no clip; -e where not.
    new, old, mask = jnp.array([[1.0, -1.0, 1.0]]), jnp.zeros((1, 3)), jnp.ones((1, 3), bool)
    chosen = jnp.array([[True, True, False]])
    terms, parts = kl_cov_terms(new, old, jnp.ones((1, 3)), mask, chosen, coefficient=0.5)
    np.testing.assert_allclose(terms, [[0.5 - jnp.e, 0.5 - 1 / jnp.e, -jnp.e]], rtol=1e-6)
    np.testing.assert_array_equal(parts["loss/selected"], chosen)
    np.testing.assert_allclose(parts["loss/ratio_mean"], [[jnp.e, 1 / jnp.e, jnp.e]], rtol=1e-6)


def test_a_ratio_is_followed_up_to_its_limit_and_not_beyond():
    # Log-ratios 19 and 21 at A = -1: e^19 has its gradient; beyond 20 the loss stays at e^20, with none.
    new, old, mask = jnp.array([[19.0, 21.0]]), jnp.zeros((1, 2)), jnp.ones((1, 2), bool)
    terms, _ = clipped_policy_terms(new, old, -jnp.ones((1, 2)), mask, **CLIP)
    np.testing.assert_allclose(terms, np.exp([[19.0, 20.0]]), rtol=1e-5)
    gradient = jax.grad(lambda new: clipped_policy_terms(new, old, -jnp.ones((1, 2)), mask, **CLIP)[0].sum())(new)
    np.testing.assert_allclose(gradient, [[np.exp(19.0), 0.0]], rtol=1e-5)


def test_weighted_loss_adds_the_kl_and_takes_off_the_entropy():
    # Weights 0.5 and 0.25: terms -2 and 4: 0; KL 1 and 2: 1; entropies 3 and 2: 2. 0 + 0.1 * 1 - 0.2 * 2 = -0.3.
    mask = jnp.array([[True, True, False]])
    weights, terms = jnp.array([[0.5, 0.25, jnp.nan]]), jnp.array([[-2.0, 4.0, jnp.nan]])
    kl, entropies = jnp.array([[1.0, 2.0, jnp.inf]]), jnp.array([[3.0, 2.0, jnp.inf]])
    loss, metrics = weighted_loss(
        terms, weights, mask, kl=kl, kl_coefficient=0.1, entropies=entropies, entropy_coefficient=0.2
    )
    np.testing.assert_allclose(loss, -0.3, rtol=1e-6)
    assert metrics == {"loss/policy": 0.0, "loss/kl": 1.0, "loss/entropy": 2.0, "loss/total": loss}
    gradients = jax.grad(
        lambda kl, entropies: weighted_loss(
            terms, weights, mask, kl=kl, kl_coefficient=0.1, entropies=entropies, entropy_coefficient=0.2
        )[0],
        argnums=(0, 1),
    )(kl, entropies)
    np.testing.assert_allclose(gradients[0], [[0.05, 0.025, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(gradients[1], [[-0.1, -0.05, 0.0]], rtol=1e-6)


def test_terms_that_are_not_given_leave_no_metric():
    mask = jnp.ones((1, 2), bool)
    loss, metrics = weighted_loss(jnp.array([[1.0, 2.0]]), jnp.full((1, 2), 0.5), mask)
    assert metrics == {"loss/policy": 1.5, "loss/total": loss} and loss == 1.5


def test_the_weights_are_not_differentiated():
    terms, mask = jnp.array([[1.0, 2.0]]), jnp.ones((1, 2), bool)
    gradient = jax.grad(lambda weights: weighted_loss(terms, weights, mask)[0])(jnp.ones((1, 2)))
    np.testing.assert_array_equal(gradient, 0.0)


def test_an_empty_batch_costs_nothing():
    new, old, reference, advantages, mask = random_batch()
    empty = jnp.zeros_like(mask)
    (loss, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(
        new, old, reference, advantages, empty, normalizer=0
    )
    assert loss == 0.0 and set(map(float, metrics.values())) == {0.0}
    np.testing.assert_array_equal(gradient, 0.0)


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
