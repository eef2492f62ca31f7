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
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST}") from None
    except TypeError as error:
        raise ValueError(str(error)) from error
    text.encode()
    # Counted first, since that is far quicker than to look at every value.
    if text.count("[") + text.count("{") > DEEPEST:
        _check_depth(document)
    return text


def _check_depth(document: Any) -> None:
    level = [document]
    for _ in range(DEEPEST):
        members = [value.values() if isinstance(value, dict) else value for value in level]
        level = [item for items in members for item in items if isinstance(item, dict | list | tuple)]
        if not level:
            return
    raise ValueError(f"nested deeper than {DEEPEST}")
