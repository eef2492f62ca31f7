"""What a run starts from: folder, mesh, tokenizer, prompt, decoder and weights, checked before a device works."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh as DeviceMesh

from jaxfc.command import InputError, dump, load
from jaxfc.config import Mesh, Model, Prompt
from jaxfc.data.prompts import Tokenizer
from jaxfc.models.architecture import read_decoder_config
from jaxfc.models.converted import holds_params, restore_params
from jaxfc.models.decoder import Decoder
from jaxfc.models.weights import digest_of, load_params, save_model
from jaxfc.sharding import make_mesh, replicated
from jaxfc.types import Params

PROMPT_FILE = "prompt.yaml"
ROLES = ("rollout", "credit")
"""What random keys are for; a key comes from (seed, step, role)."""


class Workspace(NamedTuple):
    """A model, ready to be run or trained."""

    source: Path
    """The model directory that it was loaded from."""
    mesh: DeviceMesh
    tokenizer: Tokenizer
    prompt: Prompt
    decoder: Decoder
    params: Params
    digest: str
    """sha256 of the model that it was loaded from."""

    @property
    def vocabulary(self) -> int:
        """Tokens that exist; the embedding may have more rows."""
        return self.tokenizer.vocabulary


def open_workspace(model: Model, mesh: Mesh, prompt: Prompt | None) -> Workspace:
    """Check everything about a model directory, then load its weights onto the mesh.

    Raises:
        InputError: the directory, its tokenizer or its weights are not usable, or the mesh does not fit the devices.
    """
    source = Path(model.path)
    if not source.is_dir():
        raise InputError(f"model.path {source}: no such directory; give a Hugging Face model directory.")
    config = read_decoder_config(source)
    tokenizer = Tokenizer(source)
    if tokenizer.vocabulary > config.vocab_size:
        raise InputError(
            f"{source}: the tokenizer has {tokenizer.vocabulary} tokens, but the model's embedding only "
            f"{config.vocab_size} rows."
        )
    devices = make_mesh((mesh.data, mesh.fsdp, mesh.tensor))
    check_tensor_axis(config, mesh.tensor)
    decoder = Decoder(config, dtype=compute_dtype(model.compute), remat=model.remat, mesh=devices)
    return Workspace(
        source,
        devices,
        tokenizer,
        prompt or saved_prompt(source),
        decoder,
        (restore_params if holds_params(source) else load_params)(source, decoder, devices),
        digest_of(source),
    )


def check_tensor_axis(config, tensor: int):
    """Refuse a tensor axis that does not divide what it splits."""
    sizes = {"query heads": config.heads, "key-value heads": config.kv_heads, "hidden width": config.hidden_width}
    sizes["vocabulary rows"] = config.vocab_size
    for name, size in sizes.items():
        if size % tensor:
            raise InputError(f"mesh.tensor is {tensor}, which does not divide the model's {size} {name}.")


def compute_dtype(compute: str):
    """Type of matrix products."""
    if compute == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[compute]


def saved_prompt(folder: Path) -> Prompt:
    """The prompt that a model was trained with, or the paper's."""
    path = folder / PROMPT_FILE
    return load(Prompt, str(path)) if path.is_file() else Prompt()


def export(work: Workspace, params: Params, folder: Path):
    """Write the model as a Hugging Face directory that transformers loads, with its prompt in it, or nothing at all."""
    save_model(folder, params, work.decoder.config, work.source, beside={PROMPT_FILE: dump(work.prompt)})


def step_key(mesh: DeviceMesh, seed: int, step: int, role: str) -> jax.Array:
    """The key for one use in one step, on all devices; nothing else feeds randomness to compiled code."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), ROLES.index(role))
    return jax.device_put(key, replicated(mesh))
