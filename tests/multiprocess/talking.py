"""Conversations without a model: what one of several processes does. Arguments: the output folder."""

import sys
from pathlib import Path

from toy_talks import Scripted, answer_of, conversation, toy_backend

from jaxfc.bfcl.conversations import evaluate_conversations
from jaxfc.bfcl.files import own_messages
from jaxfc.processes import index, run_joined

RIGHT = ["[put(item='fig')]", "Done.", "[pay(), read()]", "Done."]
SCRIPT = {"a": RIGHT, "b": ["[put(item='pear')]"], "c": ["[burn()]"], "d": ["[put(item='fig')]", None], "e": RIGHT}


def backend_of_the_first():
    """Only process 0 has the simulated APIs."""
    assert index() == 0
    return toy_backend()


def talk(folder: Path):
    talks = [conversation(name) for name in SCRIPT]
    settings = {"messages_of": own_messages, "settings": {}, "at_once": 2}
    scores = evaluate_conversations(folder, talks, Scripted(SCRIPT), answer_of, backend_of_the_first, **settings)
    return scores.overall[:2]


if __name__ == "__main__":
    print(run_joined(talk, Path(sys.argv[1])))
