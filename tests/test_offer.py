import collections
import copy
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfc.data.offer import (
    LONGEST_REMEMBERED,
    MOST_REMEMBERED,
    Offer,
    forget_tools,
    is_plain,
    make_offer,
    read_tools,
)
from jaxfc.data.repair import Findings, Unfit, identifiers

DEEPEST = 50


def document(name="weather", **properties):
    properties = properties or {"city": {"type": "string", "enum": ["Rome", "Oslo"]}}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": name, "description": "", "parameters": parameters}


def offered(*documents) -> tuple[Offer, Findings]:
    findings = Findings()
    return make_offer(read_tools(documents, DEEPEST), findings), findings


def test_a_tool_that_is_met_again_is_remembered():
    one, again, other = read_tools([document(), copy.deepcopy(document()), document("clock")], DEEPEST)
    assert again is one and other is not one
    forget_tools()
    [fresh] = read_tools([document()], DEEPEST)
    assert fresh is not one and fresh == one


def test_what_is_remembered_does_not_change_with_the_row_that_it_came_from():
    forget_tools()
    found = document()
    read_tools([found], DEEPEST)
    found["parameters"]["properties"]["city"]["enum"].append("Paris")
    [again] = read_tools([document()], DEEPEST)
    assert again.tool.properties["city"]["enum"] == ["Rome", "Oslo"]
    [changed] = read_tools([found], DEEPEST)
    assert changed.tool.properties["city"]["enum"] == ["Rome", "Oslo", "Paris"]


def test_tools_that_differ_in_a_type_or_in_an_order_alone_are_told_apart():
    defaults = [1, 1.0, True, "1", None, [1], [True], {"a": 1, "b": 2}, {"b": 2, "a": 1}, 0.0, -0.0]
    tools = read_tools([document(x={"type": "integer", "default": default}) for default in defaults], DEEPEST)
    assert [repr(read.tool.properties["x"]["default"]) for read in tools] == list(map(repr, defaults))


def test_a_document_that_is_long_or_not_of_pythons_own_types_is_read_each_time():
    long = document() | {"description": "a" * LONGEST_REMEMBERED}
    odd = collections.OrderedDict(document())
    for found in (long, odd):
        one, again = read_tools([found, found], DEEPEST)
        assert one == again and one is not again


def test_no_more_tools_are_remembered_than_there_is_room_for():
    forget_tools()
    first, *_ = read_tools([{"name": f"tool_{number}"} for number in range(MOST_REMEMBERED + 1)], DEEPEST)
    [again] = read_tools([{"name": "tool_0"}], DEEPEST)
    assert again == first and again is not first


def test_findings_come_in_the_order_names_then_parameters_then_schemas():
    odd = document("a b", **{" x": {"type": "string", "choices": ["a"]}})
    clean = document("clock", hour={"type": "integer"})
    offer, findings = offered(clean, odd)
    assert findings.repairs == ["name: made an identifier", "name: stripped", "schema: choices read as enum"]
    assert [tool.name for tool in offer.tools] == ["clock", "a_b"]
    assert offer.found["a b"].parameters == {"x": "x"}
    # What is found in a tool that is remembered is found again, in every row.
    assert offered(clean, odd)[1] == findings
    assert offered(clean)[1] == Findings()


AB = "'a b' cannot be written as a Python name"


@pytest.mark.parametrize(
    ("documents", "reason", "detail"),
    [
        ([document(), {"name": 3}], "schema: invalid", "the name of a tool should be text, not 3."),
        ([document(), document(), document("clock")], "tools: duplicate name", "2 tools are named weather"),
        ([document("a b"), document("a-b")], "tools: name is no identifier", AB),
        ([document("f"), document(" f")], "tools: name is no identifier", "'f' cannot be written as a Python name"),
        ([document(**{"a b": {}, "a-b": {}})], "tools: name is no identifier", AB),
        ([document("+"), {"name": ""}], "schema: invalid", "the name of a tool should be text, not ''."),
    ],
)  # fmt: skip
def test_an_offer_that_is_none_has_its_reason_each_time(documents, reason, detail):
    for _ in range(2):
        with pytest.raises(Unfit) as error:
            offered(*documents)
        assert (error.value.reason, error.value.detail) == (reason, detail)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=4)
    | st.sampled_from(["\ud800", "\U0001f600", (1, 2), float("nan"), float("-inf"), collections.OrderedDict()]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


def is_json(value) -> bool:
    try:
        return json.loads(json.dumps(value, ensure_ascii=False, allow_nan=False).encode()) == value
    except ValueError:
        return False


def depth(value) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if items is None else 1 + max(map(depth, items), default=0)


@given(VALUES, st.integers(0, 6))
def test_a_plain_value_is_json_and_not_too_deep(value, deepest):
    if is_plain(value, deepest):
        assert is_json(value) and depth(value) <= deepest
    elif is_json(value) and depth(value) <= deepest:
        # What is left to a closer look: types that only look like Python's own.
        assert "OrderedDict" in repr(value)


def test_a_value_that_holds_itself_is_not_plain():
    endless = []
    endless.append(endless)
    assert not is_plain(endless, 50)


def test_an_integer_that_python_does_not_write_is_not_plain():
    assert is_plain(10**1000, 0) and not is_plain(10**5000, 0)


def test_a_tool_of_very_many_parameters_is_read_in_a_second():
    names = [f"p {number}" for number in range(10_000)]
    start = time.process_time()
    assert len(set(identifiers(names, dotted=False, findings=Findings()).values())) == len(names)
    read_tools([document(**{name: {"type": "string"} for name in names})], DEEPEST)
    assert time.process_time() - start < 2
