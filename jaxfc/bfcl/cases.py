"""BFCL's verdict on outputs that stand in a file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfc.bfcl.categories import IRRELEVANCE, RELEVANCE
from jaxfc.bfcl.files import accepted_of, accepted_without_answer, rows_of, tools_of
from jaxfc.calls.languages import LANGUAGES
from jaxfc.calls.match import judge_answer
from jaxfc.calls.parse import Syntax
from jaxfc.calls.schema import AcceptedCall
from jaxfc.command import InputError
from jaxfc.files import write_atomically


def judge_cases(cases: Path) -> list[dict[str, Any]]:
    """Judge every output of a file by BFCL's rules: `id`, `ok` and `reason` of each, in order.

    Args:
        cases: JSON lines, plain or gzip: `id`, `language`, `functions`, `possible_answer`, `output`, and `category`
            where the id does not begin with it.

    Raises:
        InputError: a row that cannot be judged.
    """
    return [_judge_row(where, row) for where, row in rows_of(cases)]


def write_verdicts(verdicts: Sequence[Mapping[str, Any]], path: Path):
    """Write the rows as JSON lines."""
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in verdicts))


def _judge_row(where: str, row: Mapping[str, Any]) -> dict[str, Any]:
    for key in ("id", "language", "output"):
        if not isinstance(row.get(key), str):
            raise InputError(f"{where}: {key} is {json.dumps(row.get(key))}; it should be text.")
    language = row["language"]
    if language != "python" and language not in LANGUAGES:
        raise InputError(f"{where}: language is {language!r}; one of: python, {', '.join(LANGUAGES)}.")
    tools = tools_of(where, row.get("functions"), language)
    verdict = judge_answer(row["output"], tools, _accepted_of_case(where, row), Syntax.BFCL)
    return {"id": row["id"], "ok": verdict.ok, "reason": verdict.reason}


def _accepted_of_case(where: str, row: Mapping[str, Any]) -> tuple[AcceptedCall, ...]:
    category = row.get("category")
    if category is None:
        category = next((name for name in IRRELEVANCE + RELEVANCE if row["id"].startswith(f"{name}_")), "")
    if category in IRRELEVANCE + RELEVANCE:
        return accepted_without_answer(category)
    return accepted_of(where, row.get("possible_answer"))
