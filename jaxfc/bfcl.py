"""The Berkeley Function-Calling Leaderboard, single turn: its files, its aggregate scores, its verdict on an output."""

import collections
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxfc.calls.dialects import SchemaError
from jaxfc.calls.match import ANY_CALL, judge_answer
from jaxfc.calls.parse import Syntax
from jaxfc.calls.schema import AcceptedCall, Tool, accepted_from_bfcl, tool_from_json
from jaxfc.command import InputError
from jaxfc.data.example import Example
from jaxfc.data.sources import read_values
from jaxfc.files import write_atomically

NON_LIVE_AST = ("simple_python", "multiple", "parallel", "parallel_multiple")
LIVE_AST = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
IRRELEVANCE = ("irrelevance", "live_irrelevance")
RELEVANCE = ("live_relevance",)

CATEGORIES = (*NON_LIVE_AST, "irrelevance", *LIVE_AST, "live_irrelevance", "live_relevance")
"""The categories that are evaluated, in the order of BFCL's tables."""
NOT_EVALUATED = ("simple_java", "simple_javascript")
"""Single-turn categories whose answers are Java and JavaScript, which are not parsed."""
LANGUAGES = ("python", "java", "javascript")

Results = Mapping[str, tuple[int, int]]
"""Category -> (answers that are correct, entries). A category that was not run is absent, or (0, its entries)."""


# Files


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
    questions = list(_rows(_find_file(folder, category)))
    if category in IRRELEVANCE + RELEVANCE:
        return [_example(where, row, category, _accepted_without_answer(category)) for where, row in questions]
    answer_file = _find_file(folder / "possible_answer", category)
    answers = list(_rows(answer_file))
    if len(answers) != len(questions):
        raise InputError(f"{answer_file}: {len(answers)} answers to the {len(questions)} questions of {category}.")
    examples = []
    for (where, question), (answer_where, answer) in zip(questions, answers, strict=True):
        if answer.get("id") != question.get("id"):
            raise InputError(f"{answer_where}: answers {answer.get('id')!r}, but {where} asks {question.get('id')!r}.")
        accepted = _accepted(answer_where, answer.get("ground_truth"))
        examples.append(_example(where, question, category, accepted))
    return examples


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file, each with `file:line`."""
    for line, row in read_values(path):
        if not isinstance(row, dict):
            raise InputError(f"{path}:{line}: each line holds one JSON object; found {json.dumps(row)[:60]}")
        yield f"{path}:{line}", row


def _find_file(folder: Path, category: str) -> Path:
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
                tools=_tools(where, row.get("function")),
                accepted=accepted,
                source="bfcl",
                licence="Apache-2.0",
                kind=category,
            )
    raise InputError(f"{where}: question should be a list of one turn, a list of messages with role and content.")


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def _tools(where: str, docs: Any) -> tuple[Tool, ...]:
    if not isinstance(docs, list):
        raise InputError(f"{where}: the functions should be a list, not {type(docs).__name__}.")
    try:
        return tuple(tool_from_json(doc) for doc in docs)
    except SchemaError as error:
        raise InputError(f"{where}: {error}") from error


def _accepted(where: str, answer: Any) -> tuple[AcceptedCall, ...]:
    if not isinstance(answer, list) or not answer:
        raise InputError(f"{where}: the answer should be a list of calls, at least one; found {json.dumps(answer)}.")
    try:
        return tuple(accepted_from_bfcl(answer))
    except SchemaError as error:
        raise InputError(f"{where}: {error}") from error


def _accepted_without_answer(category: str) -> tuple[AcceptedCall, ...]:
    return ANY_CALL if category in RELEVANCE else ()


# Aggregate scores


def tally(outcomes: Sequence[tuple[str, bool]]) -> dict[str, tuple[int, int]]:
    """Count (category, correct) pairs into `Results`."""
    entries = collections.Counter(category for category, _ in outcomes)
    correct = collections.Counter(category for category, ok in outcomes if ok)
    return {category: (correct[category], count) for category, count in entries.items()}


def accuracy(results: Results, category: str) -> float:
    """correct / entries of one category; 0 where it was not run, as BFCL counts it."""
    correct, entries = results.get(category, (0, 0))
    return correct / entries if entries else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _entry_weighted(results: Results, categories: Sequence[str]) -> float:
    missing = [category for category in categories if category not in results]
    if missing:
        raise ValueError(f"no entries of {', '.join(missing)}, which weigh by their number: give (0, entries).")
    return sum(results[category][0] for category in categories) / sum(results[category][1] for category in categories)


def non_live_ast_official(results: Results) -> float:
    """BFCL's Non-Live AST accuracy (v2 to v4), where a category that was not run counts 0.

    mean(mean(simple_python, simple_java, simple_javascript), multiple, parallel, parallel_multiple)

    Without Java and JavaScript it is at most 1/12 + 3/4 = 0.8333.
    """
    simple = _mean([accuracy(results, category) for category in ("simple_python", *NOT_EVALUATED)])
    return _mean([simple, *(accuracy(results, category) for category in NON_LIVE_AST[1:])])


def non_live_ast_python(results: Results) -> float:
    """Ours, not BFCL's: Non-Live AST accuracy of Python alone.

    mean(simple_python, multiple, parallel, parallel_multiple)
    """
    return _mean([accuracy(results, category) for category in NON_LIVE_AST])


def live_v4(results: Results) -> float:
    """BFCL v4's Live accuracy: correct / entries over the four live AST categories together.

    (live_simple + live_multiple + live_parallel + live_parallel_multiple), each weighted by its entries

    Raises:
        ValueError: one of them is absent: its entries are then unknown.
    """
    return _entry_weighted(results, LIVE_AST)


def live_v3(results: Results) -> float:
    """BFCL v3's Live accuracy: correct / entries over six categories, the weights those of the data in use.

    (live_simple + live_multiple + live_parallel + live_parallel_multiple + live_irrelevance + live_relevance)

    Raises:
        ValueError: one of them is absent: its entries are then unknown.
    """
    return _entry_weighted(results, (*LIVE_AST, "live_irrelevance", *RELEVANCE))


def irrelevance_v4(results: Results) -> float:
    """BFCL v4's Irrelevance: mean(irrelevance, live_irrelevance)."""
    return _mean([accuracy(results, category) for category in IRRELEVANCE])


def aggregates(results: Results) -> dict[str, float]:
    """Every aggregate by name, each 0 to 1.

    `funrl_overall` is that of the paper's tables (arXiv:2508.05118): (Non-Live AST + Live v3) / 2. It is given by both
    forms of Non-Live AST: `_official` has Java and JavaScript as BFCL counts them, `_python` leaves them out.

    Raises:
        ValueError: a live category is absent.
    """
    official, python, live = non_live_ast_official(results), non_live_ast_python(results), live_v3(results)
    return {
        "non_live_ast_official": official,
        "non_live_ast_python": python,
        "live_v4": live_v4(results),
        "live_v3": live,
        "irrelevance_v4": irrelevance_v4(results),
        "relevance": accuracy(results, "live_relevance"),
        "funrl_overall_official": (official + live) / 2,
        "funrl_overall_python": (python + live) / 2,
    }


# Judging outputs


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
    judged = [_judge_row(where, row) for where, row in _rows(cases)]
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
    tools = _tools(where, row.get("functions"))
    verdict = judge_answer(row["output"], tools, _accepted_of_case(where, row), Syntax.BFCL)
    return language, {"id": row["id"], "ok": verdict.ok, "reason": verdict.reason}


def _accepted_of_case(where: str, row: Mapping[str, Any]) -> tuple[AcceptedCall, ...]:
    category = row.get("category")
    if category is None:
        category = next((name for name in IRRELEVANCE + RELEVANCE if row["id"].startswith(f"{name}_")), "")
    if category in IRRELEVANCE + RELEVANCE:
        return _accepted_without_answer(category)
    return _accepted(where, row.get("possible_answer"))
