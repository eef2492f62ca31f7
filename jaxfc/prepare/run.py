"""Preparation of a dataset: read, judge, AST, final judge, repeats, overlap, split, write; a row at a time."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxfc.command import InputError
from jaxfc.data.judging.judge import Judge
from jaxfc.data.overlap import Hit, read_evaluation, without_overlap
from jaxfc.data.repeats import UniqueIds, without_repeats
from jaxfc.data.shards import DatasetWriter, check_output, new_dataset
from jaxfc.data.sources.reading import Opened, as_opened
from jaxfc.data.sources.rows import RawRow
from jaxfc.data.sources.source import read_source
from jaxfc.data.split import HELD_OUT, TRAIN
from jaxfc.data.unchecked import unchecked
from jaxfc.data.validate import Dropped, Kept, validate
from jaxfc.prepare.documents import finish
from jaxfc.prepare.settings import Prepare
from jaxfc.prepare.stages import Settled, finished, generated, settle, splits_of_tools, stages, with_each
from jaxfc.prepare.tally import Tally


def prepare(
    config: Prepare, output: Path | None, judge: Judge | None = None, opened: Opened = as_opened
) -> dict[str, Any]:
    """Make a dataset of raw rows; two runs with the same input and settings write the same bytes.

    Rows pass one by one: memory grows only by digests of rows, ids and names of tools.

    Args:
        config: settings, the sources among them.
        output: folder to write, complete or not at all: shards, manifest.json, report.json, README.md. None writes
            nothing.
        judge: of the settings, opened; None leaves its stages out.
        opened: what is read instead of each file that is opened; it may show how far it is.

    Returns:
        The report, as report.json has it.

    Raises:
        InputError: an input is broken, no row is fit, or the output is there already.
        OutputError: the output could not be written.
    """
    preparation = Preparation(config, judge, opened)
    if output is None:
        for _ in preparation.settled():
            pass
        return preparation.report()
    check_output(output)
    with new_dataset(output) as folder:
        writer = DatasetWriter(folder, round(config.shard_megabytes * 1e6))
        for settled in preparation.settled():
            writer.add(settled.split, settled.kept.example)
        report = preparation.report()
        finish(folder, config, report, writer.close())
    return report


class Preparation:
    """One run of the stages in this process, and the count of what became of the rows."""

    def __init__(self, config: Prepare, judge: Judge | None, opened: Opened):
        """Read what the stages need beside the rows.

        Raises:
            InputError: an evaluation file is broken.
        """
        self._config, self._judge, self._opened = config, judge, opened
        self._tally = Tally((TRAIN, HELD_OUT))
        self._order = itertools.count()
        self._read = self._generated = 0
        self._fixed = splits_of_tools(config.tasks)
        self._evaluation = read_evaluation(config.overlap) if config.overlap else None

    def _results(self) -> Iterable[Kept | Dropped]:
        """What becomes of each row up to the split."""
        config, judge = self._config, self._judge
        rows: Iterable[RawRow | Dropped] = self._rows()
        if judge:
            rows = judge.first(rows)
        results = with_each(validate if config.ast else unchecked, rows)
        if judge:
            results = judge.final(results)
        results = itertools.chain(results, self._tasks())
        for reason, digest in config.repeats.digests() if config.repeats else ():
            results = without_repeats(results, reason, digest)
        if config.overlap:
            results = without_overlap(results, self._evaluation, config.overlap, self._share)
        return results

    def settled(self) -> Iterator[Settled]:
        """The rows that stay, each as it is written; the others are counted on the way."""
        config, with_own_id, results = self._config, UniqueIds(), self._results()
        for result in results:
            settled = settle(result, self._fixed, config) if isinstance(result, Kept) else result
            if isinstance(settled, Dropped):
                self._tally.drop(next(self._order), settled)
                continue
            kept = finished(with_own_id(settled.kept))
            self._tally.keep(next(self._order), kept, settled.split, settled.withdrawn)
            yield Settled(kept, settled.split, settled.withdrawn)

    def _rows(self) -> Iterator[RawRow]:
        for source in self._config.sources:
            for row in read_source(source, self._opened):
                self._read += 1
                yield row

    def _tasks(self) -> Iterator[Kept]:
        for task in generated(self._config.tasks):
            self._generated += 1
            yield task

    def _share(self, kept: Kept, hits: list[Hit], reason: str):
        self._tally.share(next(self._order), kept, hits, reason)

    def report(self) -> dict[str, Any]:
        """What became of the rows.

        Raises:
            InputError: none was fit to keep.
        """
        counted = self._tally.kept + self._tally.dropped
        if counted != self._read + self._generated:
            raise RuntimeError(f"{self._read} rows were read and {self._generated} made, but {counted} are counted.")
        if not self._tally.kept:
            raise InputError(f"none of the {self._read} rows is fit to keep: {self._tally.most_common_reasons()}.")
        return {
            "stages": stages(self._config, judged=self._judge is not None),
            "input_rows": self._read,
            "generated_rows": self._generated,
            **self._tally.report(self._evaluation),
            "judge": self._judge.totals() if self._judge else None,
        }
