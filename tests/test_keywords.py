import copy

import pytest

from jaxfc.data.keywords import MISSPELT, PYTHON_TYPES, mend_keys
from jaxfc.data.repair import REPAIRS, Findings
from jaxfc.data.sources.rows import RawRow
from jaxfc.data.validate import Dropped, Kept, validate

TOOL = {
    "name": "weather",
    "description": "",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "where"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}


def mended(document):
    findings = Findings()
    return mend_keys(document, findings), findings.repairs


def respelt(document, old, new):
    """The document with a key written otherwise, wherever it stands."""
    if isinstance(document, dict):
        return {new if key == old else key: respelt(value, old, new) for key, value in document.items()}
    return [respelt(item, old, new) for item in document] if isinstance(document, list) else document


@pytest.mark.parametrize(
    ("word", "slip"),
    [
        ("required", "requred"),
        ("required", "Required"),
        ("required", "reqiured"),
        ("properties", "propertys"),
        ("properties", "propeties"),
        ("description", "decription"),
        ("description", "desciption"),
        ("parameters", "paramters"),
        ("type", "tpye"),
        ("type", "types"),
        ("name", "nmae"),
    ],
)
def test_a_slip_in_a_keyword_is_put_right_and_noted(word, slip):
    wrong = respelt(TOOL, word, slip)
    assert wrong != TOOL
    right, repairs = mended(wrong)
    assert right == TOOL and repairs == [MISSPELT]
    assert list(right) == list(TOOL)


def test_a_document_without_slips_is_left_alone_and_the_given_one_is_never_changed():
    wrong = respelt(TOOL, "required", "requred")
    before = copy.deepcopy(wrong)
    mended(wrong)
    assert wrong == before
    assert mended(TOOL) == (TOOL, [])
    wrapped = {"type": "function", "function": wrong}
    assert mended(wrapped) == ({"type": "function", "function": TOOL}, [MISSPELT])


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "example": "upper"},  # OpenAPI's own word
        {"type": "number", "unit": "kg"},
        {"type": "string", "description": "a", "decription": "b"},  # the keyword is there already
        {"type": "string", "requred": "yes"},  # no list
        {"type": "string", "enums": "a, b"},  # no list
        {"time": "string"},  # one letter of four changed
        {"type": "string", "title": "x", "format": "date", "pattern": "a"},
    ],
)
def test_what_is_no_obvious_slip_stays(schema):
    document = {"name": "f", "parameters": {"type": "object", "properties": {"a": schema}}}
    assert mended(document) == (document, [])


def test_names_of_parameters_are_no_keywords():
    properties = {"requred": {"type": "array"}, "tpye": {"type": "string"}, "decription": {"type": "string"}}
    nested = {"name": "f", "parameters": {"type": "object", "properties": properties}}
    assert mended(nested) == (nested, [])
    flat = {"name": "f", "parameters": properties}
    assert mended(flat) == (flat, [])


@pytest.mark.parametrize(
    ("kind", "is_python"),
    [("str", True), ("int, optional", True), ("List[int]", True), ("dict", True), ("typing.Any", True)]
    + [(kind, False) for kind in ("string", "integer", "number", "boolean", "array", "object", "null", "colour", None)],
)
def test_types_of_python_and_bfcl_are_noted(kind, is_python):
    document = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": kind}}}}
    assert mended(document) == (document, [PYTHON_TYPES] if is_python else [])


@pytest.mark.parametrize("document", [None, 3, [], {}, {"parameters": []}, {"name": "f", "parameters": {"a": 1}}])
def test_what_is_no_tool_is_left_to_others(document):
    assert mended(document) == (document, [])


def test_endless_nesting_is_left_to_others():
    schema = {"type": "string"}
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    assert mended({"name": "f", "parameters": {"type": "object", "properties": {"a": schema}}})[1] == []


def test_a_row_whose_tool_requires_by_a_misspelt_word_is_held_to_it_and_says_so():
    def row(arguments):
        tools = [respelt(TOOL, "required", "requred")]
        messages = [{"role": "user", "content": "q"}]
        return RawRow("f:1", "r", "s", "", messages, tools, [{"name": "weather", "arguments": arguments}])

    kept = validate(row({"city": "Oslo"}))
    assert isinstance(kept, Kept) and kept.repairs == (MISSPELT,)
    assert kept.example.tools[0].required == ("city",)
    dropped = validate(row({"days": 2}))
    assert isinstance(dropped, Dropped) and dropped.reason == "call: missing required"


def test_every_repair_is_explained():
    assert {MISSPELT, PYTHON_TYPES} <= set(REPAIRS)
