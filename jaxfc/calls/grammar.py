"""Tools -> the grammar of every answer that calls them rightly, for constrained decoding."""

import json
import keyword
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfc.calls.parse import ParseError, Syntax, parse_calls
from jaxfc.calls.schema import Tool

_MOST_CALLS = Syntax.STRICT.max_calls
_MOST_BITS = 64
"""Of the number by which a rule knows which of its members are written."""
_DEEPEST_SCHEMA, _DEEPEST_ANY = 8, 3
"""Brackets of one value: 8 that its schema names, 3 of a value of any type, far below what the parser reads."""
_MOST_ENUM_CHARACTERS = 10_000
_MARKUP = re.compile(r"<(?=\||/?(think|answer)>)")

_ESCAPE = r"\\[\\'\"ntr]|\\x[0-9a-f]{2}|\\u([0-9abcef][0-9a-f]{3}|d[0-7][0-9a-f]{2})"
_ESCAPE += r"|\\U000[1-9a-f][0-9a-f]{4}|\\U0010[0-9a-f]{4}"
_NO_TAG = r"& ~/(?s:.*)<(\||\/?(think|answer)>)(?s:.*)/"
_TERMINALS = {
    # Raw text, but for control characters, as Python writes it: in single quotes, or in double ones.
    "STRING": rf"/'([^'\\\x00-\x1f\x7f]|{_ESCAPE})*'|\"([^\"\\\x00-\x1f\x7f]|{_ESCAPE})*\"/ {_NO_TAG}",
    "INTEGER": rf"/-?(0|[1-9][0-9]{{0,{Syntax.STRICT.max_digits - 1}}})/",
    # The exponent stays below the largest double's, so that no number is read as infinite.
    "FLOAT": r"INTEGER | /-?(0|[1-9][0-9]{0,16})\.[0-9]{1,25}/"
    r" | /-?[0-9](\.[0-9]{1,25})?e(-[0-9]{1,3}|\+?([0-9]{1,2}|[12][0-9]{2}|30[0-7]))/",
    "BOOLEAN": '"True" | "False"',
    "SCALAR": 'STRING | FLOAT | BOOLEAN | "None"',
}
_TERMINALS_WITHIN = {"FLOAT": ("INTEGER",), "SCALAR": ("STRING", "FLOAT", "BOOLEAN", "INTEGER")}
_TERMINAL_OF = {"string": "STRING", "integer": "INTEGER", "float": "FLOAT", "boolean": "BOOLEAN"}
_FIRST_OF_KEY = [*string.ascii_letters, *string.digits, "_"]
_OTHER_FIRST = r"[^'\\\x00-\x1f\x7fa-zA-Z0-9_]"
_REST_OF_KEY = r"[^'\\\x00-\x1f\x7f]*"


def answer_grammar(tools: Sequence[Tool], fewest: int = 0) -> str:
    """The answers that call these tools, as a grammar in llguidance's dialect of Lark.

    An answer is `[]` or a list of up to 64 calls as `data.prompts.calls_text` writes them: `[f(a=1, b='x'), g()]`. Each
    call names a tool on offer, has all its required arguments, and any of the others, each once, in any order, with
    values of their schemas' types. All of these answers are read by `parse.parse_calls` with `Syntax.STRICT`, as long
    as they have no more than its 16,384 characters: that is for the caller's limit of tokens to see to.

    Values: text in Python's quotes without raw control characters, tags or what starts a special token; integers of
    up to 100 digits; finite floats, and integers in their place; lists for tuples; the values of an enum of up to
    10,000 characters; `None` where a schema is `nullable`. A dict has the properties that its schema names, the
    required ones always. Where none are named, it may have any keys, but no two that begin with the same letter, digit
    or underscore, and one that begins with something else: so no key is repeated, which the parser would refuse. A
    value of any type, and one deeper than 8 schemas, is any literal of up to 3 brackets within one another.

    What cannot stand in a call is left out: optional parameters that are no Python identifier or beyond the 64th
    (required ones count first), and tools whose name or a required parameter is none, or that require more than 64.
    Where two tools have one name, the first counts.

    Args:
        tools: on offer. Without any, or with none that can be called, `[]` is the only answer.
        fewest: calls of an answer, 0 or 1: with 1, `[]` is none.

    References: the dialect, https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md and parametric.md.
    """
    grammar = _Grammar()
    first = {tool.name: tool for tool in reversed(tools)}
    calls = [grammar.call(tool) for tool in tools if first[tool.name] is tool and can_be_called(tool)]
    if not calls:
        return 'start: "[]"\n'
    call = grammar.rule(" | ".join(calls))
    empty = "" if fewest else '"[]" | '
    return grammar.text(f'{empty}"[" {call} (", " {call}){{0,{_MOST_CALLS - 1}}} "]"')


def is_identifier(name: str) -> bool:
    """Whether Python reads the name as it stands as a name: no keyword, and in its normal form."""
    kept = unicodedata.normalize("NFKC", name) == name
    return name.isidentifier() and kept and not keyword.iskeyword(name) and name != "__debug__"


def can_be_called(tool: Tool) -> bool:
    """Whether a call of it can be written: its name and required parameters are Python's names."""
    names = [*tool.name.split("."), *tool.required]
    return all(map(is_identifier, names)) and len(tool.required) <= _MOST_BITS


class _Grammar:
    """Collects rules; equal ones are written once."""

    def __init__(self):
        self._names: dict[str, str] = {}
        self._lines: list[str] = []
        self._terminals: set[str] = set()

    def text(self, start: str) -> str:
        """The whole grammar."""
        used = [f"{name}: {body}" for name, body in _TERMINALS.items() if name in self._terminals]
        return "\n".join([f"start: {start}", *self._lines, *used]) + "\n"

    def rule(self, body: str, prefix: str = "r") -> str:
        """The name of a rule, or with an upper-case prefix of a terminal, with this body."""
        if body not in self._names:
            self._names[body] = f"{prefix}{len(self._names)}"
            self._lines.append(f"{self._names[body]}: {body}")
        return self._names[body]

    def call(self, tool: Tool) -> str:
        names = [*tool.required, *(name for name in tool.properties if name not in tool.required)]
        usable = [name for name in names if is_identifier(name)][:_MOST_BITS]
        members = [(f"{name}=", self.value(tool.properties.get(name, {}), 0)) for name in usable]
        return self.rule(self._members(f"{tool.name}(", members, len(set(tool.required)), ")"))

    def value(self, schema: Mapping[str, Any], depth: int) -> str:
        """The name of what a schema admits, `depth` brackets deep."""
        name = self._enum(schema) or self._typed(schema, depth)
        return self.rule(f'{name} | "None"') if schema.get("nullable") is True else name

    def _typed(self, schema: Mapping[str, Any], depth: int) -> str:
        kind = schema.get("type", "any")
        if kind in _TERMINAL_OF:
            return self._terminal(_TERMINAL_OF[kind])
        if depth >= _DEEPEST_SCHEMA or kind not in ("array", "tuple", "dict"):
            return self._any(_DEEPEST_ANY)
        if kind == "dict":
            return self._dict(schema, depth)
        items = schema.get("items")
        return self._list(self.value(items, depth + 1) if isinstance(items, Mapping) else self._any(_DEEPEST_ANY))

    def _terminal(self, name: str) -> str:
        self._terminals |= {name, *_TERMINALS_WITHIN.get(name, ())}
        return name

    def _list(self, item: str) -> str:
        return self.rule(f'"[]" | "[" {item} (", " {item})* "]"')

    def _any(self, levels: int) -> str:
        scalar = self._terminal("SCALAR")
        if levels == 0:
            return scalar
        inner = self._any(levels - 1)
        return self.rule(f"{scalar} | {self._list(inner)} | {self._free_dict(inner)}")

    def _enum(self, schema: Mapping[str, Any]) -> str:
        """The terminal of an enum's values; empty where there is none, or it is too long."""
        enum = schema.get("enum")
        written = [literal(value) for value in enum] if isinstance(enum, list | tuple) else []
        kept = [text for text in dict.fromkeys(written) if text]
        if not kept or sum(map(len, kept)) > _MOST_ENUM_CHARACTERS:
            return ""
        return self.rule(" | ".join(map(_quoted, kept)), prefix="ENUM")

    def _dict(self, schema: Mapping[str, Any], depth: int) -> str:
        properties = schema.get("properties")
        if not isinstance(properties, Mapping) or not properties:
            values = schema.get("additionalProperties")
            free = isinstance(values, Mapping)
            return self._free_dict(self.value(values, depth + 1) if free else self._any(_DEEPEST_ANY))
        given = schema.get("required")
        required = [name for name in properties if isinstance(given, list | tuple) and name in given]
        names = [*required, *(name for name in properties if name not in required)]
        if len(required) > _MOST_BITS or not all(map(literal, names)):
            return self._free_dict(self._any(_DEEPEST_ANY))
        members = [(f"{literal(name)}: ", self.value(properties[name], depth + 1)) for name in names[:_MOST_BITS]]
        return self.rule(self._members("{", members, len(required), "}"))

    def _free_dict(self, value: str) -> str:
        firsts = [*_FIRST_OF_KEY, _OTHER_FIRST]
        keys = [self.rule(f"/'{first}{_REST_OF_KEY}': / {_NO_TAG}", prefix="KEY") for first in firsts]
        return self.rule(self._sequence("{", [f"{key} {value}" for key in keys], 0, "}"))

    def _members(self, opening: str, members: Sequence[tuple[str, str]], required: int, closing: str) -> str:
        return self._sequence(opening, [f"{_quoted(head)} {value}" for head, value in members], required, closing)

    def _sequence(self, opening: str, members: Sequence[str], required: int, closing: str) -> str:
        """Members between commas, each at most once, in any order; the first `required` of them always."""
        empty = [f"{_quoted(opening + closing)}"] if required == 0 else []
        if not members:
            return empty[0]
        # A member's bit is set once it is written. The number of lines tells these rules from all others.
        one, rest = f"m{len(self._lines)}", f"n{len(self._lines)}"
        choices = [f"{member} {rest}::set_bit({bit}) %if bit_clear({bit})" for bit, member in enumerate(members)]
        enough = f"%if is_ones([0:{required}])" if required else ""
        more = f'", " {one}::_ %if not(is_ones([0:{len(members)}]))'
        self._lines.append(f"{one}::_: " + " | ".join(choices))
        self._lines.append(f'{rest}::_: "" {enough} | {more}')
        return " | ".join([*empty, f"{_quoted(opening)} {one}::0x0 {_quoted(closing)}"])


def literal(value: Any) -> str:
    """A JSON value as Python source without tags and special tokens; empty where the parser would not read it back."""
    try:
        text = _MARKUP.sub(r"\\x3c", repr(value))
        within = f"{'[' * _DEEPEST_SCHEMA}{text}{']' * _DEEPEST_SCHEMA}"
        read = parse_calls(f"[f(a={within})]", Syntax.STRICT)[0].arguments["a"]
    except (ParseError, ValueError, RecursionError):
        return ""
    for _ in range(_DEEPEST_SCHEMA):
        (read,) = read
    return text if read == value else ""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
