#!/usr/bin/env python3
"""Evaluate a model by BFCL's rules, or judge outputs that are already there.

evaluate.py --model DIR --benchmark tasks|bfcl [--data DIR] --output DIR
    completes generated held-out tasks, a prepared dataset (--data) or BFCL (--data, its folder, or bfcl-eval: that of
    the installed package), and leaves scores.json and outputs.jsonl in the output folder; interrupted, the same command
    continues. BFCL's multi-turn categories (categories=[multi_turn]) call the simulated APIs of bfcl-eval

evaluate.py --judge CASES.jsonl[.gz] --output VERDICTS.jsonl
    rows {id, language, functions, possible_answer, output} -> {id, ok, reason}, in the same order
"""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from jaxfc.bfcl.backend import Backend
from jaxfc.bfcl.cases import judge_cases, write_verdicts
from jaxfc.bfcl.categories import CATEGORIES, LANGUAGE_OF, MULTI_TURN
from jaxfc.bfcl.files import folder_of, own_messages, read_bfcl
from jaxfc.bfcl.multi_turn import read_multi_turn
from jaxfc.bfcl.prompt import bfcl_messages
from jaxfc.bfcl.scores import aggregates, read_results
from jaxfc.command import InputError, run_command
from jaxfc.config import Data, Mesh, Model, Prompt, Samples, Tasks


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
    asked: Literal["own", "bfcl"] = "own"
    """How BFCL's entries are asked: by `prompt`, or with the messages of BFCL's own client; an answer is then all that
    follows a think block, if there is one."""
    benchmark: Literal["tasks", "bfcl"]
    """`tasks`: generated ones, or those of a prepared dataset; `bfcl`: BFCL's categories."""
    data: str | None = None
    """BFCL's folder, `bfcl-eval` (the folder of that package, where it is installed), or a folder made by
    scripts/prepare_data.py; null generates tasks."""
    categories: tuple[str, ...] = CATEGORIES
    """Of BFCL, in this order: those of a single turn, or those of several turns; `multi_turn` is all four of these."""
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
    bfcl_python: str | None = None
    """The Python interpreter in whose environment bfcl-eval is installed: its simulated APIs run there, in a process of
    their own, and its data is found there. Multi-turn categories need it; null is the interpreter that runs this."""
    beside: str | None = None
    """Output folder of an evaluation of the same model on other categories of BFCL, which the aggregates count too."""
    constrain: bool = False
    """Hold answers to calls of the offered tools that parse (needs llguidance); BFCL's own scores do not."""
    samples: Samples | None = None
    """Several completions of each example, and pass@k; null is one greedy completion."""
    result_name: str | None = None
    """A model's name in bfcl-eval's registry, such as Qwen/Qwen3-0.6B: the answers are left in output/result too, for
    `BFCL_PROJECT_ROOT=output bfcl evaluate --partial-eval --model NAME` to score; null leaves none there."""
    output: str
    """Folder for scores.json and outputs.jsonl."""

    def __post_init__(self):
        if self.model.path is None:
            raise ValueError("model.create makes an untrained model; give --model, the directory of a trained one.")
        if self.benchmark == "bfcl" and self.data is None:
            raise ValueError("benchmark is bfcl, which needs --data: the folder with BFCL_v4_<category>.json files.")
        if self.benchmark != "bfcl" and (self.asked == "bfcl" or self.result_name is not None):
            raise ValueError("asked: bfcl and result_name are about BFCL's entries; they need benchmark: bfcl.")
        if self.beside is not None and (self.benchmark != "bfcl" or self.count is not None):
            raise ValueError("beside is about BFCL's aggregates; they need benchmark: bfcl, and count: null.")
        if self.multi_turn and not {*self.categories} <= {*MULTI_TURN, "multi_turn"}:
            raise ValueError("categories are of a single turn or of several; run one, then the other with beside: DIR.")
        if self.multi_turn and (self.constrain or self.samples is not None):
            raise ValueError(
                "constrain and samples are for answers of a single turn; multi-turn categories have neither."
            )
        if self.result_name is not None and self.samples is not None:
            raise ValueError("bfcl evaluate scores one answer to each entry: with result_name, samples is null.")
        if self.constrain and self.asked == "bfcl":
            raise ValueError("constrain holds what follows a think block, which BFCL's prompt (asked: bfcl) has not.")
        if self.constrain and self.benchmark == "bfcl" and not LANGUAGE_OF.keys().isdisjoint(self.categories):
            raise ValueError(f"constrain writes Python's calls; leave {' and '.join(LANGUAGE_OF)} out of categories.")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count is {self.count}; an evaluation needs at least 1 example.")
        shards = self.mesh.data * self.mesh.fsdp
        if self.batch < 1 or self.batch % shards:
            raise ValueError(f"batch is {self.batch} prompts; data x fsdp needs a multiple of {shards}.")
        if list(self.prompt_buckets) != sorted(set(self.prompt_buckets)) or min(self.prompt_buckets, default=0) < 2:
            raise ValueError(f"prompt_buckets is {self.prompt_buckets}; give rising lengths such as [512, 1024].")
        if self.completion_length < 2:
            raise ValueError(f"completion_length is {self.completion_length}; a completion needs at least 2 tokens.")

    @property
    def multi_turn(self) -> tuple[str, ...]:
        """The categories of several turns that are to be run."""
        names = [name for each in self.categories for name in (MULTI_TURN if each == "multi_turn" else (each,))]
        return tuple(dict.fromkeys(name for name in names if name in MULTI_TURN)) if self.benchmark == "bfcl" else ()


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
    from jaxfc.bfcl.results import check_name
    from jaxfc.metrics import is_writer
    from jaxfc.workspace import open_workspace

    if config.result_name is not None:
        check_name(config.result_name)
    if config.multi_turn and is_writer():
        open_backend(config).close()
    work = open_workspace(config.model, config.mesh, config.prompt)
    summarize = bfcl_aggregates(config, work.digest)
    if arguments.dry_run:
        return {"examples": len(examples)}
    run = converse if config.multi_turn else complete
    scores = run(config, work, examples, summarize)
    if is_writer():
        print_scores(scores, summarize(scores))
    return scores.to_json() | {"aggregates": summarize(scores)}


def complete(config: Evaluate, work, examples, summarize):
    """Let the model answer examples of a single turn."""
    from jaxfc.bfcl.results import write_results
    from jaxfc.data.prompts import AS_WRITTEN, form_of
    from jaxfc.evaluate import evaluate_model, read_outcomes
    from jaxfc.metrics import is_writer

    scores = evaluate_model(
        work,
        examples,
        Path(config.output),
        form=AS_WRITTEN if config.asked == "bfcl" else form_of(work.prompt),
        buckets=config.prompt_buckets,
        completion_length=config.completion_length,
        batch=config.batch,
        constrain=config.constrain,
        samples=config.samples,
        summarize=summarize,
    )
    if config.result_name is not None and is_writer():
        write_results(read_outcomes(Path(config.output)), Path(config.output), config.result_name)
    return scores


def converse(config: Evaluate, work, conversations, summarize):
    """Let the model hold conversations of several turns."""
    from jaxfc.bfcl.conversations import evaluate_model_conversations, write_conversation_results
    from jaxfc.bfcl.talk import noted_messages
    from jaxfc.data.prompts import AS_WRITTEN, form_of
    from jaxfc.metrics import is_writer

    scores = evaluate_model_conversations(
        work,
        conversations,
        Path(config.output),
        lambda: open_backend(config),
        form=AS_WRITTEN if config.asked == "bfcl" else form_of(work.prompt),
        messages_of=bfcl_messages if config.asked == "bfcl" else noted_messages,
        buckets=config.prompt_buckets,
        completion_length=config.completion_length,
        batch=config.batch,
        summarize=summarize,
    )
    if config.result_name is not None and is_writer():
        write_conversation_results(Path(config.output), Path(config.output), config.result_name)
    return scores


def open_backend(config: Evaluate):
    """Start the process in which the simulated APIs run."""
    return Backend(config.bfcl_python or sys.executable)


def print_scores(scores, totals):
    """A line for each kind and each aggregate."""
    for name, rate in {**scores.kinds, "overall": scores.overall}.items():
        figures = f"{rate.accuracy:.4f} +- {rate.standard_error:.4f}  ({rate.correct:g} of {rate.entries})"
        passed = "".join(f"  pass@{k} {value:.4f}" for k, value in rate.pass_at.items())
        print(f"{name:24} {figures}{passed}", file=sys.stderr)
    for name, total in totals.items():
        not_run = f"  (not run, counted as 0: {', '.join(total['not_run'])})" if total["not_run"] else ""
        print(f"{name:24} {total['value']:.4f}{not_run}", file=sys.stderr)


def read_examples(config: Evaluate):
    """The examples that the settings name."""
    if config.multi_turn:
        return read_multi_turn(folder_of(config.data, config.bfcl_python), config.multi_turn)[: config.count]
    if config.benchmark == "bfcl":
        messages_of = bfcl_messages if config.asked == "bfcl" else own_messages
        return read_bfcl(folder_of(config.data, config.bfcl_python), config.categories, messages_of)[: config.count]
    from jaxfc.data.pipeline import open_examples

    tasks = None if config.data else Tasks(count=config.count or 400, split=config.split)
    source = open_examples(Data(path=config.data, split=config.split, tasks=tasks))
    if config.count is not None and config.count > len(source):
        raise InputError(f"count is {config.count}, but there are only {len(source)} examples.")
    return [source[index] for index in range(config.count or len(source))]


def bfcl_aggregates(config: Evaluate, model):
    """Make `scores -> BFCL's aggregates by name`: `value`, and the categories that were `not_run`, which count as 0."""
    if config.benchmark != "bfcl" or config.count is not None:
        return lambda scores: {}
    others = read_results(Path(config.beside), model) if config.beside is not None else {}
    if twice := others.keys() & {*config.categories, *config.multi_turn}:
        raise InputError(f"{config.beside}: has {', '.join(sorted(twice))} too; beside it stand other categories.")

    def summarize(scores):
        results = {kind: (rate.correct, rate.entries) for kind, rate in scores.kinds.items()}
        return {name: total._asdict() for name, total in aggregates(others | results).items()}

    return summarize


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
