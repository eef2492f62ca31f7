import gzip
import json

import pytest

from jaxfc.command import InputError
from jaxfc.data.sources.source import read_rows

TOOL = {"name": "f", "description": "", "parameters": {"a": {"type": "int", "description": ""}}}
ANSWERS = [{"name": "f", "arguments": {"a": 1}}]
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
