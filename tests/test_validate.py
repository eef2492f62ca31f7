import collections
import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfc.calls.match import judge_answer
from jaxfc.calls.parse import Syntax
from jaxfc.calls.schema import AcceptedCall, calls_from_accepted
from jaxfc.data.example import example_from_json, example_to_json
from jaxfc.data.prompts import calls_text
from jaxfc.data.repair import REPAIRS
from jaxfc.data.repeats import without_repeats
from jaxfc.data.sources.rows import RawRow
from jaxfc.data.sources.source import read_rows
from jaxfc.data.validate import REASONS, Dropped, Kept, Unfit, check_example, validate

SHARED = Path(__file__).parents[2] / "shared" / "data"
REAL_ROWS = Path(__file__).parents[1] / "jaxfc" / "assets" / "real_rows.jsonl"

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"type": "string", "enum": ["c", "f"]},
    },
    "required": ["city"],
}
WEATHER = {"name": "weather", "description": "Forecast.", "parameters": PARAMETERS}
OTHER = {"name": "other", "description": "", "parameters": {"type": "object", "properties": {}, "required": []}}


def tool(name, **properties):
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": name, "description": "", "parameters": parameters}


def call(name="weather", **arguments):
    return {"name": name, "arguments": arguments}


def row(answers=(), tools=(WEATHER,), **changes):
    messages = [{"role": "user", "content": "Will it rain in Oslo?"}]
    tools, answers = (list(value) if isinstance(value, tuple) else value for value in (tools, answers))
    found = RawRow("rows.jsonl:3", "r", "s", "MIT", messages, tools, answers)
    return dataclasses.replace(found, **changes)


def test_a_clean_row_is_kept_as_found():
    kept = validate(row([call(city="Oslo", days=2)], [WEATHER, OTHER], thought="Hm."))
    assert kept.repairs == ()
    example = kept.example
    assert example.accepted == (AcceptedCall("weather", {"city": ("Oslo",), "days": (2,)}),)
    assert (example.id, example.source, example.licence, example.kind) == ("r", "s", "MIT", "choice")
    assert example.thought == "Hm."


def test_a_row_that_expects_no_call_is_kept():
    assert validate(row([])).example.kind == "none"
    assert validate(row([], [])).example.accepted == ()


DEEP = json.loads("[" * 60 + "]" * 60)
USER = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    ("reason", "bad"),
    [
        ("row: no plain JSON", row([call(city="\ud800")])),
        ("row: no plain JSON", row([call(city="x", days=float("nan"))])),
        ("row: no plain JSON", row([call(city=DEEP)])),
        ("prompt: malformed", row(messages=[])),
        ("prompt: malformed", row(messages="q")),
        ("prompt: malformed", row(messages=["q"])),
        ("prompt: malformed", row(messages=[{"role": "robot", "content": "q"}])),
        ("prompt: malformed", row(messages=[USER, {"role": "system", "content": "q"}])),
        ("prompt: malformed", row(messages=[USER, {"role": "assistant", "content": "a"}])),
        ("prompt: malformed", row(messages=[{"role": "user", "content": 5}])),
        ("prompt: malformed", row(messages=[USER, {"role": "assistant", "content": "", "tool_calls": "f()"}, USER])),
        ("prompt: empty", row(messages=[{"role": "user", "content": " \n"}])),
        ("tools: not parseable", dataclasses.replace(row(), tools="[{'name'")),
        ("tools: not parseable", dataclasses.replace(row(), tools=None)),
        ("schema: invalid", row(tools=[tool("f", a="text")])),
        ("schema: invalid", row(tools=["weather"])),
        ("schema: invalid", row(tools=[{"description": "no name"}])),
        ("tools: duplicate name", row(tools=[WEATHER, tool("weather")])),
        ("tools: name is no identifier", row(tools=[tool("a b"), tool("a_b")])),
        ("tools: name is no identifier", row(tools=[tool("f", **{"from": {}, "from_": {}})])),
        ("answer: not parseable", dataclasses.replace(row(), answers="[{'name': 'weather'}]")),
        ("answer: not parseable", dataclasses.replace(row(), answers=None)),
        ("answer: not parseable", row(["weather(city='x')"])),
        ("answer: not parseable", row([{"name": "weather", "arguments": "city=x"}])),
        ("answer: not parseable", row([{"name": "weather", "arguments": [1]}])),
        ("call: no tools offered", row([call(city="x")], [])),
        ("call: unknown tool", row([call("wether", city="x")])),
        ("call: undeclared argument", row([call(city="x", town="y")])),
        ("call: missing required", row([call(days=1)])),
        ("call: missing required", row([call()])),
        ("call: placeholder value", row([call(city="API_call_3")])),
        ("call: placeholder value", row([call("f", a=["x", "API_call_0 response"])], [tool("f", a={"type": "array"})])),
        ("call: wrong type", row([call(city="x", days="two")])),
        ("call: wrong type", row([call(city=None)])),
        ("call: outside enum", row([call(city="x", unit="k")])),
    ],
)
def test_each_fault_drops_a_row_with_its_reason(reason, bad):
    dropped = validate(bad)
    assert isinstance(dropped, Dropped), dropped
    assert (dropped.reason, dropped.id) == (reason, "r") and dropped.detail
    assert reason in REASONS


def deep(levels):
    value = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("value", [float("nan"), "\ud800", deep(60), deep(1500), deep(50_000)], ids=range(5))
@pytest.mark.parametrize("key", ["name", "description", "parameters", "type", "default", "properties", "enum", "x"])
def test_a_tool_that_is_no_plain_json_drops_the_row_for_that_whatever_else_is_wrong_with_it(key, value):
    schema = {"type": "string", key: value}
    for found in (WEATHER | {key: value}, tool("f", a=schema), {"name": "f", "parameters": {"a": schema}}):
        dropped = validate(row([call("no tool")], [OTHER, found], messages=[]))
        assert dropped.reason == "row: no plain JSON"


def test_of_several_faults_the_first_in_the_documented_order_is_the_reason():
    calls = [call(city="x", unit="k"), call(city="x", days="two"), call(days=2), call("wether")]
    reasons = [validate(row(calls[:count])).reason for count in (1, 2, 3, 4)]
    assert reasons == ["call: outside enum", "call: wrong type", "call: missing required", "call: unknown tool"]
    assert sorted(reasons, key=list(REASONS).index) == reasons[::-1]


@pytest.mark.parametrize(
    ("repair", "bad", "text"),
    [
        ("value: number from text", row([call(city="x", days="2")]), "[weather(city='x', days=2)]"),
        ("value: integer from float", row([call(city="x", days=2.0)]), "[weather(city='x', days=2)]"),
        ("value: text from number", row([call(city=7)]), "[weather(city='7')]"),
        ("answer: null argument left out", row([call(city="x", days=None)]), "[weather(city='x')]"),
        (
            "answer: arguments read from JSON text",
            row([{"name": "weather", "arguments": '{"city": "x"}'}]),
            "[weather(city='x')]",
        ),
        ("name: stripped", row([call(" weather", **{"city ": "x"})]), "[weather(city='x')]"),
        (
            "value: integers of a float list",
            row([call("f", a=[0.5, 1])], [tool("f", a={"type": "array", "items": {"type": "number"}})]),
            "[f(a=[0.5, 1.0])]",
        ),
    ],
)
def test_each_repair_is_made_and_named(repair, bad, text):
    kept = validate(bad)
    assert isinstance(kept, Kept), kept
    assert kept.repairs == (repair,) and repair in REPAIRS
    assert calls_text(calls_from_accepted(kept.example.accepted, kept.example.tools)) == text


def test_a_name_that_is_no_python_is_renamed_everywhere_it_is_used():
    search = tool("Search Managers", **{"from": {"type": "string"}, "page.no": {"type": "integer"}})
    history = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call("Search Managers", **{"from": "a", "page.no": 1})]},
        {"role": "tool", "content": "[]"},
        {"role": "user", "content": "Search Managers again"},
    ]
    kept = validate(row([call("Search Managers", **{"from": "b", "page.no": 2})], [search], messages=history))
    assert kept.repairs == ("name: made an identifier",)
    example = kept.example
    assert calls_text(calls_from_accepted(example.accepted, example.tools)) == "[Search_Managers(from_='b', page_no=2)]"
    assert [found.name for found in example.tools] == ["Search_Managers"]
    assert (list(example.tools[0].properties), example.tools[0].required) == (
        ["from_", "page_no"],
        ("from_", "page_no"),
    )
    assert example.messages[1]["tool_calls"] == [call("Search_Managers", from_="a", page_no=1)]
    assert example.messages[3]["content"] == "Search Managers again"


def test_openai_tool_calls_of_the_conversation_are_renamed_too():
    asked = {"type": "function", "id": "1", "function": call("Search Managers")}
    history = [USER, {"role": "assistant", "content": "", "tool_calls": [asked]}, {"role": "tool", "content": "[]"}]
    kept = validate(row([], [tool("Search Managers")], messages=history))
    assert kept.example.messages[1]["tool_calls"] == [asked | {"function": call("Search_Managers")}]


def test_an_example_that_does_not_match_itself_is_found():
    example = validate(row([call(city="Oslo")])).example
    check_example(example)
    with pytest.raises(Unfit, match="fails its own check"):
        check_example(dataclasses.replace(example, accepted=(AcceptedCall("weather", {"days": (5,)}),)))


def places(value, path=()):
    """The paths to all values within a JSON value."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


FULL = {
    "messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call(city="x")]}, USER],
    "tools": [WEATHER, tool("f g", a={"type": "array", "items": {"type": "object", "properties": {"x": {}}}})],
    "answers": [call(city="Oslo", days="2"), call("f g", a=[{"x": 1}])],
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["string", "", "array", "f g"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("type"), inner, max_size=3),
    max_leaves=4,
)


@given(st.lists(st.tuples(st.sampled_from(sorted(places(FULL), key=str)), JSON), max_size=3))
def test_whatever_stands_in_a_row_it_is_kept_or_dropped_and_what_is_kept_is_right(changes):
    document = FULL
    for path, new in changes:
        if path and path in set(places(document)):
            document = replaced(document, path, new)
    result = validate(row(**document))
    if isinstance(result, Kept):
        assert_taught_text_is_right(result.example)
        assert example_from_json(example_to_json(result.example)) == result.example
    else:
        assert result.reason in REASONS


def assert_taught_text_is_right(example):
    text = calls_text(calls_from_accepted(example.accepted, example.tools))
    verdict = judge_answer(text, example.tools, example.accepted, Syntax.STRICT)
    assert verdict.ok, (example.id, verdict)


def test_the_calls_of_every_kept_real_row_parse_strictly_and_match_themselves():
    results = list(map(validate, read_rows(REAL_ROWS)))
    kept = [result for result in results if isinstance(result, Kept)]
    assert len(kept) >= 30 and any(isinstance(result, Dropped) for result in results)
    for result in kept:
        assert_taught_text_is_right(result.example)


@pytest.fixture(scope="module")
def all_results():
    path = SHARED / "train_raw.jsonl.gz"
    if not path.is_file():
        pytest.skip("the large data set ../shared/data is not here")
    return list(without_repeats(map(validate, read_rows(path))))


def test_the_calls_of_every_kept_row_of_the_large_set_parse_strictly_and_match_themselves(all_results):
    for result in all_results:
        if isinstance(result, Kept):
            assert_taught_text_is_right(result.example)


def test_every_row_of_the_large_set_is_kept_or_dropped_for_a_listed_reason(all_results):
    assert len(all_results) == 4708
    reasons = collections.Counter(result.reason for result in all_results if isinstance(result, Dropped))
    assert set(reasons) <= set(REASONS)
    # The text that training writes leaves empty text out, and one row gives it for a required argument.
    assert reasons["answer: fails its own check"] <= 1
    # The set's own table of faults: rows with a call to a tool that is not offered; rows where two tools share a name.
    assert reasons["call: unknown tool"] == 6
    assert reasons["tools: duplicate name"] == 6


def as_arrays(schema):
    """The schema with arrays for tuples, which the common form does not tell apart."""
    if isinstance(schema, dict):
        return {
            key: "array" if (key, value) == ("type", "tuple") else as_arrays(value) for key, value in schema.items()
        }
    return schema


def test_xlams_own_file_gives_the_same_examples_as_the_common_form(all_results):
    native = without_repeats(map(validate, read_rows(SHARED / "xlam_native.jsonl.gz")))
    ours = [result.example for result in native if isinstance(result, Kept)]
    theirs = [result.example for result in all_results if isinstance(result, Kept)]
    assert len(ours) > 800
    ours = [
        dataclasses.replace(
            example,
            tools=tuple(dataclasses.replace(tool, properties=as_arrays(tool.properties)) for tool in example.tools),
        )
        for example in ours
    ]
    assert ours == [example for example in theirs if example.source == "xlam60k"]
