"""The keys of a tool's document: misspelt ones are put right, and Python's names of types are noted."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxfc.calls.dialects import TYPE_OF_WORD
from jaxfc.data.repair import Findings

MISSPELT = "schema: misspelt key"
PYTHON_TYPES = "schema: types of Python or BFCL"

_JSON_TYPES = {"string", "integer", "number", "boolean", "array", "object", "null"}
_DEEPEST = 32


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


_OF_TOOL = {"name": _is(str), "description": _is(str), "parameters": _is(dict)}
_OF_SCHEMA = {
    "type": _is(str, list),
    "description": _is(str),
    "enum": _is(list),
    "items": _is(dict, list),
    "properties": _is(dict),
    "required": _is(list, bool),
    "default": lambda _: True,
    "examples": _is(str, list),
}
"""The words that a misspelt key may stand for, and what stands under them."""
_NO_MISTAKE = "example"
"""OpenAPI's word, however near to one of the others."""


def mend_keys(document: Any, findings: Findings) -> Any:
    """A tool's document with the keys of its schemas spelt right; `findings` says so, and whether types are Python's.

    A key is put right when it is one letter off (two in long words) a keyword that is not there itself, and what stands
    under it is what stands under that keyword. Names of parameters are no keywords.
    """
    if not isinstance(document, dict):
        return document
    if isinstance(document.get("function"), dict):
        return {**document, "function": mend_keys(document["function"], findings)}
    document = _spelt(document, _OF_TOOL, findings)
    parameters = document.get("parameters")
    if not isinstance(parameters, dict):
        return document
    if isinstance(parameters.get("type"), str) or isinstance(parameters.get("properties"), dict):
        mended = _schema(parameters, findings, 0)
    else:
        mended = {name: _schema(schema, findings, 1) for name, schema in parameters.items()}
    return {**document, "parameters": mended}


def _schema(schema: Any, findings: Findings, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return schema
    schema = _spelt(schema, _OF_SCHEMA, findings)
    kind = schema.get("type")
    if any(_is_python(word) for word in (kind if isinstance(kind, list) else [kind])):
        findings.repair(PYTHON_TYPES)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = _schema(schema[key], findings, depth + 1)
    if isinstance(schema.get("properties"), dict):
        schema["properties"] = {
            name: _schema(member, findings, depth + 1) for name, member in schema["properties"].items()
        }
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            schema[key] = [_schema(option, findings, depth + 1) for option in schema[key]]
    return schema


def _is_python(word: Any) -> bool:
    """Whether a type has a name of Python's or BFCL's: `int`, `List[str]`, `str, optional`."""
    if not isinstance(word, str) or word in _JSON_TYPES:
        return False
    head = word.partition(",")[0].partition("[")[0].strip().rpartition(".")[2].lower()
    return head in TYPE_OF_WORD or head in ("any", "optional", "union")


def _spelt(
    mapping: Mapping[str, Any], words: Mapping[str, Callable[[Any], bool]], findings: Findings
) -> dict[str, Any]:
    """The mapping, in its order, with misspelt words put right."""
    meant = {}
    for key, value in mapping.items():
        if isinstance(key, str) and key not in words and key != _NO_MISTAKE:
            near = [word for word, fits in words.items() if word not in mapping and fits(value) and _is_near(key, word)]
            if len(near) == 1 and near[0] not in meant.values():
                meant[key] = near[0]
    if meant:
        findings.repair(MISSPELT)
    return {meant.get(key, key): value for key, value in mapping.items()}


def _is_near(key: str, word: str) -> bool:
    """Whether a key is a slip away from a word: one letter too many, missing, wrong or exchanged with the next; two in
    words of eight letters and more. With a letter changed, a short word is soon another one: `time` for `type`."""
    key, allowed = key.lower(), 2 if len(word) >= 8 else 1
    if abs(len(key) - len(word)) > allowed or (len(key) == len(word) <= 4 and sorted(key) != sorted(word)):
        return False
    two_above, above = [], list(range(len(word) + 1))
    for i, letter in enumerate(key, start=1):
        row = [i]
        for j, other in enumerate(word, start=1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == word[j - 2] and key[i - 2] == other:
                cost = min(cost, two_above[j - 2] + 1)
            row.append(cost)
        two_above, above = above, row
    return above[-1] <= allowed
