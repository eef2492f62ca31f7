import json

import pytest

from jaxfc.data.plain import DEEPEST, plain_json


def nested(depth):
    value = "x"
    for _ in range(depth):
        value = [value]
    return value


def test_plain_json_comes_back_unchanged():
    document = {"a": [1, 2.5, None, True, "é\u2028"], "b": nested(DEEPEST - 1)}
    assert json.loads(plain_json(document)) == document
    assert "é" in plain_json(document)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (float("nan"), "Out of range"),
        ({"a": [float("inf")]}, "Out of range"),
        ("\ud800", "surrogates"),
        ({"\udfff": 1}, "surrogates"),
        ([10**5000], "digits"),
        ([{}, nested(DEEPEST + 1)], "nested deeper than"),
        ({1, 2}, "not JSON serializable"),
        ([b"x"], "not JSON serializable"),
        ({(1, 2): 3}, "keys must be"),
        (nested(DEEPEST + 1), "nested deeper than"),
        ({"a": (nested(10**5),)}, "nested deeper than"),
    ],
)
def test_what_is_not_plain_is_refused_with_its_problem(document, problem):
    with pytest.raises(ValueError, match=problem):
        plain_json(document)
