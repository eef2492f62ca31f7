"""Lossless repairs of data: values take the type that their schema declares, names become Python identifiers."""

import dataclasses
import decimal
import json
import keyword
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

REPAIRS = {
    "answer: arguments read from JSON text": "a call's arguments stood there as JSON text",
    "answer: null argument left out": "null was given for an argument that may be left out",
    "id: made unique": "an earlier row has the same id",
    "judge: corrected": "the judge found the answer wrong, wrote another, and found that one right",
    "name: made an identifier": "`f(from=1)` and `Search Managers()` are no Python: `from_`, `Search_Managers`",
    "name: stripped": "white space around a name",
    "schema: choices read as enum": "JSON Schema's word for a list of allowed values is enum",
    "schema: example_values read as examples": "JSON Schema's word for a list of examples is examples",
    "schema: examples put in a list": "JSON Schema wants `examples` to be a list",
    "schema: misspelt key": "`requred`, `decription`, `propertys`: a keyword of JSON Schema with a slip",
    "schema: types of Python or BFCL": "`int`, `List[str]`, `dict`, read as JSON Schema's types",
    "value: boolean from text": "'true' for a boolean",
    "value: integer from float": "5.0 for an integer",
    "value: integers of a float list": "[2.5, 1] for a list of floats, which BFCL's rules refuse: [2.5, 1.0]",
    "value: list or dict from JSON text": "'[1, 2]' for a list",
    "value: number from text": "'5' or '2.50' for a number that is written back as the same value",
    "value: text from number": "5 for a string",
}
"""Every repair that is made, and what it mends."""

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,3})?", re.ASCII)
_LONGEST_NUMBER = 40
_TYPES = {"string": str, "integer": int, "float": (int, float), "array": list, "tuple": list, "dict": dict}


@dataclasses.dataclass(slots=True)
class Findings:
    """What is found in one row: the names of its repairs, and its faults as (reason, detail)."""

    repairs: list[str] = dataclasses.field(default_factory=list)
    faults: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def repair(self, name: str) -> None:
        """Note a repair, once a row."""
        if name not in self.repairs:
            self.repairs.append(name)

    def add(self, others: "Findings") -> None:
        """Take over what was found in a part of the row."""
        for name in others.repairs:
            self.repair(name)
        self.faults += others.faults


class Unfit(ValueError):
    """A row cannot be kept: `reason` is a key of `validate.REASONS`."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def fit_value(value: Any, schema: Mapping[str, Any], path: str, findings: Findings) -> Any:
    """A value as its schema wants it; repairs and faults (`call: wrong type`, ...) go to `findings`.

    Only casts that lose nothing are made. Keys of a dict that its schema does not name are left alone.

    Args:
        value: a JSON value.
        schema: `type` (BFCL's types; absent is any), `enum`, `items`, `properties`, `required`.
        path: of the value, for messages: `f.board[0][1]`.
        findings: added to.
    """
    kind = schema.get("type", "any")
    value = _cast(value, kind, findings)
    if not _has_type(value, kind):
        findings.faults.append(("call: wrong type", f"{path} is {_show(value)}, and its type is {kind}"))
        return value
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        value = [fit_value(item, schema["items"], f"{path}[{i}]", findings) for i, item in enumerate(value)]
        value = _floats_alike(value, schema["items"], findings)
    elif isinstance(value, dict) and isinstance(schema.get("properties"), Mapping):
        value = _fit_dict(value, schema, path, findings)
    if isinstance(schema.get("enum"), list | tuple) and value not in schema["enum"]:
        findings.faults.append(("call: outside enum", f"{path} is {_show(value)}, not one of {schema['enum']}"))
    return value


def _fit_dict(value: dict[str, Any], schema: Mapping[str, Any], path: str, findings: Findings) -> dict[str, Any]:
    properties = schema["properties"]
    required = schema.get("required")
    for key in required if isinstance(required, list | tuple) else ():
        if key not in value:
            findings.faults.append(("call: missing required", f"{path} lacks {key}"))
    return {
        key: fit_value(item, properties[key], f"{path}.{key}", findings) if key in properties else item
        for key, item in value.items()
    }


def _floats_alike(values: list[Any], items: Mapping[str, Any], findings: Findings) -> list[Any]:
    """BFCL takes an int among floats only where the list begins with an int."""
    if items.get("type") != "float" or not values or type(values[0]) is not float or int not in map(type, values):
        return values
    findings.repair("value: integers of a float list")
    return [float(value) if type(value) is int else value for value in values]


def _has_type(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind in ("boolean", "any")
    return kind == "any" or (kind in _TYPES and isinstance(value, _TYPES[kind]))


def _cast(value: Any, kind: str, findings: Findings) -> Any:
    """The value in the type `kind` where nothing is lost by it, else the value itself."""
    if isinstance(value, bool) or _has_type(value, kind):
        return value
    name, cast = "", value
    if isinstance(value, str):
        if kind in ("integer", "float"):
            name, cast = "value: number from text", _number(value, kind)
        elif kind == "boolean" and value.strip().lower() in ("true", "false"):
            name, cast = "value: boolean from text", value.strip().lower() == "true"
        elif kind in ("array", "tuple", "dict"):
            name, cast = "value: list or dict from JSON text", _from_json(value, dict if kind == "dict" else list)
    elif isinstance(value, float) and kind == "integer" and value.is_integer():
        name, cast = "value: integer from float", int(value)
    elif isinstance(value, int | float) and kind == "string":
        name, cast = "value: text from number", json.dumps(value)
    if cast is value:
        return value
    findings.repair(name)
    return cast


def _number(text: str, kind: str) -> Any:
    """The number that a text writes, if it can be written back without loss; else the text."""
    stripped = text.strip()
    if len(stripped) > _LONGEST_NUMBER or not _NUMBER.fullmatch(stripped):
        return text
    exact = decimal.Decimal(stripped)
    is_whole = exact == exact.to_integral_value()
    if kind == "integer":
        return int(exact) if is_whole and abs(exact) < 10**_LONGEST_NUMBER else text
    if is_whole and not set(stripped) & set(".eE"):
        return int(stripped)
    value = float(stripped)
    return value if abs(value) < float("inf") and decimal.Decimal(repr(value)) == exact else text


def _from_json(text: str, wanted: type) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, wanted) else text


def mend_schema(schema: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """A parameter's schema with JSON Schema's words for what it says in its own: `choices`, `example_values`, and
    `examples` as text."""
    mended = dict(schema)
    if isinstance(schema.get("choices"), list) and "enum" not in schema:
        findings.repair("schema: choices read as enum")
        mended["enum"] = mended.pop("choices")
    if isinstance(schema.get("example_values"), list | str) and "examples" not in schema:
        findings.repair("schema: example_values read as examples")
        mended["examples"] = mended.pop("example_values")
    if isinstance(mended.get("examples"), str):
        findings.repair("schema: examples put in a list")
        mended["examples"] = [mended["examples"]]
    if isinstance(schema.get("items"), Mapping):
        mended["items"] = mend_schema(schema["items"], findings)
    if isinstance(schema.get("properties"), Mapping):
        mended["properties"] = {key: mend_schema(member, findings) for key, member in schema["properties"].items()}
    return mended


def identifiers(names: Iterable[str], *, dotted: bool, findings: Findings) -> dict[str, str]:
    """Each name, and the Python identifier that stands for it: itself where it is one.

    A run of characters that cannot be in an identifier becomes `_`; a leading digit gets `_` before it, a keyword
    `_` after it. A name that stays no identifier, or two that become one, are a fault (`tools: name is no identifier`).

    Args:
        names: of a row's tools, or of a tool's parameters; distinct.
        dotted: dots join identifiers (names of tools).
        findings: added to.
    """
    renamed = {name: _identifier(name, dotted) for name in names}
    for name, new in renamed.items():
        if not new or list(renamed.values()).count(new) > 1:
            findings.faults.append(("tools: name is no identifier", f"{name!r} cannot be written as a Python name"))
        elif new == name.strip() != name:
            findings.repair("name: stripped")
        elif new != name:
            findings.repair("name: made an identifier")
    return renamed


def _identifier(name: str, dotted: bool) -> str:
    # Python reads identifiers in their NFKC form: a name in another form would come back as a different one.
    name = unicodedata.normalize("NFKC", name.strip())
    parts = []
    for part in name.split(".") if dotted and all(name.split(".")) else [name]:
        part = re.sub(r"\W+", "_", part.strip())
        part = f"_{part}" if part[:1].isdigit() else part
        part = f"{part}_" if keyword.iskeyword(part) else part
        parts.append(part)
    return ".".join(parts) if all(part.isidentifier() for part in parts) else ""


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
