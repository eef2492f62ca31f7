"""BFCL's aggregate scores, from how many answers of each category are correct."""

import collections
from collections.abc import Mapping, Sequence

from jaxfc.bfcl.categories import IRRELEVANCE, LIVE_AST, NON_LIVE_AST, NOT_EVALUATED, RELEVANCE

Results = Mapping[str, tuple[int, int]]
"""Category -> (answers that are correct, entries). A category that was not run is absent, or (0, its entries)."""


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
