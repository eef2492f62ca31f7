import collections
import json
from pathlib import Path

import pytest

from jaxfc.calls.schema import tool_from_json
from jaxfc.command import InputError
from jaxfc.data.example import Example
from jaxfc.data.overlap import (
    KINDS,
    SAME_NAME,
    EvaluationRows,
    Overlap,
    read_evaluation,
    read_evaluation_rows,
    readable_tool,
    without_overlap,
)
from jaxfc.data.sources.rows import RawRow
from jaxfc.data.sources.source import read_rows
from jaxfc.data.validate import REASONS, SAME_QUERY, SAME_RUN, SAME_TOOL, Dropped, Kept, validate

SHARED = Path(__file__).parents[2] / "shared" / "data"
TEN = "one two three four five six seven eight nine ten"


def tool(name, *parameters):
    properties = {parameter: {"type": "string"} for parameter in parameters}
    return {"name": name, "description": "", "parameters": {"type": "object", "properties": properties}}


def row(query, *tools, id_="e1"):
    return RawRow("e:1", id_, "", "", [{"role": "user", "content": query}], list(tools), [])


def example(*messages, tools=()):
    asked = [{"role": "user", "content": each} if isinstance(each, str) else each for each in messages]
    return Example("t1", tuple(asked), tuple(map(tool_from_json, tools)), ())


def hits(evaluation_row, given):
    rows = EvaluationRows()
    rows.add_file("eval.jsonl", [row("nothing of the kind", id_="e0"), evaluation_row])
    return {hit.kind: hit for hit in rows.hits(given)}


def test_the_same_query_is_found_whatever_its_case_and_punctuation():
    found = hits(row("What's the time, in Oslo?"), example("whats the TIME in oslo"))
    assert list(found) == [SAME_QUERY]
    assert found[SAME_QUERY].rows == (1,) and found[SAME_QUERY].shown == "eval.jsonl: e1: whats the time in oslo"
    assert hits(row("What's the time?"), example("What's the time in Oslo?")) == {}


def test_ten_words_in_a_row_are_found_and_nine_are_not():
    assert list(hits(row(f"Please: {TEN}!"), example(f"{TEN.title()} eleven"))) == [SAME_RUN]
    assert hits(row(f"Please: {TEN}!"), example(TEN.rpartition(" ")[0] + " other")) == {}
    # The same words in two messages are not in a row.
    first, _, rest = TEN.partition(" six ")
    assert hits(row(TEN), example(first, f"six {rest}", "and more")) == {}


def test_what_the_assistant_says_is_no_question():
    assert hits(row(TEN), example({"role": "assistant", "content": TEN}, "x")) == {}
    assert hits(row("?!"), example("...")) == {}


def test_a_tool_is_the_same_by_its_name_and_the_names_of_its_parameters():
    found = hits(
        row("q", tool("f", "a", "b"), tool("g", "x")), example("other", tools=[tool("f", "b", "a"), tool("g")])
    )
    assert {kind: hit.common for kind, hit in found.items()} == {SAME_TOOL: ("f",), SAME_NAME: ("g",)}


def test_a_tool_is_compared_under_the_name_that_it_would_be_kept_under():
    kept = validate(
        RawRow("f:1", "r", "", "", [{"role": "user", "content": "q"}], [tool("Search Managers", "from")], [])
    )
    assert list(hits(row("x", tool("Search Managers", "from")), kept.example)) == [SAME_TOOL]


def test_what_cannot_be_read_in_an_evaluation_row_is_passed_over():
    bad = RawRow("e:1", "e1", "", "", [{"role": "user"}, 3], [3, {"name": ""}, tool("f")], [])
    assert list(hits(bad, example("x", tools=[tool("f")]))) == [SAME_TOOL]
    assert hits(RawRow("e:1", "e1", "", "", None, "no tools", []), example("x")) == {}


def test_rows_beyond_the_first_hundred_with_the_same_words_are_not_counted():
    rows = EvaluationRows()
    rows.add_file("many", (row(TEN, tool("f"), id_=str(number)) for number in range(250)))
    found = {hit.kind: hit for hit in rows.hits(example(TEN, tools=[tool("f")]))}
    assert [len(found[kind].rows) for kind in (SAME_QUERY, SAME_RUN, SAME_TOOL)] == [100, 100, 0]
    assert rows.counts == [250]


def test_each_file_is_told_apart():
    rows = EvaluationRows()
    rows.add_file("a", [row("the same")])
    rows.add_file("b", [row("other"), row("the same")])
    assert [(hit.file, hit.rows) for hit in rows.hits(example("The same."))] == [(0, (0,)), (1, (2,))]


def drop(settings, *given):
    rows = EvaluationRows()
    rows.add_file("eval.jsonl", [row(TEN, tool("f", "a"))])
    noted = []
    results = list(without_overlap(given, rows, settings, lambda kept, found, reason: noted.append((kept, reason))))
    return results, noted


def test_what_is_dropped_is_chosen_and_all_is_noted():
    asked = Kept(example(f"{TEN}!", tools=[tool("f", "a")]), (), "t:1")
    before = Dropped("x", "s", "exact repeat", "", "t:0")
    results, noted = drop(Overlap(files=("x",)), before, asked)
    assert results[0] is before and results[1].reason == SAME_QUERY and "e1" in results[1].detail
    assert noted == [(asked, SAME_QUERY)]
    results, _ = drop(Overlap(files=("x",), drop_query=False), asked)
    assert results[0].reason == SAME_RUN
    results, noted = drop(Overlap(files=("x",), drop_query=False, drop_run=False), asked)
    assert results == [asked] and noted == [(asked, "")]
    results, _ = drop(Overlap(files=("x",), drop_query=False, drop_run=False, drop_tool=True), asked)
    assert results[0].reason == SAME_TOOL
    only_name = Kept(example("x", tools=[tool("f")]), (), "t:2")
    results, noted = drop(Overlap(files=("x",), drop_tool=True), only_name)
    assert results == [only_name] and noted == [(only_name, "")]


def test_every_kind_for_which_rows_are_dropped_is_a_reason():
    settings = Overlap(files=("x",), drop_tool=True)
    assert set(settings.reasons()) == set(KINDS) - {SAME_NAME} and set(settings.reasons()) <= set(REASONS)
    with pytest.raises(ValueError, match=r"overlap\.files is empty"):
        Overlap(files=())


def write(path, *rows):
    path.write_text("".join(f"{json.dumps(each)}\n" for each in rows))
    return path


def test_bfcls_questions_need_no_answers_and_may_have_several_turns(tmp_path):
    user = {"role": "user", "content": "a question"}
    one = {"id": "b1", "question": [[user]], "function": [tool("f")]}
    several = {"id": "b2", "question": [[{"role": "user", "content": "and"}], [{"role": "user", "content": "more"}]]}
    write(tmp_path / "BFCL_x.json", one, several)
    write(tmp_path / "common.jsonl", {"id": "c", "query": "common", "tools": [], "answers": []})
    (tmp_path / "LICENSE").write_text("none of it")
    found = read_evaluation(Overlap(files=(str(tmp_path),)))
    assert (found.files, found.counts, found.ids) == (["BFCL_x.json", "common.jsonl"], [2, 1], ["b1", "b2", "c"])
    for query, number in (("A question?", 0), ("and more", 1), ("Common", 2)):
        (hit,) = found.hits(example(query))
        assert hit.rows == (number,)


@pytest.mark.parametrize(
    ("name", "problem"), [("none.jsonl", "cannot be read"), ("empty", "holds no .json"), ("e.json", "holds no rows")]
)
def test_evaluation_files_that_are_none_are_refused(tmp_path, name, problem):
    (tmp_path / "empty").mkdir()
    (tmp_path / "e.json").write_text("\n")
    with pytest.raises(InputError, match=problem):
        read_evaluation(Overlap(files=(str(tmp_path / name),)))


# The set's own table of what training rows and evaluation files have in common.

TABLE = {
    # Rows of the evaluation file with ten words of a training row, and names of tools that both have.
    # One row less than in the table, which deletes letters with accents where they are compared without these.
    "eval/seal_tools_out_domain.jsonl.gz": (79, 1111),
    # One name more: two names that differ as written become the same identifier.
    "eval/toolrl_test.jsonl.gz": (7, 64),
    "eval/xlam_holdout.jsonl.gz": (2, 173),
    "eval/apibank.jsonl.gz": (0, 0),
    "bfcl": (0, 41),
}


@pytest.mark.slow
def test_the_overlap_is_that_of_the_sets_own_table():
    path = SHARED / "train_raw.jsonl.gz"
    if not path.is_file():
        pytest.skip("the large data set ../shared/data is not here")
    rows = EvaluationRows()
    for name in TABLE:
        rows.add_file(name, read_evaluation_rows(SHARED / name))
    runs, names, tools = (collections.defaultdict(set) for _ in range(3))
    offering = 0
    for raw in read_rows(path):
        found = rows.hits(Example(raw.id, tuple(raw.messages), tuple(map(readable_tool, raw.tools)), ()))
        for hit in found:
            assert hit.kind != SAME_QUERY
            into = {SAME_RUN: runs, SAME_TOOL: tools, SAME_NAME: names}[hit.kind]
            into[rows.files[hit.file]].update(hit.rows if hit.kind == SAME_RUN else hit.common)
        offering += any(hit.kind in (SAME_TOOL, SAME_NAME) and rows.files[hit.file] == "bfcl" for hit in found)
    assert {name: (len(runs[name]), len(names[name] | tools[name])) for name in TABLE} == TABLE
    # For 11 of BFCL's the names of the parameters agree too; 242 training rows offer one of the 41.
    assert (len(tools["bfcl"]), offering) == (11, 242)
