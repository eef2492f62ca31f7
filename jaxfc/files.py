"""Files that are complete or absent, and the JSON that goes into them."""

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_HELP = {
    errno.ENOSPC: "Free some space there, or write to another disk.",
    errno.EDQUOT: "Free some of your quota there, or write to another disk.",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f), or write to another disk.",
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
    errno.EROFS: "Choose a folder that you may write to.",
    errno.EISDIR: "Choose another name: a folder has this one.",
    errno.ENOTDIR: "Choose another folder: a file stands in its path.",
    errno.EEXIST: "Choose another folder: a file stands in its path.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


class OutputError(OSError):
    """Something could not be written; the message says what, why, and what would help."""


@contextlib.contextmanager
def explain_failure(path: str | os.PathLike, doing: str = "write") -> Iterator[None]:
    """Turn an OSError within the block into an OutputError about `path`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{path}: cannot {doing} this: {reason}. {_HELP.get(error.errno, '')}".rstrip()) from error


def write_atomically(path: str | os.PathLike, data: bytes | str):
    """Write a file that is never seen half written: whatever goes wrong, the one that was there before stays.

    Missing folders are made, and links are followed.

    Args:
        path: the file to write or replace; nothing but a regular file is replaced.
        data: its contents; text is written as UTF-8.

    Raises:
        OutputError: it could not be written, for want of space for instance; nothing is left behind.
    """
    contents = data.encode() if isinstance(data, str) else data
    with explain_failure(path):
        target = Path(path).resolve()
        if target.exists() and not target.is_file():
            kind = "a folder" if target.is_dir() else "not a regular file"
            raise OutputError(f"{path}: cannot write this: it is {kind}. Choose another name.")
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile's: its files are closed to everyone but their owner.
        temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)


def _sync_folder(folder: Path):
    """Make a rename in it last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: str | os.PathLike) -> str:
    """The sha256 of a file's contents, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_json(document: Any, indent: int | None = None) -> str:
    """Strict JSON on one line, or indented.

    Numbers of NumPy and JAX become numbers, and their arrays lists; NaN and the infinities, which JSON lacks, become
    null.
    """
    return json.dumps(_plain(document), ensure_ascii=False, allow_nan=False, indent=indent)


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            # Subclasses too: NumPy's float64 is a float.
            return float(value) if math.isfinite(value) else None
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case Sequence() if not isinstance(value, bytes):
            return [_plain(item) for item in value]
        case _ if hasattr(value, "tolist"):
            return _plain(value.tolist())
        case os.PathLike():
            return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")
