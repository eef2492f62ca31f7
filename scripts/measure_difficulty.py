#!/usr/bin/env python3
"""Measure how hard a dataset's examples are for a model: the part of its completions that is right.

measure_difficulty.py --data DIR --model DIR | --endpoint URL endpoint.model=NAME --output DIR
    writes the dataset anew, each example with its pass_rate, which training can choose by (data.pass_rate); with a
    report, difficulty.json. Interrupted, the same command continues. An endpoint that is down ends the run and measures
    nothing.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxfc.command import run_command
from jaxfc.difficulty.settings import Difficulty


def main(config: Difficulty, arguments: argparse.Namespace) -> Mapping[str, Any] | None:
    """Measure by the model here, on all processes together, or by the endpoint."""
    if config.endpoint is not None:
        return measure_by_endpoint(config, arguments)
    from jaxfc.processes import run_joined

    return run_joined(measure_by_model, config, arguments)


def measure_by_endpoint(config: Difficulty, arguments: argparse.Namespace) -> Mapping[str, Any]:
    """No model is loaded here."""
    import jax

    from jaxfc.config import Prompt
    from jaxfc.difficulty.completing import endpoint_completer

    # The accelerator of this machine may be the endpoint's.
    jax.config.update("jax_platforms", "cpu")
    prompt, endpoint = config.prompt or Prompt(), config.asked
    # How patiently it is asked does not change what it says.
    said = {"base_url": endpoint.base_url, "model": endpoint.model, "most_tokens": endpoint.most_tokens}
    settings = {"endpoint": said, "temperature": endpoint.temperature}
    with endpoint_completer(endpoint, prompt, config.samples) as complete:
        return measured(config, arguments, complete, prompt, settings)


def measure_by_model(config: Difficulty, arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Sample from a model directory."""
    import jax

    from jaxfc.completions import make_completer
    from jaxfc.data.prompts import form_of
    from jaxfc.decoding import make_steps
    from jaxfc.difficulty.completing import by_batches
    from jaxfc.sampler import make_sampler
    from jaxfc.workspace import open_workspace

    work = open_workspace(config.model, config.mesh, config.prompt)
    length, group = config.completion_length, config.samples
    steps = make_steps(work.decoder, work.mesh, group_size=group, length=length, vocabulary=work.vocabulary)
    sizes = {"buckets": config.prompt_buckets, "batch": config.batch, "max_tokens": length}
    drawn = {"group_size": group, "temperature": config.temperature}
    form = form_of(work.prompt)
    complete = make_completer(make_sampler(steps, work.mesh), work.tokenizer, form, work.mesh, **sizes, **drawn)
    key = jax.random.key(config.seed)

    def sample(examples, part: int):
        return complete(work.params, examples, jax.random.fold_in(key, part))

    settings = {
        "model": work.digest,
        "temperature": config.temperature,
        "seed": config.seed,
        "batch": config.batch,
        "prompt_buckets": list(config.prompt_buckets),
        "completion_length": length,
        "compute": jax.numpy.dtype(work.decoder.dtype).name,
    }
    return measured(config, arguments, by_batches(sample, config.batch), work.prompt, settings)


def measured(config: Difficulty, arguments: argparse.Namespace, complete, prompt, settings) -> Mapping[str, Any]:
    """Check the dataset, and unless this is a dry run measure it."""
    from jaxfc.difficulty.measure import judge_of, measure, open_dataset
    from jaxfc.metrics import is_writer

    data, output = Path(config.data), Path(config.output)
    if arguments.dry_run:
        _, splits = open_dataset(data, config.splits)
        return {"examples": {split: len(splits[split]) for split in config.splits}}
    settings = {
        **settings,
        "samples": config.samples,
        "verdict": config.judged_by,
        "prompt": dataclasses.asdict(prompt),
    }
    report = measure(
        data,
        output,
        config.splits,
        complete,
        judge_of(config.judged_by, prompt),
        settings=settings,
        report=lambda line: is_writer() and print(line, file=sys.stderr),
    )
    if is_writer():
        for split, found in report["splits"].items():
            print(f"{split:24} mean pass rate {found['mean']}, right: {found['right']}", file=sys.stderr)
    return report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The dataset, the model and the new folder."""
    parser.add_argument("--data", metavar="DIR")
    parser.add_argument("--model", metavar="DIR", dest="model.path")
    parser.add_argument("--endpoint", metavar="URL", dest="endpoint.base_url")
    parser.add_argument("--output", metavar="DIR")


if __name__ == "__main__":
    run_command(main, Difficulty, __doc__, extra=add_arguments)
