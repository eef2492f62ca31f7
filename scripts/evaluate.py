#!/usr/bin/env python3
"""Evaluate a model greedily by BFCL's rules, or judge outputs that are already there.

evaluate.py --model DIR --benchmark tasks|bfcl [--data DIR] --output DIR
    completes generated held-out tasks, a prepared dataset (--data) or BFCL (--data, its folder), and leaves
    scores.json and outputs.jsonl in the output folder; interrupted, the same command continues

evaluate.py --judge CASES.jsonl[.gz] --output VERDICTS.jsonl
    rows {id, language, functions, possible_answer, output} -> {id, ok, reason}, in the same order
"""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from jaxfc.bfcl.cases import judge_cases, write_verdicts
from jaxfc.bfcl.files import read_bfcl
from jaxfc.bfcl.scores import aggregates
from jaxfc.command import InputError, run_command
from jaxfc.config import Data, Mesh, Model, Prompt, Tasks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
    """Outputs to judge; no model runs."""

    judge: str
    """File of cases, JSON lines, plain or gzip."""
    output: str
    """File of verdicts to write."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """A model, and the examples to evaluate it on."""

    model: Model
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    prompt: Prompt | None = None
    """null: the one saved with the model (`prompt.yaml`), else the paper's."""
    benchmark: Literal["tasks", "bfcl"]
    """`tasks`: generated ones, or those of a prepared dataset; `bfcl`: BFCL's Python categories."""
    data: str | None = None
    """BFCL's folder, or one made by scripts/prepare_data.py; null generates tasks."""
    split: str = "held_out"
    """Of the prepared dataset or the generated tasks."""
    count: int | None = None
    """How many examples, from the first; null is all of a folder, or 400 generated tasks."""
    prompt_buckets: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)
    """Lengths that prompts are padded to, in tokens. An example with a longer prompt is wrong, and counted."""
    completion_length: int = 512
    """Tokens after which a completion is cut."""
    batch: int = 64
    """Prompts decoded together."""
    constrain: bool = False
    """Hold answers to calls of the offered tools that parse (needs llguidance); BFCL's own scores do not."""
    output: str
    """Folder for scores.json and outputs.jsonl."""

    def __post_init__(self):
        if self.model.path is None:
            raise ValueError("model.create makes an untrained model; give --model, the directory of a trained one.")
        if self.benchmark == "bfcl" and self.data is None:
            raise ValueError("benchmark is bfcl, which needs --data: the folder with BFCL_v4_<category>.json files.")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count is {self.count}; an evaluation needs at least 1 example.")
        shards = self.mesh.data * self.mesh.fsdp
        if self.batch < 1 or self.batch % shards:
            raise ValueError(f"batch is {self.batch} prompts; data x fsdp needs a multiple of {shards}.")
        if list(self.prompt_buckets) != sorted(set(self.prompt_buckets)) or min(self.prompt_buckets, default=0) < 2:
            raise ValueError(f"prompt_buckets is {self.prompt_buckets}; give rising lengths such as [512, 1024].")
        if self.completion_length < 2:
            raise ValueError(f"completion_length is {self.completion_length}; a completion needs at least 2 tokens.")


def judge(config: Judge, arguments):
    """No JAX here: judging is plain Python."""
    verdicts = judge_cases(Path(config.judge))
    if not arguments.dry_run:
        write_verdicts(verdicts, Path(config.output))
    return {"rows": len(verdicts)}


def main(config: Evaluate, arguments):
    """Evaluate on all processes together."""
    from jaxfc.processes import run_joined

    return run_joined(evaluate, config, arguments)


def evaluate(config: Evaluate, arguments):
    """Read the examples, then the model, then run it."""
    examples = read_examples(config)
    from jaxfc.evaluate import evaluate_model
    from jaxfc.metrics import is_writer
    from jaxfc.workspace import open_workspace

    work = open_workspace(config.model, config.mesh, config.prompt)
    if arguments.dry_run:
        return {"examples": len(examples)}
    summarize = bfcl_aggregates if config.benchmark == "bfcl" and config.count is None else lambda scores: {}
    scores = evaluate_model(
        work,
        examples,
        Path(config.output),
        buckets=config.prompt_buckets,
        completion_length=config.completion_length,
        batch=config.batch,
        constrain=config.constrain,
        summarize=summarize,
    )
    if is_writer():
        for name, rate in {**scores.kinds, "overall": scores.overall}.items():
            figures = f"{rate.accuracy:.4f} +- {rate.standard_error:.4f}  ({rate.correct} of {rate.entries})"
            print(f"{name:24} {figures}", file=sys.stderr)
        for name, value in summarize(scores).items():
            print(f"{name:24} {value:.4f}", file=sys.stderr)
    return scores.to_json() | {"aggregates": summarize(scores)}


def read_examples(config: Evaluate):
    """The examples that the settings name."""
    if config.benchmark == "bfcl":
        return read_bfcl(Path(config.data))[: config.count]
    from jaxfc.data.pipeline import open_examples

    tasks = None if config.data else Tasks(count=config.count or 400, split=config.split)
    source = open_examples(Data(path=config.data, split=config.split, tasks=tasks))
    if config.count is not None and config.count > len(source):
        raise InputError(f"count is {config.count}, but there are only {len(source)} examples.")
    return [source[index] for index in range(config.count or len(source))]


def bfcl_aggregates(scores):
    """BFCL's aggregates, which need the scores of all its categories."""
    return aggregates({kind: (rate.correct, rate.entries) for kind, rate in scores.kinds.items()})


def add_judge_arguments(parser):
    """The command line of judging."""
    parser.add_argument("--judge", metavar="CASES")
    parser.add_argument("--output", metavar="VERDICTS")


def add_model_arguments(parser):
    """The command line of evaluating a model."""
    parser.add_argument("--model", metavar="DIR", dest="model.path")
    parser.add_argument("--benchmark", metavar="tasks|bfcl")
    parser.add_argument("--data", metavar="DIR")
    parser.add_argument("--output", metavar="DIR")


if __name__ == "__main__":
    if any(argument.partition("=")[0] == "--judge" for argument in sys.argv[1:]):
        run_command(judge, Judge, __doc__, extra=add_judge_arguments)
    else:
        run_command(main, Evaluate, __doc__, extra=add_model_arguments)
