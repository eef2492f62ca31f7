import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import array_shapes, equations

import jaxfc.logprobs as logprobs_module
from jaxfc.draws import make_sampling
from jaxfc.logprobs import head_logits, length_mask, logit_scores, sampled_logits, token_scores, token_statistics
from jaxfc.sharding import make_mesh, replicated, rows, shardings
from jaxfc.types import Allowed

B, G, T, D, V, VOCABULARY = 8, 2, 5, 8, 76, 71
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
    hidden, head = 0.3 * rng.normal(size=(B, T, D)), rng.normal(size=(V, D))
    # Were padded entries counted, they would be the likeliest of all.
    head[VOCABULARY:] = 0
    head[VOCABULARY:, 0] = 100
    hidden[..., 0] = abs(hidden[..., 0])
    tokens = rng.integers(0, VOCABULARY, (B, T))
    return jnp.float32(hidden), jnp.float32(head), jnp.asarray(tokens, jnp.int32)


def by_hand(logits, possible=True, *, temperature=1.0, top_k=0, top_p=1.0):
    """The distribution that is sampled in float64, one position at a time: probabilities, 0 for what is cut."""
    logits = np.asarray(logits, np.float64)[:VOCABULARY] / (temperature or 1.0)
    logits = np.where(possible, logits, -np.inf)
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


def distributions(settings, masked=False):
    hidden, head, _ = (np.asarray(a, np.float64) for a in inputs())
    possible = bits_of(allowed()) if masked else np.ones((B, T, VOCABULARY), bool)
    return [[by_hand(head @ hidden[b, t], possible[b, t], **settings) for t in range(T)] for b in range(B)]


def likely_tokens(settings):
    """A token for each position that the settings let through."""
    return jnp.asarray([[int(np.argmax(p)) for p in row] for row in distributions(settings)], jnp.int32)


@functools.cache
def allowed():
    """Masks that leave about half of the tokens, all of them, and one, differing by prompt; all positions have one."""
    rng = np.random.default_rng(3)
    bits = rng.random((B // G, 4, 96)) < 0.5
    bits[:, 0], bits[:, 3] = True, np.arange(96) == 40
    words = np.packbits(bits, axis=2, bitorder="little").view("<u4")
    return Allowed(jnp.asarray(words), jnp.asarray(rng.integers(0, 4, (B, T)), jnp.int32))


def masks_of(masks: Allowed):
    """The mask of each token, [B * T, W], read as the format is described."""
    return masks.table[jnp.arange(B)[:, None] // G, masks.index].reshape(B * T, -1)


def bits_of(masks: Allowed):
    """What the masks allow, [B, T, VOCABULARY], read as the format is described."""
    words = np.asarray(masks_of(masks)).reshape(B, T, -1)
    return np.array([[[bool(w[v // 32] >> (v % 32) & 1) for v in range(VOCABULARY)] for w in row] for row in words])


def some_tokens(settings, masked=False):
    """A random token for each position among those that can be drawn."""
    rng = np.random.default_rng(5)
    return jnp.asarray([[rng.choice(np.flatnonzero(p)) for p in row] for row in distributions(settings, masked)])


@functools.cache
def loss_weights():
    """How much the loss of these tests makes of each logprob, entropy and normalizer."""
    return np.random.default_rng(6).normal(size=(3, B, T)).astype(np.float32)


def weighted_sum(hidden, head, tokens, sampling, allowed=None, mesh=None):
    scores = token_statistics(hidden, head, tokens, sampling, vocabulary=VOCABULARY, allowed=allowed, mesh=mesh)
    return sum((score * weight).sum() for score, weight in zip(scores, loss_weights(), strict=True)), scores


def plain_sum(hidden, head, tokens, sampling):
    return sum(score.sum() for score in token_statistics(hidden, head, tokens, sampling, vocabulary=VOCABULARY))


@functools.cache
def compiled_gradient(mesh=None):
    function = functools.partial(weighted_sum, mesh=mesh)
    return jax.jit(jax.value_and_grad(function, argnums=(0, 1), has_aux=True))


def place_inputs(mesh, hidden, head, tokens, sampling, allowed):
    """The arrays where a run has them."""
    hidden, tokens, allowed = jax.device_put((hidden, tokens, allowed), rows(mesh))
    sampling = jax.device_put(sampling, replicated(mesh))
    head = jax.device_put(head, shardings(mesh, ("vocab", "embed")))
    return hidden, head, tokens, sampling, allowed


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


@pytest.mark.parametrize("masked", [False, True], ids=["all tokens", "masks"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_exactly_the_right_tokens_can_be_drawn(settings, masked):
    hidden, head, _ = inputs()
    masks = masks_of(allowed()) if masked else None
    logits = head_logits(hidden.reshape(-1, D), head)
    logits = sampled_logits(logits, sampling_of(**settings), VOCABULARY, allowed=masks)
    expected = np.array(distributions(settings, masked)).reshape(-1, VOCABULARY) > 0
    np.testing.assert_array_equal(np.isfinite(logits[:, :VOCABULARY]), expected)
    assert np.isneginf(logits[:, VOCABULARY:]).all()


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    # Probabilities 0.5, 0.25, 0.125, 0.125: two tokens have 0.75 together, and 0.76 needs a third and its equal.
    logits = jnp.log(jnp.array([[0.125, 0.5, 0.125, 0.25]]))
    for top_p, kept in [(0.4, [1]), (0.5, [1]), (0.51, [1, 3]), (0.75, [1, 3]), (0.76, [0, 1, 2, 3])]:
        cut = sampled_logits(logits, sampling_of(top_p=top_p), 4)
        assert np.flatnonzero(np.isfinite(cut[0])).tolist() == kept, top_p


def test_entropy_of_equal_tokens_is_the_logarithm_of_their_number():
    # 76 columns, of which 71 exist.
    scores = scores_of(jnp.zeros((1, 1, D)), jnp.ones((V, D)), jnp.zeros((1, 1), jnp.int32), {})
    np.testing.assert_allclose(scores, np.array([-math.log(71), math.log(71)])[:, None, None], rtol=1e-6)


@pytest.mark.parametrize("masked", [False, True], ids=["all tokens", "masks"])
def test_tiles_change_neither_values_nor_gradients(monkeypatch, masked):
    # All at once; the last tile of columns and of rows in part, rows one by one where they must be whole; tiny tiles.
    results = []
    for tiles in ({}, {"COLUMN_TILE": 33, "ROW_TILE": 8, "WHOLE_ROW_NUMBERS": V}, {"COLUMN_TILE": 1, "ROW_TILE": 1}):
        for name, size in tiles.items():
            monkeypatch.setattr(logprobs_module, name, size)
        gradient = jax.jit(jax.value_and_grad(weighted_sum, argnums=(0, 1), has_aux=True))
        given = [(some_tokens(settings, masked), sampling_of(**settings)) for settings in SETTINGS[:6]]
        results.append([gradient(*inputs()[:2], *arguments, allowed() if masked else None) for arguments in given])
    for tiled in results[1:]:
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), tiled, results[0])


@pytest.mark.parametrize("masked", [False, True], ids=["all tokens", "masks"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_values_and_gradients_are_those_of_all_logits_at_once(settings, masked):
    hidden, head, _ = inputs()
    tokens, possible = some_tokens(settings, masked), jnp.asarray(distributions(settings, masked)) > 0

    def dense(hidden, head):
        logits = (hidden @ head.T)[..., :VOCABULARY] / (settings["temperature"] or 1.0)
        logits = jnp.where(possible, logits, -1e30)
        logprobs = jax.nn.log_softmax(logits)
        chosen = jnp.take_along_axis(logprobs, tokens[..., None], axis=2)[..., 0]
        scores = chosen, -(jnp.exp(logprobs) * logprobs).sum(axis=2), jax.nn.logsumexp(logits, axis=2)
        return sum((score * weight).sum() for score, weight in zip(scores, loss_weights(), strict=True)), scores

    expected = jax.jit(jax.value_and_grad(dense, argnums=(0, 1), has_aux=True))(hidden, head)
    found = compiled_gradient()(hidden, head, tokens, sampling_of(**settings), allowed() if masked else None)
    (_, values), gradients = found
    (_, expected_values), expected_gradients = expected
    for one, other in zip((*values, *gradients), (*expected_values, *expected_gradients), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5)
    assert not np.asarray(gradients[1])[VOCABULARY:].any() and np.asarray(gradients[1]).any()


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
    head = jnp.log(jnp.array([[0.5], [0.25], [0.125], [0.125]]))
    settings = sampling_of(top_k=1)

    @jax.jit
    def logprob(head, token):
        scores = token_scores(jnp.ones((1, 1, 1)), head, jnp.full((1, 1), token), settings, vocabulary=4)
        return scores.logprobs[0, 0]

    assert logprob(head, 0) == 0.0
    assert logprob(head, 2) == pytest.approx(math.log(1 / 5), abs=1e-6)
    # d log p_2 = (1 - p_2) for itself, -p_0 for the other.
    np.testing.assert_allclose(jax.grad(logprob)(head, 2)[:, 0], [-0.8, 0, 0.8, 0], atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("settings", [SETTINGS[1], SETTINGS[5]], ids=str)
def test_what_stands_off_the_mask_reaches_neither_values_nor_gradients(value, settings):
    hidden, head, _ = inputs()
    mask = length_mask(jnp.array([5, 0, 3, 1, 2, 4, 5, 0]), T)
    given = some_tokens(settings), sampling_of(**settings), allowed()

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss(hidden, head):
        _, scores = weighted_sum(hidden, head, *given)
        return sum(jnp.where(mask, score, 0).sum() * weight for score, weight in zip(scores, (1, 2, 3), strict=True))

    def with_padding(value):
        return loss(jnp.where(mask[..., None], hidden, value), head)

    jax.tree.map(np.testing.assert_array_equal, with_padding(value), with_padding(0.0))
    assert not np.asarray(with_padding(value)[1][0])[~np.asarray(mask)].any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (1, 1, 8), (4, 1, 2)], ids=str)
@pytest.mark.parametrize("settings", [SETTINGS[0], SETTINGS[5]], ids=str)
def test_a_mesh_changes_neither_values_nor_gradients(monkeypatch, shape, settings):
    monkeypatch.setattr(logprobs_module, "COLUMN_TILE", 16)
    mesh = make_mesh(shape, jax.devices()[: math.prod(shape)])
    hidden, head, _ = inputs()
    head = jnp.pad(head, ((0, -V % 8), (0, 0)))
    tokens, sampling = some_tokens(settings, True), sampling_of(**settings)
    expected = compiled_gradient()(hidden, head, tokens, sampling, allowed())
    placed = place_inputs(mesh, hidden, head, tokens, sampling, allowed())
    found = compiled_gradient(mesh)(*placed)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, expected)
    # The gradients lie where what they belong to lies.
    for gradient, of in zip(found[1], placed, strict=False):
        assert gradient.sharding.is_equivalent_to(of.sharding, of.ndim)


def test_a_mesh_gathers_tiles_of_the_head_and_nothing_else(monkeypatch):
    monkeypatch.setattr(logprobs_module, "COLUMN_TILE", 16)
    mesh, settings = make_mesh((2, 2, 2)), SETTINGS[5]
    arguments = (*inputs()[:2], some_tokens(settings), sampling_of(**settings), allowed())
    text = compiled_gradient(mesh).lower(*place_inputs(mesh, *arguments)).compile().as_text()
    gathered = [result_numbers(line) for line in text.splitlines() if re.search(r" all-gather(-start)?\(", line)]
    assert gathered and max(gathered) == 16 * D
    assert "all-to-all" not in text and "collective-permute" not in text
    # Sums travel: three numbers per token, gradients of a device's hidden states, and of a tile of the head.
    reduced = [result_numbers(line) for line in text.splitlines() if re.search(r" all-reduce(-start)?\(", line)]
    assert max(reduced) <= max(16 * D // 2, B * T * D // 4, 3 * B * T // 4)


def result_numbers(line: str) -> int:
    """How many numbers the result of an HLO instruction has."""
    result = line.split(" = ")[1].split(" all-")[0]
    shapes = re.findall(r"\w+\[([\d,]*)\]", result)
    return sum(math.prod(int(size) for size in shape.split(",") if size) for shape in shapes)


def test_rows_that_a_mesh_cannot_share_out_are_refused():
    hidden, head, tokens = (a[:3] if a.shape[0] == B else a for a in inputs())
    with pytest.raises(ValueError, match=r"3 rows cannot be spread evenly over 4 shards"):
        token_statistics(hidden, head, tokens, sampling_of(), vocabulary=VOCABULARY, mesh=make_mesh((2, 2, 2)))
    masks = Allowed(allowed().table[:2], allowed().index)
    with pytest.raises(ValueError, match=r"2 prompts' masks cannot be spread evenly over 4 shards"):
        token_scores(*inputs(), sampling_of(), vocabulary=VOCABULARY, allowed=masks, mesh=make_mesh((2, 2, 2)))


def test_masks_too_short_for_the_vocabulary_are_refused():
    short = Allowed(allowed().table[..., :2], allowed().index)
    with pytest.raises(ValueError, match=r"2 words say something of 64 tokens, but the vocabulary has 71: 3 words"):
        token_scores(*inputs(), sampling_of(), vocabulary=VOCABULARY, allowed=short)
    with pytest.raises(ValueError, match="3 words are needed"):
        sampled_logits(jnp.zeros((1, V)), sampling_of(), VOCABULARY, allowed=short.table[0, :1])


def test_no_array_holds_all_tokens_by_all_the_vocabulary(monkeypatch):
    hidden, head, _ = inputs()
    # Large in B * T, small in everything else.
    hidden, tokens = jnp.tile(hidden, (8, 8, 1)), jnp.tile(some_tokens({}), (8, 8))

    def largest_but_gradients():
        taken = hidden, head, tokens, sampling_of(temperature=0.7, top_p=0.9)
        shapes = array_shapes(jax.make_jaxpr(jax.grad(plain_sum, argnums=(0, 1)))(*taken))
        return max(math.prod(shape) for shape in shapes if shape[-1:] != (D,))

    for name, size in {"COLUMN_TILE": 16, "ROW_TILE": 64, "WHOLE_ROW_NUMBERS": 10 * V}.items():
        monkeypatch.setattr(logprobs_module, name, size)
    assert largest_but_gradients() <= max(16 * 64, 10 * (V + 16), 3 * tokens.size) < tokens.size * V / 10
    monkeypatch.undo()
    assert largest_but_gradients() >= tokens.size * V, "the measure does not see logits"


def test_memory_is_flat_in_the_vocabulary_and_far_below_that_of_all_logits():
    count, width = 1024, 16

    def extra_memory(function, vocabulary):
        shapes = [((1, count, width), jnp.float32), ((vocabulary, width), jnp.float32), ((1, count), jnp.int32)]
        arrays = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
        gradient = jax.jit(jax.grad(function, argnums=(0, 1)))
        return gradient.lower(*arrays, sampling_of()).compile().memory_analysis().temp_size_in_bytes

    def dense(hidden, head, tokens, _):
        logprobs = jax.nn.log_softmax(hidden @ head.T)
        return jnp.take_along_axis(logprobs, tokens[..., None], 2).sum() - (jnp.exp(logprobs) * logprobs).sum()

    small, large = (extra_memory(plain_sum, vocabulary) for vocabulary in (20_000, 160_000))
    assert large < 1.05 * small
    assert large < 0.1 * extra_memory(dense, 160_000)


def test_products_of_bfloat16_are_added_up_in_float32():
    # 257 ones: bfloat16 has 8 bits, so that 256 + 1 is 256 there.
    ones = jnp.ones((1, 257), jnp.bfloat16)
    logits = head_logits(ones, jnp.ones((2, 257)))
    assert logits.dtype == jnp.float32 and logits[0, 0] == 257
    (product,) = [
        e for e in equations(jax.make_jaxpr(head_logits)(ones, jnp.ones((2, 257)))) if "dot" in e.primitive.name
    ]
    assert [v.aval.dtype for v in product.invars] == [jnp.bfloat16] * 2
    assert product.outvars[0].aval.dtype == jnp.float32


def test_scores_of_bfloat16_states_are_float32():
    hidden, head, tokens = inputs()
    scores = scores_of(hidden.astype(jnp.bfloat16), head, tokens, {})
    assert {a.dtype for a in scores} == {jnp.dtype("float32")}
    rounded = (np.asarray(a.astype(jnp.bfloat16), np.float64) for a in (hidden, head))
    logits = np.einsum("btd,vd->btv", *rounded)
    for b, t in itertools.product(range(B), range(T)):
        p = by_hand(logits[b, t])
        assert scores.logprobs[b, t] == pytest.approx(math.log(p[tokens[b, t]]), abs=1e-5)


def test_gradients_of_bfloat16_states_are_off_by_no_more_than_the_rounding_of_what_is_multiplied():
    hidden, head, _ = inputs()
    tokens, sampling = some_tokens(SETTINGS[1]), sampling_of(**SETTINGS[1])
    hidden = hidden.astype(jnp.bfloat16)
    _, (by_hidden, by_head) = compiled_gradient()(hidden, head, tokens, sampling)
    assert by_hidden.dtype == jnp.bfloat16 and by_head.dtype == jnp.float32
    h, w = (np.asarray(a.astype(jnp.bfloat16), np.float64) for a in (hidden, head))
    p = np.array([[by_hand(w @ h[b, t], **SETTINGS[1]) for t in range(T)] for b in range(B)])
    logprobs, own = np.log(p), np.eye(VOCABULARY)[np.asarray(tokens)]
    entropies = -(p * logprobs).sum(axis=2, keepdims=True)
    by_logprob, by_entropy, by_normalizer = loss_weights()[..., None].astype(np.float64)
    slope = by_logprob * (own - p) - by_entropy * p * (logprobs + entropies) + by_normalizer * p
    slope /= SETTINGS[1]["temperature"]
    # The numbers of bfloat16 above 1 are 2**-7 apart, so that rounding is off by 2**-8 of a number at most; slopes are
    # rounded before the product, and the gradient of the hidden states once more after it.
    rounding = 2**-8 * (1 + 2**-8)
    expected, sizes = slope @ w[:VOCABULARY], abs(slope) @ abs(w[:VOCABULARY])
    assert (abs(np.asarray(by_hidden, np.float64) - expected) <= rounding * (sizes + abs(expected)) + 1e-5).all()
    expected, sizes = np.einsum("btv,btd->vd", slope, h), np.einsum("btv,btd->vd", abs(slope), abs(h))
    assert (abs(np.asarray(by_head, np.float64)[:VOCABULARY] - expected) <= rounding * sizes + 1e-5).all()


def test_every_product_of_bfloat16_is_added_up_in_float32_and_no_gradient_outgrows_its_head(monkeypatch):
    monkeypatch.setattr(logprobs_module, "COLUMN_TILE", 16)
    arguments = inputs()[0].astype(jnp.bfloat16), inputs()[1].astype(jnp.bfloat16), some_tokens({}), sampling_of()
    found = list(equations(jax.make_jaxpr(jax.grad(plain_sum, argnums=(0, 1)))(*arguments)))
    products = [e for e in found if e.primitive.name == "dot_general"]
    # Logits to find the cut, logits, logits again, and the gradients of hidden states and head.
    assert len(products) == 5
    for product in products:
        assert {v.aval.dtype for v in product.invars} == {jnp.dtype(jnp.bfloat16)}
        assert product.outvars[0].aval.dtype == jnp.float32
    outputs = [out.aval for equation in found for out in equation.outvars]
    assert {a.dtype for a in outputs if a.shape == (V, D)} == {jnp.dtype(jnp.bfloat16)}


def test_gradients_of_many_tokens_are_added_up_in_float32():
    # The gradient of row 0 of the head is 1 - 1/2 from each of 600 tokens; in bfloat16 the sum would stick at 256 / 2.
    states, head = jnp.ones((1, 600, 1), jnp.bfloat16), jnp.zeros((2, 1))

    def total(head):
        return token_scores(states, head, jnp.zeros((1, 600), jnp.int32), sampling_of(), vocabulary=2).logprobs.sum()

    np.testing.assert_array_equal(jax.grad(total)(head), [[300.0], [-300.0]])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_what_is_sampled_under_masks_is_what_is_scored(settings):
    hidden, head, _ = inputs()
    tokens, sampling = some_tokens(settings, True), sampling_of(**settings)
    scores = jax.jit(functools.partial(token_scores, vocabulary=VOCABULARY))(
        hidden, head, tokens, sampling, allowed=allowed()
    )
    logits = head_logits(hidden.reshape(-1, D), head)
    masks = masks_of(allowed())
    sampled = sampled_logits(logits, sampling, VOCABULARY, allowed=masks)
    for one, other in zip(scores, logit_scores(sampled, tokens.reshape(-1)), strict=True):
        np.testing.assert_allclose(one.reshape(-1), other, atol=2e-6)


def test_mask_zero_changes_nothing():
    _, _, tokens = inputs()
    everything = Allowed(allowed().table, jnp.zeros((B, T), jnp.int32))
    plain, masked = (compiled_gradient()(*inputs()[:2], tokens, sampling_of(), given) for given in (None, everything))
    jax.tree.map(np.testing.assert_array_equal, plain, masked)


@pytest.mark.parametrize("settings", [{}, {"top_k": 1}], ids=str)
def test_a_drawn_token_that_its_mask_forbids_keeps_a_finite_logprob(settings):
    # Probabilities 1/2, 1/4, 1/4; the mask leaves the second alone. If the first was drawn, both are possible, 2 to 1.
    head = jnp.log(jnp.array([[0.5], [0.25], [0.25]]))
    masks = Allowed(jnp.array([[[7], [2]]], jnp.uint32), jnp.ones((1, 1), jnp.int32))
    for token, expected in [(1, 0.0), (0, math.log(2 / 3))]:
        tokens = jnp.full((1, 1), token)
        scores = token_scores(jnp.ones((1, 1, 1)), head, tokens, sampling_of(**settings), vocabulary=3, allowed=masks)
        assert scores.logprobs[0, 0] == pytest.approx(expected, abs=1e-6)
        logits = sampled_logits(head.T, sampling_of(**settings), 3, tokens[0], masks.table[0, masks.index[0]])
        assert logit_scores(logits, tokens[0])[0][0] == pytest.approx(expected, abs=1e-6)


def test_one_program_serves_all_settings():
    scores_of(*inputs(), SETTINGS[0])
    programs = compiled()._cache_size()
    for settings in SETTINGS:
        scores_of(*inputs(), settings)
    assert compiled()._cache_size() == programs


def test_the_mask_is_true_on_each_rows_length():
    mask = length_mask(jnp.array([0, 2, 3]), 3)
    np.testing.assert_array_equal(mask, [[0, 0, 0], [1, 1, 0], [1, 1, 1]])
