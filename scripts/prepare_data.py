"""Make a dataset of raw function-calling rows: read, validate, drop repeats and what is in evaluation data, split by
tool, write ArrayRecord shards with a manifest, a report and a card.

Every row is kept, repaired or dropped for one stated reason; the counts are in report.json and manifest.json.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxfc.command import InputError, run_command
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
    report = prepare(config, None if arguments.dry_run else arguments.output)
    show(report)
    CONSOLE.print("dry run: nothing written" if arguments.dry_run else f"written to {arguments.output}")
    return report


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
        "--input", metavar="FILE", type=Path, nargs="+", default=[], help="rows, beside those of the settings' sources"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="a new folder for the dataset")


if __name__ == "__main__":
    run_command(main, Prepare, __doc__, extra=add_arguments)
