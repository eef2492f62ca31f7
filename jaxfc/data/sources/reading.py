"""The JSON values of a file, one after another: JSON Lines or one array, plain or gzipped."""

import codecs
import contextlib
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from jaxfc.command import InputError

LONGEST = 1 << 26
"""Bytes that one value of a file may have."""
_CHUNK = 1 << 18
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)
_SPACE = re.compile(r"[ \t\r\n]*")
# An error of the parser this near to the end of what has been read may be for want of the rest: `tru`, `\u12`.
_NEAR_END = 8


Opened = Callable[[BinaryIO, str], BinaryIO]
"""Gets an open file and its path, and gives what is read in its place: the same file, watched."""


def as_opened(file: BinaryIO, path: str) -> BinaryIO:
    """The file itself."""
    return file


def read_values(path: Path, opened: Opened = as_opened) -> Iterator[tuple[int, Any]]:
    """The JSON values of a file of JSON Lines or of one array, plain or gzipped, each with its first line, from 1.

    Memory does not grow with the file: no more than a few chunks and one value are held.

    Args:
        path: of the file.
        opened: what is read instead of it.

    Raises:
        InputError: the file cannot be read, is damaged or is not JSON; it names file and line.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    with file:
        yield from values_of(opened(file, str(path)), str(path))


def values_of(file: BinaryIO, name: str) -> Iterator[tuple[int, Any]]:
    """`read_values` of an open file that can be rewound; `name` is for messages."""
    with contextlib.ExitStack() as stack:
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if is_gzip:
            file = stack.enter_context(gzip.GzipFile(fileobj=file))
        if _begins_array(file, name):
            yield from _array(_Window(file, name))
        else:
            for number, text in _lines(file, name):
                if text.strip():
                    yield number, _loads(text, name, number)


def _begins_array(file: BinaryIO, name: str) -> bool:
    """Whether the first character is a bracket; the file is at its start again."""
    try:
        while data := file.read(_CHUNK):
            if data := data.lstrip(codecs.BOM_UTF8 + b" \t\r\n"):
                file.seek(0)
                return data.startswith(b"[")
    except _DAMAGED as error:
        _refuse_damage(name, 0, error)
    return False


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        while line := file.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST:
                raise InputError(f"{name}:{number}: the line is longer than {LONGEST >> 20} MiB; no row is that long.")
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}:{number}: not UTF-8 ({error.reason} at byte {error.start}).") from error
    except _DAMAGED as error:
        _refuse_damage(name, number, error)


def _refuse_damage(name: str, line: int, error: Exception) -> NoReturn:
    raise InputError(f"{name}:{line + 1}: the gzip data is cut short or damaged after line {line}.") from error


def _loads(text: str, name: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at column {error.pos + 1}"
    except RecursionError:
        problem = "nested too deeply"
    except ValueError as error:
        problem = str(error)
    raise InputError(f"{name}:{line}: not JSON ({problem}); each line holds one JSON object: {text.strip()[:60]}")


class _Window:
    """The part of a text file that is being read."""

    def __init__(self, file: BinaryIO, name: str):
        self.name = name
        self._file, self._decoder = file, codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._position, self._counted = "", 0, 0
        self._line = 1
        """Of the character at `_counted`."""
        self._complete = False
        self._json = json.JSONDecoder()

    def line(self, position: int | None = None) -> int:
        """The line of a place in the text, by default of the next character."""
        if position is not None:
            return self._line + self._text.count("\n", self._counted, position)
        self._line += self._text.count("\n", self._counted, self._position)
        self._counted = self._position
        return self._line

    def _grow(self) -> bool:
        """Let go of what has been read and double the rest; False when the file has no more."""
        if self._complete:
            return False
        self.line()
        rest = self._text[self._position :]
        try:
            data = self._file.read(max(_CHUNK, len(rest)))
            self._text = rest + self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line = self._line + rest.count("\n") + data.count(b"\n", 0, error.start)
            raise InputError(f"{self.name}:{line}: not UTF-8 ({error.reason}).") from error
        except _DAMAGED as error:
            _refuse_damage(self.name, self._line + rest.count("\n") - 1, error)
        self._position = self._counted = 0
        self._complete = not data
        return True

    def peek(self) -> str:
        """The next character that is no white space; none at the end."""
        while True:
            self._position = _SPACE.match(self._text, self._position).end()
            if self._position < len(self._text) or not self._grow():
                return self._text[self._position : self._position + 1]

    def skip(self) -> None:
        """Go past one character."""
        self._position += 1

    def value(self) -> Any:
        """Read the JSON value that begins here."""
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                may_go_on = error.msg.startswith("Unterminated") or error.pos > len(self._text) - _NEAR_END
                if may_go_on and len(self._text) - self._position <= LONGEST and self._grow():
                    continue
                problem = f"{error.msg}); the file is one array of objects."
                raise InputError(f"{self.name}:{self.line(error.pos)}: not JSON ({problem}") from error
            except RecursionError:
                raise InputError(f"{self.name}:{self.line()}: not JSON (nested too deeply).") from None
            except ValueError as error:
                raise InputError(f"{self.name}:{self.line()}: not JSON ({error}).") from error
            # A number may go on in the next chunk.
            if end < len(self._text) or not self._grow():
                self._position = end
                return value


def _array(window: _Window) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON array, each with its line."""
    separator = window.peek()
    window.skip()
    while window.peek() != "]" or separator == ",":
        line = window.line()
        yield line, window.value()
        separator = window.peek()
        if separator not in (",", "]"):
            found = repr(separator) if separator else "the end of the file"
            raise InputError(f"{window.name}:{window.line()}: not JSON (',' or ']' expected, found {found}).")
        if separator == ",":
            window.skip()
    window.skip()
    if window.peek():
        raise InputError(f"{window.name}:{window.line()}: there is text after the array's closing bracket.")
