"""A model's conversations -> verdicts, `outputs.jsonl` and `scores.json`; interrupted ones are begun again."""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxfc.bfcl.backend import Backend
from jaxfc.bfcl.files import Messages
from jaxfc.bfcl.multi_turn import Conversation
from jaxfc.bfcl.results import write_result_rows
from jaxfc.bfcl.talk import Failed, Generate, Talk, converse
from jaxfc.bfcl.turns import judge_conversation
from jaxfc.command import InputError
from jaxfc.completions import make_greedy
from jaxfc.data.prompts import Form
from jaxfc.decoding import make_steps
from jaxfc.evaluate import BATCHES_AT_ONCE, Outcome, Scores, score
from jaxfc.files import to_json, write_atomically
from jaxfc.metrics import is_writer
from jaxfc.outputs import append_rows, lines, open_partial
from jaxfc.processes import exchange, from_writer
from jaxfc.sampler import make_sampler
from jaxfc.workspace import Workspace


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
        """As BFCL's result files have it; there too, what had to be given up is wrong."""
        if not self.is_whole:
            return f"Error during inference: {self.detail}"
        return [[step["answer"] for step in steps] for steps in self.turns]


def evaluate_model_conversations(
    work: Workspace,
    conversations: Sequence[Conversation],
    folder: Path,
    open_backend: Callable[[], Backend],
    *,
    form: Form,
    messages_of: Messages,
    buckets: Sequence[int],
    completion_length: int,
    batch: int,
    summarize: Callable[[Scores], Mapping[str, Any]] = lambda scores: {},
) -> Scores:
    """Let a model hold all conversations, greedily, into `folder`; see `evaluate_conversations`.

    Args:
        work: the model.
        conversations: at least one, with unique ids.
        folder: where `outputs.jsonl` and `scores.json` go.
        open_backend: starts the process that runs the calls.
        form: how the model is asked.
        messages_of: makes the messages that a conversation begins with.
        buckets: rising prompt lengths, in tokens; a conversation that becomes longer than the last is wrong.
        completion_length: tokens after which a completion is cut.
        batch: prompts decoded together; the mesh splits it evenly.
        summarize: makes the `aggregates` of `scores.json`.

    Raises:
        InputError: as of `evaluate_conversations`.
    """
    steps = make_steps(work.decoder, work.mesh, group_size=1, length=completion_length, vocabulary=work.vocabulary)
    sizes = {"buckets": buckets, "batch": batch, "max_tokens": completion_length}
    greedy = make_greedy(make_sampler(steps, work.mesh), work.tokenizer, form, work.mesh, **sizes)
    settings = {
        "model": work.digest,
        "prompt": dict(form.settings),
        "prompt_buckets": list(buckets),
        "completion_length": completion_length,
        "compute": jax.numpy.dtype(work.decoder.dtype).name,
    }

    def report(line: str):
        if is_writer():
            print(line, file=sys.stderr)

    return evaluate_conversations(
        folder,
        conversations,
        functools.partial(greedy, work.params),
        form.answer_of,
        open_backend,
        messages_of=messages_of,
        settings=settings,
        at_once=BATCHES_AT_ONCE * batch,
        summarize=summarize,
        report=report,
    )


def evaluate_conversations(
    folder: Path,
    conversations: Sequence[Conversation],
    generate: Generate,
    answer_of: Callable[[str], str],
    open_backend: Callable[[], Backend],
    *,
    messages_of: Messages,
    settings: Mapping[str, Any],
    at_once: int,
    summarize: Callable[[Scores], Mapping[str, Any]] = lambda scores: {},
    report: Callable[[str], None] = lambda line: None,
) -> Scores:
    """Hold all conversations, and judge them by BFCL's rules.

    Until `outputs.jsonl` and `scores.json` are there, conversations that are over stand in `outputs.partial.jsonl`;
    called again with the same conversations and settings, it goes on from them. On several hosts process 0 runs the
    calls, reads and writes.

    Args:
        folder: where the files go; made if need be.
        conversations: at least one, with unique ids.
        generate: asked for up to `at_once` completions at a time.
        answer_of: takes the answer out of a completion.
        open_backend: starts the process that runs the calls.
        messages_of: makes the messages that a conversation begins with.
        settings: what decides the completions (model, its digest, prompt, limits), as JSON; kept in `scores.json`.
        at_once: conversations under way at the same time, and so the most that an interruption can lose.
        summarize: makes the `aggregates` of `scores.json`.
        report: is given a line about the progress.

    Raises:
        InputError: ids repeat, the folder holds a partial evaluation of other conversations or settings, or the backend
            lacks the simulated APIs.
    """
    repeated = [name for name, count in collections.Counter(talk.id for talk in conversations).items() if count > 1]
    if repeated:
        raise InputError(f"conversation id {repeated[0]!r} occurs more than once; outputs are kept by id.")
    partial, digest = folder / "outputs.partial.jsonl", _digest(conversations, settings, messages_of)
    if len(set(exchange(digest))) > 1:
        raise InputError("the processes evaluate different models, data or settings; give all of them the same.")
    held = from_writer(lambda: open_partial(partial, digest, lambda row: Talked(**row)))
    done = {talked.id: talked for talked in held}
    waiting = [conversation for conversation in conversations if conversation.id not in done]
    with open_backend() if waiting and is_writer() else contextlib.nullcontext() as backend:
        for talks in converse(waiting, generate, answer_of, backend, at_once=at_once, messages_of=messages_of):
            fresh = from_writer(functools.partial(_judge_and_append, partial, talks, backend))
            done.update((talked.id, talked) for talked in fresh)
            right = sum(talked.ok for talked in done.values())
            report(f"{len(done)} of {len(conversations)} conversations held, {right} right")
    outcomes = [done[conversation.id] for conversation in conversations]
    scores = score([Outcome(each.id, each.kind, None, "", each.ok, each.reason, each.detail) for each in outcomes])
    document = scores.to_json() | {"aggregates": dict(summarize(scores)), "settings": dict(settings)}

    def write():
        write_atomically(folder / "outputs.jsonl", lines(outcome._asdict() for outcome in outcomes))
        write_atomically(folder / "scores.json", to_json(document, indent=2) + "\n")
        partial.unlink()

    from_writer(write)
    return scores


def _judge_and_append(partial: Path, talks: Sequence[Talk], backend: Backend) -> list[Talked]:
    outcomes = [_judged(talk, backend) for talk in talks]
    append_rows(partial, [outcome._asdict() for outcome in outcomes])
    return outcomes


def _judged(talk: Talk, backend: Backend) -> Talked:
    conversation = talk.conversation
    turns = [[step._asdict() for step in steps] for steps in talk.turns]
    if isinstance(talk.failed, Failed):
        return Talked(conversation.id, conversation.category, False, *talk.failed, is_whole=False, turns=turns)
    transcript = [[step.answer for step in steps] for steps in talk.turns]
    verdict = judge_conversation(conversation, transcript, backend)
    return Talked(conversation.id, conversation.category, *verdict, is_whole=True, turns=turns)


def _digest(conversations: Sequence[Conversation], settings: Mapping[str, Any], messages_of: Messages) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for talk in conversations:
        first = messages_of(talk.turns[0], talk.functions, talk.category)
        digest.update(json.dumps([dataclasses.asdict(talk), list(first)], sort_keys=True).encode())
    return digest.hexdigest()


def write_conversation_results(source: Path, folder: Path, name: str):
    """Write the answers as `bfcl evaluate` reads them, `result/<name>/multi_turn/BFCL_v4_<category>_result.json`.

    Args:
        source: where `evaluate_conversations` left its `outputs.jsonl`.
        folder: `BFCL_PROJECT_ROOT` of the official command.
        name: of the model in bfcl-eval's registry, one that is prompted.

    Raises:
        InputError: it is no such name.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in (source / "outputs.jsonl").read_bytes().splitlines():
        talked = Talked(**json.loads(line))
        rows.setdefault(talked.kind, []).append({"id": talked.id, "result": talked.result})
    write_result_rows(rows, folder, name)
