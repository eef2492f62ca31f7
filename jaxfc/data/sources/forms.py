"""A row of a file -> raw rows; the row itself shows which form it has."""

from pathlib import Path
from typing import Any

from jaxfc.command import InputError
from jaxfc.data.sources.rows import RawRow, kind_of, parsed

XLAM_SOURCE = "xlam60k"
XLAM_LICENCE = "CC-BY-4.0"


def raw_row(row: Any, path: Path, line: int) -> RawRow:
    """Read a row.

    Raises:
        InputError: it has no form that is known.
    """
    where = f"{path.name}:{line}"
    if not isinstance(row, dict):
        raise InputError(f"{path}:{line}: a row is a JSON object; this one is {kind_of(row)}.")
    missing = [key for key in ("tools", "answers") if key not in row]
    if "query" not in row and "messages" not in row:
        missing.insert(0, "query (or messages)")
    if missing:
        found = ", ".join(list(row)[:8]) or "no keys"
        raise InputError(f"{path}:{line}: the row lacks {', '.join(missing)}; found {found}.")
    key = row.get("id", line)
    is_xlam = "source" not in row and isinstance(key, int) and isinstance(row["answers"], str)
    if is_xlam:
        key = f"{XLAM_SOURCE}-{key:05d}"
    elif not isinstance(key, str):
        key = f"{path.name.split('.')[0]}-{key}"
    return RawRow(
        where=where,
        id=key,
        source=XLAM_SOURCE if is_xlam else str(row.get("source", "")),
        licence=str(row.get("licence", row.get("license", XLAM_LICENCE if is_xlam else ""))),
        messages=row["messages"] if "messages" in row else [{"role": "user", "content": row["query"]}],
        tools=parsed(row["tools"]),
        answers=parsed(row["answers"]),
        thought=row["thought"] if isinstance(row.get("thought"), str) else "",
    )
