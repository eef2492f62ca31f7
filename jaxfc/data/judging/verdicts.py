"""A judge's replies read strictly: text -> opinion or corrected calls; anything else is a typed problem."""

import json
import re
from typing import Any, NamedTuple

from jaxfc.data.plain import plain_json

LONGEST = 65536
"""Characters of a reply that is read."""
_REASONING = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*)\n?[ \t]*```", re.DOTALL)


class Unreadable(ValueError):
    """A reply is not what was asked for; the message says why, in words that the judge can be told."""


class Opinion(NamedTuple):
    """What the judge thinks of an answer."""

    correct: bool
    reason: str
    """On one line."""


def read_opinion(text: str) -> Opinion:
    """Read `{"reason": text, "correct": true or false}`.

    Raises:
        Unreadable: it is not exactly that.
    """
    document = _read_object(text, {"reason", "correct"})
    correct, reason = document["correct"], document["reason"]
    if not isinstance(correct, bool):
        raise Unreadable('"correct" is neither true nor false')
    if not isinstance(reason, str):
        raise Unreadable('"reason" is no text')
    return Opinion(correct, " ".join(reason.split()))


def read_calls(text: str) -> list[dict[str, Any]]:
    """Read `{"calls": [{"name": text, "arguments": object}, ...]}`.

    Raises:
        Unreadable: it is not exactly that.
    """
    calls = _read_object(text, {"calls"})["calls"]
    if not isinstance(calls, list):
        raise Unreadable('"calls" is no list')
    for call in calls:
        if not isinstance(call, dict) or set(call) != {"name", "arguments"}:
            raise Unreadable('a call is no object with exactly "name" and "arguments"')
        if not isinstance(call["name"], str) or not isinstance(call["arguments"], dict):
            raise Unreadable('"name" is no text, or "arguments" is no object')
    return calls


def _read_object(text: str, keys: set[str]) -> dict[str, Any]:
    """The one JSON object that a reply consists of, with exactly these keys.

    Reasoning in think tags before it, and one code fence round it, are passed over: models add them unasked, and what
    they enclose is not in doubt.
    """
    if len(text) > LONGEST:
        raise Unreadable(f"the reply is longer than {LONGEST} characters")
    body = _REASONING.sub("", text, count=1) if text.lstrip().startswith("<think>") else text
    body = body.strip()
    fenced = _FENCE.fullmatch(body)
    document = _loads(fenced.group(1) if fenced else body)
    if not isinstance(document, dict):
        raise Unreadable("the reply is no JSON object")
    if set(document) != keys:
        raise Unreadable(f"the object's keys are not exactly {', '.join(sorted(keys))}")
    return document


def _loads(text: str) -> Any:
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except Unreadable:
        raise
    except RecursionError:
        raise Unreadable("the reply is nested too deeply") from None
    except ValueError:
        raise Unreadable("the reply is not JSON") from None
    try:
        plain_json(document)
    except ValueError as error:
        raise Unreadable(f"the reply is no plain JSON ({error})") from None
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise Unreadable("a key stands twice in an object of the reply")
    return document


def _constant(name: str) -> float:
    raise Unreadable(f"the reply holds {name}, which is not JSON")
