"""Calls against accepted calls -> Verdict, with a reason: BFCL's rules, for data, reward and evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxfc.calls.dialects import show
from jaxfc.calls.languages import LANGUAGES, converted
from jaxfc.calls.parse import ParseError, Syntax, attempts_calls, find_calls, parse_calls
from jaxfc.calls.schema import AcceptedCall, Call, Tool


class Verdict(NamedTuple):
    """Whether an answer is right, and why not. A tuple is always true: ask for `ok`."""

    ok: bool
    reason: str
    """`ok`, or one of few kinds of fault: `parse: syntax`, `malformed call`, `count`, `name`, ..."""
    detail: str = ""
    """What was found, for people."""


ANY_CALL = (AcceptedCall("*", {}),)
"""Accepted calls of which any call is right, whatever its name and arguments (BFCL's relevance)."""

RIGHT = Verdict(True, "ok")

_TYPES: Mapping[str, type] = {
    "string": str,
    "any": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
}
_CLEANED = str.maketrans("'", '"', " ,./-_*^")


def judge_answer(text: str, tools: Sequence[Tool], accepted: Sequence[AcceptedCall], syntax: Syntax) -> Verdict:
    """Parse an answer and hold its calls against the accepted ones. No text raises.

    It is read in the language of the tools; the syntax is that of Python.

    Args:
        text: the answer, without chain of thought and wrapper.
        tools: on offer; each accepted call names one of them.
        accepted: the expected calls; none: no call may be made; `ANY_CALL`: some call must be made.
        syntax: what counts as a list of calls. Where no call may be made, the lenient syntax takes all that does not
            parse for no call, as BFCL does. Otherwise text is a call if it is or holds a list of calls, even one that
            only the lenient syntax reads; `malformed call` if it only looks like one (`parse.attempts_calls`); and
            no call if it is prose.
    """
    language = LANGUAGES.get(tools[0].language) if tools else None
    try:
        calls = language.parse(text) if language else parse_calls(text, syntax)
    except ParseError as error:
        if accepted:
            return Verdict(False, error.reason, error.detail)
        calls = [] if syntax.lenient else find_calls(text)
        if not (calls or syntax.lenient) and attempts_calls(text, (tool.name for tool in tools)):
            return Verdict(False, "malformed call", f"no call expected; {error}")
    return match_calls(calls, tools, accepted)


def match_calls(calls: Sequence[Call], tools: Sequence[Tool], accepted: Sequence[AcceptedCall]) -> Verdict:
    """Hold calls against the accepted ones, in any order, one to one.

    Each accepted call, in order, takes the first call not yet taken that fits it. As in BFCL this is greedy: where
    a call fits two accepted calls, the order of the calls can matter.

    Args:
        calls: what was answered.
        tools: on offer; each accepted call names one of them.
        accepted: the expected calls; none: no call may be made; `ANY_CALL`: some call must be made.
    """
    if not accepted:
        return Verdict(False, "no call expected", f"{calls[0].name} is called") if calls else RIGHT
    if not calls:
        return Verdict(False, "call expected", "no call is made")
    if accepted[0].name == ANY_CALL[0].name and tuple(accepted) == ANY_CALL:
        return RIGHT
    if len(calls) != len(accepted):
        return Verdict(False, "count", f"{len(calls)} calls; {len(accepted)} are expected")
    left = list(calls)
    for expected in accepted:
        for tool in tools:
            if tool.name == expected.name:
                break
        else:
            return Verdict(False, "name", f"{expected.name} is expected, but not on offer")
        verdicts = []
        for place, call in enumerate(left):
            verdict = _match_call(call, tool, expected)
            if verdict.ok:
                del left[place]
                break
            verdicts.append(verdict)
        else:
            # Of the calls that do not fit, the most telling is one of the expected tool.
            return next((verdict for verdict in verdicts if verdict.reason != "name"), verdicts[0])
    return RIGHT


def _match_call(call: Call, tool: Tool, expected: AcceptedCall) -> Verdict:
    if call.name != tool.name:
        return Verdict(False, "name", f"{show(call.name)} is called, {tool.name} expected")
    for name in tool.required:
        if name not in call.arguments:
            return Verdict(False, "missing required", f"{tool.name} lacks {name}")
    for name, value in call.arguments.items():
        if name not in tool.properties or name not in expected.arguments:
            return Verdict(False, "unexpected argument", f"{tool.name} is given {name}")
        schema = tool.properties[name]
        if tool.language in LANGUAGES:
            try:
                value, schema = converted(value, schema, tool.language)
            except ValueError as error:
                return Verdict(False, "type: conversion", f"{tool.name}.{name}: {error}")
        fault = _fault(value, schema, expected.arguments[name])
        if fault:
            return Verdict(False, fault, f"{tool.name}.{name} is {show(value)}")
    for name, values in expected.arguments.items():
        if name not in call.arguments and "" not in values:
            return Verdict(False, "missing optional", f"{tool.name} lacks {name}")
    return RIGHT


def _fault(value: Any, schema: Mapping[str, Any], values: Sequence[Any]) -> str:
    """What is wrong with a value, given its parameter's schema and the accepted values; empty when nothing is."""
    kind = schema.get("type", "any")
    expected = _TYPES[kind]
    items = schema.get("items") if expected is list else None
    item_type = _TYPES[items.get("type", "any")] if items else None
    if kind == "tuple" and type(value) is tuple:
        value = list(value)
    if kind == "float" and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            return "type"
    accepted_type = _accepted_type(values)
    # An accepted value of another type than the schema's overrides it, and is then compared as it is.
    overridden = accepted_type not in (None, expected)
    if type(value) is not expected:
        if type(value) is not accepted_type:
            return "type"
        overridden = True
    elif item_type and not _items_have_type(value, values, item_type):
        return "type: items"
    if overridden or expected in (int, float, bool):
        return "" if value in values else "value: other"
    if expected is str:
        return _text_fault(value, values)
    if expected is dict:
        return _dict_fault(value, values)
    return _dicts_fault(value, values) if item_type is dict else _list_fault(value, values)


def _accepted_type(values: Sequence[Any]) -> type | None:
    for value in values:
        if value != "":
            return type(value)
    return None


def _items_have_type(value: list[Any], values: Sequence[Any], item_type: type) -> bool:
    """Whether all items have the type, or that of the first item of one same accepted list."""
    for accepted in values:
        if type(accepted) is not list:
            return True
        types = (item_type, _accepted_type(accepted))
        if all(type(item) in types for item in value):
            return True
    return False


def _clean(value: Any) -> Any:
    return value.translate(_CLEANED).lower() if type(value) is str else value


def _text_fault(value: str, values: Sequence[Any]) -> str:
    if value in values:
        return ""
    text = _clean(value)
    return "" if any(type(accepted) is str and _clean(accepted) == text for accepted in values) else "value: string"


def _list_fault(value: list[Any], values: Sequence[Any]) -> str:
    if not all(isinstance(accepted, str | list | tuple) for accepted in values):
        return "value: list"
    cleaned = [_clean(item) for item in value]
    # As in BFCL, text among the accepted lists is the list of its characters: "" is the empty list.
    return "" if any([_clean(item) for item in accepted] == cleaned for accepted in values) else "value: list"


def _dicts_fault(value: list[Any], values: Sequence[Any]) -> str:
    """Lists of dicts agree where their dicts do, in order."""
    fault = "value: list"
    for accepted in values:
        if isinstance(accepted, str | list | tuple) and len(accepted) == len(value):
            faults = (_dict_fault(item, [choices]) for item, choices in zip(value, accepted, strict=True))
            fault = next(filter(None, faults), "")
            if not fault:
                return ""
    return fault


def _dict_fault(value: Any, values: Sequence[Any]) -> str:
    """Dicts agree where each given key has an accepted value, and each key not given may be left out."""
    fault = "value: dict key"
    for accepted in values:
        if type(accepted) is not dict or type(value) is not dict:
            continue
        fault = _members_fault(value, accepted)
        if not fault:
            return ""
    return fault


def _members_fault(value: dict[Any, Any], accepted: dict[Any, Any]) -> str:
    for key, member in value.items():
        if key not in accepted:
            return "value: dict key"
        if _clean(member) not in [_clean(choice) for choice in _choices(accepted[key])]:
            return "value: dict value"
    for key, choices in accepted.items():
        if key not in value and "" not in _choices(choices):
            return "value: dict key"
    return ""


def _choices(choices: Any) -> Sequence[Any]:
    """The accepted values of a dict's key; nothing is right where the data has none in that place."""
    return choices if isinstance(choices, str | list | tuple) else ()
