import dataclasses
import json
import re
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jaxfc.command import InputError
from jaxfc.files import OutputError
from jaxfc.models.architecture import check_tensor_axis, read_decoder_config
from jaxfc.models.decoder import Decoder
from jaxfc.models.network import DecoderConfig
from jaxfc.models.weights import digest_of, load_params, save_model
from jaxfc.sharding import make_mesh, shardings

GOLDEN = Path(__file__).parent / "golden"
UP = "model.layers.1.mlp.up_proj.weight"


def one_device():
    return make_mesh((1, 1, 1), jax.devices()[:1])


def load(folder, mesh=None):
    return load_params(folder, Decoder(read_decoder_config(folder)), mesh or one_device())


@pytest.fixture(params=["tied", "untied"])
def model(request, tmp_path):
    """A writable copy of a golden model."""
    return Path(shutil.copytree(GOLDEN / f"qwen2_{request.param}", tmp_path / "model"))


@pytest.fixture
def tied(tmp_path):
    return Path(shutil.copytree(GOLDEN / "qwen2_tied", tmp_path / "model"))


def edit_config(folder, **fields):
    path = folder / "config.json"
    changed = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in changed.items() if value is not ...}))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def shard(folder):
    """Split the weights of a model over two files, with an index as transformers writes it."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{1 + i % 2:05}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return places


def refusal(call, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return str(caught.value)


# Architecture


def test_the_config_of_transformers_5_is_read():
    assert read_decoder_config(GOLDEN / "qwen2_untied") == DecoderConfig(
        vocab_size=160,
        width=48,
        hidden_width=80,
        layers=3,
        heads=6,
        kv_heads=2,
        head_width=12,
        rope_theta=1_000.0,
        norm_epsilon=1e-5,
        tied=False,
    )


def test_the_config_of_transformers_4_is_read(tied):
    edit_config(tied, rope_parameters=..., layer_types=..., dtype=..., rope_theta=1e6, rope_scaling=None)
    config = read_decoder_config(tied)
    assert (config.rope_theta, config.head_width, config.tied) == (1e6, 48 // 6, True)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral'; supported: 'qwen2', 'qwen3', 'llama'"),
        ({"attention_bias": True}, "attention_bias is True; supported: False"),
        ({"logit_scale": 2.0}, "logit_scale is 2.0, which the decoder does not know"),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}},
            "which needs the numbers factor, low_freq_factor",
        ),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "factor": 2.0}},
            "the rotary embedding is scaled by {'rope_type': 'default', 'rope_theta': 10000.0, 'factor': 2.0}",
        ),
        (
            {"use_sliding_window": True, "sliding_window": None, "layer_types": ["sliding_attention"] * 3},
            "sliding_window",
        ),
        ({"layer_types": ["full_attention", "chunked_attention", "full_attention"]}, "layer_types is"),
        ({"layer_types": ["full_attention"]}, "for each of 3 layers"),
        ({"architectures": ["Qwen2ForSequenceClassification"]}, "architectures is ['Qwen2ForSequenceClassification']"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; supported: 'silu'"),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        ({"rope_parameters": ..., "rope_scaling": {"type": "yarn", "factor": 4.0}}, "'yarn'"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "'linear'"),
        ({"rope_parameters": 3}, "rope_parameters is 3"),
        ({"num_attention_heads": ...}, "num_attention_heads is 'missing'"),
        ({"hidden_size": "48"}, "hidden_size is '48'; a whole number above 0 is right"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1"),
        ({"num_key_value_heads": 4}, "6 query heads cannot share 4 key-value heads evenly"),
        ({"num_attention_heads": 5}, "hidden_size 48 is not divisible by num_attention_heads 5"),
    ],
)
def test_an_unsupported_config_is_refused_by_the_name_of_the_field(tied, fields, named):
    edit_config(tied, **fields)
    message = refusal(read_decoder_config, tied)
    assert named in message
    assert str(tied / "config.json") in message


def test_windows_are_those_of_transformers(tied):
    edit_config(tied, use_sliding_window=False, sliding_window=4096, max_window_layers=1, layer_types=...)
    assert read_decoder_config(tied).windows is None
    edit_config(tied, use_sliding_window=True)
    assert read_decoder_config(tied).windows == (None, 4096, 4096)
    edit_config(tied, layer_types=["sliding_attention", "full_attention", "full_attention"])
    assert read_decoder_config(tied).windows == (4096, None, None)


@pytest.mark.parametrize("case", ["qwen2_windows", "qwen3_tied", "qwen3_windows", "llama_scaled", "llama_tied"])
def test_every_family_survives_the_way_out_and_in(case, tmp_path):
    source = GOLDEN / case
    config = read_decoder_config(source)
    save_model(tmp_path / "saved", load(source), config, source)
    assert read_decoder_config(tmp_path / "saved") == config
    one, other = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "saved"))
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


QWEN_7B = DecoderConfig(
    vocab_size=152_064, width=3584, hidden_width=18_944, layers=28, heads=28, kv_heads=4, head_width=128
)


@pytest.mark.parametrize(
    ("tensor", "faults"),
    [
        (8, ["query heads: 28 / 8 = 3.50"]),
        (14, ["hidden width: 18944 / 14 = 1353.14", "vocabulary rows: 152064 / 14 = 10861.71", "key-value heads: .*"]),
        (
            3,
            [
                "query heads: 28 / 3 = 9.33",
                "hidden width: 18944 / 3 = 6314.67",
                "key-value heads: 4 / 3 = 1.33 for a device, 3 / 4 = 0.75 devices for one; either must be whole",
            ],
        ),
    ],
)
def test_a_tensor_axis_that_cannot_cut_the_model_is_refused_with_the_arithmetic_and_what_would_do(tensor, faults):
    first, *rest = refusal(check_tensor_axis, QWEN_7B, tensor).splitlines()
    assert first == f"mesh.tensor is {tensor}, into which this model cannot be cut evenly; 1, 2, 4 would do:"
    assert len(rest) == len(faults) and all(map(re.fullmatch, (f"  {fault}" for fault in faults), rest)), rest


def test_key_value_heads_may_be_parts_or_multiples_of_the_tensor_axis():
    # Of 32 query heads and 2 or 8 key-value heads, a device has one query head or more, and one key-value head or more.
    for kv_heads in (2, 8):
        config = dataclasses.replace(QWEN_7B, heads=32, kv_heads=kv_heads)
        for tensor in (1, 2, 4, 8, 16, 32):
            check_tensor_axis(config, tensor)
    # 6 of them are no part of 4 and no multiple of it, although 12 query heads are.
    config = dataclasses.replace(QWEN_7B, heads=12, kv_heads=6)
    assert "; 1, 2, 3, 6, 12 would do" in refusal(
        check_tensor_axis, dataclasses.replace(config, hidden_width=12 * 99, vocab_size=12), 4
    )


def test_a_config_that_is_missing_or_no_json_is_refused(tied):
    (tied / "config.json").write_text("{")
    assert "is not JSON" in refusal(read_decoder_config, tied)
    (tied / "config.json").unlink()
    assert "config.json: no such file" in refusal(read_decoder_config, tied)


# Loading


def test_kernels_are_the_stored_matrices_transposed_and_stacked(model):
    params, stored = load(model), load_file(model / "model.safetensors")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(params["embed"], stored["model.embed_tokens.weight"])
    for layer in range(3):
        name = f"model.layers.{layer}."
        np.testing.assert_array_equal(params["blocks"]["up"]["kernel"][layer], stored[name + "mlp.up_proj.weight"].T)
        np.testing.assert_array_equal(params["blocks"]["k"]["bias"][layer], stored[name + "self_attn.k_proj.bias"])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_float16_and_float32_files_load_too(tied, dtype):
    expected = load(tied)
    edit_weights(tied, lambda tensors: tensors.update({name: a.astype(dtype) for name, a in tensors.items()}))
    # bfloat16 has a wider range than float16, whose smallest steps are 6e-8.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7, rtol=0), load(tied), expected)


def test_sharded_files_load_as_one(model):
    expected = load(model)
    shard(model)
    jax.tree.map(np.testing.assert_array_equal, load(model), expected)


def test_a_mesh_of_2x2x2_holds_the_same_numbers_in_parts(model):
    decoder, mesh = Decoder(read_decoder_config(model)), make_mesh((2, 2, 2))
    params, expected = load_params(model, decoder, mesh), load(model)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    jax.tree.map(lambda leaf, placed: leaf.sharding == placed or pytest.fail(), params, shardings(mesh, decoder.axes))
    # [3, 48, 80]: width over fsdp, hidden width over tensor.
    assert params["blocks"]["up"]["kernel"].addressable_shards[0].data.shape == (3, 24, 40)


def test_a_mesh_that_does_not_divide_the_model_is_refused(tied):
    decoder = Decoder(read_decoder_config(tied))
    message = refusal(load_params, tied, decoder, make_mesh((1, 1, 7), jax.devices()[:7]))
    assert "'tensor': 7" in message
    assert "multiple" in message


def test_a_head_equal_to_the_embedding_may_stand_beside_it_in_a_tied_model(tied):
    edit_weights(tied, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"]}))
    load(tied)
    edit_weights(tied, lambda tensors: tensors.update({"lm_head.weight": tensors["lm_head.weight"] * 2}))
    assert "lm_head.weight belongs to no part of this model" in refusal(load, tied)


def test_all_that_is_wrong_with_the_tensors_is_in_one_message(tied):
    def spoil(tensors):
        del tensors["model.norm.weight"]
        tensors[UP] = tensors[UP][:5].copy()
        tensors["model.layers.3.input_layernorm.weight"] = np.ones(48, np.float32)
        tensors["model.layers.0.self_attn.q_proj.bias"] = np.ones(48, np.int8)

    edit_weights(tied, spoil)
    message = refusal(load, tied)
    assert message.splitlines() == [
        f"{tied}: the weights do not fit its config.json:",
        "  model.safetensors: model.layers.0.self_attn.q_proj.bias is of type I8; supported: BF16, F16, F32.",
        f"  model.safetensors: {UP} is [5, 48]; config.json makes it [80, 48].",
        "  model.safetensors: has no model.norm.weight [48].",
        "  model.safetensors: model.layers.3.input_layernorm.weight belongs to no part of this model.",
    ]


def test_a_truncated_file_is_named_with_its_size(tied):
    path = tied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    message = refusal(load, tied)
    assert f"model.safetensors: truncated at {path.stat().st_size} bytes" in message
    assert "has no" not in message


def test_missing_and_truncated_shards_are_named_together_and_their_tensors_are_not_called_missing(tied):
    places = shard(tied)
    first, second = sorted(set(places.values()))
    (tied / first).unlink()
    (tied / second).write_bytes(b"")
    message = refusal(load, tied)
    assert f"{first}: no such file" in message
    assert f"{second}: truncated at 0 bytes" in message
    assert len(message.splitlines()) == 3


def test_a_missing_weights_file_is_named(tied):
    (tied / "model.safetensors").unlink()
    assert "model.safetensors: no such file" in refusal(load, tied)
    assert "model.safetensors: no such file" in refusal(digest_of, tied)


def test_an_index_without_a_map_is_refused(tied):
    (tied / "model.safetensors.index.json").write_text("{}")
    assert "has no weight_map" in refusal(load, tied)


# Saving


def save(source: Path, folder: Path, dtype="bfloat16"):
    save_model(folder, load(source), read_decoder_config(source), source, dtype)


def test_what_was_loaded_is_saved_bit_for_bit(model, tmp_path):
    save(model, tmp_path / "saved")
    before, after = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "saved"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype == jnp.bfloat16
        assert tensor.tobytes() == after[name].tobytes(), name
    assert read_decoder_config(tmp_path / "saved") == read_decoder_config(model)
    with safe_open(tmp_path / "saved" / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_float32_is_saved_without_rounding(tied, tmp_path):
    edit_weights(tied, lambda tensors: tensors.update({UP: tensors[UP].astype(np.float32) + np.float32(1e-7)}))
    save(tied, tmp_path / "saved", "float32")
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "saved"), load(tied))


def test_parameters_spread_over_a_mesh_are_saved_whole(tied, tmp_path):
    mesh, config = make_mesh((2, 2, 2)), read_decoder_config(tied)
    save_model(tmp_path / "saved", load(tied, mesh), config, tied)
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "saved"), load(tied))


def test_the_tokenizer_and_the_rest_of_the_config_come_along(tied, tmp_path):
    edit_config(tied, eos_token_id=7, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        (tied / name).write_text(name)
    (tied / "training.log").write_text("stays")
    save(tied, tmp_path / "saved")
    fields = json.loads((tmp_path / "saved" / "config.json").read_text())
    # Top-level rope_theta is what both transformers 4 and 5 read.
    assert (fields["eos_token_id"], fields["rope_theta"], fields["torch_dtype"]) == (7, 5e5, "bfloat16")
    assert not {"rope_parameters", "dtype", "layer_types"} & fields.keys()
    assert (tmp_path / "saved" / "chat_template.jinja").read_text() == "chat_template.jinja"
    assert not (tmp_path / "saved" / "training.log").exists()


def test_a_new_model_takes_its_end_token_from_its_tokenizer(tied, tmp_path):
    params, config = load(tied), read_decoder_config(tied)
    (tied / "config.json").unlink()
    tokens = [{"id": 3, "content": "<end>"}, {"id": 5, "content": "<pad>"}]
    (tied / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    (tied / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>", "pad_token": {"content": "<pad>"}}))
    save_model(tmp_path / "saved", params, config, tied)
    fields = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (fields["eos_token_id"], fields["pad_token_id"]) == (3, 5)
    assert read_decoder_config(tmp_path / "saved") == config


def test_a_model_that_is_there_is_replaced_and_nothing_else_is_left(tied, tmp_path):
    save(tied, tmp_path / "saved")
    (tmp_path / "saved" / "old").write_text("")
    save(tied, tmp_path / "saved", "float32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "saved"]
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["config.json", "model.safetensors"]


def test_a_folder_of_something_else_is_never_replaced(tied, tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "thesis.tex").write_text("")
    assert "is no model directory" in refusal(save, tied, tmp_path / "saved")
    assert (tmp_path / "saved" / "thesis.tex").exists()


@pytest.mark.parametrize("there_before", [True, False])
def test_a_write_that_fails_leaves_what_was_there(tied, tmp_path, there_before):
    params, config = load(tied), read_decoder_config(tied)
    if there_before:
        save(tied, tmp_path / "saved")
    before = sorted(tmp_path.rglob("*"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow past 50 kB: as a full disk, the system refuses in the middle of the weights.
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OutputError) as caught:
            save_model(tmp_path / "saved", params, config, tied)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{tmp_path / 'saved'}: cannot write the model in this" in str(caught.value)
    assert "File too large" in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_stands_beside_the_weights_is_written_with_them_or_nothing_is(tied, tmp_path):
    params, config = load(tied), read_decoder_config(tied)
    save_model(tmp_path / "saved", params, config, tied, beside={"prompt.yaml": "system: é\n"})
    assert (tmp_path / "saved" / "prompt.yaml").read_text(encoding="utf-8") == "system: é\n"
    before = sorted(tmp_path.rglob("*"))
    for place in ("saved", "other"):
        with pytest.raises(OutputError, match="cannot write the model in this"):
            save_model(tmp_path / place, params, config, tied, beside={"no/folder.yaml": ""})
    assert sorted(tmp_path.rglob("*")) == before


def test_the_digest_is_of_config_and_weights_and_of_nothing_else(tied):
    digest = digest_of(tied)
    (tied / "README.md").write_text("")
    assert digest_of(tied) == digest
    edit_config(tied, rope_theta=2.0)
    other = digest_of(tied)
    edit_weights(tied, lambda tensors: tensors.update({UP: tensors[UP] * 2}))
    assert len({digest, other, digest_of(tied)}) == 3
