import gzip
import json
import random
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxfc.calls.parse import ParseError, Syntax, parse_calls
from jaxfc.calls.plain import DEEPEST, MOST_CALLS, MOST_DIGITS, read_plain
from jaxfc.calls.schema import Call

SHARED = Path(__file__).parents[2] / "shared" / "data"
SYNTAXES = [Syntax.STRICT, Syntax.BFCL]


def by_pythons_parser(text: str, syntax: Syntax) -> str:
    with mock.patch("jaxfc.calls.parse.read_plain", return_value=None):
        return outcome(text, syntax)


def outcome(text: str, syntax: Syntax) -> str:
    """The calls, told apart to the type and the sign of zero; or why there are none."""
    try:
        return repr(parse_calls(text, syntax))
    except ParseError as error:
        return str(error)


def assert_read_alike(text: str):
    for syntax in SYNTAXES:
        assert outcome(text, syntax) == by_pythons_parser(text, syntax), (syntax.name, text)


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[]", []),
        ("[now()]", [Call("now", {})]),
        ("[a.b.c( x = 'it', y=\"it's\",z='')]", [Call("a.b.c", {"x": "it", "y": "it's", "z": ""})]),
        ("[\n f(\n\tx=1,\n\ty=2\n ),\n g ( )\n]", [Call("f", {"x": 1, "y": 2}), Call("g", {})]),
        ("[f(a=0, b=-12, c=1.50, d=-0.0, e=1e3, f=2E-1)]",
         [Call("f", {"a": 0, "b": -12, "c": 1.5, "d": -0.0, "e": 1000.0, "f": 0.2})]),
        ("[f(a=True, b=False, c=None)]", [Call("f", {"a": True, "b": False, "c": None})]),
        ("[f(a=[], b={}, c=[[1, 'x'], [ ]], d={'a': {1: [None]}, \"b\" : 2.5})]",
         [Call("f", {"a": [], "b": {}, "c": [[1, "x"], []], "d": {"a": {1: [None]}, "b": 2.5}})]),
        ("[f(a='[({', b='# no comment', c='größer 東京 😀')]",
         [Call("f", {"a": "[({", "b": "# no comment", "c": "größer 東京 😀"})]),
        ("[match(case=1, type='_', _=2, print=3)]", [Call("match", {"case": 1, "type": "_", "_": 2, "print": 3})]),
    ],
)  # fmt: skip
def test_the_plain_form_is_read_as_by_pythons_parser(text, calls):
    assert repr(read_plain(text)) == repr(calls)
    assert_read_alike(text)


def nested(depth: int) -> str:
    return "[f(x=" + "[" * (depth - 2) + "]" * (depth - 2) + ")]"


LEFT = [
    # Not in square brackets, or not only.
    "", "f()", "[", "]", "[f()", "f()]", " []", "[] ", "[ ]", "[f()]]", "[f()][0]", "[f()] + []", "[f()]\n",
    # Not calls, or not separated as calls are.
    "[1]", "[f]", "[f() g()]", "[f();g()]", "[,f()]", "[f(),,g()]", "[f()()]", "[f().g()]", "[(f())]", "[*f()]",
    "[f(),]", "[[f()]]", "[f(x=1)", "[f(x=1]", "[f(x=1})]", "[f(x=[1)]", "[f(x=[1}])]", "[f(x={'a': 1])]", "[f(x=]",
    # Names that are none, or that Python reads in some other way.
    "[True()]", "[if()]", "[f(if=1)]", "[f(None=1)]", "[a.class.b()]", "[None.f()]", "[__debug__()]",
    "[f(__debug__=1)]",
    "[1f()]", "[.f()]", "[a..b()]", "[a. b()]", "[ｆ()]", "[é()]", "[f(ｘ=1)]", "[f(a.b=1)]", "[f(1=1)]", "[f('a'=1)]",
    "[f-g()]", "[$f()]", "[await f()]", "[lambda: 1]", "[f(async=1)]",
    # Arguments of other kinds.
    "[f(1)]", "[f(x)]", "[f(*x)]", "[f(**x)]", "[f(x=1, 2)]", "[f(x=1, x=2)]", "[f(x:=1)]", "[f(x==1)]", "[f(x=)]",
    "[f(,)]", "[f(x=1,)]", "[f(x=1,,y=2)]", "[f(x=1 y=2)]", "[f(x=1;y=2)]", "[f(x 1)]", "[f(x=y=1)]",
    "[f(x for x in y)]",
    # Text that is not all that it seems.
    "[f(x='a' 'b')]", "[f(x='a''b')]", "[f(x='''a''')]", '[f(x="""a""")]', "[f(x='a\\n')]", "[f(x='a\\'b')]",
    "[f(x='a\nb')]",
    "[f(x='a\rb')]", "[f(x='a\0b')]", "[f(x='\ud800')]", "[f(x='\udfff')]", "[f(x=u'a')]", "[f(x=r'a')]", "[f(x=b'a')]",
    "[f(x=f'a')]", "[f(x=rb'a')]", "[f(x='a)]", "[f(x='a\")]", "[f(x='a'.b)]", "[f(x='a'[0])]", "[f(x='a' % 1)]",
    "[f(x=-'a')]",
    "[f(x=‘a’)]", "[f(x=`a`)]", "[f(x='a'if 1else'b')]",
    # Numbers that are written in another way, or are none.
    "[f(x=007)]", "[f(x=00)]", "[f(x=1_000)]", "[f(x=0x1f)]", "[f(x=0b1)]", "[f(x=0o7)]", "[f(x=.5)]", "[f(x=5.)]",
    "[f(x=1j)]",
    "[f(x=1.5j)]", "[f(x=1e)]", "[f(x=1e+)]", "[f(x=1.e5)]", "[f(x=01.5)]", "[f(x=+5)]", "[f(x=--5)]", "[f(x=- 5)]",
    "[f(x=~5)]",
    "[f(x=-True)]", "[f(x=not 1)]", "[f(x=1if 1 else 2)]", "[f(x=1 + 2)]", "[f(x=1 .real)]", "[f(x=1.real)]",
    "[f(x=1L)]",
    "[f(x=1,000)]", "[f(x=1e1_0)]", "[f(x=٣)]", "[f(x=²)]", "[f(x=-)]", "[f(x=inf)]",
    "[f(x=1" + "0" * MOST_DIGITS + ")]",
    "[f(x=-1" + "0" * MOST_DIGITS + ".5)]", "[f(x=" + "9" * 5000 + ")]",
    # Words and other values.
    "[f(x=true)]", "[f(x=null)]", "[f(x=Truely)]", "[f(x=None2)]", "[f(x=True.x)]", "[f(x=True())]", "[f(x=g())]",
    "[f(x=g(y=1))]",
    "[f(x=...)]", "[f(x=(1))]", "[f(x=(1, 2))]", "[f(x=())]", "[f(x={1})]", "[f(x={1, 2})]", "[f(x={**a})]",
    "[f(x=[*a])]",
    "[f(x=[y for y in z])]", "[f(x={y: 1 for y in z})]", "[f(x=a.b)]", "[f(x=a[0])]", "[f(x=[1][0])]",
    "[f(x=[1] + [2])]",
    "[f(x=lambda: 1)]", "[f(x=[1,])]", "[f(x=[,])]", "[f(x=[1 2])]", "[f(x=[1: 2])]", "[f(x=[)]", "[f(x=[1,,2])]",
    "[f(x=[}])]",
    "[f(x={'a': 1,})]", "[f(x={,})]", "[f(x={:})]", "[f(x={'a'})]", "[f(x={'a': })]", "[f(x={'a', 'b': 1})]",
    "[f(x={'a': 1: 2})]",
    "[f(x={[]: 1})]", "[f(x={{}: 1})]", "[f(x={a: 1})]", "[f(x={(1, 2): 1})]", "[f(x={'a': 1, 'a': 2})]",
    "[f(x={1: 1, True: 2})]",
    "[f(x={1: 1, 1.0: 2})]", "[f(x={'a': 1 'b': 2})]", "[f(x={]})]", "[f(x={'a': 1)]", "[f(x={'a' 1})]",
    "[f(x={'a': ]})]",
    # White space and comments of other kinds.
    "[f() # c\n]", "[# c\n]", "[\x0cf()]", "[\rf()]", "[f(\r\nx=1)]", "[\x0bf()]", "[\xa0f()]", "[f(x=\u30001)]",
    "[\u200bf()]",
    "[\ufefff()]", "[\\\nf()]", "[f()\0]", "[f(x=1\x1a)]", "[\x1cf()]", "[f(x\x85=1)]",
    # Too much.
    nested(DEEPEST + 1), nested(40), nested(300), "[" + ", ".join(["f()"] * (MOST_CALLS + 1)) + "]",
    "[" + ", ".join(["f()"] * 1001) + "]",
]  # fmt: skip


@pytest.mark.parametrize("text", LEFT, ids=range(len(LEFT)))
def test_what_is_not_plain_is_left_to_pythons_parser(text):
    assert read_plain(text) is None
    assert_read_alike(text)


def test_the_limits_themselves_are_of_the_plain_form():
    digits = "9" * MOST_DIGITS
    for text in (nested(DEEPEST), "[" + ", ".join(["f()"] * MOST_CALLS) + "]", f"[f(x={digits}, y=-{digits}.5)]"):
        assert read_plain(text) is not None
        assert_read_alike(text)


def test_a_syntax_may_not_be_narrower_than_the_plain_form():
    with pytest.raises(ValueError, match=f"max_depth is 8; .* {DEEPEST}"):
        Syntax("narrow", lenient=False, max_characters=100, max_depth=8, max_digits=20, max_calls=64, max_size=0)


PIECES = st.sampled_from(
    ["[", "]", "(", ")", "{", "}", ",", ", ", ":", "=", "'", '"', "'''", '"""', "\\", "\n", " ", "\t", "\r", "\f",
    "\0", "#",
     "f", "f(", "g.h(", "f(x=", "x=", "y=", "'a'", '"b"', "''", "'é'", "'\ud800'", "\ud800", "1", "0", "-", "-1",
     "007", "2.5", ".5",
     "5.", "1e5", "1_0", "0x1", "1j", "9" * 19, "1e999", "+", "~", "*", "**", "True", "None", "False", "if", "not ",
     "print",
     "ｘ", "é", "\xa0", "\u2028", "{'a': ", "[1, ", "[]", "{}", "()", "...", "u'", "b'", "f'", ";", ":=", "==",
     "__debug__"]
)  # fmt: skip


@settings(max_examples=800)
@given(
    st.lists(PIECES, max_size=14).map("".join), st.sampled_from(["{}", "[{}]", "[f({})]", "[f(x={})]", "[f(x=[{}])]"])
)
@example("1: 2, 1.0: 3", "[f(x={{{}}})]")
def test_a_text_of_pieces_is_read_as_by_pythons_parser(text, frame):
    assert_read_alike(frame.replace("{}", text))


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3),
    max_leaves=8,
)
calls = st.tuples(st.sampled_from(["f", "a.b", "match"]), st.dictionaries(st.sampled_from("xyz"), values, max_size=3))


@settings(max_examples=250)
@given(st.lists(calls, max_size=3), st.data())
def test_calls_with_a_few_characters_changed_are_read_as_by_pythons_parser(calls, data):
    text = f"[{', '.join(written(*call) for call in calls)}]"
    assert_read_alike(text)
    for _ in range(3):
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + data.draw(PIECES | st.just("")) + text[place + data.draw(st.integers(0, 2)) :]
        assert_read_alike(text)


def real_answers() -> list[str]:
    cases = [json.loads(line)["output"] for line in (SHARED / "bfcl_cases.jsonl").read_text().splitlines()]
    with gzip.open(SHARED / "train_raw.jsonl.gz") as lines:
        rows = [json.loads(line)["answers"] for line in lines]
    return cases + [f"[{', '.join(written(call['name'], call['arguments']) for call in row)}]" for row in rows]


def written(name: str, arguments: dict) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the large data set ../shared/data is not here")
def test_real_answers_whole_and_damaged_are_read_as_by_pythons_parser():
    texts = real_answers()
    assert sum(read_plain(text) is not None for text in texts) > 0.9 * len(texts)
    random.seed(0)
    for text in random.sample(texts, 1000):
        assert_read_alike(text)
        place = random.randrange(len(text) + 1)
        assert_read_alike(text[:place] + random.choice("[](){}'\",:=\\\n#0-.e ") + text[place + random.randrange(2) :])
