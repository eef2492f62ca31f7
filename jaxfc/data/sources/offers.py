"""System prompts of public datasets: the tools that they list, and what else of them is worth keeping."""

import itertools
import json
import re
from typing import Any

from jaxfc.data.sources.notations import literal, tagged

_SEPARATORS = re.compile(r"[\s,]*")
_TODAY = re.compile(r"\b(?:current (?:date|time|day|datetime)|today)\b", re.IGNORECASE)
_END_OF_SENTENCE = re.compile(r"\.(?!\d)|\n|\Z")
_MOST_MENTIONS = 8
_LONGEST_SENTENCE = 200


def read_offer(tools: Any, system: Any) -> tuple[Any, str]:
    """The tools on offer, and the system prompt that stays.

    A prompt that lists the tools in a notation of its own goes, but for the sentence that says what day it is, since
    that decides the arguments of many a call.

    Args:
        tools: as the row lists them beside the conversation; None, empty: it does not.
        system: the row's system prompt; None: it has none.

    Returns:
        Tools, or the text in which none are found, or None where the row says nothing of tools; and the prompt, which
        is empty where nothing of it stays.
    """
    text = system if isinstance(system, str) else ""
    listed, rest = tools_in(text) if text.strip() else (None, "")
    if isinstance(listed, list):
        text = _today(rest)
    given = tools if tools not in (None, "", []) else listed
    return (tools if given is None or (isinstance(given, str) and tools == []) else given), text.strip()


def tools_in(text: str) -> tuple[Any, str]:
    """The tools that a system prompt lists in JSON, in `<tools>` or in its text, and the rest of the prompt.

    The text itself takes their place where it has none.
    """
    parts, rest = tagged(text, "tools")
    # A prompt that explains its tags mentions them before it uses them.
    if parts := [part.strip() for part in parts if part.strip()]:
        return next((tools for part in parts if (tools := _listed(part)[0])), [] if "[]" in parts else text), rest
    start = re.search(r"\[\s*\{|\{", text)
    tools, end = _listed(text[start.start() :]) if start else ([], 0)
    if tools:
        return tools, f"{text[: start.start()]}\n{text[start.start() + end :]}"
    return ([] if re.search(r"\[\s*\]", text) else text), text


def _listed(text: str) -> tuple[list[Any], int]:
    """The tools of an array, or of objects one after another, and where they end; empty where there are none."""
    decoder, position, found = json.JSONDecoder(), 0, []
    while position < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            break
        found += value if isinstance(value, list) else [value]
        position = _SEPARATORS.match(text, position).end()
    value = found or literal(text)
    value = value if isinstance(value, list) else [value]
    are_tools = all(isinstance(tool, dict) and ("name" in tool or "function" in tool) for tool in value)
    return (value, position) if are_tools else ([], 0)


def _today(text: str) -> str:
    """The sentence that says what day it is, if there is one."""
    for found in itertools.islice(_TODAY.finditer(text), _MOST_MENTIONS):
        start = max(text.rfind(mark, 0, found.start()) for mark in (".", "\n")) + 1
        sentence = text[start : _END_OF_SENTENCE.search(text, found.end()).start()].strip()
        if len(sentence) <= _LONGEST_SENTENCE and any(character.isdigit() for character in sentence):
            return sentence
    return ""


def names_of(tools: Any) -> list[str]:
    """The names of the tools that have one."""
    offered = [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    functions = (tool.get("function", tool) for tool in offered)
    names = (function.get("name") for function in functions if isinstance(function, dict))
    return [name for name in names if isinstance(name, str) and name]
