"""BFCL's question and answer files -> examples."""

import importlib.util
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfc.bfcl.categories import CATEGORIES, IRRELEVANCE, LANGUAGE_OF, RELEVANCE
from jaxfc.calls.dialects import SchemaError
from jaxfc.calls.grammars import MissingGrammarError
from jaxfc.calls.languages import LANGUAGES, foreign_tool
from jaxfc.calls.match import ANY_CALL
from jaxfc.calls.schema import AcceptedCall, Tool, accepted_from_bfcl, tool_from_json
from jaxfc.command import InputError
from jaxfc.data.example import Example
from jaxfc.data.sources.reading import read_values

PACKAGE = "bfcl-eval"
"""Stands for the folder of that package's data, where it is installed beside jaxfc."""

Messages = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]], str], Sequence[Mapping[str, Any]]]
"""(an entry's messages, its function docs, its category) -> the messages of its example."""


def folder_of(data: str, python: str | None = None) -> Path:
    """The folder with BFCL's files: `data` itself, or that of the installed package, which is not imported.

    Args:
        data: a folder, or `bfcl-eval`.
        python: the interpreter in whose environment the package is; None is this one.

    Raises:
        InputError: the package is meant, and not installed.
    """
    if data != PACKAGE:
        return Path(data)
    found = importlib.util.find_spec("bfcl_eval") if python is None else None
    if found is not None and found.submodule_search_locations:
        return Path(found.submodule_search_locations[0]) / "data"
    place = "" if python is None else _place_in(python)
    if not place:
        raise InputError(
            f"data is {PACKAGE}, which is not installed {'here' if python is None else f'where {python} is'}; give "
            "the folder with its BFCL_v4_<category>.json files, such as bfcl_eval/data of another environment."
        )
    return Path(place) / "data"


def _place_in(python: str) -> str:
    """Where another interpreter has the package; empty where it has none."""
    script = (
        "import importlib.util as u; s = u.find_spec('bfcl_eval'); print(s.submodule_search_locations[0] if s else '')"
    )
    try:
        return subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"{python}: no Python interpreter that can be asked where {PACKAGE} is ({error}).") from error


def own_messages(messages: Sequence[Mapping[str, Any]], docs: Any, category: str) -> Sequence[Mapping[str, Any]]:
    """An entry's messages as they are: `config.Prompt` says how its tools are shown."""
    return messages


def read_bfcl(
    folder: Path, categories: Sequence[str] = CATEGORIES, messages_of: Messages = own_messages
) -> list[Example]:
    """Read the entries of BFCL's question and answer files, category after category.

    An example's `kind` is its category. An entry's own system message stays the first of its messages.

    Args:
        folder: holds `BFCL_v4_<category>.json` and `possible_answer/BFCL_v4_<category>.json`, plain or with `.gz`.
        categories: of `CATEGORIES`.
        messages_of: makes an example's messages.

    Raises:
        InputError: an unknown category, one whose language cannot be parsed for want of its grammar, a file that is
            missing, or a line that is not BFCL's.
    """
    for category in categories:
        if category not in CATEGORIES:
            raise InputError(f"unknown BFCL category {category}; one of: {', '.join(CATEGORIES)}.")
    return [example for category in categories for example in _read_category(folder, category, messages_of)]


def _read_category(folder: Path, category: str, messages_of: Messages) -> list[Example]:
    questions = list(rows_of(find_file(folder, category)))
    if category in IRRELEVANCE + RELEVANCE:
        accepted = accepted_without_answer(category)
        return [_example(where, row, category, accepted, messages_of) for where, row in questions]
    answer_file = find_file(folder / "possible_answer", category)
    answers = list(rows_of(answer_file))
    if len(answers) != len(questions):
        raise InputError(f"{answer_file}: {len(answers)} answers to the {len(questions)} questions of {category}.")
    examples = []
    for (where, question), (answer_where, answer) in zip(questions, answers, strict=True):
        if answer.get("id") != question.get("id"):
            raise InputError(f"{answer_where}: answers {answer.get('id')!r}, but {where} asks {question.get('id')!r}.")
        accepted = accepted_of(answer_where, answer.get("ground_truth"))
        examples.append(_example(where, question, category, accepted, messages_of))
    return examples


def rows_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with `file:line`; InputError where a line is none."""
    for line, row in read_values(path):
        if not isinstance(row, dict):
            raise InputError(f"{path}:{line}: each line holds one JSON object; found {json.dumps(row)[:60]}")
        yield f"{path}:{line}", row


def find_file(folder: Path, category: str) -> Path:
    """The file of a category, plain or gzip; InputError where there is none."""
    names = (f"BFCL_v4_{category}.json", f"BFCL_v4_{category}.json.gz")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: neither {names[0]} nor {names[1]} is there; the folder should be BFCL v4's data.")


def _example(
    where: str, row: Mapping[str, Any], category: str, accepted: tuple[AcceptedCall, ...], messages_of: Messages
) -> Example:
    if not isinstance(row.get("id"), str):
        raise InputError(f"{where}: id is {row.get('id')!r}; it should be text.")
    match row.get("question"):
        case [[_, *_] as messages] if all(_is_message(message) for message in messages):
            tools = tools_of(where, row.get("function"), LANGUAGE_OF.get(category, "python"))
            return Example(
                id=row["id"],
                messages=tuple(messages_of(messages, row["function"], category)),
                tools=tools,
                accepted=accepted,
                source="bfcl",
                licence="Apache-2.0",
                kind=category,
            )
    raise InputError(f"{where}: question should be a list of one turn, a list of messages with role and content.")


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def tools_of(where: str, docs: Any, language: str = "python") -> tuple[Tool, ...]:
    """Read function docs of one language.

    Raises:
        InputError: they are none, at `where` (`file:line`); or the language's grammar is not installed.
    """
    if not isinstance(docs, list):
        raise InputError(f"{where}: the functions should be a list, not {type(docs).__name__}.")
    try:
        return tuple(foreign_tool(doc, language) if language in LANGUAGES else tool_from_json(doc) for doc in docs)
    except (SchemaError, MissingGrammarError) as error:
        raise InputError(f"{where}: {error}") from error


def accepted_of(where: str, answer: Any) -> tuple[AcceptedCall, ...]:
    """Read an answer; `where` is `file:line`, for the InputError that is raised where it is none."""
    if not isinstance(answer, list) or not answer:
        raise InputError(f"{where}: the answer should be a list of calls, at least one; found {json.dumps(answer)}.")
    try:
        return tuple(accepted_from_bfcl(answer))
    except SchemaError as error:
        raise InputError(f"{where}: {error}") from error


def accepted_without_answer(category: str) -> tuple[AcceptedCall, ...]:
    """What is accepted in a category without an answer file: any call, or none."""
    return ANY_CALL if category in RELEVANCE else ()
