import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfc.data.judging.verdicts import LONGEST, Opinion, Unreadable, read_calls, read_opinion

RIGHT = '{"reason": "It serves.", "correct": true}'
CALLS = '{"calls": [{"name": "f", "arguments": {"a": [1, {"b": null}]}}]}'


def nested(depth):
    return '{"calls": [{"name": "f", "arguments": {"a": ' + "[" * depth + "]" * depth + "}}]}"


@pytest.mark.parametrize(
    "text",
    [
        RIGHT,
        f"  \n{RIGHT}\n",
        f"```json\n{RIGHT}\n```",
        f"```\n{RIGHT}```\n",
        f'<think>Is it {{"correct": false}}? No.</think>\n{RIGHT}',
        f"<think></think>```json\n{RIGHT}\n```",
        '{"correct": true, "reason": " It\\n serves. "}',
    ],
)
def test_an_opinion_is_read(text):
    assert read_opinion(text) == Opinion(True, "It serves.")


def test_calls_are_read_and_no_call_is_an_answer():
    assert read_calls(CALLS) == [{"name": "f", "arguments": {"a": [1, {"b": None}]}}]
    assert read_calls('{"calls": []}') == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON"),
        ("Correct.", "not JSON"),
        ("null", "no JSON object"),
        ("[]", "no JSON object"),
        (f"[{RIGHT}]", "no JSON object"),
        (RIGHT + RIGHT, "not JSON"),
        (f"{RIGHT}\n{RIGHT}", "not JSON"),
        (f"Sure! {RIGHT}", "not JSON"),
        (f"{RIGHT} Anything else?", "not JSON"),
        (f"```json\n{RIGHT}\n```\n```json\n{RIGHT}\n```", "not JSON"),
        (f"<think>never closed {RIGHT}", "not JSON"),
        (RIGHT[:-1], "not JSON"),
        ('{"correct": true}', "keys are not exactly"),
        ('{"verdicts": []}', "keys are not exactly"),
        ('{"correct": true, "reason": "", "score": 1}', "keys are not exactly"),
        ('{"correct": false, "correct": true, "reason": ""}', "key stands twice"),
        ('{"correct": "true", "reason": ""}', "neither true nor false"),
        ('{"correct": 1, "reason": ""}', "neither true nor false"),
        ('{"correct": true, "reason": null}', "no text"),
        ('{"correct": NaN, "reason": ""}', "NaN"),
        ('{"correct": true, "reason": "\\ud800"}', "surrogate"),
        ("[" * 10_000, "nested"),
        ('{"a":' * 10_000, "nested"),
        (f'{{"correct": true, "reason": "{"x" * LONGEST}"}}', "longer than"),
    ],
)
def test_what_is_no_single_opinion_is_refused_with_its_problem(text, problem):
    with pytest.raises(Unreadable, match=problem):
        read_opinion(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"calls": {}}', "no list"),
        ('{"calls": null}', "no list"),
        ('[{"name": "f", "arguments": {}}]', "no JSON object"),
        ('{"calls": ["f()"]}', "a call is no object"),
        ('{"calls": [{"name": "f"}]}', "a call is no object"),
        ('{"calls": [{"name": "f", "arguments": {}, "id": 1}]}', "a call is no object"),
        ('{"calls": [{"name": 1, "arguments": {}}]}', '"name" is no text'),
        ('{"calls": [{"name": "f", "arguments": "{}"}]}', '"arguments" is no object'),
        ('{"calls": [{"name": "f", "arguments": {"a": 1e999}}]}', "Out of range"),
        ('{"calls": [{"name": "f", "arguments": {"a": -Infinity}}]}', "-Infinity"),
        ('{"calls": [{"name": "f", "arguments": {"a": 1, "a": 2}}]}', "key stands twice"),
        ('{"calls": [{"name": "f", "arguments": {"a": ' + "1" * 5000 + "}}]}", "not JSON"),
        (nested(60), "nested"),
        (nested(5000), "nested"),
    ],
)
def test_what_is_no_list_of_calls_is_refused_with_its_problem(text, problem):
    with pytest.raises(Unreadable, match=problem):
        read_calls(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.text()
    | JSON.map(json.dumps)
    | st.sampled_from([RIGHT, CALLS]).flatmap(lambda text: st.permutations(text)).map("".join)
)
def test_any_text_is_read_or_refused(text):
    for read in (read_opinion, read_calls):
        try:
            read(text)
        except Unreadable as error:
            assert str(error)


@given(st.lists(st.fixed_dictionaries({"name": st.text(), "arguments": st.dictionaries(st.text(), JSON)}), max_size=3))
def test_calls_come_back_as_they_were_written(calls):
    assert read_calls(json.dumps({"calls": calls})) == calls
