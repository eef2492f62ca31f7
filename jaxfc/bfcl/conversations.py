"""A model's conversations -> verdicts, `outputs.jsonl`, `scores.json` and BFCL's own result files."""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxfc.bfcl.backend import Backend
from jaxfc.bfcl.multi_turn import Conversation
from jaxfc.bfcl.talk import Failed, Generate, Talk, converse
from jaxfc.bfcl.turns import judge_conversation
from jaxfc.command import InputError
from jaxfc.evaluate import Outcome, Scores, score
from jaxfc.files import to_json, write_atomically
from jaxfc.metrics import is_writer
from jaxfc.outputs import append_rows, lines, open_partial
from jaxfc.processes import exchange, from_writer


class Talked(NamedTuple):
    """What became of one conversation; a line of `outputs.jsonl`."""

    id: str
    kind: str
    ok: bool
    reason: str
    """Why it is wrong; `ok` when it is right."""
    detail: str
    is_whole: bool
    """False: it had to be given up, because of a prompt that became too long or a call that could not be run."""
    turns: list[list[dict[str, Any]]]
    """Of each turn, its steps: `text` (the whole completion), `answer`, `calls` and `results`."""

    @property
    def result(self) -> list[list[str]] | str:
        """As BFCL's result files have it."""
        if not self.is_whole:
            return f"Error during inference: {self.detail}"
        return [[step["answer"] for step in steps] for steps in self.turns]


def evaluate_conversations(
    folder: Path,
    conversations: Sequence[Conversation],
    generate: Generate,
    answer_of: Callable[[str], str],
    open_backend: Callable[[], Backend],
    *,
    settings: Mapping[str, Any],
    at_once: int,
    note: str = "",
    summarize: Callable[[Scores], Mapping[str, float]] = lambda scores: {},
    report: Callable[[str], None] = lambda line: None,
) -> Scores:
    """Let a model hold all conversations, and judge them by BFCL's rules.

    Until `outputs.jsonl` and `scores.json` are there, conversations that are over stand in `outputs.partial.jsonl`;
    called again with the same conversations and settings, it goes on from them. On several hosts process 0 runs the
    calls, reads and writes. `result/jaxfc/multi_turn/` then holds the answers as `bfcl evaluate` reads them.

    Args:
        folder: where the files go; made if need be.
        conversations: at least one, with unique ids.
        generate: asked for up to `at_once` completions at a time.
        answer_of: takes the answer out of a completion.
        open_backend: starts the process that runs the calls.
        settings: what decides the completions (model, its digest, prompt, limits), as JSON; kept in `scores.json`.
        at_once: conversations under way at the same time, and so the most that an interruption can lose.
        note: as of `Talk`.
        summarize: makes the `aggregates` of `scores.json`.
        report: is given a line about the progress.

    Raises:
        InputError: the folder holds a partial evaluation of other conversations or settings, or the backend lacks the
            simulated APIs.
    """
    partial, digest = folder / "outputs.partial.jsonl", _digest(conversations, settings, note)
    if len(set(exchange(digest))) > 1:
        raise InputError("the processes evaluate different models, data or settings; give all of them the same.")
    done = {row["id"]: Talked(**row) for row in from_writer(lambda: open_partial(partial, digest))}
    waiting = [conversation for conversation in conversations if conversation.id not in done]
    with open_backend() if waiting and is_writer() else contextlib.nullcontext() as backend:
        for talks in converse(waiting, generate, answer_of, backend, at_once=at_once, note=note):
            fresh = from_writer(functools.partial(_judge_and_append, partial, talks, backend))
            done.update((talked.id, talked) for talked in fresh)
            right = sum(talked.ok for talked in done.values())
            report(f"{len(done)} of {len(conversations)} conversations held, {right} right")
    outcomes = [done[conversation.id] for conversation in conversations]
    scores = score([Outcome(each.id, each.kind, None, "", each.ok, each.reason, each.detail) for each in outcomes])
    document = scores.to_json() | {"aggregates": dict(summarize(scores)), "settings": dict(settings)}
    from_writer(functools.partial(_write, folder, partial, outcomes, document))
    return scores


def _judge_and_append(partial: Path, talks: Sequence[Talk], backend: Backend) -> list[Talked]:
    outcomes = [_outcome(talk, backend) for talk in talks]
    append_rows(partial, (outcome._asdict() for outcome in outcomes))
    return outcomes


def _outcome(talk: Talk, backend: Backend) -> Talked:
    transcript = [[step.answer for step in steps] for steps in talk.turns]
    if talk.failed is None:
        verdict = judge_conversation(talk.conversation, transcript, backend)
    turns = [[step._asdict() for step in steps] for steps in talk.turns]
    found = talk.failed or Failed(verdict.reason, verdict.detail)
    ok = talk.failed is None and verdict.ok
    return Talked(talk.conversation.id, talk.conversation.category, ok, *found, talk.failed is None, turns)


def _write(folder: Path, partial: Path, outcomes: Sequence[Talked], document: Mapping[str, Any]):
    write_result_files(folder / "result" / "jaxfc", outcomes)
    write_atomically(folder / "outputs.jsonl", lines(outcome._asdict() for outcome in outcomes))
    write_atomically(folder / "scores.json", to_json(document, indent=2) + "\n")
    partial.unlink()


def write_result_files(folder: Path, outcomes: Sequence[Talked]):
    """Write the answers as `bfcl evaluate` reads them, `multi_turn/BFCL_v4_<category>_result.json`.

    Args:
        folder: `result/<model>` of BFCL's project folder; it knows the model by its registry.
        outcomes: of any categories.
    """
    for category in dict.fromkeys(outcome.kind for outcome in outcomes):
        rows = [{"id": talked.id, "result": talked.result} for talked in outcomes if talked.kind == category]
        write_atomically(folder / "multi_turn" / f"BFCL_v4_{category}_result.json", lines(rows))


def _digest(conversations: Sequence[Conversation], settings: Mapping[str, Any], note: str) -> str:
    digest = hashlib.sha256(json.dumps([settings, note], sort_keys=True).encode())
    for conversation in conversations:
        digest.update(json.dumps(dataclasses.asdict(conversation), sort_keys=True).encode())
    return digest.hexdigest()
