import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import array_shapes, equations

import jaxfc.logprobs as logprobs_module
from jaxfc.logprobs import head_logits, length_mask, logit_scores, sampled_logits, token_scores
from jaxfc.sampler import make_sampling

B, T, D, V, VOCABULARY = 3, 5, 8, 26, 23
SETTINGS = [
    {"temperature": 1.0},
    {"temperature": 0.7},
    {"temperature": 0.0},
    {"temperature": 1.3, "top_k": 4},
    {"temperature": 0.7, "top_p": 0.8},
    {"temperature": 1.0, "top_k": 6, "top_p": 0.6},
    {"temperature": 1.0, "top_p": 1e-6},
    {"temperature": 1.0, "top_k": 1000},
]


def sampling_of(*, temperature=1.0, top_k=0, top_p=1.0):
    return make_sampling(temperature=temperature, top_k=top_k, top_p=top_p, stop_tokens=(0,), max_tokens=T)


@functools.cache
def inputs():
    rng = np.random.default_rng(0)
    hidden, head = 0.3 * rng.normal(size=(B, T, D)), rng.normal(size=(D, V))
    # Were padded entries counted, they would be the likeliest of all.
    head[:, VOCABULARY:] = 0
    head[0, VOCABULARY:] = 100
    hidden[..., 0] = abs(hidden[..., 0])
    tokens = rng.integers(0, VOCABULARY, (B, T))
    return jnp.float32(hidden), jnp.float32(head), jnp.asarray(tokens, jnp.int32)


def by_hand(logits, *, temperature=1.0, top_k=0, top_p=1.0):
    """The distribution that is sampled in float64, one position at a time: probabilities, 0 for what is cut."""
    logits = np.asarray(logits, np.float64)[:VOCABULARY] / (temperature or 1.0)
    order = np.argsort(-logits)[: top_k or None]
    probabilities = np.exp(logits[order] - logits[order].max())
    probabilities /= probabilities.sum()
    count = 1
    while top_p < 1 and probabilities[:count].sum() < top_p:
        count += 1
    kept = order if top_p == 1 else order[:count]
    out = np.zeros(VOCABULARY)
    out[kept] = np.exp(logits[kept] - logits[kept].max())
    return out / out.sum()


def distributions(settings):
    hidden, head, _ = (np.asarray(a, np.float64) for a in inputs())
    return [[by_hand(hidden[b, t] @ head, **settings) for t in range(T)] for b in range(B)]


def likely_tokens(settings):
    """A token for each position that the settings let through."""
    return jnp.asarray([[int(np.argmax(p)) for p in row] for row in distributions(settings)], jnp.int32)


def measure(hidden, head, tokens, sampling):
    return token_scores(hidden, head, tokens, sampling, vocabulary=VOCABULARY)


@functools.cache
def compiled():
    """The one program of these tests; every setting is an argument of it."""
    return jax.jit(measure)


def scores_of(hidden, head, tokens, settings):
    return jax.tree.map(np.asarray, compiled()(hidden, head, tokens, sampling_of(**settings)))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_scores_are_those_of_the_distribution_written_out_in_float64(settings):
    hidden, head, _ = inputs()
    tokens = likely_tokens(settings)
    scores = scores_of(hidden, head, tokens, settings)
    for b, t in np.ndindex(B, T):
        p = distributions(settings)[b][t]
        entropy = -sum(x * math.log(x) for x in p if x > 0)
        assert scores.logprobs[b, t] == pytest.approx(math.log(p[tokens[b, t]]), abs=1e-5)
        assert scores.entropies[b, t] == pytest.approx(entropy, abs=1e-5)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_exactly_the_right_tokens_can_be_drawn(settings):
    hidden, head, _ = inputs()
    logits = sampled_logits(head_logits(hidden.reshape(-1, D), head), sampling_of(**settings), VOCABULARY)
    expected = np.array(distributions(settings)).reshape(-1, VOCABULARY) > 0
    np.testing.assert_array_equal(np.isfinite(logits[:, :VOCABULARY]), expected)
    assert np.isneginf(logits[:, VOCABULARY:]).all()


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    # Probabilities 0.5, 0.25, 0.125, 0.125: two tokens have 0.75 together, and 0.76 needs a third and its equal.
    logits = jnp.log(jnp.array([[0.125, 0.5, 0.125, 0.25]]))
    for top_p, kept in [(0.4, [1]), (0.5, [1]), (0.51, [1, 3]), (0.75, [1, 3]), (0.76, [0, 1, 2, 3])]:
        cut = sampled_logits(logits, sampling_of(top_p=top_p), 4)
        assert np.flatnonzero(np.isfinite(cut[0])).tolist() == kept, top_p


def test_entropy_of_equal_tokens_is_the_logarithm_of_their_number():
    # 26 columns of which 23 exist; top_k 4 of 23 different ones would be 4, but equal ones cannot be told apart.
    scores = scores_of(jnp.zeros((1, 1, D)), jnp.ones((D, V)), jnp.zeros((1, 1), jnp.int32), {})
    np.testing.assert_allclose(scores, np.array([-math.log(23), math.log(23)])[:, None, None], rtol=1e-6)


def test_tiles_change_neither_values_nor_gradients(monkeypatch):
    weights = jax.random.normal(jax.random.key(0), (2, B, T))

    def loss(hidden, head, tokens, sampling):
        scores = measure(hidden, head, tokens, sampling)
        return (scores.logprobs * weights[0] + scores.entropies * weights[1]).sum(), scores

    # All at once, in tiles of 4 tokens of which the last is padded, and in tiles of one token.
    results = []
    for numbers in (2**24, 4 * V + 3, 1):
        monkeypatch.setattr(logprobs_module, "TILE_NUMBERS", numbers)
        gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        given = [(likely_tokens(settings), sampling_of(**settings)) for settings in SETTINGS[:6]]
        results.append([gradient(*inputs()[:2], *arguments) for arguments in given])
    for tiled in results[1:]:
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-6), tiled, results[0])


def test_gradients_are_those_of_the_log_softmax():
    hidden, head, tokens = inputs()

    def dense(hidden, head):
        logprobs = jax.nn.log_softmax((hidden @ head)[..., :VOCABULARY] / 0.7)
        chosen = jnp.take_along_axis(logprobs, tokens[..., None], axis=2)
        return chosen.sum() - 2 * (jnp.exp(logprobs) * logprobs).sum()

    def ours(hidden, head):
        scores = measure(hidden, head, tokens, sampling_of(temperature=0.7))
        return scores.logprobs.sum() + 2 * scores.entropies.sum()

    gradient, expected = (jax.jit(jax.grad(f, (0, 1)))(hidden, head) for f in (ours, dense))
    for one, other in zip(gradient, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert not np.asarray(gradient[1])[:, VOCABULARY:].any()


@pytest.mark.parametrize("offset", [0.0, -200.0, 200.0])
def test_gradients_are_finite_wherever_logits_lie_and_whatever_is_cut(offset):
    hidden, head, tokens = inputs()

    @jax.jit
    @jax.value_and_grad
    def total(logits, sampling):
        scores = logit_scores(sampled_logits(logits, sampling, VOCABULARY), tokens.reshape(-1))
        return jnp.where(jnp.isfinite(scores[0]), scores[0], 0.0).sum() + scores[1].sum()

    for settings in SETTINGS:
        value, gradient = total(head_logits(hidden.reshape(-1, D), head) + offset, sampling_of(**settings))
        assert np.isfinite(value) and np.isfinite(gradient).all(), settings
        assert not np.asarray(gradient)[:, VOCABULARY:].any()


def test_a_drawn_token_that_the_cut_would_lose_keeps_a_finite_logprob_and_gradient():
    # Probabilities 1/2, 1/4, 1/8, 1/8; top_k 1 keeps the first. If the third was drawn, the two share it, 4 to 1.
    head = jnp.log(jnp.array([[0.5, 0.25, 0.125, 0.125]]))
    settings = sampling_of(top_k=1)

    @jax.jit
    def logprob(head, token):
        scores = token_scores(jnp.ones((1, 1, 1)), head, jnp.full((1, 1), token), settings, vocabulary=4)
        return scores.logprobs[0, 0]

    assert logprob(head, 0) == 0.0
    assert logprob(head, 2) == pytest.approx(math.log(1 / 5), abs=1e-6)
    # d log p_2 = (1 - p_2) for itself, -p_0 for the other.
    np.testing.assert_allclose(jax.grad(logprob)(head, 2), [[-0.8, 0, 0.8, 0]], atol=1e-6)


def test_tiled_scoring_never_holds_all_logits(monkeypatch):
    hidden, head, tokens = inputs()
    # Large in B * T, small in everything else.
    hidden, tokens = jnp.tile(hidden, (8, 8, 1)), jnp.tile(tokens, (8, 8))

    def loss(hidden, head):
        scores = measure(hidden, head, tokens, sampling_of(temperature=0.7, top_p=0.9))
        return scores.logprobs.sum() + scores.entropies.sum()

    def largest_with_vocabulary(numbers):
        monkeypatch.setattr(logprobs_module, "TILE_NUMBERS", numbers)
        shapes = array_shapes(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(hidden, head))
        return max(math.prod(shape) for shape in shapes if V in shape)

    assert largest_with_vocabulary(4 * V + 3) == max(4 * V, D * V)
    assert largest_with_vocabulary(2**24) == tokens.size * V, "the measure does not see logits"


def test_products_of_bfloat16_are_added_up_in_float32():
    # 257 ones: bfloat16 has 8 bits, so that 256 + 1 is 256 there.
    ones = jnp.ones((1, 257), jnp.bfloat16)
    logits = head_logits(ones, jnp.ones((257, 2)))
    assert logits.dtype == jnp.float32 and logits[0, 0] == 257
    (product,) = [
        e for e in equations(jax.make_jaxpr(head_logits)(ones, jnp.ones((257, 2)))) if "dot" in e.primitive.name
    ]
    assert [v.aval.dtype for v in product.invars] == [jnp.bfloat16] * 2
    assert product.outvars[0].aval.dtype == jnp.float32


def test_scores_of_bfloat16_states_are_float32():
    hidden, head, tokens = inputs()
    scores = scores_of(hidden.astype(jnp.bfloat16), head, tokens, {})
    assert {a.dtype for a in scores} == {jnp.dtype("float32")}
    rounded = (np.asarray(a.astype(jnp.bfloat16), np.float64) for a in (hidden, head))
    logits = np.einsum("btd,dv->btv", *rounded)
    for b, t in itertools.product(range(B), range(T)):
        p = by_hand(logits[b, t])
        assert scores.logprobs[b, t] == pytest.approx(math.log(p[tokens[b, t]]), abs=1e-5)


def test_one_program_serves_all_settings():
    scores_of(*inputs(), SETTINGS[0])
    programs = compiled()._cache_size()
    for settings in SETTINGS:
        scores_of(*inputs(), settings)
    assert compiled()._cache_size() == programs


def test_the_mask_is_true_on_each_rows_length():
    mask = length_mask(jnp.array([0, 2, 3]), 3)
    np.testing.assert_array_equal(mask, [[0, 0, 0], [1, 1, 0], [1, 1, 1]])
