"""BFCL's question and answer files -> examples."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfc.bfcl.categories import CATEGORIES, IRRELEVANCE, NOT_EVALUATED, RELEVANCE
from jaxfc.calls.dialects import SchemaError
from jaxfc.calls.match import ANY_CALL
from jaxfc.calls.schema import AcceptedCall, Tool, accepted_from_bfcl, tool_from_json
from jaxfc.command import InputError
from jaxfc.data.example import Example
from jaxfc.data.sources import read_values


def read_bfcl(folder: Path, categories: Sequence[str] = CATEGORIES) -> list[Example]:
    """Read the entries of BFCL's question and answer files, category after category.

    An example's `kind` is its category. An entry's own system message stays the first of its messages.

    Args:
        folder: holds `BFCL_v4_<category>.json` and `possible_answer/BFCL_v4_<category>.json`, plain or with `.gz`.
        categories: of `CATEGORIES`.

    Raises:
        InputError: a category that is not evaluated, a file that is missing, or a line that is not BFCL's.
    """
    for category in categories:
        if category in NOT_EVALUATED:
            raise InputError(f"BFCL category {category} is not evaluated: only Python calls are parsed.")
        if category not in CATEGORIES:
            raise InputError(f"unknown BFCL category {category}; one of: {', '.join(CATEGORIES)}.")
    return [example for category in categories for example in _read_category(folder, category)]


def _read_category(folder: Path, category: str) -> list[Example]:
    questions = list(rows_of(find_file(folder, category)))
    if category in IRRELEVANCE + RELEVANCE:
        return [_example(where, row, category, accepted_without_answer(category)) for where, row in questions]
    answer_file = find_file(folder / "possible_answer", category)
    answers = list(rows_of(answer_file))
    if len(answers) != len(questions):
        raise InputError(f"{answer_file}: {len(answers)} answers to the {len(questions)} questions of {category}.")
    examples = []
    for (where, question), (answer_where, answer) in zip(questions, answers, strict=True):
        if answer.get("id") != question.get("id"):
            raise InputError(f"{answer_where}: answers {answer.get('id')!r}, but {where} asks {question.get('id')!r}.")
        accepted = accepted_of(answer_where, answer.get("ground_truth"))
        examples.append(_example(where, question, category, accepted))
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


def _example(where: str, row: Mapping[str, Any], category: str, accepted: tuple[AcceptedCall, ...]) -> Example:
    if not isinstance(row.get("id"), str):
        raise InputError(f"{where}: id is {row.get('id')!r}; it should be text.")
    match row.get("question"):
        case [[_, *_] as messages] if all(_is_message(message) for message in messages):
            return Example(
                id=row["id"],
                messages=tuple(messages),
                tools=tools_of(where, row.get("function")),
                accepted=accepted,
                source="bfcl",
                licence="Apache-2.0",
                kind=category,
            )
    raise InputError(f"{where}: question should be a list of one turn, a list of messages with role and content.")


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def tools_of(where: str, docs: Any) -> tuple[Tool, ...]:
    """Read function docs; `where` is `file:line`, for the InputError that is raised where they are none."""
    if not isinstance(docs, list):
        raise InputError(f"{where}: the functions should be a list, not {type(docs).__name__}.")
    try:
        return tuple(tool_from_json(doc) for doc in docs)
    except SchemaError as error:
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
