"""Transcripts that are written, not generated: from a conversation's reference, right or with one thing gone wrong."""

import ast
import random
from collections.abc import Callable, Sequence

from jaxfc.bfcl.multi_turn import Conversation

Turns = list[list[str]]
DONE = "That is all."
_JUNK = (
    "",
    "[]",
    "I cannot.",
    "f(",
    "```python\n[ls()]\n```",
    "[1]",
    "()",
    "[ls]",
    "[[ls()]]",
    "f()()",
    "kill()",
    "x.run(a=1)",
    "ls(**{'a': 1})",
    "[ls(), mean(numbers=[])]",
    "sort(file_name=pwd())",
    "echo(content=pwd(), x={})",
    "echo(content='do ls() or pwd (now)', file_name='notes (1).txt')",
    "post_tweet(content='see pwd() (now)')",
    "nothing(a={'b': {'c': 1}})",
    "touch(file_name={'x': 1, \"y'\": 2})",
)


def keyword_calls(conversation: Conversation, sources: Sequence[str]) -> list[str]:
    """The calls with keyword arguments alone, as a model has to write them."""
    docs = {doc["name"]: doc for doc in (*conversation.functions, *sum(conversation.held_back.values(), ()))}
    written = []
    for source in sources:
        call = ast.parse(source, mode="eval").body
        if not call.args:
            written.append(source)
            continue
        names = list(docs[call.func.id]["parameters"]["properties"])
        keywords = [ast.keyword(name, value) for name, value in zip(names, call.args, strict=False)]
        written.append(ast.unparse(ast.Call(call.func, [], [*keywords, *call.keywords])))
    return written


def right_transcript(conversation: Conversation) -> Turns:
    """The reference's calls of each turn in one answer, then a text that is no call."""
    turns = [keyword_calls(conversation, sources) for sources in conversation.reference]
    return [[f"[{', '.join(calls)}]", DONE] if calls else [DONE] for calls in turns]


def corrupted(conversation: Conversation, rng: random.Random) -> tuple[str, Turns]:
    """The name of what goes wrong, and the transcript; not all of them are wrong in the end."""
    name = rng.choice(sorted(_CORRUPTIONS))
    turns = [keyword_calls(conversation, sources) for sources in conversation.reference]
    return name, _CORRUPTIONS[name](conversation, turns, rng)


def _answers(turns: Sequence[Sequence[str]]) -> Turns:
    return [[f"[{', '.join(calls)}]", DONE] if calls else [DONE] for calls in turns]


def _some(turns: Sequence[Sequence[str]], rng: random.Random) -> int:
    return rng.choice([number for number, calls in enumerate(turns) if calls])


def _drop_call(_, turns, rng):
    turn = _some(turns, rng)
    turns[turn].pop(rng.randrange(len(turns[turn])))
    return _answers(turns)


def _drop_turn(_, turns, rng):
    turns[_some(turns, rng)] = []
    return _answers(turns)


def _change_argument(_, turns, rng):
    turn = _some(turns, rng)
    number = rng.randrange(len(turns[turn]))
    call = ast.parse(turns[turn][number], mode="eval").body
    if not call.keywords:
        call.keywords.append(ast.keyword("unknown", ast.Constant(1)))
    else:
        keyword = rng.choice(call.keywords)
        value = ast.literal_eval(keyword.value)
        others = {str: f"{value}x", bool: not value, int: 7, float: 7.5, list: [], dict: {"a": 1}, tuple: ()}
        other = rng.choice([others.get(type(value)), None, "", 0, "other (text)", {"a": {"b": 1}}, {}, [1, {}]])
        keyword.value = ast.parse(repr(other), mode="eval").body
    turns[turn][number] = ast.unparse(call)
    return _answers(turns)


def _drop_argument(_, turns, rng):
    turn = _some(turns, rng)
    number = rng.randrange(len(turns[turn]))
    call = ast.parse(turns[turn][number], mode="eval").body
    if call.keywords:
        call.keywords.pop(rng.randrange(len(call.keywords)))
    turns[turn][number] = ast.unparse(call)
    return _answers(turns)


def _swap_turns(_, turns, rng):
    a, b = rng.randrange(len(turns)), rng.randrange(len(turns))
    turns[a], turns[b] = turns[b], turns[a]
    return _answers(turns)


def _swap_calls(_, turns, rng):
    rng.shuffle(turns[_some(turns, rng)])
    return _answers(turns)


def _repeat_call(_, turns, rng):
    turn = _some(turns, rng)
    turns[turn].append(rng.choice(turns[turn]))
    return _answers(turns)


def _extra_call(conversation, turns, rng):
    """Any function on offer, without arguments: most raise an error, some change something."""
    turn = rng.randrange(len(turns))
    doc = rng.choice(conversation.functions)
    turns[turn].insert(rng.randint(0, len(turns[turn])), f"{doc['name']}()")
    return _answers(turns)


def _filled_call(conversation, turns, rng):
    """Any function on offer, with made-up arguments of the declared types."""
    doc = rng.choice(conversation.functions)
    made = {"string": "'USD'", "integer": "3", "float": "2.5", "boolean": "True", "array": "[1, 2]", "dict": "{'a': 1}"}
    properties = doc["parameters"]["properties"]
    arguments = ", ".join(f"{name}={made.get(schema['type'], 'None')}" for name, schema in properties.items())
    turns[rng.randrange(len(turns))].append(f"{doc['name']}({arguments})")
    return _answers(turns)


def _wrong_name(_, turns, rng):
    turn = _some(turns, rng)
    number = rng.randrange(len(turns[turn]))
    prefix = rng.choice(["my_", "GorillaFileSystem.", "api.", "_"])
    turns[turn][number] = prefix + turns[turn][number]
    return _answers(turns)


def _junk(_, turns, rng):
    answers = _answers(turns)
    answers[rng.randrange(len(answers))].insert(rng.randint(0, 1), rng.choice(_JUNK))
    return answers


def _steps(_, turns, rng):
    """A step for each call, as models do."""
    answers = [[*calls, DONE] for calls in turns]
    if rng.random() < 0.5:
        turn = _some(turns, rng)
        answers[turn].insert(1, "wait, what?")
    return answers


def _all_in_one_turn(_, turns, rng):
    """All calls in the first turn that has some, and again what its own turn asks for, or not."""
    first = _some(turns, rng)
    together = [call for calls in turns for call in calls]
    return _answers([together if number == first else [] for number in range(len(turns))])


def _early(_, turns, rng):
    """A call of the next turn, made too early and again in time."""
    turn = _some(turns, rng)
    if turn:
        turns[turn - 1].append(turns[turn][0])
        if rng.random() < 0.5:
            turns[turn].pop(0)
    return _answers(turns)


def _too_many_steps(_, turns, rng):
    """The driver ends such a turn, and the conversation with it."""
    turn = rng.randrange(len(turns))
    answers = _answers(turns)
    answers[turn] = [*answers[turn][:-1], *["pwd()"] * 21][:21]
    return answers[: turn + 1]


def _too_few_turns(_, turns, rng):
    return _answers(turns)[: rng.randrange(len(turns))]


def _nested(_, turns, rng):
    """A call in place of a value, which is run and whose result is passed on."""
    turn = _some(turns, rng)
    number = rng.randrange(len(turns[turn]))
    call = ast.parse(turns[turn][number], mode="eval").body
    if call.keywords:
        inner = rng.choice(["pwd()", "mean(numbers=[1, 2])", "nothing(a=1)", "ls(a=True)", "logout()"])
        rng.choice(call.keywords).value = ast.parse(inner, mode="eval").body
    turns[turn][number] = ast.unparse(call)
    return _answers(turns)


_CORRUPTIONS: dict[str, Callable[[Conversation, list[list[str]], random.Random], Turns]] = {
    function.__name__.strip("_").replace("_", " "): function
    for function in (
        _drop_call,
        _drop_turn,
        _change_argument,
        _drop_argument,
        _swap_turns,
        _swap_calls,
        _repeat_call,
        _extra_call,
        _filled_call,
        _wrong_name,
        _junk,
        _steps,
        _all_in_one_turn,
        _early,
        _too_many_steps,
        _too_few_turns,
        _nested,
    )
}
