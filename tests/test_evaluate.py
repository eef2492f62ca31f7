import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxfc.calls.parse import Syntax
from jaxfc.calls.schema import AcceptedCall, Tool
from jaxfc.command import InputError
from jaxfc.completions import make_completer, make_greedy
from jaxfc.config import Mesh, Model, Prompt, Samples
from jaxfc.data.example import Example
from jaxfc.data.prompts import AS_WRITTEN, form_of, prompt_tokens
from jaxfc.decoding import make_steps
from jaxfc.evaluate import PROMPT_TOO_LONG, Outcome, evaluate, evaluate_into, evaluate_model, read_outcomes, score
from jaxfc.models.create import make_config, make_tokenizer
from jaxfc.models.decoder import Decoder
from jaxfc.models.weights import save_model
from jaxfc.sampler import Effort, make_sampler
from jaxfc.sharding import make_mesh, replicated
from jaxfc.types import Rollouts, TokenScores
from jaxfc.workspace import open_workspace

ROOT = Path(__file__).parent.parent
ADD = Tool("add", "", {"x": {"type": "integer"}}, ("x",))


def example(number, kind="single"):
    return Example(
        id=f"e{number}",
        messages=({"role": "user", "content": f"Add {number}."},),
        tools=(ADD,),
        accepted=(AcceptedCall("add", {"x": (number,)}),),
        kind=kind,
    )


EXAMPLES = [example(n, kind) for n, kind in enumerate(["single", "single", "choice", "single", "choice"])]


def right(examples, number=0):
    return [[f"<think>easy</think>[add(x={e.id[1:]})]"] for e in examples]


def answer_of(text):
    return text.split("</think>")[-1]


class Generator:
    """Right answers, or an interruption at a given call; remembers what it was asked."""

    def __init__(self, stop_at=None):
        self.asked, self.calls, self.stop_at = [], 0, stop_at

    def __call__(self, examples, number):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        self.asked += [e.id for e in examples]
        return right(examples)


def run_into(folder, generate, examples=EXAMPLES, settings=None, **changed):
    settings = settings or {"model": "abc"}
    return evaluate_into(
        folder, examples, generate, answer_of, Syntax.BFCL, **{"settings": settings, "batch_size": 2} | changed
    )


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_scores_are_counted_overall_by_kind_and_by_reason():
    def generate(examples, number):
        return [["<think></think>[add(x=0)]"], ["[add(x=7)]"], ["[add(x=2)]"], None, ["[add(x="]]

    scores, outcomes = evaluate(EXAMPLES, generate, answer_of, Syntax.STRICT)
    assert [outcome.ok for outcome in outcomes] == [True, False, True, False, False]
    assert scores.overall[:2] == (2, 5)
    assert {kind: rate[:2] for kind, rate in scores.kinds.items()} == {"single": (1, 3), "choice": (1, 2)}
    assert sum(scores.reasons.values()) == 3 and scores.reasons[PROMPT_TOO_LONG] == 1
    assert outcomes[0].answer == "[add(x=0)]" and outcomes[0].text == "<think></think>[add(x=0)]"


def test_standard_error_is_that_of_a_proportion():
    # p = 3/4 of n = 4: sqrt(0.75 * 0.25 / 4) = sqrt(3) / 8.
    scores = score([Outcome(str(n), "k", "", "", n > 0, "", "") for n in range(4)])
    assert scores.overall.accuracy == 0.75
    assert math.isclose(scores.overall.standard_error, math.sqrt(3) / 8)
    assert scores.to_json()["overall"] == 0.75 and scores.to_json()["kinds"]["k"]["entries"] == 4


def test_a_prompt_that_is_too_long_is_wrong_even_where_no_call_is_right():
    no_call = Example(id="n", messages=EXAMPLES[0].messages, tools=(ADD,), accepted=(), kind="none")
    scores, [outcome] = evaluate([no_call], lambda examples, number: [None], answer_of, Syntax.BFCL)
    assert not outcome.ok and outcome.text is None and scores.reasons == {PROMPT_TOO_LONG: 1}


def test_a_generator_that_loses_a_completion_is_an_error():
    with pytest.raises(ValueError, match="shorter"):
        evaluate(EXAMPLES, lambda examples, number: right(examples)[:-1], answer_of, Syntax.BFCL)


def test_the_folder_holds_one_line_per_example_in_order_and_the_scores(tmp_path):
    scores = run_into(tmp_path / "out", right, summarize=lambda scores: {"half": scores.overall.accuracy / 2})
    rows = [json.loads(line) for line in (tmp_path / "out" / "outputs.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [e.id for e in EXAMPLES]
    assert set(rows[0]) == {"id", "kind", "text", "answer", "ok", "reason", "detail", "sample"}
    document = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert document["overall"] == scores.overall.accuracy == 1.0
    assert document["aggregates"] == {"half": 0.5} and document["settings"] == {"model": "abc"}
    assert sorted(read(tmp_path / "out")) == ["outputs.jsonl", "scores.json"]


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_an_interrupted_evaluation_asks_only_for_the_rest_and_ends_with_the_same_bytes(tmp_path, stop_at):
    run_into(tmp_path / "whole", right)
    first, second = Generator(stop_at), Generator()
    with pytest.raises(KeyboardInterrupt):
        run_into(tmp_path / "parts", first)
    assert len(first.asked) == 2 * (stop_at - 1)
    run_into(tmp_path / "parts", second)
    assert first.asked + second.asked == [e.id for e in EXAMPLES]
    assert read(tmp_path / "parts") == read(tmp_path / "whole")


def test_a_line_cut_off_by_a_kill_is_generated_again(tmp_path):
    run_into(tmp_path / "whole", right)
    with pytest.raises(KeyboardInterrupt):
        run_into(tmp_path / "parts", Generator(stop_at=3))
    partial = tmp_path / "parts" / "outputs.partial.jsonl"
    partial.write_bytes(partial.read_bytes()[:-9])
    second = Generator()
    run_into(tmp_path / "parts", second)
    assert second.asked == ["e2", "e3", "e4"]  # e2 shares a batch with e3.
    assert read(tmp_path / "parts") == read(tmp_path / "whole")


@pytest.mark.parametrize(
    "changed",
    [{"settings": {"model": "xyz"}}, {"examples": EXAMPLES[:4]}, {"examples": [*EXAMPLES[:4], example(9, "choice")]}],
)
def test_outputs_of_another_model_or_data_are_never_continued(tmp_path, changed):
    with pytest.raises(KeyboardInterrupt):
        run_into(tmp_path, Generator(stop_at=2))
    before = read(tmp_path)
    with pytest.raises(InputError, match=r"outputs\.partial\.jsonl: an interrupted evaluation of another model"):
        run_into(tmp_path, right, **changed)
    assert read(tmp_path) == before


def test_a_foreign_partial_file_is_refused(tmp_path):
    (tmp_path / "outputs.partial.jsonl").write_text("hello\n")
    with pytest.raises(InputError, match="not the outputs of an interrupted evaluation"):
        run_into(tmp_path, right)


def test_ids_that_repeat_are_refused(tmp_path):
    with pytest.raises(InputError, match="example id 'e1' occurs more than once"):
        run_into(tmp_path, right, examples=[example(1), example(2), example(1)])


# Several completions of each example


def outcomes_of(*verdicts):
    return [
        Outcome(f"e{number}", "k", "", "", ok, "ok" if ok else "count", "", sample)
        for number, of_example in enumerate(verdicts)
        for sample, ok in enumerate(of_example)
    ]


def test_pass_at_k_is_the_chance_that_one_of_k_is_right():
    # n = 4, of which 2, 0 and 4 are right. k = 1: 1/2, 0, 1. k = 2: 1 - C(2,2)/C(4,2) = 5/6, 0, 1. k = 4: 1, 0, 1.
    yes, no = True, False
    rate = score(outcomes_of([yes, yes, no, no], [no] * 4, [yes] * 4), pass_at=(1, 2, 4)).overall
    assert rate.pass_at == pytest.approx({1: 0.5, 2: (5 / 6 + 1) / 3, 4: 2 / 3})
    assert (rate.accuracy, rate.entries) == (0.5, 3)
    # The entries count 1/2, 0 and 1: variance ((1/4 + 0 + 1) / 3 - 1/4) = 1/6.
    assert math.isclose(rate.standard_error, math.sqrt(1 / 6 / 3))


def test_pass_at_k_has_the_expectation_of_drawing_k_afresh():
    # Over all 2^4 verdicts on 4 completions, each right with p = 0.3, the estimate's mean is 1 - (1 - p)^k.
    for k in (1, 2, 3, 4):
        mean = 0
        for verdicts in itertools.product([True, False], repeat=4):
            weight = math.prod(0.3 if ok else 0.7 for ok in verdicts)
            mean += weight * score(outcomes_of(verdicts), pass_at=(k,)).overall.pass_at[k]
        assert math.isclose(mean, 1 - 0.7**k)


def test_a_prompt_that_is_too_long_is_one_wrong_outcome_of_any_number_of_samples():
    [*two, long] = [*outcomes_of([True, False]), Outcome("long", "k", None, "", False, PROMPT_TOO_LONG, "")]
    rate = score([*two, long], pass_at=(1, 2)).overall
    assert rate.entries == 2 and rate.pass_at == pytest.approx({1: 0.25, 2: 0.5})


def test_the_k_of_pass_at_k_are_powers_of_two_and_the_number_of_samples():
    assert Samples(count=8).pass_at == (1, 2, 4, 8)
    assert Samples(count=10).pass_at == (1, 2, 4, 8, 10)
    with pytest.raises(ValueError, match="at least 2"):
        Samples(count=1)
    with pytest.raises(ValueError, match="would be equal"):
        Samples(temperature=0.0)


@pytest.mark.parametrize("lost", [0, 9, 400])
def test_samples_are_drawn_again_with_all_of_their_batch(tmp_path, lost):
    def draw(examples, number):
        # As a model's would, the texts depend on the number of the batch and on all that is in it.
        seen = hashlib.sha256(repr([number, [e.id for e in examples]]).encode()).digest()
        return [[f"[add(x={(seen[0] + int(e.id[1:]) + g) % 5})]" for g in range(3)] for e in examples]

    class Killed(Generator):
        def __call__(self, examples, number):
            super().__call__(examples, number)
            return draw(examples, number)

    settings = {"samples": 3, "pass_at": (1, 3)}
    run_into(tmp_path / "whole", draw, **settings)
    with pytest.raises(KeyboardInterrupt):
        run_into(tmp_path / "parts", Killed(stop_at=3), **settings)
    partial = tmp_path / "parts" / "outputs.partial.jsonl"
    partial.write_bytes(partial.read_bytes()[: len(partial.read_bytes()) - lost])
    scores = run_into(tmp_path / "parts", draw, **settings)
    assert read(tmp_path / "parts") == read(tmp_path / "whole")
    rows = [json.loads(line) for line in (tmp_path / "parts" / "outputs.jsonl").read_text().splitlines()]
    assert [(row["id"], row["sample"]) for row in rows] == [(e.id, g) for e in EXAMPLES for g in range(3)]
    document = json.loads((tmp_path / "parts" / "scores.json").read_text())
    assert document["pass_at"]["3"] == scores.overall.pass_at[3] > document["overall"]
    assert scores.overall.pass_at[1] == pytest.approx(document["overall"])


# With a model

LENGTH = 12


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A small random model."""
    source, folder = tmp_path_factory.mktemp("tokenizer"), tmp_path_factory.mktemp("models") / "random"
    make_tokenizer(source, [json.dumps({"text": "Add numbers to numbers. [add(x=1)]"})], 300)
    config = make_config(vocabulary=304, width=32, hidden_width=48, layers=1, heads=2, kv_heads=1)
    params = Decoder(config).init(jax.random.key(3))
    save_model(folder, jax.tree.map(lambda a: 20 * a, params), config, source)  # Sharp, so that completions differ.
    return open_workspace(Model(path=str(folder)), Mesh(data=len(jax.devices())), PROMPT)


@pytest.fixture(scope="module")
def greedy(work):
    """`(batch, buckets) -> generate` with that model, and its tokenizer."""
    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    params = jax.tree.map(lambda a: jax.device_put(jax.device_get(a), replicated(mesh)), work.params)
    decoder = Decoder(work.decoder.config, mesh=mesh)
    sample = make_sampler(make_steps(decoder, mesh, group_size=1, length=LENGTH, vocabulary=work.vocabulary), mesh)

    def generate(batch, buckets):
        settings = {"buckets": buckets, "batch": batch, "max_tokens": LENGTH}
        return functools.partial(make_greedy(sample, work.tokenizer, form_of(PROMPT), mesh, **settings), params)

    return generate, work.tokenizer


PROMPT = Prompt(system="Use {tools}", tools="signatures")


def of_length(number, words):
    return dataclasses.replace(example(number), messages=({"role": "user", "content": "Add " * words + str(number)},))


def test_a_completion_depends_neither_on_its_batch_nor_on_its_bucket(greedy):
    generate, tokenizer = greedy
    examples = [of_length(n, words) for n, words in enumerate([1, 60, 3, 2, 70, 20, 5])]
    longest = max(len(prompt_tokens(e, tokenizer, PROMPT)) for e in examples)
    alone = [generate(1, (longest,))([e])[0] for e in examples]
    assert generate(2, (64, longest))(examples) == alone
    assert len(set(alone)) > 1 and all(alone)


def test_only_prompts_past_the_largest_bucket_have_no_completion(greedy):
    generate, tokenizer = greedy
    examples = [of_length(0, 2), of_length(1, 60), of_length(2, 3)]
    longest = len(prompt_tokens(examples[1], tokenizer, PROMPT))
    assert [text is None for text in generate(2, (32, longest))(examples)] == [False, False, False]
    assert [text is None for text in generate(2, (32, longest - 1))(examples)] == [False, True, False]


def test_the_token_that_ends_a_completion_is_no_part_of_its_text(greedy):
    _, tokenizer = greedy
    written = tokenizer.encode("[add(x=1)]")
    length = len(written) + 1

    def sample(params, prompts, key, sampling, constrained=None):
        # The first completion ends, the second is cut at the limit, the third only fills the batch.
        tokens = jnp.array([[*written, tokenizer.eos], [*written, written[0]], [0] * length])
        lengths, ended = jnp.array([length, length, 0]), jnp.array([True, False, True])
        scores = TokenScores(jnp.zeros((3, length)), jnp.zeros((3, length)))
        return Rollouts(prompts, tokens, lengths, ended, scores), Effort(0, 0, 0, 0)

    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    generate = make_greedy(sample, tokenizer, form_of(PROMPT), mesh, buckets=(256,), batch=3, max_tokens=length)
    assert generate({}, [of_length(0, 1), of_length(1, 1)]) == ["[add(x=1)]", "[add(x=1)]["]


def test_a_model_is_evaluated_on_every_device_and_named_in_the_scores(work, tmp_path):
    batch = len(jax.devices())
    limits = {"form": form_of(PROMPT), "buckets": (64,), "completion_length": LENGTH, "batch": batch}
    examples = [of_length(0, 2), of_length(1, 3), of_length(2, 60)]
    scores = evaluate_model(work, examples, tmp_path, summarize=lambda scores: {"n": scores.overall.entries}, **limits)
    document = json.loads((tmp_path / "scores.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "outputs.jsonl").read_text().splitlines()]
    assert document["settings"]["model"] == work.digest and document["aggregates"] == {"n": 3}
    assert scores.overall.entries == 3 and scores.reasons[PROMPT_TOO_LONG] == 1
    assert [row["text"] is None for row in rows] == [False, False, True]


def test_completions_of_a_group_differ_and_depend_on_the_key_alone(work):
    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    params = jax.tree.map(lambda a: jax.device_put(jax.device_get(a), replicated(mesh)), work.params)
    decoder = Decoder(work.decoder.config, mesh=mesh)
    sample = make_sampler(make_steps(decoder, mesh, group_size=3, length=LENGTH, vocabulary=work.vocabulary), mesh)
    sizes = {"buckets": (64,), "batch": 2, "max_tokens": LENGTH, "group_size": 3, "temperature": 5.0}
    complete = make_completer(sample, work.tokenizer, form_of(PROMPT), mesh, **sizes)
    examples = [of_length(0, 2), of_length(1, 60), of_length(2, 3), of_length(3, 1)]
    first, again, other = (complete(params, examples, jax.random.key(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert first[1] is None and [len(texts) for texts in first if texts] == [3, 3, 3]
    # No batch and no completion repeats the random numbers of another.
    assert len({text for texts in first if texts for text in texts}) == 9


def test_a_model_can_be_asked_with_the_messages_as_they_are(work, tmp_path):
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add 1."})
    asked = dataclasses.replace(EXAMPLES[0], messages=messages)
    assert work.tokenizer.text(AS_WRITTEN.tokens_of(asked, work.tokenizer)) == work.tokenizer.chat(list(messages))
    assert AS_WRITTEN.answer_of("<think>a</think>b</think>\n<answer>[f()]") == "\n<answer>[f()]"
    limits = {"buckets": (64,), "completion_length": LENGTH, "batch": len(jax.devices())}
    samples = Samples(count=2, temperature=5.0)
    evaluate_model(work, [asked], tmp_path, form=AS_WRITTEN, samples=samples, **limits)
    first, second = read_outcomes(tmp_path)
    assert (first.sample, second.sample) == (0, 1) and first.text != second.text
    settings = json.loads((tmp_path / "scores.json").read_text())["settings"]
    assert settings["prompt"] == {"system": "of the examples"} and settings["samples"]["count"] == 2


@pytest.mark.slow
def test_the_command_evaluates_a_model_on_generated_tasks(work, tmp_path):
    command = [sys.executable, "scripts/evaluate.py", "--model", work.source, "--benchmark", "tasks"]
    settings = ["--output", tmp_path, "count=8", "batch=8", "completion_length=8", "--json"]
    one_device = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run([*command, *settings], cwd=ROOT, env=one_device, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["entries"] == 8
    assert len((tmp_path / "outputs.jsonl").read_text().splitlines()) == 8
