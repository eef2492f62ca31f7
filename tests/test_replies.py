import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from jaxfc.command import InputError
from jaxfc.data.judging.client import Reply
from jaxfc.data.judging.replies import FORMAT, Replies, Usage, key_of
from jaxfc.files import OutputError

ROOT = Path(__file__).parents[1]
KEYS = [key_of({"model": "m", "n": n}, 0) for n in range(4)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some" / "replies.sqlite"


def filled(path):
    replies = Replies(path)
    replies.put(KEYS[0], Reply("é\0\u2028", "", 10, 1))
    replies.put(KEYS[1], Reply("", "empty", 20, 2))
    replies.close()


def test_a_reply_comes_back_as_it_was_put(path):
    filled(path)
    replies = Replies(path)
    assert replies.get(KEYS[0]) == Reply("é\0\u2028", "", 10, 1)
    assert replies.get(KEYS[1]) == Reply("", "empty", 20, 2)
    assert replies.get(KEYS[2]) is None
    replies.close()


def test_each_reply_that_was_used_counts_once_and_no_other_does(path):
    filled(path)
    replies = Replies(path)
    assert replies.used() == Usage(0, 0, 0)
    for key in (KEYS[1], KEYS[1], KEYS[2]):
        replies.get(key)
    assert replies.used() == Usage(1, 20, 2)
    replies.put(KEYS[3], Reply("x", "", 100, 7))
    assert replies.used() == Usage(2, 120, 9)
    replies.close()


def test_the_key_is_the_content_whatever_its_order():
    assert key_of({"a": 1, "b": [2]}, 0) == key_of({"b": [2], "a": 1}, 0)
    others = [({"a": 1, "b": [2]}, 1), ({"a": 1, "b": [3]}, 0), ({"a": 1.5, "b": [2]}, 0)]
    assert len({key_of(*other) for other in others} | {key_of({"a": 1, "b": [2]}, 0)}) == 4


def test_a_closed_file_is_one_file_that_can_be_read_where_nothing_can_be_written(path):
    filled(path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    before = path.read_bytes()
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        replies = Replies(path, read_only=True)
        assert replies.get(KEYS[0]).text == "é\0\u2028"
        assert replies.used() == Usage(1, 10, 1)
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]
        replies.close()
    finally:
        path.parent.chmod(0o700)
    assert path.read_bytes() == before


def test_a_second_process_is_told_that_the_file_is_in_use(path):
    replies = Replies(path)
    code = (
        "import sys; from pathlib import Path; from jaxfc.data.judging.replies import Replies; "
        "Replies(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=ROOT)
    assert f"{path}: in use by another run" in done.stderr
    replies.put(KEYS[0], Reply("x"))
    replies.close()
    Replies(path).close()


def test_what_was_put_before_a_kill_is_there_after_it(path):
    code = (
        "import sys; from pathlib import Path; from jaxfc.data.judging.client import Reply\n"
        "from jaxfc.data.judging.replies import Replies, key_of\n"
        "replies = Replies(Path(sys.argv[1]))\n"
        "for n in range(10**9):\n"
        "    replies.put(key_of({'n': n}, 0), Reply(str(n)))\n"
        "    print(n, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    told = [int(process.stdout.readline()) for _ in range(200)]
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.close()
    process.wait()
    for read_only in (False, True):
        replies = Replies(path, read_only=read_only)
        assert [replies.get(key_of({"n": n}, 0)).text for n in told] == list(map(str, told))
        replies.close()


def test_an_empty_file_becomes_one_of_replies(path):
    path.parent.mkdir()
    path.touch()
    filled(path)
    # As a kill leaves it that came before the table was made.
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    filled(path)


@pytest.mark.parametrize("contents", [b"keep me", b"SQLite format 4\0", b"{}" * 5000])
def test_a_file_of_something_else_is_refused_and_left_alone(path, contents):
    path.parent.mkdir()
    path.write_bytes(contents)
    for read_only in (False, True):
        with pytest.raises(InputError, match="not a file of replies"):
            Replies(path, read_only=read_only)
    assert path.read_bytes() == contents


def test_a_database_of_another_program_is_refused_and_left_alone(path):
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE precious (x)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="of another program"):
        Replies(path)
    assert path.read_bytes() == before


def test_replies_in_another_format_are_refused_with_both_numbers(path):
    filled(path)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    connection.close()
    with pytest.raises(InputError, match=f"in format {FORMAT + 1}, and this version of jaxfc reads format {FORMAT}"):
        Replies(path)


@pytest.mark.parametrize("damage", ["cut", "zeros", "noise"])
def test_a_damaged_file_is_refused(path, damage):
    replies = Replies(path)
    for n in range(200):
        replies.put(key_of({"n": n}, 0), Reply("text " * 50))
    replies.close()
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "zeros":
        data[4096:12288] = bytes(8192)
    else:
        data[100:8192] = bytes(range(256)) * 32
        del data[8192:]
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"{path}: damaged"):
        Replies(path)


def test_a_replay_without_a_file_is_refused(path):
    with pytest.raises(InputError, match="there is no such file; a replay needs"):
        Replies(path, read_only=True)
    assert not path.parent.exists()


def test_a_folder_is_no_file_of_replies(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Replies(tmp_path)


def test_a_file_where_none_can_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises((OutputError, InputError), match="file"):
        Replies(tmp_path / "file" / "replies.sqlite")


def test_a_full_disk_is_an_output_error(path):
    replies = Replies(path)
    replies.put(KEYS[0], Reply("kept"))
    (pages,) = replies._connection.execute("PRAGMA page_count").fetchone()
    replies._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OutputError, match="full"):
        replies.put(KEYS[1], Reply("x" * 10**6))
    assert replies.get(KEYS[0]).text == "kept" and replies.get(KEYS[1]) is None
    replies.close()


def test_a_key_is_the_digest_of_sorted_ascii_json_and_the_attempt():
    body = {"model": "m", "messages": [{"role": "user", "content": "é <"}], "max_tokens": 5, "temperature": 0.0}
    text = r'[{"max_tokens":5,"messages":[{"content":"\u00e9 <","role":"user"}],"model":"m","temperature":0.0},1]'
    assert key_of(body, 1) == hashlib.sha256(text.encode()).digest()
