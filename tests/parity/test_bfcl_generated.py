"""The matcher against BFCL's own checker, on answers that are made at random.

JAXFC_BFCL_PYTHON names an interpreter that has bfcl-eval 2026.3.23; JAXFC_BFCL_ROWS says how many answers a language
gets.
What is different on purpose is listed in jaxfc/bfcl/README.md.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import bfcl_rows
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxfc.bfcl.categories import CATEGORIES
from jaxfc.bfcl.files import accepted_of, accepted_without_answer, tools_of
from jaxfc.calls.match import judge_answer
from jaxfc.calls.parse import Syntax

ROWS = int(os.environ.get("JAXFC_BFCL_ROWS", "5000"))
BATCH = 50
LISTED = (Path(__file__).parents[2] / "jaxfc" / "bfcl" / "README.md").read_text(encoding="utf-8")
PYTHON = os.environ.get("JAXFC_BFCL_PYTHON") or (importlib.util.find_spec("bfcl_eval") and sys.executable)
OF_LANGUAGE = {
    language: [name for name in CATEGORIES if bfcl_rows.LANGUAGES.get(name, "python") == language]
    for language in ("python", "java", "javascript")
}


class Official:
    """BFCL's checker, in a process of its own."""

    def __init__(self):
        script = Path(__file__).with_name("official_bfcl.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen([PYTHON, "-W", "ignore", script], **pipes)

    def judge(self, entry, output):
        """The verdict, None where the official run would end, and the type of the error."""
        row = {"language": entry.language, "category": entry.category, "functions": entry.functions}
        print(json.dumps(row | {"answer": entry.answer, "output": output}), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        return answer["valid"], answer["error"]


@pytest.fixture(scope="module")
def official():
    if not PYTHON:
        pytest.skip("bfcl-eval is not installed here; JAXFC_BFCL_PYTHON names an interpreter that has it")
    checker = Official()
    yield checker
    checker.process.stdin.close()
    checker.process.wait()


@pytest.fixture(scope="module")
def data(official):
    """The folder of the package's data."""
    find = "import importlib.util as u; print(u.find_spec('bfcl_eval').submodule_search_locations[0])"
    return Path(subprocess.check_output([PYTHON, "-c", find], text=True).strip()) / "data"


TOOLS = {}
"""Entry's id -> its tools; to read them again for every answer would take most of the time."""


def ours(entry, output):
    if entry.id not in TOOLS:
        TOOLS[entry.id] = tools_of("entry", entry.functions, entry.language)
    tools = TOOLS[entry.id]
    accepted = accepted_of("entry", entry.answer) if entry.answer else accepted_without_answer(entry.category)
    return judge_answer(output, tools, accepted, Syntax.BFCL)


def check(official, entry, output):
    valid, error = official.judge(entry, output)
    verdict = ours(entry, output)
    # Where the official run ends, ours goes on: the answer is wrong.
    assert verdict.ok is bool(valid), f"{entry.id}: {output!r}\nofficial: {error}, ours: {verdict}"
    return valid


@pytest.mark.slow
@pytest.mark.parametrize("language", OF_LANGUAGE)
def test_answers_made_at_random_get_the_official_verdict(official, data, language):
    entries = {category: bfcl_rows.read_entries(data, category) for category in OF_LANGUAGE[language]}
    verdicts = Counter()

    @settings(max_examples=ROWS // BATCH, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**64 - 1))
    def compare(seed):
        rng = Random(seed)
        for _ in range(BATCH):
            entry = rng.choice(entries[rng.choice(OF_LANGUAGE[language])])
            output = bfcl_rows.output(entry, rng)
            if language != "python" or bfcl_rows.is_harmless(output):
                verdicts[check(official, entry, output)] += 1

    compare()
    assert min(verdicts[True], verdicts[False]) > ROWS / 20, verdicts


def entry_of(category, properties, accepted):
    parameters = {"type": "dict", "properties": properties, "required": []}
    doc = {"name": "f", "description": "", "parameters": parameters}
    return bfcl_rows.Entry(category, category, [doc], [{"f": accepted}] if accepted else [])


NUMBERS = {"x": {"type": "float"}, "n": {"type": "integer"}}
PYTHON_ENTRY = entry_of("simple_python", NUMBERS, {"x": [1.0, ""], "n": [3, ""]})
NO_CALL = entry_of("irrelevance", NUMBERS, None)
LAYERS = f"{'(' * 300}3{')' * 300}"
JAVA_ENTRY = entry_of(
    "simple_java",
    {"n": {"type": "integer"}, "a": {"type": "any"}, "q": {"type": "Queue"}},
    {"n": [3, ""], "a": [LAYERS, ""], "q": [[], ""]},
)
SCRIPT_ENTRY = entry_of(
    "simple_javascript",
    {"n": {"type": "integer"}, "t": {"type": "array", "items": {"type": "array"}}},
    {"n": [3, ""], "t": [[[1]], ""]},
)
RIGHT, CALLED, LONG = (True, ""), (False, "relevance"), f"f(n=3); // {'x' * 2048}"
DIFFERENCES = [
    ("an integer too large for a float", PYTHON_ENTRY, f"f(x={'9' * 400})", (None, "raised: OverflowError"), "type"),
    ("operators over more than literals", PYTHON_ENTRY, "f(n=len('ab') + 1)", RIGHT, "parse: operator"),
    ("operators that make too much", PYTHON_ENTRY, "f(n=2**20000 * 0 + 3)", RIGHT, "parse: too large"),
    ("more than 100,000 characters", PYTHON_ENTRY, f"f(n=3{' ' * 100_000})", RIGHT, "parse: too long"),
    ("the same, where no call is right", NO_CALL, f"f(n=3{' ' * 100_000})", CALLED, "ok"),
    ("more than 1,000 calls, where none is right", NO_CALL, f"[{'f(), ' * 1001}]", CALLED, "ok"),
    ("Java: more than 2,048 characters", JAVA_ENTRY, LONG, RIGHT, "parse: too long"),
    ("Java: more than 200 levels", JAVA_ENTRY, f"f(a={LAYERS});", RIGHT, "parse: too deep"),
    (
        "Java: a type without a conversion",
        JAVA_ENTRY,
        "f(q=new Queue(), n=3)",
        (None, "raised: NotImplementedError"),
        "type: conversion",
    ),
    ("JavaScript: more than 2,048 characters", SCRIPT_ENTRY, LONG, RIGHT, "parse: too long"),
    (
        "JavaScript: a table with a lone value at its end",
        SCRIPT_ENTRY,
        f"f(t=[{'[1], ' * 40}2])",
        (None, "hangs"),
        "value: list",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "entry", "output", "theirs", "reason"), DIFFERENCES, ids=[row[0] for row in DIFFERENCES]
)
def test_the_differences_to_the_official_checker_are_those_that_are_listed(
    official, name, entry, output, theirs, reason
):
    assert official.judge(entry, output) == theirs
    assert ours(entry, output).reason == reason
    assert name in LISTED
