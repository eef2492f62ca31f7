#!/usr/bin/env python3
"""Convert a model between Hugging Face's files and Orbax, or take it out of a run's checkpoint.

convert.py --source DIR --output DIR to=orbax          a Hugging Face directory, for pods that load it in parallel
convert.py --source DIR --output DIR                   back; what transformers, vLLM and SGLang load
convert.py --source runs/NAME/checkpoints/STEP --output DIR like=MODEL      a model from the middle of a run
convert.py --source DIR adapter=PEFT --output DIR      the model with adapters of a PEFT directory added in
convert.py --source DIR                                its digest alone: equal if all numbers and their type are
"""

import dataclasses
from pathlib import Path
from typing import Literal

from jaxfc.command import InputError, run_command
from jaxfc.config import Mesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert:
    """A model, and what becomes of it."""

    source: str
    """A Hugging Face directory, one that this script made with to=orbax, or a checkpoint of a run."""
    output: str | None = None
    """Directory to write; null only prints the digest."""
    to: Literal["huggingface", "orbax"] = "huggingface"
    """Format of the output."""
    like: str | None = None
    """Model directory whose architecture and tokenizer are the source's; needed for a checkpoint of a run."""
    adapter: str | None = None
    """PEFT directory whose adapters are added into the source's weights, in float32."""
    dtype: Literal["source", "bfloat16", "float16", "float32"] = "source"
    """Type of the tensors; of a checkpoint of a run, `source` is that of the model in `like`."""
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    """Devices that hold the parameters meanwhile."""


def main(config: Convert, arguments):
    """Import JAX only once the settings are known to be right; convert on all processes together."""
    from jaxfc.processes import run_joined

    result = run_joined(convert, config, arguments)
    if result is not None and "digest" in result and not arguments.json:
        print(result["digest"])
    return result


def convert(config: Convert, arguments):
    """Read the source, write the output, and say what it is."""
    from jaxfc.models.architecture import read_decoder_config
    from jaxfc.models.converted import holds_params, restore_params, save_params
    from jaxfc.models.decoder import Decoder
    from jaxfc.models.peft import add_adapters
    from jaxfc.models.tensors import read_json, stored_dtype
    from jaxfc.models.weights import load_params, params_digest, save_model
    from jaxfc.sharding import make_mesh
    from jaxfc.workspace import PROMPT_FILE

    source, like = Path(config.source), Path(config.like or config.source)
    if not (like / "config.json").is_file():
        raise InputError(f"{like}: has no config.json; give the model that the run started from as like=DIR.")
    decoder, converted = Decoder(read_decoder_config(like)), holds_params(source)
    dtype = config.dtype
    if dtype == "source":
        dtype = (
            read_json(like / "config.json").get("torch_dtype", "float32") if holds_params(like) else stored_dtype(like)
        )
    if arguments.dry_run:
        return {"dtype": dtype}
    mesh = make_mesh((config.mesh.data, config.mesh.fsdp, config.mesh.tensor))
    load = restore_params if converted else load_params
    if config.adapter is None:
        params = load(source, decoder, mesh, dtype)
    else:
        params = add_adapters(load(source, decoder, mesh), Path(config.adapter), decoder, mesh)
    if config.output is not None:
        save = save_model if config.to == "huggingface" else save_params
        prompt = like / PROMPT_FILE
        beside = {PROMPT_FILE: prompt.read_text(encoding="utf-8")} if prompt.is_file() else {}
        save(Path(config.output), params, decoder.config, like, dtype, beside)
    digest = params_digest(params, decoder.config, dtype)
    return {"digest": digest, "dtype": dtype}


def add_arguments(parser):
    """Short forms of settings."""
    parser.add_argument("--source", metavar="DIR")
    parser.add_argument("--output", metavar="DIR")


if __name__ == "__main__":
    run_command(main, Convert, __doc__, extra=add_arguments)
