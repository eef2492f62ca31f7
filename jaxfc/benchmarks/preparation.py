"""The AST stage of preparation: raw rows -> kept or dropped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxfc.benchmarks.measure import alternate, figures, report
from jaxfc.benchmarks.settings import ValidateBenchmark, check_peers
from jaxfc.data.offer import forget_tools
from jaxfc.data.sources.source import read_rows
from jaxfc.data.validate import Dropped, validate


def benchmark_validate(settings: ValidateBenchmark, peers: Sequence[str] = ()) -> dict[str, Any]:
    """Validate the rows of a file in one process: tools known, tools not known yet; and read the file, for comparison.

    A row counts from the `RawRow` that was read to the `Kept` or `Dropped`, the check of its own text included.
    """
    check_peers(settings, peers)
    path = Path(settings.rows)
    rows = list(read_rows(path))
    dropped = sum(isinstance(validate(row), Dropped) for row in rows)

    def again(_: int):
        for row in rows:
            validate(row)

    def at_first(number: int):
        forget_tools()
        again(number)

    def read(_: int):
        for _row in read_rows(path):
            pass

    laps = alternate({"tools remembered": again, "tools forgotten": at_first, "reading": read}, settings.runs)
    results = {name: figures(each, rows=len(rows)) for name, each in laps.items()}
    for found in results.values():
        found["rows_per_cpu_s"] = len(rows) / found["cpu_s"]["median"]
    return report(settings, results, dropped=dropped)
