"""BFCL's aggregate scores, from how many answers of each category are correct."""

import collections
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxfc.bfcl.categories import (
    IRRELEVANCE,
    LIVE_AST,
    LIVE_ENTRIES,
    MEMORY,
    MULTI_TURN,
    NON_LIVE_AST,
    RELEVANCE,
    SIMPLE,
    WEB_SEARCH,
)
from jaxfc.command import InputError

LIVE_V3 = (*LIVE_AST, "live_irrelevance", *RELEVANCE)
"""The categories of v3's Live accuracy."""

Results = Mapping[str, tuple[int | float, int]]
"""Category -> (entries that are right, entries). A category that was not run is absent, or (0, its entries)."""


class Aggregate(NamedTuple):
    """A score over several categories."""

    value: float
    """0 to 1."""
    not_run: tuple[str, ...]
    """The categories that it counts as 0 because they were not run."""


def tally(outcomes: Sequence[tuple[str, bool]]) -> dict[str, tuple[int, int]]:
    """Count (category, correct) pairs into `Results`."""
    entries = collections.Counter(category for category, _ in outcomes)
    correct = collections.Counter(category for category, ok in outcomes if ok)
    return {category: (correct[category], count) for category, count in entries.items()}


def read_results(folder: Path, model: str) -> dict[str, tuple[int | float, int]]:
    """What another evaluation of a model found, as it left it in `scores.json`.

    Args:
        folder: its output.
        model: the digest of the model.

    Raises:
        InputError: there is none, or it is of another model.
    """
    path = folder / "scores.json"
    if not path.is_file():
        raise InputError(f"{path}: not there; give the output folder of an evaluation that is done.")
    try:
        document = json.loads(path.read_bytes())
        found, kinds = document["settings"]["model"], document["kinds"]
        results = {category: (rate["correct"], rate["entries"]) for category, rate in kinds.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the scores of an evaluation ({type(error).__name__}: {error}).") from error
    if found != model:
        raise InputError(f"{path}: the scores of another model; its digest is {found}, that of this one {model}.")
    return results


def accuracy(results: Results, category: str) -> float:
    """correct / entries of one category; 0 where it was not run, as BFCL counts it."""
    correct, entries = results.get(category, (0, 0))
    return correct / entries if entries else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_of(results: Results, categories: Sequence[str]) -> float:
    return _mean([accuracy(results, category) for category in categories])


def _entry_weighted(results: Results, categories: Sequence[str]) -> float:
    counts = [results.get(category, (0, LIVE_ENTRIES[category])) for category in categories]
    return sum(correct for correct, _ in counts) / sum(entries for _, entries in counts)


def non_live_ast(results: Results) -> float:
    """BFCL's Non-Live AST accuracy (v2 to v4).

    mean(mean(simple_python, simple_java, simple_javascript), multiple, parallel, parallel_multiple)
    """
    others = [accuracy(results, category) for category in NON_LIVE_AST if category not in SIMPLE]
    return _mean([_mean_of(results, SIMPLE), *others])


def non_live_v3(results: Results) -> float:
    """BFCL v3's Non-Live overall since April 2025: irrelevance is a fifth term of Non-Live AST's mean."""
    return (4 * non_live_ast(results) + accuracy(results, "irrelevance")) / 5


def live_v4(results: Results) -> float:
    """BFCL v4's Live accuracy: correct / entries over the four live AST categories together.

    (live_simple + live_multiple + live_parallel + live_parallel_multiple), each weighted by its entries
    """
    return _entry_weighted(results, LIVE_AST)


def live_v3(results: Results) -> float:
    """BFCL v3's Live accuracy: correct / entries over six categories, the weights those of the data in use.

    (live_simple + live_multiple + live_parallel + live_parallel_multiple + live_irrelevance + live_relevance)
    """
    return _entry_weighted(results, LIVE_V3)


def irrelevance_v4(results: Results) -> float:
    """BFCL v4's Irrelevance: mean(irrelevance, live_irrelevance)."""
    return _mean_of(results, IRRELEVANCE)


def relevance(results: Results) -> float:
    """BFCL's Relevance, which is in no overall score of v4."""
    return _mean_of(results, RELEVANCE)


def multi_turn(results: Results) -> float:
    """BFCL's Multi-Turn: the mean of base, missing function, missing parameter and long context."""
    return _mean_of(results, MULTI_TURN)


def agentic(results: Results) -> float:
    """BFCL v4's Agentic: mean(mean of 2 web searches, mean of 3 memories)."""
    return _mean([_mean_of(results, WEB_SEARCH), _mean_of(results, MEMORY)])


def overall_v4(results: Results) -> float:
    """BFCL v4's Overall: 10% Non-Live AST, 10% Live, 10% Irrelevance, 30% Multi-Turn, 40% Agentic."""
    single = non_live_ast(results) + live_v4(results) + irrelevance_v4(results)
    return 0.1 * single + 0.3 * multi_turn(results) + 0.4 * agentic(results)


def overall_v3(results: Results) -> float:
    """BFCL v3's Overall: mean(Live, Non-Live, Multi-Turn)."""
    return _mean([live_v3(results), non_live_v3(results), multi_turn(results)])


def funrl_overall(results: Results) -> float:
    """The Overall of FunRL's tables (arXiv:2508.05118): (Non-Live AST + Live v3) / 2."""
    return _mean([non_live_ast(results), live_v3(results)])


AGGREGATES: Mapping[str, tuple[Callable[[Results], float], Sequence[str]]] = {
    "non_live_ast": (non_live_ast, NON_LIVE_AST),
    "live_v4": (live_v4, LIVE_AST),
    "live_v3": (live_v3, LIVE_V3),
    "irrelevance_v4": (irrelevance_v4, IRRELEVANCE),
    "relevance": (relevance, RELEVANCE),
    "multi_turn": (multi_turn, MULTI_TURN),
    "agentic": (agentic, (*WEB_SEARCH, *MEMORY)),
    "overall_v4": (overall_v4, (*NON_LIVE_AST, *LIVE_AST, *IRRELEVANCE, *MULTI_TURN, *WEB_SEARCH, *MEMORY)),
    "overall_v3": (overall_v3, (*NON_LIVE_AST, "irrelevance", *LIVE_V3, *MULTI_TURN)),
    "funrl_overall": (funrl_overall, (*NON_LIVE_AST, *LIVE_V3)),
}
"""Name -> the score, and the categories in it."""


def aggregates(results: Results) -> dict[str, Aggregate]:
    """Every aggregate of which at least one category was run, by name, and which of its categories were not run."""
    found = {}
    for name, (score, categories) in AGGREGATES.items():
        not_run = tuple(category for category in categories if category not in results)
        if len(not_run) < len(categories):
            found[name] = Aggregate(score(results), not_run)
    return found
