import time

import pytest

from jaxfc.calls.javascript import convert_javascript, parse_javascript
from jaxfc.calls.match import judge_answer
from jaxfc.calls.parse import NO_NAME, ParseError, Syntax
from jaxfc.calls.schema import AcceptedCall, Call, Tool

# Verdicts of bfcl-eval 2026.3.23, run.


@pytest.mark.parametrize(
    "text",
    [
        "open(area='room', zoom=5)",
        '[open(area="room", zoom=5)]',
        "```\n[open(area=room, zoom=5);]\n```",
        "const a = 1; x = f(y=2); open(area=room, zoom=5); close()",
        "open(area=room, zoom=5, 7, 'x', more += 1)",
    ],
)
def test_the_first_statement_that_is_a_call_counts(text):
    assert parse_javascript(text) == [Call("open", {"area": "room", "zoom": "5"})]


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("map . open(x=5)", "map . open", {"x": "5"}),
        ("map?.open(x=5)", "map?.open", {"x": "5"}),
        ("open(x=5).then(y=6)", "open(x=5).then", {"y": "6"}),
        ("open(x, y=6)", "open", {NO_NAME: "x", "y": "6"}),
        ("open(true)", "open", {NO_NAME: "true"}),
        ("open(x='é', y=`a`)", "open", {"x": "é", "y": "`a`"}),
        ("open(x = { a: 'b',  c: [1, 2] })", "open", {"x": "{ a: 'b',  c: [1, 2] }"}),
        ("open(x = /* five */ 5)", "open", {"x": "/* five */"}),
        ("open?.(x=5)", "open", {}),
    ],
)
def test_names_and_values_are_the_source_text(text, name, arguments):
    assert parse_javascript(text) == [Call(name, arguments)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "parse: not a list of calls"),
        ("x = open(y=5)", "parse: not a list of calls"),
        ("new Map(y=5)", "parse: not a list of calls"),
        ("await open(y=5)", "parse: not a list of calls"),
        ("I cannot do that.", "parse: syntax"),
        ("open(x=5, x=6)", "parse: duplicate argument"),
        ("open(x, true)", "parse: duplicate argument"),
        ("open(x='\ud800')", "parse: syntax"),
        (f"open(x='{'x' * 2048}')", "parse: too long"),
    ],
)
def test_what_is_no_call_is_refused_with_its_kind(text, reason):
    with pytest.raises(ParseError) as refused:
        parse_javascript(text)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("text", "kind", "items", "value"),
    [
        ("'a'", "String", None, "a"),
        ('"', "String", None, ""),
        ("a", "String", None, "a"),
        ("5", "integer", None, 5),
        ("5.0", "integer", None, "5.0"),
        ("5", "float", None, 5.0),
        ("1e3", "float", None, "1e3"),
        ("5n", "Bigint", None, 5),
        ("true", "Boolean", None, True),
        ("5", "any", None, "5"),
        ("[1, 2]", "array", "integer", [1, 2]),
        ("[1, 2,]", "array", "integer", [1, 2, ""]),
        ("[]", "array", "String", []),
        ("['a', \"b\", c]", "array", "String", ["a", "b", "c"]),
        ("new Array(1, 'x')", "array", None, [1, "x"]),
        ("[[1, 2], [3]]", "array", "array", [[1, 2], [3]]),
        ("[[1], a], [b]]", "array", "array", [[1], ["b"]]),
        ("new Array([1], [2])", "array", "array", [[1], [2]]),
        ("[{a: 1}, {b: 2}]", "array", "dict", [{"a": 1}, {"b": 2}]),
        ("[\n1]", "array", "integer", "[\n1]"),
        (f"[1, {'9' * 5000}]", "array", "integer", f"[1, {'9' * 5000}]"),
        ("{}", "dict", None, {}),
        ("{a: 1, 'b': \"2\", c: x, d: true, e: 1.5}", "dict", None, {"a": 1, "b": 2, "c": "x", "d": True, "e": 1.5}),
        ("{a: [1, 'x', y], b: c, d}", "dict", None, {"a": [1, "x", "y"], "b": "c, d"}),
        ("{a: {b: 1}, c: 2}", "dict", None, {"a": "{b: 1"}),
        ("{a}", "dict", None, {}),
        ("{\n}", "dict", None, "{\n}"),
    ],
)  # fmt: skip
def test_a_text_is_converted_by_the_declared_type(text, kind, items, value):
    result = convert_javascript(text, kind, items)
    assert (type(result), result) == (type(value), value)


@pytest.mark.parametrize(
    "text",
    [
        "[[" + "],[" * 600,
        "[[1]" + ", [1]" * 300 + ", 2]",
        "[" * 2000,
        "{" + "a" * 2000 + "}",
        "{" + "a:1,  " * 300 + "}",
        "{" + ":," * 900,
    ],
)  # fmt: skip
def test_no_text_takes_long_to_convert(text):
    # Patterns that backtrack would need hours for the first two.
    start = time.process_time()
    for kind, items in (("array", "array"), ("array", None), ("dict", None)):
        convert_javascript(text, kind, items)
    assert time.process_time() - start < 1


def test_an_integer_that_the_official_conversion_breaks_off_at_is_an_error():
    with pytest.raises(ValueError, match="4300"):
        convert_javascript("9" * 5000, "integer")


def test_the_matcher_converts_before_it_compares():
    schemas = {"area": {"type": "String"}, "zoom": {"type": "float"}, "how": {"type": "dict"}}
    tool = Tool("map.open", "", schemas, ("area",), "javascript")
    accepted = [AcceptedCall("map.open", {"area": ("Room 1",), "zoom": (5.0, ""), "how": ({"a": [1]}, "")})]
    for text, reason in [
        ("map.open(area='room1', zoom=5, how={a: '1'})", "ok"),
        ("map.open(area='room2')", "value: string"),
        ("map.open(area='room1', zoom='x')", "type"),
        ("map.open(area='room1', how={a: 2})", "value: dict value"),
        ("map.open(area='room1', how={b: 1})", "value: dict key"),
        ("map.open(zoom=5)", "missing required"),
        ("map.close(area='room1')", "name"),
    ]:
        assert judge_answer(text, [tool], accepted, Syntax.BFCL).reason == reason, text
