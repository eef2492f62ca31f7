"""RawRow: one answer of any source in one shape, its content as found; and where it was found."""

import dataclasses
import json
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a row of a file or dataset stands."""

    file: str
    """The whole path or address."""
    line: int
    """Of the file, or number of the row, from 1."""

    @property
    def name(self) -> str:
        """The file's name without the folders above it."""
        return self.file.rstrip("/").rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The file's name without its endings."""
        return self.name.split(".")[0]

    @property
    def short(self) -> str:
        """For messages about the row: the file's name and the line."""
        return f"{self.name}:{self.line}"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclasses.dataclass(frozen=True, slots=True)
class RawRow:
    """One answer of a source, in one shape but with its content as found; whether that is any good, `validate` says."""

    where: str
    """File and line, for messages."""
    id: str
    source: str
    licence: str
    """SPDX expression; empty when the row does not say."""
    messages: Any
    """The conversation; a bare query is one user message."""
    tools: Any
    """What JSON text held, or the text itself where it is not JSON."""
    answers: Any
    """As for `tools`."""
    accepted: Any = None
    """BFCL's form of the answers, which lists the accepted values of each argument; None: only `answers` are."""
    thought: str = ""
    text: str = ""
    """The answer where it is not calls."""
    weight: float = 1.0
    """How often an epoch shows the row on average."""
    repairs: tuple[str, ...] = ()
    """What was mended so far, by the names in `repair.REPAIRS`."""


def row_id(row: dict[str, Any], place: Place) -> str:
    """The row's own id if that is text, else one that names file and line."""
    key = row.get("id")
    return key if isinstance(key, str) and key else f"{place.stem}-{place.line if key in (None, '') else key}"


def licence_of(row: dict[str, Any]) -> str:
    """The licence that the row names; empty when it names none."""
    return str(row.get("licence") or row.get("license") or "")


def parsed(value: Any) -> Any:
    """What a JSON text holds; anything else, and a text that is not JSON, as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
