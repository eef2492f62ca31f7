"""What runs on the host beside the device: judging completions, and loading prompts."""

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxfc.benchmarks.measure import alternate, figures, report
from jaxfc.benchmarks.settings import CallsBenchmark, HostBenchmark, LoaderBenchmark, check_peers
from jaxfc.calls.parse import Syntax
from jaxfc.config import Prompt, Reward
from jaxfc.data.example import Example
from jaxfc.data.pipeline import Batches, open_examples, pad
from jaxfc.data.prompts import Tokenizer, completion_tokens
from jaxfc.data.shards import write_dataset
from jaxfc.rewards import Judge, Judged, judge_rollouts, judging_pool
from jaxfc.workers import Here
from jaxfc.workspace import saved_prompt

SEED_MODEL = Path(__file__).parents[1] / "assets" / "seed"


def benchmark_calls(settings: CallsBenchmark, peers: Sequence[str] = ()) -> dict[str, Any]:
    """Judge a batch in this process and over several; CPU seconds are those of this process alone."""
    check_peers(settings, peers)
    tokenizer, prompt = open_tokenizer(settings)
    source = open_examples(settings.data)
    examples = [source[number % len(source)] for number in range(settings.prompts)]
    rows = completions(examples, tokenizer, prompt, settings.group_size)
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens, ended = pad(rows, int(lengths.max())), np.ones(len(rows), bool)

    def judge(pool) -> Callable[[int], Judged]:
        return lambda _: judge_rollouts(examples, tokens, lengths, ended, pool)

    judging = Judge(tokenizer.table, prompt, Syntax.STRICT)
    with judging_pool(judging, Reward(workers=settings.workers)) as pool:
        ways = {"one process": judge(Here(judging)), f"{settings.workers} processes": judge(pool)}
        check_alike(*(way(0) for way in ways.values()))
        laps = alternate(ways, settings.runs)
    results = {name: figures(each, completions=len(rows)) for name, each in laps.items()}
    return report(settings, results)


def completions(examples: Sequence[Example], tokenizer: Tokenizer, prompt: Prompt, group: int) -> list[list[int]]:
    """Tokens of `group` completions for each example: right, another's answer, cut in its middle, without tags."""
    right = [completion_tokens(example, tokenizer, prompt) for example in examples]
    bare = [[*tokenizer.encode("none of it"), tokenizer.eos] for _ in examples[:1]] * len(examples)
    cut = [[*row[: len(row) // 2], tokenizer.eos] for row in right]
    kinds = (right, right[1:] + right[:1], cut, bare)
    return [kinds[number % 4][place] for place in range(len(examples)) for number in range(group)]


def check_alike(one: Judged, other: Judged):
    """Make sure that both ways of judging say the same, and find right and wrong ones.

    Raises:
        RuntimeError: they differ, or all completions are judged the same.
    """
    if one.verdicts != other.verdicts or not 0 < one.rewards.mean() < 1:
        raise RuntimeError(f"the ways of judging differ, or tell nothing apart (mean reward {one.rewards.mean()}).")


def benchmark_loader(settings: LoaderBenchmark, peers: Sequence[str] = ()) -> dict[str, Any]:
    """Take batches one after the other, with nothing else to do."""
    check_peers(settings, peers)
    tokenizer, prompt = open_tokenizer(settings)
    with tempfile.TemporaryDirectory() as folder:
        data = settings.data
        if data.path is None:
            source = open_examples(data)
            shards = Path(folder) / "data"
            write_dataset(shards, {data.split: [source[number] for number in range(len(source))]}, {}, {})
            data = dataclasses.replace(data, path=str(shards), tasks=None)
        loader = Batches(open_examples(data), data, prompt, tokenizer, batch=settings.batch, seed=settings.seed)
        taken: list[int] = []

        def take(_: int):
            batches = list(itertools.islice(loader, settings.batches))
            taken.append(sum(int(batch.prompts.lengths.sum()) for batch in batches))

        laps = alternate({"jaxfc": take}, settings.runs)
    amounts = {"prompts": settings.batch * settings.batches, "tokens": float(np.median(taken[-settings.runs :]))}
    return report(settings, {"jaxfc": figures(laps["jaxfc"], **amounts)})


def open_tokenizer(settings: HostBenchmark) -> tuple[Tokenizer, Prompt]:
    """The tokenizer and the prompt that the settings name."""
    folder = Path(settings.tokenizer) if settings.tokenizer else SEED_MODEL
    return Tokenizer(folder), settings.prompt or saved_prompt(folder)
