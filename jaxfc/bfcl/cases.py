"""BFCL's verdict on outputs that stand in a file."""

import collections
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxfc.bfcl.categories import IRRELEVANCE, RELEVANCE
from jaxfc.bfcl.files import accepted_of, accepted_without_answer, rows_of, tools_of
from jaxfc.calls.match import judge_answer
from jaxfc.calls.parse import Syntax
from jaxfc.calls.schema import AcceptedCall
from jaxfc.command import InputError
from jaxfc.files import write_atomically

LANGUAGES = ("python", "java", "javascript")


class Verdicts(NamedTuple):
    """What became of a file of cases."""

    rows: list[dict[str, Any]]
    """`id`, `ok` and `reason` of each case, in order; `ok` is None where the language is not checked."""
    not_checked: dict[str, int]
    """Language -> cases that were not checked because of it."""


def judge_cases(cases: Path) -> Verdicts:
    """Judge every output of a file by BFCL's rules.

    Args:
        cases: JSON lines, plain or gzip: `id`, `language`, `functions`, `possible_answer`, `output`, and `category`
            where the id does not begin with it.

    Raises:
        InputError: a row that cannot be judged.
    """
    judged = [_judge_row(where, row) for where, row in rows_of(cases)]
    not_checked = collections.Counter(language for language, row in judged if row["ok"] is None)
    return Verdicts([row for _, row in judged], dict(not_checked))


def write_verdicts(verdicts: Verdicts, path: Path):
    """Write the rows as JSON lines."""
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in verdicts.rows))


def _judge_row(where: str, row: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The row's language, and its verdict."""
    for key in ("id", "language", "output"):
        if not isinstance(row.get(key), str):
            raise InputError(f"{where}: {key} is {json.dumps(row.get(key))}; it should be text.")
    language = row["language"]
    if language not in LANGUAGES:
        raise InputError(f"{where}: language is {language!r}; one of: {', '.join(LANGUAGES)}.")
    if language != "python":
        return language, {"id": row["id"], "ok": None, "reason": f"language: {language} is not checked"}
    tools = tools_of(where, row.get("functions"))
    verdict = judge_answer(row["output"], tools, _accepted_of_case(where, row), Syntax.BFCL)
    return language, {"id": row["id"], "ok": verdict.ok, "reason": verdict.reason}


def _accepted_of_case(where: str, row: Mapping[str, Any]) -> tuple[AcceptedCall, ...]:
    category = row.get("category")
    if category is None:
        category = next((name for name in IRRELEVANCE + RELEVANCE if row["id"].startswith(f"{name}_")), "")
    if category in IRRELEVANCE + RELEVANCE:
        return accepted_without_answer(category)
    return accepted_of(where, row.get("possible_answer"))
