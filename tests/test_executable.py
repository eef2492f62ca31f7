import pytest

from jaxfc.bfcl.executable import executable_calls
from jaxfc.calls.parse import ParseError


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[f(a=1, b='x'), g()]", ["f(a=1, b='x')", "g()"]),
        ("f(a=1)", ["f(a=1)"]),
        ("```[f()]```", ["f()"]),
        ("", []),
        ("[]", []),
        ("[f(1, a=2)]", ["f(a=2)"]),  # Arguments by position are dropped.
        ("[f(a=+5)]", ["f(a=-5)"]),  # Whatever the operator.
        ("[f(a=b)]", ["f(a='b')"]),
        ("[f(a=g())]", ["f(a='g()')"]),
        ("[f(a=g(b=1))]", ["f(a=g(b=1))"]),
        ("[f(a=g(b=h(c=1)))]", ["f(a=g(b=h(c=1)))"]),
        ("[f(a={'b': 1, 'c': [2]})]", ["f(a={'b': 1, 'c': [2]})"]),
        ("[f(a={'g': {'b': 1}})]", ["f(a=g(b=1))"]),  # A dict of dicts is what a nested call is read as.
        ("[f(a={1: 2})]", ["f(a={'1': 2})"]),
        ("[f(a=[{}])]", ["f(a=[{}])"]),
        ("[f(**x)]", ["f(None='x')"]),
        ("[a.b.f(c=1)]", ["a.b.f(c=1)"]),
        ("[f()()]", ["()"]),
    ],
)
def test_calls_are_written_as_bfcl_runs_them(text, calls):
    assert executable_calls(text) == calls


@pytest.mark.parametrize(
    "text", ["That is all.", "[f(", "[1]", "[f]", "[[f()]]", "[f(a={})]", "[f(a={'b': {}, 'c': 1})]"]
)
def test_what_is_no_list_of_calls_is_refused(text):
    with pytest.raises(ParseError):
        executable_calls(text)
