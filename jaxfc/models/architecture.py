"""A Hugging Face `config.json` -> the architecture, and back; what decoder or mesh cannot do is refused by name."""

from pathlib import Path
from typing import Any, NamedTuple

from jaxfc.command import InputError
from jaxfc.models.network import DecoderConfig, RopeScaling
from jaxfc.models.tensors import CONFIG, read_json


class Family(NamedTuple):
    """What `model_type` says."""

    architecture: str
    qkv_bias: bool = False
    qk_norm: bool = False
    windows: bool = False
    """Layers may attend to a window."""
    theta: float = 10_000.0
    """Where the file does not give one."""


FAMILIES = {
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True, windows=True),
    "qwen3": Family("Qwen3ForCausalLM", qk_norm=True, windows=True),
    "llama": Family("LlamaForCausalLM"),
}
SUPPORTED = {
    "hidden_act": ("silu",),
    "attention_dropout": (0,),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "pretraining_tp": (1,),
    "use_mrope": (False,),
    "quantization_config": (),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
    "cross_attention_hidden_size": (),
    "pruned_heads": ({},),
    "chunk_size_feed_forward": (0,),
}
"""Fields -> the values that the decoder implements, beside null and absence."""
# fmt: off
READ = frozenset({
    "model_type", "architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "rope_scaling",
    "rope_parameters", "tie_word_embeddings", "layer_types", "use_sliding_window", "sliding_window",
    "max_window_layers",
})
# fmt: on
# fmt: off
NOT_OF_THE_DECODER = frozenset({
    "_name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype", "max_position_embeddings",
    "initializer_range", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id",
    "unk_token_id", "decoder_start_token_id", "is_decoder", "tokenizer_class", "finetuning_task",
    "task_specific_params", "problem_type", "id2label", "label2id", "num_labels", "output_attentions",
    "output_hidden_states", "return_dict", "torchscript", "use_bfloat16", "tf_legacy_loss", "prefix",
    "unsloth_version", "unsloth_fixed", "attn_implementation", "_attn_implementation_autoset",
})
# fmt: on
"""Fields that change nothing in what the decoder computes."""


def read_decoder_config(folder: Path) -> DecoderConfig:
    """The architecture that a Hugging Face `config.json` describes: Qwen2, Qwen2.5, Qwen3 or Llama 3.

    Raises:
        InputError: the file is missing or broken, or has a field or a value that the decoder does not know.
    """
    path = folder / CONFIG
    fields = read_json(path)
    family = FAMILIES.get(fields.get("model_type"))
    if family is None:
        raise InputError(
            f"{path}: model_type is {fields.get('model_type')!r}; supported: {', '.join(map(repr, FAMILIES))}."
        )
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise InputError(f"{path}: rope_parameters is {rope!r}; an object with rope_theta is right.")
    _refuse_unsupported(path, fields, family)
    heads = _size(path, fields, "num_attention_heads")
    width = _size(path, fields, "hidden_size")
    if fields.get("head_dim") is None and width % heads:
        raise InputError(f"{path}: hidden_size {width} is not divisible by num_attention_heads {heads}; give head_dim.")
    layers = _size(path, fields, "num_hidden_layers")
    try:
        return DecoderConfig(
            vocab_size=_size(path, fields, "vocab_size"),
            width=width,
            hidden_width=_size(path, fields, "intermediate_size"),
            layers=layers,
            heads=heads,
            kv_heads=_size(path, fields, "num_key_value_heads", default=heads),
            head_width=_size(path, fields, "head_dim", default=width // heads),
            rope_theta=_positive(path, fields | rope, "rope_theta", family.theta),
            norm_epsilon=_positive(path, fields, "rms_norm_eps", 1e-6),
            tied=bool(fields.get("tie_word_embeddings", False)),
            qkv_bias=family.qkv_bias,
            qk_norm=family.qk_norm,
            rope_scaling=_rope_scaling(path, rope),
            windows=_windows(path, fields, layers),
        )
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def _refuse_unsupported(path: Path, fields: dict, family: Family):
    faults = [
        f"{name} is {fields[name]!r}; supported: {right[0]!r}." if right else f"{name} is {fields[name]!r}."
        for name, right in SUPPORTED.items()
        if fields.get(name) is not None and fields[name] not in right
    ]
    if fields.get("architectures") not in (None, [family.architecture]):
        faults.append(f"architectures is {fields['architectures']!r}; supported: {[family.architecture]!r}.")
    if fields.get("use_sliding_window") and not family.windows:
        faults.append("use_sliding_window is true, which this model_type does not have.")
    known = READ | NOT_OF_THE_DECODER | SUPPORTED.keys()
    faults += [
        f"{name} is {fields[name]!r}, which the decoder does not know." for name in sorted(fields.keys() - known)
    ]
    if faults:
        raise InputError("\n  ".join([f"{path}: this model is not supported:", *faults]))


def _rope_scaling(path: Path, rope: dict) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    names = {
        "factor": "factor",
        "low_freq_factor": "low_frequency",
        "high_freq_factor": "high_frequency",
        "original_max_position_embeddings": "original_length",
    }
    plain = {"rope_theta", "rope_type", "type"} | (
        {"partial_rotary_factor"} if rope.get("partial_rotary_factor") == 1 else set()
    )
    unknown = sorted(rope.keys() - plain - (names.keys() if kind == "llama3" else set()))
    if kind not in ("default", "llama3") or unknown:
        raise InputError(
            f"{path}: this model is not supported:\n  the rotary embedding is scaled by {rope!r}; supported: rope_type "
            f"'default', and 'llama3' with {', '.join(names)}."
        )
    if kind == "default":
        return None
    missing = [name for name in names if not isinstance(rope.get(name), int | float)]
    if missing:
        raise InputError(f"{path}: rope_type is 'llama3', which needs the numbers {', '.join(missing)} beside it.")
    return RopeScaling(**{ours: rope[theirs] for theirs, ours in names.items()})


def _windows(path: Path, fields: dict, layers: int) -> tuple[int | None, ...] | None:
    """What each layer attends to: `layer_types` says it, or else layers from `max_window_layers` on have a window."""
    window = fields.get("sliding_window") if fields.get("use_sliding_window") else None
    kinds = fields.get("layer_types")
    if kinds is None:
        first = fields.get("max_window_layers")
        first = layers if first is None else first
        kinds = ["full_attention" if window is None or at < first else "sliding_attention" for at in range(layers)]
    if not isinstance(kinds, list) or not set(kinds) <= {"full_attention", "sliding_attention"} or len(kinds) != layers:
        raise InputError(
            f"{path}: this model is not supported:\n  layer_types is {kinds!r}; supported: 'full_attention' or "
            f"'sliding_attention' for each of {layers} layers."
        )
    if "sliding_attention" not in kinds:
        return None
    window = _size(path, fields, "sliding_window")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def config_fields(config: DecoderConfig) -> dict[str, Any]:
    """The fields of `config.json` that say what the decoder computes."""
    model_type = next(
        name
        for name, family in FAMILIES.items()
        if (family.qkv_bias, family.qk_norm) == (config.qkv_bias, config.qk_norm)
    )
    fields = {
        "architectures": [FAMILIES[model_type].architecture],
        "model_type": model_type,
        "hidden_act": "silu",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.hidden_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        # Both transformers 4 and 5 read a rope_theta at top level; only 5 reads rope_parameters.
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
    }
    if config.rope_scaling is not None:
        fields["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": config.rope_scaling.factor,
            "low_freq_factor": config.rope_scaling.low_frequency,
            "high_freq_factor": config.rope_scaling.high_frequency,
            "original_max_position_embeddings": config.rope_scaling.original_length,
        }
    if FAMILIES[model_type].windows:
        fields["use_sliding_window"] = config.windows is not None
    if config.windows is not None:
        fields["sliding_window"] = next(window for window in config.windows if window is not None)
        kinds = ("full_attention" if window is None else "sliding_attention" for window in config.windows)
        fields["layer_types"] = list(kinds)
        full = [window is None for window in config.windows]
        if full == sorted(full, reverse=True):
            fields["max_window_layers"] = sum(full)
    return fields


def check_tensor_axis(config: DecoderConfig, tensor: int):
    """Refuse a tensor axis into whose parts the model cannot be cut.

    Raises:
        InputError: with the arithmetic, and the sizes that would do.
    """
    if faults := _uneven(config, tensor):
        right = ", ".join(str(size) for size in range(1, config.heads + 1) if not _uneven(config, size))
        first = f"mesh.tensor is {tensor}, into which this model cannot be cut evenly; {right} would do:"
        raise InputError("\n  ".join([first, *faults]))


def _uneven(config: DecoderConfig, tensor: int) -> list[str]:
    """What has no whole share for each device, in words."""
    sizes = {"query heads": config.heads, "hidden width": config.hidden_width, "vocabulary rows": config.vocab_size}
    faults = [f"{name}: {size} / {tensor} = {size / tensor:.2f}" for name, size in sizes.items() if size % tensor]
    kv_heads = config.kv_heads
    if kv_heads % tensor and tensor % kv_heads:
        faults.append(
            f"key-value heads: {kv_heads} / {tensor} = {kv_heads / tensor:.2f} for a device, "
            f"{tensor} / {kv_heads} = {tensor / kv_heads:.2f} devices for one; either must be whole"
        )
    return faults


def _size(path: Path, fields: dict, name: str, default: int | None = None) -> int:
    value = default if fields.get(name) is None else fields[name]
    if type(value) is not int or value < 1:
        raise InputError(f"{path}: {name} is {fields.get(name, 'missing')!r}; a whole number above 0 is right.")
    return value


def _positive(path: Path, fields: dict, name: str, default: float) -> float:
    value = default if fields.get(name) is None else fields[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InputError(f"{path}: {name} is {value!r}; a number above 0 is right.")
    return float(value)
