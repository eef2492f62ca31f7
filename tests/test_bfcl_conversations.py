import dataclasses
import json

import jax
import pytest
from toy_talks import Scripted, answer_of, conversation, toy_backend

from jaxfc.bfcl.conversations import (
    evaluate_conversations,
    evaluate_model_conversations,
    write_conversation_results,
)
from jaxfc.bfcl.files import own_messages
from jaxfc.bfcl.talk import noted_messages
from jaxfc.command import InputError
from jaxfc.config import Mesh, Model
from jaxfc.data.prompts import AS_WRITTEN
from jaxfc.models.create import make_config, make_tokenizer
from jaxfc.models.decoder import Decoder
from jaxfc.models.weights import save_model
from jaxfc.workspace import open_workspace

RIGHT = ["[put(item='fig')]", "Done.", "[pay(), read()]", "Done."]
SCRIPT = {
    "a": RIGHT,
    "b": ["[put(item='pear')]"],
    "c": RIGHT,
    "d": ["[put(item='fig')]", None],
    "e": ["[burn()]"],
}
ALL = [conversation(name, category="toy" if name < "d" else "hard") for name in SCRIPT]


def run_into(folder, generate=None, conversations=ALL, **changed):
    given = {"settings": {"model": "abc"}, "at_once": 2, "messages_of": own_messages} | changed
    return evaluate_conversations(folder, conversations, generate or Scripted(SCRIPT), answer_of, toy_backend, **given)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_conversations_are_judged_and_counted(tmp_path):
    lines = []
    scores = run_into(tmp_path, summarize=lambda scores: {"half": scores.overall.accuracy / 2}, report=lines.append)
    assert {kind: rate[:2] for kind, rate in scores.kinds.items()} == {"toy": (2, 3), "hard": (0, 2)}
    assert scores.reasons == {
        "multi_turn:instance_state_mismatch": 1,
        "multi_turn:inference_error": 1,
        "environment: worker died": 1,
    }
    document = json.loads((tmp_path / "scores.json").read_text())
    assert document["overall"] == 0.4 and document["aggregates"] == {"half": 0.2}
    assert document["settings"] == {"model": "abc"} and lines[-1] == "5 of 5 conversations held, 2 right"


def test_the_outputs_hold_the_whole_transcripts_in_order(tmp_path):
    run_into(tmp_path)
    rows = rows_of(tmp_path / "outputs.jsonl")
    assert [row["id"] for row in rows] == list(SCRIPT)
    assert rows[0]["turns"][0][0] == {
        "text": "<think>Hm.</think>[put(item='fig')]",
        "answer": "[put(item='fig')]",
        "calls": ["put(item='fig')"],
        "results": ['{"basket": ["fig"]}'],
    }
    assert rows[3]["detail"] == "prompt too long" and len(rows[3]["turns"][0]) == 1


def test_the_result_files_are_as_bfcl_reads_them(tmp_path):
    kinds = {"d": "multi_turn_base", "e": "multi_turn_base"}
    run_into(tmp_path / "in", conversations=[conversation(n, category=kinds.get(n, "multi_turn_x")) for n in SCRIPT])
    write_conversation_results(tmp_path / "in", tmp_path / "out", "Some/Model-1")
    folder = tmp_path / "out" / "result" / "Some_Model-1" / "multi_turn"
    assert {path.name for path in folder.iterdir()} == {
        "BFCL_v4_multi_turn_x_result.json",
        "BFCL_v4_multi_turn_base_result.json",
    }
    assert rows_of(folder / "BFCL_v4_multi_turn_x_result.json")[0] == {
        "id": "a",
        "result": [["[put(item='fig')]", "Done."], ["[pay(), read()]", "Done."]],
    }
    # What is no list fails there as it does here.
    assert rows_of(folder / "BFCL_v4_multi_turn_base_result.json") == [
        {"id": "d", "result": "Error during inference: prompt too long"},
        {"id": "e", "result": "Error during inference: killed by SIGKILL"},
    ]


def test_an_interrupted_evaluation_goes_on_and_ends_as_an_undisturbed_one(tmp_path):
    run_into(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_into(tmp_path / "cut", Scripted(SCRIPT, stop_at=5))
    done = {row["id"] for row in rows_of(tmp_path / "cut" / "outputs.partial.jsonl")[1:]}
    assert done and done < set(SCRIPT)
    again = Scripted(SCRIPT)
    run_into(tmp_path / "cut", again)
    assert {example.id for asked in again.asked for example in asked} == set(SCRIPT) - done
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_what_was_interrupted_does_not_go_on_with_other_settings(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_into(tmp_path, Scripted(SCRIPT, stop_at=1))
    for changed in ({"settings": {"model": "other"}}, {"messages_of": noted_messages}, {"conversations": ALL[:-1]}):
        with pytest.raises(InputError, match="another model, data or settings"):
            run_into(tmp_path, **changed)


def test_ids_that_repeat_are_refused(tmp_path):
    with pytest.raises(InputError, match="'a' occurs more than once"):
        run_into(tmp_path, conversations=[*ALL, ALL[0]])


def test_a_torn_line_is_done_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_into(tmp_path, Scripted(SCRIPT, stop_at=5))
    partial = tmp_path / "outputs.partial.jsonl"
    partial.write_bytes(partial.read_bytes()[:-5])
    assert run_into(tmp_path).overall[:2] == (2, 5)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A small random model."""
    source, folder = tmp_path_factory.mktemp("tokenizer"), tmp_path_factory.mktemp("models") / "random"
    make_tokenizer(source, [json.dumps({"text": "Do this. Do that. [put(item='fig')]"})], 300)
    config = make_config(vocabulary=304, width=32, hidden_width=48, layers=1, heads=2, kv_heads=1)
    params = Decoder(config).init(jax.random.key(3))
    save_model(folder, jax.tree.map(lambda a: 20 * a, params), config, source)  # Sharp, so that answers differ.
    return open_workspace(Model(path=str(folder)), Mesh(data=len(jax.devices())), None)


def test_what_a_model_says_depends_on_its_own_conversation_alone(work, tmp_path):
    def told(folder, *names):
        long = ({"role": "user", "content": "Do " * 200},)
        talks = [
            dataclasses.replace(conversation(name), turns=(({"role": "user", "content": name},), long)[:2])
            for name in names
        ]
        limits = {"form": AS_WRITTEN, "buckets": (64,), "completion_length": 8, "batch": len(jax.devices())}
        evaluate_model_conversations(work, talks, folder, toy_backend, messages_of=own_messages, **limits)
        return {row["id"]: row for row in rows_of(folder / "outputs.jsonl")}

    together, alone = told(tmp_path / "all", "a", "b", "c"), told(tmp_path / "b", "b")
    assert together["b"] == alone["b"] and together["a"]["turns"] != together["b"]["turns"]
    # An untrained model makes no calls, so that each turn has one step; the second begins with what is too long.
    assert [len(steps) for steps in alone["b"]["turns"]] == [1, 0] and alone["b"]["detail"] == "prompt too long"
    settings = json.loads((tmp_path / "b" / "scores.json").read_text())["settings"]
    assert settings["model"] == work.digest and settings["prompt"] == {"system": "of the examples"}
