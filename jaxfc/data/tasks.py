"""A seeded generator of function-calling tasks, for the quickstart, the seed model and the tests."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxfc.calls.schema import AcceptedCall, Call, Tool, accepted_from_calls
from jaxfc.config import Careless
from jaxfc.data.example import Example
from jaxfc.data.words import (
    HELD_OUT_NOUNS,
    PEOPLE,
    PLACES,
    THINGS,
    TRAIN_NOUNS,
    TUNE_NOUNS,
    VERBS,
    bucket,
    made_up,
)

SPLITS = ("train", "tune", "held_out")
KINDS = ("single", "choice", "several", "none")
NOUNS = {"train": TRAIN_NOUNS, "tune": TUNE_NOUNS, "held_out": HELD_OUT_NOUNS}
LICENCE = "CC0-1.0"


@dataclasses.dataclass(frozen=True)
class _Parameter:
    """A kind of parameter: its schema, how its values are drawn, and how a query says them."""

    name: str
    schema: dict[str, Any]
    draw: Callable[[random.Random], Any]
    phrases: tuple[str, ...]
    """Each with one `{}` for the value as the query says it."""

    def say(self, rng: random.Random, value: Any) -> str:
        phrase = rng.choice(self.phrases)
        if isinstance(value, list):
            words = [str(item) for item in value]
            return phrase.format(words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}")
        return phrase.format(value)


class _Flag(_Parameter):
    """A boolean: the first half of its phrases says True, the second False."""

    def say(self, rng: random.Random, value: bool) -> str:
        half = len(self.phrases) // 2
        return rng.choice(self.phrases[:half] if value else self.phrases[half:])


def _word(rng: random.Random, words: tuple[str, ...]) -> str:
    return rng.choice(words) if rng.random() < 0.5 else made_up(rng)


def _words(rng: random.Random) -> str:
    return " ".join(_word(rng, THINGS) for _ in range(rng.choice((1, 1, 2))))


def _items(draw: Callable[[random.Random], Any]) -> Callable[[random.Random], list]:
    return lambda rng: [draw(rng) for _ in range(rng.randint(1, 3))]


def _date(rng: random.Random) -> str:
    return f"20{rng.randint(20, 39)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def _number(low: int, high: int) -> Callable[[random.Random], int]:
    return lambda rng: rng.randint(low, high)


def _decimal(rng: random.Random) -> float:
    return rng.randint(1, 999) / 10


def _enum(*values: str) -> tuple[dict[str, Any], Callable[[random.Random], str]]:
    return {"type": "string", "enum": list(values)}, lambda rng: rng.choice(values)


_TEXT, _INTEGER, _FLOAT, _BOOLEAN = ({"type": kind} for kind in ("string", "integer", "float", "boolean"))
_TEXTS, _INTEGERS = ({"type": "array", "items": items} for items in (_TEXT, _INTEGER))

PARAMETERS = (
    _Parameter("city", _TEXT, lambda rng: _word(rng, PLACES), ("in {}", "near {}", "located in {}")),
    _Parameter("person", _TEXT, lambda rng: _word(rng, PEOPLE), ("for {}", "on behalf of {}")),
    _Parameter("title", _TEXT, _words, ("titled {}", "called {}", "named {}")),
    _Parameter("note", _TEXT, _words, ('with the note "{}"', 'saying "{}"')),
    _Parameter("date", _TEXT, _date, ("on {}", "dated {}")),
    _Parameter("count", _INTEGER, _number(2, 99), ("{} of them", "a total of {}")),
    _Parameter("days", _INTEGER, _number(1, 60), ("over {} days", "lasting {} days")),
    _Parameter("limit", _INTEGER, _number(1, 500), ("at most {}", "up to {}", "no more than {}")),
    _Parameter("page", _INTEGER, _number(1, 200), ("from page {}", "on page {}")),
    _Parameter("price", _FLOAT, _decimal, ("costing {}", "priced at {}")),
    _Parameter("weight", _FLOAT, _decimal, ("weighing {}", "of weight {}")),
    _Parameter("score", _FLOAT, _decimal, ("with a score of {}", "scored {}")),
    _Flag("urgent", _BOOLEAN, lambda rng: rng.random() < 0.5, ("urgently", "right away", "without haste", "no rush")),
    _Flag("public", _BOOLEAN, lambda rng: rng.random() < 0.5, ("publicly", "for all to see", "privately", "in secret")),
    _Parameter("size", *_enum("small", "medium", "large"), ("in {} size", "sized {}")),
    _Parameter("color", *_enum("red", "green", "blue", "black"), ("colored {}", "in the color {}")),
    _Parameter("units", *_enum("metric", "imperial"), ("in {} units", "using {} units")),
    _Parameter("tags", _TEXTS, _items(lambda rng: _word(rng, THINGS)), ("tagged {}", "with tags {}")),
    _Parameter("ids", _INTEGERS, _items(_number(1, 999)), ("with ids {}", "numbered {}")),
)
_BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}
_POLITE = ("", "", "", "please ", "can you ", "I want to ", "could you please ")
_JOINS = (" and ", ", then ", ". Also ", " and also ")
_PLANS = ("", "", "Plan: ", "Steps: ")
_NOTHING = ("no tool fits", "nothing here can do that", "none of the tools fits")


def generate(seed: int, split: str, index: int, careless: Careless | None = None) -> Example:
    """Task number `index` of a split: the same arguments always give the same task.

    Tools of the splits `tune` and `held_out` are named after nouns that no training task uses, and their values
    (words, numbers, dates) are ones that training never shows.

    Args:
        seed: of the whole set.
        split: one of `SPLITS`.
        index: from 0, without end.
        careless: the answer is a careless teacher's, with the faults of real data.
    """
    rng = random.Random(f"{seed}/{split}/{index}")
    kind = KINDS[index % len(KINDS)]
    tools, requests = _TASKS[kind](rng, split)
    rng.shuffle(tools)
    query = _sentence(rng, [request.phrase for request in requests])
    calls = [] if kind == "none" else [request.call for request in requests]
    if careless is not None:
        calls = _spoil(rng, careless, tools, calls)
    return Example(
        id=f"task-{seed}-{split}-{index}",
        messages=({"role": "user", "content": query},),
        tools=tuple(tools),
        accepted=_accepted(calls, tools, exact=careless is None),
        source="tasks",
        licence=LICENCE,
        kind=kind,
        thought=_thought(rng, [request.wish for request in requests], calls),
    )


def _accepted(calls: list[Call], tools: list[Tool], *, exact: bool) -> tuple[AcceptedCall, ...]:
    if exact:
        return accepted_from_calls(calls, tools)
    return tuple(AcceptedCall(call.name, {key: (value,) for key, value in call.arguments.items()}) for call in calls)


def _value(rng: random.Random, parameter: _Parameter, split: str) -> Any:
    """A value that belongs to the split: enums and flags are shared, all others are held out by hash."""
    while True:
        value = parameter.draw(rng)
        if "enum" in parameter.schema or isinstance(value, bool):
            return value
        parts = value if isinstance(value, list) else str(value).split()
        if all((bucket(str(part)) == 0) == (split != "train") for part in parts):
            return value


def _noun(rng: random.Random, split: str, taken: set[str]) -> str:
    """A noun of the split; half of the training tools get a made-up one, so that names are copied, not remembered."""
    while True:
        noun = made_up(rng) if split == "train" and rng.random() < 0.5 else rng.choice(NOUNS[split])
        held_out = noun in TUNE_NOUNS or noun in HELD_OUT_NOUNS
        if noun not in taken and not (split == "train" and held_out):
            taken.add(noun)
            return noun


def _tool(rng: random.Random, verb: str, noun: str, most: int) -> Tool:
    """A tool of up to `most` parameters, the first of them required."""
    count = rng.randint(1, most)
    parameters = rng.sample(PARAMETERS, count)
    optional = [position > 0 and rng.random() < 0.3 for position in range(count)]
    return Tool(
        name=f"{verb}_{noun}",
        description="",
        properties={parameter.name: parameter.schema for parameter in parameters},
        required=tuple(p.name for p, left_out in zip(parameters, optional, strict=True) if not left_out),
    )


def _tools(rng: random.Random, split: str, count: int, *, most: int) -> list[Tool]:
    """Distinct tools of up to `most` parameters; two of them may share their noun, never verb and noun."""
    tools: list[Tool] = []
    taken: set[str] = set()
    while len(tools) < count:
        verbs = rng.sample(list(VERBS), 2)
        noun = _noun(rng, split, taken)
        both = count - len(tools) > 1 and rng.random() < 0.5
        tools += [_tool(rng, verb, noun, most) for verb in (verbs if both else verbs[:1])]
    return tools


class _Request(NamedTuple):
    """One thing asked for."""

    call: Call
    """What serves it."""
    wish: str
    """What is wanted in the words of the query: verb and noun."""
    phrase: str
    """The whole of it as the query says it."""


def _request(rng: random.Random, tool: Tool, split: str) -> _Request:
    """Ask for a call of the tool."""
    verb, noun = tool.name.split("_")
    said = rng.choice(VERBS[verb])
    phrases, arguments = [f"{said} {rng.choice(('a', 'the', 'my'))} {noun}"], {}
    for name in tool.properties:
        if name in tool.required or rng.random() < 0.5:
            arguments[name] = _value(rng, _BY_NAME[name], split)
            phrases.append(_BY_NAME[name].say(rng, arguments[name]))
    return _Request(Call(tool.name, arguments), f"{said} {noun}", " ".join(phrases))


def _sentence(rng: random.Random, phrases: list[str]) -> str:
    text = rng.choice(_POLITE) + phrases[0]
    for phrase in phrases[1:]:
        text += rng.choice(_JOINS) + phrase
    return (text[0].upper() + text[1:] if rng.random() < 0.7 else text) + rng.choice((".", "", ""))


def _single(rng: random.Random, split: str) -> tuple[list[Tool], list[_Request]]:
    tools = _tools(rng, split, 1, most=4)
    return tools, [_request(rng, tools[0], split)]


def _choice(rng: random.Random, split: str) -> tuple[list[Tool], list[_Request]]:
    tools = _tools(rng, split, rng.randint(2, 3), most=3)
    return tools, [_request(rng, rng.choice(tools), split)]


def _several(rng: random.Random, split: str) -> tuple[list[Tool], list[_Request]]:
    tools = _tools(rng, split, rng.randint(1, 3), most=2)
    count = 3 if rng.random() < 0.15 else 2
    return tools, [_request(rng, rng.choice(tools), split) for _ in range(count)]


def _none(rng: random.Random, split: str) -> tuple[list[Tool], list[_Request]]:
    """The query asks for something that is not among the tools: another noun, or a verb that none of them has."""
    wanted, *tools = _tools(rng, split, rng.randint(2, 4), most=3)
    return tools, [_request(rng, wanted, split)]


_TASKS = {"single": _single, "choice": _choice, "several": _several, "none": _none}


def _thought(rng: random.Random, wishes: list[str], calls: list[Call]) -> str:
    """The chain of thought: for each request, in the words of the query, the tool that serves it."""
    if not calls:
        return f"{wishes[0]}: {rng.choice(_NOTHING)}"
    steps = [f"{wish}: {call.name}" for wish, call in zip(wishes, calls, strict=False)]
    return rng.choice(_PLANS) + "; ".join(steps)


def _spoil(rng: random.Random, careless: Careless, tools: list[Tool], calls: list[Call]) -> list[Call]:
    """What a careless teacher answers instead."""
    if not calls and rng.random() < careless.invented_call:
        calls = [_request(rng, rng.choice(tools), "train").call]
    if len(calls) > 1 and rng.random() < careless.lost_call:
        calls = calls[:-1]
    return [_spoil_call(rng, careless, call) for call in calls]


def _spoil_call(rng: random.Random, careless: Careless, call: Call) -> Call:
    arguments = dict(call.arguments)
    if rng.random() < careless.quoted_numbers:
        arguments = {
            name: str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
            for name, value in arguments.items()
        }
    if len(arguments) > 1 and rng.random() < careless.dropped_argument:
        arguments.popitem()
    return Call(call.name, arguments)
