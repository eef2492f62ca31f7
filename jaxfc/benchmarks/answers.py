"""Answers to BFCL's questions as a model might write them, right and wrong, for benchmarks of the checker."""

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxfc.calls.schema import AcceptedCall, Call, calls_from_accepted
from jaxfc.data.example import Example

Calls = list[Call]


class Answer(NamedTuple):
    """What is judged."""

    example: Example
    text: str


def make_answers(examples: Sequence[Example], count: int, seed: int) -> list[Answer]:
    """Answers to examples that expect calls, every category as often: half untouched, a third with calls changed.

    The rest is no list of calls any more. The verdict on any of them is the checker's to say.
    """
    rng = random.Random(seed)
    kinds: dict[str, list[Example]] = {}
    for example in examples:
        kinds.setdefault(example.kind, []).append(example)
    groups = list(kinds.values())
    return [_answer(rng.choice(groups[number % len(groups)]), rng) for number in range(count)]


def _answer(example: Example, rng: random.Random) -> Answer:
    calls = calls_from_accepted([_chosen(call, rng) for call in example.accepted], example.tools)
    kind = rng.random()
    if 0.5 < kind < 0.84:
        calls = rng.choice(CHANGES)(list(calls), rng)
    text = _written(calls, rng)
    return Answer(example, rng.choice(DAMAGES)(text, rng) if kind > 0.84 else text)


def _chosen(call: AcceptedCall, rng: random.Random) -> AcceptedCall:
    """The call with one of its accepted values for each argument."""
    return dataclasses.replace(call, arguments={name: (rng.choice(v),) for name, v in call.arguments.items() if v})


def _written(calls: Sequence[Call], rng: random.Random) -> str:
    quote = rng.choice("'\"")
    texts = (
        f"{call.name}({', '.join(f'{name}={_literal(value, quote)}' for name, value in call.arguments.items())})"
        for call in calls
    )
    return f"[{', '.join(texts)}]"


def _literal(value: Any, quote: str) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_literal(item, quote) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(key, quote)}: {_literal(item, quote)}' for key, item in value.items())}}}"
    if isinstance(value, str) and value.isprintable() and not set(value) & {quote, "\\"}:
        return f"{quote}{value}{quote}"
    return repr(value)


# Changes of the calls


def _replaced(calls: Calls, rng: random.Random, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Calls:
    place = rng.randrange(len(calls))
    calls[place] = Call(calls[place].name, change(dict(calls[place].arguments)))
    return calls


def _other_value(calls: Calls, rng: random.Random) -> Calls:
    def change(arguments: dict[str, Any]) -> dict[str, Any]:
        for name in rng.sample(list(arguments), min(1, len(arguments))):
            arguments[name] = _off(arguments[name])
        return arguments

    return _replaced(calls, rng, change)


def _off(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list | tuple):
        return [*value, *value[:1]]
    return value | {"more": 1} if isinstance(value, dict) else f"{value}x"


def _other_type(calls: Calls, rng: random.Random) -> Calls:
    def change(arguments: dict[str, Any]) -> dict[str, Any]:
        for name in rng.sample(list(arguments), min(1, len(arguments))):
            arguments[name] = [arguments[name]] if isinstance(arguments[name], str) else str(arguments[name])
        return arguments

    return _replaced(calls, rng, change)


def _without_argument(calls: Calls, rng: random.Random) -> Calls:
    return _replaced(calls, rng, lambda arguments: dict(list(arguments.items())[:-1]))


def _with_argument(calls: Calls, rng: random.Random) -> Calls:
    return _replaced(calls, rng, lambda arguments: arguments | {"verbose": True})


def _other_name(calls: Calls, rng: random.Random) -> Calls:
    place = rng.randrange(len(calls))
    calls[place] = Call(f"{calls[place].name}_", calls[place].arguments)
    return calls


def _one_more(calls: Calls, rng: random.Random) -> Calls:
    return [*calls, rng.choice(calls)]


def _last_first(calls: Calls, rng: random.Random) -> Calls:
    return calls[::-1]


CHANGES = (_other_value, _other_type, _without_argument, _with_argument, _other_name, _one_more, _last_first)


# Damages to the text


def _cut(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text))]


def _in_prose(text: str, rng: random.Random) -> str:
    return f"Sure, this call does it: {text}"


def _in_fence(text: str, rng: random.Random) -> str:
    return f"```python\n{text}\n```"


def _bare(text: str, rng: random.Random) -> str:
    return text.strip("[]")


DAMAGES = (_cut, _in_prose, _in_fence, _bare)
