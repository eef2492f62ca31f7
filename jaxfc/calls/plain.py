"""The plain form of a list of calls, `[f(a=1, b=['x', None]), ...]`, read as Python's parser would, in less time."""

import keyword
import re
from typing import Any

from jaxfc.calls.schema import Call

DEEPEST = 16
"""Brackets within one another."""
MOST_DIGITS = 18
"""Of an integer."""
MOST_CALLS = 64

_SPACE = r"[ \t\n]*+"
_NAME = r"[A-Za-z_][A-Za-z0-9_]*+"
# Python refuses half a surrogate pair; a line break ends a text, and what follows a backslash is another character.
_LETTER = r"\\\n\r\0\ud800-\udfff"
_SCALAR = rf"""(?: '([^'{_LETTER}]*+)' | "([^"{_LETTER}]*+)"
    | (-?(?:0|[1-9][0-9]{{0,{MOST_DIGITS - 1}}}+)) (\.[0-9]++(?:[eE][-+]?[0-9]++)?+ | [eE][-+]?[0-9]++)?+
    | (True|False|None) )"""
_CALL = re.compile(rf"{_SPACE} ({_NAME}(?:\.{_NAME})*+) {_SPACE} \( {_SPACE} (\))?+", re.VERBOSE)
# An argument, an item or a key, each with the mark that ends it or with the bracket that opens its value.
_ARGUMENT = re.compile(rf"{_SPACE} ({_NAME}) {_SPACE} = {_SPACE} (?: {_SCALAR} {_SPACE} [,)] | ([\[{{]) )", re.VERBOSE)
_ITEM = re.compile(rf"{_SPACE} (?: ([\]}}]) | {_SCALAR} {_SPACE} [,:\]}}] | ([\[{{]) )", re.VERBOSE)
# The groups of both: first the name, or the bracket that closes.
_CLOSES, _OTHER_TEXT, _INTEGER, _FRACTION, _WORD, _OPENS = 1, 3, 4, 5, 6, 7
_MARK = re.compile(rf"{_SPACE}[,)\]}}]")
_WORDS = {"True": True, "False": False, "None": None}
_RESERVED = frozenset([*keyword.kwlist, "__debug__"])


class _NotPlainError(Exception):
    pass


def read_plain(source: str) -> list[Call] | None:
    """The calls of a text in the plain form; None for every other text, whether Python reads it or not.

    The plain form has ASCII names, each keyword and each key once, and as values text without escapes, decimal
    numbers, `True`, `False`, `None`, and lists and dicts of these, all within the limits above. White space is free,
    but no comma stands before a closing bracket.
    """
    try:
        return _calls(source)
    except (_NotPlainError, RecursionError):
        return None


def _calls(source: str) -> list[Call]:
    if source == "[]":
        return []
    calls: list[Call] = []
    position, mark = 1, "," if source[:1] == "[" else ""
    while mark == "," and len(calls) < MOST_CALLS:
        match = _CALL.match(source, position)
        if match is None or not _RESERVED.isdisjoint(match[1].split(".")):
            raise _NotPlainError
        arguments, end = ({}, match.end()) if match[2] else _arguments(source, match.end())
        calls.append(Call(match[1], arguments))
        position = _after_mark(source, end)
        mark = source[position - 1]
    if mark != "]" or position < len(source):
        raise _NotPlainError
    return calls


def _arguments(source: str, position: int) -> tuple[dict[str, Any], int]:
    """Keyword arguments from `position` on, and where the text goes on after the parenthesis that closes them."""
    arguments: dict[str, Any] = {}
    mark = ","
    while mark == ",":
        match = _ARGUMENT.match(source, position)
        if match is None or match[1] in arguments or match[1] in _RESERVED:
            raise _NotPlainError
        arguments[match[1]], position = _value(match, source, 2)
        mark = source[position - 1]
    if mark != ")":
        raise _NotPlainError
    return arguments, position


def _value(match: re.Match[str], source: str, depth: int) -> tuple[Any, int]:
    """The value that a match holds or begins, and where the text goes on after the mark that ends it."""
    kind = match.lastindex
    if kind <= _OTHER_TEXT:
        return match[kind], match.end()
    if kind == _INTEGER:
        return int(match[_INTEGER]), match.end()
    if kind == _FRACTION:
        return float(match[_INTEGER] + match[_FRACTION]), match.end()
    if kind == _WORD:
        return _WORDS[match[_WORD]], match.end()
    if depth == DEEPEST:
        raise _NotPlainError
    read = _list if match[_OPENS] == "[" else _dict
    value, end = read(source, match.end(), depth + 1)
    return value, _after_mark(source, end)


def _list(source: str, position: int, depth: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    mark = ","
    while mark == ",":
        match = _ITEM.match(source, position)
        if match is None or (match[_CLOSES] and items):
            raise _NotPlainError
        if match[_CLOSES]:
            position = match.end()
        else:
            item, position = _value(match, source, depth)
            items.append(item)
        mark = source[position - 1]
    if mark != "]":
        raise _NotPlainError
    return items, position


def _dict(source: str, position: int, depth: int) -> tuple[dict[Any, Any], int]:
    items: dict[Any, Any] = {}
    mark = ","
    while mark == ",":
        match = _ITEM.match(source, position)
        if match is None or match[_OPENS] or (match[_CLOSES] and items):
            raise _NotPlainError
        if match[_CLOSES]:
            position = match.end()
        else:
            key, position = _value(match, source, depth)
            match = _ITEM.match(source, position)
            if source[position - 1] != ":" or match is None or match[_CLOSES] or key in items:
                raise _NotPlainError
            items[key], position = _value(match, source, depth)
        mark = source[position - 1]
    if mark != "}":
        raise _NotPlainError
    return items, position


def _after_mark(source: str, position: int) -> int:
    match = _MARK.match(source, position)
    if match is None:
        raise _NotPlainError
    return match.end()
