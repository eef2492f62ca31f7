"""The same preparation past one machine: its stages as Apache Beam transforms, with the records of the local run."""

import dataclasses
import functools
import json
import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import AsDict, AsList, AsSingleton, PCollection, TaggedOutput

from jaxfc.command import InputError
from jaxfc.data.digests import digest_of
from jaxfc.data.example import example_to_json
from jaxfc.data.overlap import EvaluationRows, Hit, after_overlap, read_evaluation
from jaxfc.data.repeats import UniqueIds, repeat
from jaxfc.data.shards import Shard, ShardWriter, check_output, new_dataset
from jaxfc.data.sources.source import read_source
from jaxfc.data.split import HELD_OUT, TRAIN
from jaxfc.data.unchecked import unchecked
from jaxfc.data.validate import Dropped, Kept, validate
from jaxfc.prepare.documents import finish
from jaxfc.prepare.settings import Prepare
from jaxfc.prepare.stages import Settled, finished, generated, settle, splits_of_tools, stages
from jaxfc.prepare.staging import StagedSource, fetch, object_of, put, put_object, put_text, stage, staging, text_of
from jaxfc.prepare.tally import Tally

_KEPT, _EVENTS, _ERRORS = "kept", "events", "errors"
_REPORT, _SHARDS, _EVALUATION = "report.json", "shards.json", "evaluation"
"""Files in the staging folder."""


Order = tuple[int, int]
"""The place of a row in the input: the number of its source, and its number within that."""
Numbered = tuple[Order, Any]
"""A row, or what became of it, with its place."""


class Shared(NamedTuple):
    """What a row has in common with evaluation rows, to be counted."""

    kept: Kept
    hits: list[Hit]
    reason: str
    """For which it is dropped, or empty."""


def prepare_with_beam(config: Prepare, output: Path | None) -> dict[str, Any]:
    """`run.prepare` on a runner of Beam's. Its report is the same, and so are the examples of each split; their order
    within it, and where shards end, are not.

    Raises:
        InputError: an input is broken, no row is fit, the output is there already, or a judge is set.
        OutputError: the output could not be written.
    """
    if config.judge:
        raise InputError(
            "judge and beam are set together. The judge's pace is that of its endpoint, and its replies are in one "
            "process's file: run it without beam."
        )
    if output is None:
        with staging(config.beam.staging) as address:
            return _run(config, address, writes=False)
    check_output(output)
    with new_dataset(output) as folder, staging(config.beam.staging) as address:
        report = _run(config, address, writes=True)
        finish(folder, config, report, _fetch_shards(address, folder))
    return report


def _run(config: Prepare, address: str, *, writes: bool) -> dict[str, Any]:
    """Run the pipeline, and give its report; its shards stay in the staging folder."""
    sources = stage(config.sources, address)
    evaluation = read_evaluation(config.overlap) if config.overlap else None
    put_object(evaluation, FileSystems.join(address, _EVALUATION))
    options = PipelineOptions(list(config.beam.options))
    with beam.Pipeline(config.beam.runner, options) as pipeline:
        settled = _count(pipeline, _stages(pipeline, config, sources, address), config, address)
        if writes:
            _write(settled, round(config.shard_megabytes * 1e6), address)
    found = json.loads(text_of(FileSystems.join(address, _REPORT)))
    if found["errors"]:
        raise InputError(min(found["errors"])[1])
    report, read, made = found["report"], found["read"], found["made"]
    if report["kept"] + report["repaired"] + report["dropped"] != read + made:
        raise RuntimeError(f"{read} rows were read and {made} made, but another number is counted.")
    if report["kept"] + report["repaired"] == 0:
        raise InputError(f"none of the {read} rows is fit to keep: {found['most_common_reasons']}.")
    counts = {"input_rows": read, "generated_rows": made}
    return {"stages": stages(config, judged=False), **counts, **report, "judge": None}


class _Streams(NamedTuple):
    """What comes out of the stages."""

    settled: PCollection
    """(place, `Settled`) of each row that stays."""
    events: list[PCollection]
    """(place, `Dropped` or `Shared`), to be counted."""
    read: PCollection
    made: PCollection
    errors: PCollection
    """(place, message) where an input is broken."""


def _stages(pipeline: beam.Pipeline, config: Prepare, sources: list[StagedSource], address: str) -> _Streams:
    read = (
        pipeline
        | "sources" >> beam.Create(list(enumerate(sources)))
        | "a worker each" >> beam.Reshuffle()
        | "read" >> beam.FlatMap(_read).with_outputs(_ERRORS, main=_KEPT)
    )
    rows = read[_KEPT] | "any worker" >> beam.Reshuffle()
    made = pipeline | "tasks" >> beam.Create([len(sources)]) | "make" >> beam.FlatMap(_make, config.tasks)
    check = validate if config.ast else unchecked
    kept, dropped = _sorted_out(rows | "AST" >> beam.Map(_each, check), "AST")
    kept, events = (kept, made) | "rows and tasks" >> beam.Flatten(), [dropped]
    for reason, digest in config.repeats.digests() if config.repeats else ():
        groups = kept | f"key: {reason}" >> beam.Map(_keyed, digest) | f"group: {reason}" >> beam.GroupByKey()
        kept, dropped = _sorted_out(groups | f"first: {reason}" >> beam.FlatMap(_first, reason), reason)
        events.append(dropped)
    if config.overlap:
        held = kept | "overlap" >> beam.FlatMap(_hold_against, config.overlap.reasons(), address)
        kept, dropped = _sorted_out(held, "overlap")
        events.append(dropped)
    fixed = splits_of_tools(config.tasks)
    settled, dropped = _sorted_out(
        kept | "split" >> beam.Map(_each, functools.partial(settle, fixed=fixed, config=config)), "split"
    )
    own = settled | "key: id" >> beam.Map(_by_id) | "group: id" >> beam.GroupByKey() | "ids" >> beam.FlatMap(_own_ids)
    return _Streams(own, [*events, dropped], read[_KEPT], made, read[_ERRORS])


def _sorted_out(results: PCollection, label: str) -> tuple[PCollection, PCollection]:
    """What goes on, and what is only counted."""
    outputs = results | f"sort out: {label}" >> beam.FlatMap(_sort_out).with_outputs(_EVENTS, main=_KEPT)
    return outputs[_KEPT], outputs[_EVENTS]


def _sort_out(numbered):
    yield TaggedOutput(_EVENTS, numbered) if isinstance(numbered[1], Dropped | Shared) else numbered


def _read(numbered_source):
    """The rows of a source; in place of a mistake in it, its message."""
    number, staged = numbered_source
    with staged.fetched() as source:
        try:
            for row_number, row in enumerate(read_source(source)):
                yield (number, row_number), row
        except InputError as error:
            message = str(error).replace(source.path, staged.source.path) if source.path else str(error)
            yield TaggedOutput(_ERRORS, (number, message))


def _make(number, tasks):
    for task_number, task in enumerate(generated(tasks)):
        yield (number, task_number), task


def _each(numbered, check):
    order, item = numbered
    return order, check(item)


def _keyed(numbered, digest):
    return digest(numbered[1].example), numbered


def _first(group, reason):
    """The first row of those with one digest, and the others as repeats of it."""
    rows = sorted(group[1], key=_order)
    yield rows[0]
    for order, kept in rows[1:]:
        yield order, repeat(kept, reason)


def _order(numbered):
    return numbered[0]


def _hold_against(numbered, reasons, address):
    order, kept = numbered
    hits = _evaluation(FileSystems.join(address, _EVALUATION)).hits(kept.example)
    result = after_overlap(kept, hits, reasons)
    if hits:
        yield order, Shared(kept, hits, result.reason if isinstance(result, Dropped) else "")
    yield order, result


@functools.cache
def _evaluation(address: str) -> EvaluationRows:
    return object_of(address)


def _by_id(numbered):
    return numbered[1].kept.example.id, numbered


def _own_ids(group):
    """The rows with one id, as they are written, in their order."""
    with_own_id = UniqueIds()
    for order, settled in sorted(group[1], key=_order):
        yield order, dataclasses.replace(settled, kept=finished(with_own_id(settled.kept)))


# Counting


def _count(pipeline: beam.Pipeline, streams: _Streams, config: Prepare, address: str) -> PCollection:
    """Count what became of the rows, into a file; gives the rows that stay."""
    events = [*streams.events, streams.settled] | "all events" >> beam.Flatten()
    tally = events | "count" >> beam.CombineGlobally(_Counting())
    sides = {
        "read": AsSingleton(streams.read | "rows read" >> beam.combiners.Count.Globally()),
        "made": AsSingleton(streams.made | "tasks made" >> beam.combiners.Count.Globally()),
        "errors": AsList(streams.errors),
    }
    tally | "report" >> beam.Map(_write_report, address, **sides)
    return streams.settled


class _Counting(beam.CombineFn):
    """Numbered outcomes -> one tally."""

    def create_accumulator(self) -> Tally:
        return Tally((TRAIN, HELD_OUT))

    def add_input(self, tally: Tally, numbered: Numbered) -> Tally:
        order, event = numbered
        match event:
            case Dropped():
                tally.drop(order, event)
            case Shared(kept, hits, reason):
                tally.share(order, kept, hits, reason)
            case Settled(kept, split, withdrawn):
                tally.keep(order, kept, split, withdrawn)
        return tally

    def merge_accumulators(self, tallies: Iterable[Tally]) -> Tally:
        merged = self.create_accumulator()
        for tally in tallies:
            merged.merge(tally)
        return merged

    def extract_output(self, tally: Tally) -> Tally:
        return tally


def _write_report(tally, address, read, made, errors):
    report = tally.report(_evaluation(FileSystems.join(address, _EVALUATION)))
    found = {"report": report, "read": read, "made": made, "errors": errors}
    found["most_common_reasons"] = tally.most_common_reasons()
    put_text(json.dumps(found), FileSystems.join(address, _REPORT))


# Writing


def _write(settled: PCollection, shard_bytes: int, address: str):
    """Write the shards into the staging folder, and a list of them."""
    texts = settled | "as JSON" >> beam.Map(_text)
    sizes = texts | "size" >> beam.Map(_size) | "sizes of splits" >> beam.CombinePerKey(sum)
    shards = (
        texts
        | "shard of each" >> beam.Map(_in_shard, AsDict(sizes), shard_bytes)
        | "shards" >> beam.GroupByKey()
        | "write" >> beam.Map(_write_shard, address)
        | "list" >> beam.combiners.ToList()
    )
    shards | "list of shards" >> beam.Map(_write_list, FileSystems.join(address, _SHARDS))


def _text(numbered):
    order, settled = numbered
    return settled.split, order, settled.kept.example.id, example_to_json(settled.kept.example)


def _size(text):
    return text[0], len(text[3])


def _in_shard(text, sizes, shard_bytes):
    """Shards are of equal size but for chance, as each example goes to one by its id."""
    split, order, name, document = text
    number = int.from_bytes(digest_of(name)[:8], "big") % math.ceil(sizes[split] / shard_bytes)
    return (split, number), (order, document)


def _write_shard(shard, address):
    (split, number), rows = shard
    with tempfile.TemporaryDirectory(prefix="jaxfc-shard-") as folder:
        writer = ShardWriter(Path(folder, "shard"))
        for _, document in sorted(rows, key=_order):
            writer.add(document)
        written = writer.close()
        target = FileSystems.join(address, f"{split}-{number}")
        put(written.path, target)
    return split, number, target, written.examples, written.bytes


def _write_list(shards, address):
    put_text(json.dumps(sorted(shards)), address)


def _fetch_shards(address: str, folder: Path) -> dict[str, list[Shard]]:
    """The finished shards of each split, on this machine."""
    splits: dict[str, list[Shard]] = {}
    for split, number, target, examples, size in json.loads(text_of(FileSystems.join(address, _SHARDS))):
        path = folder / f"{split}-{number}.part"
        fetch(target, path)
        splits.setdefault(split, []).append(Shard(path, examples, size))
    return splits
