"""Tools and calls: the dialects of function-calling data, in one form."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Tool:
    """One function on offer, with BFCL's types: string, integer, float, boolean, array, tuple, dict, any."""

    name: str
    """Dots are part of the name."""
    description: str
    properties: Mapping[str, Mapping[str, Any]]
    """Parameter name -> its schema: `type`, and where known `description`, `items`, `properties`, `enum`, `default`."""
    required: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One use of a tool: keyword arguments with Python values."""

    name: str
    arguments: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class AcceptedCall:
    """One expected call, in BFCL's form: for each argument the values that count as right."""

    name: str
    arguments: Mapping[str, tuple[Any, ...]]
    """The value `""` in a tuple means that the argument may be left out."""
