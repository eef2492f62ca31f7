"""Conversations, their verdicts and their scores against bfcl-eval's own.

JAXFC_BFCL_PYTHON names an interpreter that has bfcl-eval 2026.3.23; JAXFC_BFCL_COMMAND, the `bfcl` of an environment
that has its clients too.
"""

import collections
import json
import os
import random
import subprocess
from pathlib import Path

import pytest
from transcribed import DONE, corrupted, right_transcript

from jaxfc.bfcl.backend import Backend
from jaxfc.bfcl.categories import MULTI_TURN
from jaxfc.bfcl.conversations import evaluate_conversations, write_conversation_results
from jaxfc.bfcl.multi_turn import read_multi_turn
from jaxfc.bfcl.prompt import bfcl_messages
from jaxfc.bfcl.talk import converse
from jaxfc.bfcl.turns import calls_of, judge_conversation

PYTHON = "JAXFC_BFCL_PYTHON"
OFFICIAL = Path(__file__).with_name("official_multi_turn.py")
_FOLDER = "import importlib.util as u; print(u.find_spec('bfcl_eval').submodule_search_locations[0])"


@pytest.fixture(scope="module")
def python():
    if PYTHON not in os.environ:
        pytest.skip(f"{PYTHON} names no interpreter that has bfcl-eval")
    return os.environ[PYTHON]


@pytest.fixture(scope="module")
def conversations(python):
    found = subprocess.run([python, "-c", _FOLDER], capture_output=True, text=True, check=True)
    return read_multi_turn(Path(found.stdout.strip()) / "data")


def official(python, pairs, script=OFFICIAL):
    """What a script says of each conversation with its transcript: its verdict, and its results of all calls."""
    rows = ({"category": talk.category, "id": talk.id, "result": transcript} for talk, transcript in pairs)
    done = subprocess.run(
        [python, str(script)],
        input="".join(json.dumps(row) + "\n" for row in rows),
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "OPENAI_API_KEY": "none"},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def ours(python, pairs):
    """The same of ours."""
    found = []
    with Backend(python) as backend:
        for talk, transcript in pairs:
            calls = [call for answers in transcript for answer in answers for call in calls_of(answer)]
            with backend.open(talk.scene) as session:
                results = session.run("model", calls)
            found.append({"reason": judge_conversation(talk, transcript, backend).reason, "results": results})
    return found


def assert_same(python, pairs):
    theirs = official(python, pairs)
    differing = [
        (talk.id, transcript, their["reason"], our["reason"])
        for (talk, transcript), their, our in zip(pairs, theirs, ours(python, pairs), strict=True)
        if their != our
    ]
    assert not differing
    return collections.Counter(their["reason"] for their in theirs)


def test_all_entries_are_read_and_what_they_expect_is_right(python, conversations):
    assert collections.Counter(talk.category for talk in conversations) == dict.fromkeys(MULTI_TURN, 200)
    assert assert_same(python, [(talk, right_transcript(talk)) for talk in conversations]) == {"ok": 800}


@pytest.mark.parametrize("count", [300, pytest.param(6000, marks=pytest.mark.slow)])
def test_transcripts_in_which_something_is_wrong_get_the_official_verdict_and_results(python, conversations, count):
    rng = random.Random(count)
    chosen = rng.choices(conversations, k=count)
    reasons = assert_same(python, [(talk, corrupted(talk, rng)[1]) for talk in chosen])
    assert len(reasons) == 5 and min(reasons.values()) > count // 20


# The official client and command


class Model:
    """Says what is written for each turn, then that this is all; keeps what it was last asked."""

    def __init__(self, transcripts):
        self.transcripts, self.places, self.asked = transcripts, {}, {}

    def __call__(self, examples):
        return [self.answer(example) for example in examples]

    def answer(self, example):
        self.asked[example.id] = list(example.messages)
        turn, step = self.places.get(example.id, (0, 0))
        turns = self.transcripts[example.id]
        answers = turns[turn] if turn < len(turns) else []
        text = answers[step] if step < len(answers) else DONE
        self.places[example.id] = (turn, step + 1) if calls_of(text) else (turn + 1, 0)
        return text


@pytest.fixture(scope="module")
def command():
    if "JAXFC_BFCL_COMMAND" not in os.environ:
        pytest.skip("JAXFC_BFCL_COMMAND names no bfcl command")
    return os.environ["JAXFC_BFCL_COMMAND"]


@pytest.fixture(scope="module")
def transcripts(conversations):
    rng = random.Random(1)
    return {
        talk.id: right_transcript(talk) if rng.random() < 0.5 else corrupted(talk, rng)[1] for talk in conversations
    }


@pytest.mark.slow
def test_every_message_is_that_of_the_official_client(python, command, conversations, transcripts):
    pairs = [(talk, transcripts[talk.id]) for talk in conversations]
    interpreter = str(Path(command).with_name("python"))
    theirs = official(interpreter, pairs, OFFICIAL.with_name("official_dialogue.py"))
    model = Model(transcripts)
    with Backend(python) as backend:
        rounds = converse(conversations, model, str, backend, at_once=64, messages_of=bfcl_messages)
        turns = {talk.conversation.id: talk.turns for talks in rounds for talk in talks}
    ours = [
        {"result": [[step.answer for step in steps] for steps in turns[talk.id]], "messages": model.asked[talk.id]}
        for talk in conversations
    ]
    assert [talk.id for talk, our, their in zip(conversations, ours, theirs, strict=True) if our != their] == []


@pytest.mark.slow
def test_the_official_command_counts_as_many_right(python, command, conversations, transcripts, tmp_path):
    scores = evaluate_conversations(
        tmp_path,
        conversations,
        Model(transcripts),
        str,
        lambda: Backend(python),
        messages_of=bfcl_messages,
        settings={},
        at_once=64,
    )
    write_conversation_results(tmp_path, tmp_path, "Qwen/Qwen3-0.6B")
    environment = os.environ | {"BFCL_PROJECT_ROOT": str(tmp_path), "OPENAI_API_KEY": "none"}
    evaluated = [command, "evaluate", "--model", "Qwen/Qwen3-0.6B", "--test-category", "multi_turn"]
    subprocess.run(evaluated, env=environment, cwd=tmp_path, capture_output=True, check=True, timeout=900)
    for category, rate in scores.kinds.items():
        [file] = tmp_path.rglob(f"BFCL_v4_{category}_score.json")
        head = json.loads(file.read_text().splitlines()[0])
        assert (head["correct_count"], head["total_count"]) == rate[:2] and 0 < rate.correct < 200
