import dataclasses
import functools
import importlib.util
import re
import runpy
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec
from tiny import DECODER

from jaxfc import learner
from jaxfc.command import InputError, load
from jaxfc.config import Data, Model, Optimizer, Rollout, Tasks, TrainRL, TrainSFT
from jaxfc.config import Mesh as MeshSizes
from jaxfc.models import decoder as decoders
from jaxfc.models import network
from jaxfc.models.decoder import parameter_count
from jaxfc.models.network import DecoderConfig
from jaxfc.models.presets import architecture_of, preset
from jaxfc.plan import compiled
from jaxfc.plan.budget import Planned, advice, make_plan, need, resident, smaller
from jaxfc.plan.hlo import groups_of, parse, work_of
from jaxfc.plan.topology import Pods, open_slice, parse_topology
from jaxfc.sharding import make_mesh, shardings
from jaxfc.types import TokenScores

ROOT = Path(__file__).parents[1]
PLANS = sorted(ROOT.glob("configs/*.plan.md"))
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu, the compiler for TPUs (the extra 'tpu')"
)

# Names of slices


@pytest.mark.parametrize(
    ("text", "found"), [("v5e:4x4", ("v5e", "4x4")), ("v7x:2x2x1", ("tpu7x", "2x2x1")), ("v5p:4x4x4", ("v5p", "4x4x4"))]
)
def test_a_slice_is_a_kind_and_its_extents(text, found):
    assert parse_topology(text) == found


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("v5e-16", "v5e-16 has 16 chips: give how they are laid out, such as v5e:4x4"),
        ("v5litepod-8", "such as v5e:2x4"),
        ("v5p-8", "v5p-8 has 4 chips: give how they are laid out, such as v5p:2x2x1"),
        ("v5p-64", "such as v5p:2x4x4"),
        ("v5p-128", "such as v5p:4x4x4"),
        ("gpu:2x2", "kinds are v5e, v5p, v6e, tpu7x"),
    ],
)
def test_the_clouds_names_are_refused_with_the_layout_that_they_mean(text, hint):
    with pytest.raises(InputError, match=re.escape(hint)):
        parse_topology(text)


# Reading a program

LOOP = """HloModule jit_step, entry_computation_layout={()->f32[]}

%body (p: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %p = (s32[], bf16[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = bf16[8,16]{1,0} get-tuple-element(%p), index=1
  %w = bf16[16,4]{1,0} constant({...})
  %whole = bf16[16,16]{1,0} all-gather(%w), channel_id=1, replica_groups=[2,4]<=[8], dimensions={1}
  %y = bf16[8,16]{1,0} dot(%x, %whole), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (s32[], bf16[8,16]{1,0}) tuple(%i, %y)
}

%cond (p.1: (s32[], bf16[8,16])) -> pred[] {
  %p.1 = (s32[], bf16[8,16]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %limit = s32[] constant(3)
  ROOT %lt = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (a: bf16[8,16]) -> f32[4] {
  %a = bf16[8,16]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], bf16[8,16]{1,0}) tuple(%zero, %a)
  %loop = (s32[], bf16[8,16]{1,0}) while(%start), condition=%cond, body=%body
  %g = f32[8]{0} constant({...})
  %sum = f32[8]{0} all-reduce(%g), channel_id=2, replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
  %four = s32[] constant(4)
  ROOT %part = f32[4]{0} dynamic-slice(%sum, %four), dynamic_slice_sizes={4}
}
"""


def test_what_a_loop_does_counts_as_often_as_it_goes_round():
    work = work_of(parse(LOOP))
    # 3 rounds of an 8 x 16 by 16 x 16 product.
    assert work.flops == 3 * 2 * 8 * 16 * 16
    gathered, summed = work.collectives
    # A device gets 3 of the 4 parts of 16 x 16 numbers of 2 bytes.
    assert gathered.times == 3 and gathered.sent == 3 * 16 * 16 * 2 * 3 / 4
    # Each device keeps half of the sum: it was a reduce-scatter, of 8 numbers of 4 bytes between two.
    assert summed.kind == "reduce-scatter" and summed.sent == 8 * 4 / 2
    # The sum pairs device 0 with 4: with slices of four devices it leaves them, the gathering does not.
    assert [each.crosses(4) for each in work.collectives] == [False, True]
    assert not any(each.crosses(8) for each in work.collectives)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, x", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[4], x", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}, x", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}, x", [[0, 1], [2, 3]]),
    ],
)
def test_groups_of_devices_are_read_in_every_form(text, groups):
    np.testing.assert_array_equal(groups_of(text), groups)


def test_groups_that_cannot_be_read_are_not_passed_over():
    with pytest.raises(ValueError, match="not readable: replica_groups=somehow"):
        groups_of("channel_id=1, replica_groups=somehow")


# The configs for pods


@pytest.mark.parametrize("plans", PLANS, ids=lambda path: path.stem)
def test_every_slice_of_a_config_has_a_plan_that_fits(plans):
    path, plans = plans.with_name(plans.name.replace(".plan.md", ".yaml")), plans.read_text()
    for pod in load(Pods, ROOT / "configs" / "pods.yaml").pods:
        config = load(TrainRL, path, pod.settings)
        section = plans.split(f"## {pod.name}\n")[1].split("\n## ")[0]
        command = " ".join([f"scripts/train_rl.py --config configs/{path.name}", *pod.settings])
        assert f"\n    {command}\n" in section
        assert f"**{config.name} on " in section and ": fits.**" in section
        sizes = dataclasses.asdict(config.mesh)
        assert " x ".join(f"{axis}={size}" for axis, size in sizes.items()) in section


def test_a_model_is_what_its_directory_or_else_its_name_says(tmp_path):
    named = Model(path=str(tmp_path / "absent"), architecture="qwen2.5-coder-7b")
    assert architecture_of(named) == preset("qwen2.5-7b")
    with pytest.raises(InputError, match=r"did you mean qwen3-4b\?"):
        architecture_of(dataclasses.replace(named, architecture="qwen3-4"))
    with pytest.raises(InputError, match=r"model\.architecture must name a model"):
        architecture_of(dataclasses.replace(named, architecture=None))
    seed = Model(path=str(ROOT / "jaxfc" / "assets" / "seed"))
    assert architecture_of(seed).width == 128
    with pytest.raises(InputError, match=r"is no qwen3-4b.*width 128 \(not 2560\)"):
        architecture_of(dataclasses.replace(seed, architecture="qwen3-4b"))


# What is compiled for a slice

SMALL = DecoderConfig(
    vocab_size=32_768, width=512, hidden_width=2048, layers=6, heads=8, kv_heads=4, head_width=128, tied=False
)


@functools.cache
def seven_billion() -> TrainRL:
    return load(TrainRL, ROOT / "configs" / "qwen2.5-coder-7b-egpo.yaml")


def small_run(**settings) -> TrainRL:
    given = {
        "name": "small",
        "batch": 256,
        "model": Model(path="small", remat="layer"),
        "data": Data(tasks=Tasks(count=1), prompt_buckets=(512,), completion_length=512),
        "rollout": Rollout(slots=2048),
        "mesh": MeshSizes(data=1, fsdp=4, tensor=4),
    }
    config = TrainRL(**given | settings)
    return dataclasses.replace(config, algorithm=dataclasses.replace(config.algorithm, micro_batches=4))


def plan_small(*only: str):
    target = open_slice("v5e:4x4")
    mesh = make_mesh((1, 4, 4), target.devices)
    return compiled.plan_programs(small_run(), SMALL, mesh, only)


def gathers(program):
    return [each for each in program.work.collectives if each.kind == "all-gather"]


def facts_of_the_update(program, architecture: DecoderConfig, chips: int) -> list[str]:
    """What is wrong with the update of a policy."""
    table, wrong = parameter_count(architecture) * 12 / chips, []
    # Float32 parameters and two moments.
    if abs(program.arguments - program.held["batch"] - table) > 0.01 * table:
        wrong.append(f"arguments take {program.arguments}, the table of parameters {table}")
    if program.donated < 0.999 * table:
        wrong.append("the state is not donated")
    for each in gathers(program):
        shape = each.shapes[0]
        if len(shape.dims) > 2 and shape.dims[0] == architecture.layers:
            wrong.append(f"all layers are gathered at once: {shape}")
        if shape.dtype == "f32" and shape.size >= architecture.width * architecture.head_width:
            wrong.append(f"a weight is gathered in float32: {shape}")
        if {architecture.vocab_size, architecture.vocab_size // 4} & set(shape.dims):
            wrong.append(f"the vocabulary is gathered: {shape}")
    # Forward, forward again, and two of the backward pass; for prompts and for completions.
    if program.work.kernels != 8:
        wrong.append(f"{program.work.kernels:g} Mosaic calls")
    return wrong


def facts_of_decoding(program) -> list[str]:
    """What is wrong with a step of decoding."""
    wrong = []
    # What it needs beside its arguments; the compiler's own sum of temporaries counts some room twice.
    if (beside := program.peak - program.arguments) > 0.1 * program.held["cache"]:
        wrong.append(f"{beside} bytes beside a cache of {program.held['cache']}")
    wrong += [f"gathers {each.shapes}" for each in gathers(program) if each.shapes[0].size > 1e6]
    if program.donated < 0.999 * program.held["cache"]:
        wrong.append("the cache is not donated")
    return wrong


@needs_libtpu
def test_the_step_of_7b_compiles_for_16_chips_and_all_its_facts_hold():
    config, architecture = seven_billion(), preset("qwen2.5-coder-7b")
    plan = make_plan(config, architecture, open_slice("v5e:4x4"))
    update, decode = plan.programs["update"], plan.programs["rollout/decode"]
    assert facts_of_the_update(update, architecture, 16) == []
    assert update.peak < 0.8 * plan.target.chip.memory
    assert plan.programs["score"].work.kernels == 2
    assert facts_of_decoding(decode) == []
    assert all(need(each, resident(plan, name), plan.target.chip).fits for name, each in plan.programs.items())
    assert advice(plan) == []
    # 6 for each parameter of a layer and token, 2 more since layers are computed again; then attention and the head.
    tokens = config.batch * (2048 + 8 * 512) / 16
    assert 6 < update.work.flops / tokens / parameter_count(architecture) < 9


@needs_libtpu
def test_a_step_that_does_not_fit_is_refused_and_the_plan_says_what_would():
    config = dataclasses.replace(
        seven_billion(), algorithm=dataclasses.replace(seven_billion().algorithm, micro_batches=8)
    )
    architecture, target = preset("qwen2.5-coder-7b"), open_slice("v5e:4x4")
    mesh = make_mesh((1, 4, 4), target.devices)
    programs = compiled.plan_programs(config, architecture, mesh, only=("update",))
    assert programs["update"].refusal and programs["update"].peak > target.chip.memory
    # Most is what a loop over 28 layers keeps for the way back.
    assert re.fullmatch(r"[\d.]+GiB bf16\[28,.*\]", programs["update"].largest[0])


@needs_libtpu
def test_the_small_run_has_no_fault():
    programs = plan_small("update", "rollout/decode")
    assert facts_of_the_update(programs["update"], SMALL, 16) == []
    assert facts_of_decoding(programs["rollout/decode"]) == []


def not_donated(monkeypatch):
    jit = jax.jit
    monkeypatch.setattr(jax, "jit", lambda f, donate_argnums=None, **settings: jit(f, **settings))


def layers_gathered_first(monkeypatch):
    scan = decoders.Decoder._scan

    def gathered(self, layer, params, carry, xs=None):
        whole = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params["blocks"])
        home = NamedSharding(self.mesh, Spec())
        whole = jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, home), whole)
        return scan(self, layer, params | {"blocks": whole}, carry, xs)

    monkeypatch.setattr(decoders.Decoder, "_scan", gathered)


def weights_cast_up(monkeypatch):
    def multiply(self, x):
        return (x.astype(jnp.float32) @ self.kernel[...]).astype(x.dtype)

    monkeypatch.setattr(network.Linear, "__call__", multiply)


def whole_logits(monkeypatch):
    def scores(hidden, head, tokens, sampling, *, vocabulary, allowed, mesh):
        logits = jnp.einsum("btd,vd->btv", hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)
        logits = jax.lax.with_sharding_constraint(logits, NamedSharding(mesh, Spec(("data", "fsdp"))))
        logprobs = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
        return TokenScores(logprobs, jnp.zeros_like(logprobs))

    monkeypatch.setattr(learner, "token_scores", scores)


def plain_attention(monkeypatch):
    plain = decoders.attend_causally, decoders.attend_shared
    monkeypatch.setattr(decoders, "attention_of", lambda config, mesh: plain)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (not_donated, "the state is not donated"),
        (layers_gathered_first, "all layers are gathered at once"),
        (weights_cast_up, "a weight is gathered in float32"),
        (whole_logits, "the vocabulary is gathered"),
        (plain_attention, "0 Mosaic calls"),
    ],
)
@needs_libtpu
def test_a_fault_in_the_update_is_seen(monkeypatch, fault, message):
    fault(monkeypatch)
    wrong = facts_of_the_update(plan_small("update")["update"], SMALL, 16)
    assert any(message in each for each in wrong), wrong


def cache_read_after_it_is_written(monkeypatch):
    write, attend, before = decoders.write_rows, decoders.attend_cached, []

    def remember(cache, *new):
        before.append(cache)
        return write(cache, *new)

    def attend_both(q, own, *rest):
        return attend(q, own, *rest) + attend(q, before.pop(), *rest)

    monkeypatch.setattr(decoders, "write_rows", remember)
    monkeypatch.setattr(decoders, "attend_cached", attend_both)


def weights_split_in_width(monkeypatch):
    def split(self):
        layer = jax.tree.map(lambda axes: axes[1:], self.axes["blocks"], is_leaf=lambda node: type(node) is tuple)
        return self.axes | {"blocks": (layer,) * self.config.layers}

    monkeypatch.setattr(decoders.Decoder, "weight_axes", split)


@pytest.mark.parametrize(
    ("fault", "message"),
    [(cache_read_after_it_is_written, "bytes beside a cache"), (weights_split_in_width, "gathers")],
)
@needs_libtpu
def test_a_fault_in_decoding_is_seen(monkeypatch, fault, message):
    fault(monkeypatch)
    wrong = facts_of_decoding(plan_small("rollout/decode")["rollout/decode"])
    assert any(message in each for each in wrong), wrong


@needs_libtpu
def test_between_slices_only_gradients_and_scalars_are_summed():
    target = open_slice("v5e:2x4", 2)
    config = small_run(mesh=MeshSizes(data=2, fsdp=2, tensor=4))
    mesh = make_mesh((2, 2, 4), target.devices)
    update = compiled.plan_programs(config, SMALL, mesh, ("update",))["update"]
    crossing = [each for each in update.work.collectives if each.crosses(target.per_slice)]
    assert crossing and {each.kind for each in crossing} <= {"all-reduce", "reduce-scatter"}
    with pytest.raises(InputError, match=r"mesh\.data is 1, but the devices are 2 slices.*; 2 would do"):
        make_mesh((1, 4, 4), target.devices)


@needs_libtpu
def test_a_supervised_run_is_planned_too():
    config = TrainSFT(
        name="sft",
        batch=64,
        micro_batches=4,
        model=Model(path="small", remat="layer"),
        data=Data(tasks=Tasks(count=1), prompt_buckets=(512,), completion_length=128),
        mesh=MeshSizes(data=1, fsdp=4, tensor=4),
        optimizer=Optimizer(moments="bfloat16"),
    )
    plan = make_plan(config, SMALL, open_slice("v6e:4x4"))
    update = plan.programs["update"]
    assert list(plan.programs) == ["update"] and update.held["optimizer"] < 1.01 * update.held["parameters"]
    assert resident(plan, "update")["reference"] == 0
    assert next(smaller(config, "update"))[0] == "micro_batches=8"


def run_script(*arguments: str) -> int:
    """scripts/plan.py in this process; its exit code."""
    argv = sys.argv
    sys.argv = ["plan.py", *arguments]
    try:
        runpy.run_path(str(ROOT / "scripts" / "plan.py"), run_name="__main__")
    except SystemExit as ended:
        return ended.code
    finally:
        sys.argv = argv


@needs_libtpu
def test_a_replicated_optimizer_makes_the_plan_fail(monkeypatch, capsys):
    placed = learner.state_shardings

    def replicate(decoder, optimizer, mesh):
        state, everywhere = placed(decoder, optimizer, mesh), NamedSharding(mesh, Spec())
        return state._replace(opt_state=jax.tree.map(lambda _: everywhere, state.opt_state))

    monkeypatch.setattr(learner, "state_shardings", replicate)
    config = str(ROOT / "configs" / "qwen2.5-coder-7b-egpo.yaml")
    settings = "algorithm.old_logprobs=sampler", "algorithm.kl_coefficient=0", "data.prompt_buckets=[512]"
    assert run_script("--config", config, "--topology", "v5e:4x4", *settings) == 1
    printed = capsys.readouterr().out
    assert "does not fit by itself" in printed and "refused" in printed


@needs_libtpu
def test_advice_names_the_micro_batches_that_fit():
    settings = dataclasses.replace(seven_billion().algorithm, micro_batches=16)
    config, architecture = dataclasses.replace(seven_billion(), algorithm=settings), preset("qwen2.5-coder-7b")
    target = open_slice("v5e:4x4")
    mesh = make_mesh((1, 4, 4), target.devices)
    programs = compiled.plan_programs(config, architecture, mesh, ("update",))
    (line,) = advice(Planned(config, architecture, target, mesh, programs))
    assert line.startswith("update does not fit; its largest buffers are ")
    assert line.endswith("With algorithm.micro_batches=32 it would.")


def test_the_script_says_what_is_missing(capsys):
    assert run_script("--config", str(ROOT / "configs" / "qwen2.5-coder-7b-egpo.yaml")) == 2
    assert "give --topology, such as v5e:4x4" in capsys.readouterr().err


@needs_libtpu
def test_a_mesh_of_another_size_is_refused(capsys):
    config = str(ROOT / "configs" / "qwen2.5-coder-7b-egpo.yaml")
    assert run_script("--config", config, "--topology", "v5e:2x4") == 2
    assert "needs 16 devices; 8 are attached" in capsys.readouterr().err


def test_state_is_placed_by_the_rules_that_parameters_have():
    mesh = make_mesh((2, 2, 2))
    optimizer = learner.make_optimizer(Optimizer())
    described = learner.describe_state(DECODER, optimizer, mesh)
    params = jax.device_put(DECODER.init(jax.random.key(0)), shardings(mesh, DECODER.axes))
    made = learner.make_state(DECODER, params, optimizer, mesh)
    for there, here in zip(jax.tree.leaves(described), jax.tree.leaves(made), strict=True):
        assert (there.shape, there.dtype, there.sharding) == (here.shape, here.dtype, here.sharding)
