"""The tools of a row, read and mended; a tool that is met again, in whatever row, is remembered."""

import dataclasses
import functools
import marshal
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfc.calls.schema import SchemaError, Tool, tool_from_json
from jaxfc.data.keywords import mend_keys
from jaxfc.data.repair import Findings, Unfit, identifiers, mend_schema

MOST_REMEMBERED = 8192
"""Tools."""
LONGEST_REMEMBERED = 4096
"""Bytes of a tool's document; read, it takes several times as many."""

# Python does not write integers of more than 4,300 digits.
_MOST_BITS = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class ReadTool:
    """What a tool's document holds, whichever tools stand beside it."""

    is_plain: bool
    """See `is_plain`."""
    fault: str
    """Why the document is no tool; the rest is then empty."""
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
    is_clean: bool = False
    """There are no findings, and the tool's own name is kept as found."""


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """The tools of a row, found under the names that the row uses, without the white space around them."""

    found: dict[str, ReadTool]

    @property
    def tools(self) -> tuple[Tool, ...]:
        """As kept."""
        return tuple([read.tool for read in self.found.values()])

    def renamed(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """A call of the conversation so far, under the names as kept; other names and broken calls as they are."""
        name, arguments = call.get("name"), call.get("arguments")
        if not isinstance(name, str) or name not in self.found:
            return dict(call)
        read = self.found[name]
        if isinstance(arguments, dict):
            arguments = {read.parameters.get(key, key): value for key, value in arguments.items()}
        return {**call, "name": read.tool.name, "arguments": arguments}


def is_plain(value: Any, deepest: int) -> bool:
    """Whether a value surely is JSON without NaN, infinities and half surrogate pairs, at most `deepest` levels deep.

    Of a value that is not made of Python's own types this says no.
    """
    kind = type(value)
    if kind is str:
        return value.isascii() or _is_unicode(value)
    if kind is dict or kind is list:
        if not deepest:
            return False
        for item in value:
            # An item is a key where the value is a dict.
            if not is_plain(item, deepest - 1) or (kind is dict and type(item) is not str):
                return False
        return kind is list or is_plain(list(value.values()), deepest)
    if kind is int:
        return value.bit_length() < _MOST_BITS
    return value is None or kind is bool or (kind is float and math.isfinite(value))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_tools(documents: Sequence[Any], deepest: int) -> list[ReadTool]:
    """Read each document of an offer.

    Args:
        documents: JSON values.
        deepest: levels that each may have to be plain.
    """
    return [_read(document, deepest) for document in documents]


def _read(document: Any, deepest: int) -> ReadTool:
    try:
        # In this version equal documents make equal bytes, and the bytes tell 1, 1.0 and True apart.
        key = marshal.dumps(document, 2)
    except ValueError:
        return _read_document(document, deepest)
    return _remembered(key, deepest) if len(key) <= LONGEST_REMEMBERED else _read_document(document, deepest)


@functools.lru_cache(maxsize=MOST_REMEMBERED)
def _remembered(key: bytes, deepest: int) -> ReadTool:
    # Of a copy: what is remembered must not change with a row that someone else holds.
    return _read_document(marshal.loads(key), deepest)


def forget_tools():
    """Forget the tools that were read, as a new process has."""
    _remembered.cache_clear()


def _read_document(document: Any, deepest: int) -> ReadTool:
    plain = is_plain(document, deepest)
    names, schemas = Findings(), Findings()
    try:
        found = tool_from_json(mend_keys(document, schemas))
    except SchemaError as error:
        return ReadTool(plain, str(error))
    parameters = identifiers(found.properties, dotted=False, findings=names)
    tool = Tool(
        identifiers([found.name], dotted=True, findings=Findings())[found.name],
        found.description,
        {parameters[key]: mend_schema(schema, schemas) for key, schema in found.properties.items()},
        tuple([parameters[key] for key in found.required]),
    )
    clean = names == schemas == Findings() and tool.name == found.name
    new_names = {key.strip(): new for key, new in parameters.items()}
    return ReadTool(plain, "", found.name, tool, new_names, names, schemas, clean)


def make_offer(tools: Sequence[ReadTool], findings: Findings) -> Offer:
    """The tools of a row side by side; repairs and faults go to `findings`.

    Raises:
        Unfit: one is no tool, two share a name, or a name cannot be made an identifier.
    """
    offer = Offer({read.name.strip(): read for read in tools})
    if len(offer.found) == len(tools) and False not in [read.is_clean for read in tools]:
        return offer
    for read in tools:
        if read.fault:
            raise Unfit("schema: invalid", read.fault)
    names = [read.name for read in tools]
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise Unfit("tools: duplicate name", f"{names.count(name)} tools are named {name}")
    identifiers(names, dotted=True, findings=findings)
    for read in tools:
        findings.add(read.names)
    if findings.faults:
        raise Unfit(*findings.faults[0])
    for read in tools:
        findings.add(read.schemas)
    return offer
