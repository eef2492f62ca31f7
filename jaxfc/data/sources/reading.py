"""The JSON values of a file, one after another: JSON Lines or one array, plain or gzipped."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxfc.command import InputError


def read_values(path: Path) -> Iterator[tuple[int, Any]]:
    """The JSON values of a file of JSON Lines or of one array, plain or gzipped, each with its first line, from 1.

    Raises:
        InputError: the file cannot be read, is damaged or is not JSON; it names file and line.
    """
    with _opened(path) as file:
        lines = _lines(file, path)
        filled = ((number, text) for number, text in lines if text.strip())
        number, text = next(filled, (0, ""))
        if text.lstrip().startswith("["):
            yield from _array(text + "".join(rest for _, rest in lines), path, number)
        elif text:
            yield number, _loads(text, path, number)
            for number, text in filled:
                yield number, _loads(text, path, number)


def _opened(path: Path) -> io.BufferedIOBase:
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
        return gzip.open(path, "rb") if is_gzip else path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error


def _lines(file: io.BufferedIOBase, path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        for number, line in enumerate(file, start=1):
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start}).") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}:{number + 1}: the gzip data is cut short or damaged after line {number}.") from error


def _loads(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at column {error.pos + 1}"
    except RecursionError:
        problem = "nested too deeply"
    except ValueError as error:
        problem = str(error)
    raise InputError(f"{path}:{line}: not JSON ({problem}); each line holds one JSON object: {text.strip()[:60]}")


def _array(text: str, path: Path, line: int) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON array, each with its line; `line` is where the text starts."""
    decoder, position, counted = json.JSONDecoder(), text.index("[") + 1, 0
    separator = ""
    while True:
        position = _skip_space(text, position)
        line += text.count("\n", counted, position)
        counted = position
        if text[position : position + 1] == "]" and separator != ",":
            break
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            at = line + text.count("\n", counted, error.pos)
            raise InputError(f"{path}:{at}: not JSON ({error.msg}); the file is one array of objects.") from error
        except RecursionError:
            raise InputError(f"{path}:{line}: not JSON (nested too deeply).") from None
        yield line, value
        position = _skip_space(text, position)
        separator = text[position : position + 1]
        if separator not in (",", "]"):
            at = line + text.count("\n", counted, position)
            found = repr(separator) if separator else "the end of the file"
            raise InputError(f"{path}:{at}: not JSON (',' or ']' expected, found {found}).")
        position += separator == ","
    if text[position + 1 :].strip():
        raise InputError(f"{path}:{line}: there is text after the array's closing bracket.")


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
