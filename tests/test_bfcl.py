import gzip
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from jaxfc.bfcl import cases, files, scores
from jaxfc.bfcl.categories import CATEGORIES, LIVE_ENTRIES
from jaxfc.bfcl.prompt import bfcl_messages, system_of_no_functions
from jaxfc.bfcl.results import write_results
from jaxfc.calls import grammars
from jaxfc.calls.languages import shown
from jaxfc.calls.match import ANY_CALL, judge_answer
from jaxfc.calls.parse import Syntax
from jaxfc.calls.schema import signature
from jaxfc.command import InputError
from jaxfc.config import Prompt
from jaxfc.data.example import example_from_json, example_to_json
from jaxfc.data.prompts import prompt_messages
from jaxfc.evaluate import PROMPT_TOO_LONG, Outcome

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the BFCL files are not part of the repository")

WEATHER = {
    "name": "weather.get",
    "description": "Weather of a city.",
    "parameters": {"type": "dict", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ANSWER = [{"weather.get": {"city": ["Rome", "Roma"]}}]


def question(name, *messages):
    messages = messages or ({"role": "user", "content": "Weather in Rome?"},)
    return {"id": name, "question": [list(messages)], "function": [WEATHER]}


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)


def write_category(folder, category, questions, answers=None):
    write_lines(folder / f"BFCL_v4_{category}.json", questions)
    if answers is not None:
        write_lines(folder / "possible_answer" / f"BFCL_v4_{category}.json", answers)


# Files


def test_an_entry_becomes_an_example_with_its_own_system_message_first(tmp_path):
    messages = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Rome?"}
    write_category(
        tmp_path,
        "live_simple",
        [question("live_simple_0", *messages)],
        [{"id": "live_simple_0", "ground_truth": ANSWER}],
    )
    [example] = files.read_bfcl(tmp_path, ["live_simple"])
    assert example.id == "live_simple_0" and example.kind == "live_simple"
    assert example.messages == messages
    assert [tool.name for tool in example.tools] == ["weather.get"]
    assert example.accepted[0].name == "weather.get"
    assert tuple(example.accepted[0].arguments["city"]) == ("Rome", "Roma")


def test_irrelevance_accepts_no_call_and_relevance_any(tmp_path):
    write_category(tmp_path, "irrelevance", [question("irrelevance_0")])
    write_category(tmp_path, "live_relevance", [question("live_relevance_0")])
    none, some = files.read_bfcl(tmp_path, ["irrelevance", "live_relevance"])
    assert none.accepted == () and some.accepted is ANY_CALL
    for text, called in [("[f(x=1)]", True), ("No function fits.", False), ("[]", False), ("", False)]:
        assert judge_answer(text, none.tools, none.accepted, Syntax.BFCL).ok is not called, text
        assert judge_answer(text, some.tools, some.accepted, Syntax.BFCL).ok is called, text


def test_gzip_and_plain_files_read_the_same(tmp_path):
    questions, answers = [question("multiple_0")], [{"id": "multiple_0", "ground_truth": ANSWER}]
    write_category(tmp_path / "plain", "multiple", questions, answers)
    write_lines(tmp_path / "packed" / "BFCL_v4_multiple.json.gz", questions)
    write_lines(tmp_path / "packed" / "possible_answer" / "BFCL_v4_multiple.json.gz", answers)
    assert files.read_bfcl(tmp_path / "plain", ["multiple"]) == files.read_bfcl(tmp_path / "packed", ["multiple"])


@pytest.mark.parametrize(
    ("questions", "answers", "message"),
    [
        ([question("a"), "{oops"], [], r"BFCL_v4_multiple\.json:2\b"),
        ([question("a"), question("b")], [{"id": "a", "ground_truth": ANSWER}], "1 answers to the 2 questions"),
        ([question("a")], [{"id": "b", "ground_truth": ANSWER}], r"possible_answer.*:1: answers 'b', but .* asks 'a'"),
        ([question("a")], [{"id": "a", "ground_truth": []}], r"possible_answer.*:1: .*at least one"),
        ([question("a")], [{"id": "a"}], r"possible_answer.*:1: .*found null"),
        ([question("a") | {"question": []}], [{"id": "a", "ground_truth": ANSWER}], r"multiple\.json:1: question"),
        ([question("a") | {"function": None}], [{"id": "a", "ground_truth": ANSWER}], r"multiple\.json:1: .*NoneType"),
        ([question("a") | {"function": [{}]}], [{"id": "a", "ground_truth": ANSWER}], r"multiple\.json:1"),
        ([question(7)], [{"id": 7, "ground_truth": ANSWER}], r"multiple\.json:1: id is 7"),
        (["[1]"], [], r"BFCL_v4_multiple\.json:1\b"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_with_its_line(tmp_path, questions, answers, message):
    write_category(tmp_path, "multiple", questions, answers)
    with pytest.raises(InputError, match=message):
        files.read_bfcl(tmp_path, ["multiple"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"neither BFCL_v4_parallel\.json nor BFCL_v4_parallel\.json\.gz"):
        files.read_bfcl(tmp_path, ["parallel"])
    write_category(tmp_path, "parallel", [question("a")])
    with pytest.raises(InputError, match="possible_answer: neither"):
        files.read_bfcl(tmp_path, ["parallel"])


def test_a_truncated_gzip_file_is_refused(tmp_path):
    path = tmp_path / "BFCL_v4_irrelevance.json.gz"
    write_lines(path, [question(f"irrelevance_{n}") for n in range(200)])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"BFCL_v4_irrelevance\.json\.gz"):
        files.read_bfcl(tmp_path, ["irrelevance"])


def test_an_unknown_category_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown BFCL category simpel; one of: simple_python"):
        files.read_bfcl(tmp_path, ["simpel"])


JAVA = {
    "name": "Maps.open",
    "description": "Opens a map.",
    "parameters": {
        "type": "dict",
        "properties": {
            "zoom": {"type": "long", "description": "How near."},
            "layers": {"type": "ArrayList", "description": "Which.", "items": {"type": "String"}},
            "more": {"type": "any", "description": "What else."},
        },
        "required": ["zoom"],
    },
}

JAVA_ANSWER = {"id": "simple_java_0", "ground_truth": [{"Maps.open": {"zoom": [5]}}]}


def test_java_functions_keep_their_types_and_are_shown_as_text(tmp_path):
    row = question("simple_java_0") | {"function": [JAVA]}
    write_category(tmp_path, "simple_java", [row], [JAVA_ANSWER])
    [example] = files.read_bfcl(tmp_path, ["simple_java"])
    [tool] = example.tools
    assert tool.language == "java" and tool.properties["layers"] == JAVA["parameters"]["properties"]["layers"]
    assert judge_answer("Maps.open(zoom=5L)", example.tools, example.accepted, Syntax.BFCL).ok
    assert judge_answer("Maps.open(zoom=5)", example.tools, example.accepted, Syntax.BFCL).reason == "type"
    assert example_from_json(example_to_json(example)) == example
    told = "This is Java ArrayList type parameter in string representation. The list elements are of type String; they"
    for prompt in (Prompt(), Prompt(tools="signatures")):
        system = prompt_messages(example, prompt)[0]["content"]
        assert (told in system) is (prompt.tools == "json")
        assert "HashMap" not in system and "long" not in signature(shown(tool))
    assert signature(shown(tool)) == "Maps.open(zoom: str, layers?: str, more?: str)"


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"zoom": {"type": "number"}}, r"Maps\.open\.zoom: the type is 'number'; java has byte"),
        ({"zoom": {"type": "Array"}}, r"Maps\.open\.zoom: the items of the Array have no type of java: None"),
        ({}, "requires .* not all among its parameters"),
        ([], "a java function should have a name"),
    ],
)
def test_functions_of_unknown_types_are_refused_with_their_line(tmp_path, properties, message):
    doc = JAVA | {"parameters": {"type": "dict", "properties": properties, "required": ["zoom"]}}
    row = question("simple_java_0") | {"function": [doc]}
    write_category(tmp_path, "simple_java", [row], [JAVA_ANSWER])
    with pytest.raises(InputError, match=rf"simple_java\.json:1: .*{message}"):
        files.read_bfcl(tmp_path, ["simple_java"])


def test_without_the_grammars_other_languages_are_refused_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(grammars.VERSIONS, "tree-sitter-java", "0.0.1")
    grammars.grammar_of.cache_clear()
    row = question("simple_java_0") | {"function": [JAVA]}
    write_category(tmp_path, "simple_java", [row], [JAVA_ANSWER])
    with pytest.raises(InputError, match=r"tree-sitter-java 0\.0\.1, but 0\.21\.0 .* pip install 'jaxfc\[bfcl\]'"):
        files.read_bfcl(tmp_path, ["simple_java"])
    grammars.grammar_of.cache_clear()


def test_the_versions_of_the_grammars_are_those_that_the_package_asks_for():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["bfcl"]
    assert extra == [f"{name}=={version}" for name, version in grammars.VERSIONS.items()]


def test_the_data_of_an_installed_package_is_found_without_importing_it(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="bfcl-eval, which is not installed here"):
        files.folder_of("bfcl-eval")
    (tmp_path / "bfcl_eval").mkdir()
    (tmp_path / "bfcl_eval" / "__init__.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)
    assert files.folder_of("bfcl-eval") == tmp_path / "bfcl_eval" / "data"
    assert files.folder_of("data/bfcl") == Path("data/bfcl")


@pytest.fixture(scope="module")
def asked_by_bfcl():
    """Every entry, with the messages of BFCL's client."""
    return files.read_bfcl(SHARED / "bfcl", messages_of=bfcl_messages)


@needs_shared
def test_the_v4_data_has_its_3641_entries(asked_by_bfcl):
    examples = asked_by_bfcl
    counts = {category: entries for category, (_, entries) in scores.tally([(e.kind, False) for e in examples]).items()}
    assert counts == {
        "simple_python": 400, "simple_java": 100, "simple_javascript": 50, "multiple": 200, "parallel": 200,
        "parallel_multiple": 200, "irrelevance": 240, "live_simple": 258, "live_multiple": 1053, "live_parallel": 16,
        "live_parallel_multiple": 24, "live_irrelevance": 884, "live_relevance": 16,
    }  # fmt: skip
    assert {category: counts[category] for category in LIVE_ENTRIES} == LIVE_ENTRIES
    assert len({example.id for example in examples}) == len(examples) == 3641
    # An entry's own system message follows the list of functions.
    assert sum(not example.messages[0]["content"].endswith("]\n") for example in examples) == 92


# BFCL's prompt


def test_the_stored_prompt_is_that_of_the_package():
    text = system_of_no_functions()
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "5dfc2aec2c5c5d5d9eec29b0020d0a7be1a70cccd74b62fbdcfcb5261d1ffb73"
    )


def test_functions_take_the_place_of_the_empty_list_and_an_entrys_own_system_message_follows():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Rome?"}]
    system, user = bfcl_messages(messages, [WEATHER], "live_simple")
    assert system["role"] == "system" and user == messages[1]
    docs = system["content"].partition("that you can invoke.\n")[2]
    assert docs.endswith("]\n\n\nBe brief.")
    [shown] = json.loads(docs.removesuffix("Be brief."))
    assert shown["description"] == "Weather of a city. Note that the provided function is in Python 3 syntax."
    assert shown["parameters"] == WEATHER["parameters"]
    assert bfcl_messages(messages[1:], [], "irrelevance")[0]["content"] == system_of_no_functions()


@needs_shared
@pytest.mark.parametrize("category", CATEGORIES)
def test_every_entry_is_asked_as_the_official_client_asks_it(asked_by_bfcl, category):
    golden = json.loads((ROOT / "tests" / "golden" / "bfcl_prompt.json").read_text())
    examples = [example for example in asked_by_bfcl if example.kind == category]
    lines = "".join(json.dumps([example.id, list(example.messages)]) + "\n" for example in examples)
    assert hashlib.sha256(lines.encode()).hexdigest() == golden[category]


# Aggregate scores

V3_COUNTS = {"live_simple": 258, "live_multiple": 1053, "live_parallel": 16, "live_parallel_multiple": 24,
             "live_irrelevance": 882, "live_relevance": 18}  # fmt: skip
COUNTS = {"simple_python": 400, "simple_java": 100, "simple_javascript": 50, "multiple": 200, "parallel": 200,
          "parallel_multiple": 200, "irrelevance": 240, **V3_COUNTS}  # fmt: skip
ALL_RIGHT = {category: (entries, entries) for category, entries in COUNTS.items()}
ALL_WRONG = {category: (0, entries) for category, entries in COUNTS.items()}


def one_right(category):
    return ALL_WRONG | {category: (1, COUNTS[category])}


@pytest.mark.parametrize(
    ("category", "weight"),
    [
        # 1/4 for simple, 1/3 of that for the language, 1/entries of that for the entry.
        ("simple_java", 1 / 1200),
        ("simple_javascript", 1 / 600),
        ("simple_python", 1 / 4800),
        ("multiple", 1 / 800),
        ("live_simple", 0),
    ],
)
def test_weight_of_one_entry_in_the_official_non_live_ast(category, weight):
    np.testing.assert_allclose(scores.non_live_ast(one_right(category)), weight)


def test_categories_not_run_count_zero_and_are_named():
    # simple = (0.9 + 0 + 0) / 3 = 0.3; (0.3 + 0.8 + 0.7 + 0.6) / 4 = 0.6.
    results = {
        "simple_python": (360, 400), "multiple": (160, 200), "parallel": (140, 200), "parallel_multiple": (120, 200),
    }  # fmt: skip
    aggregates = scores.aggregates(results)
    np.testing.assert_allclose(aggregates["non_live_ast"].value, 0.6)
    assert aggregates["non_live_ast"].not_run == ("simple_java", "simple_javascript")
    np.testing.assert_allclose(aggregates["overall_v4"].value, 0.06)
    assert "multi_turn_base" in aggregates["overall_v4"].not_run and "multiple" not in aggregates["overall_v4"].not_run
    # Of what was not run at all nothing is said.
    assert set(aggregates) == {"non_live_ast", "overall_v4", "overall_v3", "funrl_overall"}


def test_live_v4_weighs_four_categories_by_entries():
    # (200 + 800 + 8 + 12) / (258 + 1053 + 16 + 24) = 1020 / 1351; irrelevance and relevance have no part in it.
    results = ALL_RIGHT | {"live_simple": (200, 258), "live_multiple": (800, 1053), "live_parallel": (8, 16),
                           "live_parallel_multiple": (12, 24), "live_irrelevance": (0, 882)}  # fmt: skip
    np.testing.assert_allclose(scores.live_v4(results), 1020 / 1351)


def test_live_v3_weighs_six_categories_and_39_percent_of_it_is_irrelevance():
    assert sum(V3_COUNTS.values()) == 2251
    abstaining = ALL_WRONG | {"live_irrelevance": (882, 882)}
    np.testing.assert_allclose(scores.live_v3(abstaining), 882 / 2251)
    assert round(100 * scores.live_v3(abstaining)) == 39
    # v4's data moved two entries from relevance to irrelevance: the weights follow the data.
    drifted = abstaining | {"live_irrelevance": (884, 884), "live_relevance": (0, 16)}
    np.testing.assert_allclose(scores.live_v3(drifted), 884 / 2251)


def test_a_live_category_that_was_not_run_weighs_as_many_entries_as_the_v4_data_has():
    results = {"live_simple": (258, 258)}
    np.testing.assert_allclose(scores.live_v4(results), 258 / 1351)
    np.testing.assert_allclose(scores.live_v3(results), 258 / 2251)


def test_irrelevance_v4_is_the_mean_of_two_categories_not_of_their_entries():
    results = ALL_WRONG | {"irrelevance": (240, 240), "live_irrelevance": (441, 882)}
    np.testing.assert_allclose(scores.irrelevance_v4(results), 0.75)


def test_funrl_overall_is_the_mean_of_non_live_ast_and_live_v3():
    # simple = (0.96 + 0.75 + 0.86) / 3 = 0.856667; Non-Live = (0.856667 + 0.945 + 0.915 + 0.9) / 4 = 0.904167.
    # Live = 1838 / 2251 = 0.816526. Their mean is 0.860346 (the paper's row: (0.9040 + 0.8164) / 2 = 0.8602).
    results = {
        "simple_python": (384, 400), "simple_java": (75, 100), "simple_javascript": (43, 50), "multiple": (189, 200),
        "parallel": (183, 200), "parallel_multiple": (180, 200), "irrelevance": (200, 240), "live_simple": (200, 258),
        "live_multiple": (850, 1053), "live_parallel": (12, 16), "live_parallel_multiple": (16, 24),
        "live_irrelevance": (745, 882), "live_relevance": (15, 18),
    }  # fmt: skip
    np.testing.assert_allclose(scores.non_live_ast(results), 0.9041667, rtol=1e-6)
    np.testing.assert_allclose(scores.live_v3(results), 0.8165260, rtol=1e-6)
    np.testing.assert_allclose(scores.funrl_overall(results), 0.8603463, rtol=1e-6)
    np.testing.assert_allclose(scores.relevance(results), 15 / 18)


OTHERS = {
    "multi_turn_base": 200, "multi_turn_miss_func": 200, "multi_turn_miss_param": 200, "multi_turn_long_context": 200,
    "web_search_base": 100, "web_search_no_snippet": 100, "memory_kv": 155, "memory_vector": 155, "memory_rec_sum": 155,
}  # fmt: skip


def test_overall_scores_weigh_multi_turn_and_agentic_as_bfcl_does():
    results = ALL_WRONG | {category: (0, entries) for category, entries in OTHERS.items()}
    for category, v4, v3 in [
        # 30% of a quarter, and a third of a quarter; 40% of a half of a half; 40% of a half of a third.
        ("multi_turn_base", 0.3 / 4, 1 / 12),
        ("web_search_base", 0.4 / 4, 0),
        ("memory_kv", 0.4 / 6, 0),
        # 10% of a quarter; a third of a fifth.
        ("multiple", 0.1 / 4, 1 / 15),
        # 10% of a half; a third of a fifth.
        ("irrelevance", 0.1 / 2, 1 / 15),
        # 10% of a half; a third of its part of the entries.
        ("live_irrelevance", 0.1 / 2, 882 / 2251 / 3),
        ("live_relevance", 0, 18 / 2251 / 3),
    ]:
        entries = results[category][1]
        right = results | {category: (entries, entries)}
        np.testing.assert_allclose([scores.overall_v4(right), scores.overall_v3(right)], [v4, v3], err_msg=category)


def test_aggregates_of_perfect_and_of_hopeless_results():
    everything = {**COUNTS, **OTHERS}
    perfect = scores.aggregates({category: (entries, entries) for category, entries in everything.items()})
    hopeless = scores.aggregates({category: (0, entries) for category, entries in everything.items()})
    np.testing.assert_allclose([aggregate.value for aggregate in perfect.values()], 1)
    assert {aggregate.value for aggregate in hopeless.values()} == {0}
    assert {aggregate.not_run for aggregate in perfect.values()} == {()} and len(perfect) == 10


def test_tally_counts_correct_and_entries_by_category():
    assert scores.tally([("a", True), ("b", False), ("a", False)]) == {"a": (1, 2), "b": (0, 1)}


# Result files of the official command


def test_answers_are_left_where_the_official_command_looks_for_them(tmp_path):
    outcomes = [
        Outcome("multiple_0", "multiple", "<think>x</think>[f()]", "[f()]", True, "ok", ""),
        Outcome("multiple_1", "multiple", None, "", False, PROMPT_TOO_LONG, ""),
        Outcome("live_relevance_0-0-0", "live_relevance", None, "", False, PROMPT_TOO_LONG, ""),
        Outcome("irrelevance_0", "irrelevance", None, "", False, PROMPT_TOO_LONG, ""),
    ]
    write_results(outcomes, tmp_path, "Qwen/Qwen3-0.6B")
    folder = tmp_path / "result" / "Qwen_Qwen3-0.6B"
    files = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.json")}
    assert {name: [json.loads(line) for line in text.splitlines()] for name, text in files.items()} == {
        "non_live/BFCL_v4_multiple_result.json": [
            {"id": "multiple_0", "result": "[f()]"},
            {"id": "multiple_1", "result": "prompt_too_long()"},
        ],
        # Wrong in their categories as well: no call where one is due, a call where none is.
        "live/BFCL_v4_live_relevance_result.json": [{"id": "live_relevance_0-0-0", "result": ""}],
        "non_live/BFCL_v4_irrelevance_result.json": [{"id": "irrelevance_0", "result": "prompt_too_long()"}],
    }


@pytest.mark.parametrize("name", ["", "my_model", "../x", "/x"])
def test_a_name_that_the_official_registry_cannot_have_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="no name of a model"):
        write_results([], tmp_path, name)


# Judging outputs


def case(name="simple_python_0", **changed):
    return {"id": name, "language": "python", "functions": [WEATHER], "possible_answer": ANSWER,
            "output": '[weather.get(city="roma")]'} | changed  # fmt: skip


def judge(tmp_path, *rows):
    write_lines(tmp_path / "cases.jsonl", rows)
    return cases.judge_cases(tmp_path / "cases.jsonl")


@needs_shared
def test_every_case_gets_the_official_verdict():
    rows = [json.loads(line) for line in (SHARED / "bfcl_cases.jsonl").read_text().splitlines()]
    verdicts = cases.judge_cases(SHARED / "bfcl_cases.jsonl")
    assert [verdict["id"] for verdict in verdicts] == [row["id"] for row in rows]
    pairs = zip(rows, verdicts, strict=True)
    assert not [case["id"] for case, verdict in pairs if verdict["ok"] is not case["official_valid"]]
    assert len(rows) == 406


def test_verdicts_keep_the_order_and_every_language_is_judged(tmp_path):
    java = {"language": "java", "functions": [JAVA], "possible_answer": [{"Maps.open": {"zoom": [5]}}]}
    verdicts = judge(
        tmp_path,
        case("a"),
        case("b", **java, output="Maps.open(zoom=5L);"),
        case("c", **java, output="Maps.open(zoom=5);"),
        case("d", output="[weather.get(city='Oslo')]"),
    )
    assert verdicts[0] == {"id": "a", "ok": True, "reason": "ok"}
    assert verdicts[1] == {"id": "b", "ok": True, "reason": "ok"}
    assert verdicts[2] == {"id": "c", "ok": False, "reason": "type"}
    assert verdicts[3] == {"id": "d", "ok": False, "reason": "value: string"}


@pytest.mark.parametrize(
    ("category", "called_is_right"), [("irrelevance", False), ("live_irrelevance", False), ("live_relevance", True)]
)
def test_relevance_comes_from_the_category_or_from_the_ids_prefix(tmp_path, category, called_is_right):
    called, prose = "[weather.get()]", "Sorry, none fits."
    verdicts = judge(
        tmp_path,
        case(f"{category}_3#s001", possible_answer=[], output=called),
        case(f"{category}_3#s002", possible_answer=[], output=prose),
        case("x", category=category, possible_answer=[], output=called),
        case("y", category=category, possible_answer=[], output=prose),
    )
    assert [verdict["ok"] for verdict in verdicts] == [called_is_right, not called_is_right] * 2


def test_an_output_that_no_file_can_encode_is_judged_like_any_other(tmp_path):
    verdicts = judge(
        tmp_path, case(output="[weather.get(city='\ud800')]"), case(output="\x00"), case(output="(" * 9000)
    )
    assert [verdict["ok"] for verdict in verdicts] == [False] * 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{oops", r"cases\.jsonl:2\b"),
        ("[]", r"cases\.jsonl:2\b"),
        (case(output=None), r"cases\.jsonl:2: output is null"),
        (case(language="cobol"), r"cases\.jsonl:2: language is 'cobol'; one of: python, java, javascript"),
        (case(functions={}), r"cases\.jsonl:2: the functions should be a list, not dict"),
        (case(possible_answer=[]), r"cases\.jsonl:2: the answer should be a list of calls, at least one"),
        (case(possible_answer=[3]), r"cases\.jsonl:2: "),
        ({key: value for key, value in case().items() if key != "id"}, r"cases\.jsonl:2: id is null"),
    ],
)
def test_a_row_that_cannot_be_judged_is_named(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        judge(tmp_path, case(), row)


def judge_command(*arguments):
    script = f"import runpy, sys\nsys.argv = {['evaluate.py', *map(str, arguments)]!r}\n"
    script += "try:\n    runpy.run_path('scripts/evaluate.py', run_name='__main__')\nfinally:\n"
    script += "    print('imports jax:', 'jax' in sys.modules)\n"
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_judge_command_needs_no_jax(tmp_path):
    write_lines(tmp_path / "cases.jsonl.gz", [case("a"), case("b", output="")])
    done = judge_command("--judge", tmp_path / "cases.jsonl.gz", "--output", tmp_path / "verdicts.jsonl")
    assert done.returncode == 0, done.stderr
    verdicts = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert [(verdict["id"], verdict["ok"]) for verdict in verdicts] == [("a", True), ("b", False)]
    assert "imports jax: False" in done.stdout


def test_the_judge_command_answers_a_broken_line_with_one_message(tmp_path):
    write_lines(tmp_path / "cases.jsonl", [case("a"), "{oops"])
    done = judge_command("--judge", tmp_path / "cases.jsonl", "--output", tmp_path / "verdicts.jsonl")
    assert done.returncode == 2
    assert "cases.jsonl:2" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "verdicts.jsonl").exists()


def test_a_dry_run_of_the_judge_command_writes_nothing(tmp_path):
    write_lines(tmp_path / "cases.jsonl", [case("a")])
    done = judge_command("--judge", tmp_path / "cases.jsonl", "--output", tmp_path / "verdicts.jsonl", "--dry-run")
    assert done.returncode == 0 and not (tmp_path / "verdicts.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--benchmark", "tasks", "asked=bfcl"], "they need benchmark: bfcl"),
        (["--benchmark", "bfcl", "--data", "x", "result_name=a", "samples.count=4"], "samples is null"),
        (["--benchmark", "bfcl", "--data", "x", "constrain=true"], "leave simple_java and simple_javascript out"),
        (["--benchmark", "bfcl", "--data", "x", "constrain=true", "asked=bfcl"], "BFCL's prompt .* has not"),
        (["--benchmark", "bfcl", "--data", "bfcl-eval"], "bfcl-eval, which is not installed here"),
        (["--benchmark", "bfcl", "--data", "x", "categories=[simpel]"], "unknown BFCL category simpel"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_a_device_is_touched(tmp_path, settings, message):
    done = judge_command("--model", tmp_path, "--output", tmp_path / "out", *settings)
    assert done.returncode == 2 and re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "out").exists()
