"""System prompts of public datasets: the tools that they list, and what else of them is worth keeping."""

import json
import re
from typing import Any

from jaxfc.data.sources.notations import literal

_TOOLS_TAG = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)
_SEPARATORS = re.compile(r"[\s,]*")
# What day it is decides the arguments of many a call, so it outlives the prompt that it stands in.
_TODAY = re.compile(
    r"[^.\n]*\b(?:current (?:date|time|day|datetime)|today)\b[^\n]*?\d[^\n]*?(?=\.\s|\.[A-Z]|\.?(?:\n|\Z))",
    re.IGNORECASE,
)


def read_offer(tools: Any, system: Any) -> tuple[Any, str]:
    """The tools on offer, and the system prompt that stays.

    A prompt that lists the tools in a notation of its own goes, but for the sentence that says what day it is.

    Args:
        tools: as the row lists them beside the conversation; None, empty: it does not.
        system: the row's system prompt; None: it has none.

    Returns:
        Tools, or the text in which none are found, or None where the row says nothing of tools; and the prompt, which
        is empty where nothing of it stays.
    """
    text = system if isinstance(system, str) else ""
    listed = tools_in(text) if text.strip() else None
    if isinstance(listed, list):
        today = _TODAY.search(_TOOLS_TAG.sub("", text))
        text = today[0].strip() if today else ""
    given = tools if tools not in (None, "", []) else listed
    return (tools if given is None or (isinstance(given, str) and tools == []) else given), text.strip()


def tools_in(text: str) -> Any:
    """The tools that a system prompt lists in JSON, in `<tools>` or in its text; the text itself where it has none."""
    # A prompt that explains its tags mentions them before it uses them.
    tagged = [part.strip() for part in _TOOLS_TAG.findall(text) if part.strip()]
    if tagged:
        return next((tools for part in tagged if (tools := _listed(part))), [] if "[]" in tagged else text)
    start = re.search(r"\[\s*\{|\{", text)
    tools = _listed(text[start.start() :]) if start else []
    return tools or ([] if re.search(r"\[\s*\]", text) else text)


def _listed(text: str) -> list[Any]:
    """The tools of an array, or of objects one after another; empty where there are none."""
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
    return value if all(isinstance(tool, dict) and ("name" in tool or "function" in tool) for tool in value) else []


def names_of(tools: Any) -> list[str]:
    """The names of the tools that have one."""
    offered = [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    functions = (tool.get("function", tool) for tool in offered)
    names = (function.get("name") for function in functions if isinstance(function, dict))
    return [name for name in names if isinstance(name, str) and name]
