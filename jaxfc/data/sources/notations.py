"""What an assistant's text says: chain of thought, calls in the notations of public datasets, and the rest as text."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from jaxfc.calls.parse import ParseError, Syntax, parse_calls

_THOUGHT = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)
_TAGGED_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_GLAIVE_CALL = re.compile(r"<functioncall>(.*?)(?:</functioncall>|<\|endoftext\|>|\Z)", re.DOTALL)
# Glaive writes a call's arguments as JSON between apostrophes, which makes the whole no JSON.
_QUOTED_ARGUMENTS = re.compile(r"""\{\s*"name":\s*("[^"]*"),\s*"arguments":\s*'(.*)'\s*\}""", re.DOTALL)
_CALL_LIST = re.compile(r"""\s*\[\s*[^\s\[\](){}"'][^\[\]{}"']*?\(""")
_ARGUMENT = re.compile(r"""\s*([^=()\[\]{},'"]+?)\s*=(?!=)""")
_PIECE = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|(?P<open>[(\[{])|(?P<close>[)\]}])|\w+|.""", re.DOTALL)
_SPACE = re.compile(r"\s*")
_CONSTANTS = {"true": "True", "false": "False", "null": "None"}


class Reply(NamedTuple):
    """What an assistant's turn says."""

    content: str
    """The text beside the calls, without the chain of thought."""
    calls: Any
    """`[{name, arguments}]`; the text itself where it is calls that cannot be read; empty: there are none."""
    thought: str


def read_reply(text: str, names: Iterable[str]) -> Reply:
    """Read an assistant's text; nothing in it is executed.

    Calls are `<tool_call>{"name", "arguments"}</tool_call>` (Hermes), `<functioncall>` (Glaive), or a whole text of the
    form `[name(argument=value), ...]` (ToolACE), in which names need not be identifiers.

    Args:
        text: of the turn.
        names: of the tools on offer.
    """
    thought = _THOUGHT.match(text)
    rest = text[thought.end() :] if thought else text
    for pattern in (_TAGGED_CALL, _GLAIVE_CALL):
        if found := pattern.findall(rest):
            calls = [_json_calls(body.strip()) for body in found]
            content = pattern.sub("", rest).strip()
            break
    else:
        calls = [_listed_calls(rest.strip(), names)] if _CALL_LIST.match(rest) else []
        content = "" if calls else rest.strip()
    readable = all(isinstance(part, list) for part in calls)
    every = [call for part in calls for call in part] if readable else rest.strip()
    return Reply(content, every, thought[1].strip() if thought else "")


def _json_calls(text: str) -> list[Any] | None:
    """The calls of an object `{name, arguments}` or of an array of such; None where it is none."""
    if quoted := _QUOTED_ARGUMENTS.fullmatch(text):
        try:
            value = {"name": json.loads(quoted[1]), "arguments": json.loads(quoted[2])}
        except (ValueError, RecursionError):
            return None
    else:
        value = literal(text)
    calls = value if isinstance(value, list) else [value]
    return calls if all(isinstance(call, dict) and "name" in call for call in calls) else None


def literal(text: str) -> Any:
    """The value of JSON text, or of a Python literal, which some datasets have in its place; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > Syntax.STRICT.max_characters:
        return None
    try:
        (call,) = parse_calls(f"[f(x={_with_python_constants(text)})]", Syntax.STRICT)
    except (ParseError, ValueError):
        return None
    return call.arguments["x"] if set(call.arguments) == {"x"} else None


def _with_python_constants(text: str) -> str:
    return "".join(_CONSTANTS.get(piece[0], piece[0]) for piece in _PIECE.finditer(text))


def _listed_calls(text: str, names: Iterable[str]) -> list[Any] | None:
    """The calls of `[name(argument=value), ...]`; None where it is no such list."""
    if len(text) > Syntax.STRICT.max_characters:
        return None
    try:
        calls = list(_split_calls(text, sorted(names, key=len, reverse=True)))
        # Names that are none in Python have stand-ins while Python's parser reads the values.
        source = (
            f"f({', '.join(f'x{place}={value}' for place, (_, value) in enumerate(arguments))})"
            for _, arguments in calls
        )
        read = parse_calls(f"[{', '.join(source)}]", Syntax.STRICT)
    except ParseError:
        return None
    is_plain = [len(call.arguments) for call in read] == [len(dict(arguments)) for _, arguments in calls]
    return (
        [
            {"name": name, "arguments": {key: call.arguments[f"x{place}"] for place, (key, _) in enumerate(arguments)}}
            for (name, arguments), call in zip(calls, read, strict=True)
        ]
        if is_plain
        else None
    )


def _split_calls(text: str, names: list[str]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each call's name and arguments, whose values are still text."""
    position = _past_space(text, 1)
    while text[position : position + 1] != "]":
        known = (name for name in names if text.startswith("(", _past_space(text, _past(text, position, name))))
        name = next(known, None) or text[position : text.find("(", position)].strip()
        opening = text.find("(", position + len(name))
        if opening < 0 or not name:
            raise ParseError("parse: not a list of calls", "no call where one should be")
        arguments, position = _split_arguments(text, opening + 1)
        yield name, arguments
        position = _past_space(text, position)
        if text[position : position + 1] == ",":
            position = _past_space(text, position + 1)
        elif text[position : position + 1] != "]":
            raise ParseError("parse: not a list of calls", "neither a comma nor the end after a call")
    if position + 1 < len(text):
        raise ParseError("parse: not a list of calls", "text after the list")


def _past_space(text: str, position: int) -> int:
    return _SPACE.match(text, position).end()


def _past(text: str, position: int, name: str) -> int:
    """Where a name ends that stands here; the end of the text when it does not."""
    return position + len(name) if text.startswith(name, position) else len(text)


def _split_arguments(text: str, position: int) -> tuple[list[tuple[str, str]], int]:
    """The arguments after an opening parenthesis, and where the call ends."""
    arguments = []
    position = _past_space(text, position)
    while text[position : position + 1] != ")":
        key = _ARGUMENT.match(text, position)
        if key is None:
            raise ParseError("parse: positional argument", "a value without a name")
        end = _end_of_value(text, key.end())
        arguments.append((key[1], _with_python_constants(text[key.end() : end].strip())))
        position = _past_space(text, end + (text[end] == ","))
    return arguments, position + 1


def _end_of_value(text: str, start: int) -> int:
    """Where the comma or parenthesis stands that ends a value."""
    depth = 0
    for piece in _PIECE.finditer(text, start):
        if depth == 0 and piece[0] in (",", ")"):
            return piece.start()
        depth += (piece["open"] is not None) - (piece["close"] is not None)
    raise ParseError("parse: syntax", "the text ends within a call")
