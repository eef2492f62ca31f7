"""Completions -> verdicts -> rewards, on the host."""

import concurrent.futures
import contextlib
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from jaxfc.calls.match import Verdict, judge_answer
from jaxfc.calls.parse import Syntax
from jaxfc.config import Prompt, Reward
from jaxfc.data.example import Example
from jaxfc.data.prompts import Tokenizer, completion_tokens, cot_mask, read_completion

CHUNK = 256
"""Completions handed to a worker process at once."""


class Judged(NamedTuple):
    """What the host finds in a batch of rollouts, row = p * G + g."""

    rewards: np.ndarray
    """[P, G] float32, 0 or 1."""
    cot_mask: np.ndarray
    """[B, T] bool: the tokens of the chain of thought."""
    verdicts: list[Verdict]
    """B of them."""


def syntax_of(config: Reward) -> Syntax:
    """How answers are parsed."""
    return Syntax.BFCL if config.lenient else Syntax.STRICT


def judge_completion(data: bytes, example: Example, prompt: Prompt, syntax: Syntax) -> Verdict:
    """Right only if the reply has the required form and its calls match the accepted ones (METHOD: all or nothing).

    Args:
        data: what the model wrote, without the token that ends it. It is hostile input: parsed, never executed.
        example: tools and accepted calls.
        prompt: the required form.
        syntax: how the answer is parsed.
    """
    completion = read_completion(data, prompt)
    if completion.answer is None:
        return Verdict(False, f"format: {completion.problem}")
    return judge_answer(completion.answer, example.tools, example.accepted, syntax)


def _judge_chunk(chunk: Sequence[tuple[bytes, Example, Prompt, Syntax]]) -> list[Verdict]:
    return [judge_completion(*item) for item in chunk]


def judge_rollouts(
    examples: Sequence[Example],
    tokens: np.ndarray,
    lengths: np.ndarray,
    ended: np.ndarray,
    tokenizer: Tokenizer,
    prompt: Prompt,
    syntax: Syntax,
    pool: Executor | None = None,
) -> Judged:
    """Judge each completion and find its chain of thought.

    Args:
        examples: P of them.
        tokens: [B, T] completions, B = P * G in prompt-major order.
        lengths: [B] tokens of each, the one that ends it included.
        ended: [B] False where a completion was cut at the limit; such a one is wrong.
        tokenizer: tokens -> bytes.
        prompt: the required form.
        syntax: how answers are parsed.
        pool: worker processes; None judges here.
    """
    group = len(tokens) // len(examples)
    mask = np.zeros(tokens.shape, bool)
    work = []
    for row, (ids, length, done) in enumerate(zip(tokens, lengths, ended, strict=True)):
        pieces = tokenizer.pieces(ids[: length - done].tolist())
        data = b"".join(pieces)
        mask[row, : len(pieces)] = cot_mask(pieces, read_completion(data, prompt).cot)
        work.append((data, examples[row // group], prompt, syntax))
    chunks = [work[start : start + CHUNK] for start in range(0, len(work), CHUNK)]
    judged = (pool.map if pool else map)(_judge_chunk, chunks)
    verdicts = [verdict for chunk in judged for verdict in chunk]
    verdicts = [
        v if done else Verdict(False, "format: cut at the limit") for v, done in zip(verdicts, ended, strict=True)
    ]
    rewards = np.array([verdict.ok for verdict in verdicts], np.float32).reshape(len(examples), group)
    return Judged(rewards, mask, verdicts)


def shuffled(judged: Judged, seed: tuple[int, int]) -> Judged:
    """The control experiment: the same rewards, dealt out at random over the batch."""
    rewards = np.random.default_rng(seed).permutation(judged.rewards.reshape(-1))
    return judged._replace(rewards=rewards.reshape(judged.rewards.shape))


@contextlib.contextmanager
def judging_pool(workers: int):
    """Worker processes for `judge_rollouts`; None, to judge in this process, when there are to be 0."""
    if not workers:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield pool


def reward_metrics(judged: Judged, lengths: np.ndarray) -> dict[str, float]:
    """`reward/*`, `reason/*` (parts of all completions), and the lengths in tokens."""
    rewards, reasons = judged.rewards, [verdict.reason for verdict in judged.verdicts]
    spread = rewards.max(axis=1) - rewards.min(axis=1)
    metrics = {
        "reward/mean": float(rewards.mean()),
        "reward/pass_any": float(rewards.max(axis=1).mean()),
        "reward/dead_groups": float((spread == 0).mean()),
        "reward/format_ok": 1 - sum(reason.startswith("format") for reason in reasons) / len(reasons),
        "entropy/cot_tokens": float(judged.cot_mask.sum(axis=1).mean()),
        "length/completion_mean": float(lengths.mean()),
        "length/truncated": reasons.count("format: cut at the limit") / len(reasons),
    }
    return metrics | {f"reason/{reason}": reasons.count(reason) / len(reasons) for reason in sorted(set(reasons))}


def preflight(examples: Sequence[Example], tokenizer: Tokenizer, prompt: Prompt, syntax: Syntax):
    """Judge known-good completions, after a trip through the tokenizer, before any model output is judged.

    Raises:
        RuntimeError: one of them is judged wrong, so template, tokenizer, parser and data do not fit together and
            every reward would be 0.
    """
    for example in examples:
        data = b"".join(tokenizer.pieces(completion_tokens(example, tokenizer, prompt)[:-1]))
        verdict = judge_completion(data, example, prompt, syntax)
        if not verdict.ok:
            raise RuntimeError(
                f"the accepted answer of example {example.id} is judged wrong ({verdict.reason}: {verdict.detail}); it "
                f"was written as {data.decode(errors='replace')!r}. Template, tokenizer, parser and data do not fit."
            )
