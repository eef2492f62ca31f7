#!/usr/bin/env python3
"""Measure memory and speed of scripts/prepare_data.py on many rows: those of a file, over and over.

Each copy of a row gets a number at the end of its query and its id, so that none repeats another. It prints one
JSON object for each number of rows: `rows`, `seconds`, `rows_per_second` and `peak_rss_mib` of the whole script.
"""

import argparse
import gzip
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from jaxfc.data.sources.reading import read_values

ROOT = Path(__file__).parents[1]


def numbered(rows: list[dict], count: int) -> Iterator[dict]:
    """So many rows, each under an id and with a query of its own."""
    for number, row in enumerate(itertools.islice(itertools.cycle(rows), count)):
        copy, mark = number // len(rows), f" (request {number // len(rows)})"
        if "query" in row:
            asked = {"query": row["query"] + mark}
        else:
            *before, last = row["messages"]
            asked = {"messages": [*before, {**last, "content": (last["content"] or "") + mark}]}
        yield row | asked | {"id": f"{row['id']}+{copy}"}


def measure(rows: list[dict], count: int, folder: Path, settings: list[str]) -> dict[str, float]:
    """Prepare so many rows in a process of its own."""
    path = folder / f"{count}.jsonl.gz"
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in numbered(rows, count))
    command = [sys.executable, "scripts/prepare_data.py", "--input", path, "--output", folder / str(count), *settings]
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"scripts/prepare_data.py ended with {os.waitstatus_to_exitcode(status)}")
    seconds = time.monotonic() - start
    return {
        "rows": count,
        "input_mib": round(path.stat().st_size / 2**20, 1),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "rows_per_second": round(count / seconds),
        "peak_rss_mib": round(usage.ru_maxrss / 1024, 1),
    }


def main() -> None:
    """Measure each number of rows in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="rows in the common form, with text as id")
    parser.add_argument("--rows", type=int, nargs="+", default=[2_000_000], help="how many to prepare")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of scripts/prepare_data.py")
    arguments = parser.parse_intermixed_args()
    rows = [row for _, row in read_values(arguments.input)]
    for count in arguments.rows:
        with tempfile.TemporaryDirectory(prefix="preparation-") as folder:
            print(json.dumps(measure(rows, count, Path(folder), arguments.settings)), flush=True)


if __name__ == "__main__":
    main()
