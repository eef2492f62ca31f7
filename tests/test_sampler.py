import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from tiny import (
    DECODER,
    GROUPED,
    MESHES,
    VOCABULARY,
    array_shapes,
    device_bytes,
    one_device,
    plain_hidden,
    ragged_prompts,
    tiny_params,
)

from jaxfc.config import Draft
from jaxfc.decoding import Until, make_steps
from jaxfc.draws import make_sampling
from jaxfc.learner import make_score
from jaxfc.logprobs import length_mask
from jaxfc.models.decoder import Decoder
from jaxfc.sampler import PROBE_TICKS, make_sampler
from jaxfc.sharding import make_mesh, place_replicated, place_rows, replicated, shardings
from jaxfc.types import Prompts

PROMPT_LENGTHS = (9, 1, 13, 6)
S, G, T, V = 13, 3, 11, DECODER.config.vocab_size
STOPS = (0, 4, 9, 14, 20, 31)
"""Many, so that completions end at many places. The first is also what arrays are padded with."""


@functools.cache
def steps(group_size=G, length=T, **changed):
    return make_steps(DECODER, one_device(), group_size=group_size, length=length, vocabulary=VOCABULARY, **changed)


def sampler(**changed):
    """`(params, prompts, key, sampling) -> Rollouts`; every setting of the sampling is an argument of it."""
    sample = make_sampler(steps(**changed), one_device())
    return lambda *arguments: sample(*arguments)[0]


@functools.cache
def scorer():
    return make_score(DECODER, one_device(), vocabulary=VOCABULARY)


def settings(**changed):
    return make_sampling(**{"temperature": 1.0, "stop_tokens": STOPS, "max_tokens": T} | changed)


def draw(*, prompts=None, key=0, **changed):
    prompts = ragged_prompts(PROMPT_LENGTHS, S) if prompts is None else prompts
    return sampler()(tiny_params(), prompts, jax.random.key(key), settings(**changed))


def compiled(steps):
    return [step for step in steps if hasattr(step, "_cache_size")]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def mask_of(rollouts):
    return np.asarray(length_mask(rollouts.lengths, rollouts.tokens.shape[1]))


def plain_logits(rollouts):
    """Logits of the tokens that exist, [B, T, V], from a full forward pass over each row by itself."""
    hidden = plain_hidden(tiny_params(), rollouts.prompts, rollouts.tokens)
    return np.asarray(hidden @ DECODER.head(tiny_params()).T, np.float64)[..., :VOCABULARY]


# What is drawn


@pytest.mark.parametrize(
    "changed",
    [{}, {"temperature": 0.7}, {"top_p": 0.8, "top_k": 5}, {"temperature": 0.7, "top_p": 0.6}, {"temperature": 0.0}],
    ids=str,
)
def test_sampler_and_trainer_agree_on_logprobs_and_entropies(changed):
    rollouts = draw(**changed)
    scores = scorer()(tiny_params(), rollouts, settings(**changed))
    mask = mask_of(rollouts)
    assert len(set(rollouts.lengths.tolist())) > 2, "completions are not ragged"
    for sampled, measured in zip(rollouts.scores, scores, strict=True):
        assert np.isfinite(sampled).all()
        assert np.abs(np.where(mask, sampled - measured, 0)).max() < 1e-4
    if not changed:
        # Against the log-softmax of a plain forward pass, in float64.
        logits = plain_logits(rollouts)
        logprobs = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
        chosen = np.take_along_axis(logprobs, np.asarray(rollouts.tokens)[..., None], axis=2)[..., 0]
        entropies = -(np.exp(logprobs) * logprobs).sum(axis=2)
        np.testing.assert_allclose(rollouts.scores.logprobs[mask], chosen[mask], atol=1e-4)
        np.testing.assert_allclose(rollouts.scores.entropies[mask], entropies[mask], atol=1e-4)


def test_greedy_is_the_argmax_of_a_full_forward_pass():
    rollouts = draw(temperature=0.0)
    likeliest = plain_logits(rollouts).argmax(axis=2)
    np.testing.assert_array_equal(rollouts.tokens[mask_of(rollouts)], likeliest[mask_of(rollouts)])
    # The rollouts of a group are then equal.
    groups = rollouts.tokens.reshape(-1, G, T)
    assert (groups == groups[:, :1]).all() and len(np.unique(groups[:, 0], axis=0)) > 1


def test_the_key_decides_what_is_drawn():
    assert same(draw(key=1), draw(key=1))
    one, other = draw(key=1), draw(key=2)
    assert not np.array_equal(one.tokens, other.tokens)
    # Neither equal prompts nor the rollouts of one share their random numbers. A token that does not exist never stops.
    prompts = Prompts(jnp.tile(ragged_prompts((9,), S).tokens, (4, 1)), jnp.full(4, 9, jnp.int32))
    endless = draw(prompts=prompts, stop_tokens=(VOCABULARY,) * len(STOPS))
    assert len(np.unique(endless.tokens, axis=0)) == 4 * G


@pytest.mark.parametrize("changed", [{}, {"temperature": 0.7}, {"top_k": 6}, {"top_p": 0.5}], ids=str)
def test_tokens_are_drawn_as_often_as_the_distribution_says(changed):
    rows, sample = 4096, sampler(group_size=4096, length=1)
    prompts = ragged_prompts((8,), 8)
    tokens = np.asarray(sample(tiny_params(), prompts, jax.random.key(5), settings(**changed)).tokens[:, 0])
    hidden = plain_hidden(tiny_params(), prompts, jnp.zeros((1, 1), jnp.int32))[0, 0]
    logits = np.asarray(hidden @ DECODER.head(tiny_params()).T, np.float64)[:VOCABULARY]
    p = np.exp(logits / changed.get("temperature", 1.0))
    order = np.argsort(-p)
    keep = changed.get("top_k") or 1 + np.searchsorted(np.cumsum(p[order]) / p.sum(), changed.get("top_p", 1.0))
    p[order[keep:]] = 0
    p /= p.sum()
    counts = np.bincount(tokens, minlength=VOCABULARY)
    assert len(counts) == VOCABULARY and not counts[p == 0].any()
    # Chi-square has mean n and variance 2 n; five standard deviations above is too much.
    expected, freedom = rows * p[p > 0], np.count_nonzero(p) - 1
    assert ((counts[p > 0] - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom)


# Settings of a live sampler


def test_every_setting_takes_effect_on_a_live_sampler_without_a_compile():
    free, greedy = draw(), draw(temperature=0.0)
    programs = [step._cache_size() for step in compiled(steps())]
    assert programs == [1] * 5
    assert not np.array_equal(free.tokens, greedy.tokens)
    # A lone choice is the likeliest token, whatever the temperature; its logprob is then 0, and not 0 when greedy.
    for only_one in (draw(top_k=1), draw(top_p=1e-6), draw(temperature=1e-4)):
        np.testing.assert_array_equal(only_one.tokens, greedy.tokens)
        np.testing.assert_allclose(only_one.scores, 0, atol=1e-6)
    assert (greedy.scores.logprobs[mask_of(greedy)] < -1e-3).all()
    hot = draw(temperature=5.0)
    assert hot.scores.entropies.sum() / hot.lengths.sum() > free.scores.entropies.sum() / free.lengths.sum()
    short = draw(max_tokens=2)
    assert short.lengths.max() == 2
    np.testing.assert_array_equal(short.tokens[:, :2], free.tokens[:, :2])
    stopped = draw(stop_tokens=(int(free.tokens[0, 0]),) * len(STOPS))
    assert stopped.lengths[0] == 1 and stopped.ended[0] and not np.array_equal(stopped.lengths, free.lengths)
    assert draw(max_tokens=10**6).lengths.max() <= T
    assert [step._cache_size() for step in compiled(steps())] == programs


# Where completions end


def test_a_completion_is_all_up_to_its_first_stop_token_and_that_belongs_to_it():
    rollouts = draw()
    tokens, logprobs, entropies = (np.asarray(a) for a in (rollouts.tokens, *rollouts.scores))
    for row, (length, ended) in enumerate(zip(rollouts.lengths.tolist(), rollouts.ended.tolist(), strict=True)):
        is_stop = np.isin(tokens[row, :length], STOPS)
        assert not is_stop[:-1].any() and is_stop[-1] == ended
        assert ended or length == T
        # It was drawn like any other token, and nothing comes after it.
        assert (logprobs[row, :length] < 0).all() and (entropies[row, :length] > 0).all()
        assert not tokens[row, length:].any() and not logprobs[row, length:].any() and not entropies[row, length:].any()
    assert 0 < rollouts.ended.sum() < len(tokens), "some must end and some be cut"


def test_a_stop_token_as_the_last_that_fits_ends_the_completion():
    lengths = np.asarray(draw().lengths)
    row = int(np.argmax(lengths < T))
    cut = draw(max_tokens=int(lengths[row]))
    assert cut.ended[row] and cut.lengths[row] == lengths[row]
    shorter = draw(max_tokens=int(lengths[row]) - 1)
    assert not shorter.ended[row]


def test_a_prompt_may_hold_and_end_with_the_token_that_pads_and_stops():
    # Token 0 pads, is real here, and is a stop token: only lengths say which.
    tokens = jnp.zeros((4, S), jnp.int32).at[:, :3].set(jnp.array([5, 0, 7]))
    prompts = Prompts(tokens, jnp.array([3, 4, 5, 13]))
    rollouts = draw(prompts=prompts, stop_tokens=(0,) * len(STOPS))
    scores = scorer()(tiny_params(), rollouts, settings())
    mask = mask_of(rollouts)
    assert (rollouts.tokens == 0)[mask].any(), "no completion ended with the token that pads"
    np.testing.assert_allclose(rollouts.scores.logprobs[mask], scores.logprobs[mask], atol=1e-4)
    logits = plain_logits(rollouts)
    chosen = np.take_along_axis(logits, np.asarray(rollouts.tokens)[..., None], axis=2)[..., 0]
    expected = chosen - np.log(np.exp(logits).sum(axis=2))
    np.testing.assert_allclose(rollouts.scores.logprobs[mask], expected[mask], atol=1e-4)
    first = np.asarray(rollouts.scores.entropies[:, 0]).reshape(4, G)[:, 0]
    assert len(np.unique(first.round(4))) == 4, "prompts of different lengths gave the same distribution"


def test_decoding_stops_with_the_last_completion():
    sample = make_sampler(steps(group_size=2, length=40), one_device())
    for stops in (STOPS, tuple(range(VOCABULARY))):
        stops = (*stops, *(VOCABULARY,) * (VOCABULARY - len(stops)))
        arguments = tiny_params(), ragged_prompts((3, 4), 4), jax.random.key(0), settings(stop_tokens=stops)
        rollouts, effort = sample(*arguments)
        assert effort.ticks == rollouts.lengths.max() <= T
        assert effort.tokens == effort.busy == rollouts.lengths.sum()
        assert effort.slot_ticks == effort.ticks * 4


def test_rows_that_only_fill_the_batch_stay_empty_and_change_no_other():
    prompts = ragged_prompts(PROMPT_LENGTHS, S)
    filled = draw(prompts=prompts._replace(lengths=prompts.lengths.at[2].set(0)))
    empty = np.repeat(np.arange(4) == 2, G)
    assert not np.asarray(filled.lengths)[empty].any() and not np.asarray(filled.tokens)[empty].any()
    assert not np.asarray(filled.scores.logprobs)[empty].any() and not np.asarray(filled.ended)[empty].any()
    np.testing.assert_array_equal(filled.tokens[~empty], draw().tokens[~empty])


def test_a_batch_of_nothing_but_filler_decodes_nothing():
    prompts = ragged_prompts(PROMPT_LENGTHS, S)
    rollouts = draw(prompts=prompts._replace(lengths=jnp.zeros_like(prompts.lengths)))
    assert not rollouts.lengths.any() and all(np.isfinite(a).all() for a in rollouts.scores)


# Shapes and padding


def test_what_a_prompt_is_padded_with_has_no_effect_at_all():
    assert same(
        draw()._replace(prompts=None),
        draw(prompts=ragged_prompts(PROMPT_LENGTHS, S, padding=30))._replace(prompts=None),
    )


def test_the_bucket_of_a_prompt_changes_no_completion():
    rollouts = sampler()(tiny_params(), ragged_prompts(PROMPT_LENGTHS, 2 * S), jax.random.key(0), settings())
    narrow = draw()
    np.testing.assert_array_equal(rollouts.tokens, narrow.tokens)
    np.testing.assert_array_equal(rollouts.lengths, narrow.lengths)
    for one, other in zip(rollouts.scores, narrow.scores, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_prefill_makes_logits_for_no_prompt_position():
    prompts, s = ragged_prompts(PROMPT_LENGTHS, S), steps()
    weights, decoding = s.begin(tiny_params(), prompts)
    prefill = array_shapes(jax.make_jaxpr(s.admit)(weights, prompts, decoding))
    assert any(S in shape for shape in prefill), "the measure does not see the prompts"
    assert not any(V in shape for shape in prefill)
    decoding, _ = s.admit(weights, prompts, decoding)
    until = Until(jnp.int32(1), jnp.int32(1))
    tick = array_shapes(jax.make_jaxpr(s.advance)(weights, prompts, decoding, jax.random.key(0), settings(), until))
    # One row of logits for each completion; the head itself has one for each of its features.
    assert {shape[0] for shape in tick if len(shape) == 2 and shape[1] == V} <= {1, 12, DECODER.config.width}
    assert (12, V) in tick, "the measure does not see logits"


# Slots: completions enter as others end


@pytest.mark.parametrize("slots", [1, 2, 5, 11])
def test_what_is_sampled_does_not_depend_on_the_number_of_slots(slots):
    prompts = ragged_prompts((9, 1, 13, 6, 2, 5, 13, 8), S)
    whole, few = draw(prompts=prompts), sampler(slots=slots)(tiny_params(), prompts, jax.random.key(0), settings())
    assert_same_rollouts(whole, few)


def assert_same_rollouts(one, other):
    """Equal tokens; scores but for what rounding does."""
    for name in ("tokens", "lengths", "ended"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for a, b in zip(one.scores, other.scores, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_filler_among_the_prompts_gets_no_completion_whatever_the_slots():
    prompts = ragged_prompts((9, 1, 13, 6, 2, 5), S)
    prompts = prompts._replace(lengths=prompts.lengths.at[jnp.array([0, 3, 4])].set(0))
    few = sampler(slots=2)(tiny_params(), prompts, jax.random.key(0), settings())
    assert_same_rollouts(draw(prompts=prompts), few)
    assert (np.asarray(few.lengths).reshape(6, G) > 0).all(axis=1).tolist() == [False, True, True, False, False, True]


def test_slots_stay_busy_when_few_completions_are_long():
    """A stop token in one of 12 draws: lengths are geometric, the longest many times the mean."""
    prompts = ragged_prompts((8,) * 64, 8)
    sample = make_sampler(steps(group_size=8, length=96, slots=32), one_device())
    stop = settings(stop_tokens=(5, 17, 29, 33, 36, 36), max_tokens=96, temperature=3.0)
    rollouts, effort = sample(tiny_params(), prompts, jax.random.key(0), stop)
    lengths = np.asarray(rollouts.lengths)
    assert lengths.max() > 4 * lengths.mean()
    # Without refills every group of slots waits for its longest completion.
    waiting = lengths.sum() / (lengths.reshape(-1, 32).max(axis=1).sum() * 32)
    assert waiting < 0.4 < 0.9 < effort.metrics()["speed/slot_occupancy"]


def test_completions_are_handed_over_as_they_end_each_once():
    prompts, seen, running = ragged_prompts((9, 1, 13, 6, 2, 5, 13, 8), S), {}, []

    def finished(rows, tokens, lengths, ended):
        assert not set(rows.tolist()) & set(seen)
        running.append(len(rows))
        seen.update((row, rest) for row, *rest in zip(rows.tolist(), tokens, lengths, ended, strict=True))

    sample = make_sampler(steps(slots=4), one_device())
    rollouts, _ = sample(tiny_params(), prompts, jax.random.key(0), settings(), finished)
    assert_same_rollouts(rollouts, draw(prompts=prompts))
    assert len(running) >= 4 and sorted(seen) == list(range(8 * G))
    for row, (tokens, length, ended) in seen.items():
        assert (length, ended) == (rollouts.lengths[row], rollouts.ended[row])
        np.testing.assert_array_equal(tokens, rollouts.tokens[row])


def test_a_mesh_samples_what_one_device_does():
    prompts = ragged_prompts((9, 1, 13, 6, 2, 5, 13, 8), S)
    for slots in (None, 8):
        mesh = make_mesh((2, 2, 2))
        on_mesh = make_steps(DECODER, mesh, group_size=G, length=T, vocabulary=VOCABULARY, slots=slots)
        params = jax.device_put(tiny_params(), shardings(mesh, DECODER.axes))
        rollouts, _ = make_sampler(on_mesh, mesh)(params, place_rows(mesh, prompts), jax.random.key(0), settings())
        assert_same_rollouts(rollouts, draw(prompts=prompts))


@pytest.mark.parametrize("shape", [(1, 1, 1), *MESHES.values()], ids=str)
def test_the_caches_are_split_over_all_devices_and_a_device_has_at_least_one_head(shape):
    mesh = make_mesh(shape, jax.devices()[: np.prod(shape)])
    decoder = Decoder(GROUPED.config, mesh=mesh)
    steps = make_steps(decoder, mesh, group_size=G, length=T, vocabulary=VOCABULARY)
    params = jax.device_put(tiny_params(GROUPED), shardings(mesh, decoder.axes))
    prompts = ragged_prompts((9, 1, 13, 6, 2, 5, 13, 8), S)
    weights, decoding = steps.begin(params, place_rows(mesh, prompts))
    # Of 2 layers: 8 prompts x 13 positions and 24 completions x 11, with keys and values of width 4 in float32.
    a_head = 2 * (8 * S + 8 * G * T) * 2 * GROUPED.config.head_width * 4
    rows, tensor = shape[0] * shape[1], shape[2]
    assert device_bytes((decoding.prefix, decoding.own)) == {a_head // rows * max(2 // tensor, 1)}
    # Weights are cut over tensor alone, keys and values in whole heads: of width x 4 and biases, in each of 2 layers.
    of_keys = 2 * (32 + 1) * GROUPED.config.head_width * 4
    assert device_bytes([layer["k"] for layer in weights["blocks"]]) == {of_keys * max(2 // tensor, 1)}


def test_more_devices_than_key_value_heads_sample_what_one_does():
    prompts, sampled = ragged_prompts(PROMPT_LENGTHS, S), []
    for mesh in (one_device(), make_mesh((1, 1, 8))):
        decoder = Decoder(GROUPED.config, mesh=mesh)
        params = jax.device_put(tiny_params(GROUPED), shardings(mesh, decoder.axes))
        sample = make_sampler(make_steps(decoder, mesh, group_size=G, length=T, vocabulary=VOCABULARY), mesh)
        for temperature in (0.0, 1.0):
            given = place_replicated(mesh, settings(temperature=temperature))
            sampled.append(
                sample(params, place_rows(mesh, prompts), jax.device_put(jax.random.key(0), replicated(mesh)), given)[0]
            )
    greedy, drawn, *on_mesh = sampled
    assert_same_rollouts(on_mesh[0], greedy)
    assert_same_rollouts(on_mesh[1], drawn)
    assert not np.array_equal(greedy.tokens, drawn.tokens)


# Drafts: several tokens a tick


DRAFT = Draft(tokens=3, match=1, pays_above=1.0)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("slots", [None, 4])
def test_drafts_change_nothing_of_what_is_sampled(temperature, slots):
    sample = make_sampler(steps(slots=slots, drafts=DRAFT), one_device())
    changed = settings(temperature=temperature)
    rollouts, effort = sample(tiny_params(), ragged_prompts(PROMPT_LENGTHS, S), jax.random.key(3), changed)
    assert_same_rollouts(rollouts, draw(key=3, temperature=temperature))
    if not temperature:
        assert effort.tokens > effort.busy, "no draft was right"


def test_drafted_tokens_are_drawn_as_often_as_the_distribution_says():
    """100,000 completions of 3 tokens, of 6 that exist, against the model's own distribution over all 216."""
    rows, few = 100_000, 6
    prompts = Prompts(ragged_prompts((13,), 13).tokens % few, jnp.array([13]))
    drafting = {"drafts": Draft(tokens=2, pays_above=1.0), "group_size": rows, "length": 3}
    sample = make_sampler(make_steps(DECODER, one_device(), vocabulary=few, **drafting), one_device())
    arguments = tiny_params(), prompts, jax.random.key(8), settings(stop_tokens=(V,), max_tokens=3)
    rollouts, effort = sample(*arguments)
    assert effort.tokens == 3 * rows and effort.tokens - effort.busy > 10_000, "too few drafts were right to tell"

    every = jnp.asarray(list(itertools.product(range(few), repeat=3)))
    hidden = DECODER.extend(tiny_params(), every, DECODER.encode(tiny_params(), prompts))
    logits = np.asarray(hidden @ DECODER.head(tiny_params()).T, np.float64)[..., :few]
    p = np.exp(logits - logits.max(axis=2, keepdims=True))
    p = np.take_along_axis(p / p.sum(axis=2, keepdims=True), np.asarray(every)[..., None], axis=2).prod(axis=(1, 2))
    counts = np.bincount(np.asarray(rollouts.tokens) @ (few**2, few, 1), minlength=few**3)
    assert (rows * p >= 5).all(), "too rare to be tested"
    assert scipy.stats.chisquare(counts, rows * p).pvalue > 0.001


def test_drafts_that_do_not_pay_are_given_up():
    hopeless = Draft(tokens=3, match=1, pays_above=50.0)
    _, effort = make_sampler(steps(length=40, drafts=hopeless), one_device())(
        tiny_params(), ragged_prompts(PROMPT_LENGTHS, S), jax.random.key(0), settings(stop_tokens=(V,), max_tokens=40)
    )
    # After the probe each tick makes one token.
    assert effort.ticks >= 40 - PROBE_TICKS * 4 + PROBE_TICKS


# The cache's type


@pytest.mark.parametrize("cache, gap", [("bfloat16", 0.05), ("int8", 0.05)])
def test_a_rounded_cache_is_measured_and_close(cache, gap):
    rollouts = sampler(cache=cache)(tiny_params(), ragged_prompts(PROMPT_LENGTHS, S), jax.random.key(0), settings())
    exact = scorer()(tiny_params(), rollouts, settings())
    gaps = np.abs(np.where(mask_of(rollouts), rollouts.scores.logprobs - exact.logprobs, 0))
    assert 1e-5 < gaps.max() < gap
