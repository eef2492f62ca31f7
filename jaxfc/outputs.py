"""Rows of an evaluation in a file of JSON lines, of which an interruption loses only those not yet added."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from jaxfc.command import InputError
from jaxfc.files import explain_failure, write_atomically

T = TypeVar("T")


def open_partial(path: Path, digest: str, read: Callable[[dict[str, Any]], T]) -> list[T]:
    """The rows of an interrupted evaluation; a new file with none if there was none.

    Args:
        path: the file; its first line names the evaluation.
        digest: of everything that decides the rows.
        read: takes a row as it was added; raises TypeError where it is none.

    Raises:
        InputError: the file is of another evaluation, or none at all.
    """
    if not path.exists():
        write_atomically(path, json.dumps({"evaluation": digest}) + "\n")
    content = path.read_bytes()
    # A line that was being written has no end yet.
    os.truncate(path, content.rfind(b"\n") + 1)
    header, *rows = path.read_bytes().splitlines() or [b""]
    try:
        found, done = json.loads(header), [read(json.loads(row)) for row in rows]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not the outputs of an interrupted evaluation ({error}); remove it.") from error
    if found != {"evaluation": digest}:
        raise InputError(
            f"{path}: an interrupted evaluation of another model, data or settings; give another output folder, or "
            "remove the file to start again."
        )
    return done


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]):
    """Add rows to a file that `open_partial` made; they are on the disk when this returns."""
    with explain_failure(path), path.open("a", encoding="utf-8") as file:
        file.write(lines(rows))
        file.flush()
        os.fsync(file.fileno())


def lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)
