import json

from hypothesis import given
from hypothesis import strategies as st

from jaxfc.data.example import Example
from jaxfc.data.overlap import EvaluationRows, Hit
from jaxfc.data.validate import REASONS, SAME_QUERY, SAME_TOOL, Dropped, Kept
from jaxfc.prepare.tally import EXAMPLES_NAMED, SOURCES_NAMED, Tally

EVALUATION = EvaluationRows()
EVALUATION.add_file("a", [])
EVALUATION.add_file("b", [])
HITS = (Hit(SAME_QUERY, 0, (1, 2), ("w",), "a: w"), Hit(SAME_TOOL, 1, (), ("f",), "b: f"))
EVENTS = st.tuples(
    st.sampled_from(("keep", "drop", "share")),
    st.sampled_from(("s", "t")),
    st.sampled_from(sorted(REASONS)[:4]),
    st.sampled_from(("train", "held_out")),
    st.booleans(),
)


def count(tally, order, event):
    kind, source, reason, split, repaired = event
    kept = Kept(Example(f"r{order}", (), (), (), source, "MIT", "none"), ("name: stripped",) * repaired, f"f:{order}")
    if kind == "keep":
        tally.keep(order, kept, split, 1)
    elif kind == "drop":
        tally.drop(order, Dropped(f"r{order}", source, reason, "why", f"f:{order}"))
    else:
        tally.share(order, kept, HITS, SAME_QUERY if repaired else "")


@given(st.lists(EVENTS), st.lists(st.integers(0, 2)), st.permutations(range(3)))
def test_parts_counted_apart_and_merged_in_any_order_give_the_same_report(events, homes, order):
    whole, parts = Tally(("train", "held_out")), [Tally(("train", "held_out")) for _ in range(3)]
    for number, event in enumerate(events):
        count(whole, number, event)
        count(parts[homes[number % len(homes)] if homes else 0], number, event)
    merged = Tally(("train", "held_out"))
    for each in order:
        merged.merge(parts[each])
    assert merged.report(EVALUATION) == whole.report(EVALUATION)
    assert merged.kept + merged.dropped == sum(event[0] != "share" for event in events)


def test_the_first_rows_of_a_reason_are_named_and_long_details_cut():
    tally = Tally()
    for order in (5, 3, 9, 1):
        tally.drop(order, Dropped(f"r{order}", "s", "call: wrong type", "x" * 10_000, "f:1"))
    found = tally.report(None)["reasons"]["call: wrong type"]
    assert found["rows"] == 4 and len(found["examples"]) == EXAMPLES_NAMED
    assert [text[:2] for text in found["examples"]] == ["r1", "r3"]
    assert all(len(text) == 300 for text in found["examples"])


def test_what_is_shared_is_counted_by_file_and_kind():
    tally = Tally()
    for order in range(3):
        count(tally, order, ("share", "s", "", "", order == 0))
    a, b = tally.report(EVALUATION)["overlap"]
    found = a["shared"][SAME_QUERY]
    assert (found["rows"], found["dropped"], found["evaluation_rows"]) == (3, 1, 2)
    assert (b["shared"][SAME_TOOL]["rows"], b["shared"][SAME_TOOL]["tools"]) == (3, 1)


def test_a_file_of_as_many_sources_as_rows_does_not_grow_the_report_without_end():
    tally = Tally()
    for number in range(SOURCES_NAMED + 500):
        tally.keep(number, Kept(Example("r", (), (), (), f"s{number}", f"l{number}"), (), "f:1"), "train", 0)
    report = tally.report(None)
    assert len(report["sources"]) == SOURCES_NAMED + 1 and report["sources"]["(others)"]["rows"] == 500
    assert sum(counts["rows"] for counts in report["sources"].values()) == report["kept"] == SOURCES_NAMED + 500
    assert len(report["splits"]["train"]["licences"]) == SOURCES_NAMED + 1
    assert len(json.dumps(report)) < 500_000
