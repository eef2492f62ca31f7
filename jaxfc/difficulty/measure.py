"""How hard examples are for a model: the part of its completions that is right, as a column of a new dataset."""

import collections
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxfc.calls.match import Verdict, judge_answer
from jaxfc.calls.parse import Syntax
from jaxfc.command import InputError
from jaxfc.config import Prompt
from jaxfc.data.dataset import Split, open_split, read_manifest
from jaxfc.data.example import Example
from jaxfc.data.prompts import answer_of
from jaxfc.data.shards import check_output, write_dataset
from jaxfc.difficulty.completing import Complete, Completed
from jaxfc.files import explain_failure, write_atomically
from jaxfc.processes import deal, exchange, from_writer
from jaxfc.rewards import judge_completion

REPORT = "difficulty.json"
BESIDE = ("report.json", "README.md")
"""What the preparation left beside the shards, and is true of the new dataset as well."""
NOT_ASKED = "not asked: the prompt is too long, or was refused"


class Fared(NamedTuple):
    """How a model fared with one example."""

    kind: str
    right: int
    samples: int
    """0: it could not be asked."""
    reasons: Mapping[str, int]
    """Reason of a verdict, `ok` when right -> completions."""

    @property
    def pass_rate(self) -> float | None:
        """0 to 1; None where it could not be asked."""
        return self.right / self.samples if self.samples else None


Place = tuple[str, int]
"""Split and index of an example."""


def measure(
    data: Path,
    output: Path,
    splits: Sequence[str],
    complete: Complete,
    judge: Callable[[str, Example], Verdict],
    *,
    settings: Mapping[str, Any],
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure the pass rates of a dataset's examples, and write a dataset that has them.

    What was measured stands in `<output>.partial.jsonl` until the dataset is there; called again with the same data and
    settings, it goes on from that. On several processes all call it, and process 0 reads and writes the files.

    Args:
        data: folder of the dataset.
        output: a new folder.
        splits: those to measure; the others are copied.
        complete: see `Complete`.
        judge: (completion, example) -> its verdict.
        settings: what decides the pass rates, as JSON; kept in the manifest and in the report.
        report: is given a line about the progress now and then.

    Returns:
        The report, which is `difficulty.json` of the new folder.

    Raises:
        InputError: a folder is not right, the endpoint is down, or the progress is of other data or settings.
        OutputError: the output could not be written.
    """
    manifest, opened = open_dataset(data, splits)
    from_writer(lambda: check_output(output))
    partial = output.with_name(f"{output.name}.partial.jsonl")
    digest = _digest(manifest, splits, settings)
    if len(set(exchange(digest))) > 1:
        raise InputError("the processes measure different data or settings; give all of them the same.")
    done = from_writer(lambda: _open_progress(partial, digest))
    for split in splits:
        waiting = [index for index in range(len(opened[split])) if (split, index) not in done]
        for completed in complete(opened[split], waiting):
            fared = {(split, each.index): one for each, one in zip(completed, _judged(completed, judge), strict=True)}
            from_writer(lambda fared=fared: _append(partial, fared))
            done |= fared
            report(f"{split}: {sum(place[0] == split for place in done)} of {len(opened[split])} measured")
    document = {"settings": dict(settings), "splits": {split: _summary(done, split) for split in splits}}
    from_writer(lambda: _write(data, output, manifest, opened, done, document))
    from_writer(partial.unlink)
    return document


def judge_of(verdict: Literal["reward", "evaluation"], prompt: Prompt) -> Callable[[str, Example], Verdict]:
    """What says whether a completion is right: as training's reward does, or as an evaluation does."""
    if verdict == "reward":
        return lambda text, example: judge_completion(text.encode(errors="replace"), example, prompt, Syntax.STRICT)
    return lambda text, example: judge_answer(answer_of(text, prompt), example.tools, example.accepted, Syntax.BFCL)


def open_dataset(data: Path, splits: Sequence[str]) -> tuple[dict[str, Any], dict[str, Split]]:
    """The manifest of a dataset, and all its splits.

    Raises:
        InputError: it is damaged, or has no such split.
    """
    manifest = read_manifest(data)
    opened = {split: open_split(data, split) for split in [*splits, *manifest["splits"]]}
    return manifest, {split: opened[split] for split in manifest["splits"]}


def _judged(completed: Sequence[Completed], judge: Callable[[str, Example], Verdict]) -> list[Fared]:
    def fared(each: Completed) -> Fared:
        if each.texts is None:
            return Fared(each.example.kind, 0, 0, {NOT_ASKED: 1})
        verdicts = [judge(text, each.example) for text in each.texts]
        reasons = collections.Counter("ok" if verdict.ok else verdict.reason for verdict in verdicts)
        return Fared(each.example.kind, sum(verdict.ok for verdict in verdicts), len(verdicts), dict(reasons))

    return deal(fared, completed)


def _digest(manifest: Mapping[str, Any], splits: Sequence[str], settings: Mapping[str, Any]) -> str:
    shards = {split: manifest["splits"][split]["shards"] for split in splits}
    return hashlib.sha256(json.dumps([shards, settings], sort_keys=True).encode()).hexdigest()


def _open_progress(path: Path, digest: str) -> dict[Place, Fared]:
    """What an interrupted run measured; a new file with nothing in it if there was none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"difficulty": digest}) + "\n")
    content = path.read_bytes()
    # A line that was being written has no end yet.
    os.truncate(path, content.rfind(b"\n") + 1)
    header, *lines = content[: content.rfind(b"\n") + 1].splitlines() or [b""]
    try:
        found = json.loads(header)
        rows = map(json.loads, lines)
        done = {(row.pop("split"), row.pop("index")): Fared(**row) for row in rows}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: not the progress of an interrupted measurement ({error}); remove it.") from error
    if found != {"difficulty": digest}:
        raise InputError(
            f"{path}: an interrupted measurement of other data, another model or other settings; give another output "
            "folder, or remove the file to start again."
        )
    return done


def _append(path: Path, fared: Mapping[Place, Fared]) -> None:
    lines = (
        json.dumps({"split": split, "index": index} | one._asdict()) + "\n" for (split, index), one in fared.items()
    )
    with explain_failure(path), path.open("a", encoding="utf-8") as file:
        file.write("".join(lines))
        file.flush()
        os.fsync(file.fileno())


def _summary(done: Mapping[Place, Fared], split: str) -> dict[str, Any]:
    """The pass rates of a split: their means, and how many examples have each."""
    fared = [one for place, one in done.items() if place[0] == split]
    asked = [one for one in fared if one.samples]
    reasons = sum((collections.Counter(one.reasons) for one in fared), collections.Counter())
    kinds = sorted({one.kind for one in asked})
    return {
        "examples": len(fared),
        "not_asked": len(fared) - len(asked),
        "mean": _mean(asked),
        "kinds": {kind: _mean(one for one in asked if one.kind == kind) for kind in kinds},
        "right": dict(sorted(collections.Counter(one.right for one in asked).items())),
        "reasons": dict(reasons.most_common()),
    }


def _mean(fared: Iterable[Fared]) -> float | None:
    rates = [one.pass_rate for one in fared]
    return sum(rates) / len(rates) if rates else None


def _write(
    data: Path,
    output: Path,
    manifest: Mapping[str, Any],
    opened: Mapping[str, Split],
    done: Mapping[Place, Fared],
    document: Mapping[str, Any],
) -> None:
    def examples(split: str) -> Iterator[Example]:
        for index in range(len(opened[split])):
            example = opened[split][index]
            measured = done.get((split, index))
            yield dataclasses.replace(example, pass_rate=measured.pass_rate) if measured else example

    kept = {name: value for name, value in manifest.items() if name not in ("format", "versions", "splits")}
    beside = {path.name: path.read_text(encoding="utf-8") for path in map(data.joinpath, BESIDE) if path.is_file()}
    beside[REPORT] = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    kept["difficulty"] = document["settings"]
    write_dataset(output, {split: examples(split) for split in opened}, kept, beside)
