import ast

import pytest
from toy_talks import FUNCTIONS, Scripted, answer_of, conversation, doc, toy_backend

from jaxfc.bfcl.files import own_messages
from jaxfc.bfcl.prompt import bfcl_messages
from jaxfc.bfcl.talk import GO_ON, MAX_STEPS, MORE_FUNCTIONS, Failed, converse, noted_messages
from jaxfc.bfcl.turns import INFERENCE_ERROR
from jaxfc.config import Prompt
from jaxfc.data.prompts import prompt_messages


@pytest.fixture(scope="module")
def backend():
    with toy_backend() as backend:
        yield backend


def held(conversations, script, backend, at_once=8, messages_of=own_messages):
    """The talks by id, and the generator that was asked."""
    generate = Scripted(script)
    rounds = converse(conversations, generate, answer_of, backend, at_once=at_once, messages_of=messages_of)
    return {talk.conversation.id: talk for talks in rounds for talk in talks}, generate


def answers_of(talk):
    return [[step.answer for step in steps] for steps in talk.turns]


def contents(example):
    return [(message["role"], message["content"]) for message in example.messages]


def test_a_turn_ends_with_an_answer_that_makes_no_call_and_the_model_is_told_every_result(backend):
    script = {"toy_0": ["[put(item='fig'), price(item='fig')]", "Done.", "[pay()]", "[]"]}
    talks, generate = held([conversation()], script, backend)
    assert answers_of(talks["toy_0"]) == [["[put(item='fig'), price(item='fig')]", "Done."], ["[pay()]", "[]"]]
    assert [step.results for step in talks["toy_0"].turns[0]] == [['{"basket": ["fig"]}', "5"], []]
    last = contents(generate.asked[-1][0])
    assert [role for role, _ in last] == ["user", "assistant", "user", "assistant", "user", "assistant", "user"]
    assert last[0] == ("user", "Do 0.") and last[4] == ("user", "Do 1.")
    assert last[1] == ("assistant", "[put(item='fig'), price(item='fig')]")  # Without the thinking.
    assert ast.literal_eval(last[2][1]) == [
        {"role": "tool", "name": "put(item='fig')", "content": '{"basket": ["fig"]}'},
        {"role": "tool", "name": "price(item='fig')", "content": "5"},
    ]


def test_the_whole_completion_is_kept_beside_the_answer(backend):
    talks, _ = held([conversation()], {"toy_0": ["[read()]"]}, backend)
    step = talks["toy_0"].turns[0][0]
    assert step.text == "<think>Hm.</think>[read()]" and step.answer == "[read()]" and step.calls == ["read()"]


def test_held_back_functions_come_with_a_turn_of_their_own(backend):
    late = doc("dim", level="integer")
    talks, generate = held([conversation(held_back={1: (late,)})], {"toy_0": ["Done.", "[dim(level=2)]"]}, backend)
    assert contents(generate.asked[1][0])[-1] == ("user", f"{[late]}\n{MORE_FUNCTIONS}")
    # The functions of the system message stay those of the first turn.
    assert "dim" not in {tool.name for tool in generate.asked[-1][0].tools}
    assert talks["toy_0"].turns[1][0].results == ["None"]


def test_a_prompt_written_for_one_answer_is_told_how_a_turn_goes_on(backend):
    _, generate = held([conversation()], {"toy_0": []}, backend, messages_of=noted_messages)
    assert contents(generate.asked[0][0]) == [("system", GO_ON), ("user", "Do 0.")]
    [system, *_] = prompt_messages(generate.asked[0][0], Prompt(system="Tools: {tools}", tools="signatures"))
    assert system["content"].startswith("Tools: put(item: str)") and system["content"].endswith(f"\n\n{GO_ON}")


def test_bfcls_own_prompt_is_made_of_the_docs_as_they_are(backend):
    _, generate = held([conversation()], {"toy_0": []}, backend, messages_of=bfcl_messages)
    first = generate.asked[0][0].messages
    assert list(first) == bfcl_messages([{"role": "user", "content": "Do 0."}], FUNCTIONS, "toy")


def test_a_turn_without_an_end_ends_the_conversation(backend):
    talks, generate = held([conversation()], {"toy_0": ["[read()]"] * 99}, backend)
    # One step more than the limit is run, as in BFCL.
    assert answers_of(talks["toy_0"]) == [["[read()]"] * (MAX_STEPS + 1)]
    assert len(generate.asked) == MAX_STEPS + 1 and talks["toy_0"].failed is None


def test_as_many_steps_as_the_limit_are_no_harm(backend):
    talks, _ = held([conversation()], {"toy_0": ["[read()]"] * MAX_STEPS}, backend)
    assert [len(steps) for steps in talks["toy_0"].turns] == [MAX_STEPS + 1, 1]


def test_a_prompt_that_is_too_long_ends_the_conversation(backend):
    talks, _ = held([conversation()], {"toy_0": ["[read()]", None]}, backend)
    assert talks["toy_0"].failed == Failed(INFERENCE_ERROR, "prompt too long")
    assert answers_of(talks["toy_0"]) == [["[read()]"]]


def test_a_call_that_cannot_be_run_ends_its_conversation_and_no_other():
    script = {"a": ["[blink(seconds=60)]"], "b": ["[put(item='fig')]", "", "[pay()]"], "c": ["[burn()]"]}
    with toy_backend(deadline=0.5) as backend:
        talks, _ = held([conversation(name) for name in script], script, backend)
    assert talks["a"].failed == Failed("environment: timeout", "not done after 0.5 s")
    assert talks["c"].failed == Failed("environment: worker died", "killed by SIGKILL")
    assert talks["b"].failed is None and talks["b"].turns[1][0].results == ['{"left": 15}']


def test_a_conversation_that_is_over_makes_room_for_the_next_at_once(backend):
    script = {"a": ["", ""], "b": ["[read()]", "", ""], "c": ["", ""], "d": ["", ""]}
    _, generate = held([conversation(name) for name in script], script, backend, at_once=2)
    assert [[example.id for example in asked] for asked in generate.asked] == [
        *[["a", "b"], ["a", "b"], ["b", "c"], ["c", "d"], ["d"]],
    ]


def test_what_one_conversation_does_no_other_sees(backend):
    script = {"a": ["[put(item='fig'), pay()]"], "b": ["[pay()]"]}
    talks, _ = held([conversation(name) for name in script], script, backend)
    assert talks["b"].turns[0][0].results == ['{"left": 20}']
