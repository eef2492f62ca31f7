"""Make a dataset of raw function-calling rows: read, validate, drop repeats, split by tool, write ArrayRecord shards.

Every row is kept, mended or dropped for one stated reason; the counts are in report.json and manifest.json.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from jaxfc.command import run_command
from jaxfc.data.sources.rows import RawRow
from jaxfc.prepare import Prepare, prepare

CONSOLE = Console(stderr=True)


def main(config: Prepare, arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Prepare the dataset, and show on standard error what became of the rows."""
    report = prepare(config, arguments.input, None if arguments.dry_run else arguments.output, watch)
    table = Table("source", "rows", "kept", "repaired", "dropped")
    for source, counts in report["sources"].items():
        table.add_row(source, *(str(counts[key]) for key in ("rows", "kept", "repaired")), str(sum_of(counts)))
    CONSOLE.print(table)
    for reason, found in report["reasons"].items():
        CONSOLE.print(f"dropped {found['rows']:>6}  {reason}", highlight=False)
    for split, found in report["splits"].items():
        CONSOLE.print(f"split   {found['examples']:>6}  {split}", highlight=False)
    CONSOLE.print("dry run: nothing written" if arguments.dry_run else f"written to {arguments.output}")
    return report


def sum_of(counts: Mapping[str, Any]) -> int:
    """How many rows of a source were dropped."""
    return sum(counts["dropped"].values())


def watch(rows: Sequence[RawRow]) -> Iterable[RawRow]:
    """The rows one by one, with a bar on standard error."""
    return track(rows, "validating", console=CONSOLE, transient=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files to read and the folder to write."""
    parser.add_argument("--input", metavar="FILE", type=Path, nargs="+", required=True, help="rows: JSONL or JSON, .gz")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="a new folder for the dataset")


if __name__ == "__main__":
    run_command(main, Prepare, __doc__, extra=add_arguments)
