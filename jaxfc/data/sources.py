"""Files of function-calling rows, in xLAM's own form or the common one, as a stream of raw rows."""

import dataclasses
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxfc.command import InputError

XLAM_SOURCE = "xlam60k"
XLAM_LICENCE = "CC-BY-4.0"


@dataclasses.dataclass(frozen=True, slots=True)
class RawRow:
    """One row of a file, in one shape but with its content as found; whether that is any good, `validate` says."""

    where: str
    """File and line, for messages."""
    id: str
    source: str
    licence: str
    """SPDX expression; empty when the row does not say."""
    messages: Any
    """The conversation; a bare query is one user message."""
    tools: Any
    """What JSON text held, or the text itself where it is not JSON."""
    answers: Any
    """As for `tools`."""
    thought: str = ""
    repairs: tuple[str, ...] = ()
    """What was mended so far, by the names in `repair.REPAIRS`."""


def read_rows(path: Path) -> Iterator[RawRow]:
    """Read a file of rows: JSON Lines or one JSON array, plain or gzipped, the form of each row found from the row.

    xLAM's own form is `{id, query, answers, tools}` with a number as id and JSON as text; the common form is
    `{id, source, licence, query | messages, tools, answers[, thought]}`.

    Raises:
        InputError: the file cannot be read, a line is broken, or a row has neither form; it names file and line.
    """
    count = 0
    for line, row in read_values(path):
        count += 1
        yield _raw_row(row, path, line)
    if not count:
        raise InputError(f"{path}: holds no rows; a row is a JSON object with query or messages, tools and answers.")


def _raw_row(row: Any, path: Path, line: int) -> RawRow:
    where = f"{path.name}:{line}"
    if not isinstance(row, dict):
        raise InputError(f"{path}:{line}: a row is a JSON object; this one is {_kind(row)}.")
    missing = [key for key in ("tools", "answers") if key not in row]
    if "query" not in row and "messages" not in row:
        missing.insert(0, "query (or messages)")
    if missing:
        found = ", ".join(list(row)[:8]) or "no keys"
        raise InputError(f"{path}:{line}: the row lacks {', '.join(missing)}; found {found}.")
    key = row.get("id", line)
    is_xlam = "source" not in row and isinstance(key, int) and isinstance(row["answers"], str)
    if is_xlam:
        key = f"{XLAM_SOURCE}-{key:05d}"
    elif not isinstance(key, str):
        key = f"{path.name.split('.')[0]}-{key}"
    return RawRow(
        where=where,
        id=key,
        source=XLAM_SOURCE if is_xlam else str(row.get("source", "")),
        licence=str(row.get("licence", row.get("license", XLAM_LICENCE if is_xlam else ""))),
        messages=row["messages"] if "messages" in row else [{"role": "user", "content": row["query"]}],
        tools=_parsed(row["tools"]),
        answers=_parsed(row["answers"]),
        thought=row["thought"] if isinstance(row.get("thought"), str) else "",
    )


def _parsed(value: Any) -> Any:
    """What a JSON text holds; anything else, and a text that is not JSON, as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


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


def _kind(value: Any) -> str:
    names = {list: "an array", str: "text", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
