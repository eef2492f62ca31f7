"""Supervised training on the accepted answers: completion-only loss, the same decoder and pipeline as RL."""

import dataclasses
from pathlib import Path

import jax

from jaxfc.command import InputError
from jaxfc.config import Data, Model, Prompt, TrainSFT
from jaxfc.data.pipeline import Batches, open_examples
from jaxfc.data.prompts import completion_text, prompt_messages
from jaxfc.engine import compile_sft, start_sft
from jaxfc.models.create import make_config, make_tokenizer, mimetic_params
from jaxfc.models.decoder import Decoder
from jaxfc.models.weights import save_model
from jaxfc.processes import from_writer
from jaxfc.programs import Programs
from jaxfc.report import write_report
from jaxfc.run import Clock, HeldOut, RunFolder, floats
from jaxfc.sharding import place_held, share_of
from jaxfc.types import SftBatch
from jaxfc.workspace import export, open_workspace


def train_sft(config: TrainSFT, *, dry_run: bool = False) -> dict[str, int | float]:
    """Train on the accepted answers; the run's folder then holds checkpoints, metrics, the model and a summary."""
    model = config.model if config.model.create is None else create_model(config)
    work = open_workspace(model, config.mesh, config.prompt, config.lora)
    given = open_examples(config.data), config.data, work.prompt, work.tokenizer
    batches = Batches(*given, batch=config.batch, seed=config.seed, share=share_of(work.mesh, config.batch))
    if dry_run:
        return {}
    folder, clock, programs = RunFolder(config, work, "sft"), Clock(), Programs(config.compile_cache)
    state, sampling = start_sft(config, work)
    update = clock("compile", compile_sft, config, work, state, sampling, programs)
    held_out = HeldOut(config.evaluation, work, programs)
    first, state, notes = folder.resume(state, batches)
    batches.prepare()
    clock("compile", programs.finish)
    notes = notes or clock("evaluate", held_out.measure, work.policy(work.trained), "eval/before")

    with folder.log(first) as log:
        log.note(programs.listing())
        for step in range(first, config.steps):
            batch = clock("data", next, batches)
            arrays = place_held(work.mesh, SftBatch(batch.prompts, batch.completions, batch.lengths))
            state, learning = clock("update", update, state, arrays, sampling, work.frozen)
            row = floats(learning) | clock("evaluate", held_out.curve_point, step, work.policy(state.params))
            row |= clock.lap(trained=batch.tokens)
            log.write(step, row | {"speed/compiles": programs.compiles(), "data/dropped": batches.dropped})
            folder.save(step + 1, state, batches, notes)
    after = clock("evaluate", held_out.measure, work.policy(state.params), "eval/after")
    export(work, state.params, folder.path)
    summary = folder.summarize(notes | after, clock, programs)
    from_writer(lambda: write_report(folder.path))
    return summary


def create_model(config: TrainSFT) -> Model:
    """Make a new model directory, `start` in the run's folder: a tokenizer trained on tasks, and random weights."""
    create, prompt, folder = config.model.create, config.prompt or Prompt(), Path(config.output) / config.name / "start"
    made = dataclasses.replace(config.model, path=str(folder), create=None)
    if from_writer(folder.is_dir):
        return made
    if config.data.tasks is None:
        raise InputError("model.create needs data.tasks: a new tokenizer is trained on generated tasks.")
    examples = open_examples(Data(tasks=dataclasses.replace(config.data.tasks, careless=None)))
    examples = [examples[index] for index in range(create.tokenizer_tasks)]
    texts = (message["content"] for example in examples for message in prompt_messages(example, prompt))
    answers = (completion_text(example, prompt) for example in examples)
    architecture = make_config(
        vocabulary=create.vocabulary,
        width=create.width,
        hidden_width=create.hidden_width,
        layers=create.layers,
        heads=create.heads,
        kv_heads=create.kv_heads,
    )
    tokenizer = folder.with_name("tokenizer")
    from_writer(lambda: make_tokenizer(tokenizer, [*texts, *answers], create.vocabulary))
    params = mimetic_params(Decoder(architecture), jax.random.key(create.seed))
    save_model(folder, params, architecture, tokenizer, dtype="float32")
    return made
