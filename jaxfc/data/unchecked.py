"""Rows without the AST stage: as they are, wherever they can be written as an example at all."""

from typing import Any

from jaxfc.calls.schema import AcceptedCall, SchemaError, Tool, accepted_from_bfcl, tool_from_json
from jaxfc.data.example import Example, kind_of
from jaxfc.data.plain import plain_json
from jaxfc.data.repair import Unfit
from jaxfc.data.sources.rows import RawRow
from jaxfc.data.validate import Dropped, Kept


def unchecked(row: RawRow) -> Kept | Dropped:
    """A row as an example that was held against nothing: neither its calls nor its names need be right."""
    try:
        try:
            plain_json([row.id, row.messages, row.tools, row.answers, row.thought, row.text])
        except ValueError as error:
            raise Unfit("row: no plain JSON", str(error)) from error
        tools, accepted = _tools(row.tools), _accepted(row)
        example = Example(
            id=row.id,
            messages=_messages(row.messages),
            tools=tools,
            accepted=accepted,
            source=row.source,
            licence=row.licence,
            kind=kind_of(len(tools), len(accepted)),
            thought=row.thought,
            text=row.text,
            weight=row.weight,
        )
    except Unfit as unfit:
        return Dropped(row.id, row.source, unfit.reason, unfit.detail, row.where)
    return Kept(example, row.repairs, row.where)


def _tools(documents: Any) -> tuple[Tool, ...]:
    if not isinstance(documents, list):
        raise Unfit("tools: not parseable", f"tools is {str(documents)[:60]!r}")
    try:
        return tuple(map(tool_from_json, documents))
    except SchemaError as error:
        raise Unfit("schema: invalid", str(error)) from error


def _messages(messages: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(messages, list) or not messages:
        raise Unfit("prompt: malformed", "messages is not a list of objects")
    for place, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Unfit("prompt: malformed", f"message {place} is no object with a role")
        if not isinstance(message.get("content"), str | None):
            raise Unfit("prompt: malformed", f"the content of message {place} is no text")
        calls = message.get("tool_calls") or []
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            raise Unfit("prompt: malformed", f"tool_calls of message {place} is not a list of objects")
    return tuple(message | {"content": message.get("content") or ""} for message in messages)


def _accepted(row: RawRow) -> tuple[AcceptedCall, ...]:
    if row.accepted is not None:
        try:
            return accepted_from_bfcl(row.accepted)
        except (SchemaError, TypeError) as error:
            raise Unfit("answer: not parseable", str(error)) from error
    if not isinstance(row.answers, list):
        raise Unfit("answer: not parseable", f"answers is {str(row.answers)[:60]!r}")
    return tuple(map(_accepted_call, row.answers))


def _accepted_call(answer: Any) -> AcceptedCall:
    name = answer.get("name") if isinstance(answer, dict) else None
    arguments = answer.get("arguments", {}) if isinstance(answer, dict) else None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise Unfit("answer: not parseable", f"{str(answer)[:60]!r} is no call")
    return AcceptedCall(name, {key: (value,) for key, value in arguments.items()})
