import contextlib
import dataclasses
import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from jaxfc.command import InputError
from jaxfc.data.keywords import PYTHON_TYPES
from jaxfc.data.sources import reading
from jaxfc.data.sources.source import Source, read_rows, read_source
from jaxfc.data.validate import Kept, validate

TOOL = {"name": "f", "description": "", "parameters": {"a": {"type": "int", "description": ""}}}
ANSWERS = [{"name": "f", "arguments": {"a": 1}}]
SHARED = Path(__file__).parents[2] / "shared" / "data"
XLAM = {"id": 7, "query": "Call f.", "answers": json.dumps(ANSWERS), "tools": json.dumps([TOOL])}
COMMON = {"id": "mine-1", "source": "mine", "licence": "MIT", "query": "Call f.", "tools": [TOOL], "answers": ANSWERS}


def write(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def error_of(path):
    with pytest.raises(InputError) as caught:
        list(read_rows(path))
    return str(caught.value)


@pytest.mark.parametrize("name", ["rows.json", "rows.json.gz"])
def test_an_array_and_json_lines_give_the_same_rows_on_their_own_lines(tmp_path, name):
    lines = list(read_rows(write(tmp_path / f"lines-{name}", f"{json.dumps(XLAM)}\n\n{json.dumps(COMMON)}\n")))
    array = list(read_rows(write(tmp_path / name, f"[\n{json.dumps(XLAM)} ,\n\n{json.dumps(COMMON)}\n]\n")))
    assert [(row.id, row.tools, row.answers, row.messages) for row in lines] == [
        (row.id, row.tools, row.answers, row.messages) for row in array
    ]
    assert [row.where for row in lines] == [f"lines-{name}:1", f"lines-{name}:3"]
    assert [row.where for row in array] == [f"{name}:2", f"{name}:4"]


def test_an_indented_array_counts_lines(tmp_path):
    rows = list(read_rows(write(tmp_path / "rows.json", json.dumps([COMMON, COMMON], indent=1))))
    first_lines = json.dumps([COMMON], indent=1).count("\n")
    assert [row.where for row in rows] == ["rows.json:2", f"rows.json:{2 + first_lines - 1}"]


def test_xlam_rows_are_named_by_their_source_and_their_json_text_is_parsed(tmp_path):
    (row,) = read_rows(write(tmp_path / "xlam.jsonl", json.dumps(XLAM)))
    assert (row.id, row.source, row.licence) == ("xlam60k-00007", "xlam60k", "CC-BY-4.0")
    assert (row.tools, row.answers) == ([TOOL], ANSWERS)
    assert row.messages == [{"role": "user", "content": "Call f."}]


def test_both_forms_may_stand_in_one_file(tmp_path):
    text = "\n".join(json.dumps(row) for row in (XLAM, COMMON))
    assert [row.source for row in read_rows(write(tmp_path / "both.jsonl", text))] == ["xlam60k", "mine"]


def test_text_that_is_no_json_stays_text(tmp_path):
    (row,) = read_rows(write(tmp_path / "x.jsonl", json.dumps(XLAM | {"answers": "[{'name': 'f'}]"})))
    assert row.answers == "[{'name': 'f'}]"


def test_a_row_without_an_id_is_named_by_its_line(tmp_path):
    row = {key: value for key, value in COMMON.items() if key != "id"}
    assert next(read_rows(write(tmp_path / "mine.jsonl", json.dumps(row)))).id == "mine-1"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"id": 1, "query": ', ":2: not JSON"),
        ("[1, 2]", ":2: a row is a JSON object; this one is an array"),
        ("17", ":2: a row is a JSON object; this one is a number"),
        ('{"query": "q", "tools": []}', ":2: the row lacks answers; found query, tools"),
        ('{"tools": [], "answers": []}', ":2: the row lacks query (or messages)"),
        ("[" * 200_000, ":2: not JSON (nested too deeply)"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_broken_line_is_named_with_file_and_line(tmp_path, line, problem, suffix):
    path = write(tmp_path / f"bad{suffix}", f"{json.dumps(COMMON)}\n{line}\n{json.dumps(COMMON)}\n")
    assert f"{path}{problem}" in error_of(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[\n{"a": 1},\n{"a": }\n]', ":3: not JSON"),
        ("[\n%s\n%s]", ":3: not JSON (',' or ']' expected"),
        ("[\n%s,\n%s", ":3: not JSON (',' or ']' expected, found the end of the file)"),
        ("[%s,]", ":1: not JSON"),
        ("[%s]\nmore", "text after the array's closing bracket"),
        ("[]", "holds no rows"),
        ("\n \n", "holds no rows"),
        ("", "holds no rows"),
    ],
)
def test_a_broken_array_is_named_with_file_and_line(tmp_path, text, problem):
    path = write(tmp_path / "bad.json", text.replace("%s", json.dumps(COMMON)))
    if '"a"' in text:
        path = write(tmp_path / "bad.json", text.replace('{"a": 1}', json.dumps(COMMON)))
    assert problem in error_of(path)


def test_cut_gzip_data_is_a_clear_message(tmp_path):
    path = tmp_path / "cut.jsonl.gz"
    lines = "".join(json.dumps(COMMON | {"id": f"r{i}", "query": f"{i * i * 7919}"}) + "\n" for i in range(2000))
    path.write_bytes(gzip.compress(lines.encode())[:-200])
    assert "the gzip data is cut short or damaged after line" in error_of(path)


def test_damaged_gzip_data_is_a_clear_message(tmp_path):
    path = tmp_path / "damaged.jsonl.gz"
    data = bytearray(gzip.compress((json.dumps(COMMON) + "\n").encode() * 50))
    data[-6] ^= 0xFF
    path.write_bytes(data)
    assert "cut short or damaged" in error_of(path)


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(json.dumps(COMMON).encode() + b'\n{"query": "caf\xe9"}\n')
    assert f"{path}:2: not UTF-8" in error_of(path)


@pytest.mark.parametrize("name", ["missing.jsonl", ""])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    assert f"{tmp_path / name}: cannot be read" in error_of(tmp_path / name)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": "q"}, "a row of an unknown form; found text. Known: query or messages with tools with answers; "),
        ({}, "a row of an unknown form; found no keys"),
        (
            {"conversations": [], "chat": "", "system": ""},
            "several forms (conversations; chat with system); found conv",
        ),
        ({"question": [[]], "function": []}, "BFCL's question None has no answer (ground_truth)"),
        ({"question": [[], []], "function": [], "ground_truth": []}, "BFCL's question None has 2 turns; one is read"),
    ],
)
def test_a_row_of_an_unknown_form_is_named_with_what_it_has(tmp_path, row, problem):
    path = write(tmp_path / "rows.jsonl", f"{json.dumps(COMMON)}\n{json.dumps(row)}\n")
    assert f"{path}:2: " in error_of(path) and problem in error_of(path)


@contextlib.contextmanager
def peak_memory():
    tracemalloc.start()
    try:
        peak = []
        yield lambda: peak[0]
        peak.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def test_an_array_is_read_in_little_memory_whatever_its_lines(tmp_path):
    row = json.dumps(COMMON | {"query": "q" * 5000})
    for name, separator in (("one_line.json", ","), ("lines.json", ",\n")):
        path = write(tmp_path / name, f"[{separator.join([row] * 1500)}]")
        with peak_memory() as peak:
            lines = [line for line, _ in reading.read_values(path)]
        assert lines == ([1] * 1500 if name == "one_line.json" else list(range(1, 1501)))
        assert path.stat().st_size > 7e6 and peak() < 3e6


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_where_the_chunks_of_an_array_end_makes_no_difference(tmp_path, monkeypatch, chunk):
    values = [{"a": 'é\u2028"\\', "b": [1.5e3, -12, True, None]}, 123, 45, "tréma", [], {}, [[{"c": "\U0001f600"}]]]
    text = json.dumps(values, indent=2, ensure_ascii=False)
    path = write(tmp_path / "x.json", f"\n\n{text}\n")
    expected = list(reading.read_values(path))
    monkeypatch.setattr(reading, "_CHUNK", chunk)
    assert list(reading.read_values(path)) == expected
    assert [value for _, value in expected] == values and expected[0][0] == 4


def test_a_broken_array_is_not_read_to_its_end(tmp_path):
    path = write(tmp_path / "x.json", f'[{json.dumps(COMMON)},\n{{"a": oops}},\n' + ",".join(["{}"] * 400_000) + "]")
    with peak_memory() as peak:
        assert f"{path}:2: not JSON (Expecting value)" in error_of(path)
    assert peak() < 3e6


def test_a_value_that_never_ends_is_refused_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LONGEST", 1 << 20)
    path = write(tmp_path / "x.json", f'[{json.dumps(COMMON)},\n{{"a": "' + "x" * (6 << 20))
    assert f"{path}:2: not JSON (Unterminated string" in error_of(path)
    path = write(tmp_path / "x.jsonl", json.dumps(COMMON) + '\n{"a": "' + "x" * (6 << 20))
    assert f"{path}:2: the line is longer than 1 MiB" in error_of(path)


def test_xlams_native_form_gives_the_examples_of_its_rows_in_the_common_form():
    if not SHARED.is_dir():
        pytest.skip("the large data set ../shared/data is not here")
    common = {row.id: row for row in read_rows(SHARED / "train_raw.jsonl.gz") if row.source == "xlam60k"}
    native = {row.id: row for row in read_rows(SHARED / "xlam_native.jsonl.gz")}
    assert len(native) == 883 and native.keys() == common.keys()
    tuples = 0
    for name, row in native.items():
        one, other = validate(row), validate(common[name])
        if not isinstance(one, Kept):
            assert (one.id, one.source, one.reason, one.detail) == (other.id, other.source, other.reason, other.detail)
            continue
        # Tuples, which Python's types have, were made arrays for the common form, since JSON Schema has none.
        has_tuples = "Tuple[" in json.dumps(row.tools)
        tuples += has_tuples
        assert (one.example.tools == other.example.tools) != has_tuples
        tools = json.loads(
            json.dumps([dataclasses.asdict(tool) for tool in one.example.tools]).replace('"tuple"', '"array"')
        )
        assert tools == json.loads(json.dumps([dataclasses.asdict(tool) for tool in other.example.tools]))
        assert dataclasses.replace(one.example, tools=()) == dataclasses.replace(other.example, tools=())
        # Its types are Python's, which is the one thing that was mended for the common form.
        assert set(one.repairs) - {PYTHON_TYPES} == set(other.repairs)
    assert tuples == 14


BFCL_TOOL = {"name": "m.f", "description": "", "parameters": {"type": "dict", "properties": {"a": {"type": "integer"}}}}
QUESTION = {"id": "simple_0", "question": [[{"role": "user", "content": "q"}]], "function": [BFCL_TOOL]}
ANSWER = {"id": "simple_0", "ground_truth": [{"m.f": {"a": [1, 2, ""]}}]}


def bfcl(folder, name, questions, answers):
    (folder / "possible_answer").mkdir(exist_ok=True)
    write(folder / "possible_answer" / name, "".join(json.dumps(answer) + "\n" for answer in answers))
    return write(folder / name, "".join(json.dumps(question) + "\n" for question in questions))


def test_bfcls_questions_have_all_the_accepted_values_of_their_answers(tmp_path):
    (row,) = read_rows(bfcl(tmp_path, "BFCL_v4_simple_python.json", [QUESTION], [ANSWER]))
    assert row.answers == [{"name": "m.f", "arguments": {"a": 1}}]
    kept = validate(row)
    assert isinstance(kept, Kept) and kept.example.accepted[0].arguments == {"a": (1, 2, "")}
    assert (kept.example.source, kept.example.licence) == ("bfcl", "Apache-2.0")


def test_bfcls_irrelevance_has_no_call_as_answer_and_relevance_is_refused(tmp_path):
    (row,) = read_rows(write(tmp_path / "BFCL_v4_live_irrelevance.json", json.dumps(QUESTION)))
    assert row.answers == [] and validate(row).example.kind == "none"
    assert "has no answer" in error_of(write(tmp_path / "BFCL_v4_live_relevance.json", json.dumps(QUESTION)))


@pytest.mark.parametrize("answers", [[], [ANSWER | {"id": "simple_1"}], [{"id": "simple_0"}]])
def test_an_answer_to_another_question_is_refused(tmp_path, answers):
    path = bfcl(tmp_path, "BFCL_v4_simple_python.json", [QUESTION], answers)
    assert "the answer to simple_0 was expected" in error_of(path)


@pytest.mark.parametrize(("category", "rows", "kept"), [("simple_python", 400, 399), ("irrelevance", 240, 240)])
def test_bfcls_own_files_are_read(category, rows, kept):
    if not SHARED.is_dir():
        pytest.skip("the large data set ../shared/data is not here")
    results = [validate(row) for row in read_rows(SHARED / "bfcl" / f"BFCL_v4_{category}.json.gz")]
    assert (len(results), sum(isinstance(result, Kept) for result in results)) == (rows, kept)


def test_a_source_names_licenses_and_weighs_its_rows(tmp_path):
    path = write(
        tmp_path / "mine.jsonl", json.dumps({k: v for k, v in COMMON.items() if k not in ("source", "licence")})
    )
    (row,) = read_source(Source(path=str(path), licence="MIT", weight=2.5))
    assert (row.source, row.licence, row.weight) == ("mine", "MIT", 2.5)
    (row,) = read_source(Source(path=str(path), name="ours"))
    assert (row.source, row.licence, row.weight) == ("ours", "", 1.0)
    (row,) = read_source(Source(path=str(write(path, json.dumps(COMMON))), licence="Apache-2.0"))
    assert (row.source, row.licence) == ("mine", "MIT")
    assert validate(dataclasses.replace(row, weight=3.0)).example.weight == 3.0


@pytest.mark.parametrize("wrong", [{}, {"path": "a", "dataset": "b"}, {"path": "a", "weight": -1.0}])
def test_a_source_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match=r"either path|at least 0"):
        Source(**wrong)
