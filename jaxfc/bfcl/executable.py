"""The text of an answer -> the calls that are run, as source, the way BFCL writes them."""

from typing import Any

from jaxfc.calls.parse import NO_NAME, ParseError, Syntax, parse_calls


def executable_calls(text: str) -> list[str]:
    """Read the calls of an answer: `[f(a=1), g()]` -> `["f(a=1)", "g()"]`; empty where it is an empty list.

    Values are written as Python writes them, except that a dict in place of a value, or within one, is

    - a nested call where all its values are dicts: `{"g": {"b": 1}}`, as which `g(b=1)` is read, is `g(b=1)`;
    - else its keys in quotes, whatever they are, and its values written by these rules.

    Raises:
        ParseError: it is no list of calls, or a value is a dict without keys, at which BFCL's decoder fails.
    """
    return [_call(call.name, call.arguments) for call in parse_calls(text, Syntax.BFCL)]


def _call(name: Any, arguments: Any) -> str:
    # `**x` has no name in BFCL's form, which makes `None=...` of it.
    written = (f"{None if key == NO_NAME else key}={_value(value)}" for key, value in arguments.items())
    return f"{name}({', '.join(written)})"


def _value(value: Any) -> str:
    if not isinstance(value, dict):
        return repr(value)
    if not value:
        raise ParseError("parse: value", "a dict without keys")
    if all(isinstance(inner, dict) for inner in value.values()):
        return _call(*next(iter(value.items())))
    return "{" + ", ".join(f"'{key}': {_value(inner)}" for key, inner in value.items()) + "}"
