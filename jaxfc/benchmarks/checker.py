"""Decoding and checking answers to BFCL's questions, beside BFCL's own checker."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxfc.benchmarks import official
from jaxfc.benchmarks.answers import Answer, make_answers
from jaxfc.benchmarks.measure import Lap, alternate, figures, report
from jaxfc.benchmarks.settings import CheckerBenchmark, check_peers
from jaxfc.bfcl.categories import PYTHON_AST
from jaxfc.bfcl.files import read_bfcl
from jaxfc.calls.match import judge_answer
from jaxfc.calls.parse import Syntax
from jaxfc.calls.schema import accepted_to_bfcl, tool_to_bfcl
from jaxfc.command import InputError


def benchmark_checker(settings: CheckerBenchmark, peers: Sequence[str] = ()) -> dict[str, Any]:
    """Judge the same rows with each checker in turn; they must find the same in every row."""
    check_peers(settings, peers)
    answers = make_answers(read_bfcl(Path(settings.bfcl), PYTHON_AST), settings.rows, settings.seed)
    right = judge_all(answers)

    def judge(_: int):
        judge_all(answers)

    options: dict[str, Any] = {}
    if not peers:
        laps = alternate({"jaxfc": judge}, settings.runs)
    else:
        with official_checker(settings.peer_python or sys.executable, answers, right) as (versions, run):
            options = {"bfcl-eval": {"options": versions}}
            laps = alternate({"jaxfc": judge, "bfcl-eval": run}, settings.runs)
    results = {name: figures(each, rows=len(answers)) | options.get(name, {}) for name, each in laps.items()}
    for found in results.values():
        found["rows_per_cpu_s"] = len(answers) / found["cpu_s"]["median"]
    characters = sum(len(answer.text) for answer in answers) / len(answers)
    return report(settings, results, characters_per_row=characters, right=sum(right) / len(right))


def judge_all(answers: Sequence[Answer]) -> list[bool]:
    """Whether each answer is right."""
    return [judge_answer(text, row.tools, row.accepted, Syntax.BFCL).ok for row, text in answers]


@contextmanager
def official_checker(
    python: str, answers: Sequence[Answer], right: Sequence[bool]
) -> Iterator[tuple[dict[str, str], Callable[[int], Lap]]]:
    """BFCL's own checker in a process of its own: its versions, and `run(number)`, which judges all answers.

    Args:
        python: interpreter that has the package.
        answers: to judge.
        right: our verdicts; a run that finds another raises RuntimeError.

    Raises:
        InputError: the interpreter is not there, or has no such package.
    """
    rows = [
        {
            "text": text,
            "category": example.kind,
            "functions": [tool_to_bfcl(tool) for tool in example.tools],
            "answer": accepted_to_bfcl(example.accepted),
        }
        for example, text in answers
    ]
    try:
        process = subprocess.Popen(
            [python, official.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
    except OSError as error:
        raise InputError(f"peer_python: {python} cannot be run ({error.strerror}).") from error
    with process:
        try:
            versions = _asked(process, json.dumps(rows), python)

            def run(number: int) -> Lap:
                found = _asked(process, str(number), python)
                if found["right"] != list(right):
                    wrong = [n for n, (a, b) in enumerate(zip(found["right"], right, strict=True)) if a != b]
                    raise RuntimeError(f"of {len(right)} verdicts {len(wrong)} differ: {answers[wrong[0]].text!r}")
                return Lap(found["wall"], found["cpu"])

            yield versions, run
        finally:
            process.kill()


def _asked(process: subprocess.Popen, line: str, python: str) -> dict[str, Any]:
    try:
        print(line, file=process.stdin, flush=True)
        reply = process.stdout.readline()
    except BrokenPipeError:
        reply = ""
    if not reply:
        raise InputError(f"peer_python: with {python}, bfcl-eval does not run; its message is above.")
    return json.loads(reply)
