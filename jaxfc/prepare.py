"""Preparation of a dataset: read, validate, drop repeats, split by tool, write; every row is accounted for."""

import collections
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfc.command import InputError, digest
from jaxfc.data.dataset import check_output, write_dataset
from jaxfc.data.example import Example
from jaxfc.data.repair import REPAIRS
from jaxfc.data.sources.rows import RawRow
from jaxfc.data.sources.source import read_rows
from jaxfc.data.split import HELD_OUT, TRAIN, place
from jaxfc.data.tasks import SPLITS, generate
from jaxfc.data.validate import REASONS, SPLIT_MIXED, Dropped, Kept, check_example, validate, without_repeats
from jaxfc.files import sha256_of

REPORT = "report.json"
EXAMPLES_NAMED = 2
"""How many ids the report names for each reason and repair."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generated:
    """How many generated tasks are added to each split."""

    seed: int = 0
    """Of the generator."""
    train: int = 0
    """Tasks in `train`."""
    tune: int = 0
    """Tasks in `tune`, whose tools and values neither of the other splits has."""
    held_out: int = 0
    """Tasks in `held_out`, with tools and values that `train` does not have."""

    def __post_init__(self):
        for split in SPLITS:
            if getattr(self, split) < 0:
                raise ValueError(f"tasks.{split} is {getattr(self, split)}; a number of tasks is at least 0.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepare:
    """How rows become a dataset."""

    held_out: float = 0.05
    """About which part of all tools is held out: rows that call them form the split `held_out`."""
    seed: int = 0
    """Decides which tools are held out."""
    tasks: Generated | None = None
    """Generated tasks to add; null adds none."""

    def __post_init__(self):
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}; it is a part of all tools, at least 0 and below 1.")


def prepare(
    config: Prepare,
    inputs: Sequence[Path],
    output: Path | None,
    watch: Callable[[Sequence[RawRow]], Iterable[RawRow]] = iter,
) -> dict[str, Any]:
    """Make a dataset of raw rows.

    All input is read before anything is written, and two runs with the same input and settings write the same bytes.

    Args:
        config: settings.
        inputs: files that `sources.read_rows` reads.
        output: folder to write: shards, manifest.json, report.json. None writes nothing.
        watch: passes the rows on one by one, and may show how far it is.

    Returns:
        The report, as report.json has it.

    Raises:
        InputError: an input is broken, no row is fit, or the output is there already.
        OutputError: the output could not be written.
    """
    if output is not None:
        check_output(output)
    tasks = list(_generated(config.tasks))
    homes = {kept.where: split for split, kept in tasks}
    fixed = {tool.name: split for split, kept in reversed(tasks) for tool in kept.example.tools}
    rows = [row for path in inputs for row in read_rows(path)]
    results = itertools.chain(map(validate, watch(rows)), (kept for _, kept in tasks))
    outcomes: list[Kept | Dropped] = []
    splits: dict[str, list[Example]] = {TRAIN: [], HELD_OUT: []}
    withdrawn: collections.Counter[str] = collections.Counter()
    for result in without_repeats(results):
        if isinstance(result, Kept):
            result = _place(result, homes.get(result.where), fixed, config, splits, withdrawn)
        outcomes.append(result)
    if not any(splits.values()):
        raise InputError(f"none of the {len(rows)} rows is fit to keep: {_most_common(outcomes)}.")
    report = {
        "input_rows": len(rows),
        "generated_rows": len(tasks),
        **_count(outcomes),
        "splits": {name: _describe(examples, withdrawn[name]) for name, examples in splits.items()},
    }
    if output is not None:
        manifest = _manifest(config, inputs, report)
        write_dataset(output, splits, manifest, {REPORT: json.dumps(report, indent=2, ensure_ascii=False) + "\n"})
    return report


def _generated(tasks: Generated | None) -> Iterator[tuple[str, Kept]]:
    """The generated tasks, each with its split, held to the same check as rows."""
    for split in SPLITS if tasks else ():
        for index in range(getattr(tasks, split)):
            example = generate(tasks.seed, split, index)
            check_example(example)
            yield split, Kept(example, (), f"tasks/{split}/{index}")


def _place(
    kept: Kept,
    home: str | None,
    fixed: Mapping[str, str],
    config: Prepare,
    splits: dict[str, list[Example]],
    withdrawn: collections.Counter[str],
) -> Kept | Dropped:
    """Add a kept example to its split; a generated task has one already (`home`)."""
    if home is not None:
        splits.setdefault(home, []).append(kept.example)
        return kept
    placed = place(kept.example, fixed, held_out=config.held_out, seed=config.seed)
    if placed is None:
        called = ", ".join(call.name for call in kept.example.accepted)
        return Dropped(kept.example.id, kept.example.source, SPLIT_MIXED, f"calls {called}", kept.where)
    splits.setdefault(placed.split, []).append(placed.example)
    withdrawn[placed.split] += placed.withdrawn > 0
    return dataclasses.replace(kept, example=placed.example)


def _count(outcomes: Sequence[Kept | Dropped]) -> dict[str, Any]:
    """Rows by source, reason and repair, each reason and repair with the ids of its first rows."""
    sources: dict[str, Any] = {}
    reasons: dict[str, list[Dropped]] = {}
    repairs: dict[str, list[Kept]] = {}
    for outcome in outcomes:
        source = outcome.source if isinstance(outcome, Dropped) else outcome.example.source
        counts = sources.setdefault(source, {"rows": 0, "kept": 0, "repaired": 0, "dropped": {}})
        counts["rows"] += 1
        if isinstance(outcome, Dropped):
            counts["dropped"][outcome.reason] = counts["dropped"].get(outcome.reason, 0) + 1
            reasons.setdefault(outcome.reason, []).append(outcome)
        else:
            counts["kept"] += 1
            counts["repaired"] += bool(outcome.repairs)
            for repair in outcome.repairs:
                repairs.setdefault(repair, []).append(outcome)
    return {
        "kept": sum(counts["kept"] for counts in sources.values()),
        "repaired": sum(counts["repaired"] for counts in sources.values()),
        "dropped": sum(map(len, reasons.values())),
        "sources": dict(sorted(sources.items())),
        "reasons": {
            reason: {
                "rows": len(reasons[reason]),
                "meaning": meaning,
                "examples": [f"{row.id} ({row.where}): {row.detail}" for row in reasons[reason][:EXAMPLES_NAMED]],
            }
            for reason, meaning in REASONS.items()
            if reason in reasons
        },
        "repairs": {
            repair: {
                "rows": len(repairs[repair]),
                "meaning": meaning,
                "examples": [f"{kept.example.id} ({kept.where})" for kept in repairs[repair][:EXAMPLES_NAMED]],
            }
            for repair, meaning in REPAIRS.items()
            if repair in repairs
        },
    }


def _describe(examples: Sequence[Example], withdrawn: int) -> dict[str, Any]:
    return {
        "examples": len(examples),
        "kinds": dict(sorted(collections.Counter(example.kind for example in examples).items())),
        "licences": dict(sorted(collections.Counter(example.licence for example in examples).items())),
        "tools": len({tool.name for example in examples for tool in example.tools}),
        "offers_cut": withdrawn,
    }


def _manifest(config: Prepare, inputs: Sequence[Path], report: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "config": dataclasses.asdict(config),
        "config_sha256": digest(config),
        "inputs": [{"file": path.name, "sha256": sha256_of(path)} for path in inputs],
        "counts": {key: report[key] for key in ("input_rows", "generated_rows", "kept", "repaired", "dropped")}
        | {"sources": report["sources"]}
        | {key: {name: found["rows"] for name, found in report[key].items()} for key in ("reasons", "repairs")},
    }


def _most_common(outcomes: Iterable[Kept | Dropped]) -> str:
    counts = collections.Counter(outcome.reason for outcome in outcomes if isinstance(outcome, Dropped))
    return "; ".join(f"{reason} ({count})" for reason, count in counts.most_common(3)) or "there are none"
