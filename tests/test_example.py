import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfc.calls.schema import AcceptedCall, Tool
from jaxfc.data.example import Example, example_from_json, example_to_json, kind_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
TOOLS = st.builds(
    Tool,
    st.text(),
    st.text(),
    st.dictionaries(st.text(), st.dictionaries(st.text(), JSON, max_size=3), max_size=3),
    st.lists(st.text(), max_size=2).map(tuple),
)
CALLS = st.builds(
    AcceptedCall, st.text(), st.dictionaries(st.text(), st.lists(JSON, max_size=3).map(tuple), max_size=3)
)
EXAMPLES = st.builds(
    Example,
    id=st.text(),
    messages=st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=2).map(tuple),
    tools=st.lists(TOOLS, max_size=2).map(tuple),
    accepted=st.lists(CALLS, max_size=2).map(tuple),
    source=st.text(),
    licence=st.text(),
    kind=st.text(),
    thought=st.text(),
    text=st.text(),
    weight=st.floats(min_value=0, allow_nan=False, allow_infinity=False),
    pass_rate=st.none() | st.floats(min_value=0, max_value=1),
    origin=st.text(),
    repairs=st.lists(st.text(), max_size=2).map(tuple),
)


# The checker of signatures draws random numbers while an example is built.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
@given(EXAMPLES)
def test_json_and_back_is_the_same_example(example):
    line = example_to_json(example)
    assert "\n" not in line
    back = example_from_json(line)
    assert back == example
    # == holds between 1, 1.0 and True; the written form tells them apart.
    assert example_to_json(back) == line


def test_the_json_form_has_bfcl_answers():
    example = Example("e", ({"role": "user", "content": "q"},), (), (AcceptedCall("f", {"a": (1, "")}),))
    assert json.loads(example_to_json(example))["accepted"] == [{"f": {"a": [1, ""]}}]


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"tools": [{"name": "f"}]},
        {"tools": [{"name": "f", "description": "", "properties": {}, "required": [], "parameters": {}}]},
        {"accepted": [{"f": 1}]},
    ],
)
def test_a_document_of_another_form_is_refused(change):
    document = json.loads(example_to_json(Example("e", (), (), ())))
    with pytest.raises(ValueError):
        example_from_json(json.dumps(document | change))
    with pytest.raises(ValueError):
        example_from_json("[]")


@pytest.mark.parametrize(
    ("tools", "calls", "kind"), [(0, 0, "none"), (3, 0, "none"), (1, 1, "single"), (3, 1, "choice"), (1, 2, "several")]
)
def test_the_kind_follows_from_tools_and_calls(tools, calls, kind):
    assert kind_of(tools, calls) == kind
