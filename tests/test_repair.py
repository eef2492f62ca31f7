import keyword
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfc.data.repair import REPAIRS, Findings, fit_value, identifiers, mend_schema


def fit(value, schema):
    findings = Findings()
    return fit_value(value, schema, "f.a", findings), findings


@pytest.mark.parametrize(
    ("value", "kind", "fitted", "repair"),
    [
        ("5", "integer", 5, "value: number from text"),
        ("-12", "float", -12, "value: number from text"),
        ("2.50", "float", 2.5, "value: number from text"),
        ("1.0", "integer", 1, "value: number from text"),
        ("1e3", "integer", 1000, "value: number from text"),
        (5.0, "integer", 5, "value: integer from float"),
        ("True", "boolean", True, "value: boolean from text"),
        ("false", "boolean", False, "value: boolean from text"),
        ("[1, 2]", "array", [1, 2], "value: list or dict from JSON text"),
        ('{"a": 1}', "dict", {"a": 1}, "value: list or dict from JSON text"),
        (5, "string", "5", "value: text from number"),
        (0.92, "string", "0.92", "value: text from number"),
    ],
)
def test_a_cast_that_loses_nothing_is_made_and_named(value, kind, fitted, repair):
    result, findings = fit(value, {"type": kind})
    assert (result, type(result)) == (fitted, type(fitted))
    assert (findings.repairs, findings.faults) == ([repair], [])


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("007", "integer"),  # a code, not a number
        ("1,000", "integer"),
        ("5 apples", "integer"),
        ("1.5", "integer"),
        (0.5, "integer"),
        ("0.12345678901234567890123", "float"),  # more digits than a float holds
        ("1e999", "float"),
        ("9" * 50, "integer"),
        ("٣", "integer"),  # a digit, but not one of JSON's
        ("yes", "boolean"),
        (1, "boolean"),
        (True, "integer"),
        (True, "float"),
        (True, "string"),
        (None, "string"),
        ('["Java"', "array"),
        ('{"a": 1}', "array"),
        ("[0.015] * 12", "array"),
        ([1, 2], "float"),
        ({"a": 1}, "array"),
    ],
)
def test_a_cast_that_loses_or_guesses_is_a_fault(value, kind):
    result, findings = fit(value, {"type": kind})
    assert result == value
    assert [reason for reason, _ in findings.faults] == ["call: wrong type"]
    assert not findings.repairs


VALUES = {
    "string": st.text(),
    "integer": st.integers(),
    "float": st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
    "boolean": st.booleans(),
    "array": st.lists(st.integers()),
    "dict": st.dictionaries(st.text(), st.integers()),
}


@given(st.sampled_from(sorted(VALUES)).flatmap(lambda kind: st.tuples(st.just(kind), VALUES[kind])))
def test_a_value_of_its_declared_type_is_left_alone(kind_and_value):
    kind, value = kind_and_value
    result, findings = fit(value, {"type": kind})
    assert result is value
    assert findings == Findings()


@given(st.one_of(st.integers(-(10**15), 10**15), st.floats(allow_nan=False, allow_infinity=False)))
def test_text_of_a_number_comes_back_as_that_number(number):
    result, findings = fit(repr(number), {"type": "float"})
    assert (result, type(result)) == (number, type(number)) and math.copysign(1, result) == math.copysign(1, number)
    assert not findings.faults


def test_repairs_reach_into_lists_and_dicts():
    schema = {
        "type": "dict",
        "properties": {"board": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}},
    }
    result, findings = fit({"board": [[5, "3"], ["x"]], "free": 1}, schema)
    assert result == {"board": [["5", "3"], ["x"]], "free": 1}
    assert findings == Findings(["value: text from number"], [])


def test_a_fault_deep_inside_names_its_place():
    _, findings = fit([[1], ["x"]], {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}})
    assert findings.faults == [("call: wrong type", 'f.a[1][0] is "x", and its type is integer')]


def test_a_list_of_floats_that_begins_with_a_float_gets_floats_only():
    schema = {"type": "array", "items": {"type": "float"}}
    result, findings = fit([2.5, 1], schema)
    assert list(map(type, result)) == [float, float] and findings.repairs == ["value: integers of a float list"]
    # BFCL takes [1, 2.5] and [1, 2] as they are.
    assert fit([1, 2.5], schema)[1] == fit([1, 2], schema)[1] == Findings()


def test_a_value_outside_its_enum_and_a_missing_nested_key_are_faults():
    _, findings = fit("kelvin", {"type": "string", "enum": ["celsius"]})
    assert findings.faults[0][0] == "call: outside enum"
    _, findings = fit({}, {"type": "dict", "properties": {"x": {"type": "integer"}}, "required": ["x"]})
    assert findings.faults == [("call: missing required", "f.a lacks x")]


@pytest.mark.parametrize(
    ("name", "dotted", "new"),
    [
        ("get_weather", True, "get_weather"),
        ("math.sqrt", True, "math.sqrt"),
        ("Search Managers", True, "Search_Managers"),
        ("Daily Match List-Scheduled", True, "Daily_Match_List_Scheduled"),
        ("0u0sKA1TX0", True, "_0u0sKA1TX0"),
        ("a.class", True, "a.class_"),
        ("from", False, "from_"),
        ("None", False, "None_"),
        ("Z.Ke.a8s", False, "Z_Ke_a8s"),
        ("ﬁlter", False, "filter"),  # Python reads the ligature as two letters
        ("größe", False, "größe"),
        (".bV53A2e.h", True, "_bV53A2e_h"),
        ("a..b", True, "a_b"),
    ],
)
def test_a_name_becomes_the_nearest_identifier(name, dotted, new):
    findings = Findings()
    assert identifiers([name], dotted=dotted, findings=findings) == {name: new}
    assert findings.repairs == ([] if name == new else ["name: made an identifier"]) and not findings.faults


def test_white_space_around_a_name_is_stripped():
    findings = Findings()
    assert identifiers([" f "], dotted=True, findings=findings) == {" f ": "f"}
    assert findings.repairs == ["name: stripped"]


@pytest.mark.parametrize("names", [["a b", "a_b"], ["a b", "a-b"], ["from", "from_"], [""], [" "], ["f", " f"]])
def test_a_name_that_is_nothing_or_clashes_is_a_fault(names):
    findings = Findings()
    identifiers(names, dotted=True, findings=findings)
    assert {reason for reason, _ in findings.faults} == {"tools: name is no identifier"}


@given(st.text(min_size=1, max_size=8), st.booleans())
def test_what_is_renamed_without_a_fault_can_be_written_in_a_call(name, dotted):
    findings = Findings()
    new = identifiers([name], dotted=dotted, findings=findings)[name]
    if not findings.faults:
        compile(f"{new}({new.replace('.', '_')}=1)", "call", "eval")
        assert not any(keyword.iskeyword(part) for part in new.split("."))


def test_schemas_get_json_schemas_words():
    findings = Findings()
    schema = {"type": "array", "items": {"type": "string", "choices": ["a"]}, "examples": "a, b", "unit": "m"}
    mended = mend_schema({"type": "dict", "properties": {"x": schema}}, findings)
    fixed = {"type": "array", "items": {"type": "string", "enum": ["a"]}, "examples": ["a, b"], "unit": "m"}
    assert mended == {"type": "dict", "properties": {"x": fixed}}
    assert findings.repairs == ["schema: examples put in a list", "schema: choices read as enum"]
    assert mend_schema(mended, Findings()) == mended


def test_repairs_have_explanations_for_every_name():
    _, findings = fit(5.0, {"type": "integer"})
    assert set(findings.repairs) <= set(REPAIRS)
