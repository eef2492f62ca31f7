"""Adapters: what they compute, what is trained, and PEFT directories."""

import dataclasses
import functools
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from jaxfc.algorithm import Algorithm
from jaxfc.command import InputError, load
from jaxfc.config import Lora, Optimizer, TrainRL, TrainSFT
from jaxfc.draws import make_sampling
from jaxfc.learner import make_optimizer, make_policy_step, make_state
from jaxfc.models.architecture import read_decoder_config
from jaxfc.models.decoder import Decoder
from jaxfc.models.lora import ADAPTER, adapters_of, base_of, combine, merge
from jaxfc.models.peft import describe_adapters, load_adapters, save_adapters
from jaxfc.models.weights import load_params
from jaxfc.sft import train_sft
from jaxfc.sharding import make_mesh, place_replicated, place_rows, shardings
from jaxfc.train import train
from jaxfc.types import Prompts, TrainBatch
from tests.tiny import DECODER, GROUPED, VOCABULARY, one_device, ragged_prompts, tiny_params

GOLDEN = Path(__file__).parent / "golden"
CONVERT = Path(__file__).parents[1] / "scripts" / "convert.py"
SEED_MODEL = Path(__file__).parents[1] / "jaxfc" / "assets" / "seed"
BASES = {"peft_qwen2": "qwen2_tied", "peft_llama": "llama_scaled"}
LORA = Lora(rank=4, alpha=6.0, targets=("q", "v", "o", "gate", "down"))
ADAPTED = Decoder(DECODER.config, lora=LORA)
P, G, S, T = 4, 2, 9, 6
B_OF_LAYER_2 = "base_model.model.model.layers.2.mlp.up_proj.lora_B.weight"


@functools.cache
def tiny_adapters():
    """Adapters that matter: neither factor is 0."""
    leaves, structure = jax.tree.flatten(ADAPTED.init_trained(jax.random.key(2)))
    keys = jax.random.split(jax.random.key(3), len(leaves))
    return structure.unflatten([0.1 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)])


@functools.partial(jax.jit, static_argnums=0)
def logits(decoder, params, prompts, completions):
    hidden = decoder.extend(params, completions, decoder.encode(params, prompts))
    return hidden @ decoder.head(params).T


def tiny_logits(decoder, params):
    completions = jnp.asarray(np.random.default_rng(5).integers(0, VOCABULARY, (P * G, T)), jnp.int32)
    return np.asarray(logits(decoder, params, ragged_prompts([4, 9, 2, 7], S), completions))


def golden(case):
    """A golden model under its adapters: the decoder, all parameters, and the adapters alone."""
    base = GOLDEN / BASES[case]
    decoder = Decoder(read_decoder_config(base), lora=describe_adapters(GOLDEN / case).lora)
    adapters = load_adapters(GOLDEN / case, decoder, one_device())
    return decoder, combine(load_params(base, decoder, one_device()), adapters), adapters


def golden_logits(case, tokens, prompt_length=5):
    decoder, params, _ = golden(case)
    prompts = Prompts(jnp.asarray(tokens[:, :prompt_length]), jnp.full(len(tokens), prompt_length))
    return logits(decoder, params, prompts, jnp.asarray(tokens[:, prompt_length:]))


# What they compute


@pytest.mark.parametrize("case", BASES)
def test_logits_equal_those_that_peft_gave(case):
    given = np.load(GOLDEN / f"{case}.npz")
    ours = golden_logits(case, given["tokens"])
    np.testing.assert_allclose(ours, given["logits"][:, 4:-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", BASES)
def test_logits_equal_those_that_peft_gives(case):
    pytest.importorskip("peft", reason="peft is not installed; jaxfc does not need it, the live comparison does")
    maker = runpy.run_path(str(GOLDEN / "make_adapters.py"))
    tokens = np.random.default_rng(9).integers(0, 160, (3, 30))
    theirs = maker["logits_of"](maker["make_adapted"](case), tokens)
    np.testing.assert_allclose(golden_logits(case, tokens), theirs[:, 4:-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale_by", ["rank", "sqrt_rank"])
def test_merged_parameters_give_what_the_adapters_give(scale_by):
    lora = dataclasses.replace(LORA, scale_by=scale_by)
    assert lora.scale == {"rank": 6 / 4, "sqrt_rank": 6 / 2}[scale_by]
    params = combine(tiny_params(), tiny_adapters())
    adapted = tiny_logits(Decoder(DECODER.config, lora=lora), params)
    merged = tiny_logits(DECODER, merge(params, lora))
    np.testing.assert_allclose(merged, adapted, atol=1e-5, rtol=1e-5)
    assert np.abs(adapted - tiny_logits(DECODER, tiny_params())).max() > 0.1


def test_new_adapters_do_nothing_yet():
    params = combine(tiny_params(), ADAPTED.init_trained(jax.random.key(0)))
    new, base = tiny_logits(ADAPTED, params), tiny_logits(DECODER, tiny_params())
    np.testing.assert_allclose(new, base, atol=1e-5, rtol=1e-5)
    a = params["blocks"]["down"]["lora_a"]
    # PEFT draws A as torch does the weights of a linear layer: uniform up to 1 / sqrt(in), which is 48 here.
    assert 0.9 / 48**0.5 < np.abs(a).max() <= 1 / 48**0.5 and np.std(a) == pytest.approx((1 / 48 / 3) ** 0.5, rel=0.1)


def test_without_its_adapters_the_policy_is_the_base():
    np.testing.assert_array_equal(tiny_logits(ADAPTED, tiny_params()), tiny_logits(DECODER, tiny_params()))


def test_parameters_are_put_together_and_taken_apart_without_a_copy():
    whole = combine(tiny_params(), tiny_adapters())
    for one, other in ((base_of(whole), tiny_params()), (adapters_of(whole), tiny_adapters())):
        assert jax.tree.structure(one) == jax.tree.structure(other)
        assert all(a is b for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
    assert set(whole["blocks"]["q"]) == {"kernel", "bias", *ADAPTER} and "lora_a" not in whole["blocks"]["k"]
    assert combine(None, tiny_params()) is tiny_params()


# What is trained


def batch() -> TrainBatch:
    random = np.random.default_rng(1)
    tokens = random.integers(0, VOCABULARY, (P * G, T)).astype(np.int32)
    rest = random.normal(-3, 0.3, (2, P * G, T)).astype(np.float32)
    return TrainBatch(
        ragged_prompts([4, 9, 2, 7], S),
        tokens,
        np.array([6, 3, 5, 6, 1, 4, 6, 2], np.int32),
        *rest,
        random.normal(size=P * G).astype(np.float32),
    )


def updated(decoder, params, trained, frozen, optimizer, mesh=None):
    """State and metrics after one update of what is trained."""
    mesh = mesh or one_device()
    algorithm = Algorithm(group_size=G, kl_coefficient=0.1, micro_batches=2 if mesh.size == 1 else 1)
    decoder = Decoder(decoder.config, lora=decoder.lora, mesh=mesh)
    step = make_policy_step(decoder, optimizer, algorithm, mesh, vocabulary=VOCABULARY)
    sampling = place_replicated(mesh, make_sampling(temperature=0.7, stop_tokens=(1,), max_tokens=T))
    trained = jax.device_put(trained, shardings(mesh, decoder.trained_axes))
    if frozen is not None:
        frozen = jax.device_put(frozen, shardings(mesh, decoder.axes))
    return step(make_state(decoder, trained, optimizer, mesh), place_rows(mesh, batch()), sampling, frozen)


def assert_close(one, other, relative):
    for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
        assert np.abs(a - b).max() <= relative * np.abs(b).max(), jax.tree_util.keystr(path)


def test_gradients_are_those_of_the_merged_matrices_by_the_chain_rule():
    optimizer = optax.trace(decay=0.9)
    adapted, _ = updated(ADAPTED, None, tiny_adapters(), tiny_params(), optimizer)
    whole, _ = updated(DECODER, None, merge(combine(tiny_params(), tiny_adapters()), LORA), None, optimizer)
    found, of_matrices = adapted.opt_state.trace["blocks"], whole.opt_state.trace["blocks"]
    for name in LORA.targets:
        a, b = (tiny_adapters()["blocks"][name][factor] for factor in ADAPTER)
        gradient = of_matrices[name]["kernel"]
        expected = {"lora_a": 1.5 * gradient @ b.swapaxes(1, 2), "lora_b": 1.5 * a.swapaxes(1, 2) @ gradient}
        assert_close(found[name], expected, 1e-4)


def test_an_update_holds_moments_for_adapters_only_and_leaves_the_base_as_it_is():
    before = jax.tree.map(np.array, tiny_params())
    optimizer = make_optimizer(Optimizer(learning_rate=1e-2))
    state, metrics = updated(ADAPTED, None, tiny_adapters(), tiny_params(), optimizer)
    jax.tree.map(np.testing.assert_array_equal, before, tiny_params())
    assert jax.tree.structure(state.params) == jax.tree.structure(tiny_adapters())
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), state.params, tiny_adapters())
    assert min(jax.tree.leaves(moved)) > 1e-3 and metrics["optim/grad_norm"] > 0
    shapes = {leaf.shape for leaf in jax.tree.leaves(tiny_adapters())} | {()}
    assert {leaf.shape for leaf in jax.tree.leaves(state.opt_state)} == shapes


def test_an_update_is_the_same_on_a_mesh_whose_devices_each_hold_a_part_of_the_adapters():
    mesh, optimizer = make_mesh((2, 2, 2)), optax.sgd(1e-2, momentum=0.9)
    alone, _ = updated(ADAPTED, None, tiny_adapters(), tiny_params(), optimizer)
    state, _ = updated(ADAPTED, None, tiny_adapters(), tiny_params(), optimizer, mesh)
    for one, other in ((state.params, alone.params), (state.opt_state[0].trace, alone.opt_state[0].trace)):
        assert_close(*(jax.tree.map(np.asarray, tree) for tree in (one, other)), 1e-5)
    # [layers, in, rank] and [layers, rank, out]; q has its inputs over fsdp, its heads over tensor.
    q, moments = state.params["blocks"]["q"], state.opt_state[0].trace["blocks"]["q"]
    for held in (q, moments):
        assert held["lora_a"].addressable_shards[0].data.shape == (2, 32 // 2, 4)
        assert held["lora_b"].addressable_shards[0].data.shape == (2, 4, 32 // 2)


@pytest.mark.parametrize("shape", [(1, 4, 2), (1, 1, 8)], ids=str)
def test_adapters_of_keys_and_values_are_trained_alike_where_devices_share_their_heads(shape):
    lora = dataclasses.replace(LORA, targets=("q", "k", "v", "o"))
    decoder, optimizer = Decoder(GROUPED.config, lora=lora), optax.sgd(1.0, momentum=0.9)
    leaves, structure = jax.tree.flatten(decoder.init_trained(jax.random.key(2)))
    adapters = structure.unflatten([0.1 * jax.random.normal(jax.random.key(a.size), a.shape) for a in leaves])
    alone, on_mesh = (
        updated(decoder, None, adapters, tiny_params(GROUPED), optimizer, mesh)[0] for mesh in (None, make_mesh(shape))
    )
    moves = (jax.tree.map(lambda new, old: np.asarray(new - old), state.params, adapters) for state in (on_mesh, alone))
    assert_close(*moves, 1e-5)
    # [layers, rank, 2 heads x 4]: of 8 devices each has a quarter of a head.
    assert on_mesh.params["blocks"]["k"]["lora_b"].addressable_shards[0].data.shape == (2, 4, 8 // shape[2])


# PEFT directories


@pytest.mark.parametrize("case", BASES)
def test_a_peft_directory_comes_back_as_it_was(case, tmp_path):
    decoder, _, adapters = golden(case)
    save_adapters(tmp_path / "adapter", adapters, decoder.lora, Path(BASES[case]))
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (GOLDEN / case, tmp_path / "adapter"))
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name])
    ours, theirs = (
        json.loads((folder / "adapter_config.json").read_text()) for folder in (tmp_path / "adapter", GOLDEN / case)
    )
    ours["target_modules"], theirs["target_modules"] = sorted(ours["target_modules"]), sorted(theirs["target_modules"])
    assert ours == {name: theirs[name] for name in ours}
    assert describe_adapters(tmp_path / "adapter") == describe_adapters(GOLDEN / case)


def test_what_is_written_is_what_peft_reads(tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed; jaxfc does not need it, the live comparison does")
    maker = runpy.run_path(str(GOLDEN / "make_adapters.py"))
    decoder, params, adapters = golden("peft_qwen2")
    adapters = jax.tree.map(lambda a: 0.5 - a, adapters)
    save_adapters(tmp_path / "adapter", adapters, decoder.lora, GOLDEN / "qwen2_tied")
    base = maker["load_base"]("peft_qwen2")
    model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    tokens = np.random.default_rng(9).integers(0, 160, (3, 30))
    prompts = Prompts(jnp.asarray(tokens[:, :5]), jnp.full(3, 5))
    ours = logits(decoder, combine(base_of(params), adapters), prompts, jnp.asarray(tokens[:, 5:]))
    np.testing.assert_allclose(ours, maker["logits_of"](model, tokens)[:, 4:-1], atol=1e-4, rtol=0)


@pytest.fixture
def adapter(tmp_path):
    """A writable copy of a golden PEFT directory."""
    return Path(shutil.copytree(GOLDEN / "peft_qwen2", tmp_path / "peft"))


def edit(folder, **fields):
    path = folder / "adapter_config.json"
    changed = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in changed.items() if value is not ...}))


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"use_dora": True}, "use_dora is true, which is not supported"),
        ({"from_the_future": 3}, "from_the_future is 3, which is not supported"),
        ({"modules_to_save": ["lm_head"]}, 'modules_to_save is ["lm_head"], which is not supported'),
        ({"rank_pattern": {"q_proj": 8}}, 'rank_pattern is {"q_proj": 8}, which is not supported'),
        ({"layers_to_transform": [0]}, "layers_to_transform is [0], which is not supported"),
        ({"bias": "all"}, 'bias is "all"; supported: "none"'),
        ({"peft_type": "IA3"}, 'peft_type is "IA3"; supported: "LORA"'),
        ({"init_lora_weights": "pissa"}, 'init_lora_weights is "pissa"; supported: true, false, "gaussian"'),
        ({"target_modules": ["q_proj", "lm_head"]}, 'target_modules is ["q_proj", "lm_head"]; supported: a list'),
        ({"target_modules": ".*_proj"}, 'target_modules is ".*_proj"; supported: a list'),
        ({"r": 0}, "r is 0; a rank of at least 1 is right"),
        ({"r": ...}, "has no r"),
        ({"lora_alpha": "16"}, 'lora_alpha is "16"; a number above 0 is right'),
    ],
)
def test_a_field_that_is_not_supported_is_refused_by_name(adapter, fields, fault):
    edit(adapter, use_qalora=True, **fields)
    with pytest.raises(InputError) as refused:
        describe_adapters(adapter)
    assert fault in str(refused.value)
    assert "use_qalora is true" in str(refused.value) and "adapter_config.json:" in str(refused.value)


def test_tensors_that_are_missing_extra_or_misshapen_are_all_listed(adapter):
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    names = [B_OF_LAYER_2, *(B_OF_LAYER_2.replace(".2.", f".{layer}.") for layer in (0, 1))]
    del tensors[names[0]]
    tensors[names[1]] = np.zeros((80, 5), np.float32)
    tensors["base_model.model.lm_head.lora_A.weight"] = np.zeros((3, 48), np.float32)
    save_file(tensors, path)
    with pytest.raises(InputError) as refused:
        golden_of(adapter)
    lines = str(refused.value).splitlines()
    assert len(lines) == 4
    assert f"{names[0]} [80, 3]" in str(refused.value) and "has no" in str(refused.value)
    assert f"{names[1]} is [80, 5]; adapter_config.json or the model makes it [80, 3]" in str(refused.value)
    assert "lm_head.lora_A.weight belongs to no part" in str(refused.value)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"adapter_model.safetensors: truncated"):
        golden_of(adapter)


def golden_of(adapter):
    decoder = Decoder(read_decoder_config(GOLDEN / "qwen2_tied"), lora=describe_adapters(adapter).lora)
    return load_adapters(adapter, decoder, one_device())


# Runs


def settings(folder: Path, **changes) -> dict:
    return {
        "name": "run",
        "output": str(folder),
        "steps": 4,
        "batch": 4,
        "save_every": 2,
        "model": {"path": str(SEED_MODEL)},
        "data": {"tasks": {"count": 1000}, "prompt_buckets": [144], "completion_length": 48},
        "optimizer": {"learning_rate": 3e-3},
        "mesh": {"data": 2, "fsdp": 2, "tensor": 2},
        "lora": {"rank": 4, "merged": True},
    } | changes


def run_of(program, kind, folder: Path, **changes) -> list[dict]:
    """Train, and read the metrics without those that a clock makes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(json.dumps(settings(folder, **changes)))
    program(load(kind, path))
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    clocks = ("time/", "speed/")
    return [{key: value for key, value in json.loads(line).items() if not key.startswith(clocks)} for line in lines]


def run_rl(folder: Path, **changes) -> list[dict]:
    algorithm = {"group_size": 4, "kl_coefficient": 0.1}
    return run_of(train, TrainRL, folder, rollout={"temperature": 1.0}, algorithm=algorithm, **changes)


def test_a_run_trains_adapters_and_goes_on_from_its_checkpoint_as_if_never_stopped(tmp_path):
    rows = run_rl(tmp_path)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["speed/compiles"] == 0
    for row in rows:
        assert row["kl/sampler_max_gap"] < 1e-4 and row["optim/grad_norm"] > 0
    # The reference is the base, which the first policy is and the last is not.
    assert abs(rows[0]["kl/reference"]) < 1e-6 < 1e-5 < rows[-1]["kl/reference"]
    run = tmp_path / "run"
    found = load_file(run / "adapter" / "adapter_model.safetensors")
    shutil.rmtree(run / "checkpoints" / "4")
    assert run_rl(tmp_path) == rows
    again = load_file(run / "adapter" / "adapter_model.safetensors")
    for name in found:
        np.testing.assert_array_equal(found[name], again[name])
    sizes = sum(path.stat().st_size for path in (run / "checkpoints" / "4" / "state").rglob("*"))
    assert sizes < 0.5 * (SEED_MODEL / "model.safetensors").stat().st_size


def test_what_a_run_leaves_is_the_base_with_its_adapters_and_a_place_to_go_on_from(tmp_path):
    run_rl(tmp_path, steps=2)
    run = tmp_path / "run"
    decoder = Decoder(read_decoder_config(run / "model"), lora=describe_adapters(run / "adapter").lora)
    base, model = (load_params(folder, decoder, one_device(), jnp.float32) for folder in (SEED_MODEL, run / "model"))
    adapters = load_adapters(run / "adapter", decoder, one_device())
    merged = merge(combine(base, adapters), decoder.lora)
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.tree.map(lambda a: a.astype(jnp.bfloat16), merged),
        jax.tree.map(lambda a: a.astype(jnp.bfloat16), model),
    )
    assert (run / "adapter" / "prompt.yaml").is_file() and (run / "model" / "prompt.yaml").is_file()
    rows = run_rl(tmp_path / "on", steps=1, lora={"rank": 4, "start": str(run / "adapter")})
    assert rows[0]["kl/reference"] > 1e-5 and not (tmp_path / "on" / "run" / "model").exists()
    with pytest.raises(InputError, match=r"rank is 4 there, lora.rank is 2 here"):
        run_rl(tmp_path / "off", lora={"rank": 2, "start": str(run / "adapter")})
    edit(run / "adapter", lora_dropout=0.1)
    with pytest.raises(InputError, match=r"lora_dropout is 0.1 there, and there is no dropout here"):
        run_rl(tmp_path / "off", lora={"rank": 4, "start": str(run / "adapter")})


def test_supervised_training_of_adapters_learns(tmp_path):
    rows = run_of(train_sft, TrainSFT, tmp_path, steps=6, lora={"rank": 8, "targets": ["q", "v", "up"]})
    assert rows[-1]["loss/total"] < rows[0]["loss/total"]
    assert describe_adapters(tmp_path / "run" / "adapter").lora.targets == ("q", "v", "up")


def test_convert_adds_adapters_into_a_model(tmp_path):
    command = [sys.executable, str(CONVERT), "--source", str(GOLDEN / "qwen2_tied"), "--output", str(tmp_path / "m")]
    command += [f"adapter={GOLDEN / 'peft_qwen2'}", "dtype=float32", "mesh.fsdp=2", "mesh.tensor=2", "mesh.data=2"]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(CONVERT.parents[1])})
    given = np.load(GOLDEN / "peft_qwen2.npz")
    decoder = Decoder(read_decoder_config(tmp_path / "m"))
    params, tokens = load_params(tmp_path / "m", decoder, one_device()), given["tokens"]
    prompts = Prompts(jnp.asarray(tokens[:, :5]), jnp.full(len(tokens), 5))
    ours = logits(decoder, params, prompts, jnp.asarray(tokens[:, 5:]))
    np.testing.assert_allclose(ours, given["logits"][:, 4:-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "lora.rank is 0; right is at least 1"),
        ({"alpha": 0}, "lora.alpha is 0"),
        ({"targets": []}, "name at least one matrix"),
        ({"targets": ["q", "q"]}, "each once"),
        ({"targets": ["q_proj"]}, "q_proj"),
        ({"dropout": 0.1}, "unknown key lora.dropout"),
        ({"start": "no/such/adapter"}, "no/such/adapter"),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_written(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run_rl(tmp_path, lora=changes)
    assert not (tmp_path / "run").exists()
