"""Plain JSON: what every reader of JSON takes, and gives back unchanged."""

import json
from typing import Any

DEEPEST = 50
"""Levels of nesting."""


def plain_json(document: Any) -> str:
    """The document as JSON text.

    Raises:
        ValueError: it holds NaN, an infinity, half a surrogate pair, a number of thousands of digits or what is no
            JSON at all, or nests deeper than `DEEPEST`; the message says which.
    """
    level, depth = [[document]], -1
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"nested deeper than {DEEPEST}")
        level = [
            value.values() if isinstance(value, dict) else value
            for values in level
            for value in values
            if isinstance(value, dict | list | tuple)
        ]
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(str(error)) from error
    text.encode()
    return text
