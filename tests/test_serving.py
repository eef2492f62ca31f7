"""The compiled half of serving, on a tiny model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import DECODER, VOCABULARY, one_device, ragged_prompts, tiny_params

from jaxfc.constraints import ANYTHING
from jaxfc.decoding import make_steps
from jaxfc.draws import make_sampling
from jaxfc.models.decoder import Decoder
from jaxfc.programs import Programs
from jaxfc.sampler import make_sampler
from jaxfc.serving import Entry, compile_serving, make_weights, no_command
from jaxfc.sharding import make_mesh, replicated, shardings
from jaxfc.types import Prompts

S, T, SLOTS, NARROW, LIKELIEST = 13, 11, 5, 2, 4
STOPS = (0, 4, 9, 14, 20, 31)
"""Many, so that completions end at many places."""
PROMPTS = ragged_prompts((9, 1, 13, 6), S)
HOT = {"temperature": 1.0, "seed": 7}


class Server:
    """Slots that are entered and advanced by hand."""

    def __init__(self, mesh=None, widths=()):
        mesh = mesh or one_device()
        decoder = Decoder(DECODER.config, mesh=mesh)
        params = jax.device_put(tiny_params(), shardings(mesh, decoder.axes))
        self.weights, self.place = make_weights(decoder, mesh, params), replicated(mesh)
        sizes = {"bucket": S, "prefills": 2, "slots": SLOTS, "length": T, "likeliest": LIKELIEST, "widths": widths}
        self.serving = compile_serving(
            Programs(), decoder, mesh, self.weights, **sizes, vocabulary=VOCABULARY, stop_tokens=STOPS
        )

    def clear(self):
        self.slots = self.serving.empty()
        self.tokens, self.logprobs = [[] for _ in range(SLOTS)], [[] for _ in range(SLOTS)]
        self.ended, self.finished = np.zeros(SLOTS, bool), np.zeros(SLOTS, bool)
        return self

    def enter(self, prompts, *placed):
        """Prefill two prompts; each of `placed` is (row, slot, how it is drawn)."""
        both = Prompts(*(np.asarray(a)[list(prompts)] for a in PROMPTS))
        prefix = self.serving.prefill(self.weights, jax.device_put(both, self.place))
        for row, slot, how in placed:
            how = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "max_tokens": T, "seed": 0} | how
            length = int(both.lengths[row])
            numbers = np.int32(row), np.int32(slot), np.int32(both.tokens[row, length - 1]), np.int32(length)
            settings = np.float32(how["temperature"]), np.int32(how["top_k"]), np.float32(how["top_p"])
            entry = Entry(*numbers, np.array([how["seed"], 3], np.uint32), *settings, np.int32(how["max_tokens"]))
            self.slots = self.serving.enter(self.slots, prefix, jax.device_put(entry, self.place))
            self.tokens[slot], self.logprobs[slot] = [], []
        return self

    def advance(self, ticks=T, allowed=None, width=SLOTS, **changed):
        masks = np.full((width, self.serving.words), ANYTHING) if allowed is None else allowed
        command = no_command(SLOTS)._replace(
            keep=np.ones(SLOTS, bool), ticks=np.int32(ticks), constrained=np.bool_(allowed is not None)
        )
        command = command._replace(**changed)
        arguments = jax.device_put((command, masks), self.place)
        self.slots, drawn = self.serving.advance[width](self.weights, self.slots, *arguments)
        drawn = jax.device_get(drawn)
        for slot, count in enumerate(drawn.counts):
            self.tokens[slot] += drawn.tokens[slot, :count].tolist()
            self.logprobs[slot] += drawn.logprobs[slot, :count].tolist()
        self.ended, self.finished = drawn.ended, drawn.finished
        return drawn


@functools.cache
def built():
    return Server(widths=(NARROW,))


@pytest.fixture
def server():
    return built().clear()


def alone(server, prompt, how):
    server.clear().enter((prompt, prompt), (0, 0, how)).advance()
    return server.tokens[0], server.logprobs[0]


@functools.cache
def sampled():
    """What the sampler of training and evaluation makes of the prompts."""
    steps = make_steps(DECODER, one_device(), group_size=1, length=T, vocabulary=VOCABULARY)
    sampling = make_sampling(temperature=0.0, stop_tokens=STOPS, max_tokens=T)
    rollouts, _ = make_sampler(steps, one_device())(tiny_params(), PROMPTS, jax.random.key(0), sampling)
    return jax.device_get(rollouts)


def test_greedy_completions_and_their_logprobs_are_those_of_the_sampler(server):
    rollouts = sampled()
    for prompt in range(4):
        tokens, logprobs = alone(server, prompt, {})
        length = rollouts.lengths[prompt]
        assert tokens == rollouts.tokens[prompt, :length].tolist()
        np.testing.assert_allclose(logprobs, rollouts.scores.logprobs[prompt, :length], atol=1e-5)
        assert server.ended[0] == rollouts.ended[prompt] and server.finished[0]


def test_a_completion_is_the_same_whatever_else_is_in_the_slots_and_in_whichever_it_is(server):
    ways = [HOT, {"temperature": 0.7, "top_k": 5, "seed": 1}, {"temperature": 1.5, "top_p": 0.8, "seed": 2}, {}]
    expected = [alone(server, prompt, how) for prompt, how in enumerate(ways)]
    assert len({tuple(tokens) for tokens, _ in expected}) == 4
    server.clear().enter((2, 3), (0, 4, ways[2]), (1, 1, ways[3])).advance(3)
    server.enter((0, 1), (0, 3, ways[0]), (1, 0, ways[1])).advance()
    for prompt, slot in enumerate((3, 0, 4, 1)):
        assert (server.tokens[slot], server.logprobs[slot]) == expected[prompt]


def test_completions_of_one_prompt_share_its_prefill(server):
    others = [{"temperature": 1.0, "seed": seed} for seed in range(4)]
    server.enter((0, 1), *((0, slot, how) for slot, how in enumerate(others))).advance()
    together = list(server.tokens[:4])
    assert together == [alone(server, 0, how)[0] for how in others]
    assert len(set(map(tuple, together))) > 1


def test_a_completion_does_not_depend_on_how_many_tokens_an_advance_draws(server):
    expected = alone(server, 0, HOT | {"max_tokens": 9})[0]
    server.clear().enter((0, 0), (0, 2, HOT | {"max_tokens": 9}))
    while not server.finished[2]:
        server.advance(1)
    assert server.tokens[2] == expected


def test_a_slot_that_is_not_kept_is_free_and_the_others_go_on(server):
    expected = alone(server, 3, HOT)[0]
    assert len(expected) > 3
    server.clear().enter((2, 3), (0, 0, {}), (1, 1, HOT)).advance(2)
    drawn = server.advance(T, keep=np.arange(SLOTS) == 1)
    assert drawn.counts[0] == 0 and not drawn.finished[0] and server.tokens[1] == expected
    # What was left in it does not show.
    server.enter((1, 1), (0, 0, {})).advance()
    assert server.tokens[0] == sampled().tokens[1, : sampled().lengths[1]].tolist()


def test_a_narrow_program_draws_what_the_wide_one_does_and_leaves_the_other_slots_alone(server):
    expected = [alone(server, prompt, how) for prompt, how in ((0, HOT), (3, HOT), (2, {}))]
    server.clear().enter((0, 2), (0, 1, HOT), (1, 4, {}))
    server.advance(2)
    server.advance(3, width=NARROW, keep=np.arange(SLOTS) == 1)
    assert server.tokens[4] == expected[2][0][:2], "slot 4 is not looked at"
    server.enter((3, 3), (0, 0, HOT)).advance(T, width=NARROW)
    for slot, (tokens, logprobs) in ((1, expected[0]), (0, expected[1])):
        assert server.tokens[slot] == tokens
        np.testing.assert_allclose(server.logprobs[slot], logprobs, atol=1e-5)
    assert server.advance(T).counts.max() == 0, "slot 4 was given up"


def test_an_advance_returns_with_the_first_that_finishes_if_it_is_told_to(server):
    server.enter((0, 1), (0, 0, {"max_tokens": 2}), (1, 1, HOT))
    drawn = server.advance(T, until_free=np.bool_(True))
    assert drawn.counts.max() <= 2 and drawn.finished.any()


def test_the_likeliest_are_the_head_of_the_distribution_drawn_from(server):
    server.enter((0, 2), (0, 0, {}), (1, 1, {"temperature": 1.0, "top_k": 2}))
    drawn = server.advance(1, likeliest=np.bool_(True))
    prefix = DECODER.encode(tiny_params(), PROMPTS)
    hidden = DECODER.extend(tiny_params(), jnp.zeros((4, 1), jnp.int32), prefix)[:, 0]
    logits = np.asarray(hidden @ DECODER.head(tiny_params()).T, np.float64)[:, :VOCABULARY]
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    best = np.argsort(-logprobs[0])[:LIKELIEST]
    assert drawn.likeliest[0, 0].tolist() == best.tolist() and best[0] == drawn.tokens[0, 0]
    np.testing.assert_allclose(drawn.likeliest_logprobs[0, 0], logprobs[0][best], atol=1e-4)
    # Of those that top-k keeps the probabilities are 1 together, and no other can be drawn.
    assert np.exp(drawn.likeliest_logprobs[1, 0, :2]).sum() == pytest.approx(1, abs=1e-5)
    assert np.isneginf(drawn.likeliest_logprobs[1, 0, 2:]).all()


def test_a_mask_rules_tokens_out_for_its_slot_alone(server):
    free = alone(server, 0, {})[0][0]
    masks = np.full((SLOTS, server.serving.words), ANYTHING)
    masks[1] = 0
    masks[1, 17 // 32] = 1 << 17
    server.clear().enter((0, 0), (0, 0, {}), (0, 1, HOT)).advance(1, allowed=masks)
    assert (server.tokens[0], server.tokens[1]) == ([free], [17])
    assert server.logprobs[1] == [pytest.approx(0)]


def test_a_model_split_over_devices_serves_what_one_device_does(server):
    expected = alone(server, 0, HOT)[0], alone(server, 3, {})[0]
    split = Server(make_mesh((1, 1, 2), jax.devices()[:2])).clear()
    split.enter((0, 3), (0, 1, HOT), (1, 4, {})).advance()
    assert (split.tokens[1], split.tokens[4]) == expected
