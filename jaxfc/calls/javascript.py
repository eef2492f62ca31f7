"""JavaScript answers, as BFCL reads them: text -> call, and argument text -> value by declared type."""

import re
from typing import Any

from jaxfc.calls.grammars import inside_brackets, root_of
from jaxfc.calls.parse import NO_NAME, ParseError
from jaxfc.calls.schema import Call

KINDS = {
    "String": "string",
    "integer": "integer",
    "float": "float",
    "Bigint": "integer",
    "Boolean": "boolean",
    "dict": "dict",
    "array": "array",
    "any": "any",
}
"""Declared type -> the type, in the words of Python's tools, that its values have once they are converted."""


def parse_javascript(text: str) -> list[Call]:
    """Read the first statement of an answer that is a call; its arguments are text.

    Raises:
        ParseError: the text is no JavaScript, makes no call, or names an argument twice.
        MissingGrammarError: the grammar is not installed.
    """
    for statement in root_of(inside_brackets(text), "javascript").children:
        if statement.type != "expression_statement":
            continue
        call = next((node for node in statement.children if node.type == "call_expression"), None)
        if call is None:
            continue
        if call.child_count < 2:
            raise ParseError("parse: syntax", "a call without arguments")
        return [Call(_text(call.child(0)), _arguments(call.child(1)))]
    raise ParseError("parse: not a list of calls", "no statement is a call")


def _text(node: Any) -> str:
    return node.text.decode("utf-8")


def _arguments(node: Any) -> dict[str, str]:
    arguments: dict[str, str] = {}
    for child in node.children:
        if child.type == "assignment_expression":
            if child.child_count < 3:
                raise ParseError("parse: syntax", "an assignment without a value")
            # By position, as BFCL does: a comment shifts them.
            key, written = _text(child.child(0)), _without_quotes(_text(child.child(2)))
        elif child.type in ("identifier", "true"):
            key, written = NO_NAME, _text(child)
        else:
            continue
        if key in arguments:
            raise ParseError("parse: duplicate argument", key)
        arguments[key] = written
    return arguments


def _without_quotes(text: str) -> str:
    quoted = any(text.startswith(quote) and text.endswith(quote) for quote in ('"', "'"))
    return text[1:-1] if quoted else text


# Values. `$` of the official patterns is also before a last line feed.

_INTEGER, _BIG, _FLOAT = re.compile(r"-?\d+\n?"), re.compile(r"-?\d+n\n?"), re.compile(r"-?\d+(\.\d+)?\n?")
_TABLE, _TABLE_CALL = re.compile(r"\[\s*\["), re.compile(r"new\s+Array\(\s*\[")
_SPACE, _NEXT_ROW, _ROW = re.compile(r"\s*"), re.compile(r",\s*\["), re.compile(r"\[([^\]\n]*+)\]")
_ARRAY = re.compile(r"\[([^\]\n]*+)\]|new\s+Array\(([^)\n]*+)\)")
_DICT = re.compile(r"\{([^}\n]*+)\}")


def convert_javascript(text: str, kind: str, items: str | None = None) -> Any:
    """The value that a text stands for; the text itself where it is not written as its type asks.

    Args:
        text: an argument as `parse_javascript` gives it.
        kind: its declared type, of `KINDS`.
        items: the declared type of the items of an array; None guesses each item's.

    Raises:
        ValueError: an integer has more digits than Python reads.
    """
    match kind:
        case "String":
            return _without_quotes(text)
        case "integer":
            return int(text) if _INTEGER.fullmatch(text) else text
        case "float":
            return float(text) if _FLOAT.fullmatch(text) else text
        case "Bigint":
            return int(text[:-1]) if _BIG.fullmatch(text) else text
        case "Boolean":
            return text == "true" if text in ("true", "false") else text
        case "any":
            return text
        case "array":
            return _array(text.strip(), items)
        case "dict":
            return _dict(text.strip())
    raise ValueError(f"a {kind} is not converted")


def _guess(text: str) -> Any:
    """The value of a text of which no type is declared."""
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    if _without_quotes(text) != text:
        return _without_quotes(text)
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _array(text: str, items: str | None) -> Any:
    table = _table(text)
    if table:
        rows = [row.strip() for row in _ROW.findall(table)]
        # The first row begins after the first bracket, which is that of the table.
        rows[0] = rows[0].removeprefix("[")
        return [[_guess(part) for part in row.split(",")] for row in rows]
    found = _ARRAY.match(text)
    if found is None:
        return text
    inside = (found[2] if found[1] is None else found[1]).strip()
    parts = [part.strip() for part in inside.split(",")] if inside else []
    try:
        return [_guess(part) if items is None else _item(part, items) for part in parts]
    except ValueError:
        return text


def _item(text: str, kind: str) -> Any:
    # The items of a quoted item are text.
    return convert_javascript(text, kind, "String" if text.startswith(("'", '"')) else None)


def _table(text: str) -> str:
    """The beginning of a text that is an array of arrays; empty when none is there.

    Rows end at a `]` that a comma with the next row or the table's end follows, the first for which all works out.
    """
    head = _TABLE.match(text) or _TABLE_CALL.match(text)
    if head is None:
        return ""
    last = "]" if text[0] == "[" else ")"
    start = head.end()
    place = start
    while True:
        end = text.find("]", place)
        if end < 0 or "\n" in text[start:end]:
            return ""
        place = _SPACE.match(text, end + 1).end()
        if text.startswith(last, place):
            return text[: place + 1]
        following = _NEXT_ROW.match(text, place)
        if following:
            start = place = following.end()
        else:
            place = end + 1


def _dict(text: str) -> Any:
    found = _DICT.match(text)
    if found is None:
        return text
    entries = {}
    for key, value in _pairs(found[1]):
        value = value.strip()
        if value.startswith("[") and value.endswith("]"):
            entries[key.strip().strip("'\"")] = _array(value, None)
        else:
            entries[key.strip().strip("'\"")] = _guess(value.strip("'\""))
    return entries


def _pairs(text: str) -> list[tuple[str, str]]:
    """`key: value, ...` on one line, divided at the commas after which, before the next, a colon follows a name."""
    pairs, place = [], 0
    while True:
        start = len(text) - len(text[place:].lstrip(":"))
        colon = text.find(":", start)
        if colon < 0:
            return pairs
        value = _SPACE.match(text, colon + 1).end()
        end, place = _value_end(text, value)
        pairs.append((text[start:colon], text[value:end]))


def _value_end(text: str, start: int) -> tuple[int, int]:
    """Where a value ends, and where the next key starts."""
    comma = text.find(",", start)
    while comma >= 0:
        following = text.find(",", comma + 1)
        last_colon = text.rfind(":", comma + 1, len(text) if following < 0 else following)
        key = _SPACE.match(text, comma + 1).end()
        if last_colon > key:
            return comma, key
        if last_colon == key > comma + 1:
            return comma, key - 1
        comma = following
    return len(text), len(text)
