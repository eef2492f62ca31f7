"""The tools that a request offers, and the calls in a reply: OpenAI's JSON outside, Python's syntax inside."""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxfc.calls.parse import ParseError, Syntax, parse_calls
from jaxfc.calls.schema import SchemaError, Tool, tool_from_json
from jaxfc.server.errors import ApiError
from jaxfc.server.fields import Fields, wrong

_NOT_IN_NAMES = re.compile(r"[^\w.]|(?<![\w])(?=\d)|^\.|\.$|\.(?=\.)")


class Offer(NamedTuple):
    """The tools that may be called."""

    tools: tuple[Tool, ...]
    """With names that stand in a call: `get-weather` is get_weather."""
    names: Mapping[str, str]
    """Name in a call -> name in the request."""
    must_call: tuple[Tool, ...] | None
    """Of these, one or more must be called; None: it is for the model to say."""

    def written(self, name: str) -> str:
        """The name in a call of a name in the request."""
        return next((inside for inside, outside in self.names.items() if outside == name), name)


class ToolCall(NamedTuple):
    """One call of a reply."""

    id: str
    name: str
    arguments: str
    """A JSON object."""

    def document(self) -> dict[str, Any]:
        """As a message has it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def read_offer(fields: Fields, most: int) -> Offer | None:
    """`tools` and `tool_choice` of a request; None where no tool may be called.

    Raises:
        ApiError: 400, something about them is not right.
    """
    given, choice = fields.items("tools"), fields.get("tool_choice")
    if len(given) > most:
        raise ApiError(400, f"{len(given)} tools; at most {most} may be offered.", param="tools", code="invalid_value")
    names: dict[str, str] = {}
    tools = tuple(_read_tool(raw, f"tools[{place}]", names) for place, raw in enumerate(given))
    wanted = _read_choice(choice, names)
    if wanted == "none" or (not tools and wanted == "auto"):
        return None
    if not tools:
        raise ApiError(400, "tool_choice asks for a call, but there are no tools.", param="tool_choice")
    if wanted == "auto":
        return Offer(tools, names, None)
    chosen = tuple(tool for tool in tools if wanted in ("required", ("named", tool.name)))
    return Offer(tools, names, chosen)


def _read_tool(raw: Any, where: str, names: dict[str, str]) -> Tool:
    if not isinstance(raw, dict) or raw.get("type") != "function" or not isinstance(raw.get("function"), dict):
        raise wrong(where, raw, '{"type": "function", "function": {"name": ..., "parameters": ...}}')
    try:
        tool = tool_from_json(raw)
    except SchemaError as error:
        raise ApiError(400, f"{where}: {error}", param=where, code="invalid_value") from error
    if tool.name in names.values():
        raise ApiError(400, f"{where}: a second tool of the name {tool.name!r}.", param=where, code="invalid_value")
    inside = _NOT_IN_NAMES.sub("_", tool.name) or "_"
    while inside in names:
        inside += "_"
    names[inside] = tool.name
    return Tool(inside, tool.description, tool.properties, tool.required)


def _read_choice(choice: Any, names: Mapping[str, str]) -> str | tuple[str, str]:
    """`none`, `auto`, `required`, or the name inside of the one tool to call."""
    if choice is None:
        return "auto"
    if choice in ("none", "auto", "required"):
        return choice
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        right = 'none, auto, required, or {"type": "function", "function": {"name": ...}}'
        raise wrong("tool_choice", choice, right)
    for inside, outside in names.items():
        if outside == name:
            return "named", inside
    raise ApiError(400, f"tool_choice names {name!r}, which is not among the tools.", param="tool_choice")


def read_calls(answer: str, offer: Offer) -> list[ToolCall]:
    """The calls that an answer makes; none where it is not wholly a list of calls of offered tools that fits JSON."""
    try:
        calls = parse_calls(answer, Syntax.STRICT)
        if any(call.name not in offer.names for call in calls):
            return []
        return [ToolCall(_call_id(), offer.names[call.name], _json(call.arguments)) for call in calls]
    except (ParseError, TypeError, ValueError):
        # JSON has no infinity, and a dict of Python may have keys that are no text.
        return []


def _json(arguments: Mapping[str, Any]) -> str:
    text = json.dumps(_with_text_keys(arguments), ensure_ascii=False, allow_nan=False)
    # Python's text may hold halves of surrogate pairs, which are no characters.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _with_text_keys(value: Any) -> Any:
    """The value, if its dicts have keys that are text; JSON would turn others into text unasked."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a key of a dict is no text")
        return {key: _with_text_keys(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_with_text_keys(item) for item in value]
    return value


def _call_id() -> str:
    return f"call_{secrets.token_hex(12)}"
