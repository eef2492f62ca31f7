"""Parameters as an Orbax checkpoint beside a `config.json`: read in parallel, by each host its own part."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxfc.command import InputError
from jaxfc.files import explain_failure, write_atomically
from jaxfc.metrics import is_writer
from jaxfc.models.decoder import Decoder
from jaxfc.models.network import DecoderConfig
from jaxfc.models.tensors import CONFIG, PARAMS
from jaxfc.models.weights import model_fields, write_beside
from jaxfc.sharding import shardings
from jaxfc.types import Params

STATE = "state"
"""Folder of the training state in a checkpoint of a run."""


def holds_params(folder: Path) -> bool:
    """Whether this is a converted model, or a checkpoint of a run (`checkpoints/<step>`)."""
    return (folder / PARAMS).is_dir() or (folder / STATE).is_dir()


def restore_params(folder: Path, decoder: Decoder, mesh: Mesh, dtype: Any = jnp.float32) -> Params:
    """Parameters on the mesh, of a converted model or of a checkpoint of a run.

    Args:
        folder: see `holds_params`.
        decoder: of their architecture.
        mesh: where they go, by the logical axes of `decoder.axes`.
        dtype: of the parameters.

    Raises:
        InputError: the folder holds parameters of another architecture, or is damaged.
    """
    shapes = jax.eval_shape(decoder.init, jax.random.key(0))
    wanted = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding),
        shapes,
        shardings(mesh, decoder.axes),
    )
    of_run = (folder / STATE).is_dir()
    path, wanted = (folder / STATE, {PARAMS: wanted}) if of_run else (folder / PARAMS, wanted)
    placed = ocp.checkpoint_utils.construct_restore_args(wanted)
    arguments = ocp.args.PyTreeRestore(wanted, restore_args=placed, partial_restore=of_run)
    try:
        found = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(path.absolute(), args=arguments)
    except (ValueError, KeyError, FileNotFoundError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: does not hold the parameters of this architecture ({reason}).") from error
    return found[PARAMS] if of_run else found


def save_params(
    folder: Path,
    params: Params,
    config: DecoderConfig,
    source: Path,
    dtype: str,
    beside: Mapping[str, str] | None = None,
):
    """Write a converted model; it has a config.json once it is complete. Call it on every process.

    Args:
        folder: does not exist yet, or is empty; on several hosts, one that all of them see.
        params: of the architecture `config`.
        config: becomes config.json, over the other fields of the source's own.
        source: directory whose tokenizer, chat template and generation settings are taken over.
        dtype: of the parameters.
        beside: names and texts of further files that belong to the model.

    Raises:
        InputError: `folder` holds something.
        OutputError: it could not be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there already; give a path that is free.")
    with explain_failure(folder, "write the model in"):
        if is_writer():
            folder.mkdir(parents=True, exist_ok=True)
        multihost_utils.sync_global_devices(f"made {folder}")
        stored = jax.tree.map(lambda leaf: ocp.SaveArgs(dtype=jnp.dtype(dtype)), params)
        checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(save_concurrent_gb=1))
        checkpointer.save((folder / PARAMS).absolute(), args=ocp.args.PyTreeSave(params, save_args=stored))
        if is_writer():
            write_beside(folder, dict(beside or {}), source)
            fields = json.dumps(model_fields(config, source, dtype), indent=2, sort_keys=True)
            write_atomically(folder / CONFIG, fields + "\n")
    multihost_utils.sync_global_devices(f"saved {folder}")
