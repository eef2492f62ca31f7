import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfc.calls.match import ANY_CALL, RIGHT, Verdict, judge_answer, match_calls
from jaxfc.calls.parse import ParseError, Syntax, parse_calls
from jaxfc.calls.schema import AcceptedCall, Call, Tool, accepted_from_calls, calls_from_accepted

WEATHER = Tool(
    "get_weather",
    "",
    {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"type": "string", "default": "c"}},
    ("city",),
)
CLOCK = Tool("clock.set", "", {"hour": {"type": "integer"}}, ("hour",))
TOOLS = (WEATHER, CLOCK)
ROME = AcceptedCall("get_weather", {"city": ("Rome",), "days": (3, ""), "unit": ("", "c")})
SEVEN = AcceptedCall("clock.set", {"hour": (7,)})


def judge(text: str, *accepted: AcceptedCall, syntax: Syntax = Syntax.STRICT) -> Verdict:
    return judge_answer(text, TOOLS, accepted, syntax)


@pytest.mark.parametrize(
    ("text", "accepted", "reason"),
    [
        ("[get_weather(city='rome')]", [ROME], "ok"),
        ("[get_weather(city='Rome', days=3, unit='c')]", [ROME], "ok"),
        ("[clock.set(hour=7), get_weather(city='Rome')]", [ROME, SEVEN], "ok"),
        ("[get_weather('Rome')]", [ROME], "parse: positional argument"),
        ("[get_weather(city=Rome)]", [ROME], "parse: bare name"),
        ("It rains.", [ROME], "parse: not a list of calls"),
        ("[]", [ROME], "call expected"),
        ("[get_weather(city='Rome')]", [ROME, SEVEN], "count"),
        ("[weather(city='Rome')]", [ROME], "name"),
        ("[get_weather(days=3)]", [ROME], "missing required"),
        ("[get_weather(city='Rome', hour=7)]", [ROME], "unexpected argument"),
        ("[get_weather(city='Rome', days=4)]", [ROME], "value: other"),
        ("[get_weather(city='Rome', days='3')]", [ROME], "type"),
        ("[get_weather(city='Paris')]", [ROME], "value: string"),
        ("[get_weather(city='Rome'), clock.set(hour=8)]", [ROME, SEVEN], "value: other"),
        ("[get_weather(city='Rome'), get_weather(city='Rome')]", [ROME, SEVEN], "name"),
    ],
)
def test_a_wrong_answer_has_one_reason(text, accepted, reason):
    verdict = judge(text, *accepted)
    assert verdict.reason == reason and verdict.ok is (reason == "ok")
    assert bool(verdict.detail) is not verdict.ok


def test_an_argument_that_must_be_given_is_missed():
    expected = AcceptedCall("get_weather", {"city": ("Rome",), "days": (3,)})
    assert judge("[get_weather(city='Rome')]", expected).reason == "missing optional"


def test_details_say_what_was_found():
    assert judge("[get_weather(city='Paris')]", ROME).detail == "get_weather.city is 'Paris'"
    assert judge("[weather()]", ROME).detail == "'weather' is called, get_weather expected"


@pytest.mark.parametrize("syntax", [Syntax.STRICT, Syntax.BFCL], ids=lambda syntax: syntax.name)
def test_no_call_is_right_where_none_is_expected(syntax):
    for text in ("", "[]", "None of the tools does that.", "I'd use [a map](http://x.y)"):
        assert judge(text, syntax=syntax) == RIGHT, text
    for text in ("[get_weather(city='Rome')]", "[other()]", "[get_weather('Rome')]", "other(x=y)"):
        assert judge(text, syntax=syntax).reason == "no call expected", text


@pytest.mark.parametrize(
    "text",
    [
        "[clock_1_Fper='Fo nHets')]",
        "[get_weather(city='Rome'",
        "[None]",
        "[get_weather]",
        "``` [get_weather(city=)]```",
        "I call get_weather(city='Rome'",
        "I call get_weather (city='Rome'",
        "Later [ get_weather, clock.set ] may help",
        "so clock.set(",
        "no: fly(to='Rome'",
        '{"name": "get_weather", "arguments": {"city": "Rome"}}',
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>',
        '```json\n[\n  { "name" : "get_weather" }]\n```',
        "<function=get_weather>{'city': 'Rome'}</function>",
        "[" * 5000,
    ],
)
def test_a_failed_attempt_at_a_call_is_not_no_call(text):
    verdict = judge(text)
    assert verdict.reason == "malformed call" and not verdict.ok and verdict.detail.startswith("no call expected; ")
    # BFCL takes whatever does not parse for no call; where a call is expected, the reason is the parser's.
    assert judge(text, syntax=Syntax.BFCL) == RIGHT
    assert judge(text, ROME).reason.startswith("parse: ")


@pytest.mark.parametrize(
    "text",
    [
        " \n [] ",
        "None of the tools does that.",
        "get_weather needs a city; which city (or cities) do you mean?",
        "For that, clock.set and get_weather (which are on offer) are of no use.",
        "my_get_weather() is not get_weather",
        "The price (p == 3) and the list [1, 2] say nothing.",
        "I'd use [a map](http://x.y) or [the clock](http://x.y).",
        'The set {Rome, "Oslo"} has no "name": I cannot.',
        "(city=",
    ],
)
def test_prose_is_no_call(text):
    assert judge(text) == RIGHT


@given(st.text(alphabet="[](){}`'= f1.", max_size=12))
def test_a_text_that_starts_as_a_list_is_no_call_only_if_it_is_an_empty_one(text):
    empty = re.fullmatch(r"\[[ ]*\] *", "[" + text) is not None
    assert judge("[" + text).ok is empty


def test_a_tool_without_a_name_makes_no_text_an_attempt():
    assert judge_answer("a (b) [c]", [Tool("", "", {}, ())], [], Syntax.STRICT) == RIGHT


def test_a_call_within_text_is_a_call_to_the_strict_syntax_only():
    text = "I will try [get_weather(city='Rome')] for you."
    assert judge(text).reason == "no call expected"
    assert judge(text, syntax=Syntax.BFCL).ok


def test_any_call_is_right_where_some_call_is_expected():
    for accepted in (ANY_CALL, [AcceptedCall("*", {})]):
        assert judge_answer("[other(x=1)]", TOOLS, accepted, Syntax.STRICT) == RIGHT
        assert judge_answer("[]", TOOLS, accepted, Syntax.STRICT).reason == "call expected"
        assert judge_answer("Sorry.", TOOLS, accepted, Syntax.STRICT).reason == "parse: not a list of calls"


def test_an_accepted_call_to_a_tool_that_is_not_on_offer_is_never_matched():
    verdict = match_calls([Call("fly", {})], TOOLS, [AcceptedCall("fly", {})])
    assert verdict == Verdict(False, "name", "fly is expected, but not on offer")


def test_a_bug_in_the_data_of_a_tool_is_raised():
    broken = Tool("f", "", {"x": {"type": "number"}}, ())
    with pytest.raises(KeyError):
        judge_answer("[f(x=1)]", [broken], [AcceptedCall("f", {"x": (1,)})], Syntax.STRICT)


SCALARS = {
    "string": st.text(max_size=6) | st.sampled_from(["", " ", "it's", "New York"]),
    "integer": st.integers(-99, 99),
    "float": st.floats(-9, 9).map(lambda x: round(x, 3)) | st.integers(-9, 9),
    "boolean": st.booleans(),
}
EXACT = SCALARS | {"float": st.floats(-9, 9)}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
DICTS = st.dictionaries(st.text(max_size=3), JSON, max_size=3)
DEFAULTS = {"string": ["", "km"], "integer": [0, 3], "float": [1, 2.5], "boolean": [True, False], "array": [[], ["a"]]}


@st.composite
def schemas_and_values(draw):
    kind = draw(st.sampled_from([*SCALARS, "array", "tuple", "dict", "any"]))
    schema = {"type": kind}
    if kind in SCALARS:
        value = draw(SCALARS[kind])
    elif kind == "dict":
        value = draw(DICTS)
    elif kind == "any":
        value = draw(JSON)
    else:
        item = draw(st.sampled_from([*SCALARS, "dict", "array", None]))
        schema |= {"items": {"type": item}} if item else {}
        items = DICTS if item == "dict" else st.lists(JSON, max_size=2) if item == "array" else EXACT.get(item, JSON)
        value = draw(st.lists(items, max_size=3))
    if draw(st.booleans()) and kind in DEFAULTS and schema.get("items", {}).get("type", "string") == "string":
        schema["default"] = draw(st.sampled_from(DEFAULTS[kind]))
        value = draw(st.sampled_from([value, schema["default"]])) if "items" not in schema else value
    return schema, value


@st.composite
def tools_and_calls(draw):
    parameters = draw(st.dictionaries(st.sampled_from("abcdefg"), schemas_and_values(), max_size=5))
    required = draw(st.sets(st.sampled_from(sorted(parameters)))) if parameters else set()
    given_too = draw(st.sets(st.sampled_from(sorted(parameters)))) if parameters else set()
    properties = {name: schema for name, (schema, _) in parameters.items()}
    arguments = {name: value for name, (_, value) in parameters.items() if name in required | given_too}
    return ("m.f", "", properties, tuple(sorted(required))), ("m.f", arguments)


@settings(max_examples=200, deadline=None)
@given(tools_and_calls())
def test_a_call_that_fits_its_schema_matches_its_own_accepted_form(case):
    tool, call = Tool(*case[0]), Call(*case[1])
    accepted = accepted_from_calls([call], [tool])
    assert match_calls([call], [tool], accepted) == RIGHT
    assert match_calls(calls_from_accepted(accepted, [tool]), [tool], accepted) == RIGHT
    written = f"[m.f({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})]"
    for syntax in (Syntax.STRICT, Syntax.BFCL):
        assert judge_answer(written, [tool], accepted, syntax) == RIGHT


@settings(max_examples=200, deadline=None)
@given(tools_and_calls())
def test_leaving_out_a_default_or_giving_it_is_the_same(case):
    tool, call = Tool(*case[0]), Call(*case[1])
    accepted = accepted_from_calls([call], [tool])
    defaults = {
        name: schema["default"]
        for name, schema in tool.properties.items()
        if name not in tool.required and schema.get("default", "") != ""
    }
    kept = {
        name: value
        for name, value in call.arguments.items()
        if name not in defaults or repr(defaults[name]) != repr(value)
    }
    assert match_calls([Call("m.f", kept)], [tool], accepted) == RIGHT
    assert match_calls([Call("m.f", defaults | call.arguments)], [tool], accepted) == RIGHT


ACCEPTED = st.lists(JSON | st.just("") | st.just([{"k": ["v"]}]) | st.just({"k": ["v", ""]}), max_size=3).map(tuple)
KINDS = st.sampled_from(["string", "integer", "float", "boolean", "array", "tuple", "dict", "any"])
ODD = JSON | st.sampled_from([10**400, 1e999, b"a", 1j, (1,), {1, 2}, {(1,): 2}, float("nan"), [{}], [{"k": "v"}], "k"])


@settings(max_examples=300, deadline=None)
@given(KINDS, st.none() | KINDS, ACCEPTED, ODD)
def test_no_value_raises(kind, item, values, value):
    tool = Tool("f", "", {"x": {"type": kind} | ({"items": {"type": item}} if item else {})}, ())
    verdict = match_calls([Call("f", {"x": value})], [tool], [AcceptedCall("f", {"x": values})])
    assert verdict.ok is (verdict.reason == "ok")


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text("[]()f=x1'\"{}:,. \\\n\0*+-", max_size=40))
def test_no_text_raises(text):
    for accepted in ((), ANY_CALL, (ROME,), (ROME, SEVEN)):
        for syntax in (Syntax.STRICT, Syntax.BFCL):
            verdict = judge(text, *accepted, syntax=syntax)
            assert verdict.ok is (verdict.reason == "ok")


@settings(max_examples=300, deadline=None)
@given(st.text("[]()fx=1'\",. ", max_size=30))
def test_what_strict_syntax_reads_bfcl_reads_alike(text):
    try:
        calls = parse_calls(text, Syntax.STRICT)
    except ParseError:
        return
    assert repr(calls) == repr(parse_calls(text, Syntax.BFCL))


def test_an_integer_too_large_for_a_float_is_a_wrong_answer():
    tool = Tool("f", "", {"x": {"type": "float"}}, ("x",))
    verdict = judge_answer(f"[f(x={'9' * 400})]", [tool], [AcceptedCall("f", {"x": (1.0,)})], Syntax.BFCL)
    assert verdict.reason == "type"


def test_an_integer_too_long_to_print_is_a_wrong_answer():
    verdict = match_calls([Call("clock.set", {"hour": 16**5000})], TOOLS, [SEVEN])
    assert verdict == Verdict(False, "value: other", "clock.set.hour is an integer too long to print")


def test_thousands_of_answers_are_judged_in_a_second():
    text = "[get_weather(city='Rome', days=3), clock.set(hour=7)]"
    start, count = time.process_time(), 2000
    for _ in range(count):
        assert judge(text, ROME, SEVEN).ok
    # Over 20,000 without the type checks that tests add; the bound is for a loaded machine, not a measurement.
    assert count / (time.process_time() - start) > 1000
