"""Hugging Face model directories to parameters and back: read tensor by tensor into shards, written whole."""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jaxfc.command import InputError
from jaxfc.files import explain_failure, sha256_of
from jaxfc.metrics import is_writer
from jaxfc.models.architecture import config_fields
from jaxfc.models.decoder import Decoder
from jaxfc.models.network import DecoderConfig
from jaxfc.models.tensors import (
    CONFIG,
    INDEX,
    PARAMS,
    WEIGHTS,
    Stored,
    add_tensor,
    find_tensors,
    read_json,
    read_tensor,
    stored_tensors,
    tensor_shapes,
    weight_files,
)
from jaxfc.sharding import shardings
from jaxfc.types import Params

FILE_BYTES = 2**28
"""Size of a file of weights, or that of the largest tensor if it is more; as much is on the host at a time."""
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


def load_params(folder: Path, decoder: Decoder, mesh: Mesh, dtype: Any = jnp.float32) -> Params:
    """Parameters on the mesh; each device is given only its part of each tensor, and the host has one at a time.

    Args:
        folder: a Hugging Face directory with `model.safetensors`, or an index and its shards.
        decoder: of the architecture in the directory's config.json.
        mesh: where they go, by the logical axes of `decoder.axes`.
        dtype: of the parameters.

    Raises:
        InputError: a file is missing or truncated, or a tensor is missing, misshapen or one too many (it lists them
            all); or the mesh does not divide the model.
    """
    stored = stored_tensors(decoder.config)
    shapes = jax.eval_shape(lambda: decoder.init(jax.random.key(0)))
    placed = shardings(mesh, decoder.axes)
    check_placement(mesh, shapes, placed)
    return load_tensors(find_tensors(folder, tensor_shapes(stored, shapes)), dtype, stored, shapes, placed)


def load_tensors(files: Mapping[str, Path], dtype: Any, stored: dict, shapes: dict, placed: dict) -> Params:
    """Parameters on their devices, as `load_params` has them.

    Args:
        files: tensor name -> the file that holds it, all as they should be.
        dtype: of the parameters.
        stored: the tree of how each is stored.
        shapes: the same tree of their shapes.
        placed: the same tree of where they go.
    """
    leaves, structure = jax.tree.flatten(shapes)
    parameters = list(zip(jax.tree.leaves(stored), leaves, jax.tree.leaves(placed), strict=True))
    loaded: list[Any] = [None] * len(leaves)
    # What needs most room in passing comes while there is most.
    for at in sorted(range(len(leaves)), key=lambda at: -math.prod(parameters[at][0].tensor_shape(leaves[at].shape))):
        loaded[at] = _load(files, dtype, *parameters[at])
    return structure.unflatten(loaded)


def save_model(
    folder: Path,
    params: Params,
    config: DecoderConfig,
    source: Path,
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
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
    texts = {CONFIG: json.dumps(model_fields(config, source, dtype), indent=2, sort_keys=True) + "\n"}
    with explain_failure(folder, "write the model in"), new_directory(folder) as new:
        _write_weights(new, _files(pieces_of(stored_tensors(config), params), dtype), dtype)
        if new is not None:
            write_beside(new, texts | dict(beside or {}), source)
    multihost_utils.sync_global_devices(f"saved {folder}")


def params_digest(params: Params, config: DecoderConfig, dtype: str) -> str:
    """`tensors.contents_digest` of the directory that `save_model` would write, without writing it."""
    digest = hashlib.sha256()
    for piece in sorted(pieces_of(stored_tensors(config), params), key=lambda piece: piece.name):
        add_tensor(digest, piece.name, piece.on_host(dtype))
    return digest.hexdigest()


def digest_of(folder: Path) -> str:
    """sha256, as hex, over config.json and the weights of a model directory, of either format."""
    digest = hashlib.sha256()
    converted = sorted(path for path in (folder / PARAMS).rglob("*") if path.is_file())
    for path in (folder / CONFIG, *(converted or weight_files(folder))):
        if not path.is_file():
            raise InputError(f"{path}: no such file, but it belongs to the model.")
        digest.update(sha256_of(path).encode())
    return digest.hexdigest()


def check_placement(mesh: Mesh, shapes: dict, placed: dict):
    """Refuse a mesh that cannot cut these parameters evenly."""
    for (path, leaf), sharding in zip(jax.tree.leaves_with_path(shapes), jax.tree.leaves(placed), strict=True):
        parts = [mesh.shape[axis] if axis else 1 for axis in sharding.spec]
        if any(size % part for size, part in zip(leaf.shape, parts, strict=True)):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise InputError(
                f"mesh {dict(mesh.shape)} would cut {name}, {list(leaf.shape)}, into {parts} parts; "
                "each size must be a multiple of its number of parts."
            )


def _load(files: dict, dtype: Any, stored: Stored, shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.Array:
    """One parameter, put together on the devices from its tensors, one at a time."""

    def converted(tensor: jax.Array) -> jax.Array:
        return (tensor.T if stored.transposed else tensor).astype(dtype)

    if "{}" not in stored.name:
        tensor = _read(files[stored.name], stored, stored.name, shape.shape, sharding)
        same = tensor.dtype == dtype and not stored.transposed
        return tensor if same else jax.jit(converted, out_shardings=sharding)(tensor).block_until_ready()

    def put(layers: jax.Array, tensor: jax.Array, layer) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(layers, converted(tensor), layer, 0)

    layers = jax.jit(lambda: jnp.zeros(shape.shape, dtype), out_shardings=sharding)()
    put = jax.jit(put, donate_argnums=0, out_shardings=sharding)
    of_layer = NamedSharding(sharding.mesh, Spec(*sharding.spec[1:]))
    for number, name in enumerate(stored.names(shape.shape)):
        layers = put(layers, _read(files[name], stored, name, shape.shape[1:], of_layer), number)
        layers.block_until_ready()
    return layers


def _read(path: Path, stored: Stored, name: str, shape: tuple[int, ...], sharding: NamedSharding) -> jax.Array:
    """A tensor as it is stored, on the devices, each of which is given its part; `shape` is that of the parameter."""
    parts = {}
    if stored.transposed:
        shape, sharding = shape[::-1], NamedSharding(sharding.mesh, Spec(*sharding.spec[::-1]))

    def read(index: tuple[slice, ...]) -> np.ndarray:
        # Devices that hold the same part, replicas, share one reading of it.
        key = tuple(part.indices(size) for part, size in zip(index, shape, strict=True))
        if key not in parts:
            parts[key] = read_tensor(path, name, index)
        return parts[key]

    return jax.make_array_from_callback(shape, sharding, read)


class Piece(NamedTuple):
    """A tensor to be written."""

    name: str
    array: jax.Array
    """The parameter that it is, or is a layer of."""
    layer: int | None
    transposed: bool

    def size(self, dtype: str) -> int:
        """Bytes."""
        count = self.array.size if self.layer is None else self.array[0].size
        return count * jnp.dtype(dtype).itemsize

    def on_host(self, dtype: str) -> np.ndarray:
        """The tensor, whole, on every process."""
        array = (self.array if self.layer is None else self.array[self.layer]).astype(dtype)
        whole = array if array.is_fully_addressable else multihost_utils.process_allgather(array, tiled=True)
        whole = np.asarray(whole)
        return np.ascontiguousarray(whole.T if self.transposed else whole)


def pieces_of(stored: dict, params: Params) -> list[Piece]:
    """Every tensor of these parameters; `stored` is the tree of how they are stored."""
    pieces = []

    def add(stored: Stored, array):
        array, layered = jnp.asarray(array), "{}" in stored.name
        for layer, name in enumerate(stored.names(array.shape)):
            pieces.append(Piece(name, array, layer if layered else None, stored.transposed))

    jax.tree.map(add, stored, params)
    return pieces


def _files(pieces: list[Piece], dtype: str) -> list[list[Piece]]:
    """What goes into each file: tensors in turn, as many as fit."""
    files, limit = [[]], max(FILE_BYTES, *(piece.size(dtype) for piece in pieces))
    room = limit
    for piece in pieces:
        if piece.size(dtype) > room:
            files.append([])
            room = limit
        files[-1].append(piece)
        room -= piece.size(dtype)
    return files


def model_fields(config: DecoderConfig, source: Path, dtype: str) -> dict[str, Any]:
    """The fields of a saved model's `config.json`: those of the source, with the architecture's over them."""
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


def _write_weights(folder: Path | None, files: list[list[Piece]], dtype: str):
    """Write file after file; a process that has no folder only gives its part of each tensor."""
    places, total = {}, 0
    for number, pieces in enumerate(files, 1):
        name = WEIGHTS if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
        tensors = {}
        for piece in pieces:
            tensor = piece.on_host(dtype)
            if folder is not None:
                tensors[piece.name], places[piece.name] = tensor, name
                total += tensor.nbytes
        if folder is not None:
            write_tensors(folder / name, tensors)
    if folder is not None and len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: dict[str, np.ndarray]):
    """Write a safetensors file; what the system refuses is an OSError."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        # What the system refused comes as text: "I/O error: No space left on device (os error 28)".
        code = re.search(r"os error (\d+)", str(error))
        raise OSError(int(code[1]) if code else errno.EIO, str(error)) from None


def write_beside(folder: Path, texts: dict[str, str], source: Path):
    """Write what belongs to a model beside its weights: these texts, and what the source has of `COPIED`."""
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


@contextlib.contextmanager
def new_directory(folder: Path):
    """A directory that takes the place of `folder` when the block ends well; None for processes that do not write."""
    if not is_writer():
        yield None
        return
    folder = folder.resolve()
    new, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{part}") for part in ("new", "old"))
    try:
        new.mkdir(parents=True)
        yield new
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
