"""The matcher against BFCL's own checker, on answers that are made at random.

JAXFC_BFCL_PYTHON names an interpreter that has bfcl-eval 2026.3.23; JAXFC_BFCL_ROWS, how many answers each language gets.
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
from jaxfc.calls.grammars import MAX_CHARACTERS
from jaxfc.calls.match import judge_answer
from jaxfc.calls.parse import Syntax

ROWS = int(os.environ.get("JAXFC_BFCL_ROWS", "5000"))
BATCH = 50
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


def ours(entry, output):
    tools = tools_of("entry", entry.functions, entry.language)
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


@pytest.mark.slow
def test_the_differences_to_the_official_checker_are_those_that_are_listed(official, data):
    """Each row of the table in jaxfc/bfcl/README.md."""
    python = bfcl_rows.read_entries(data, "simple_python")[0]
    assert python.functions[0]["name"] == "calculate_triangle_area"
    right = "calculate_triangle_area(base=10, height=5)"
    wrong_in_both = [
        (f"[{right[:-1]}, unit={'(' * 199}1{')' * 199})]", False),
    ]
    for output, valid in [(f"[{right}]", True), *wrong_in_both]:
        assert official.judge(python, output)[0] is valid and ours(python, output).ok is valid
    # Digits: the official run ends where an integer is too large for a float.
    doubles = next(
        entry
        for entry in bfcl_rows.read_entries(data, "simple_python")
        if any(schema["type"] == "float" for schema in entry.functions[0]["parameters"]["properties"].values())
    )
    name, schemas = doubles.functions[0]["name"], doubles.functions[0]["parameters"]["properties"]
    given = ", ".join(f"{key}={'9' * 400 if schema['type'] == 'float' else 1}" for key, schema in schemas.items())
    assert official.judge(doubles, f"{name}({given})") == (None, "raised: OverflowError")
    assert not ours(doubles, f"{name}({given})").ok
    # Size and depth of Java and JavaScript.
    for category, quote in (("simple_java", '"'), ("simple_javascript", "'")):
        entry = bfcl_rows.read_entries(data, category)[0]
        text = bfcl_rows.output(entry, Random(0))
        long = f"{text.strip('[]')}; // {'x' * MAX_CHARACTERS}"
        assert ours(entry, long).reason == "parse: too long", quote
