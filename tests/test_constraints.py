import functools
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxfc.calls.parse import Syntax, parse_calls
from jaxfc.command import InputError
from jaxfc.config import Mesh, Model, Prompt
from jaxfc.constraints import ANYTHING, Constraints, Recorded
from jaxfc.data.pipeline import pad_prompts
from jaxfc.data.prompts import completion_tokens, prompt_tokens, read_completion
from jaxfc.data.sources.source import read_rows
from jaxfc.data.tasks import generate
from jaxfc.data.validate import Kept, validate
from jaxfc.decoding import make_steps
from jaxfc.draws import make_sampling
from jaxfc.learner import make_score
from jaxfc.processes import Share
from jaxfc.sampler import make_sampler
from jaxfc.sharding import place_replicated, place_rows, replicated
from jaxfc.workspace import open_workspace

pytest.importorskip("llguidance", reason="needs the extra 'constrain'")

REAL_ROWS = Path(__file__).parents[1] / "jaxfc" / "assets" / "real_rows.jsonl"
EXAMPLES = [kept.example for kept in map(validate, read_rows(REAL_ROWS)) if isinstance(kept, Kept)]
PROMPTS = [Prompt(wrapper=wrapper, opens_think=opens) for wrapper in ("tags", "bare") for opens in (False, True)]
NAMES = [f"{prompt.wrapper}-{'open' if prompt.opens_think else 'shut'}" for prompt in PROMPTS]
SEED_MODEL = Path(__file__).parents[1] / "jaxfc" / "assets" / "seed"


@functools.cache
def constraints_of(tokenizer, prompt):
    return Constraints(tokenizer, prompt)


class Walk:
    """Completions that are given their tokens one by one."""

    def __init__(self, tokenizer, prompt, examples, **changed):
        self._tokenizer = tokenizer
        self._constrained = constraints_of(tokenizer, prompt).begin(examples, group_size=1, **changed)
        self._lengths = np.zeros(len(examples), int)
        self._last = np.zeros(len(examples), int)

    def masks(self, rows):
        """What the rows may draw next, as truth values."""
        rows = np.asarray(rows)
        words = self._constrained.masks(rows, self._lengths[rows], self._last[rows])
        return np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, : self._tokenizer.vocabulary] == 1

    def add(self, rows, tokens):
        """Give each row a token. Masks must be asked for before the next."""
        self._lengths[rows] += 1
        self._last[rows] = tokens

    def follow(self, row, tokens):
        """Give a row tokens, each of which it may draw."""
        for token in tokens:
            assert self.masks([row])[0, token]
            self.add([row], [token])
        return self


def closing_of(tokenizer):
    """The tokens that close something, which a random walk must favour to come to an end."""
    pieces = tokenizer.pieces(range(tokenizer.vocabulary))
    closes = np.array([bool(piece) and set(piece) <= set(b"'\"])}>") for piece in pieces])
    return closes | (np.arange(tokenizer.vocabulary) == tokenizer.eos)


def sample(tokenizer, prompt, examples, rng, limit=800):
    """Random completions: a short chain of thought, then tokens drawn among those that the masks allow.

    At first they are drawn uniformly; later, tokens that close something are favoured. Returns the tokens of each and
    whether it ended.
    """
    walk, closing = Walk(tokenizer, prompt, examples), closing_of(tokenizer)
    thought = tokenizer.encode(("" if prompt.opens_think else "<think>") + "so </think>")
    drawn, alive = [[] for _ in examples], list(range(len(examples)))
    for t in range(limit):
        for row, allowed in zip(list(alive), walk.masks(alive), strict=True):
            late = t > len(thought) + 12
            likely = np.flatnonzero(allowed & closing) if late and rng.random() < 0.3 else np.array([])
            word = rng.choice(likely if likely.size else np.flatnonzero(allowed))
            drawn[row].append(thought[t] if t < len(thought) else int(word))
            walk.add([row], [drawn[row][-1]])
            if drawn[row][-1] == tokenizer.eos:
                alive.remove(row)
        if not alive:
            break
    return drawn, [row not in alive for row in range(len(examples))]


def check_answers(tokenizer, prompt, examples, sampled):
    """All that ended have an answer that parses and calls offered tools with arguments they have."""
    calls_made = 0
    for example, tokens, ended in zip(examples, *sampled, strict=True):
        if ended:
            completion = read_completion(b"".join(tokenizer.pieces(tokens[:-1])), prompt)
            assert completion.problem == ""
            calls = parse_calls(completion.answer, Syntax.STRICT)
            for call in calls:
                called = next(tool for tool in example.tools if tool.name == call.name)
                assert set(called.required) <= set(call.arguments) <= set(called.properties)
            calls_made += len(calls)
    return calls_made


@pytest.mark.parametrize("prompt", PROMPTS, ids=NAMES)
def test_every_answer_that_ends_parses_and_names_offered_tools(seed_tokenizer, prompt):
    examples = [*EXAMPLES, *(generate(3, "train", index) for index in range(24))]
    sampled = sample(seed_tokenizer, prompt, examples, np.random.default_rng(0))
    assert check_answers(seed_tokenizer, prompt, examples, sampled) > len(examples) / 4
    assert sum(sampled[1]) > 0.9 * len(examples)


def test_so_do_those_of_a_tokenizer_whose_tokens_straddle_the_tags(qwen):
    examples = EXAMPLES[:24]
    sampled = sample(qwen, Prompt(), examples, np.random.default_rng(1))
    assert check_answers(qwen, Prompt(), examples, sampled) > len(examples) / 4
    assert sum(sampled[1]) > 0.9 * len(examples)


@pytest.mark.parametrize("prompt", PROMPTS, ids=NAMES)
def test_the_completions_of_supervised_training_may_all_be_drawn(seed_tokenizer, prompt):
    walk = Walk(seed_tokenizer, prompt, EXAMPLES)
    for row, example in enumerate(EXAMPLES):
        walk.follow(row, completion_tokens(example, seed_tokenizer, prompt))


def test_one_that_must_call_ends_neither_in_its_thought_nor_with_an_empty_answer(seed_tokenizer):
    eos, (closing,) = seed_tokenizer.eos, seed_tokenizer.encode("]")
    for must_call in (False, True):
        walk = Walk(seed_tokenizer, Prompt(), EXAMPLES[:1], must_call=must_call)
        assert walk.masks([0])[0, eos] != must_call
        walk = Walk(seed_tokenizer, Prompt(), EXAMPLES[:1], must_call=must_call)
        walk.follow(0, seed_tokenizer.encode("<think>so</think><answer>["))
        assert walk.masks([0])[0, closing] != must_call


def test_the_chain_of_thought_is_free(qwen):
    walk = Walk(qwen, Prompt(), EXAMPLES[:1])
    for token in qwen.encode("<think>call <answer>[f(x)] < or </ or </thin"):
        assert walk.masks([0]).all()
        walk.add([0], [token])


def test_a_token_that_ends_the_chain_of_thought_and_goes_on_must_begin_an_answer(qwen):
    example, *_ = EXAMPLES
    pieces = qwen.pieces(range(qwen.vocabulary))
    for prompt, opening in ((Prompt(), b"<answer>["), (Prompt(wrapper="bare"), b"[" + example.tools[0].name.encode())):
        allowed = Walk(qwen, prompt, [example]).follow(0, qwen.encode("<think>so </think")).masks([0])[0]
        beginnings = [gap + opening[:n] for gap in (b"", b"\n", b"\n\n") for n in range(len(opening) + 1)]
        if prompt.wrapper == "bare":
            beginnings += [b"[]", b"\n[]", b"\n\n[]"]
        right = {b">" + beginning for beginning in beginnings}
        for token, piece in enumerate(pieces):
            assert allowed[token] == (not piece.startswith(b">") or piece in right), piece
        assert sum(~allowed) > 20


def test_the_end_comes_with_the_end_of_the_answer_and_nothing_else(seed_tokenizer):
    walk = Walk(seed_tokenizer, Prompt(), EXAMPLES[:1])
    walk.follow(0, seed_tokenizer.encode("<think>a</think>\n<answer>[]</answer>"))
    assert np.flatnonzero(walk.masks([0])[0]).tolist() == [seed_tokenizer.eos]


def test_a_token_that_was_ruled_out_is_refused(seed_tokenizer):
    walk = Walk(seed_tokenizer, Prompt(), EXAMPLES[:1])
    walk.follow(0, seed_tokenizer.encode("<think>a</think><answer>"))
    walk.add([0], seed_tokenizer.encode("("))
    with pytest.raises(ValueError, match="cannot go on with the answer"):
        walk.masks([0])


def test_rows_go_their_own_ways(seed_tokenizer):
    """Two rows of one prompt share its grammar, and no row sees what another has drawn."""
    opening = seed_tokenizer.encode("<think>a</think><answer>[")
    walk = Walk(seed_tokenizer, Prompt(), [EXAMPLES[0]] * 2).follow(0, opening)
    assert walk.masks([1]).all()
    walk.follow(1, opening)
    closed = Walk(seed_tokenizer, Prompt(), [EXAMPLES[0]]).follow(0, [*opening, *seed_tokenizer.encode("]")]).masks([0])
    walk.follow(0, seed_tokenizer.encode("]"))
    one, other = walk.masks([0, 1])
    np.testing.assert_array_equal(one, closed[0])
    assert (one != other).any()


def test_a_row_that_only_fills_the_batch_may_draw_anything(seed_tokenizer):
    walk = Walk(seed_tokenizer, Prompt(), [None])
    assert walk.follow(0, seed_tokenizer.encode("</think> [f(")).masks([0]).all()


def test_tools_whose_grammar_is_refused_leave_their_completions_free(seed_tokenizer, monkeypatch):
    monkeypatch.setattr("jaxfc.constraints.answer_grammar", lambda tools, fewest: "start: no_such_rule")
    constrained = Constraints(seed_tokenizer, Prompt()).begin(EXAMPLES[:2], group_size=3)
    assert constrained.refused.tolist() == [True, True]
    assert (constrained.masks(np.arange(6), np.zeros(6, int), np.zeros(6, int)) == ANYTHING).all()


def test_without_the_package_the_message_names_the_extra(seed_tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(InputError, match=r"pip install 'jaxfc\[constrain\]'"):
        Constraints(seed_tokenizer, Prompt())


# In the sampler and the trainer

G, T = 4, 96
TASKS = [generate(5, "train", index) for index in range(8)]


@functools.cache
def seed_workspace(shape):
    return open_workspace(Model(path=str(SEED_MODEL)), Mesh(data=shape[0], fsdp=shape[1], tensor=shape[2]), None)


@functools.cache
def rollouts_of(shape, masks=256, slots=None, temperature=1.5):
    """Completions of the seed model, so hot that free ones would hardly ever parse."""
    work = seed_workspace(shape)
    steps = make_steps(work.decoder, work.mesh, group_size=G, length=T, vocabulary=work.vocabulary, slots=slots)
    sampling = make_sampling(temperature=temperature, stop_tokens=(work.tokenizer.eos,), max_tokens=T)
    prompts = pad_prompts([prompt_tokens(task, work.tokenizer, work.prompt) for task in TASKS], 160)
    constrained = Constraints(work.tokenizer, work.prompt).begin(TASKS, group_size=G)
    recorded = Recorded(constrained, share=Share.whole(len(TASKS)), group_size=G, length=T, masks=masks)
    key = jax.device_put(jax.random.key(1), replicated(work.mesh))
    given = work.params, place_rows(work.mesh, prompts), key, place_replicated(work.mesh, sampling)
    rollouts, _ = make_sampler(steps, work.mesh)(*given, None, recorded)
    return rollouts, given[3], recorded


@pytest.mark.parametrize("slots", [None, 8])
def test_what_is_sampled_parses_and_names_an_offered_tool(slots):
    rollouts, _, recorded = rollouts_of((8, 1, 1), slots=slots)
    work, rows = seed_workspace((8, 1, 1)), [task for task in TASKS for _ in range(G)]
    lengths, ended = np.asarray(rollouts.lengths), np.asarray(rollouts.ended)
    tokens = [row[:length].tolist() for row, length in zip(np.asarray(rollouts.tokens), lengths, strict=True)]
    close = b"</think>"
    answers = [done and close in b"".join(work.tokenizer.pieces(row)) for row, done in zip(tokens, ended, strict=True)]
    assert check_answers(work.tokenizer, work.prompt, rows, (tokens, answers)) > 5
    assert sum(answers) > len(rows) / 4
    assert recorded.metrics()["constrain/cut"] == 0 and 2 < recorded.metrics()["constrain/masks"] < 256


@pytest.mark.parametrize(("shape", "parts"), [((8, 1, 1), 1), ((2, 2, 2), 1), ((2, 2, 2), 2)])
def test_the_trainer_reproduces_the_sampler_s_scores_under_the_masks(shape, parts):
    rollouts, sampling, _ = rollouts_of(shape)
    work = seed_workspace(shape)
    score = make_score(work.decoder, work.mesh, vocabulary=work.vocabulary, micro_batches=parts)
    mask = np.arange(T) < np.asarray(rollouts.lengths)[:, None]
    for one, other in zip(score(work.params, rollouts, sampling), rollouts.scores, strict=True):
        assert np.abs(np.asarray(one) - np.asarray(other))[mask].max() < 1e-4
    free = score(work.params, rollouts._replace(allowed=None), sampling)
    assert np.abs(np.asarray(free.logprobs) - np.asarray(rollouts.scores.logprobs))[mask].max() > 0.1


def test_neither_slots_nor_a_mesh_change_what_is_sampled():
    one, slots, mesh = (rollouts_of(*given)[0] for given in (((8, 1, 1),), ((8, 1, 1), 256, 8), ((2, 2, 2),)))
    for other in (slots, mesh):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        places = np.arange(len(TASKS) * G)[:, None] // G
        jax.tree.map(
            np.testing.assert_array_equal,
            *(np.asarray(found.allowed.table)[places, np.asarray(found.allowed.index)] for found in (one, other)),
        )


def test_where_the_masks_of_a_prompt_are_full_its_answers_end():
    rollouts, _, recorded = rollouts_of((8, 1, 1), masks=4)
    assert rollouts.allowed.table.shape[1] == 4
    assert recorded.metrics()["constrain/cut"] > 0 and recorded.metrics()["constrain/masks"] == 4
    eos, index = seed_workspace((8, 1, 1)).tokenizer.eos, np.asarray(rollouts.allowed.index)
    assert (np.asarray(rollouts.tokens)[index == 1] == eos).all()
    assert np.asarray(rollouts.scores.logprobs)[index == 1] == pytest.approx(0)
