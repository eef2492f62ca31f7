import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.algorithm import Algorithm
from jaxfc.benchmarks import measure, workload
from jaxfc.benchmarks.answers import make_answers
from jaxfc.benchmarks.checker import benchmark_checker, judge_all
from jaxfc.benchmarks.host import benchmark_calls, benchmark_loader
from jaxfc.benchmarks.limits import decode_bytes, matmul_flops, measure_limits
from jaxfc.benchmarks.logprobs import benchmark_logprobs
from jaxfc.benchmarks.loop import benchmark_loop
from jaxfc.benchmarks.measure import WARM_UPS, Lap, alternate, figures, ratios, rise
from jaxfc.benchmarks.peers import NO_TRAINING, open_peers
from jaxfc.benchmarks.preparation import benchmark_validate
from jaxfc.benchmarks.rollout import benchmark_rollout, our_contestants
from jaxfc.benchmarks.settings import (
    CallsBenchmark,
    CheckerBenchmark,
    LoaderBenchmark,
    LogprobsBenchmark,
    LoopBenchmark,
    RolloutBenchmark,
    Shape,
    TrainStepBenchmark,
    ValidateBenchmark,
    check_peers,
)
from jaxfc.benchmarks.table import table
from jaxfc.benchmarks.training import benchmark_train_step
from jaxfc.bfcl.categories import PYTHON_AST
from jaxfc.bfcl.files import read_bfcl
from jaxfc.command import InputError
from jaxfc.config import Data, Draft, Mesh, Rollout, Tasks
from jaxfc.decoding import Until, begin_rollouts, make_steps
from jaxfc.draws import make_sampling
from jaxfc.learner import make_optimizer, make_policy_step, make_state
from jaxfc.models.decoder import Decoder, parameter_count
from jaxfc.models.network import DecoderConfig
from jaxfc.models.presets import preset
from jaxfc.sharding import make_mesh
from jaxfc.types import Prompts, TrainBatch

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"
TINY = Shape(vocabulary=64, width=16, hidden_width=24, layers=2, heads=2, kv_heads=1, head_width=8)
MODEL = {"shape": TINY, "prompts": 2, "prompt_length": 12, "runs": 2}


@pytest.fixture(autouse=True)
def quick_limits(monkeypatch):
    """Bandwidth and matmul rate of small arrays; what they are matters to no test."""

    def small(dtype):
        return measure_limits(dtype, copy_bytes=2**16, size=32, runs=2)

    for module in ("rollout", "training", "logprobs"):
        monkeypatch.setattr(f"jaxfc.benchmarks.{module}.measure_limits", small)


def check_report(result, name, contestants):
    """What every benchmark's object says, and that it is JSON and can be shown."""
    assert json.loads(json.dumps(result))["benchmark"] == name
    assert list(result["results"]) == contestants
    assert set(result["ratios"]) == set(contestants[1:])
    assert result["versions"]["jax"] == jax.__version__
    assert result["peak_rss_bytes"] > 10**7
    for figures_of in result["results"].values():
        for clock in ("wall_s", "cpu_s"):
            spread = figures_of[clock]
            assert 0 < spread["min"] <= spread["median"] <= spread["max"]
    assert all(each in table(result) for each in contestants)


# Figures


def test_contestants_take_turns_after_their_warm_ups():
    order = []
    laps = alternate({"a": lambda n: order.append(f"a{n}"), "b": lambda n: order.append(f"b{n}")}, runs=2)
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3"]
    assert WARM_UPS == 2 and {name: len(each) for name, each in laps.items()} == {"a": 4, "b": 4}


def test_figures_leave_the_warm_ups_out_and_rates_are_at_the_median():
    laps = [Lap(9.0, 9.0), Lap(8.0, 8.0), Lap(1.0, 2.0), Lap(4.0, 5.0), Lap(2.0, 3.0)]
    found = figures(laps, tokens=100)
    assert found["wall_s"] == {"median": 2, "min": 1, "max": 4}
    assert found["cpu_s"] == {"median": 3, "min": 2, "max": 5}
    assert (found["first_run_s"], found["tokens"], found["tokens_per_s"]) == (9, 100, 50)


def test_a_ratio_says_how_many_times_longer_the_other_takes_than_the_first():
    ours = figures([Lap(0, 0)] * WARM_UPS + [Lap(1, 2), Lap(2, 4), Lap(3, 6)])
    theirs = figures([Lap(0, 0)] * WARM_UPS + [Lap(4, 2), Lap(8, 4), Lap(9, 6)])
    assert ratios({"ours": ours, "theirs": theirs}) == {"theirs": {"wall": 4, "cpu": 1, "wall_of_fastest": 4}}


def test_a_run_is_timed_until_its_arrays_are_there():
    matrix = jnp.ones((700, 700))
    chain = jax.jit(lambda m: jax.lax.fori_loop(0, 20, lambda _, x: m @ x / 700, m))
    chain(matrix).block_until_ready()
    _, awaited = measure.timed(lambda: chain(matrix).block_until_ready())
    _, left_alone = measure.timed(chain, matrix)
    assert left_alone.wall > awaited.wall / 5


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux keeps a mark of highest memory")
def test_memory_that_is_held_and_freed_within_a_run_counts_as_its_rise():
    def hold():
        return float(np.ones(30 * 2**20).sum())  # 240 MiB of float64

    up, before = rise(hold)
    again, _ = rise(hold)
    assert 235 * 2**20 < up < 300 * 2**20 and 235 * 2**20 < again < 300 * 2**20
    assert before > 10**7


def test_a_contestant_in_another_process_measures_itself():
    laps = alternate({"a": lambda n: Lap(n, n / 2)}, runs=1)
    assert laps == {"a": [Lap(0, 0), Lap(1, 0.5), Lap(2, 1)]}


# FLOPs and bytes


def test_a_matrix_product_has_two_flops_for_each_multiply_add():
    assert matmul_flops(jnp.matmul, jnp.ones((3, 5)), jnp.ones((5, 7))) == 2 * 3 * 5 * 7
    assert matmul_flops(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), jnp.ones((4, 3, 5)), jnp.ones((4, 7, 5))) == 840


def test_a_scan_counts_once_for_each_turn_and_a_condition_as_its_dearest_branch():
    square = jnp.ones((4, 4))

    def scanned(x):
        return jax.lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, square), None), x, length=6)[0]

    def conditional(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ square @ square, lambda x: x @ square, x)

    assert matmul_flops(scanned, square) == 6 * 128
    assert matmul_flops(conditional, square) == 2 * 128
    # Forward, then two products for each in the backward pass; with recomputation one more.
    assert matmul_flops(jax.grad(lambda x: (x @ x @ square).sum()), square) == (2 + 3) * 128
    recomputed = jax.checkpoint(lambda x: jnp.sin(x @ square) @ square)
    assert matmul_flops(jax.grad(lambda x: recomputed(x).sum()), square) == (2 + 1 + 2) * 128


def test_a_matrix_product_in_a_while_loop_is_not_guessed_at():
    loop = lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x)  # noqa: E731
    with pytest.raises(ValueError, match="while loop"):
        matmul_flops(loop, jnp.ones((2, 2)))


def test_the_forward_pass_of_the_decoder_has_the_flops_of_its_matrices_and_its_attention():
    config = workload.decoder_config(RolloutBenchmark(**MODEL))
    decoder = Decoder(config)
    prompts = Prompts(jnp.zeros((3, 12), jnp.int32), jnp.full(3, 12))
    found = matmul_flops(decoder.encode, decoder.init(jax.random.key(0)), prompts)
    # A layer: q and o [16, 16], k and v [16, 8], gate, up and down [16, 24]; attention: scores and values of 12 x 12.
    layer = 2 * (2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24) * 36 + 2 * 2 * 3 * 2 * 12 * 12 * 8
    assert found == 2 * layer


def test_decoding_reads_all_weights_and_each_cached_position_once_a_step():
    config = DecoderConfig(vocab_size=10, width=4, hidden_width=6, layers=2, heads=2, kv_heads=1, head_width=2)
    sizes = {"prompts": 3, "group_size": 5, "prompt_length": 7, "steps": 2, "weight": 4, "cache": 2}
    # 3 prompts hold 6 positions each besides the last token; each of 15 rows has 2, then 3 of its own.
    positions = 3 * 6 * 2 + 15 * (2 + 3)
    assert decode_bytes(config, **sizes) == 2 * parameter_count(config) * 4 + positions * 2 * 2 * 1 * 2 * 2
    untied = DecoderConfig(
        vocab_size=10, width=4, hidden_width=6, layers=2, heads=2, kv_heads=1, head_width=2, tied=False
    )
    assert decode_bytes(untied, **sizes) == decode_bytes(config, **sizes)


def test_limits_are_positive_rates():
    limits = measure_limits(jnp.float32, copy_bytes=2**20, size=64, runs=2)
    assert limits.copy_bytes_per_s > 1e6 and limits.matmul_flops_per_s > 1e6


# Models


@pytest.mark.parametrize(
    ("name", "count"), [("qwen2.5-0.5b", 494_032_768), ("qwen2.5-1.5b", 1_543_714_304), ("qwen2.5-7b", 7_615_616_512)]
)
def test_named_models_have_as_many_parameters_as_those_published(name, count):
    assert parameter_count(preset(name)) == count


def test_the_default_model_is_the_small_one_whatever_way_it_is_described():
    assert workload.decoder_config(RolloutBenchmark()) == workload.decoder_config(RolloutBenchmark(shape=Shape()))


def test_random_weights_leave_no_bias_or_norm_at_its_default():
    params = workload.make_subject(RolloutBenchmark(**MODEL), weights="bfloat16").params
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"bfloat16"}
    assert np.abs(np.asarray(params["blocks"]["q"]["bias"], np.float32)).max() > 0
    assert np.asarray(params["norm"]["scale"], np.float32).std() > 0


def abstract_subject(settings):
    """A model of which nothing but shapes exists."""
    config = workload.decoder_config(settings)
    decoder = Decoder(config, dtype=jnp.bfloat16)
    params = jax.eval_shape(workload.initial(decoder, "bfloat16"), jax.random.key(0))
    return workload.Subject(config, decoder, make_mesh((1, 1, 1), jax.devices()[:1]), params)


@pytest.mark.parametrize("name", ["qwen2.5-1.5b", "qwen2.5-7b"])
def test_the_accelerator_workloads_trace_at_full_size(name):
    settings = RolloutBenchmark(model=name, prompts=32, group_size=8, weights="bfloat16", compute="bfloat16")
    subject = abstract_subject(settings)
    prompts = Prompts(jax.ShapeDtypeStruct((32, 1024), jnp.int32), jax.ShapeDtypeStruct((32,), jnp.int32))
    sizes = {"group_size": 8, "length": 128, "vocabulary": subject.config.vocab_size}
    steps = make_steps(subject.decoder, subject.mesh, **sizes)
    sampling = make_sampling(temperature=0.7, stop_tokens=(-1,), max_tokens=128)

    def sample(params, prompts):
        weights, decoding = begin_rollouts(steps, params, prompts, range(steps.layers))
        decoding, _ = steps.admit(weights, prompts, decoding)
        until = Until(jnp.int32(128), jnp.int32(256))
        decoding, _ = steps.advance(weights, prompts, decoding, jax.random.key(0), sampling, until)
        return steps.end(decoding, prompts)

    rollouts = jax.eval_shape(sample, subject.params, prompts)
    assert rollouts.tokens.shape == (256, 128)

    algorithm, optimizer = Algorithm(entropy=None, micro_batches=8), make_optimizer(TrainStepBenchmark().optimizer)
    decoder = Decoder(subject.config, dtype=jnp.bfloat16, remat="layer")
    params = jax.eval_shape(decoder.init, jax.random.key(0))
    step = make_policy_step(decoder, optimizer, algorithm, subject.mesh, vocabulary=subject.config.vocab_size)
    state = jax.eval_shape(lambda params: make_state(decoder, params, optimizer, subject.mesh), params)
    batch = TrainBatch(rollouts.prompts, rollouts.tokens, rollouts.lengths, *(rollouts.scores.logprobs,) * 2, None)
    batch = batch._replace(advantages=jax.ShapeDtypeStruct((256,), jnp.float32))
    flops = matmul_flops(step, state, batch, sampling)
    tokens = 32 * (1024 + 8 * 128)
    # 6 for each matrix weight and token, and 2 more where layers are recomputed; then attention, and the head, which
    # sees completions alone.
    assert 6 < flops / tokens / parameter_count(subject.config) < 9


# Benchmarks, tiny


def test_rollout_measures_prefill_and_decoding():
    result = benchmark_rollout(RolloutBenchmark(**MODEL, group_size=3, new_tokens=5))
    check_report(result, "rollout", ["jaxfc"])
    ours = result["results"]["jaxfc"]
    assert ours["tokens"] == 2 * 3 * 5
    assert ours["tokens_per_s"] == pytest.approx(30 / ours["wall_s"]["median"])
    assert ours["decode_s"] == pytest.approx(ours["wall_s"]["median"] - ours["prefill"]["wall_s"]["median"])
    fraction = ours["decode_bytes"] / ours["copy_bytes_per_s"] / ours["decode_s"]
    assert ours["fraction_of_limit"] == pytest.approx(fraction)


def test_rollout_runs_on_a_mesh_of_the_first_devices():
    settings = RolloutBenchmark(**MODEL, group_size=2, new_tokens=3, mesh=Mesh(fsdp=2), weights="bfloat16")
    # Embedding; of each layer q, k and v with biases, o, the MLP and two norms; the last norm.
    layer = (16 + 1) * (16 + 8 + 8) + 16 * 16 + 3 * 16 * 24 + 2 * 16
    assert benchmark_rollout(settings)["parameters"] == 64 * 16 + 2 * layer + 16


def test_a_rollout_may_have_fewer_slots_drafts_and_a_rounded_cache():
    rollout = Rollout(temperature=0.0, slots=3, cache="int8", draft=Draft())
    ours = benchmark_rollout(RolloutBenchmark(**MODEL, group_size=3, new_tokens=8, rollout=rollout))["results"]["jaxfc"]
    assert ours["speed/tokens_per_tick"] >= 1 and 0 < ours["speed/slot_occupancy"] <= 1
    whole = benchmark_rollout(RolloutBenchmark(**MODEL, group_size=3, new_tokens=8))["results"]["jaxfc"]
    assert ours["decode_bytes"] < whole["decode_bytes"] and whole["speed/slot_occupancy"] == 1


def test_a_rollout_that_stops_early_is_no_measurement(monkeypatch):
    settings = RolloutBenchmark(**MODEL, group_size=2, new_tokens=4)
    # Every token of a vocabulary of 64 stops.
    monkeypatch.setattr(workload, "NO_TOKEN", 0)
    subject = workload.make_subject(settings)
    biased = {**subject.params, "embed": subject.params["embed"].at[1:].set(0)}
    tokens = np.zeros((2, 12), np.int32)
    run = our_contestants(subject._replace(params=biased), settings, tokens, [])["jaxfc"]
    with pytest.raises(RuntimeError, match="4 were to be sampled"):
        for number in range(8):
            run(number)


def test_train_step_measures_time_memory_and_flops():
    settings = TrainStepBenchmark(**MODEL, new_tokens=4, algorithm=Algorithm(group_size=2, entropy=None))
    result = benchmark_train_step(settings)
    check_report(result, "train_step", ["jaxfc"])
    ours = result["results"]["jaxfc"]
    assert ours["tokens"] == 2 * (12 + 2 * 4)
    # The forward pass and, for each of its products, two in the backward one; the scores of the first are no input.
    assert ours["model_flops"] * 0.9 < ours["program_flops"] <= ours["model_flops"] * 1.4
    assert 0 < ours["update_bytes"] < ours["update_peak_bytes"] and ours["program_extra_bytes"] > 0


def test_loop_measures_each_phase():
    algorithm = Algorithm(group_size=2)
    result = benchmark_loop(LoopBenchmark(**MODEL, new_tokens=4, algorithm=algorithm))
    check_report(result, "loop", ["jaxfc"])
    ours = result["results"]["jaxfc"]
    assert set(ours["phase_s"]) == {"rollout", "score", "update"}
    assert 0 < sum(ours["phase_s"].values()) < 2 * ours["wall_s"]["max"]
    assert ours["tokens"] == 2 * 2 * 4


def test_logprobs_compares_with_the_form_that_holds_all_logits():
    result = benchmark_logprobs(LogprobsBenchmark(tokens=32, width=8, vocabulary=96, runs=2))
    check_report(result, "logprobs", ["jaxfc", "dense"])
    assert result["results"]["jaxfc"]["gradient_gap"]["hidden"] < 1e-5
    assert result["results"]["jaxfc"]["gradient_gap"]["head"] < 1e-5
    # Logits alone are 32 x 96 numbers of 4 bytes.
    assert result["results"]["dense"]["extra_bytes"] >= 32 * 96 * 4


@pytest.mark.slow
def test_serve_draws_the_same_at_once_and_one_by_one():
    sizes = ["requests=3", "slots=2", "completion_length=8", "runs=1", "prompt_bucket=160"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, SCRIPT, "serve", "--json", *sizes]
    result = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
    check_report(result, "serve", ["at once", "one by one"])
    assert 3 <= result["results"]["at once"]["tokens"] <= 3 * 8


def test_calls_judges_the_same_in_one_process_and_in_several():
    result = benchmark_calls(CallsBenchmark(prompts=6, group_size=4, workers=2, runs=1))
    check_report(result, "calls", ["one process", "2 processes"])
    one = result["results"]["one process"]
    assert one["completions"] == 24
    assert one["completions_per_s"] == pytest.approx(24 / one["wall_s"]["median"])


def test_loader_reads_prepared_shards():
    data = Data(tasks=Tasks(count=40), prompt_buckets=(1024,))
    result = benchmark_loader(LoaderBenchmark(data=data, batch=4, batches=3, runs=2))
    check_report(result, "loader", ["jaxfc"])
    ours = result["results"]["jaxfc"]
    assert ours["prompts"] == 12
    assert 12 * 20 < ours["tokens"] < 12 * 1024


def test_validate_measures_tools_known_and_not():
    path = Path(__file__).parents[1] / "jaxfc" / "assets" / "real_rows.jsonl"
    result = benchmark_validate(ValidateBenchmark(rows=str(path), runs=1))
    check_report(result, "validate", ["tools remembered", "tools forgotten", "reading"])
    ours = result["results"]["tools remembered"]
    assert ours["rows"] == len(path.read_text().splitlines()) > result["dropped"] > 0
    assert ours["rows_per_cpu_s"] == pytest.approx(ours["rows"] / ours["cpu_s"]["median"])


@pytest.fixture(scope="module")
def bfcl(tmp_path_factory):
    """A folder with one question in each of the categories in Python."""
    folder = tmp_path_factory.mktemp("bfcl")
    (folder / "possible_answer").mkdir()
    parameters = {"type": "dict", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    weather = {"name": "weather", "description": "", "parameters": parameters | {"required": ["city"]}}
    answer = {"weather": {"city": ["Rome", "Roma"], "days": [3, ""]}}
    for category in PYTHON_AST:
        turns = [[{"role": "user", "content": "Will it rain in Rome?"}]]
        row = {"id": f"{category}_0", "question": turns, "function": [weather]}
        found = {"id": f"{category}_0", "ground_truth": [answer] * (1 + ("parallel" in category))}
        (folder / f"BFCL_v4_{category}.json").write_text(json.dumps(row))
        (folder / "possible_answer" / f"BFCL_v4_{category}.json").write_text(json.dumps(found))
    return str(folder)


def test_checker_judges_answers_of_every_category_right_and_wrong_ones(bfcl):
    result = benchmark_checker(CheckerBenchmark(bfcl=bfcl, rows=400, runs=1))
    check_report(result, "checker", ["jaxfc"])
    assert result["results"]["jaxfc"]["rows"] == 400 and 0.3 < result["right"] < 0.8
    answers = make_answers(read_bfcl(Path(bfcl), PYTHON_AST), 400, seed=0)
    assert {answer.example.kind for answer in answers} == set(PYTHON_AST)
    assert answers == make_answers(read_bfcl(Path(bfcl), PYTHON_AST), 400, seed=0)
    assert sum(judge_all(answers)) / 400 == result["right"]


FAKE_CHECKER = {
    "__init__": "",
    "constants/__init__": "",
    "constants/enums": "from enum import Enum\nclass Language(Enum): PYTHON = 1\nclass ReturnFormat(Enum): PYTHON = 1",
    "model_handler/__init__": "",
    "model_handler/utils": "def default_decode_ast_prompting(text, language): print('noise'); return text",
    "eval_checker/__init__": "",
    "eval_checker/ast_eval/__init__": "",
    "eval_checker/ast_eval/ast_checker": """
from bfcl_eval.constants.model_config import MODEL_CONFIG_MAPPING
from jaxfc.benchmarks.checker import judge_all
from jaxfc.benchmarks.answers import Answer
from jaxfc.calls.schema import accepted_from_bfcl, tool_from_json
from jaxfc.data.example import Example
def ast_checker(functions, text, answer, language, category, model):
    assert not MODEL_CONFIG_MAPPING[model].underscore_to_dot
    example = Example("", (), tuple(map(tool_from_json, functions)), accepted_from_bfcl(answer))
    return {"valid": judge_all([Answer(example, text)])[0] WRONG}""",
    "utils": "def is_function_calling_format_output(calls): return True",
}


@pytest.fixture
def fake_checker(tmp_path, monkeypatch):
    """A package that stands in for bfcl-eval, and judges as we do, or as the `wrong` part of an expression says."""

    def make(wrong: str):
        for name, text in FAKE_CHECKER.items():
            path = tmp_path / "bfcl_eval" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("WRONG", wrong))
        (tmp_path / "bfcl_eval-1.0.dist-info").mkdir()
        (tmp_path / "bfcl_eval-1.0.dist-info" / "METADATA").write_text("Name: bfcl-eval\nVersion: 1.0\n")
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[1]}")

    return make


def test_the_peer_of_checker_is_timed_in_its_own_process_on_the_same_rows(bfcl, fake_checker):
    fake_checker("")
    result = benchmark_checker(CheckerBenchmark(bfcl=bfcl, rows=60, runs=1), ["bfcl-eval"])
    check_report(result, "checker", ["jaxfc", "bfcl-eval"])
    assert result["results"]["bfcl-eval"]["options"]["bfcl-eval"] == "1.0"


def test_a_peer_that_finds_another_verdict_ends_the_comparison(bfcl, fake_checker):
    fake_checker("or text.startswith('Sure')")
    with pytest.raises(RuntimeError, match=r"of 200 verdicts \d+ differ: 'Sure, "):
        benchmark_checker(CheckerBenchmark(bfcl=bfcl, rows=200, runs=1), ["bfcl-eval"])


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/false"])
def test_an_interpreter_without_the_peer_is_named(bfcl, python):
    with pytest.raises(InputError, match=f"peer_python: (with )?{python}"):
        benchmark_checker(CheckerBenchmark(bfcl=bfcl, rows=8, runs=1, peer_python=python), ["bfcl-eval"])


# Peers


@pytest.mark.parametrize(
    ("settings", "name"), [(LoopBenchmark(), "transformers"), (CallsBenchmark(), "tunix"), (RolloutBenchmark(), "vllm")]
)
def test_a_peer_that_a_benchmark_does_not_have_is_refused(settings, name):
    with pytest.raises(InputError, match=f"--peer {name}: no such peer of {settings.name}"):
        check_peers(settings, [name])


def test_peers_are_not_asked_for_a_cut_distribution():
    with pytest.raises(InputError, match="top_k is 5"):
        check_peers(RolloutBenchmark(rollout=Rollout(top_k=5)), ["tunix"])
    check_peers(RolloutBenchmark(rollout=Rollout(top_k=5)), [])


@pytest.mark.parametrize(("name", "package"), [("transformers", "torch"), ("tunix", "google-tunix")])
def test_a_peer_that_is_not_installed_is_named(name, package, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(InputError, match=f"--peer {name} needs the package {package}"):
        open_peers([name], tmp_path, preset("small"), compute="float32", training=NO_TRAINING)


def test_a_peer_that_computes_other_logits_is_not_compared_with():
    subject = workload.make_subject(RolloutBenchmark(**MODEL))

    class Off:
        packages, options = (), {}

        def sample(self, prompts, **_): ...

        def logits(self, tokens):
            right = workload.own_logits(subject, tokens)
            return np.pad(right * 1.01, ((0, 0), (0, 1), (0, 0)))

    with pytest.raises(RuntimeError, match="off runs another model"):
        workload.check_parity("off", Off(), subject)


@pytest.mark.parametrize("name", ["transformers", "tunix"])
def test_a_peer_runs_the_same_workload(name):
    pytest.importorskip({"transformers": "torch", "tunix": "tunix"}[name], reason=f"the peer {name} is not installed")
    result = benchmark_rollout(RolloutBenchmark(**MODEL, group_size=2, new_tokens=3), [name])
    check_report(result, "rollout", ["jaxfc", name])
    assert result["results"][name]["tokens"] == result["results"]["jaxfc"]["tokens"] == 12


def test_a_training_peer_runs_the_same_steps():
    pytest.importorskip("tunix", reason="the peer tunix is not installed")
    algorithm = Algorithm(group_size=2, entropy=None)
    result = benchmark_train_step(TrainStepBenchmark(**MODEL, new_tokens=3, algorithm=algorithm), ["tunix"])
    check_report(result, "train_step", ["jaxfc", "tunix"])
    assert result["ratios"]["tunix"]["update_bytes"] > 0
    settings = LoopBenchmark(**MODEL, new_tokens=3, algorithm=algorithm, peer_remat="decoder")
    result = benchmark_loop(settings, ["tunix"])
    assert result["results"]["tunix"]["options"]["remat"] == "decoder"
    check_report(result, "loop", ["jaxfc", "tunix"])


# The command


def run_script(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=300)


def test_the_command_prints_one_json_object():
    small = ["tokens=8", "width=4", "vocabulary=16", "runs=1"]
    done = run_script("logprobs", "--json", *small)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["settings"]["vocabulary"] == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rollout", "model=qwen-7b"], "did you mean qwen2.5-7b?"),
        (["rollout", "--peer", "vllm"], "no such peer of rollout; possible: tunix, transformers."),
        (["train_step", "prompts=3", "algorithm.micro_batches=2"], "needs a multiple of 2"),
        (["rollout", "new_tokens=1"], "decoding is timed from the second token on"),
        (["loop", "runs=0"], "runs is 0"),
        (["speed"], "invalid choice: 'speed'"),
    ],
)
def test_the_command_refuses_what_is_wrong_in_one_message(arguments, message):
    done = run_script(*arguments, "--dry-run")
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_dry_run_needs_no_device():
    done = run_script("rollout", "--dry-run", "model=qwen2.5-7b", "weights=bfloat16", "--json")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
