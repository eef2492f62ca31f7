"""PEFT directories to adapters and back: `adapter_config.json` and `adapter_model.safetensors`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxfc.command import InputError
from jaxfc.config import Lora
from jaxfc.files import explain_failure
from jaxfc.models.decoder import Decoder
from jaxfc.models.lora import combine, merge
from jaxfc.models.tensors import Stored, check_tensors, read_json, tensor_shapes
from jaxfc.models.weights import check_placement, load_tensors, new_directory, pieces_of, write_tensors
from jaxfc.sharding import shardings
from jaxfc.types import Params

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODULES = {name: f"self_attn.{name}_proj" for name in "qkvo"} | {
    name: f"mlp.{name}_proj" for name in ("gate", "up", "down")
}
"""Our names of the matrices -> those of transformers, within a layer."""
TARGETS = {module.split(".")[1]: name for name, module in MODULES.items()}
READ = ("r", "lora_alpha", "use_rslora", "target_modules", "lora_dropout")
"""Fields of adapter_config.json that say what the adapters are."""
FREE = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
)
"""Fields that change nothing of what adapters do; two of them belong to others that are refused when they are on."""
RIGHT = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian"),
}
"""Fields that may have these values only; those of `init_lora_weights` leave the base as it is."""


class Described(NamedTuple):
    """What an adapter_config.json says."""

    lora: Lora
    dropout: float
    """Part of the adapters' inputs that was left out while they were trained. They do not use it."""


def describe_adapters(folder: Path) -> Described:
    """Read the adapter_config.json of a PEFT directory.

    Raises:
        InputError: it is not there, or has fields that are unknown, unsupported or out of range; it names them all. A
            field that is off (null, false, empty) asks for nothing, whatever it is.
    """
    path = folder / ADAPTER_CONFIG
    fields = read_json(path)
    faults = [f"has no {name}." for name in ("peft_type", "r", "lora_alpha", "target_modules") if name not in fields]
    for name, value in fields.items():
        if name in RIGHT:
            if value not in RIGHT[name]:
                faults.append(f"{name} is {json.dumps(value)}; supported: {_listed(RIGHT[name])}.")
        elif name not in (*READ, *FREE) and value not in (None, False) and value != [] and value != {}:
            faults.append(f"{name} is {json.dumps(value)}, which is not supported.")
    rank, alpha, dropout = fields.get("r"), fields.get("lora_alpha"), fields.get("lora_dropout", 0.0)
    if "r" in fields and (not isinstance(rank, int) or rank < 1):
        faults.append(f"r is {json.dumps(rank)}; a rank of at least 1 is right.")
    if "lora_alpha" in fields and (not isinstance(alpha, int | float) or alpha <= 0):
        faults.append(f"lora_alpha is {json.dumps(alpha)}; a number above 0 is right.")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        faults.append(f"lora_dropout is {json.dumps(dropout)}; a number from 0 to below 1 is right.")
    modules = fields.get("target_modules")
    if "target_modules" in fields and not (isinstance(modules, list) and modules and set(modules) <= TARGETS.keys()):
        faults.append(f"target_modules is {json.dumps(modules)}; supported: a list of some of {', '.join(TARGETS)}.")
    if faults:
        raise InputError("\n  ".join([f"{path}:", *faults]))
    targets = tuple(name for module, name in TARGETS.items() if module in modules)
    scale_by = "sqrt_rank" if fields.get("use_rslora") else "rank"
    return Described(Lora(rank=rank, alpha=float(alpha), scale_by=scale_by, targets=targets), float(dropout))


def _listed(values: tuple) -> str:
    return ", ".join(map(json.dumps, values))


def stored_adapters(lora: Lora) -> Params:
    """The tree of adapters, with `Stored` as leaves."""

    def stored(name: str, factor: str) -> Stored:
        return Stored(f"base_model.model.model.layers.{{}}.{MODULES[name]}.lora_{factor}.weight", transposed=True)

    return {"blocks": {name: {f"lora_{f}": stored(name, f.upper()) for f in "ab"} for name in lora.targets}}


def load_adapters(folder: Path, decoder: Decoder, mesh: Mesh) -> Params:
    """Adapters in float32 on the mesh; each device is given its part of each tensor.

    Args:
        folder: a PEFT directory.
        decoder: with the adapters that `describe_adapters` finds there.
        mesh: where they go, by the logical axes of `decoder.trained_axes`.

    Raises:
        InputError: a file is missing or truncated, or a tensor is missing, misshapen or one too many (it lists them
            all); or the mesh does not divide them.
    """
    stored, shapes = stored_adapters(decoder.lora), jax.eval_shape(decoder.init_trained, jax.random.key(0))
    placed = shardings(mesh, decoder.trained_axes)
    check_placement(mesh, shapes, placed)
    path = folder / ADAPTER_WEIGHTS
    files = check_tensors(folder, [path], {}, tensor_shapes(stored, shapes), f"{ADAPTER_CONFIG} or the model")
    return load_tensors(files, jax.numpy.float32, stored, shapes, placed)


def add_adapters(params: Params, folder: Path, decoder: Decoder, mesh: Mesh) -> Params:
    """Parameters on the mesh with the adapters of a PEFT directory added in, in float32.

    Args:
        params: of the model that the adapters belong to. They are donated: use those returned.
        folder: a PEFT directory.
        decoder: of the model.
        mesh: where the parameters are.

    Raises:
        InputError: see `describe_adapters` and `load_adapters`.
    """
    lora = describe_adapters(folder).lora
    adapters = load_adapters(folder, Decoder(decoder.config, lora=lora, mesh=mesh), mesh)
    placed = shardings(mesh, decoder.axes)
    add = jax.jit(lambda *both: merge(combine(*both), lora), donate_argnums=0, out_shardings=placed)
    return add(params, adapters)


def save_adapters(folder: Path, adapters: Params, lora: Lora, base: Path, beside: Mapping[str, str] | None = None):
    """Write a PEFT directory that peft, vLLM and SGLang load: complete, or not there at all. Call it on every process.

    Args:
        folder: what is written; adapters that are there already are replaced.
        adapters: of these settings.
        lora: their rank, scale and targets.
        base: the model directory that they belong to, which the config names.
        beside: names and texts of further files.

    Raises:
        InputError: `folder` holds something that is no adapters.
        OutputError: it could not be written; what was there before stays.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / ADAPTER_CONFIG).is_file() or not any(folder.iterdir()))):
        raise InputError(f"{folder}: is there already and holds no adapters; give a path that is free.")
    config = json.dumps(_fields(lora, base), indent=2, sort_keys=True) + "\n"
    with explain_failure(folder, "write the adapters in"), new_directory(folder) as new:
        tensors = {piece.name: piece.on_host("float32") for piece in pieces_of(stored_adapters(lora), adapters)}
        if new is not None:
            write_tensors(new / ADAPTER_WEIGHTS, tensors)
            for name, text in ({ADAPTER_CONFIG: config} | dict(beside or {})).items():
                (new / name).write_text(text, encoding="utf-8")
    multihost_utils.sync_global_devices(f"saved {folder}")


def _fields(lora: Lora, base: Path) -> dict[str, Any]:
    return {
        "base_model_name_or_path": str(base),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": sorted(MODULES[name].split(".")[1] for name in lora.targets),
        "task_type": "CAUSAL_LM",
        "use_rslora": lora.scale_by == "sqrt_rank",
    }


def start_adapters(lora: Lora, decoder: Decoder, mesh: Mesh) -> Params:
    """The adapters that training starts from: new ones, or those of `lora.start`.

    Raises:
        InputError: `lora.start` is no PEFT directory of these settings for this model.
    """
    if lora.start is None:
        init = jax.jit(decoder.init_trained, out_shardings=shardings(mesh, decoder.trained_axes))
        return init(jax.random.key(lora.seed))
    folder = Path(lora.start)
    found, dropout = describe_adapters(folder)
    faults = [
        f"{name} is {theirs} there, lora.{name} is {ours} here."
        for name, theirs, ours in (
            ("rank", found.rank, lora.rank),
            ("alpha", found.alpha, lora.alpha),
            ("scale_by", found.scale_by, lora.scale_by),
            ("targets", sorted(found.targets), sorted(lora.targets)),
        )
        if theirs != ours
    ]
    if dropout:
        faults.append(f"lora_dropout is {dropout} there, and there is no dropout here; set it to 0 to go on without.")
    if faults:
        raise InputError("\n  ".join([f"lora.start {folder}: these adapters cannot be gone on from:", *faults]))
    return load_adapters(folder, decoder, mesh)
