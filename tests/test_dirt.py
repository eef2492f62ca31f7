"""The faults of the large set, as the AST stage finds them, against the table of faults that came with it."""

import collections
from pathlib import Path

import pytest

from jaxfc.data.repeats import normalised_digest, without_repeats
from jaxfc.data.sources.source import read_rows
from jaxfc.data.validate import Dropped, Kept, validate

LARGE = Path(__file__).parents[2] / "shared" / "data" / "train_raw.jsonl.gz"
SOURCES = ("sgd", "seal_tools", "xlam60k", "toolrl_sft", "glaive")
CASTS = {
    "value: number from text",
    "value: text from number",
    "value: boolean from text",
    "value: list or dict from JSON text",
}
CASTS |= {"answer: null argument left out"}


@pytest.fixture(scope="module")
def results():
    if not LARGE.is_file():
        pytest.skip("the large data set ../shared/data is not here")
    return list(map(validate, read_rows(LARGE)))


def by_source(chosen):
    counts = collections.Counter(each.source if isinstance(each, Dropped) else each.example.source for each in chosen)
    return tuple(counts[source] for source in SOURCES)


def dropped(results, reason):
    return by_source(each for each in results if isinstance(each, Dropped) and each.reason == reason)


def repaired(results, *repairs):
    return by_source(each for each in results if isinstance(each, Kept) and not set(repairs).isdisjoint(each.repairs))


def test_each_row_ends_as_kept_repaired_or_dropped(results):
    outcomes = collections.Counter(
        "dropped" if isinstance(each, Dropped) else "repaired" if each.repairs else "kept" for each in results
    )
    assert outcomes["kept"] + outcomes["repaired"] + outcomes["dropped"] == len(results) == 4708


# The rows of the table: sgd, seal_tools, xlam60k, toolrl_sft, glaive. A row with several faults is in several of them,
# and here it has one reason, the first in the order of `REASONS`.


def test_tools_that_are_not_offered_undeclared_arguments_and_shared_names_are_as_in_the_table(results):
    assert dropped(results, "answer: not parseable") == (0, 0, 0, 0, 0)
    assert dropped(results, "call: unknown tool") == (0, 5, 0, 1, 0)
    assert dropped(results, "call: undeclared argument") == (0, 0, 0, 8, 0)
    assert dropped(results, "call: outside enum") == (0, 0, 0, 0, 0)
    assert dropped(results, "tools: duplicate name") == (0, 0, 5, 1, 0)


def test_missing_arguments_are_as_in_the_table_but_for_a_row_that_also_has_an_undeclared_one(results):
    # The table: 0, 0, 10, 9, 0.
    assert dropped(results, "call: missing required") == (0, 0, 10, 8, 0)


def test_stand_ins_are_as_in_the_table_but_for_one_within_a_longer_text(results):
    # The table: 0, 57, 0, 0, 0. seal_tools-dev-difficult-207 has `API_call_0 response` and no bare `API_call_0`.
    assert dropped(results, "call: placeholder value") == (0, 58, 0, 0, 0)


def test_schemas_that_are_none_are_mended(results):
    # The table: 0, 9, 0, 0, 0: in all of them `examples` is text where a list should be. In one row more the text is
    # under `example_values`, which the table passes as a key that means nothing.
    assert dropped(results, "schema: invalid") == (0, 0, 0, 0, 0)
    assert repaired(results, "schema: examples put in a list") == (0, 10, 0, 0, 0)
    assert repaired(results, "schema: example_values read as examples") == (0, 1, 0, 0, 0)


def test_values_of_the_wrong_type_are_cast_where_that_loses_nothing(results):
    # Each row of the table is dropped, or cast, or dropped for a reason that comes first: 10 rows of Seal-Tools for
    # a stand-in, 3 of xLAM for a shared name, 9 of ToolRL for a missing or an undeclared argument.
    wrong, cast, other = dropped(results, "call: wrong type"), repaired(results, *CASTS), (0, 10, 3, 9, 0)
    assert (wrong, cast) == ((0, 9, 16, 18, 1), (0, 96, 2, 36, 0))
    assert tuple(map(sum, zip(wrong, cast, other, strict=True))) == (0, 115, 21, 63, 1)


def test_repeats_are_as_in_the_table_but_for_one_that_differs_in_case(results):
    # The table compares conversations in lower case: 21, 0, 1, 2, 25.
    assert dropped(without_repeats(results), "exact repeat") == (20, 0, 1, 2, 25)
    ids = {each.id for each in without_repeats(results, digest=normalised_digest) if isinstance(each, Dropped)}
    assert "sgd-43_00038-t01" in ids


def test_keys_that_no_keyword_matches_are_read_where_they_have_a_meaning_and_kept_where_not(results):
    assert repaired(results, "schema: choices read as enum") == (0, 1, 0, 0, 0)
    units = [
        schema["unit"]
        for each in results
        if isinstance(each, Kept)
        for tool in each.example.tools
        for schema in tool.properties.values()
        if "unit" in schema
    ]
    assert "kg/s" in units
