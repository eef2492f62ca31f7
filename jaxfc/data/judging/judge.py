"""The judge stage: a language model evaluates each answer, corrects what is wrong, and evaluates again."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from jaxfc.calls.schema import calls_from_accepted, tool_to_openai
from jaxfc.command import InputError
from jaxfc.data.judging.asking import Asker, Missing, Undecided
from jaxfc.data.judging.background import Background, in_order
from jaxfc.data.judging.client import Client
from jaxfc.data.judging.endpoint import Endpoint
from jaxfc.data.judging.questions import Question, Rejected, correction, evaluation
from jaxfc.data.judging.replies import Replies
from jaxfc.data.judging.verdicts import Opinion, read_calls, read_opinion
from jaxfc.data.sources.rows import RawRow
from jaxfc.data.validate import Dropped, Kept, validate

CORRECTED = "judge: corrected"
_AHEAD = 4
"""Rows under way for each request that may be: enough to keep all requests busy while the first row takes long."""
_LONGEST_DETAIL = 300
_SHOW_EVERY = 0.2
_MISSING = "missing"


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Who judges, and how often."""

    endpoint: Endpoint
    """The model that is asked."""
    regenerations: int = 3
    """Corrected answers that may be written for one row, each evaluated, before it is dropped; 0 corrects nothing."""
    attempts: int = 3
    """How often one question is put when the replies to it cannot be read, before the row is dropped."""
    longest_row: int = 100_000
    """Characters of JSON of a row; a longer one is dropped without asking. Set it by the model's context."""

    def __post_init__(self):
        for name, least in (("regenerations", 0), ("attempts", 1), ("longest_row", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"judge.{name} is {getattr(self, name)}; it is at least {least}.")


class Effort(NamedTuple):
    """What this process did so far. Differs between a fresh run, one that was resumed, and a replay."""

    requests: int
    """Sent to the endpoint, repeated ones included."""
    retries: int
    """Those that repeated a failed one."""
    failures: dict[str, int]
    """Kind of failure -> requests that ended so."""
    cached: int
    """Rows that were judged from the file alone."""
    prompt_tokens: int
    """Of the replies that came in."""
    completion_tokens: int
    cost: float | None
    """Of those tokens; None where no prices are set."""
    paused: float
    """Seconds for which requests are still held back, as the endpoint asked."""


class _Judged(NamedTuple):
    """What became of an item."""

    outcome: str
    """For the count of rows; `_MISSING` where a replay lacks a reply; empty where it was dropped before."""
    item: Any
    """To pass on; where a reply is missing, the row's file and line."""


@contextlib.contextmanager
def open_judge(
    settings: JudgeSettings,
    cache: Path,
    *,
    replay: bool = False,
    watch: Callable[[Effort], None] | None = None,
) -> Iterator["Judge"]:
    """Have a judge within the block. Replies that have come in are on disk, however the block ends.

    Args:
        settings: of the judge.
        cache: SQLite file of replies; made if it is not there. One process at a time may use it.
        replay: ask nothing, and answer from the file alone; it is not changed, and no key is needed.
        watch: called in the thread that iterates, several times a second while rows are judged.

    Raises:
        InputError: the file is no cache of this version, is damaged or in use; the environment lacks the key.
        OutputError: the file cannot be made.
    """
    client = None if replay else Client(settings.endpoint, random.Random(0))
    replies = Replies(cache, read_only=replay)
    try:
        if client is None:
            yield Judge(settings, replies, None, None, watch)
            return
        background = Background("judge")
        try:
            yield Judge(settings, replies, client, background, watch)
        finally:
            background.cancel()
            background.start(client.close()).result()
            background.close()
    finally:
        replies.close()


class Judge:
    """Judges rows; made by `open_judge`."""

    def __init__(
        self,
        settings: JudgeSettings,
        replies: Replies,
        client: Client | None,
        background: Background | None,
        watch: Callable[[Effort], None] | None,
    ):
        self._settings, self._replies, self._client = settings, replies, client
        self._background, self._watch = background, watch
        self._asker = Asker(settings.endpoint, settings.attempts, settings.longest_row, replies, client)
        self._rereader = Asker(settings.endpoint, settings.attempts, settings.longest_row, replies, None)
        self._outcomes: dict[str, collections.Counter[str]] = {}
        self._cached = 0
        self._shown = 0.0

    def first(self, rows: Iterable[RawRow | Dropped]) -> Iterator[RawRow | Dropped]:
        """Judge each row's answer, and have a wrong one corrected.

        The order stays, and only a few rows are read ahead. A row is passed on as it is when its answer is judged
        right; with other answers and the repair "judge: corrected"; or as `Dropped`. Rows that hold no plain JSON, and
        those dropped before, are passed on unasked.

        Raises:
            InputError: the endpoint is down or refuses requests; or, in a replay, the file lacks replies, which is
                known when the last row was looked at.
        """
        return self._judged("first", rows, self._first)

    def final(self, kept: Iterable[Kept | Dropped]) -> Iterator[Kept | Dropped]:
        """Judge what the other stages left, as it is to be trained on; nothing is corrected any more.

        The order stays, and what was dropped before is passed on unasked.

        Raises:
            InputError: as for `first`.
        """
        return self._judged("final", kept, self._final)

    def totals(self) -> dict[str, Any]:
        """What the rows judged so far rest on; the same whether replies came from the endpoint or from the file.

        `replies`, `prompt_tokens`, `completion_tokens` and `cost` (None without prices) count each reply once that any
        of the rows needed, whenever it came in; `outcomes` says of each stage how many rows ended how.
        """
        replies, prompt_tokens, completion_tokens = self._replies.used()
        prices = self._settings.endpoint.prices
        return {
            "model": self._settings.endpoint.model,
            "replies": replies,
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "cost": prices.of(prompt_tokens, completion_tokens) if prices else None,
            "outcomes": {stage: dict(sorted(counts.items())) for stage, counts in self._outcomes.items()},
        }

    def effort(self) -> Effort:
        """What this process did so far."""
        prices, client, tokens = self._settings.endpoint.prices, self._client, self._asker.tokens
        return Effort(
            requests=client.requests if client else 0,
            retries=client.retries if client else 0,
            # Copied in one step: the other thread may be adding to it.
            failures=dict(sorted(dict(client.failures).items())) if client else {},
            cached=self._cached,
            prompt_tokens=tokens[0],
            completion_tokens=tokens[1],
            cost=prices.of(*tokens) if prices else None,
            paused=client.pacer.remaining if client else 0.0,
        )

    # In the thread of the caller

    def _judged(self, stage: str, items: Iterable[Any], judge: Callable[[Any, Asker], Any]) -> Iterator[Any]:
        outcomes = self._outcomes.setdefault(stage, collections.Counter())
        missing, first_missing = 0, ""

        def start(item: Any) -> Future[_Judged]:
            if isinstance(item, Dropped):
                return _done(_Judged("", item))
            # Far quicker than by way of the other thread, and most rows of a second run are done with it.
            judged = _at_once(judge(item, self._rereader))
            if judged.outcome == _MISSING and self._background:
                return self._background.start(judge(item, self._asker))
            self._cached += judged.outcome != _MISSING
            return _done(judged)

        ahead = _AHEAD * self._settings.endpoint.concurrency
        with contextlib.closing(in_order(items, start, ahead)) as futures:
            for future in futures:
                outcome, item = self._wait(future)
                if outcome == _MISSING:
                    missing, first_missing = missing + 1, first_missing or item
                    continue
                if outcome:
                    outcomes[outcome] += 1
                yield item
        if missing:
            raise InputError(
                f"{self._replies.path}: lacks replies for {missing} rows (the first: {first_missing}). Without "
                "replay the judge is asked for them."
            )

    def _wait(self, future: Future[_Judged]) -> _Judged:
        while True:
            now = time.monotonic()
            if self._watch and now - self._shown >= _SHOW_EVERY:
                self._shown = now
                self._watch(self.effort())
            if future.done() or concurrent.futures.wait([future], _SHOW_EVERY).done:
                return future.result()

    # In the thread of the event loop, or at once

    async def _first(self, row: RawRow, asker: Asker) -> _Judged:
        try:
            question = evaluation(row.messages, row.tools, row.answers)
        except ValueError:
            return _Judged("no plain JSON", row)
        try:
            opinion = await _opinion(asker, question, row.where)
            return _Judged("right", row) if opinion.correct else await self._corrected(row, opinion, asker)
        except Undecided as undecided:
            return _dropped(row.id, row.source, undecided.reason, undecided.detail, row.where)
        except Missing:
            return _Judged(_MISSING, row.where)

    async def _corrected(self, row: RawRow, opinion: Opinion, asker: Asker) -> _Judged:
        """The row with an answer that the judge finds right, or dropped."""
        rejected = [Rejected(row.answers, opinion.reason)]
        for _ in range(self._settings.regenerations):
            question = correction(row.messages, row.tools, rejected)
            calls = await asker.ask(question, read_calls, "judge: no correction", row.where)
            # The source's reasoning led to the other answer.
            repairs = (*row.repairs, CORRECTED)
            mended = dataclasses.replace(row, answers=calls, accepted=None, thought="", text="", repairs=repairs)
            fault = _fault(mended)
            if not fault:
                opinion = await _opinion(asker, evaluation(row.messages, row.tools, calls), row.where)
                if opinion.correct:
                    return _Judged("corrected", mended)
                fault = opinion.reason
            rejected.append(Rejected(calls, fault))
        return _dropped(row.id, row.source, "judge: not corrected", rejected[-1].reason, row.where)

    async def _final(self, kept: Kept, asker: Asker) -> _Judged:
        example = kept.example
        tools = [tool_to_openai(tool)["function"] for tool in example.tools]
        calls = calls_from_accepted(example.accepted, example.tools)
        answer = [{"name": call.name, "arguments": call.arguments} for call in calls]
        try:
            opinion = await _opinion(asker, evaluation(example.messages, tools, answer), kept.where)
        except Undecided as undecided:
            return _dropped(example.id, example.source, undecided.reason, undecided.detail, kept.where)
        except Missing:
            return _Judged(_MISSING, kept.where)
        if opinion.correct:
            return _Judged("right", kept)
        return _dropped(example.id, example.source, "judge: wrong at the end", opinion.reason, kept.where)


async def _opinion(asker: Asker, question: Question, where: str) -> Opinion:
    return await asker.ask(question, read_opinion, "judge: no verdict", where)


def _at_once(judged: Coroutine[Any, Any, _Judged]) -> _Judged:
    """The result of a coroutine that has nothing to wait for."""
    try:
        judged.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits for something")


def _done(result: _Judged) -> Future[_Judged]:
    future: Future[_Judged] = Future()
    future.set_result(result)
    return future


def _dropped(id: str, source: str, reason: str, detail: str, where: str) -> _Judged:
    shown = detail if len(detail) <= _LONGEST_DETAIL else f"{detail[:_LONGEST_DETAIL]}..."
    return _Judged(reason, Dropped(id, source, reason, shown, where))


def _fault(row: RawRow) -> str:
    """What the AST stage would say of the row's answers; empty when it has nothing against them."""
    found = validate(row)
    is_about_answers = isinstance(found, Dropped) and found.reason.startswith(("answer:", "call:"))
    return f"{found.reason}: {found.detail}" if is_about_answers else ""
