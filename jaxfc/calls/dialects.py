"""Parameter schemas: the types of Python, JSON Schema and BFCL, in BFCL's words."""

from collections.abc import Mapping, Sequence
from typing import Any

_TYPES = {
    "string": ("string", "str", "callable"),
    "integer": ("integer", "int"),
    "float": ("float", "number", "double"),
    "boolean": ("boolean", "bool"),
    "array": ("array", "list", "set", "frozenset", "sequence", "iterable"),
    "tuple": ("tuple",),
    "dict": ("dict", "object", "mapping"),
    "null": ("null", "none", "nonetype"),
}
TYPE_OF_WORD = {word: kind for kind, words in _TYPES.items() for word in words}
_JSON_TYPES = {
    "string": "string",
    "integer": "integer",
    "float": "number",
    "boolean": "boolean",
    "array": "array",
    "tuple": "array",
    "dict": "object",
}
_PYTHON_TYPES = {
    "string": "str",
    "integer": "int",
    "float": "float",
    "boolean": "bool",
    "array": "list",
    "tuple": "tuple",
    "dict": "dict",
}
_STRUCTURE = frozenset(["type", "items", "properties", "additionalProperties", "required", "anyOf", "oneOf"])
_DEEPEST = 32


class SchemaError(ValueError):
    """What should describe a tool, or the calls to one, does not."""


def read_schema(raw: Any, where: str, depth: int = 0) -> dict[str, Any]:
    """One parameter, item or property in the one form. Keys that say nothing of the structure are kept as they are.

    Args:
        raw: the schema as found; types are JSON Schema's, BFCL's or Python's (`List[Union[int, float]]`).
        where: the schema's place, for messages: `f.x`.
        depth: of the schemas around it.

    Raises:
        SchemaError: it is no schema, or nests too deep.
    """
    if not isinstance(raw, Mapping):
        raise SchemaError(f"{where}: a schema should be an object, not {show(raw)}.")
    if depth > _DEEPEST:
        raise SchemaError(f"{where}: nested deeper than {_DEEPEST}.")
    if raw.get("enum") is not None and not isinstance(raw["enum"], list | tuple):
        raise SchemaError(f"{where}: enum should be a list, not {show(raw['enum'])}.")
    found = _read_kind(raw, where, depth)
    kept = {key: raw[key] for key in raw if key not in _STRUCTURE}
    schema = {"type": found["type"], **kept}
    for key in found:
        schema.setdefault(key, found[key])
    if schema["type"] in ("array", "tuple") and isinstance(raw.get("items"), Mapping | list):
        items = raw["items"] if isinstance(raw["items"], list) else [raw["items"]]
        schema |= _items(_union([read_schema(item, f"{where}[]", depth + 1) for item in items]))
    if schema["type"] == "dict":
        schema |= _read_members(raw, where, depth)
    return schema


def _read_members(raw: Mapping[str, Any], where: str, depth: int) -> dict[str, Any]:
    members: dict[str, Any] = {}
    properties, required = raw.get("properties"), raw.get("required")
    if properties is not None:
        if not isinstance(properties, Mapping) or not all(isinstance(key, str) for key in properties):
            raise SchemaError(f"{where}: properties should be an object, not {show(properties)}.")
        members["properties"] = {
            key: read_schema(value, f"{where}.{key}", depth + 1) for key, value in properties.items()
        }
    if required is not None:
        if not isinstance(required, list | tuple) or not all(isinstance(key, str) for key in required):
            raise SchemaError(f"{where}: required should be a list of names, not {show(required)}.")
        members["required"] = list(required)
    if isinstance(raw.get("additionalProperties"), Mapping):
        members["additionalProperties"] = read_schema(raw["additionalProperties"], f"{where}.*", depth + 1)
    return members


def _read_kind(raw: Mapping[str, Any], where: str, depth: int) -> dict[str, Any]:
    """`type`, with `items` where a Python type names them. Without a type it is told from what else is there."""
    kind = raw.get("type")
    if isinstance(kind, str):
        return _without_null(_read_type(kind, where, depth))
    if isinstance(kind, list | tuple) and all(isinstance(word, str) for word in kind):
        return _union([_read_type(word, where, depth) for word in kind])
    if kind is not None:
        raise SchemaError(f"{where}: the type should be text, not {show(kind)}.")
    for key in ("anyOf", "oneOf"):
        if isinstance(raw.get(key), list | tuple):
            options = [option for option in raw[key] if option != {"type": "null"}]
            return _union([read_schema(option, where, depth + 1) for option in options])
    if isinstance(raw.get("properties"), Mapping):
        return {"type": "dict"}
    if isinstance(raw.get("items"), Mapping | list):
        return {"type": "array"}
    enum = raw.get("enum")
    return {"type": "string" if enum and all(isinstance(value, str) for value in enum) else "any"}


def _read_type(text: str, where: str, depth: int) -> dict[str, Any]:
    """A JSON type, or a Python type such as `List[Union[int, float]]`; `null` stays for a union to drop."""
    if depth > _DEEPEST:
        raise SchemaError(f"{where}: its type nests deeper than {_DEEPEST}.")
    if text in TYPE_OF_WORD:
        return {"type": TYPE_OF_WORD[text]}
    options = split_outside_brackets(text, "|")
    if len(options) > 1:
        return _union([_read_type(option, where, depth + 1) for option in options])
    head, bracket, rest = text.strip().partition("[")
    word = head.strip().rpartition(".")[2].lower()
    kind = TYPE_OF_WORD.get(word, "any")
    # What stands in the brackets of Callable and Literal is no type of a value.
    inside = rest.removesuffix("]") if bracket and kind != "string" and word != "literal" else ""
    texts = [argument for argument in split_outside_brackets(inside, ",") if argument not in ("", "...")]
    arguments = [_read_type(argument, where, depth + 1) for argument in texts]
    if word in ("optional", "union"):
        return _union(arguments)
    if kind in ("array", "tuple"):
        return {"type": kind} | _items(_union(arguments))
    if kind == "dict" and len(arguments) == 2:
        return {"type": kind, "additionalProperties": _without_null(arguments[1])}
    return {"type": kind}


def _items(schema: dict[str, Any]) -> dict[str, Any]:
    """Items of any type are items of which nothing is said: BFCL would take them for strings."""
    return {} if schema["type"] == "any" else {"items": schema}


def _union(schemas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The one schema of values that fit any of these; null is dropped, for an argument may be left out instead."""
    schemas = [schema for schema in schemas if schema["type"] != "null"]
    kinds = {schema["type"] for schema in schemas}
    if schemas and all(schema == schemas[0] for schema in schemas):
        return dict(schemas[0])
    if kinds == {"integer", "float"}:
        return {"type": "float"}
    return {"type": kinds.pop() if len(kinds) == 1 else "any"}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "any"} if schema["type"] == "null" else schema


def split_outside_brackets(text: str, separator: str) -> list[str]:
    """The parts of a text between separators that stand in no square brackets, stripped."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def show(value: Any) -> str:
    """A value for a message, cut short."""
    try:
        text = repr(value)
    except ValueError:
        return "an integer too long to print"
    except RecursionError:
        return f"a {type(value).__name__} nested too deep to print"
    return text if len(text) <= 60 else f"{text[:57]}..."


def json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema in JSON Schema's words: tuples are arrays, any has no type."""
    written: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "type":
            written |= {"type": _JSON_TYPES[value]} if value in _JSON_TYPES else {}
        elif key in ("items", "additionalProperties"):
            written[key] = json_schema(value)
        elif key == "properties":
            written[key] = {name: json_schema(member) for name, member in value.items()}
        else:
            written[key] = value
    return written


def python_type(schema: Mapping[str, Any]) -> str:
    """A schema as a short Python type: `list[str]`, or its values: `'c'|'f'`."""
    if schema.get("enum"):
        return "|".join(repr(value) for value in schema["enum"])
    text = _PYTHON_TYPES.get(schema.get("type", "any"), "any")
    return f"{text}[{python_type(schema['items'])}]" if schema.get("items") else text
