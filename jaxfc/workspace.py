"""What a run starts from: folder, mesh, tokenizer, prompt, decoder and weights, checked before a device works."""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh as DeviceMesh

from jaxfc.command import InputError, dump, load
from jaxfc.config import Lora, Mesh, Model, Prompt
from jaxfc.data.prompts import Tokenizer
from jaxfc.models.architecture import check_tensor_axis
from jaxfc.models.converted import holds_params, restore_params
from jaxfc.models.decoder import Decoder
from jaxfc.models.lora import combine, merge
from jaxfc.models.peft import save_adapters, start_adapters
from jaxfc.models.presets import architecture_of
from jaxfc.models.weights import digest_of, load_params, save_model
from jaxfc.sharding import make_mesh, place_key, shardings
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
    adapters: Params | None = None
    """What training starts from in their place; None where it is the parameters themselves."""

    @property
    def vocabulary(self) -> int:
        """Tokens that exist; the embedding may have more rows."""
        return self.tokenizer.vocabulary

    @property
    def trained(self) -> Params:
        """What training starts from."""
        return self.params if self.adapters is None else self.adapters

    @property
    def frozen(self) -> Params | None:
        """The parameters that training leaves as they are, if any."""
        return None if self.adapters is None else self.params

    def policy(self, trained: Params) -> Params:
        """All parameters of the policy, as the decoder takes them; what is frozen is shared, not copied."""
        return combine(self.frozen, trained)


def open_workspace(model: Model, mesh: Mesh, prompt: Prompt | None, lora: Lora | None = None) -> Workspace:
    """Check everything about a model directory, then load its weights onto the mesh.

    Raises:
        InputError: the directory, its tokenizer or its weights are not usable, or of another model than the settings
            name; the mesh does not fit the devices; or the adapters to start from are not those of the settings.
    """
    source = Path(model.path)
    if not source.is_dir():
        raise InputError(f"model.path {source}: no such directory; give a Hugging Face model directory.")
    config = architecture_of(model)
    tokenizer = Tokenizer(source)
    if tokenizer.vocabulary > config.vocab_size:
        raise InputError(
            f"{source}: the tokenizer has {tokenizer.vocabulary} tokens, but the model's embedding only "
            f"{config.vocab_size} rows."
        )
    check_tensor_axis(config, mesh.tensor)
    devices = make_mesh((mesh.data, mesh.fsdp, mesh.tensor))
    decoder = Decoder(config, dtype=compute_dtype(model.compute), remat=model.remat, mesh=devices, lora=lora)
    return Workspace(
        source,
        devices,
        tokenizer,
        prompt or saved_prompt(source),
        decoder,
        (restore_params if holds_params(source) else load_params)(source, decoder, devices),
        digest_of(source),
        None if lora is None else start_adapters(lora, decoder, devices),
    )


def compute_dtype(compute: str):
    """Type of matrix products."""
    if compute == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[compute]


def saved_prompt(folder: Path) -> Prompt:
    """The prompt that a model was trained with, or the paper's."""
    path = folder / PROMPT_FILE
    return load(Prompt, str(path)) if path.is_file() else Prompt()


def export(work: Workspace, trained: Params, folder: Path):
    """Write what was trained into the folder of a run, each directory with its prompt in it, or not there at all.

    It is `model`, a Hugging Face directory that transformers loads; or `adapter`, a PEFT directory beside which
    `lora.merged` asks for that too.
    """
    lora, beside = work.decoder.lora, {PROMPT_FILE: dump(work.prompt)}
    if lora is not None:
        save_adapters(folder / "adapter", trained, lora, work.source, beside)
        if not lora.merged:
            return
        placed = shardings(work.mesh, work.decoder.axes)
        trained = jax.jit(functools.partial(merge, lora=lora), out_shardings=placed)(work.policy(trained))
    save_model(folder / "model", trained, work.decoder.config, work.source, beside=beside)


def step_key(mesh: DeviceMesh, seed: int, step: int, role: str) -> jax.Array:
    """The key for one use in one step, on all devices; nothing else feeds randomness to compiled code."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), ROLES.index(role))
    return place_key(mesh, key)
