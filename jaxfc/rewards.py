"""Completions -> verdicts -> rewards, on the host."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jaxfc.calls.match import Verdict, judge_answer
from jaxfc.calls.parse import Syntax
from jaxfc.config import Prompt, Reward
from jaxfc.data.example import Example
from jaxfc.data.prompts import Completion, Tokenizer, completion_tokens, cot_mask, pieces_of, read_completion
from jaxfc.processes import Share, exchange
from jaxfc.workers import Here, Lost, Workers

CHUNK = 64
"""Completions handed to a worker process at once."""


class Judged(NamedTuple):
    """What is found in the rollouts that a process holds of a batch, row = p * G + g."""

    rewards: np.ndarray
    """[p, G] float32, 0 or 1."""
    cot_mask: np.ndarray
    """[b, T] bool: the tokens of the chain of thought."""
    verdicts: list[Verdict]
    """b of them."""
    share: Share
    """Which prompts of the batch these are."""


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
    return _judge_form(read_completion(data, prompt), example, syntax)


def _judge_form(completion: Completion, example: Example, syntax: Syntax) -> Verdict:
    if completion.answer is None:
        return Verdict(False, f"format: {completion.problem}")
    return judge_answer(completion.answer, example.tools, example.accepted, syntax)


class Answered(NamedTuple):
    """A completion to judge."""

    written: bytes
    """The tokens that the model wrote, the one that ends them left out, as int32: so they travel in no time."""
    ended: bool
    """False: cut at the limit."""
    example: Example

    @property
    def tokens(self) -> list[int]:
        """The tokens that the model wrote, the one that ends them left out."""
        return np.frombuffer(self.written, np.int32).tolist()


class Judge(NamedTuple):
    """Judges one completion after the other. It needs no tokenizer, so that a worker process need not load one."""

    table: list[bytes]
    """The bytes of every token."""
    prompt: Prompt
    """The required form."""
    syntax: Syntax
    """How answers are parsed."""

    def __call__(self, answered: Answered) -> tuple[Verdict, bytes]:
        """The verdict, and for each token whether it is of the chain of thought: a byte of 0 or 1."""
        pieces = pieces_of(answered.tokens, self.table)
        completion = read_completion(b"".join(pieces), self.prompt)
        if answered.ended:
            verdict = _judge_form(completion, answered.example, self.syntax)
        else:
            verdict = Verdict(False, "format: cut at the limit")
        return verdict, cot_mask(pieces, completion.cot).tobytes()


def judging_pool(judge: Callable, config: Reward) -> Here | Workers:
    """Where `judge` works; a context manager, to be given to `Judging`."""
    return Workers(judge, config.workers, config.deadline) if config.workers else Here(judge)


class Judging:
    """The judging of one batch of rollouts, which begins while they are being sampled.

    Rows are those of the completions that this process holds. Where others hold some of them too, each process judges
    its own and is told of the others': a verdict, which a deadline may have a part in, is then the same for all.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        pool: Here | Workers,
        *,
        group_size: int,
        length: int,
        share: Share | None = None,
    ):
        """Begin with nothing submitted.

        Args:
            examples: p of them.
            pool: see `judging_pool`.
            group_size: completions of each (G); row p * G + g is of example p.
            length: room for a completion (T).
            share: which prompts of the batch these examples are; None: all.
        """
        self._examples, self._pool, self._group = examples, pool, group_size
        self._share = Share.whole(len(examples)) if share is None else share
        rows = len(examples) * group_size
        self._mask = np.zeros((rows, length), bool)
        self._verdicts: list[Verdict | None] = [None] * rows
        self._submitted = np.zeros(rows, bool)
        self._work: list[tuple[list[int], Future]] = []

    def submit(
        self,
        rows: Int[np.ndarray, " n"],
        tokens: Int[np.ndarray, "n T"],
        lengths: Int[np.ndarray, " n"],
        ended: Bool[np.ndarray, " n"],
    ):
        """Have completions judged, if they are this process's own; with worker processes this returns at once.

        Args:
            rows: which ones; each row is submitted once, in any order.
            tokens: what was sampled.
            lengths: tokens of each, the one that ends it included.
            ended: False where a completion was cut at the limit; such a one is wrong.

        Raises:
            RuntimeError: a row was submitted before.
        """
        if self._submitted[rows].any() or len(set(rows.tolist())) < len(rows):
            raise RuntimeError(f"of the completions {_some(rows)} some were submitted to the judge before.")
        self._submitted[rows] = True
        order = np.argsort(rows)  # Neighbours share an example, which then travels once.
        order = order[self._share.own[rows[order] // self._group]]
        for start in range(0, len(order), CHUNK):
            chosen = order[start : start + CHUNK]
            ids, numbers = np.asarray(tokens[chosen], np.int32), rows[chosen].tolist()
            items = [
                Answered(written[: length - done].tobytes(), done, self._examples[row // self._group])
                for row, written, length, done in zip(
                    numbers, ids, lengths[chosen].tolist(), ended[chosen].tolist(), strict=True
                )
            ]
            self._work.append((numbers, self._pool.submit(items)))

    def collect(self) -> Judged:
        """Wait until all are judged. One that could not be (`timeout`, `worker died`) is wrong and has no thought.

        Raises:
            RuntimeError: some row was never submitted, or the judge has a bug.
        """
        if not self._submitted.all():
            missing = np.flatnonzero(~self._submitted)
            raise RuntimeError(f"of {len(self._submitted)} completions {_some(missing)} were never submitted.")
        for rows, future in self._work:
            for row, result in zip(rows, future.result(), strict=True):
                if isinstance(result, Lost):
                    self._verdicts[row] = Verdict(False, result.reason, result.detail)
                else:
                    self._verdicts[row], thought = result
                    self._mask[row, : len(thought)] = np.frombuffer(thought, bool)
        if not self._share.is_exclusive:
            self._learn_the_others()
        rewards = np.array([verdict.ok for verdict in self._verdicts], np.float32).reshape(-1, self._group)
        return Judged(rewards, self._mask, self._verdicts, self._share)

    def _learn_the_others(self):
        """Take over what other processes have found in rows that this one holds too."""
        numbers = (self._share.held[:, None] * self._group + np.arange(self._group)).reshape(-1)
        found = {
            number: (self._verdicts[row], self._mask[row])
            for row, number in enumerate(numbers.tolist())
            if self._verdicts[row] is not None
        }
        everywhere = {number: result for part in exchange(found) for number, result in part.items()}
        for row, number in enumerate(numbers.tolist()):
            self._verdicts[row], self._mask[row] = everywhere[number]


def _some(rows: np.ndarray) -> str:
    more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
    return f"{', '.join(map(str, rows[:8]))}{more}"


def judge_rollouts(
    examples: Sequence[Example], tokens: np.ndarray, lengths: np.ndarray, ended: np.ndarray, pool: Here | Workers
) -> Judged:
    """Judge a whole batch. Arguments as of `Judging` and `submit`, B = P * G completions in prompt-major order."""
    judging = Judging(examples, pool, group_size=len(tokens) // len(examples), length=tokens.shape[1])
    judging.submit(np.arange(len(tokens)), tokens, lengths, ended)
    return judging.collect()


def shuffled(judged: Judged, seed: tuple[int, int]) -> Judged:
    """The control experiment: the same rewards, dealt out at random over the whole batch, on all processes."""
    share, group = judged.share, judged.rewards.shape[1]
    whole = np.zeros((share.batch, group), judged.rewards.dtype)
    for held, rewards in exchange((share.held, judged.rewards)):
        whole[held] = rewards
    dealt = np.random.default_rng(seed).permutation(whole.reshape(-1)).reshape(whole.shape)
    return judged._replace(rewards=dealt[share.held])


def reward_metrics(judged: Judged, lengths: np.ndarray) -> dict[str, float]:
    """`reward/*`, `reason/*` (parts of all completions), and the lengths in tokens: of the batch of all processes."""
    counts = sum(exchange(_count(judged, lengths)), Counter())
    rows, groups = counts["completions"], counts["groups"]
    reasons = {name: value for name, value in counts.items() if name.startswith("reason/")}
    return {
        "reward/mean": counts["right"] / rows,
        "reward/pass_any": counts["passed"] / groups,
        "reward/dead_groups": counts["dead"] / groups,
        "reward/format_ok": 1 - sum(n for name, n in reasons.items() if name.startswith("reason/format")) / rows,
        "entropy/cot_tokens": counts["thought"] / rows,
        "length/completion_mean": counts["tokens"] / rows,
        "length/truncated": reasons.get("reason/format: cut at the limit", 0) / rows,
    } | {name: reasons[name] / rows for name in sorted(reasons)}


def _count(judged: Judged, lengths: np.ndarray) -> Counter:
    """What a process has found in its own rollouts."""
    rewards = judged.rewards[judged.share.own]
    rows = judged.share.own.repeat(judged.rewards.shape[1])
    spread = rewards.max(axis=1) - rewards.min(axis=1) if rewards.size else np.zeros(0)
    counts = Counter(
        completions=rewards.size,
        groups=len(rewards),
        right=int(rewards.sum()),
        passed=int(rewards.max(axis=1, initial=0).sum()),
        dead=int((spread == 0).sum()),
        thought=int(judged.cot_mask[rows].sum()),
        tokens=int(lengths[rows].sum()),
    )
    counts.update(f"reason/{judged.verdicts[row].reason}" for row in np.flatnonzero(rows))
    return counts


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
