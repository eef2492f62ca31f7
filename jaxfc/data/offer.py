"""The tools of a row, read and mended; a tool that is met again, in whatever row, is remembered."""

import dataclasses
import functools
import json
import marshal
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfc.calls.schema import SchemaError, Tool, tool_from_json
from jaxfc.data.keywords import mend_keys
from jaxfc.data.repair import Findings, Unfit, identifiers, mend_schema

MOST_REMEMBERED = 8192
"""Tools."""
LONGEST_REMEMBERED = 4096
"""Bytes of a tool's document; it takes about eight times as much when it is read."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


@dataclasses.dataclass(frozen=True, slots=True)
class ReadTool:
    """What a tool's document holds, whichever tools stand beside it."""

    is_plain: bool
    """See `is_plain`; here 2 levels less, for the lists around it."""
    fault: str = ""
    """Why it is no tool; the rest is then empty."""
    name: str = ""
    """As found."""
    tool: Tool | None = None
    """As kept: with identifiers for names."""
    parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Each parameter's name as found, without the white space around it, and as kept."""
    names: Findings = dataclasses.field(default_factory=Findings)
    """Of the parameters' names."""
    schemas: Findings = dataclasses.field(default_factory=Findings)
    """Of the parameters' schemas."""


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """The tools of a row, found under the names that the row uses, without the white space around them."""

    tools: dict[str, Tool]
    """As kept: with identifiers for names."""
    parameters: dict[str, Mapping[str, str]]
    """Tool -> parameter as the row writes it -> parameter as kept."""

    def renamed(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """A call of the conversation so far, under the names as kept; other names and broken calls as they are."""
        name, arguments = call.get("name"), call.get("arguments")
        if not isinstance(name, str) or name not in self.tools:
            return dict(call)
        if isinstance(arguments, dict):
            new = self.parameters[name]
            arguments = {new.get(key, key): value for key, value in arguments.items()}
        return {**call, "name": self.tools[name].name, "arguments": arguments}


def is_plain(value: Any, deepest: int) -> bool:
    """Whether a value is JSON without NaN, infinities and half surrogate pairs, and surely no deeper than `deepest`."""
    try:
        text = _ENCODER.encode(value)
        text.encode()
    except (ValueError, RecursionError):
        return False
    # As many brackets are deep enough only if each stands in the one before.
    return text.count("[") + text.count("{") <= deepest


def read_tools(documents: Sequence[Any], deepest: int) -> list[ReadTool]:
    """Read each document of a row's offer.

    Args:
        documents: JSON values.
        deepest: of the levels that a row may have.
    """
    return [_read(document, deepest - 2) for document in documents]


def _read(document: Any, deepest: int) -> ReadTool:
    try:
        # In this version, equal documents make equal bytes; the bytes tell 1, 1.0 and True apart.
        key = marshal.dumps(document, 2)
    except ValueError:
        return _read_document(document, deepest)
    return _remembered(key, deepest) if len(key) <= LONGEST_REMEMBERED else _read_document(document, deepest)


@functools.lru_cache(maxsize=MOST_REMEMBERED)
def _remembered(key: bytes, deepest: int) -> ReadTool:
    # A copy: what is remembered must not change with a row that someone else holds too.
    return _read_document(marshal.loads(key), deepest)


def _read_document(document: Any, deepest: int) -> ReadTool:
    plain = is_plain(document, deepest)
    names, schemas = Findings(), Findings()
    try:
        tool = tool_from_json(mend_keys(document, schemas))
    except SchemaError as error:
        return ReadTool(plain, fault=str(error))
    parameters = identifiers(tool.properties, dotted=False, findings=names)
    new = dataclasses.replace(
        tool,
        name=identifiers([tool.name], dotted=True, findings=Findings())[tool.name],
        properties={parameters[key]: mend_schema(schema, schemas) for key, schema in tool.properties.items()},
        required=tuple(parameters[key] for key in tool.required),
    )
    return ReadTool(
        plain,
        name=tool.name,
        tool=new,
        parameters={key.strip(): new_key for key, new_key in parameters.items()},
        names=names,
        schemas=schemas,
    )


def make_offer(tools: Sequence[ReadTool], findings: Findings) -> Offer:
    """The tools of a row side by side; repairs and faults go to `findings`.

    Raises:
        Unfit: one is no tool, two share a name, or a name cannot be made an identifier.
    """
    for tool in tools:
        if tool.fault:
            raise Unfit("schema: invalid", tool.fault)
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise Unfit("tools: duplicate name", f"{names.count(name)} tools are named {name}")
    if any(tool.name != tool.tool.name for tool in tools):
        identifiers(names, dotted=True, findings=findings)
    for tool in tools:
        findings.add(tool.names)
    if findings.faults:
        raise Unfit(*findings.faults[0])
    for tool in tools:
        findings.add(tool.schemas)
    kept = {tool.name.strip(): tool for tool in tools}
    return Offer(
        {name: tool.tool for name, tool in kept.items()},
        {name: tool.parameters for name, tool in kept.items()},
    )
