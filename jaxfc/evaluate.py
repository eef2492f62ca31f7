"""Completions over examples -> verdicts and scores by kind; an interrupted evaluation continues where it stopped."""

import collections
import dataclasses
import functools
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh as DeviceMesh

from jaxfc.calls.match import judge_answer
from jaxfc.calls.parse import Syntax
from jaxfc.command import InputError
from jaxfc.config import Prompt
from jaxfc.constraints import Constraints
from jaxfc.data.example import Example
from jaxfc.data.pipeline import bucket_of, pad_prompts
from jaxfc.data.prompts import Tokenizer, answer_of, prompt_tokens
from jaxfc.decoding import make_steps
from jaxfc.draws import make_sampling
from jaxfc.files import explain_failure, to_json, write_atomically
from jaxfc.metrics import is_writer
from jaxfc.processes import deal, exchange, from_writer
from jaxfc.sampler import Effort, make_sampler
from jaxfc.sharding import held, place_held, place_key, place_replicated, share_of
from jaxfc.types import Params, Rollouts
from jaxfc.workspace import Workspace

PROMPT_TOO_LONG = "prompt too long"
BATCHES_AT_ONCE = 4
"""Batches whose prompts are dealt into length buckets together: more fill the buckets better, and wait longer."""

Generate = Callable[[Sequence[Example]], Sequence[str | None]]
"""Examples -> the text of one completion each; None where the prompt is longer than the largest bucket."""


class Outcome(NamedTuple):
    """What became of one example; a line of `outputs.jsonl`."""

    id: str
    kind: str
    text: str | None
    """The whole completion; None: there is none, the prompt was too long."""
    answer: str
    """The part of the text that was judged."""
    ok: bool
    reason: str
    """Why it is wrong; `ok` when it is right."""
    detail: str


class Rate(NamedTuple):
    """How many of some entries are right."""

    correct: int
    entries: int

    @property
    def accuracy(self) -> float:
        """0 to 1."""
        return self.correct / self.entries

    @property
    def standard_error(self) -> float:
        """Of the accuracy, for entries drawn independently: sqrt(p (1 - p) / n)."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.entries)

    def to_json(self) -> dict[str, float | int]:
        """Accuracy, its standard error and the counts."""
        return {"accuracy": self.accuracy, "standard_error": self.standard_error} | self._asdict()


class Scores(NamedTuple):
    """How often the answers are right: exactly, each whole answer 0 or 1."""

    overall: Rate
    """Every entry weighs the same."""
    kinds: dict[str, Rate]
    reasons: dict[str, int]
    """Reason of a wrong answer -> how often, most frequent first."""

    def to_json(self) -> dict[str, Any]:
        """The body of `scores.json`: `overall` is the accuracy, with its standard error and counts beside it."""
        head = self.overall.to_json()
        kinds = {kind: rate.to_json() for kind, rate in self.kinds.items()}
        return {"overall": head.pop("accuracy")} | head | {"kinds": kinds, "reasons": self.reasons}


def make_greedy(
    sample: Callable[..., tuple[Rollouts, Effort]],
    tokenizer: Tokenizer,
    prompt: Prompt,
    mesh: DeviceMesh,
    *,
    buckets: Sequence[int],
    batch: int,
    max_tokens: int,
    constraints: Constraints | None = None,
) -> Callable[[Params, Sequence[Example]], list[str | None]]:
    """Make `(params, examples) -> texts`, greedily; with `params` bound it is a `Generate`.

    Every call of `sample` has `batch` rows of one bucket, so it compiles at most once per bucket.

    Args:
        sample: made by `make_sampler` with a group size of 1.
        tokenizer: the model's.
        prompt: how an example becomes a prompt.
        mesh: where the prompts are placed.
        buckets: rising lengths in tokens; a prompt longer than the last has no completion.
        batch: prompts decoded together.
        max_tokens: a completion is cut after this many.
        constraints: hold the answers to calls of the offered tools; None leaves them free.
    """
    sampling = place_replicated(
        mesh, make_sampling(temperature=0.0, stop_tokens=(tokenizer.eos,), max_tokens=max_tokens)
    )
    key = place_key(mesh, jax.random.key(0))  # Greedy decoding draws nothing.

    share = share_of(mesh, batch)

    def complete(
        params: Params, examples: Sequence[Example], chosen: Sequence[int], tokens_of: Callable, bucket: int
    ) -> dict[int, str]:
        """Texts of a batch of examples, chosen by index: of those that are this process's own."""
        mine = [chosen[row] if row < len(chosen) else None for row in share.held]
        prompts = pad_prompts([[] if index is None else tokens_of(index) for index in mine], bucket)
        held_to = constraints and constraints.begin(
            [None if index is None else examples[index] for index in mine], group_size=1
        )
        rollouts, _ = sample(params, place_held(mesh, prompts), key, sampling, constrained=held_to)
        tokens, lengths, ended = held((rollouts.tokens, rollouts.lengths, rollouts.ended))
        # The token that ends a completion is no part of its text.
        rows = zip(mine, share.own, tokens, lengths - ended.astype(np.int32), strict=True)
        return {index: tokenizer.text(row[:n].tolist()) for index, own, row, n in rows if own and index is not None}

    def generate(params: Params, examples: Sequence[Example]) -> list[str | None]:
        tokens_of = functools.cache(lambda index: prompt_tokens(examples[index], tokenizer, prompt))
        placed = deal(lambda index: bucket_of(len(tokens_of(index)), buckets), range(len(examples)))
        texts: dict[int, str] = {}
        for bucket in buckets:
            waiting = [index for index, its_bucket in enumerate(placed) if its_bucket == bucket]
            for start in range(0, len(waiting), batch):
                texts |= complete(params, examples, waiting[start : start + batch], tokens_of, bucket)
        everywhere = {index: text for of_process in exchange(texts) for index, text in of_process.items()}
        return [everywhere.get(index) for index in range(len(examples))]

    return generate


def evaluate(
    examples: Sequence[Example], generate: Generate, answer_of: Callable[[str], str], syntax: Syntax
) -> tuple[Scores, list[Outcome]]:
    """Generate one completion for each example and judge it.

    Args:
        examples: at least one.
        generate: see `Generate`.
        answer_of: takes the answer out of a completion: what is left without the think block and the wrapper.
        syntax: how the answer is parsed.
    """
    outcomes = judge_completions(examples, generate(examples), answer_of, syntax)
    return score(outcomes), outcomes


def judge_completions(
    examples: Sequence[Example], texts: Sequence[str | None], answer_of: Callable[[str], str], syntax: Syntax
) -> list[Outcome]:
    """One outcome for each example, in order. Arguments as of `evaluate`; `texts` are the completions."""

    def judge(pair: tuple[Example, str | None]) -> Outcome:
        example, text = pair
        if text is None:
            return Outcome(example.id, example.kind, None, "", False, PROMPT_TOO_LONG, "")
        answer = answer_of(text)
        verdict = judge_answer(answer, example.tools, example.accepted, syntax)
        return Outcome(example.id, example.kind, text, answer, verdict.ok, verdict.reason, verdict.detail)

    return deal(judge, list(zip(examples, texts, strict=True)))


def score(outcomes: Sequence[Outcome]) -> Scores:
    """Count at least one outcome, overall, by kind and by reason."""
    entries = collections.Counter(outcome.kind for outcome in outcomes)
    correct = collections.Counter(outcome.kind for outcome in outcomes if outcome.ok)
    reasons = collections.Counter(outcome.reason for outcome in outcomes if not outcome.ok)
    return Scores(
        overall=Rate(correct.total(), entries.total()),
        kinds={kind: Rate(correct[kind], count) for kind, count in entries.items()},
        reasons=dict(reasons.most_common()),
    )


def evaluate_model(
    work: Workspace,
    examples: Sequence[Example],
    folder: Path,
    *,
    buckets: Sequence[int],
    completion_length: int,
    batch: int,
    constrain: bool = False,
    summarize: Callable[[Scores], Mapping[str, float]] = lambda scores: {},
) -> Scores:
    """Complete every example greedily and judge the answers by BFCL's rules, into `folder`; see `evaluate_into`.

    Args:
        work: the model.
        examples: at least one, with unique ids.
        folder: where `outputs.jsonl` and `scores.json` go.
        buckets: rising prompt lengths, in tokens; an example whose prompt is longer than the last is wrong.
        completion_length: tokens after which a completion is cut.
        batch: prompts decoded together; the mesh splits it evenly.
        constrain: hold the answers to calls of the offered tools that parse.
        summarize: makes the `aggregates` of `scores.json`.

    Raises:
        InputError: as of `evaluate_into`.
    """
    steps = make_steps(work.decoder, work.mesh, group_size=1, length=completion_length, vocabulary=work.vocabulary)
    sample = make_sampler(steps, work.mesh)
    constraints = Constraints(work.tokenizer, work.prompt) if constrain else None
    sizes = {"buckets": buckets, "batch": batch, "max_tokens": completion_length}
    greedy = make_greedy(sample, work.tokenizer, work.prompt, work.mesh, **sizes, constraints=constraints)
    settings = {
        "model": work.digest,
        "prompt": dataclasses.asdict(work.prompt),
        "prompt_buckets": list(buckets),
        "completion_length": completion_length,
        "constrain": constrain,
        "compute": jax.numpy.dtype(work.decoder.dtype).name,
    }

    def report(line: str):
        if is_writer():
            print(line, file=sys.stderr)

    return evaluate_into(
        folder,
        examples,
        functools.partial(greedy, work.params),
        lambda text: answer_of(text, work.prompt),
        Syntax.BFCL,
        settings=settings,
        batch_size=BATCHES_AT_ONCE * batch,
        summarize=summarize,
        report=report,
    )


def evaluate_into(
    folder: Path,
    examples: Sequence[Example],
    generate: Generate,
    answer_of: Callable[[str], str],
    syntax: Syntax,
    *,
    settings: Mapping[str, Any],
    batch_size: int,
    summarize: Callable[[Scores], Mapping[str, float]] = lambda scores: {},
    report: Callable[[str], None] = lambda line: None,
) -> Scores:
    """`evaluate`, batch by batch, into `outputs.jsonl` and `scores.json`.

    Until both are there, finished batches stand in `outputs.partial.jsonl`; called again with the same examples and
    settings, it continues from them. On several hosts process 0 reads and writes them.

    Args:
        folder: where the files go; made if need be.
        examples: at least one, with unique ids.
        generate: called with up to `batch_size` examples at a time.
        answer_of: see `evaluate`.
        syntax: how the answer is parsed.
        settings: what decides the completions (model, its digest, prompt, limits), as JSON; kept in `scores.json`.
        batch_size: examples whose results are written at once, and so the most that an interruption can lose.
        summarize: makes the `aggregates` of `scores.json`.
        report: is given a line about the progress after each batch.

    Raises:
        InputError: ids repeat, or the folder holds a partial evaluation of other examples or settings.
    """
    if len({example.id for example in examples}) != len(examples):
        repeated, _ = collections.Counter(example.id for example in examples).most_common(1)[0]
        raise InputError(f"example id {repeated!r} occurs more than once; outputs are kept by id.")
    partial, digest = folder / "outputs.partial.jsonl", _digest(examples, settings, syntax)
    if len(set(exchange(digest))) > 1:
        raise InputError("the processes evaluate different models, examples or settings; give all of them the same.")
    done = from_writer(lambda: _open_partial(partial, digest))
    waiting = [example for example in examples if example.id not in done]
    for start in range(0, len(waiting), batch_size):
        batch = waiting[start : start + batch_size]
        outcomes = judge_completions(batch, generate(batch), answer_of, syntax)
        done.update((outcome.id, outcome) for outcome in outcomes)
        from_writer(functools.partial(_append, partial, outcomes))
        report(f"{len(done)} of {len(examples)} evaluated, {sum(outcome.ok for outcome in done.values())} right")
    outcomes = [done[example.id] for example in examples]
    scores = score(outcomes)
    document = scores.to_json() | {"aggregates": dict(summarize(scores)), "settings": dict(settings)}

    def write():
        write_atomically(folder / "outputs.jsonl", _lines(outcomes))
        write_atomically(folder / "scores.json", to_json(document, indent=2) + "\n")
        partial.unlink()

    from_writer(write)
    return scores


def _digest(examples: Sequence[Example], settings: Mapping[str, Any], syntax: Syntax) -> str:
    digest = hashlib.sha256(json.dumps([settings, syntax.name], sort_keys=True).encode())
    for example in examples:
        digest.update(repr(example).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _open_partial(path: Path, digest: str) -> dict[str, Outcome]:
    """The outcomes of an interrupted evaluation, by id; a new file with nothing in it if there was none."""
    if not path.exists():
        write_atomically(path, json.dumps({"evaluation": digest}) + "\n")
    content = path.read_bytes()
    # A line that was being written has no end yet.
    os.truncate(path, content.rfind(b"\n") + 1)
    header, *rows = path.read_bytes().splitlines() or [b""]
    try:
        found = json.loads(header)
        outcomes = [Outcome(**json.loads(row)) for row in rows]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not the outputs of an interrupted evaluation ({error}); remove it.") from error
    if found != {"evaluation": digest}:
        raise InputError(
            f"{path}: an interrupted evaluation of another model, data or settings; give another output folder, or "
            "remove the file to start again."
        )
    return {outcome.id: outcome for outcome in outcomes}


def _append(path: Path, outcomes: Iterable[Outcome]) -> None:
    with explain_failure(path), path.open("a", encoding="utf-8") as file:
        file.write(_lines(outcomes))
        file.flush()
        os.fsync(file.fileno())


def _lines(outcomes: Iterable[Outcome]) -> str:
    return "".join(json.dumps(outcome._asdict()) + "\n" for outcome in outcomes)
