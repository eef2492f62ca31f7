"""Rows with one question and its answers: xLAM's own form, the common one, and BFCL's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxfc.calls.schema import SchemaError, accepted_from_bfcl, calls_from_accepted, tool_from_json
from jaxfc.command import InputError
from jaxfc.data.sources.reading import read_values
from jaxfc.data.sources.rows import Place, RawRow, licence_of, parsed, row_id

XLAM_SOURCE = "xlam60k"
XLAM_LICENCE = "CC-BY-4.0"
BFCL_SOURCE = "bfcl"
BFCL_LICENCE = "Apache-2.0"
GROUND_TRUTH = "ground_truth"


def read_common(row: dict[str, Any], place: Place) -> Iterator[RawRow]:
    """xLAM's row, `{id, query, answers, tools}` with a number as id and JSON as text, or one of the common form,
    `{id, source, licence, query | messages, tools, answers[, thought]}`."""
    key = row.get("id")
    is_xlam = "source" not in row and type(key) is int and isinstance(row["answers"], str)
    yield RawRow(
        where=place.short,
        id=f"{XLAM_SOURCE}-{key:05d}" if is_xlam else row_id(row, place),
        source=XLAM_SOURCE if is_xlam else str(row.get("source", "")),
        licence=licence_of(row) or (XLAM_LICENCE if is_xlam else ""),
        messages=row["messages"] if "messages" in row else [{"role": "user", "content": row["query"]}],
        tools=parsed(row["tools"]),
        answers=parsed(row["answers"]),
        thought=row["thought"] if isinstance(row.get("thought"), str) else "",
    )


def read_question(row: dict[str, Any], place: Place) -> Iterator[RawRow]:
    """BFCL's question of one turn, its answer beside it as `ground_truth`.

    Raises:
        InputError: the answer is not there, or there are several turns.
    """
    question, answer = row["question"], row.get(GROUND_TRUTH)
    if answer is None:
        raise InputError(f"{place}: BFCL's question {row.get('id')} has no answer ({GROUND_TRUTH}) to learn from.")
    if isinstance(question, list) and len(question) > 1 and isinstance(question[0], list):
        raise InputError(f"{place}: BFCL's question {row.get('id')} has {len(question)} turns; one is read.")
    try:
        tools = [tool_from_json(tool) for tool in row["function"]]
        calls = calls_from_accepted(accepted_from_bfcl(answer), tools)
        answers = [{"name": call.name, "arguments": dict(call.arguments)} for call in calls]
    except (SchemaError, TypeError):
        answers = answer
    yield RawRow(
        where=place.short,
        id=row_id(row, place),
        source=str(row.get("source") or BFCL_SOURCE),
        licence=licence_of(row) or BFCL_LICENCE,
        messages=question[0] if isinstance(question, list) and question else question,
        tools=row["function"],
        answers=answers,
        accepted=answer,
    )


def with_answers(path: Path, values: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """The rows of a file, and where they are BFCL's questions, with the answers that stand in a file of their own.

    That has the same name in the folder `possible_answer`. Questions of irrelevance have no call as answer.

    Raises:
        InputError: an answer is missing, or is that to another question.
    """
    answers: Iterator[tuple[int, Any]] | None = None
    for line, row in values:
        if isinstance(row, dict) and "question" in row and "function" in row and GROUND_TRUTH not in row:
            if "irrelevance" in path.name:
                row = row | {GROUND_TRUTH: []}
            elif (path.parent / "possible_answer" / path.name).is_file():
                answers = answers or read_values(path.parent / "possible_answer" / path.name)
                row = row | {GROUND_TRUTH: _answer_to(row, answers, path)}
        yield line, row


def _answer_to(row: dict[str, Any], answers: Iterator[tuple[int, Any]], path: Path) -> Any:
    line, answer = next(answers, (0, None))
    if not isinstance(answer, dict) or answer.get("id") != row.get("id") or GROUND_TRUTH not in answer:
        found = answer.get("id") if isinstance(answer, dict) else "nothing"
        raise InputError(
            f"{path.parent / 'possible_answer' / path.name}:{line}: the answer to {row.get('id')} was expected, found "
            f"{found}; question and answer files have the same entries in the same order."
        )
    return answer[GROUND_TRUTH]
