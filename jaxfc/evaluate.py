"""Completions over examples -> verdicts and scores by kind; an interrupted evaluation continues where it stopped."""

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxfc.calls.match import judge_answer
from jaxfc.calls.parse import Syntax
from jaxfc.command import InputError
from jaxfc.completions import Texts, make_completer
from jaxfc.config import Samples
from jaxfc.constraints import Constraints
from jaxfc.data.example import Example
from jaxfc.data.prompts import Form
from jaxfc.decoding import make_steps
from jaxfc.files import to_json, write_atomically
from jaxfc.metrics import is_writer
from jaxfc.outputs import append_rows, lines, open_partial
from jaxfc.processes import deal, exchange, from_writer
from jaxfc.sampler import make_sampler
from jaxfc.workspace import Workspace

PROMPT_TOO_LONG = "prompt too long"
BATCHES_AT_ONCE = 4
"""Batches whose prompts are dealt into length buckets together: more fill the buckets better, and wait longer."""

Generate = Callable[[Sequence[Example], int], Sequence[Texts]]
"""(examples, number) -> the texts of each. What is drawn at random depends on the number and the examples alone."""


class Outcome(NamedTuple):
    """What became of one completion of an example; a line of `outputs.jsonl`."""

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
    sample: int = 0
    """Which of the example's completions it is."""


class Rate(NamedTuple):
    """How many of some entries are right."""

    correct: float
    """With several completions of each entry, an entry counts the part of them that is right."""
    entries: int
    squares: float
    """The sum of the squares of what the entries count."""
    pass_at: Mapping[int, float]
    """k -> how probably one of k completions is right; empty where one was made of each entry."""

    @property
    def accuracy(self) -> float:
        """0 to 1."""
        return self.correct / self.entries

    @property
    def standard_error(self) -> float:
        """Of the accuracy, for entries drawn independently: with one completion each, sqrt(p (1 - p) / n)."""
        return math.sqrt(max(self.squares / self.entries - self.accuracy**2, 0) / self.entries)

    def to_json(self) -> dict[str, Any]:
        """Accuracy, its standard error, the counts and, where there is one, pass@k."""
        figures = {"accuracy": self.accuracy, "standard_error": self.standard_error}
        figures |= {"correct": self.correct, "entries": self.entries}
        return figures | ({"pass_at": dict(self.pass_at)} if self.pass_at else {})


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


def evaluate(
    examples: Sequence[Example], generate: Generate, answer_of: Callable[[str], str], syntax: Syntax
) -> tuple[Scores, list[Outcome]]:
    """Generate completions for each example and judge them.

    Args:
        examples: at least one.
        generate: see `Generate`.
        answer_of: takes the answer out of a completion: what is left without the think block and the wrapper.
        syntax: how the answer is parsed.
    """
    outcomes = judge_completions(examples, generate(examples, 0), answer_of, syntax)
    return score(outcomes), outcomes


def judge_completions(
    examples: Sequence[Example], texts: Sequence[Texts], answer_of: Callable[[str], str], syntax: Syntax
) -> list[Outcome]:
    """One outcome for each completion, in order. Arguments as of `evaluate`; `texts` are the completions."""

    def judge(pair: tuple[Example, Texts]) -> list[Outcome]:
        example, texts = pair
        if texts is None:
            return [Outcome(example.id, example.kind, None, "", False, PROMPT_TOO_LONG, "")]
        outcomes = []
        for number, text in enumerate(texts):
            answer = answer_of(text)
            verdict = judge_answer(answer, example.tools, example.accepted, syntax)
            outcomes.append(Outcome(example.id, example.kind, text, answer, *verdict, number))
        return outcomes

    return [outcome for outcomes in deal(judge, list(zip(examples, texts, strict=True))) for outcome in outcomes]


def score(outcomes: Sequence[Outcome], pass_at: Sequence[int] = ()) -> Scores:
    """Count at least one outcome, overall, by kind and by reason.

    Args:
        outcomes: all those of an example follow each other.
        pass_at: the k of pass@k, none above the completions of an example.
    """
    kinds: dict[str, list[list[bool]]] = {}
    for (_, kind), of_example in itertools.groupby(outcomes, lambda outcome: (outcome.id, outcome.kind)):
        kinds.setdefault(kind, []).append([outcome.ok for outcome in of_example])
    reasons = collections.Counter(outcome.reason for outcome in outcomes if not outcome.ok)
    return Scores(
        overall=_rate([verdicts for entries in kinds.values() for verdicts in entries], pass_at),
        kinds={kind: _rate(entries, pass_at) for kind, entries in kinds.items()},
        reasons=dict(reasons.most_common()),
    )


def _rate(entries: Sequence[Sequence[bool]], pass_at: Sequence[int]) -> Rate:
    """How often entries are right, given the verdicts on the completions of each."""
    parts = [sum(verdicts) / len(verdicts) if len(verdicts) > 1 else int(verdicts[0]) for verdicts in entries]
    passed = {k: sum(_pass_at(k, verdicts) for verdicts in entries) / len(entries) for k in pass_at}
    return Rate(sum(parts), len(entries), sum(part * part for part in parts), passed)


def _pass_at(k: int, verdicts: Sequence[bool]) -> float:
    """How probably one of k completions is right: 1 - C(n - c, k) / C(n, k), where c of n are.

    It has the expectation of drawing k afresh (Chen et al. 2021, arXiv:2107.03374, section 2.1).
    """
    if not any(verdicts):
        return 0.0
    return 1 - math.comb(len(verdicts) - sum(verdicts), k) / math.comb(len(verdicts), k)


def evaluate_model(
    work: Workspace,
    examples: Sequence[Example],
    folder: Path,
    *,
    form: Form,
    buckets: Sequence[int],
    completion_length: int,
    batch: int,
    constrain: bool = False,
    samples: Samples | None = None,
    summarize: Callable[[Scores], Mapping[str, Any]] = lambda scores: {},
) -> Scores:
    """Complete every example and judge the answers by BFCL's rules, into `folder`; see `evaluate_into`.

    Args:
        work: the model.
        examples: at least one, with unique ids.
        folder: where `outputs.jsonl` and `scores.json` go.
        form: how the model is asked.
        buckets: rising prompt lengths, in tokens; an example whose prompt is longer than the last is wrong.
        completion_length: tokens after which a completion is cut.
        batch: prompts decoded together; the mesh splits it evenly.
        constrain: hold the answers to calls of the offered tools that parse; they stand where `work.prompt` has them.
        samples: completions to draw of each example; None is one greedy completion.
        summarize: makes the `aggregates` of `scores.json`.

    Raises:
        InputError: as of `evaluate_into`.
    """
    group_size, temperature = (1, 0.0) if samples is None else (samples.count, samples.temperature)
    length, vocabulary = completion_length, work.vocabulary
    steps = make_steps(work.decoder, work.mesh, group_size=group_size, length=length, vocabulary=vocabulary)
    constraints = Constraints(work.tokenizer, work.prompt) if constrain else None
    sizes = {"buckets": buckets, "batch": batch, "max_tokens": length}
    drawn = {"group_size": group_size, "temperature": temperature, "constraints": constraints}
    complete = make_completer(make_sampler(steps, work.mesh), work.tokenizer, form, work.mesh, **sizes, **drawn)
    settings = {
        "model": work.digest,
        "prompt": dict(form.settings),
        "prompt_buckets": list(buckets),
        "completion_length": completion_length,
        "constrain": constrain,
        "compute": jax.numpy.dtype(work.decoder.dtype).name,
    }
    if samples is not None:
        # Of what is drawn, unlike of what is likeliest, the random numbers depend on the batch.
        settings |= {"samples": dataclasses.asdict(samples), "batch": batch}
    key = jax.random.key(0 if samples is None else samples.seed)

    def generate(chosen: Sequence[Example], number: int) -> Sequence[Texts]:
        return complete(work.params, chosen, jax.random.fold_in(key, number))

    def report(line: str):
        if is_writer():
            print(line, file=sys.stderr)

    return evaluate_into(
        folder,
        examples,
        generate,
        form.answer_of,
        Syntax.BFCL,
        settings=settings,
        batch_size=BATCHES_AT_ONCE * batch,
        samples=group_size,
        pass_at=() if samples is None else samples.pass_at,
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
    samples: int = 1,
    pass_at: Sequence[int] = (),
    summarize: Callable[[Scores], Mapping[str, Any]] = lambda scores: {},
    report: Callable[[str], None] = lambda line: None,
) -> Scores:
    """`evaluate`, batch by batch, into `outputs.jsonl` and `scores.json`.

    Until both are there, finished batches stand in `outputs.partial.jsonl`; called again with the same examples and
    settings, it continues from them. On several hosts process 0 reads and writes them.

    Args:
        folder: where the files go; made if need be.
        examples: at least one, with unique ids.
        generate: called with `batch_size` examples at a time, and how many calls came before.
        answer_of: see `evaluate`.
        syntax: how the answer is parsed.
        settings: what decides the completions (model, its digest, prompt, limits), as JSON; kept in `scores.json`.
        batch_size: examples whose results are written at once, and so the most that an interruption can lose.
        samples: completions of each example.
        pass_at: the k of pass@k, at most `samples`.
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
    outcomes: list[Outcome] = []
    for number, start in enumerate(range(0, len(examples), batch_size)):
        batch = examples[start : start + batch_size]
        found = [outcome for example in batch for outcome in done.get(example.id, [])]
        if any(not _is_complete(done.get(example.id, []), samples) for example in batch):
            # As a whole: what is drawn for an example depends on those beside it.
            found = judge_completions(batch, generate(batch, number), answer_of, syntax)
            there = {(outcome.id, outcome.sample) for example in batch for outcome in done.get(example.id, [])}
            news = [outcome for outcome in found if (outcome.id, outcome.sample) not in there]
            from_writer(functools.partial(append_rows, partial, [outcome._asdict() for outcome in news]))
            right = sum(outcome.ok for outcome in [*outcomes, *found])
            report(f"{start + len(batch)} of {len(examples)} evaluated, {right / samples:g} right")
        outcomes += found
    scores = score(outcomes, pass_at)
    document = scores.to_json() | {"aggregates": dict(summarize(scores)), "settings": dict(settings)}

    def write():
        write_atomically(folder / "outputs.jsonl", lines(outcome._asdict() for outcome in outcomes))
        write_atomically(folder / "scores.json", to_json(document, indent=2) + "\n")
        partial.unlink()

    from_writer(write)
    return scores


def _is_complete(outcomes: Sequence[Outcome], samples: int) -> bool:
    """Whether these are all outcomes of an example; a prompt that is too long has one."""
    return len(outcomes) == samples or any(outcome.text is None for outcome in outcomes)


def _digest(examples: Sequence[Example], settings: Mapping[str, Any], syntax: Syntax) -> str:
    digest = hashlib.sha256(json.dumps([settings, syntax.name], sort_keys=True).encode())
    for example in examples:
        digest.update(repr(example).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _open_partial(path: Path, digest: str) -> dict[str, list[Outcome]]:
    """The outcomes of an interrupted evaluation, by id; a new file with nothing in it if there was none."""
    done: dict[str, list[Outcome]] = {}
    for outcome in open_partial(path, digest, lambda row: Outcome(**row)):
        done.setdefault(outcome.id, []).append(outcome)
    return done


def read_outcomes(folder: Path) -> list[Outcome]:
    """What `evaluate_into` left in a folder."""
    return [Outcome(**json.loads(line)) for line in (folder / "outputs.jsonl").read_bytes().splitlines()]
