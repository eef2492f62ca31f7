import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from toy_talks import doc

from jaxfc.bfcl.files import folder_of
from jaxfc.bfcl.multi_turn import DOCS, read_multi_turn
from jaxfc.bfcl.scores import read_results
from jaxfc.command import InputError
from jaxfc.config import Model
from jaxfc.evaluate import Outcome, score

QUESTION = {
    "id": "multi_turn_miss_func_0",
    "question": [[{"role": "user", "content": "List them."}], [], [{"role": "user", "content": "Now add."}]],
    "initial_config": {"GorillaFileSystem": {"root": {}}},
    "involved_classes": ["GorillaFileSystem", "MathAPI"],
    "missed_function": {"1": ["ls"]},
}
ANSWER = {"id": "multi_turn_miss_func_0", "ground_truth": [[], ["ls()"], ["add(1, 2)"]]}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def data(folder, question=QUESTION, answer=ANSWER, category="multi_turn_miss_func"):
    write(folder / f"BFCL_v4_{category}.json", [question])
    write(folder / "possible_answer" / f"BFCL_v4_{category}.json", [answer])
    for file in DOCS.values():
        write(folder / "multi_turn_func_doc" / file, [])
    write(folder / "multi_turn_func_doc" / "gorilla_file_system.json", [doc("ls"), doc("cd", folder="string")])
    write(folder / "multi_turn_func_doc" / "math_api.json", [doc("add", a="float", b="float")])
    return folder


def test_an_entry_is_read_with_the_functions_of_its_apis_and_those_held_back(tmp_path):
    [talk] = read_multi_turn(data(tmp_path), ["multi_turn_miss_func"])
    assert talk.id == "multi_turn_miss_func_0" and talk.category == "multi_turn_miss_func"
    assert [len(messages) for messages in talk.turns] == [1, 0, 1]
    assert talk.reference == ((), ("ls()",), ("add(1, 2)",))
    assert talk.functions == (doc("cd", folder="string"), doc("add", a="float", b="float"))
    assert talk.held_back == {1: (doc("ls"),)}
    assert [tool.name for tool in talk.tools] == ["cd", "add"]
    assert talk.scene.classes == ("GorillaFileSystem", "MathAPI")
    assert talk.scene.config == {"GorillaFileSystem": {"root": {}}}


def test_the_context_is_long_in_its_category_alone(tmp_path):
    question = {key: value for key, value in QUESTION.items() if key != "missed_function"}
    for category, is_long in (("multi_turn_long_context", True), ("multi_turn_base", False)):
        [talk] = read_multi_turn(data(tmp_path / category, question, category=category), [category])
        assert talk.scene.long_context == is_long and talk.held_back == {}


@pytest.mark.parametrize(
    ("question", "answer", "message"),
    [
        ({"involved_classes": ["Toaster"]}, {}, "unknown simulated API 'Toaster'"),
        ({"missed_function": {"1": ["mv"]}}, {}, r"holds back \['mv'\]"),
        ({"question": [[]]}, {}, "is a multi-turn entry of BFCL"),
        ({"initial_config": None}, {}, "is a multi-turn entry of BFCL"),
        ({}, {"ground_truth": "ls()"}, "is a multi-turn entry of BFCL"),
        ({}, {"id": "multi_turn_miss_func_1"}, "not those of the same ids"),
    ],
)
def test_what_is_no_entry_is_named(tmp_path, question, answer, message):
    folder = data(tmp_path, QUESTION | question, ANSWER | answer)
    with pytest.raises(InputError, match=message):
        read_multi_turn(folder, ["multi_turn_miss_func"])


def test_a_folder_without_the_docs_of_the_functions_is_named(tmp_path):
    folder = data(tmp_path)
    (folder / "multi_turn_func_doc" / "math_api.json").unlink()
    with pytest.raises(InputError, match=r"math_api.json: not there; .* the whole data folder of bfcl-eval"):
        read_multi_turn(folder, ["multi_turn_miss_func"])


def test_the_data_of_a_package_in_another_environment_is_found(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho /there/bfcl_eval\n")
    python.chmod(0o755)
    assert folder_of("bfcl-eval", str(python)) == Path("/there/bfcl_eval/data")
    assert folder_of("folder", str(python)) == Path("folder")
    python.write_text("#!/bin/sh\necho\n")
    with pytest.raises(InputError, match=r"not installed where .*python is"):
        folder_of("bfcl-eval", str(python))
    with pytest.raises(InputError, match="no Python interpreter that can be asked"):
        folder_of("bfcl-eval", str(tmp_path / "none"))


# Among the other categories


def test_the_scores_of_another_evaluation_of_the_model_are_read(tmp_path):
    kinds = {"multiple": {"accuracy": 0.5, "correct": 100, "entries": 200}}
    (tmp_path / "scores.json").write_text(json.dumps({"kinds": kinds, "settings": {"model": "abc"}}))
    assert read_results(tmp_path, "abc") == {"multiple": (100, 200)}
    with pytest.raises(InputError, match="scores of another model; its digest is abc, that of this one abd"):
        read_results(tmp_path, "abd")
    with pytest.raises(InputError, match="not there; give the output folder"):
        read_results(tmp_path / "none", "abc")
    for broken in ("", "[]", '{"settings": {"model": "abc"}, "kinds": {"multiple": 1}}'):
        (tmp_path / "scores.json").write_text(broken)
        with pytest.raises(InputError, match="not the scores of an evaluation"):
            read_results(tmp_path, "abc")


def test_aggregates_count_the_evaluation_beside_too(tmp_path):
    kinds = {"multiple": {"correct": 100, "entries": 200}}
    (tmp_path / "scores.json").write_text(json.dumps({"kinds": kinds, "settings": {"model": "abc"}}))
    script = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "evaluate.py"))
    given = {"model": Model(path="x"), "benchmark": "bfcl", "data": "x", "output": "y", "beside": str(tmp_path)}
    config = script["Evaluate"](categories=("multi_turn",), **given)
    outcomes = [Outcome(str(n), "multi_turn_base", None, "", n < 6, "", "") for n in range(8)]
    totals = script["bfcl_aggregates"](config, "abc")(score(outcomes))
    # Multi-Turn is 6/8 of one of four categories; Non-Live AST has 1/2 in one of its four terms.
    assert totals["multi_turn"]["value"] == pytest.approx(0.75 / 4)
    assert totals["overall_v4"]["value"] == pytest.approx(0.3 * 0.75 / 4 + 0.1 * 0.5 / 4)
    with pytest.raises(InputError, match="has multiple too"):
        script["bfcl_aggregates"](script["Evaluate"](categories=("multiple",), **given), "abc")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["categories=[multi_turn, multiple]"], "run one, then the other with beside: DIR"),
        (["categories=[multi_turn_base]", "constrain=true"], "multi-turn categories have neither"),
        (["categories=[multi_turn]", "samples.count=4"], "multi-turn categories have neither"),
        (["beside=x", "count=3"], "they need benchmark: bfcl, and count: null"),
        (["categories=[multi_turn]"], "multi-turn entries need the whole data folder of bfcl-eval"),
    ],
)
def test_settings_of_conversations_that_do_not_go_together_are_refused(tmp_path, settings, message):
    command = [sys.executable, "scripts/evaluate.py", "--model", tmp_path, "--output", tmp_path / "out"]
    command += ["--benchmark", "bfcl", "--data", tmp_path, *settings]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_interpreter_without_the_simulated_apis_is_refused_before_the_model_is_read(tmp_path):
    command = [sys.executable, "scripts/evaluate.py", "--model", tmp_path, "--output", tmp_path / "out", "--dry-run"]
    command += ["--benchmark", "bfcl", "--data", data(tmp_path / "data"), "categories=[multi_turn_miss_func]"]
    command.append(f"bfcl_python={tmp_path / 'python'}")
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 2 and "no Python interpreter can be started there" in done.stderr
