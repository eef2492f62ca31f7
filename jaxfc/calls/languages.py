"""Tools of Java and JavaScript, whose types are the language's own: reading them, their answers and their values."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxfc.calls import java, javascript
from jaxfc.calls.dialects import SchemaError, show
from jaxfc.calls.grammars import grammar_of
from jaxfc.calls.schema import Call, Tool


class Language(NamedTuple):
    """How a language's tools are shown and its answers read."""

    name: str
    """For people."""
    syntax: str
    """What calls are written in, for people."""
    kinds: Mapping[str, str]
    """Declared type -> the type in the words of Python's tools."""
    parse: Callable[[str], list[Call]]
    """Answer -> calls, each argument a text; ParseError where it is none."""
    convert: Callable[[str, str, str | None], Any]
    """(text, declared type, declared type of its items) -> value; ValueError where BFCL's conversion fails."""


LANGUAGES: Mapping[str, Language] = {
    "java": Language("Java", "Java 8 SDK", java.KINDS, java.parse_java, java.convert_java),
    "javascript": Language(
        "JavaScript", "JavaScript", javascript.KINDS, javascript.parse_javascript, javascript.convert_javascript
    ),
}
"""Every language but Python, whose answers `parse` reads."""


def foreign_tool(document: Any, language: str) -> Tool:
    """Read a BFCL function doc of another language; the types stay as they are declared.

    Raises:
        SchemaError: the document describes no tool of that language.
        MissingGrammarError: the answers of that language cannot be parsed, for want of its grammar.
    """
    grammar_of(language)
    match document:
        case {
            "name": str(name),
            "description": str(description),
            "parameters": {"properties": Mapping() as properties, "required": list(required)},
        }:
            schemas = {key: _schema(raw, f"{name}.{key}", language) for key, raw in properties.items()}
            if not all(parameter in schemas for parameter in required):
                raise SchemaError(f"{name}: requires {show(required)}, which are not all among its parameters.")
            return Tool(name, description, schemas, tuple(required), language)
    raise SchemaError(
        f"a {language} function should have a name, a description and parameters with properties and required, "
        f"unlike {show(document)}."
    )


def _schema(raw: Any, where: str, language: str) -> Mapping[str, Any]:
    kinds = LANGUAGES[language].kinds
    kind = raw.get("type") if isinstance(raw, Mapping) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise SchemaError(f"{where}: the type is {show(kind)}; {language} has {', '.join(kinds)}.")
    if kinds[kind] == "array":
        match raw.get("items"):
            case {"type": str(item)} if item in kinds:
                return raw
        raise SchemaError(f"{where}: the items of the {kind} have no type of {language}: {show(raw.get('items'))}.")
    return raw


def converted(text: Any, schema: Mapping[str, Any], language: str) -> tuple[Any, dict[str, Any]]:
    """An argument's text as a value, and its schema in the words of Python's tools.

    Raises:
        ValueError: BFCL's conversion fails.
    """
    kinds, kind, items = LANGUAGES[language].kinds, schema["type"], None
    python: dict[str, Any] = {"type": kinds[kind]}
    if kinds[kind] == "array":
        items = schema["items"]["type"]
        python["items"] = {"type": kinds[items]}
    return LANGUAGES[language].convert(text, kind, items), python


def as_shown(schema: Mapping[str, Any], language: str) -> dict[str, Any]:
    """A parameter's schema as BFCL shows it to models: a string, and its description says what of."""
    name, kinds, kind = LANGUAGES[language].name, LANGUAGES[language].kinds, schema["type"]
    note = f" This is {name} {kind} type parameter in string representation."
    if kind == "any":
        note = f" This parameter can be of any type of {name} object in string representation."
    told = []
    if kinds[kind] == "array":
        told = ["items"]
        note += f" The list elements are of type {schema['items']['type']}; they are not in string representation."
    elif kind == "dict" and "properties" in schema:
        told = ["properties"]
        entries = json.dumps(schema["properties"])
        note += f" The dictionary entries have the following schema; they are not in string representation. {entries}"
    kept = {key: value for key, value in schema.items() if key not in told}
    return kept | {"type": "string", "description": f"{schema.get('description', '')}{note}"}


def shown(tool: Tool) -> Tool:
    """The tool as models are shown it; one of Python is shown as it is."""
    if tool.language not in LANGUAGES:
        return tool
    properties = {key: as_shown(schema, tool.language) for key, schema in tool.properties.items()}
    note = f" Note that the provided function is in {LANGUAGES[tool.language].syntax} syntax."
    return dataclasses.replace(tool, description=tool.description + note, properties=properties)
