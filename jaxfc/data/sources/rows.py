"""RawRow: one row of any source in one shape, its content as found."""

import dataclasses
import json
from typing import Any


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
    thought: str = ""
    text: str = ""
    """The answer where it is not calls."""
    weight: float = 1.0
    """How often an epoch shows the row on average."""
    repairs: tuple[str, ...] = ()
    """What was mended so far, by the names in `repair.REPAIRS`."""


def parsed(value: Any) -> Any:
    """What a JSON text holds; anything else, and a text that is not JSON, as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {list: "an array", str: "text", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
