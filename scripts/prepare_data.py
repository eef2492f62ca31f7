"""Make a dataset of raw function-calling rows: read, judge, validate, judge again, drop repeats and what is in
evaluation data, split by tool, write ArrayRecord shards with a manifest, a report and a card.

Every row is kept, repaired or dropped for one stated reason; the counts are in report.json and manifest.json. A dry run
reads and counts everything, and writes nothing; it asks no judge, unless with --replay.
"""

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from jaxfc.command import InputError, run_command
from jaxfc.data.judging.judge import Effort, Judge, open_judge
from jaxfc.data.sources.source import Source
from jaxfc.prepare.run import prepare
from jaxfc.prepare.settings import Prepare

CONSOLE = Console(stderr=True)


def main(config: Prepare, arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Prepare the dataset, and show on standard error what became of the rows."""
    sources = config.sources + tuple(Source(path=str(path)) for path in arguments.input)
    if not sources:
        raise InputError("command line: no rows to read; give --input FILE, or sources in the settings.")
    config = dataclasses.replace(config, sources=sources)
    output = None if arguments.dry_run else arguments.output
    report = prepare_far(config, output) if config.beam else prepare_here(config, output, arguments)
    show(report)
    CONSOLE.print("dry run: nothing written" if arguments.dry_run else f"written to {arguments.output}")
    return report


def prepare_here(config: Prepare, output: Path | None, arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Prepare in this process, and show how far it is."""
    with Bars() as bars, opened_judge(config, arguments, bars) as judge:
        return prepare(config, output, judge, bars.watch_file)


def prepare_far(config: Prepare, output: Path | None) -> Mapping[str, Any]:
    """Prepare on a runner of Beam's, which shows what it shows."""
    try:
        from jaxfc.prepare.beam import prepare_with_beam
    except ModuleNotFoundError as error:
        if error.name != "apache_beam":
            raise
        raise InputError("the setting beam needs Apache Beam: pip install 'jaxfc[beam]'.") from error
    return prepare_with_beam(config, output)


class Bars(Progress):
    """How much of each file is read, and what the judge is at."""

    def __init__(self):
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        super().__init__(*columns, console=CONSOLE, transient=True)
        self._judge = None

    def watch_file(self, file: BinaryIO, path: str) -> BinaryIO:
        """The file, its bar moving as it is read."""
        return self.wrap_file(file, Path(path).stat().st_size, description=Path(path).name)

    def watch_judge(self, effort: Effort):
        """Say what the judge did so far."""
        text = f"judge: {effort.requests} requests, {effort.retries} repeated, {effort.cached} rows from disk"
        if self._judge is None:
            self._judge = self.add_task(text, total=None)
        self.update(self._judge, description=text)


@contextlib.contextmanager
def opened_judge(config: Prepare, arguments: argparse.Namespace, bars: Bars) -> Iterator[Judge | None]:
    """The judge of the settings; None where they have none, or a dry run would have to ask it."""
    if config.judge is None:
        if arguments.replay:
            raise InputError("command line: --replay needs a judge in the settings, whose replies it reads.")
        yield None
    elif arguments.dry_run and not arguments.replay:
        CONSOLE.print("dry run: the judge is not asked, so its stages are left out")
        yield None
    else:
        cache = arguments.cache or arguments.output.with_name(f"{arguments.output.name}.replies.sqlite")
        with open_judge(config.judge, cache, replay=arguments.replay, watch=bars.watch_judge) as judge:
            yield judge


def show(report: Mapping[str, Any]):
    """The counts of a report, on standard error."""
    table = Table("source", "rows", "kept", "repaired", "dropped")
    for source, counts in report["sources"].items():
        figures = [counts[key] for key in ("rows", "kept", "repaired")] + [sum(counts["dropped"].values())]
        table.add_row(source, *map(str, figures))
    CONSOLE.print(table)
    for reason, found in report["reasons"].items():
        CONSOLE.print(f"dropped {found['rows']:>8}  {reason}", highlight=False)
    for file in report["overlap"]:
        for kind, found in file["shared"].items():
            text = f"shared  {found['rows']:>8}  {kind.removeprefix('overlap: ')} ({file['file']})"
            CONSOLE.print(text, highlight=False)
    for split, found in report["splits"].items():
        CONSOLE.print(f"split   {found['examples']:>8}  {split}", highlight=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files to read and the folder to write."""
    parser.add_argument(
        "--input", metavar="FILE", type=Path, nargs="+", default=[], help="rows, after those of the settings' sources"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="a new folder for the dataset")
    parser.add_argument(
        "--cache", metavar="FILE", type=Path, help="the judge's replies, kept between runs (DIR.replies.sqlite)"
    )
    parser.add_argument("--replay", action="store_true", help="take the judge's replies from the cache alone")


if __name__ == "__main__":
    run_command(main, Prepare, __doc__, extra=add_arguments)
