"""The scores of whole evaluations against those of the official command, from the same answers.

JAXFC_BFCL_COMMAND names the `bfcl` of an environment that has bfcl-eval 2026.3.23 with its clients.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import bfcl_rows
import pytest

from jaxfc.bfcl.categories import CATEGORIES
from jaxfc.bfcl.files import read_bfcl
from jaxfc.bfcl.results import write_results
from jaxfc.bfcl.scores import aggregates
from jaxfc.calls.parse import Syntax
from jaxfc.data.prompts import AS_WRITTEN
from jaxfc.evaluate import evaluate_into, read_outcomes

COMMAND = os.environ.get("JAXFC_BFCL_COMMAND")
NAME = "Qwen/Qwen3-0.6B"
COLUMNS = {
    "non_live_ast": ("data_non_live.csv", "AST Summary"),
    "live_v4": ("data_live.csv", "Live Overall Acc"),
    "irrelevance_v4": ("data_overall.csv", "Irrelevance Detection"),
    "relevance": ("data_overall.csv", "Relevance Detection"),
    "overall_v4": ("data_overall.csv", "Overall Acc"),
}
"""Aggregate -> where the official tables have it, in percent."""


BREAKS_THE_OFFICIAL_RUN = ("\\ud", "{()", "9" * 300)
"""Lone surrogates and tuples as keys end it when it writes scores; integers too large for a float, when it checks."""


def answers(folder, seed):
    """Entry's id -> an answer that the official run can be given."""
    found = {}
    for category in CATEGORIES:
        for entry in bfcl_rows.read_entries(folder, category):
            rng = Random(f"{seed} {entry.id}")
            texts = (bfcl_rows.output(entry, rng) for _ in range(100))
            found[entry.id] = next(text for text in texts if is_fit(text))
    return found


def is_fit(text):
    return bfcl_rows.is_harmless(text) and not any(part in text for part in BREAKS_THE_OFFICIAL_RUN)


def official_scores(root):
    """Category -> accuracy, and the tables."""
    environment = os.environ | {"BFCL_PROJECT_ROOT": str(root), "OPENAI_API_KEY": "none"}
    command = [COMMAND, "evaluate", "--model", NAME, "--test-category", "single_turn"]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    files = (root / "score" / NAME.replace("/", "_")).rglob("BFCL_v4_*_score.json")
    heads = {path.stem[8:-6]: json.loads(path.read_text().splitlines()[0]) for path in files}
    tables = {path.name: next(csv.DictReader(path.read_text().splitlines())) for path in (root / "score").glob("*.csv")}
    return {category: (head["correct_count"], head["total_count"]) for category, head in heads.items()}, tables


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_answers_have_the_same_scores(tmp_path, seed):
    if not COMMAND:
        pytest.skip("JAXFC_BFCL_COMMAND does not name the official command")
    find = "import importlib.util as u; print(u.find_spec('bfcl_eval').submodule_search_locations[0])"
    python = Path(COMMAND).with_name("python")
    data = Path(subprocess.check_output([python, "-c", find], text=True).strip()) / "data"
    written, examples = answers(data, seed), read_bfcl(data)
    evaluate_into(
        tmp_path,
        examples,
        lambda chosen, number: [[f"<think>x</think>{written[example.id]}"] for example in chosen],
        AS_WRITTEN.answer_of,
        Syntax.BFCL,
        settings={},
        batch_size=1000,
    )
    outcomes = read_outcomes(tmp_path)
    write_results(outcomes, tmp_path, NAME)
    ours = {
        category: (
            sum(outcome.ok for outcome in outcomes if outcome.kind == category),
            sum(outcome.kind == category for outcome in outcomes),
        )
        for category in CATEGORIES
    }
    official, tables = official_scores(tmp_path)
    for category in CATEGORIES:
        print(f"{category:24} ours {ours[category]}  official {official[category]}", file=sys.stderr)
    assert ours == official
    for name, (table, column) in COLUMNS.items():
        print(
            f"{name:24} ours {100 * aggregates(ours)[name].value:.2f}%  official {tables[table][column]}",
            file=sys.stderr,
        )
        assert f"{100 * aggregates(ours)[name].value:.2f}%" == tables[table][column], name
