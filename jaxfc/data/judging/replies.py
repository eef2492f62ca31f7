"""Replies of a model on disk, each under the content of its question: what was answered is never asked again."""

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxfc.command import InputError
from jaxfc.data.judging.client import Reply
from jaxfc.files import OutputError, explain_failure

FORMAT = 1
"""Of the file; raised with every change to it that another version could not read."""
_APPLICATION = 0x6A784643
_MAGIC = b"SQLite format 3\0"
_TABLE = """
CREATE TABLE replies (
    key BLOB PRIMARY KEY,
    text TEXT NOT NULL,
    problem TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL
) WITHOUT ROWID
"""


class Usage(NamedTuple):
    """What replies took."""

    replies: int
    prompt_tokens: int
    completion_tokens: int


def key_of(body: Mapping[str, Any], attempt: int) -> bytes:
    """The key of a reply: sha256 of the request, its model included, and of how often the question was put before."""
    text = json.dumps([body, attempt], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).digest()


class Replies:
    """A file of replies, for one process at a time and any of its threads. What was put outlives a kill."""

    def __init__(self, path: Path, *, read_only: bool = False):
        """Open the file, or make it.

        Args:
            path: of an SQLite database.
            read_only: it must be there, and is not changed.

        Raises:
            InputError: the file is damaged, in use, or of another program or version.
            OutputError: it cannot be made.
        """
        self.path = path
        """Where it is."""
        _check_file(path, read_only)
        self._lock = threading.Lock()
        with self._explained():
            mode = "ro" if read_only else "rwc"
            self._connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
            )
        try:
            with self._explained():
                self._prepare(read_only)
        except BaseException:
            self._connection.close()
            raise
        self._read_only = read_only

    def _prepare(self, read_only: bool) -> None:
        execute = self._connection.execute
        execute("PRAGMA busy_timeout = 0")
        if not read_only:
            execute("PRAGMA locking_mode = EXCLUSIVE")
        # Looked at before anything is written: it may be a file that someone needs.
        is_new = self._check_owner()
        if not read_only:
            # What is written is safe from a kill of the process at once, and the file is whole after a power cut.
            execute("PRAGMA journal_mode = WAL")
            execute("PRAGMA synchronous = NORMAL")
        if is_new:
            execute("BEGIN IMMEDIATE")
            execute(_TABLE)
            execute(f"PRAGMA application_id = {_APPLICATION}")
            execute(f"PRAGMA user_version = {FORMAT}")
            execute("COMMIT")
        problem = execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise sqlite3.DatabaseError(problem)
        # On disk, unlike a set: a run may use millions.
        execute("PRAGMA temp_store = FILE")
        execute("CREATE TEMP TABLE used (key BLOB PRIMARY KEY) WITHOUT ROWID")

    def _check_owner(self) -> bool:
        """Whether the file is empty and can be made ours."""
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        (tables,) = self._connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if application == version == tables == 0:
            return True
        if application != _APPLICATION:
            raise InputError(f"{self.path}: an SQLite file of another program; name another file for the replies.")
        if version != FORMAT:
            raise InputError(
                f"{self.path}: replies in format {version}, and this version of jaxfc reads format {FORMAT}. Name "
                "another file, and the judge is asked anew."
            )
        return False

    def get(self, key: bytes) -> Reply | None:
        """The reply under a key, if there is one; it counts as used."""
        with self._explained():
            columns = "text, problem, prompt_tokens, completion_tokens"
            row = self._connection.execute(f"SELECT {columns} FROM replies WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            self._connection.execute("INSERT OR IGNORE INTO used VALUES (?)", (key,))
            return Reply(*row)

    def put(self, key: bytes, reply: Reply) -> None:
        """Keep a reply; it counts as used.

        Raises:
            OutputError: there is no space for it.
        """
        with self._explained():
            self._connection.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?)", (key, *reply))
            self._connection.execute("INSERT OR IGNORE INTO used VALUES (?)", (key,))

    def used(self) -> Usage:
        """What the replies used since the file was opened took, each counted once."""
        with self._explained():
            sums = "COUNT(*), COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0)"
            return Usage(*self._connection.execute(f"SELECT {sums} FROM replies JOIN used USING (key)").fetchone())

    def close(self) -> None:
        """Close the file; it is then one file, readable from read-only media."""
        with self._explained():
            try:
                if not self._read_only:
                    self._connection.execute("PRAGMA journal_mode = DELETE")
            finally:
                self._connection.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """One thread at a time, with SQLite's errors as ours."""
        try:
            with self._lock:
                yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                problem = InputError(f"{self.path}: in use by another run; wait for it, or name another file.")
            elif code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR):
                problem = OutputError(
                    f"{self.path}: cannot keep replies here: {error}. Free some space, or name another file."
                )
            else:
                problem = InputError(
                    f"{self.path}: damaged ({error}). Name another file, and the judge is asked anew; `sqlite3 FILE "
                    ".recover` may save what this one holds."
                )
            raise problem from error


def _check_file(path: Path, read_only: bool) -> None:
    """Refuse what is none of ours before SQLite touches it, and make the folder of a new file."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except FileNotFoundError:
        if read_only:
            raise InputError(f"{path}: there is no such file; a replay needs the replies of an earlier run.") from None
        with explain_failure(path):
            path.resolve().parent.mkdir(parents=True, exist_ok=True)
        return
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a file for the judge's replies.") from error
    if start != _MAGIC and (start or read_only):
        raise InputError(f"{path}: not a file of replies, and it is not overwritten; name another file.")
