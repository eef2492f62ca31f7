"""Hugging Face model directories to parameters and back: read tensor by tensor into shards, written whole."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jaxfc.command import InputError
from jaxfc.files import explain_failure, sha256_of
from jaxfc.metrics import is_writer
from jaxfc.models.architecture import config_fields
from jaxfc.models.decoder import Decoder, DecoderConfig
from jaxfc.models.tensors import (
    CONFIG,
    WEIGHTS,
    Stored,
    open_weights,
    read_json,
    stored_tensors,
    tensor_shapes,
    weight_files,
)
from jaxfc.sharding import shardings
from jaxfc.types import Params

COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
"""What a saved model takes over from the directory that it came from."""


def load_params(folder: Path, decoder: Decoder, mesh: Mesh) -> Params:
    """Float32 parameters on the mesh; each device is given only its part of each tensor.

    Args:
        folder: a Hugging Face directory with `model.safetensors`, or an index and its shards.
        decoder: of the architecture in the directory's config.json.
        mesh: where they go, by the logical axes of `decoder.axes`.

    Raises:
        InputError: a file is missing or truncated, or a tensor is missing, misshapen or one too many (it lists them
            all); or the mesh does not divide the model.
    """
    stored = stored_tensors(decoder.config)
    shapes = jax.eval_shape(lambda: decoder.init(jax.random.key(0)))
    placed = shardings(mesh, decoder.axes)
    _check_placement(mesh, shapes, placed)
    with contextlib.ExitStack() as stack:
        tensors, faults = open_weights(folder, stack, tensor_shapes(stored, shapes))
        if faults:
            raise InputError("\n  ".join([f"{folder}: the weights do not fit its {CONFIG}:", *faults]))
        return jax.tree.map(functools.partial(_place, tensors), stored, shapes, placed)


def save_model(
    folder: Path,
    params: Params,
    config: DecoderConfig,
    source: Path,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    beside: Mapping[str, str] | None = None,
):
    """Write a Hugging Face directory that transformers loads: complete, or not there at all. Call it on every process.

    Args:
        folder: what is written; a model that is there already is replaced.
        params: of the architecture `config`.
        config: becomes config.json, over the other fields of the source's own.
        source: directory whose tokenizer, chat template and generation settings are taken over.
        dtype: of the tensors.
        beside: names and texts of further files that belong to the model.

    Raises:
        InputError: `folder` holds something that is no model.
        OutputError: it could not be written; what was there before stays.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / CONFIG).is_file() or not any(folder.iterdir()))):
        raise InputError(f"{folder}: is there already and is no model directory; give a path that is free.")
    tensors = _on_host(params, config, dtype)
    if is_writer():
        with explain_failure(folder, "write the model in"):
            texts = {CONFIG: json.dumps(_config_fields(config, source, dtype), indent=2, sort_keys=True) + "\n"}
            _write_directory(folder, tensors, texts | dict(beside or {}), source)
    multihost_utils.sync_global_devices(f"saved {folder}")


def digest_of(folder: Path) -> str:
    """sha256, as hex, over config.json and the weights of a model directory."""
    digest = hashlib.sha256()
    for path in (folder / CONFIG, *weight_files(folder)):
        if not path.is_file():
            raise InputError(f"{path}: no such file, but it belongs to the model.")
        digest.update(sha256_of(path).encode())
    return digest.hexdigest()


def _check_placement(mesh: Mesh, shapes: dict, placed: dict):
    for (path, leaf), sharding in zip(jax.tree.leaves_with_path(shapes), jax.tree.leaves(placed), strict=True):
        parts = [mesh.shape[axis] if axis else 1 for axis in sharding.spec]
        if any(size % part for size, part in zip(leaf.shape, parts, strict=True)):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise InputError(
                f"mesh {dict(mesh.shape)} would cut {name}, {list(leaf.shape)}, into {parts} parts; "
                "each size must be a multiple of its number of parts."
            )


def _place(tensors: dict, stored: Stored, shape: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.Array:
    names, parts = stored.names(shape.shape), {}

    def read(index: tuple[slice, ...]) -> np.ndarray:
        # Devices that hold the same part, replicas, share one reading of it.
        key = tuple(part.indices(size) for part, size in zip(index, shape.shape, strict=True))
        if key not in parts:
            parts[key] = _read(tensors, stored, names, index)
        return parts[key]

    return jax.make_array_from_callback(shape.shape, sharding, read)


def _read(tensors: dict, stored: Stored, names: list[str], index: tuple[slice, ...]) -> np.ndarray:
    """One device's part of a parameter, in float32."""

    def piece(name: str, index: tuple[slice, ...]) -> np.ndarray:
        part = tensors[name][1].get_slice(name)[index[::-1] if stored.transposed else index]
        return (part.T if stored.transposed else part).astype(np.float32)

    if "{}" not in stored.name:
        return np.ascontiguousarray(piece(names[0], index))
    return np.stack([piece(name, index[1:]) for name in names[index[0]]])


def _on_host(params: Params, config: DecoderConfig, dtype: str) -> dict[str, np.ndarray]:
    """Tensors by their Hugging Face names, whole, in the given type, on every process."""
    tensors = {}

    def gather(stored: Stored, array):
        array = jnp.asarray(array).astype(dtype)
        whole = (
            np.asarray(array) if array.is_fully_addressable else multihost_utils.process_allgather(array, tiled=True)
        )
        pieces = whole if "{}" in stored.name else whole[None]
        for name, piece in zip(stored.names(whole.shape), pieces, strict=True):
            tensors[name] = np.ascontiguousarray(piece.T if stored.transposed else piece)

    jax.tree.map(gather, stored_tensors(config), params)
    return tensors


def _config_fields(config: DecoderConfig, source: Path, dtype: str) -> dict[str, Any]:
    fields = read_json(source / CONFIG) if (source / CONFIG).is_file() else _special_tokens(source)
    for name in ("rope_parameters", "rope_scaling", "layer_types", "dtype", "transformers_version"):
        fields.pop(name, None)
    return fields | config_fields(config) | {"torch_dtype": dtype}


def _special_tokens(source: Path) -> dict[str, int]:
    """The ids of the tokenizer's end and padding tokens, for the config of a model that never had one."""
    if not all((source / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return {}
    ids = {token["content"]: token["id"] for token in read_json(source / "tokenizer.json").get("added_tokens", [])}
    named = read_json(source / "tokenizer_config.json")
    special = {kind: named.get(f"{kind}_token") for kind in ("eos", "pad")}
    special = {kind: token["content"] if isinstance(token, dict) else token for kind, token in special.items()}
    return {f"{kind}_token_id": ids[token] for kind, token in special.items() if token in ids}


def _write_tensors(path: Path, tensors: dict[str, np.ndarray]):
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        # What the system refused comes as text: "I/O error: No space left on device (os error 28)".
        code = re.search(r"os error (\d+)", str(error))
        raise OSError(int(code[1]) if code else errno.EIO, str(error)) from None


def _write_directory(folder: Path, tensors: dict[str, np.ndarray], texts: dict[str, str], source: Path):
    folder = folder.resolve()
    new, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{part}") for part in ("new", "old"))
    try:
        new.mkdir(parents=True)
        _write_tensors(new / WEIGHTS, tensors)
        for name, text in texts.items():
            (new / name).write_text(text, encoding="utf-8")
        for name in COPIED:
            if (source / name).is_file():
                shutil.copyfile(source / name, new / name)
        for path in new.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)
