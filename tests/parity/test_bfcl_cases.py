"""The matcher against the verdicts of BFCL's own checker (bfcl-eval 2026.3.23)."""

import json
from pathlib import Path

import pytest

from jaxfc.bfcl.files import tools_of
from jaxfc.calls.match import ANY_CALL, judge_answer
from jaxfc.calls.parse import Syntax
from jaxfc.calls.schema import accepted_from_bfcl

CASES = Path(__file__).parents[3] / "shared" / "data" / "bfcl_cases.jsonl"


def judge(category, docs, answer, output, language="python"):
    tools = tools_of("row", docs, language)
    accepted = () if "irrelevance" in category else ANY_CALL if "relevance" in category else accepted_from_bfcl(answer)
    return judge_answer(output, tools, accepted, Syntax.BFCL)


@pytest.mark.parametrize(("language", "count"), [("python", 330), ("java", 40), ("javascript", 36)])
def test_recorded_cases_get_the_official_verdict(language, count):
    if not CASES.is_file():
        pytest.skip(f"the recorded cases are not there: {CASES}")
    rows = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["language"] == language]
    verdicts = {
        row["id"]: judge(row["category"], row["functions"], row["possible_answer"], row["output"], language)
        for row in rows
    }
    wrong = [(row["id"], verdicts[row["id"]]) for row in rows if verdicts[row["id"]].ok != row["official_valid"]]
    assert not wrong and len(verdicts) == count
    assert {row["official_valid"] for row in rows} == {True, False}


DOC = {
    "name": "math.plan",
    "description": "Plans.",
    "parameters": {
        "type": "dict",
        "properties": {
            "s": {"type": "string", "description": ""},
            "i": {"type": "integer", "description": ""},
            "f": {"type": "float", "description": ""},
            "b": {"type": "boolean", "description": ""},
            "l": {"type": "array", "items": {"type": "string"}, "description": ""},
            "n": {"type": "array", "items": {"type": "float"}, "description": ""},
            "m": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}, "description": ""},
            "t": {"type": "tuple", "items": {"type": "float"}, "description": ""},
            "d": {"type": "dict", "properties": {}, "description": ""},
            "r": {"type": "array", "items": {"type": "dict"}, "description": ""},
            "a": {"type": "any", "description": ""},
            "q": {"type": "integer", "description": ""},
        },
        "required": ["q"],
    },
}

# One argument: its name, its accepted values, what is written for it, and whether the official checker takes that.
ARGUMENTS = [
    ("s", ["New York, NY"], "'new york ny'", True),
    ("s", ["New York"], "'New  York.'", True),
    ("s", ["New York"], "'New\tYork'", False),
    ("s", ["it's"], "'it\"s'", True),
    ("s", ["É"], "'é'", True),
    ("s", ["5"], "5", False),
    ("s", [5], "5", True),
    ("s", [5], "'5'", False),
    ("s", ["a", ""], "' -. '", True),
    ("s", ["a", ""], "None", False),
    ("s", ["", None], "None", True),
    ("s", ["true"], "true", True),
    ("s", ["f(1, 2)"], "f(1,2)", True),
    ("s", ["..."], "...", True),
    ("i", [5], "5", True),
    ("i", [5], "5.0", False),
    ("i", [5.0], "5", True),
    ("i", [5.0, 6], "5.0", True),
    ("i", [1], "True", False),
    ("i", [-5], "+5", True),
    ("i", [5], "+5", False),
    ("i", [7], "3 + 4", True),
    ("i", [3, ""], "''", False),
    ("f", [5.0], "5", True),
    ("f", [5], "5.0", True),
    ("f", [2.5], "'2.5'", False),
    ("f", [1.0], "True", False),
    ("f", [5.0], "9" * 400, False),
    ("b", [True], "True", True),
    ("b", [True], "1", False),
    ("b", [True], "true", False),
    ("l", [["a", "B"]], "['A', 'b.']", True),
    ("l", [["a", "b"]], "['b', 'a']", False),
    ("l", [["a"]], "('a',)", False),
    ("l", [["a"], ""], "[]", True),
    ("l", [["a"]], "[]", False),
    ("l", [["a"]], "[1]", False),
    ("l", [["a"], ""], "[1]", False),
    ("n", [[1.5, 2.5]], "[1.5, 2.5]", True),
    ("n", [[1, 2.5]], "[1, 2.5]", True),
    ("n", [[2.5, 1]], "[2.5, 1]", False),
    ("n", [[1.0, 2.0]], "[1, 2]", False),
    ("n", [[1.0, 2.0], ""], "[1, 2]", True),
    ("m", [[[1, 2], [3]]], "[[1, 2], [3]]", True),
    ("m", [[[1, 2]]], "[(1, 2)]", False),
    ("m", [[["a"]]], "[['A']]", False),
    ("t", [[1.0, 2.0]], "(1.0, 2.0)", True),
    ("t", [[1.0, 2.0]], "[1.0, 2.0]", True),
    ("d", [{"k": ["V", ""], "j": [1]}], "{'k': 'v.', 'j': 1}", True),
    ("d", [{"k": ["V", ""], "j": [1]}], "{'j': True}", True),
    ("d", [{"k": ["V", ""], "j": [1]}], "{'k': 'v'}", False),
    ("d", [{"k": ["v"]}], "{'k': 'v', 'x': 1}", False),
    ("d", [{"k": ["v"]}, {"k": ["w"], "x": [1]}], "{'k': 'w', 'x': 1}", True),
    ("d", [{"k": [["a"]]}], "{'k': ['A']}", False),
    ("d", [{"k": ["v"]}, ""], "{}", False),
    ("d", [{"k": ["v", ""]}], "{}", True),
    ("r", [[{"k": ["v"]}, {"k": [1]}]], "[{'k': 'V'}, {'k': 1}]", True),
    ("r", [[{"k": ["v"]}, {"k": [1]}]], "[{'k': 1}, {'k': 'v'}]", False),
    ("r", [[{"k": ["v"]}], ""], "[]", True),
    ("r", [[{"k": ["v"]}]], "[{'k': 'v'}, {'k': 'v'}]", False),
    ("a", ["x"], "'X'", True),
    ("a", [3], "3", True),
    ("a", [{"k": 1}], "{'k': 1}", True),
    ("a", [["x"]], "['X']", False),
    ("a", [None], "None", True),
]


@pytest.mark.parametrize(("name", "values", "written", "valid"), ARGUMENTS)
def test_single_arguments_get_the_official_verdict(name, values, written, valid):
    answer = [{"math.plan": {"q": [1], name: values}}]
    assert judge("simple_python", [DOC], answer, f"[math.plan(q=1, {name}={written})]").ok is valid


ONE_OR_TWO = [{"math.plan": {"q": [1, 2]}}, {"math.plan": {"q": [1]}}]
ANSWERS = [
    ("simple_python", [{"math.plan": {"q": [1]}}], "math.plan(q=1)", True),
    ("simple_python", [{"math.plan": {"q": [1]}}], "math_plan(q=1)", False),
    ("simple_python", [{"math.plan": {"q": [1]}}], "x[0].math.plan(q=1)", True),
    ("simple_python", [{"math.plan": {"q": [1]}}], "math.plan(1)", False),
    ("simple_python", [{"math.plan": {"q": [1]}}], "math.plan(9, q=1)", True),
    ("simple_python", [{"math.plan": {"q": [1]}}], "math.plan(q=2, q=1)", True),
    ("simple_python", [{"math.plan": {"q": [1]}}], "math.plan(q=1, **x)", False),
    ("simple_python", [{"math.plan": {"q": [1]}}], "math.plan(q=1), math.plan(q=1)", False),
    ("simple_python", [{"math.plan": {"q": [1]}}], "", False),
    ("simple_python", [{"math.plan": {"q": [1, ""]}}], "math.plan()", False),
    ("simple_python", [{"math.plan": {"q": [1], "i": [2]}}], "math.plan(q=1)", False),
    ("simple_python", [{"math.plan": {"q": [1], "i": [2, ""]}}], "math.plan(q=1)", True),
    ("simple_python", [{"math.plan": {"q": [1]}}], "math.plan(q=1, i=2)", False),
    ("simple_python", [{"math.plan": {"q": []}}], "math.plan(q=1)", False),
    ("parallel", ONE_OR_TWO, "math.plan(q=2), math.plan(q=1)", True),
    ("parallel", ONE_OR_TWO, "math.plan(q=1), math.plan(q=2)", False),
    ("parallel", ONE_OR_TWO, "math.plan(q=1)", False),
    ("irrelevance", None, "I cannot do that.", True),
    ("irrelevance", None, "[]", True),
    ("irrelevance", None, "[math.plan(q=1]", True),
    ("irrelevance", None, "other()", False),
    ("live_relevance", None, "other()", True),
    ("live_relevance", None, "[]", False),
    ("live_relevance", None, "I cannot do that.", False),
]


@pytest.mark.parametrize(("category", "answer", "output", "valid"), ANSWERS)
def test_whole_answers_get_the_official_verdict(category, answer, output, valid):
    assert judge(category, [DOC], answer, output).ok is valid
