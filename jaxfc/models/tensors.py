"""The files of a Hugging Face model directory: which tensor holds which parameter, and what is wrong with them."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxfc.command import InputError
from jaxfc.models.network import DecoderConfig

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PARAMS = "params"
"""Folder of the parameters in a model that `scripts/convert.py` has made."""
READABLE = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""Types of tensors in safetensors files -> their names here."""


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds a JSON object."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; a Hugging Face model directory has one.")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error}).") from None
    if not isinstance(fields, dict):
        raise InputError(f"{path}: holds a {type(fields).__name__}; a JSON object is right.")
    return fields


@dataclasses.dataclass(frozen=True)
class Stored:
    """How Hugging Face stores a parameter."""

    name: str
    """`{}` stands for the layer; such a parameter is one tensor per layer."""
    transposed: bool = False
    """A matrix is stored as [out, in]."""

    def names(self, shape: tuple[int, ...]) -> list[str]:
        """Its tensors, in the order in which they are stacked."""
        return [self.name.format(layer) for layer in range(shape[0])] if "{}" in self.name else [self.name]

    def tensor_shape(self, shape: tuple[int, ...]) -> list[int]:
        """The shape of each of its tensors."""
        shape = shape[1:] if "{}" in self.name else shape
        return list(shape[::-1] if self.transposed else shape)


def stored_tensors(config: DecoderConfig) -> dict:
    """The tree of parameters, with `Stored` as leaves."""

    def linear(name: str, *, bias: bool = False) -> dict:
        kernel = {"kernel": Stored(f"model.layers.{{}}.{name}.weight", transposed=True)}
        return kernel | ({"bias": Stored(f"model.layers.{{}}.{name}.bias")} if bias else {})

    blocks = {name: linear(f"self_attn.{name}_proj", bias=config.qkv_bias) for name in "qkv"}
    if config.qk_norm:
        norms = {name: Stored(f"model.layers.{{}}.self_attn.{name}.weight") for name in ("q_norm", "k_norm")}
        blocks |= {name: {"scale": norm} for name, norm in norms.items()}
    blocks |= {"o": linear("self_attn.o_proj")}
    blocks |= {name: linear(f"mlp.{name}_proj") for name in ("gate", "up", "down")}
    blocks["attention_norm"] = {"scale": Stored("model.layers.{}.input_layernorm.weight")}
    blocks["mlp_norm"] = {"scale": Stored("model.layers.{}.post_attention_layernorm.weight")}
    tree = {
        "embed": Stored("model.embed_tokens.weight"),
        "blocks": blocks,
        "norm": {"scale": Stored("model.norm.weight")},
    }
    return tree if config.tied else tree | {"head": Stored("lm_head.weight")}


def tensor_shapes(stored: dict, shapes: dict) -> dict[str, list[int]]:
    """Every tensor that a model directory must have, with its shape."""
    tensors = {}
    for leaf, shape in zip(jax.tree.leaves(stored), jax.tree.leaves(shapes), strict=True):
        tensors |= dict.fromkeys(leaf.names(shape.shape), leaf.tensor_shape(shape.shape))
    return tensors


def _weight_map(folder: Path) -> dict[str, str] | None:
    """Which file the index says a tensor is in; None where there is one file and no index."""
    if not (folder / INDEX).is_file():
        return None
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise InputError(f"{folder / INDEX}: has no weight_map from the names of tensors to files.")
    return places


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that a model directory should have."""
    places = _weight_map(folder)
    return [folder / name for name in sorted(set(places.values()))] if places else [folder / WEIGHTS]


def find_tensors(folder: Path, expected: dict[str, list[int]]) -> dict[str, Path]:
    """Tensor name -> the file that holds it.

    Raises:
        InputError: all that is wrong: files missing or truncated, tensors missing, misshapen or one too many.
    """
    return check_tensors(folder, weight_files(folder), _weight_map(folder) or {}, expected, CONFIG)


def check_tensors(
    folder: Path, files: list[Path], places: dict[str, str], expected: dict[str, list[int]], described_by: str
) -> dict[str, Path]:
    """Tensor name -> the file that holds it.

    Args:
        folder: what they are part of, for messages.
        files: safetensors files.
        places: tensor name -> the name of the file that an index says it is in; empty without one.
        expected: every tensor and its shape.
        described_by: what says so.

    Raises:
        InputError: see `find_tensors`.
    """
    tensors, faults, unread = {}, [], set()
    for path in files:
        try:
            with safe_open(path, framework="np") as file:
                here = dict.fromkeys(file.keys(), path)
                for name in filter(here.__contains__, expected):
                    faults += _tensor_faults(name, expected[name], path.name, file.get_slice(name), described_by)
                tensors |= here
        except FileNotFoundError:
            faults.append(f"{path.name}: no such file; weights are read from safetensors files.")
            unread.add(path.name)
        except (SafetensorError, OSError) as error:
            size = path.stat().st_size
            faults.append(f"{path.name}: truncated at {size} bytes, or no safetensors file ({error}).")
            unread.add(path.name)
    for name, shape in expected.items():
        file_name = places.get(name, INDEX if places else files[0].name)
        if name not in tensors and file_name not in unread:
            faults.append(f"{file_name}: has no {name} {shape}.")
    extra = tensors.keys() - expected.keys()
    if "lm_head.weight" in extra and _equal(tensors, "lm_head.weight", "model.embed_tokens.weight"):
        extra.remove("lm_head.weight")
    faults += [f"{tensors[name].name}: {name} belongs to no part of this model." for name in sorted(extra)]
    if faults:
        raise InputError("\n  ".join([f"{folder}: the weights do not fit its {described_by}:", *faults]))
    return tensors


def read_tensor(path: Path, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
    """A tensor, or a part of it, in the type that it is stored in.

    The file is open only meanwhile: what is mapped of an open one counts as memory of the process.
    """
    with safe_open(path, framework="np") as file:
        return file.get_slice(name)[index or ...]


def contents_digest(folder: Path) -> str:
    """sha256, as hex, over the tensors of a model directory, however they are spread over files."""
    digest = hashlib.sha256()
    places = {}
    for path in weight_files(folder):
        with safe_open(path, framework="np") as file:
            places |= dict.fromkeys(file.keys(), path)
    for name in sorted(places):
        add_tensor(digest, name, read_tensor(places[name], name))
    return digest.hexdigest()


def add_tensor(digest, name: str, tensor: np.ndarray):
    """Let a hashlib digest take in a tensor: its name, type, shape and numbers."""
    digest.update(f"{name} {tensor.dtype.name} {list(tensor.shape)}\n".encode())
    digest.update(np.ascontiguousarray(tensor).view(np.uint8))


def stored_dtype(folder: Path) -> str:
    """The type that all tensors of a model directory have; float32, which holds them all, where they differ."""
    kinds = set()
    for path in weight_files(folder):
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
            kinds |= {file.get_slice(name).get_dtype() for name in names}
    return READABLE[kinds.pop()] if len(kinds) == 1 and kinds <= READABLE.keys() else "float32"


def _tensor_faults(name: str, shape: list[int], file_name: str, found, described_by: str) -> list[str]:
    faults = []
    if found.get_shape() != shape:
        faults.append(f"{file_name}: {name} is {found.get_shape()}; {described_by} makes it {shape}.")
    if found.get_dtype() not in READABLE:
        faults.append(f"{file_name}: {name} is of type {found.get_dtype()}; supported: {', '.join(READABLE)}.")
    return faults


def _equal(tensors: dict[str, Path], one: str, other: str) -> bool:
    return other in tensors and np.array_equal(*(read_tensor(tensors[name], name) for name in (one, other)))
