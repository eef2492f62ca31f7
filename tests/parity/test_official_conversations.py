"""Conversations and their verdicts against bfcl-eval's own, where its environment is named."""

import collections
import json
import os
import random
import subprocess
from pathlib import Path

import pytest
from scripted import corrupted, right_transcript

from jaxfc.bfcl.backend import Backend
from jaxfc.bfcl.categories import MULTI_TURN
from jaxfc.bfcl.multi_turn import read_multi_turn
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


def official(python, pairs):
    """The package's verdict, and its results of all calls, for each conversation with its transcript."""
    rows = ({"category": talk.category, "id": talk.id, "result": transcript} for talk, transcript in pairs)
    done = subprocess.run(
        [python, str(OFFICIAL)],
        input="".join(json.dumps(row) + "\n" for row in rows),
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0"},
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
