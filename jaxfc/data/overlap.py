"""Contamination: what a training example has in common with the rows of evaluation files."""

import dataclasses
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxfc.calls.schema import SchemaError, Tool, tool_from_json
from jaxfc.command import InputError
from jaxfc.data.digests import Digests, digest_of
from jaxfc.data.example import Example
from jaxfc.data.repair import Findings, identifiers
from jaxfc.data.repeats import words_of
from jaxfc.data.sources.forms import raw_rows
from jaxfc.data.sources.reading import read_values
from jaxfc.data.sources.rows import Place, RawRow
from jaxfc.data.validate import SAME_QUERY, SAME_RUN, SAME_TOOL, Dropped, Kept

RUN = 10
"""Words in a row that two questions have in common by more than chance."""
SAME_NAME = "overlap: same name of a tool"
KINDS = {
    SAME_QUERY: "asks the same: the words of the user's messages are equal",
    SAME_RUN: f"{RUN} words of a user's message follow each other there too",
    SAME_TOOL: "offers a tool of the same name with parameters of the same names",
    SAME_NAME: "offers a tool of the same name with other parameters: reported, never a reason to drop",
}
"""What is looked for, and what it means. Words are compared in lower case, without punctuation and accents."""


MOST_ROWS = 100
"""Words in more evaluation rows than this are counted for the first of these only; likewise tools and files."""
_ORDER = {kind: place for place, kind in enumerate(KINDS)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overlap:
    """Which evaluation data training must not have seen, and what is dropped for it."""

    files: tuple[str, ...]
    """Evaluation rows: files of any form that input may have, or folders of them (BFCL's for instance)."""
    drop_query: bool = True
    """Drop rows that ask the same as an evaluation row; false only reports them."""
    drop_run: bool = True
    """Drop rows that share ten words in a row with an evaluation row's question; false only reports them."""
    drop_tool: bool = False
    """Drop rows that offer a tool of an evaluation row (name and names of the parameters); false only reports them."""

    def __post_init__(self):
        if not self.files:
            raise ValueError("overlap.files is empty; name the evaluation files, or leave overlap null.")

    def reasons(self) -> tuple[str, ...]:
        """The kinds for which rows are dropped."""
        wanted = ((self.drop_query, SAME_QUERY), (self.drop_run, SAME_RUN), (self.drop_tool, SAME_TOOL))
        return tuple(kind for is_wanted, kind in wanted if is_wanted)


@dataclasses.dataclass(frozen=True, slots=True)
class Hit:
    """What an example has in common with the rows of one evaluation file."""

    kind: str
    """A key of `KINDS`."""
    file: int
    """Number of the file in `EvaluationRows.files`."""
    rows: tuple[int, ...]
    """Numbers of the evaluation rows; none are told for tools."""
    common: tuple[str, ...]
    """The words, or the names of the tools."""
    shown: str
    """File, row and words, for messages."""


class _Occurrences:
    """Digest -> the numbers that it was noted with, up to `MOST_ROWS`; 9 bytes for each, beside the digests."""

    def __init__(self):
        self._last = Digests()
        self._numbers, self._before, self._depth = array("I", [0]), array("I", [0]), array("B", [0])

    def add(self, digest: bytes, number: int):
        """Note a digest with a number that is no smaller than those before."""
        before = self._last.get(digest)
        if before and (self._numbers[before] == number or self._depth[before] == MOST_ROWS):
            return
        self._numbers.append(number)
        self._before.append(before)
        self._depth.append(self._depth[before] + 1)
        self._last.put(digest, len(self._numbers) - 1)

    def __getitem__(self, digest: bytes) -> Iterator[int]:
        place = self._last.get(digest)
        while place:
            yield self._numbers[place]
            place = self._before[place]


class EvaluationRows:
    """What training examples are held against: the words and tools of evaluation rows, as digests."""

    def __init__(self):
        self.files: list[str] = []
        self.counts: list[int] = []
        """Rows of each file."""
        self.ids: list[str] = []
        """Of each row."""
        self._file_of = array("I")
        self._found = {kind: _Occurrences() for kind in KINDS}

    def add_file(self, name: str, rows: Iterable[RawRow]):
        """Note the rows of a file."""
        self.files.append(name)
        self.counts.append(0)
        file = len(self.files) - 1
        for row in rows:
            number = len(self.ids)
            self.ids.append(row.id)
            self._file_of.append(file)
            self.counts[file] += 1
            tools = map(readable_tool, row.tools if isinstance(row.tools, list) else ())
            for kind, digest, _ in _traces(row.messages, [tool for tool in tools if tool]):
                self._found[kind].add(digest, file if kind in (SAME_TOOL, SAME_NAME) else number)

    def hits(self, example: Example) -> list[Hit]:
        """What the example has in common with each file, by kind in the order of `KINDS`."""
        rows: dict[tuple[str, int], set[int]] = {}
        common: dict[tuple[str, int], dict[str, None]] = {}
        for kind, digest, words in _traces(example.messages, example.tools):
            is_tool = kind in (SAME_TOOL, SAME_NAME)
            for number in self._found[kind][digest]:
                file = number if is_tool else self._file_of[number]
                if kind == SAME_NAME and words in common.get((SAME_TOOL, file), ()):
                    continue
                rows.setdefault((kind, file), set()).update(() if is_tool else (number,))
                common.setdefault((kind, file), {})[words] = None
        found = []
        for kind, file in sorted(rows, key=lambda each: (_ORDER[each[0]], each[1])):
            numbers, words = tuple(sorted(rows[kind, file])), tuple(common[kind, file])
            row = f": {self.ids[numbers[0]]}" if numbers else ""
            found.append(Hit(kind, file, numbers, words, f"{self.files[file]}{row}: {words[0]}"))
        return found


def _traces(messages: Any, tools: Iterable[Tool]) -> Iterator[tuple[str, bytes, str]]:
    """(kind, digest, what it is the digest of) of all that is compared; a tool itself before its name alone."""
    asked = list(_questions(messages))
    if any(asked):
        whole = " ".join(word for words in asked for word in words)
        yield SAME_QUERY, digest_of(whole), whole
    for words in asked:
        for start in range(len(words) - RUN + 1):
            run = " ".join(words[start : start + RUN])
            yield SAME_RUN, digest_of(run), run
    for tool in tools:
        yield SAME_TOOL, digest_of(" ".join([tool.name, *sorted(tool.properties)])), tool.name
        yield SAME_NAME, digest_of(tool.name), tool.name


def _questions(messages: Any) -> Iterator[list[str]]:
    """The words of each message of the user."""
    for message in messages if isinstance(messages, list | tuple) else ():
        if isinstance(message, Mapping) and message.get("role") == "user" and isinstance(message.get("content"), str):
            yield words_of(message["content"])


def readable_tool(document: Any) -> Tool | None:
    """A tool under the names that a kept example would have; None where it is none."""
    try:
        tool = tool_from_json(document)
    except SchemaError:
        return None
    names = identifiers([tool.name], dotted=True, findings=Findings())
    parameters = identifiers(tool.properties, dotted=False, findings=Findings())
    properties = {parameters[key] or key: schema for key, schema in tool.properties.items()}
    return dataclasses.replace(tool, name=names[tool.name] or tool.name, properties=properties)


def read_evaluation(overlap: Overlap) -> EvaluationRows:
    """The rows of the evaluation files.

    Raises:
        InputError: a file cannot be read or holds no rows, or a folder holds no such file.
    """
    found = EvaluationRows()
    for path in map(Path, overlap.files):
        for file in _files_of(path):
            found.add_file(file.name, _rows_of(file))
    return found


def read_evaluation_rows(path: Path) -> Iterator[RawRow]:
    """The rows of an evaluation file or of a folder of them; BFCL's need no answers here, and may have several turns.

    Raises:
        InputError: a file cannot be read or holds no rows, or a folder holds no such file.
    """
    for file in _files_of(path):
        yield from _rows_of(file)


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    inside = sorted(each for each in path.iterdir() if each.name.removesuffix(".gz").endswith((".json", ".jsonl")))
    if not inside:
        raise InputError(f"{path}: holds no .json or .jsonl file, plain or .gz; overlap.files names such.")
    return inside


def _rows_of(path: Path) -> Iterator[RawRow]:
    count = 0
    for line, row in read_values(path):
        if isinstance(row, dict) and isinstance(row.get("question"), list):
            turns = [turn if isinstance(turn, list) else [turn] for turn in row["question"]]
            question = [[message for turn in turns for message in turn]]
            row = {"function": [], **row, "question": question, "ground_truth": []}
        for raw in raw_rows(row, Place(str(path), line)):
            count += 1
            yield raw
    if not count:
        raise InputError(f"{path}: holds no rows to hold training data against.")


def without_overlap(
    results: Iterable[Kept | Dropped],
    evaluation: EvaluationRows,
    overlap: Overlap,
    note: Callable[[Kept, list[Hit], str], None],
) -> Iterator[Kept | Dropped]:
    """The same results in the same order, with kept examples dropped that evaluation rows give away.

    Args:
        results: of the stages before; what they dropped is passed on.
        evaluation: to hold them against.
        overlap: for what they are dropped.
        note: called with each row that has hits: the row, the hits, and the reason for which it is dropped, or nothing.
    """
    reasons = overlap.reasons()
    for result in results:
        hits = evaluation.hits(result.example) if isinstance(result, Kept) else []
        if hits:
            kept, result = result, after_overlap(result, hits, reasons)
            note(kept, hits, result.reason if isinstance(result, Dropped) else "")
        yield result


def after_overlap(kept: Kept, hits: Iterable[Hit], reasons: Collection[str]) -> Kept | Dropped:
    """The row, dropped for the first of its hits whose kind is a reason to drop it, if there is one."""
    hit = next((hit for hit in hits if hit.kind in reasons), None)
    return Dropped(kept.example.id, kept.example.source, hit.kind, hit.shown, kept.where) if hit else kept
