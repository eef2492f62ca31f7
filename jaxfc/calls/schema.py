"""Tools and calls: the dialects of function-calling data, in one form."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxfc.calls.dialects import (
    TYPE_OF_WORD,
    SchemaError,
    json_schema,
    python_type,
    read_schema,
    show,
    split_outside_brackets,
)

_VALUE_TYPES = {
    "string": (str,),
    "integer": (int,),
    "float": (float, int),
    "boolean": (bool,),
    "array": (list,),
    "tuple": (list, tuple),
    "dict": (dict,),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Tool:
    """One function on offer."""

    name: str
    """Dots are part of the name."""
    description: str
    properties: Mapping[str, Mapping[str, Any]]
    """Parameter name -> its schema: `type`, and where known `description`, `items`, `properties`, `enum`, `default`.
    The types are BFCL's: string, integer, float, boolean, array, tuple, dict, any; or those of another language."""
    required: tuple[str, ...]
    language: str = "python"
    """That its types are named in, and calls to it are written in; see `languages` for the others."""


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One use of a tool: keyword arguments with Python values."""

    name: str
    arguments: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class AcceptedCall:
    """One expected call, in BFCL's form: for each argument the values that count as right."""

    name: str
    arguments: Mapping[str, tuple[Any, ...]]
    """The value `""` in a tuple means that the argument may be left out. Where the parameter is a dict, or a list of
    dicts, a value holds accepted values in turn, one level down: `{key: [values]}`."""


# Reading tools


def tool_from_json(document: Any) -> Tool:
    """Read one tool in any of the dialects of function-calling data.

    The dialect is seen from the form: OpenAI's `{"type": "function", "function": {...}}`; parameters that are a JSON
    Schema object, or BFCL's `{"type": "dict", ...}`; xLAM's flat `{parameter: {"type": "str, optional", ...}}`.
    Numbers become float, objects dict; an unknown type, a mixed union and null become any. In the flat dialect a
    parameter is required when its type says neither `, optional` nor `Optional[...]` and it has no default (none, null
    or empty).

    Raises:
        SchemaError: the document describes no tool.
    """
    if isinstance(document, Mapping) and isinstance(document.get("function"), Mapping):
        document = document["function"]
    if not isinstance(document, Mapping):
        raise SchemaError(f"a tool should be an object with a name and parameters, not {show(document)}.")
    name, description = document.get("name"), document.get("description")
    if not isinstance(name, str) or not name:
        raise SchemaError(f"the name of a tool should be text, not {show(name)}.")
    if not isinstance(description, str | None):
        raise SchemaError(f"{name}: the description should be text, not {show(description)}.")
    parameters = document.get("parameters")
    if not isinstance(parameters, Mapping | None) or not all(isinstance(key, str) for key in parameters or {}):
        raise SchemaError(f"{name}: parameters should be an object, not {show(parameters)}.")
    read = _object_parameters if _is_object_schema(parameters or {}) else _flat_parameters
    properties, required = read(name, parameters or {})
    return Tool(name, description or "", properties, required)


def _is_object_schema(parameters: Mapping[str, Any]) -> bool:
    kind, properties = parameters.get("type"), parameters.get("properties")
    if isinstance(kind, str):
        return True
    # A flat parameter may itself be named "properties": its entries are text, not schemas.
    return isinstance(properties, Mapping) and all(isinstance(value, Mapping) for value in properties.values())


def _object_parameters(name: str, parameters: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    if TYPE_OF_WORD.get(str(parameters.get("type") or "object").lower()) != "dict":
        raise SchemaError(f"{name}: parameters has the type {show(parameters['type'])}; it should be an object.")
    schema = read_schema({**parameters, "type": "object"}, name, 0)
    properties, required = schema.get("properties", {}), schema.get("required", ())
    for parameter in required:
        if parameter not in properties:
            raise SchemaError(f"{name}: requires {parameter!r}, which is not among its parameters.")
    return properties, tuple(dict.fromkeys(required))


def _flat_parameters(name: str, parameters: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    properties, required = {}, []
    for parameter, raw in parameters.items():
        where = f"{name}.{parameter}"
        if not isinstance(raw, Mapping):
            raise SchemaError(f"{where}: a parameter should be an object with a type, not {show(raw)}.")
        kind, *rest = (
            split_outside_brackets(raw["type"], ",") if isinstance(raw.get("type"), str) else [raw.get("type")]
        )
        optional = any(word.lower() == "optional" for word in rest)
        optional |= isinstance(kind, str) and kind.startswith(("Optional[", "typing.Optional["))
        has_default = raw.get("default") not in (None, "")
        given = {key: value for key, value in raw.items() if key != "required" and (key != "default" or has_default)}
        properties[parameter] = read_schema({**given, "type": kind}, where, 0)
        declared = raw.get("required")
        if declared if isinstance(declared, bool) else not (optional or has_default):
            required.append(parameter)
    return properties, tuple(required)


# Writing tools


def tool_to_openai(tool: Tool) -> dict[str, Any]:
    """The tool as OpenAI's `tools` list it, with JSON Schema types: tuples are arrays, any has no type."""
    properties = {name: json_schema(schema) for name, schema in tool.properties.items()}
    parameters = {"type": "object", "properties": properties, "required": list(tool.required)}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def tool_to_bfcl(tool: Tool) -> dict[str, Any]:
    """The tool as a BFCL function doc."""
    properties = {name: dict(schema) for name, schema in tool.properties.items()}
    parameters = {"type": "dict", "properties": properties, "required": list(tool.required)}
    return {"name": tool.name, "description": tool.description, "parameters": parameters}


def signature(tool: Tool) -> str:
    """The tool on one line, for prompts: `weather.get(city: str, days?: int, unit?: 'c'|'f')`; `?` marks optional."""
    parameters = (
        f"{name}{'' if name in tool.required else '?'}: {python_type(schema)}"
        for name, schema in tool.properties.items()
    )
    return f"{tool.name}({', '.join(parameters)})"


# Accepted calls


def accepted_from_bfcl(ground_truth: Sequence[Any]) -> tuple[AcceptedCall, ...]:
    """Read a BFCL answer, `[{name: {parameter: [accepted values]}}, ...]`.

    Raises:
        SchemaError: it is not of that form.
    """
    calls = []
    for answer in ground_truth:
        match answer:
            case Mapping() if len(answer) == 1:
                ((name, arguments),) = answer.items()
                if isinstance(arguments, Mapping) and all(isinstance(v, list | tuple) for v in arguments.values()):
                    calls.append(AcceptedCall(name, {key: tuple(values) for key, values in arguments.items()}))
                    continue
        raise SchemaError(f"an accepted call should be {{name: {{parameter: [values]}}}}, not {show(answer)}.")
    return tuple(calls)


def accepted_to_bfcl(accepted: Iterable[AcceptedCall]) -> list[dict[str, Any]]:
    """Write accepted calls as a BFCL answer."""
    return [{call.name: {key: list(values) for key, values in call.arguments.items()}} for call in accepted]


def accepted_from_calls(calls: Sequence[Call], tools: Sequence[Tool]) -> tuple[AcceptedCall, ...]:
    """The accepted form of expected calls.

    A given argument accepts its own value alone; where it is optional and the value is the declared default, it may be
    left out too. An optional argument that is not given may be given its declared default. Values that fit their
    schemas match their own accepted form (the items of a list of floats being floats).

    Raises:
        SchemaError: a call to a tool that is not on offer, or with an argument that the tool does not declare.
    """
    return tuple(_accepted_call(call, _tool_of(call.name, tools)) for call in calls)


def _tool_of(name: str, tools: Sequence[Tool]) -> Tool:
    for tool in tools:
        if tool.name == name:
            return tool
    raise SchemaError(f"calls {name!r}, which is not among the tools: {', '.join(tool.name for tool in tools)}.")


def _accepted_call(call: Call, tool: Tool) -> AcceptedCall:
    accepted: dict[str, tuple[Any, ...]] = {}
    for name, value in call.arguments.items():
        if name not in tool.properties:
            raise SchemaError(f"calls {tool.name} with {name!r}, which is not among its parameters.")
        schema = tool.properties[name]
        is_default = _has_default(tool, name) and schema["default"] == value
        may_be_left_out = is_default and isinstance(value, bool) == isinstance(schema["default"], bool)
        accepted[name] = (_nest(value, schema), "") if may_be_left_out else (_nest(value, schema),)
    for name, schema in tool.properties.items():
        if name not in accepted and _has_default(tool, name):
            accepted[name] = ("", _nest(schema["default"], schema))
    return AcceptedCall(tool.name, accepted)


def _has_default(tool: Tool, name: str) -> bool:
    """Whether the parameter may be left out and declares a default of its own type that is more than empty text."""
    schema = tool.properties[name]
    default = schema.get("default")
    if name in tool.required or default is None or default == "":
        return False
    if isinstance(default, bool):
        return schema.get("type", "any") in ("boolean", "any")
    return isinstance(default, _VALUE_TYPES.get(schema.get("type", "any"), object))


def _nest(value: Any, schema: Mapping[str, Any]) -> Any:
    """A value in accepted form: dicts that BFCL checks key by key hold lists of accepted values."""
    kind = schema.get("type")
    if kind == "tuple" and isinstance(value, tuple):
        value = list(value)
    if kind == "dict" and isinstance(value, Mapping):
        return {key: [item] for key, item in value.items()}
    if kind in ("array", "tuple") and schema.get("items", {}).get("type") == "dict" and isinstance(value, list):
        return [_nest(item, schema["items"]) for item in value]
    return value


def calls_from_accepted(accepted: Sequence[AcceptedCall], tools: Sequence[Tool]) -> tuple[Call, ...]:
    """One call for each accepted call, made of its first accepted values; what these leave out is left out.

    Raises:
        SchemaError: a call to a tool that is not on offer.
    """
    return tuple(_first_call(call, _tool_of(call.name, tools)) for call in accepted)


def _first_call(call: AcceptedCall, tool: Tool) -> Call:
    return Call(
        call.name,
        {
            name: _unnest(values[0], tool.properties.get(name, {}))
            for name, values in call.arguments.items()
            if values and (values[0] != "" or name in tool.required)
        },
    )


def _unnest(value: Any, schema: Mapping[str, Any]) -> Any:
    kind = schema.get("type")
    if kind == "dict" and isinstance(value, Mapping):
        return {key: items[0] for key, items in value.items() if items and items[0] != ""}
    if kind in ("array", "tuple") and schema.get("items", {}).get("type") == "dict" and isinstance(value, list):
        return [_unnest(item, schema["items"]) for item in value]
    return value
