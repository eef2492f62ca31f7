import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxfc.files import OutputError, sha256_of, to_json, write_atomically


def test_what_was_written_is_read_back(tmp_path):
    write_atomically(tmp_path / "text", "größer\n")
    write_atomically(str(tmp_path / "bytes"), b"\x00\xff")
    assert (tmp_path / "text").read_text(encoding="utf-8") == "größer\n"
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"


def test_missing_folders_are_made_and_nothing_else_is_left(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "c", "x")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c"]


def test_a_new_file_is_as_open_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


# The file-size limit stops a write halfway, as a full disk does.
FULL_DISK = """
import resource, sys
from jaxfc.files import OutputError, write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(sys.argv[1], "x" * 100_000)
except OutputError as error:
    print(error, end="")
"""


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "precious"
    path.write_text("old")
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert done.stdout == (
        f"{path}: cannot write this: File too large. "
        "Raise the limit on the size of files (ulimit -f), or write to another disk."
    )
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    path = tmp_path / "precious"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]


def test_a_folder_a_device_and_a_path_through_a_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    for path, reason in [
        (tmp_path, "it is a folder. Choose another name."),
        (tmp_path / "pipe", "it is not a regular file. Choose another name."),
        (tmp_path / "file" / "inside", "Choose another folder: a file stands in its path."),
    ]:
        with pytest.raises(OutputError) as caught:
            write_atomically(path, "y")
        assert str(caught.value).startswith(f"{path}: cannot write this: ")
        assert str(caught.value).endswith(reason)
    assert (tmp_path / "file").read_text() == "x"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_sha256_of_a_file_is_that_of_its_bytes(tmp_path):
    # The first test vector of FIPS 180-2: sha256("abc").
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    big = os.urandom(3 << 20)
    (tmp_path / "big").write_bytes(big)
    assert sha256_of(str(tmp_path / "big")) == hashlib.sha256(big).hexdigest()


def test_json_has_no_nan_and_no_numpy():
    document = {"a": np.float32(0.5), "b": [float("nan"), np.inf, np.int64(3)], "c": np.array([1.0, np.nan]), "d": True}
    assert json.loads(to_json(document)) == {"a": 0.5, "b": [None, None, 3], "c": [1.0, None], "d": True}
    assert json.loads(to_json({"path": Path("a/b"), "of": np.float64("nan")})) == {"path": "a/b", "of": None}


def test_json_refuses_what_it_cannot_hold():
    with pytest.raises(TypeError, match="object is no JSON value"):
        to_json({"a": object()})
