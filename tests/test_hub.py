"""Datasets of the hub, by the real client over real sockets, from a stand-in that knows one dataset; and folders."""

import contextlib
import dataclasses
import http.server
import io
import json
import os
import subprocess
import sys
import threading

import pytest
from test_sources import ANSWERS, COMMON, TOOL, XLAM, write

from jaxfc.command import InputError
from jaxfc.data.sources.hub import without_nulls
from jaxfc.data.sources.source import Source, read_source

COMMIT = "a" * 40
ROWS = [XLAM | {"id": number} for number in range(3)]


def parquet(rows) -> bytes:
    import pyarrow
    import pyarrow.parquet

    data = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), data)
    return data.getvalue()


@contextlib.contextmanager
def hub(files: dict[str, bytes]):
    """Serves the dataset me/calls with these files; gives the URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path, _, _ = self.path.partition("?")
            if path.startswith("/datasets/me/calls/resolve/"):
                self.file(path.split("/", 6)[6])
            elif path.startswith("/api/datasets/me/calls/tree/"):
                folder = path.split("/", 6)[6].partition("/")[2]
                folders = {name.partition("/")[0] for name in files if "/" in name and not folder}
                found = [{"type": "directory", "path": name, "oid": COMMIT} for name in folders]
                self.say(found + [self.entry(name) for name in files if name.rpartition("/")[0] == folder])
            elif path.startswith("/api/datasets/me/calls"):
                self.say({"id": "me/calls", "sha": COMMIT, "private": False, "siblings": []})
            else:
                self.say(None, "RepoNotFound")

        do_HEAD = do_GET

        def entry(self, name):
            return {"type": "file", "path": name, "size": len(files[name]), "oid": COMMIT}

        def say(self, document, error="EntryNotFound"):
            if document is None:
                return self.answer(404, b'{"error": "not here"}', {"X-Error-Code": error})
            return self.answer(200, json.dumps(document).encode(), {})

        def file(self, name):
            if name not in files:
                return self.say(None)
            data, headers = files[name], {"ETag": f'"{len(name)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if wanted := self.headers.get("Range"):
                start, _, end = wanted.removeprefix("bytes=").partition("-")
                end = min(int(end or len(data)), len(data) - 1)
                headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
                return self.answer(206, data[int(start) : end + 1], headers)
            return self.answer(200, data, headers)

        def answer(self, code, data, headers):
            self.send_response(code)
            for name, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


READ = """
import json, sys
from jaxfc.command import InputError
from jaxfc.data.sources.source import Source, read_source
for dataset in sys.argv[1:]:
    try:
        print(json.dumps([[row.id, row.where, row.source] for row in read_source(Source(dataset=dataset))]))
    except InputError as error:
        print(error)
"""


def read_elsewhere(home, *datasets, **env) -> list[str]:
    """What another process, whose hub is elsewhere, says of each dataset."""
    env = os.environ | {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"} | env
    command = [sys.executable, "-c", READ, *datasets]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout.splitlines()


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({"data.json": json.dumps(ROWS).encode()}, ["data.json:1"] * 3),
        ({"data/train-00000-of-00001.parquet": parquet(ROWS)}, ["calls:1", "calls:2", "calls:3"]),
    ],
    ids=["json", "parquet"],
)
def test_a_dataset_of_the_hub_is_streamed_by_its_name(tmp_path, files, where):
    with hub({"README.md": b"---\nlicense: mit\n---\n"} | files) as url:
        found, missing = read_elsewhere(tmp_path, "me/calls", "me/nothing", HF_ENDPOINT=url, HF_HUB_OFFLINE="0")
    assert json.loads(found) == [[f"xlam60k-0000{at}", place, "xlam60k"] for at, place in enumerate(where)]
    assert missing.startswith("me/nothing: no such dataset, or it is not open to you")


def test_a_dataset_that_cannot_be_reached_is_a_clear_message(tmp_path):
    (said,) = read_elsewhere(tmp_path, "nobody/nothing", HF_HUB_OFFLINE="1")
    assert said.startswith("nobody/nothing: cannot be reached: ") and "give the path" in said


# Folders


def table(path, rows):
    path.write_bytes(parquet(rows))


def test_a_folder_of_parquet_files_is_read_split_by_split(tmp_path):
    rows = [XLAM | {"id": number} for number in range(5)]
    table(tmp_path / "train-00000-of-00002.parquet", rows[:2])
    table(tmp_path / "train-00001-of-00002.parquet", rows[2:4])
    table(tmp_path / "test-00000-of-00001.parquet", rows[4:])
    train, test = (list(read_source(Source(path=str(tmp_path), split=split))) for split in ("train", "test"))
    assert [row.id for row in train] == [f"xlam60k-{number:05d}" for number in range(4)]
    assert [row.id for row in test] == ["xlam60k-00004"] and train[0].answers == ANSWERS
    assert train[1].where == f"{tmp_path.name}:2"
    (alone,) = read_source(Source(path=str(tmp_path / "test-00000-of-00001.parquet")))
    assert dataclasses.replace(alone, where="") == dataclasses.replace(test[0], where="")
    with pytest.raises(InputError, match="has no split tune; its splits are train, test"):
        list(read_source(Source(path=str(tmp_path), split="tune")))


def test_keys_that_a_table_gives_to_every_row_are_none_of_a_tools(tmp_path):
    other = {"name": "g", "description": "", "parameters": {"b": {"type": "str", "description": ""}}}
    rows = [{"id": str(i), "query": "q", "tools": [tool], "answers": []} for i, tool in enumerate((TOOL, other))]
    table(tmp_path / "rows.parquet", rows)
    assert [row.tools for row in read_source(Source(path=str(tmp_path)))] == [[TOOL], [other]]
    assert without_nulls([{"a": None, "b": [{"c": None}]}, None]) == [{"b": [{}]}, None]


def test_a_folder_that_datasets_saved_is_read(tmp_path):
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list([XLAM]).save_to_disk(str(tmp_path / "saved"))
    (row,) = read_source(Source(path=str(tmp_path / "saved")))
    assert row.id == "xlam60k-00007"


def test_a_folder_of_json_files_may_have_rows_of_different_shapes(tmp_path):
    write(tmp_path / "train-1.jsonl.gz", f"{json.dumps(COMMON)}\n{json.dumps(XLAM)}\n")
    write(tmp_path / "train-2.json", json.dumps([COMMON | {"answers": [{"name": "f", "arguments": {"a": "text"}}]}]))
    rows = list(read_source(Source(path=str(tmp_path))))
    assert [row.where for row in rows] == ["train-1.jsonl.gz:1", "train-1.jsonl.gz:2", "train-2.json:1"]
    assert [row.source for row in rows] == ["mine", "xlam60k", "mine"]
    write(tmp_path / "train-2.json", "[{]")
    with pytest.raises(InputError, match=r"train-2\.json:1: not JSON"):
        list(read_source(Source(path=str(tmp_path))))


def test_an_empty_folder_and_a_broken_table_are_clear_messages(tmp_path):
    with pytest.raises(InputError, match="cannot be"):
        list(read_source(Source(path=str(tmp_path))))
    write(tmp_path / "rows.parquet", "no table")
    with pytest.raises(InputError, match="cannot be read"):
        list(read_source(Source(path=str(tmp_path))))
