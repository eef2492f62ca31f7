"""A row of a file -> raw rows; the row itself shows which form it has."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from jaxfc.command import InputError
from jaxfc.data.sources.conversations import read_chat, read_conversation, read_messages
from jaxfc.data.sources.rows import Place, RawRow
from jaxfc.data.sources.single import read_common, read_question


class Form(NamedTuple):
    """How rows of one kind are told from others, and read."""

    keys: tuple[tuple[str, ...], ...]
    """A row has one of each of these."""
    lacks: tuple[str, ...]
    """And none of these."""
    read: Callable[[dict[str, Any], Place], Iterable[RawRow]]

    def fits(self, given: frozenset[Any]) -> bool:
        """Whether a row with these keys has this form."""
        return all(any(key in given for key in keys) for keys in self.keys) and given.isdisjoint(self.lacks)

    def __str__(self) -> str:
        return " with ".join(" or ".join(keys) for keys in self.keys)


COMMON = Form((("query", "messages"), ("tools",), ("answers",)), (), read_common)
FORMS = (
    COMMON,
    Form((("messages",),), ("answers",), read_messages),
    Form((("conversations",),), (), read_conversation),
    Form((("chat",), ("system",)), (), read_chat),
    Form((("question",), ("function",)), (), read_question),
)
"""xLAM's and the common form; OpenAI's; that of ToolACE, Hermes and ShareGPT; Glaive's; BFCL's."""


def raw_rows(row: Any, place: Place) -> Iterator[RawRow]:
    """Read a row: one raw row, or one for each turn of the assistant's.

    Raises:
        InputError: it has no form that is known, or more than one.
    """
    if not isinstance(row, dict):
        raise InputError(f"{place}: a row is a JSON object; this one is {_kind(row)}.")
    fitting = _fitting(frozenset(row))
    if len(fitting) != 1:
        _refuse(row, fitting, place)
    yield from fitting[0].read(row, place)


@functools.lru_cache(maxsize=64)
def _fitting(keys: frozenset[Any]) -> list[Form]:
    """The forms of a row with these keys; most rows of a file have the same."""
    return [form for form in FORMS if form.fits(keys)]


def _refuse(row: dict[str, Any], fitting: list[Form], place: Place):
    found = ", ".join(map(str, list(row)[:8])) or "no keys"
    if fitting:
        forms = "; ".join(map(str, fitting))
        raise InputError(f"{place}: the row could be of several forms ({forms}); found {found}.")
    missing = [
        " (or ".join(keys) + ")" * (len(keys) - 1) for keys in COMMON.keys if not any(key in row for key in keys)
    ]
    if len(missing) < len(COMMON.keys):
        raise InputError(f"{place}: the row lacks {', '.join(missing)}; found {found}.")
    raise InputError(f"{place}: a row of an unknown form; found {found}. Known: {'; '.join(map(str, FORMS))}.")


def _kind(value: Any) -> str:
    names = {list: "an array", str: "text", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
