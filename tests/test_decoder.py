import dataclasses
import functools
import itertools
import re
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfc.models.decoder as decoder_module
from jaxfc.config import Remat
from jaxfc.models.decoder import Decoder, parameter_count
from jaxfc.models.network import DecoderConfig
from jaxfc.sharding import make_mesh, place_rows, shardings
from jaxfc.types import Lanes, Prompts

TIED = DecoderConfig(
    vocab_size=32, width=16, hidden_width=24, layers=2, heads=4, kv_heads=2, head_width=6, rope_theta=100.0
)
UNTIED = dataclasses.replace(TIED, tied=False, kv_heads=4)
P, S, G, T = 4, 6, 2, 5
PROMPT_LENGTHS = np.array([5, 1, 3, 6])
LENGTHS = np.array([5, 1, 4, 2, 3, 5, 2, 4])
MASK = np.arange(T) < LENGTHS[:, None]
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""Compiling is most of the time here; this halves it."""


@functools.cache
def random_params(config: DecoderConfig):
    """Parameters in which biases and norms matter too."""
    leaves, structure = jax.tree.flatten(Decoder(config).init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return structure.unflatten([a + 0.2 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)])


def batch(padding: int = 0):
    """Ragged prompts and completions; `padding` stands where nothing counts."""
    rng = np.random.default_rng(0)
    prompts, completions = rng.integers(0, 32, (P, S)), rng.integers(0, 32, (P * G, T))
    prompts = np.where(np.arange(S) < PROMPT_LENGTHS[:, None], prompts, padding)
    return Prompts(jnp.asarray(prompts), jnp.asarray(PROMPT_LENGTHS)), jnp.asarray(np.where(MASK, completions, padding))


def make_gradient(hidden_fn, head_fn):
    """Compile (params, prompts, completions) -> (gradient, hidden) of a loss that every counted position feeds."""

    def loss(params, prompts, completions):
        hidden = hidden_fn(params, prompts, completions)
        logits = hidden.astype(jnp.float32) @ head_fn(params).T
        weights = jax.random.normal(jax.random.key(2), logits.shape) * MASK[..., None]
        return jnp.sum(jnp.where(MASK[..., None], logits * weights, 0.0)), hidden

    return jit(jax.grad(loss, has_aux=True))


def gradient_of(decoder: Decoder):
    def hidden(params, prompts, completions):
        return decoder.extend(params, completions, decoder.encode(params, prompts))

    return make_gradient(hidden, decoder.head)


@functools.cache
def compiled(config: DecoderConfig):
    return gradient_of(Decoder(config))


def result(config: DecoderConfig):
    """The gradient and hidden states that other forms are held to."""
    return compiled(config)(random_params(config), *batch())


def assert_close(one, other, relative):
    """Every leaf, to a fraction of its largest element."""
    for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
        error = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()
        assert error <= relative * np.abs(np.asarray(b, np.float64)).max(), (jax.tree_util.keystr(path), error)


def counted(hidden):
    return np.asarray(hidden)[MASK]


def plain_row(params, config: DecoderConfig, tokens):
    """The textbook decoder over one row [N] of tokens: every head by itself, rotations as complex numbers."""
    half, width = config.head_width // 2, config.head_width

    def norm(x, scale):
        return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + config.norm_epsilon) * scale

    angles = jnp.outer(jnp.arange(len(tokens)), config.rope_theta ** (-2 * jnp.arange(half) / width))

    def turn(x):
        z = (x[:, :half] + 1j * x[:, half:]) * jnp.exp(1j * angles)
        return jnp.concatenate([z.real, z.imag], axis=1)

    x = params["embed"][tokens]
    for layer in range(config.layers):
        w = jax.tree.map(lambda a: a[layer], params["blocks"])  # noqa: B023
        y, heads = norm(x, w["attention_norm"]["scale"]), []
        q, k, v = (y @ w[name]["kernel"] + w[name]["bias"] for name in "qkv")
        for h in range(config.heads):
            kv = slice(h * config.kv_heads // config.heads * width, (h * config.kv_heads // config.heads + 1) * width)
            scores = turn(q[:, h * width : (h + 1) * width]) @ turn(k[:, kv]).T / np.sqrt(width)
            heads.append(jax.nn.softmax(jnp.where(jnp.tri(len(tokens)), scores, -jnp.inf)) @ v[:, kv])
        x = x + jnp.concatenate(heads, axis=1) @ w["o"]["kernel"]
        y = norm(x, w["mlp_norm"]["scale"])
        x = x + (jax.nn.silu(y @ w["gate"]["kernel"]) * (y @ w["up"]["kernel"])) @ w["down"]["kernel"]
    return norm(x, params["norm"]["scale"])


def plain_hidden(params, prompts, completions, *, config):
    """Each prompt repeated for each of its completions, in one row with it; no prefix is shared."""
    lengths = np.repeat(PROMPT_LENGTHS, G)
    columns = np.arange(S + T)
    # Column c of row b is prompt token c, or completion token c - lengths[b]; the row ends in repeats.
    of_prompt = jnp.repeat(prompts.tokens, G, axis=0)[:, np.minimum(columns, S - 1)]
    at = np.clip(columns - lengths[:, None], 0, T - 1)
    rows = jnp.where(columns < lengths[:, None], of_prompt, jnp.take_along_axis(completions, at, axis=1))
    hidden = jax.vmap(lambda row: plain_row(params, config, row))(rows)
    return jnp.take_along_axis(hidden, (lengths[:, None] - 1 + np.arange(T))[..., None], axis=1)


@pytest.mark.parametrize("config", [TIED, UNTIED], ids=["tied", "untied"])
def test_a_shared_prefix_gives_the_hidden_states_and_gradients_of_the_concatenated_form(config):
    gradient, hidden = result(config)
    plain = make_gradient(functools.partial(plain_hidden, config=config), Decoder(config).head)
    plain_gradient, plain_states = plain(random_params(config), *batch())
    assert_close(counted(hidden), counted(plain_states), 1e-5)
    assert_close(gradient, plain_gradient, 1e-5)


@pytest.mark.parametrize("garbage", [31, -1, 10**6])
def test_padding_never_changes_hidden_states_or_gradients(garbage):
    gradient, hidden = result(TIED)
    other_gradient, other_hidden = compiled(TIED)(random_params(TIED), *batch(garbage))
    np.testing.assert_array_equal(counted(hidden), counted(other_hidden))
    jax.tree.map(np.testing.assert_array_equal, gradient, other_gradient)


def test_rows_that_only_fill_the_batch_change_nothing_and_stay_finite():
    prompts, completions = batch()
    # Prompt 3 and its two completions become filler, in the batch and in the loss.
    prompts = prompts._replace(lengths=prompts.lengths.at[3].set(0))
    decoder, params = Decoder(TIED), random_params(TIED)

    def total(params, keep):
        hidden = decoder.extend(params, completions, decoder.encode(params, prompts))
        return jnp.sum(hidden * MASK[..., None] * keep), hidden

    gradient, hidden = jit(jax.grad(total, has_aux=True))(params, (np.arange(P * G) < 6)[:, None, None])
    assert all(np.isfinite(a).all() for a in jax.tree.leaves((gradient, hidden)))
    np.testing.assert_allclose(hidden[:6], result(TIED)[1][:6], atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 2, T])
@pytest.mark.parametrize("config", [TIED, UNTIED], ids=["tied", "untied"])
def test_decoding_step_by_step_equals_extending_at_once(config, at_once):
    decoder, params = Decoder(config), random_params(config)
    prompts, completions = batch()
    weights = decoder.weights(params)
    shared = jit(functools.partial(decoder.prefill, dtype=jnp.float32))(weights, prompts)
    last = np.maximum(PROMPT_LENGTHS - 1, 0)
    first = np.asarray(prompts.tokens)[np.arange(P), last]
    inputs = np.concatenate([np.repeat(first, G)[:, None], completions[:, :-1]], axis=1)
    expected = np.asarray(result(config)[1])
    # The slots hold the completions in any order, in two shards of the rows, and are not equally far.
    order = np.concatenate([shard * 4 + np.random.default_rng(shard).permutation(4) for shard in range(2)])
    lane_of = (order % 4).reshape(2, 4)
    lanes = Lanes(jnp.asarray(np.argsort(lane_of, axis=1)), jnp.asarray(lane_of))
    # Room for more tokens than are decoded: what is not written yet must not count.
    own = jax.tree.map(lambda a: a + 1e3, decoder.empty_caches(P * G, T + 2, jnp.float32))
    lengths = np.arange(P * G) % 2
    decode = jit(decoder.decode)
    start = jit(decoder.decode)(weights, inputs[order][:, :1], jnp.zeros(P * G, int), own, shared, last, lanes)[1]
    own = jax.tree.map(
        lambda begun, not_begun: jnp.where((lengths == 1).reshape(-1, *(1,) * (begun.ndim - 1)), begun, not_begun),
        start,
        own,
    )
    while (lengths + at_once <= T).any():
        at = np.minimum(lengths, T - at_once)
        columns = at[:, None] + np.arange(at_once)
        hidden, own = decode(weights, np.take_along_axis(inputs[order], columns, 1), at, own, shared, last, lanes)
        np.testing.assert_allclose(hidden, expected[order[:, None], columns], atol=1e-4)
        lengths = lengths + at_once


@pytest.mark.parametrize("remat", typing.get_args(Remat))
@pytest.mark.parametrize("flat_layers", [0, 4])
def test_scan_and_remat_change_no_gradient(flat_layers, remat, monkeypatch):
    monkeypatch.setattr(decoder_module, "FLAT_LAYERS", flat_layers)
    computed = gradient_of(Decoder(TIED, remat=remat))(random_params(TIED), *batch())
    assert_close(computed, result(TIED), 2e-6)


def test_each_policy_of_rematerialisation_takes_less_memory_than_the_one_before(monkeypatch):
    monkeypatch.setattr(decoder_module, "FLAT_LAYERS", 0)
    config = dataclasses.replace(TIED, layers=6)
    shapes = jax.eval_shape(Decoder(config).init, jax.random.key(0))
    prompts = Prompts(jax.ShapeDtypeStruct((8, 96), jnp.int32), jax.ShapeDtypeStruct((8,), jnp.int32))
    completions = jax.ShapeDtypeStruct((32, 48), jnp.int32)

    def memory(remat: Remat) -> int:
        decoder = Decoder(config, remat=remat)

        def loss(params, prompts, completions):
            return jnp.sum(decoder.extend(params, completions, decoder.encode(params, prompts)))

        compiled = jax.jit(jax.grad(loss)).lower(shapes, prompts, completions).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    sizes = [memory(remat) for remat in typing.get_args(Remat)]
    assert all(less < 0.8 * more for more, less in itertools.pairwise(sizes)), sizes


def test_bfloat16_products_stay_close_and_gradients_are_float32():
    gradient, hidden = gradient_of(Decoder(TIED, dtype=jnp.bfloat16))(random_params(TIED), *batch())
    assert hidden.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    assert_close(counted(hidden.astype(jnp.float32)), counted(result(TIED)[1]), 0.05)


def test_permuting_the_completions_of_a_prompt_permutes_their_hidden_states():
    prompts, completions = batch()
    swap = np.arange(P * G) ^ 1
    _, hidden = compiled(TIED)(random_params(TIED), prompts, completions[swap])
    np.testing.assert_allclose(hidden, np.asarray(result(TIED)[1])[swap], atol=1e-6)


def test_a_mesh_of_2x2x2_gives_the_result_of_one_device():
    mesh = make_mesh((2, 2, 2))
    decoder = Decoder(TIED)
    params = jax.device_put(random_params(TIED), shardings(mesh, decoder.axes))
    assert_close(gradient_of(decoder)(params, *place_rows(mesh, batch())), result(TIED), 1e-5)


@pytest.mark.parametrize("head_width", [6, 8])
@pytest.mark.parametrize("tensor", [4, 8])
def test_devices_that_are_more_than_key_value_heads_share_them(tensor, head_width):
    # Of 2 heads x width 6 = 12 features 8 devices have no whole part, so that each has all of them; of 16 it has 2.
    config = dataclasses.replace(TIED, heads=8, head_width=head_width)
    mesh = make_mesh((1, 8 // tensor, tensor))
    decoder = Decoder(config, mesh=mesh)
    params = jax.device_put(random_params(config), shardings(mesh, decoder.axes))
    of_keys = params["blocks"]["k"]["kernel"].addressable_shards[0].data.shape
    assert of_keys[2] == (12 if (tensor, head_width) == (8, 6) else 2 * head_width // tensor)
    assert_close(gradient_of(decoder)(params, *place_rows(mesh, batch())), result(config), 1e-5)


def test_on_a_mesh_every_device_works_on_its_rows_alone():
    mesh = make_mesh((2, 2, 2))
    decoder = Decoder(TIED, mesh=mesh)
    placed = jax.device_put(random_params(TIED), shardings(mesh, decoder.axes)), *place_rows(mesh, batch())
    compiled = gradient_of(decoder).lower(*placed).compile()
    assert_close(compiled(*placed), result(TIED), 1e-5)
    # Activations are [P, G, T, ...] and [P, 1, S, ...]; a device has one row of four, whole in width.
    found = re.findall(rf"f32\[(\d+),(?:{G},{T}|1,{S}),(\d+)\]", compiled.as_text())
    wider = {(int(rows), int(width)) for rows, width in found if rows != "1"}
    # Only the embedding is looked up for both rows of the fsdp axis, by each of its devices in its half of the width.
    assert len(found) > 100 and wider == {(2, TIED.width // 2)}


def test_a_key_gives_the_same_parameters_in_every_version():
    params = Decoder(TIED).init(jax.random.key(0))
    # As drawn by Flax 0.12.8 and JAX 0.10.2, and by Flax 0.12.12 and JAX 0.12.
    np.testing.assert_allclose(params["embed"][0, :3], [0.02008029, -0.01812674, -0.01496344], atol=1e-7)
    queries, down = (params["blocks"][name]["kernel"] for name in ("q", "down"))
    np.testing.assert_allclose(queries[:, 0, 0], [0.13932931, 0.5539744], atol=1e-6)
    np.testing.assert_allclose(down[:, 0, 1], [0.300235, -0.10065166], atol=1e-6)


def test_every_axis_of_every_parameter_has_a_name_and_every_matrix_is_split():
    for config in (TIED, UNTIED):
        decoder = Decoder(config)
        placed = shardings(make_mesh((2, 2, 2)), decoder.axes)
        for (path, leaf), sharding in zip(
            jax.tree.leaves_with_path(random_params(config)), jax.tree.leaves(placed), strict=True
        ):
            assert len(sharding.spec) == leaf.ndim, path
            if path[-1].key in ("kernel", "embed", "head"):
                assert np.prod(sharding.shard_shape(leaf.shape)) * 4 == leaf.size, path


def test_parameter_count_is_that_of_the_architecture():
    # Of a layer: q and o 2 * 16 * 24, q's bias 24, k and v 2 * 16 * 12 + 2 * 12, SwiGLU 3 * 16 * 24, norms 2 * 16.
    layer = 2 * 16 * 24 + 24 + 2 * 16 * 12 + 2 * 12 + 3 * 16 * 24 + 2 * 16
    assert parameter_count(TIED) == 32 * 16 + 2 * layer + 16
    assert parameter_count(dataclasses.replace(TIED, tied=False)) == 2 * 32 * 16 + 2 * layer + 16


@pytest.mark.parametrize(("field", "value", "message"), [("kv_heads", 3, "evenly"), ("head_width", 5, "odd")])
def test_an_architecture_that_cannot_be_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TIED, **{field: value})
