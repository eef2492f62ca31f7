from hypothesis import given
from hypothesis import strategies as st

from jaxfc.calls.schema import AcceptedCall, Tool
from jaxfc.data.example import Example
from jaxfc.data.split import HELD_OUT, TRAIN, place, split_of_tool

NAMES = [f"tool_{i}" for i in range(12)]


def example(offered, called, history=()):
    messages = [{"role": "user", "content": "q"}]
    if history:
        calls = [{"name": name, "arguments": {}} for name in history]
        messages += [{"role": "assistant", "content": "", "tool_calls": calls}, {"role": "tool", "content": "r"}]
    tools = tuple(Tool(name, "", {}, ()) for name in offered)
    return Example("e", tuple(messages), tools, tuple(AcceptedCall(name, {}) for name in called))


def names(placed):
    return [tool.name for tool in placed.example.tools]


def put(given_example, fixed):
    return place(given_example, fixed, held_out=0.5, seed=0)


FIXED = {"old": TRAIN, "older": TRAIN, "new": HELD_OUT, "newer": HELD_OUT}


def test_an_example_goes_where_the_tools_that_it_calls_belong_and_keeps_only_tools_of_that_split():
    placed = put(example(["old", "new", "newer"], ["new"]), FIXED)
    assert (placed.split, names(placed), placed.withdrawn) == (HELD_OUT, ["new", "newer"], 1)
    assert placed.example.kind == "choice"
    placed = put(example(["old", "new", "newer"], ["old"]), FIXED)
    assert (placed.split, names(placed), placed.withdrawn, placed.example.kind) == (TRAIN, ["old"], 2, "single")


def test_an_example_whose_tools_all_belong_to_one_split_is_left_alone():
    given_example = example(["new", "newer"], ["newer"])
    assert put(given_example, FIXED).example is given_example


def test_an_example_that_calls_tools_of_both_splits_has_no_place():
    assert put(example(["old", "new"], ["old", "new"]), FIXED) is None


def test_a_call_in_the_conversation_so_far_counts_as_a_call():
    assert put(example(["old", "new"], ["old"], history=["new"]), FIXED) is None
    assert put(example(["old", "new"], [], history=["new"]), FIXED).split == HELD_OUT


def test_without_a_call_the_first_tool_on_offer_decides():
    assert put(example(["new", "old"], []), FIXED).split == HELD_OUT
    assert put(example(["old", "new"], []), FIXED).split == TRAIN
    assert put(example([], []), FIXED).split == TRAIN


@given(
    st.lists(st.tuples(st.lists(st.sampled_from(NAMES), unique=True), st.data()), max_size=20),
    st.integers(0, 3),
    st.floats(0, 0.99),
)
def test_no_tool_on_offer_in_one_split_is_on_offer_in_the_other(offers, seed, held_out):
    offered = {TRAIN: set(), HELD_OUT: set()}
    for tools, data in offers:
        called = data.draw(st.lists(st.sampled_from(tools), max_size=2)) if tools else []
        placed = place(example(tools, called), {}, held_out=held_out, seed=seed)
        if placed is not None:
            offered[placed.split] |= {tool.name for tool in placed.example.tools}
            assert set(called) <= {tool.name for tool in placed.example.tools}
    assert not offered[TRAIN] & offered[HELD_OUT]


def test_about_the_wanted_part_of_all_tools_is_held_out():
    count = sum(split_of_tool(f"tool {i}", held_out=0.1, seed=0) == HELD_OUT for i in range(20_000))
    # Binomial with n 20,000 and p 0.1: mean 2,000, deviation 42.
    assert abs(count - 2000) < 4 * 42.5


def test_nothing_is_held_out_of_0_and_another_seed_holds_out_other_tools():
    assert {split_of_tool(name, held_out=0.0, seed=0) for name in NAMES} == {TRAIN}
    first, second = ([split_of_tool(f"t{i}", held_out=0.5, seed=seed) for i in range(100)] for seed in (0, 1))
    assert first != second
