"""Judged answers -> the result files that the official `bfcl evaluate` scores."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfc.bfcl.categories import RELEVANCE
from jaxfc.command import InputError
from jaxfc.evaluate import PROMPT_TOO_LONG, Outcome
from jaxfc.files import write_atomically
from jaxfc.outputs import lines


def check_name(name: str):
    """InputError where a model of that name cannot have result files, as BFCL maps `/` and `_` onto each other."""
    if not name or "_" in name or name.startswith(("/", ".")):
        raise InputError(f"{name!r} is no name of a model in bfcl-eval's registry, such as Qwen/Qwen3-0.6B.")


def write_results(outcomes: Iterable[Outcome], folder: Path, name: str):
    """Write `result/<name>/<group>/BFCL_v4_<category>_result.json` into a folder, which then is a BFCL project's root.

    What is written is the part of a completion that was judged, so that it is scored alike whatever the model's handler
    does with a chain of thought. An example that has no completion, as its prompt was too long, is given an answer that
    is wrong in its category.

    Args:
        outcomes: of BFCL's examples, one each.
        folder: `BFCL_PROJECT_ROOT` of the official command.
        name: of the model in bfcl-eval's registry, one that is prompted and keeps the dots of names.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for outcome in outcomes:
        result = outcome.answer
        if outcome.reason == PROMPT_TOO_LONG:
            result = "" if outcome.kind in RELEVANCE else "prompt_too_long()"
        rows.setdefault(outcome.kind, []).append({"id": outcome.id, "result": result})
    write_result_rows(rows, folder, name)


def write_result_rows(rows: Mapping[str, Sequence[Mapping[str, Any]]], folder: Path, name: str):
    """Write the result file of each category, given its rows; see `write_results`."""
    check_name(name)
    for category, of_category in rows.items():
        group = next((group for group in ("live", "multi_turn") if category.startswith(f"{group}_")), "non_live")
        file = folder / "result" / name.replace("/", "_") / group / f"BFCL_v4_{category}_result.json"
        write_atomically(file, lines(of_category))
