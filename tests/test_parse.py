import ast
import threading
import time
import warnings
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfc.calls.parse import ParseError, Syntax, attempts_calls, find_calls, parse_calls
from jaxfc.calls.schema import Call


def reason(text: str, syntax: Syntax) -> str:
    with pytest.raises(ParseError) as error:
        parse_calls(text, syntax)
    assert str(error.value) == f"{error.value.reason}: {error.value.detail}"
    return error.value.reason


def bfcl_value(text: str):
    [call] = parse_calls(f"[f(x={text})]", Syntax.BFCL)
    return call.arguments["x"]


def test_a_list_of_calls_is_read():
    text = " [weather.get(city='Rome', days=3, hourly=True), f(x=[-1.5, None], y={'a': (1, 2)}, z=u'a' \"b\"), now()]\n"
    calls = [
        Call("weather.get", {"city": "Rome", "days": 3, "hourly": True}),
        Call("f", {"x": [-1.5, None], "y": {"a": (1, 2)}, "z": "ab"}),
        Call("now", {}),
    ]
    assert parse_calls(text) == parse_calls(text, Syntax.BFCL) == calls
    assert parse_calls("[]") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "parse: not a list of calls"),
        ("I cannot do that.", "parse: not a list of calls"),
        ("f(x=1)", "parse: not a list of calls"),
        ("`[f(x=1)]`", "parse: not a list of calls"),
        ("([f(x=1)])", "parse: not a list of calls"),
        ("[f(x=1)][0]", "parse: not a list of calls"),
        ("[f(x=1)] + [g()]", "parse: not a list of calls"),
        ("[f(x=1) for x in y]", "parse: not a list of calls"),
        ("[[f(x=1)]]", "parse: not a list of calls"),
        ("[1]", "parse: not a list of calls"),
        ("[f]", "parse: not a list of calls"),
        ("[*f()]", "parse: not a list of calls"),
        ("[f(x=1]", "parse: syntax"),
        ("[f(x=1); g()]", "parse: syntax"),
        ("[f(x=)]", "parse: syntax"),
        ("[f(x=1, 2)]", "parse: syntax"),
        ("[f(x='\ud800')]", "parse: syntax"),
        ("[f(x='\0')]", "parse: syntax"),
        ("[f(1)]", "parse: positional argument"),
        ("[f('a', x=1)]", "parse: positional argument"),
        ("[f(*a)]", "parse: starred argument"),
        ("[f(**a)]", "parse: starred argument"),
        ("[f(x=[*a])]", "parse: starred argument"),
        ("[f(x={**a})]", "parse: starred argument"),
        ("[f(x=1, x=2)]", "parse: duplicate argument"),
        ("[f(x={'a': 1, 'a': 2})]", "parse: duplicate key"),
        ("[f(x=true)]", "parse: bare name"),
        ("[f(x=Unit.C)]", "parse: attribute"),
        ("[f(x=g(y=1))]", "parse: nested call"),
        ("[f(x=1 + 2)]", "parse: operator"),
        ("[f(x=+5)]", "parse: operator"),
        ("[f(x=--5)]", "parse: operator"),
        ("[f(x=-True)]", "parse: operator"),
        ("[f(x=not True)]", "parse: operator"),
        ("[f(x=f'a')]", "parse: f-string"),
        ("[f(x=[y for y in z])]", "parse: comprehension"),
        ("[f(x={1, 2})]", "parse: value"),
        ("[f(x=b'a')]", "parse: value"),
        ("[f(x=1j)]", "parse: value"),
        ("[f(x=...)]", "parse: value"),
        ("[f(x=a[0])]", "parse: value"),
        ("[f(x={[]: 1})]", "parse: value"),
        ("[f(x=lambda: 1)]", "parse: value"),
        ("[f()()]", "parse: name"),
        ("[a[0].f()]", "parse: name"),
        ("[f(x=" + "9" * 200 + ")]", "parse: too large"),
        ("[" + "f(), " * 65 + "]", "parse: too many calls"),
        ("[f(x='" + "a" * 20_000 + "')]", "parse: too long"),
        ("[f(x=" + "[" * 31 + "]" * 31 + ")]", "parse: too deep"),
    ],
)
def test_what_strict_syntax_refuses_has_its_reason(text, expected):
    assert reason(text, Syntax.STRICT) == expected


def test_brackets_in_text_and_comments_are_not_depth():
    brackets = "[({" * 40
    text = f"""[f(x='{brackets}', y="{brackets}", z='''{brackets}''')  # {brackets}\n]"""
    assert parse_calls(text) == [Call("f", {"x": brackets, "y": brackets, "z": brackets})]


@pytest.mark.parametrize(
    "text",
    [
        "[f(x=1)]",
        "f(x=1)",
        "f(x=1)]",
        "[f(x=1)",
        "`f(x=1)`",
        "```\n[f(x=1)]\n```",
        "[(f(x=1)),]",
        "\tf(x=1)",
        "# c\nf(x=1)",
    ],
)
def test_bfcl_mends_brackets_and_fences(text):
    assert parse_calls(text, Syntax.BFCL) == [Call("f", {"x": 1})]


@pytest.mark.parametrize(
    "text", ["\t[f(x=1)]", "[f(x=1)]\r\n", "f(x=1) # c", "# c\n[f(x=1)]", "```python\n[f(x=1)]\n```", "Sure: [f(x=1)]"]
)
def test_bfcl_mends_nothing_else(text):
    assert reason(text, Syntax.BFCL) == "parse: syntax"


def test_bfcl_takes_empty_text_for_no_call():
    assert parse_calls("", Syntax.BFCL) == parse_calls("``` \n", Syntax.BFCL) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("+5", -5),
        ("~5", -5),
        ("not 5", -5),
        ("not True", -1),
        ("...", "..."),
        ("true", "true"),
        ("g(1,  2)", "g(1, 2)"),
        ("g(1, y=2, z=h(a=3))", {"g": {"y": 2, "z": {"h": {"a": 3}}}}),
        ('data["a"]', "data['a']"),
        ("x[1:2]", "x[1:2]"),
        ("{'a': 1, 'a': 2}", {"a": 2}),
        ("b'a'", b"a"),
        ("-(2+3)+1", -4),
        ("'a' + 'b'", "ab"),
        ("[1] + [2] * 2", [1, 2, 2]),
        ("'%s-%d' % ('a', 2)", "a-2"),
        ("2**10 // 3", 341),
        ("2**-1", 0.5),
        ("{1} | {2}", {1, 2}),
        ("{'a': 1} | {'b': 2}", {"a": 1, "b": 2}),
        ("1 << 4", 16),
        ("~True + 0", -2),
        ("2.5 * 200000", 500000.0),
    ],
)
def test_bfcl_reads_expressions_as_its_decoder_does(text, value):
    assert bfcl_value(text) == value and type(bfcl_value(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    ["-x", "--5", "-(2+3)", "not 'x'", "-None", "a.b", "f''", "{1}", "[y for y in z]", "lambda: 1", "1 if 1 else 2",
     "1 < 2", "1 or 2", "(y := 1)", "[*a]", "{**a}", "{[]: 1}", "1 + 'a'", "1 / 0", "1 + a", "len('ab') + 1",
     "[1][0] + 1", "(1 < 2) + 1", "1 << -1", "... + 1", "'%d' % 'a'"],
)  # fmt: skip
def test_bfcl_refuses_other_expressions(text):
    assert reason(f"[f(x={text})]", Syntax.BFCL) in ("parse: value", "parse: operator", "parse: starred argument")


def test_bfcl_drops_positional_arguments_and_takes_the_last_of_repeated_ones():
    assert parse_calls("[f(lambda: 1, *a, x=1, x=2)]", Syntax.BFCL) == [Call("f", {"x": 2})]
    [call] = parse_calls("[f(**x)]", Syntax.BFCL)
    assert not any(key.isidentifier() for key in call.arguments) and len(call.arguments) == 1


def test_bfcl_drops_roots_of_names_that_are_no_names():
    names = {"x[0].a.f()": "a.f", "'s'.a.f()": "a.f", "f()()": "", "a . f()": "a.f", "ｆ()": "f"}
    for text, name in names.items():
        assert parse_calls(text, Syntax.BFCL) == [Call(name, {})]


@pytest.mark.parametrize(
    "text",
    ["9**9**9", "9**9**9**9", "2**1000000000", "1 << 10**12", "'a' * 10**12", "10**12 * 'a'", "[[0] * 1000] * 1000",
     "'%999999999d' % 1", "'%*d' % (10**9, 1)", "'%.99999f' % 1", "('%s' * 9000) % ('a' * 9000)",
     "'%(a)s' * 9000 % {'a': 'b' * 9000}",
     "[0] * 90000" + " + [0]" * 9000, "10**4000 * 10**4000", "(" * 60 + "1" + "+1)" * 60 + "+ 1" * 3000],
)  # fmt: skip
def test_operators_cost_little_whatever_they_say(text):
    start = time.process_time()
    assert reason(f"[f(x={text})]", Syntax.BFCL) in ("parse: too large", "parse: operator", "parse: syntax")
    assert time.process_time() - start < 1


HOSTILE = {
    "brackets": "[" * 90_000,
    "parentheses": "[f(x=" + "(" * 150 + "1" + ")" * 150 + ")]",
    "nested calls": "[" + "f(a=" * 190 + "1" + ")" * 190 + "]",
    "nested dicts": "[f(x=" + "{1:" * 190 + "1" + "}" * 190 + ")]",
    "minus": "[f(x=" + "-" * 90_000 + "1)]",
    "not": "[f(x=" + "not " * 20_000 + "1)]",
    "sum": "[f(x=" + "1+" * 40_000 + "1)]",
    "power": "[f(x=" + "1**" * 30_000 + "1)]",
    "conditionals": "[f(x=" + "1 if 1 else " * 8_000 + "1)]",
    "lambdas": "[f(x=" + "lambda:" * 12_000 + "1)]",
    "attributes": "[f" + ".a" * 40_000 + "()]",
    "calls": "[f" + "()" * 40_000 + "]",
    "subscripts": "[f(x=a" + "[0]" * 30_000 + ")]",
    "digits": "[f(x=" + "9" * 90_000 + ")]",
    "hexadecimal": "[f(x=0x" + "f" * 90_000 + ")]",
    "exponent": "[f(x=1e999999999, y=-1e999999999)]",
    "open strings": "[f(x=" + "'\\" * 40_000,
    "open triples": "[f(x=" + "'''\\'" * 20_000,
    "f-strings": "[f(x=g(" + "f'{" * 100 + "1" + "}'" * 100 + "))]",
    "decorated": "[f(x=g(1, f'{x!r:>{y}}', 0x" + "f" * 9_000 + "))]",
    "surrogates": "[f(x='\ud800\udfff')]",
    "nulls": "[f(x='a\0b')]\0",
    "form feed": "\f[f()]\f",
    "byte order mark": "\ufeff[f()]",
    "coding": "# -*- coding: utf-7 -*-\n[f()]",
    "too many calls": "f()," * 20_000,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("syntax", [Syntax.STRICT, Syntax.BFCL], ids=lambda syntax: syntax.name)
def test_hostile_text_is_read_or_refused_in_a_second(name, syntax):
    start = time.process_time()
    try:
        assert isinstance(parse_calls(HOSTILE[name], syntax), list)
    except ParseError as error:
        assert error.reason.startswith("parse: ")
    find_calls(HOSTILE[name])
    assert time.process_time() - start < 2


PIECES = st.sampled_from(
    ["[", "]", "(", ")", "{", "}", "f", "g.h", "x", "=", ",", ":", "'", '"', "'''", "\\", "\n", " ", "\t", "1", "2.5",
     "-", "+", "~", "not ", "*", "**", "<<", "%", "True", "None", "...", "lambda:", "f'", "b'", "for x in ", "\0",
     "#", "f(x=", "[f(", ")]", "é", "\ud800", "0x1if", "`", "if ", " else ", "await ", "yield ", ":="]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join)))
def test_no_text_raises_anything_but_parse_error(text):
    for syntax in (Syntax.STRICT, Syntax.BFCL):
        try:
            parse_calls(text, syntax)
        except ParseError:
            continue
    find_calls(text)


scalars = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=8,
)
names = st.sampled_from(["f", "weather.get", "a.b.c"])
calls = st.builds(Call, names, st.dictionaries(st.sampled_from(["x", "y", "city"]), values, max_size=3))


@settings(max_examples=200, deadline=None)
@given(st.lists(calls, max_size=4))
def test_calls_written_as_python_are_read_back_by_both_syntaxes(expected):
    arguments = [", ".join(f"{key}={value!r}" for key, value in call.arguments.items()) for call in expected]
    text = f"[{', '.join(f'{call.name}({text})' for call, text in zip(expected, arguments, strict=True))}]"
    for syntax in (Syntax.STRICT, Syntax.BFCL):
        assert repr(parse_calls(text, syntax)) == repr(expected)


def test_no_warning_is_given_even_where_warnings_are_errors():
    filters = list(warnings.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in (r"[f(x='\d')]", "[f(x=1if 1 else 2)]", "[f(x=~True + 0)]", "[f(x=0x1for y in z)]"):
            try:
                parse_calls(text, Syntax.BFCL)
            except ParseError as error:
                assert "Warning" not in error.detail
        assert parse_calls(r"[f(x='\d')]") == [Call("f", {"x": r"\d"})]
    assert warnings.filters == filters


def test_threads_leave_the_warning_filters_as_they_were():
    filters = list(warnings.filters)
    workers = [threading.Thread(target=lambda: [parse_calls(r"[f(x='\d')]") for _ in range(200)]) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert warnings.filters == filters


def test_nothing_is_executed(tmp_path):
    mark = tmp_path / "mark"
    for text in (
        f"open({str(mark)!r}, 'w')",
        f"open({str(mark)!r}, 'w') or 1",
        f"1 + len(str(open({str(mark)!r}, 'w')))",
    ):
        for syntax in (Syntax.STRICT, Syntax.BFCL):
            try:
                parse_calls(f"[f(x={text})]", syntax)
            except ParseError:
                continue
    assert not mark.exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("No tool fits.", []),
        ("[]", []),
        ("f(x=1)", [Call("f", {"x": 1})]),
        ("[f(1)]", [Call("f", {})]),
        ("Sure, [f(x='a]b')] does it.", [Call("f", {"x": "a]b"})]),
        ("[see (this page)] or [f(x=1), g()]", [Call("f", {"x": 1}), Call("g", {})]),
        ("It's [docs](http://x.y)", []),
        ("[f(x=1", []),
    ],
)
def test_calls_are_found_within_text(text, found):
    assert find_calls(text) == found


@pytest.mark.parametrize("text", ["a [f(x=[g(y=[h(z=", "a [f(" + "(" * 300 + ")" * 300 + ")]", "a " + "[f(x=" * 9000])
def test_lists_that_nothing_would_close_are_not_parsed(text):
    with mock.patch("jaxfc.calls.parse.parse_calls", wraps=parse_calls) as parse:
        assert find_calls(text) == []
    assert {call.args[0] for call in parse.call_args_list} == {text, ""}


def test_a_text_is_not_parsed_again_as_the_list_that_it_is():
    with mock.patch("jaxfc.calls.parse.parse_calls", wraps=parse_calls) as parse:
        assert find_calls("[f(x=lambda: 1)]") == []
    assert parse.call_count == 1


def test_text_that_names_no_tool_is_prose_without_a_pattern_of_all_names():
    names = [f"tool_{number}" for number in range(1000)]
    with mock.patch("re.compile", side_effect=AssertionError), mock.patch("re.search", side_effect=AssertionError):
        assert not attempts_calls("It rains in Rome.", names)
    assert attempts_calls("I call tool_7() then.", names) and not attempts_calls("I call tool_7 then.", names)


def test_the_depth_limit_of_bfcl_syntax_is_pythons_own():
    def nested(depth: int) -> str:
        return "[f(x=" + "(" * (depth - 2) + "1" + ")" * (depth - 2) + ")]"

    assert parse_calls(nested(150), Syntax.BFCL) == [Call("f", {"x": 1})]
    ast.parse(nested(Syntax.BFCL.max_depth - 1), mode="eval")
    with pytest.raises(SyntaxError, match="too many nested parentheses"):
        ast.parse(nested(Syntax.BFCL.max_depth + 1), mode="eval")
