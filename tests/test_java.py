import time

import pytest

from jaxfc.calls.java import KINDS, convert_java, parse_java
from jaxfc.calls.match import RIGHT, judge_answer
from jaxfc.calls.parse import NO_NAME, ParseError, Syntax
from jaxfc.calls.schema import AcceptedCall, Call, Tool

# Verdicts of bfcl-eval 2026.3.23, run.

CALL = Call("Maps.open", {"area": "room", "zoom": "5"})


@pytest.mark.parametrize(
    "text",
    [
        "Maps.open(area=room, zoom=5)",
        '[Maps.open(area="room", zoom=5)]',
        "```\n[Maps.open(area=room, zoom=5);]\n```",
        "Maps.open(area=room, zoom='5')",
        "var found = Maps.open(area=room, zoom=5);",
        "Maps.open(area=room, zoom=5); Maps.close(all=true);",
        "Maps.open(area += room, 7, \"x\", zoom=5)",
        "Maps . open(area=room, zoom=5)".replace(" . ", "."),
    ],
)  # fmt: skip
def test_the_first_method_invocation_is_the_call(text):
    assert parse_java(text) == [CALL]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "parse: not a list of calls"),
        ("new Maps(area=room)", "parse: not a list of calls"),
        ("I cannot do that.", "parse: syntax"),
        ("Maps.open(area=room, zoom=", "parse: syntax"),
        ("A.f()", "parse: syntax"),  # Too short for the recovery that a missing semicolon needs.
        ("Maps.open(area=room, area=hall)", "parse: duplicate argument"),
        ("Maps.open(area, zoom, x=5)", "parse: duplicate argument"),
        ("Maps.open(area='\ud800')", "parse: syntax"),
        ("Maps.open(area=new int[5], zoom=5)", "parse: value"),
        (f"Maps.open(area={'(' * 300}5{')' * 300});", "parse: too deep"),
        (f"{'(' * 300}Maps.open(area=room){')' * 300};", "parse: too deep"),
        (f'Maps.open(area="{"x" * 2048}")', "parse: too long"),
    ],
)
def test_what_is_no_call_is_refused_with_its_kind(text, reason):
    with pytest.raises(ParseError) as refused:
        parse_java(text)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('"a \\"b\\""', 'a \\"b\\"'),
        ("'c'", "c"),
        ("a + b", "a+b"),
        ('a + "b c"', 'a+"b c"'),
        ("-5", "-5"),
        ("5L", "5L"),
        ("area.of( x,  y )", "area.of( x,  y )"),
        ("Maps.class", "Maps.class"),
        ("new int[]{1, 2}", "new int[]{1,2}"),
        ("new Area(x,y)", "new Area(x, y)"),
        ("new ArrayList<String>(Arrays.asList(\"a\", 'b'))", "new ArrayList<String>(Arrays.asList(\"a\", 'b'))"),
        ('new HashMap<String, Integer>() {{ put("a", 1); }}', "new HashMap<String,Integer>()"),
        ("(a)", "(a)"),
        ("null", "null"),
        # Offsets in bytes cut characters: each beyond ASCII shifts what follows.
        ('"é"', 'é"'),
    ],
)
def test_a_value_is_the_text_of_its_tokens(written, value):
    [call] = parse_java(f"Maps.open(zoom={written}, area=5)")
    assert call.arguments["zoom"] == value


def test_an_argument_without_a_name_is_kept_under_a_name_that_no_parameter_has():
    [call] = parse_java("Maps.open(room, zoom=5)")
    assert call.arguments == {NO_NAME: "room", "zoom": "5"}


@pytest.mark.parametrize(
    ("text", "kind", "items", "value"),
    [
        ("5", "integer", None, 5),
        ("-5\n", "short", None, -5),
        ("5L", "integer", None, "5L"),
        ("5L", "long", None, 5),
        ("5", "long", None, "5"),
        ("2.5f", "float", None, 2.5),
        ("2.5", "float", None, "2.5"),
        ("1e3", "double", None, 1000.0),
        ("2.5d", "double", None, "2.5d"),
        ("true", "boolean", None, True),
        ("True", "boolean", None, "True"),
        ("5", "any", None, "5"),
        ("5", "String", None, "5"),
        ("new int[]{1, 2,}", "Array", "integer", [1, 2]),
        ('new String[]{"a"}', "Array", "String", ['"a"']),
        ("new String[]{a, b}", "Array", "String", ["a", "b"]),
        ("see new long[] {1L} there", "Array", "long", [1]),
        ("new int[]\n{1\n}", "Array", "integer", "new int[]\n{1\n}"),
        ("{1, 2}", "Array", "integer", "{1, 2}"),
        ('new ArrayList<>(Arrays.asList("a", b))', "ArrayList", "String", ["a", ""]),
        ('new ArrayList<>(Arrays.asList(1, "a", true, 2L, 1f, 1.5, x))', "ArrayList", None,
         [1, "a", True, 2, 1.0, 1.5, "x"]),
        ("new ArrayList<Integer>(Arrays.asList(1, x))", "ArrayList", "integer", [1, "x"]),
        ('new ArrayList<String>() {{ add("a"); add("b"); }}', "ArrayList", "String", ["a", "b"]),
        ("new ArrayList<>() {{ }}", "ArrayList", "String", []),
        ("new ArrayList<Integer>()", "ArrayList", "integer", []),
        ("List.of(1)", "ArrayList", "integer", "List.of(1)"),
        ('new HashMap<String, Object>() {{ put("a", 1); put("b", "c"); put("d",\n2L); }}', "HashMap", None,
         {"a": 1, "b": "c", "d": 2}),
        ('new HashMap<>() { put("a", true) }', "HashMap", None, {"a": True}),
        ("new HashMap<String, Integer>()", "HashMap", None, {}),
        ("Map.of()", "HashMap", None, "Map.of()"),
    ],
)  # fmt: skip
def test_a_text_is_converted_by_the_declared_type(text, kind, items, value):
    result = convert_java(text, kind, items)
    assert (type(result), result) == (type(value), value)


@pytest.mark.parametrize(
    "text",
    [
        "new HashMap<>() {" + " " * 2000,
        "new HashMap<" * 170,
        'new HashMap<>() {{ ' + 'put("' * 200 + '",' * 400,
        "new ArrayList<>(Arrays.asList(" * 60,
        "new ArrayList<>() {{ " + "add(" * 500,
        "new a[]{" * 250,
        "new " + " " * 2000,
    ],
)  # fmt: skip
def test_no_text_takes_long_to_convert(text):
    start = time.process_time()
    for kind in ("Array", "ArrayList", "HashMap"):
        convert_java(text, kind, None if kind == "HashMap" else "any")
    assert time.process_time() - start < 1


@pytest.mark.parametrize(("text", "kind"), [("9" * 5000, "integer"), ("x", "Set"), ("x", "Queue"), ("x", "Hashtable")])
def test_where_the_official_conversion_breaks_off_the_answer_is_wrong(text, kind):
    with pytest.raises(ValueError):
        convert_java(text, kind)
    assert kind in KINDS
    tool = Tool("Maps.open", "", {"zoom": {"type": kind}}, ("zoom",), "java")
    # Longer than what is parsed, so given by hand.
    verdict = judge_answer(
        "Maps.open(zoom=5L, area=x)", [tool], [AcceptedCall("Maps.open", {"zoom": (5,)})], Syntax.BFCL
    )
    assert not verdict.ok and verdict.reason in ("type", "type: conversion")


def test_the_matcher_converts_before_it_compares():
    schemas = {
        "area": {"type": "String"},
        "zoom": {"type": "long"},
        "at": {"type": "Array", "items": {"type": "integer"}},
    }
    tool = Tool("Maps.open", "", schemas, ("area",), "java")
    accepted = [AcceptedCall("Maps.open", {"area": ("Room 1",), "zoom": (5, ""), "at": ([1, 2], "")})]
    for text, reason in [
        ('Maps.open(area="room1", zoom=5L, at=new int[]{1, 2})', "ok"),
        ('Maps.open(area="room1", more=1)', "unexpected argument"),
        ('Maps.open(area="room1", zoom=5)', "type"),
        ('Maps.open(area="room1", zoom=6L)', "value: other"),
        ('Maps.open(area="room1", at=new int[]{2, 1})', "value: list"),
        ('Maps.open(zoom=5L, at=null)', "missing required"),
        ('[Maps.open(area="room1"), Maps.open(area="room1")]', "parse: syntax"),
    ]:  # fmt: skip
        assert judge_answer(text, [tool], accepted, Syntax.BFCL).reason == reason, text
    assert judge_answer('Maps.open(area="ROOM 1.");', [tool], accepted, Syntax.BFCL) == RIGHT
