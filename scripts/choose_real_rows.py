"""Choose the real rows that ship with the package: short, freely licensed, of each kind, and some that are faulty."""

import argparse
import gzip
import json
from collections.abc import Iterable
from pathlib import Path

from jaxfc.data.repeats import without_repeats
from jaxfc.data.sources.rows import RawRow
from jaxfc.data.sources.source import read_rows
from jaxfc.data.validate import Dropped, Kept, validate
from jaxfc.files import write_atomically

LICENCES = ("Apache-2.0", "CC-BY-4.0", "Apache-2.0 AND CC-BY-4.0")
CALLS = {"xlam60k": 11, "seal_tools": 6, "toolrl_sft": 5, "glaive": 4}
"""Rows of each source that expect calls and are kept as found."""
NO_CALLS = {"toolrl_sft": 2, "glaive": 4}
"""Rows of each source that expect no call."""
REPAIRED = ("value: number from text", "name: made an identifier")
"""One row that needs each of these repairs."""
FAULTS = (
    "tools: duplicate name",
    "call: unknown tool",
    "call: missing required",
    "call: placeholder value",
    "call: wrong type",
    "exact repeat",
)
"""One row that is dropped for each of these reasons; a repeat comes with the row that it repeats."""


def choose(rows: list[RawRow]) -> set[str]:
    """The places of the chosen rows: of each sort, those with the shortest tools and conversation, no tool twice."""
    usable = [row for row in rows if row.licence in LICENCES and len(row.messages) == 1]
    usable.sort(key=lambda row: (len(json.dumps([row.messages, row.tools])), row.id))
    pairs = list(zip(usable, without_repeats(map(validate, usable)), strict=True))
    sorts = [
        *(
            (count, lambda row, result, source=source: row.source == source and _is_clean(result, calls=True))
            for source, count in CALLS.items()
        ),
        *(
            (count, lambda row, result, source=source: row.source == source and _is_clean(result, calls=False))
            for source, count in NO_CALLS.items()
        ),
        *(
            (1, lambda row, result, repair=repair: isinstance(result, Kept) and result.repairs == (repair,))
            for repair in REPAIRED
        ),
        *(
            (1, lambda row, result, reason=reason: isinstance(result, Dropped) and result.reason == reason)
            for reason in FAULTS
        ),
    ]
    chosen: dict[str, RawRow] = {}
    for wished, wanted in sorts:
        count = wished
        for row, result in pairs:
            if count and wanted(row, result) and _is_new(row, chosen.values()):
                chosen[row.where] = row
                count -= 1
    repeats = [row for row, result in pairs if isinstance(result, Dropped) and result.reason == "exact repeat"]
    return set(chosen) | {row.where for row in usable if _content(row) == _content(repeats[0])}


def _is_clean(result: Kept | Dropped, *, calls: bool) -> bool:
    return isinstance(result, Kept) and not result.repairs and bool(result.example.accepted) == calls


def _is_new(row: RawRow, chosen: Iterable[RawRow]) -> bool:
    """Whether none of its tools was chosen before."""
    known = {tool["name"] for other in chosen for tool in other.tools}
    return known.isdisjoint(tool["name"] for tool in row.tools)


def _content(row: RawRow) -> tuple:
    return row.messages, row.tools, row.answers


def main() -> None:
    """Copy the chosen lines of the input to the output, as they are and in their order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True, help="rows in the common form, as gzipped JSON Lines")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    chosen = choose(list(read_rows(arguments.input)))
    with gzip.open(arguments.input, "rt", encoding="utf-8") as file:
        lines = [line for place, line in enumerate(file, 1) if f"{arguments.input.name}:{place}" in chosen]
    write_atomically(arguments.output, "".join(lines))


if __name__ == "__main__":
    main()
