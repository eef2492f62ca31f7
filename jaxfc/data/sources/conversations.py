"""Conversations of public datasets -> one raw row for each turn of the assistant's, with the history before it."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from jaxfc.data.sources.notations import literal, read_reply
from jaxfc.data.sources.offers import names_of, read_offer
from jaxfc.data.sources.rows import Place, RawRow, licence_of, parsed, row_id

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "developer": "system",
    "function_call": "assistant",
    "tool_call": "assistant",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "observation": "tool",
}
_CALLS_ONLY = ("function_call", "tool_call")
_RESPONSE = re.compile(r"<tool_response>(.*?)(?:</tool_response>|\Z)", re.DOTALL)
_THOUGHT = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
_GLAIVE_TURN = re.compile(r"(?:\A|\n)\s*(USER|ASSISTANT|FUNCTION RESPONSE):")
_GLAIVE_ROLES = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}


class Turn(NamedTuple):
    """One message of a conversation."""

    role: Any
    content: Any
    calls: Any
    """`[{name, arguments}]` of an assistant's turn; what stands in their place where that cannot be read."""
    thought: str = ""
    learned: bool = True
    """Whether this turn of the assistant's is one to learn."""


def read_messages(row: dict[str, Any], place: Place) -> Iterator[RawRow]:
    """OpenAI's form: `{messages: [{role, content, tool_calls}], tools}`, or `functions` with `function_call`."""
    messages = parsed(row["messages"])
    messages = list(messages) if isinstance(messages, list) else []
    system = None
    if messages and isinstance(messages[0], dict) and messages[0].get("role") in ("system", "developer"):
        system = _joined(messages.pop(0).get("content"))
    tools, prompt = read_offer(parsed(row.get("tools", row.get("functions"))), system)
    turns = [_turn_of_message(message, names_of(tools)) for message in messages]
    return _rows(prompt, turns, tools, row, place)


def read_conversation(row: dict[str, Any], place: Place) -> Iterator[RawRow]:
    """`{conversations: [{from, value}]}`, the tools in `tools` or in the system turn (ToolACE, Hermes, ShareGPT)."""
    turns = [
        (turn.get("from", turn.get("role")), turn.get("value", turn.get("content")))
        for turn in _transposed(parsed(row["conversations"]))
    ]
    system = turns.pop(0)[1] if turns and turns[0][0] == "system" else row.get("system")
    tools, prompt = read_offer(parsed(row.get("tools")), system)
    return _rows(prompt, [_turn_of_text(*turn, names_of(tools)) for turn in turns], tools, row, place)


def read_chat(row: dict[str, Any], place: Place) -> Iterator[RawRow]:
    """Glaive's form: `{system: "SYSTEM: ...", chat: "USER: ... ASSISTANT: ... FUNCTION RESPONSE: ..."}`."""
    system, chat = str(row["system"] or ""), str(row["chat"] or "")
    # Without any it says so in words.
    tools, prompt = read_offer(None, system) if "{" in system else ([], "")
    found = list(_GLAIVE_TURN.finditer(chat))
    ends = [*(turn.start() for turn in found[1:]), len(chat)]
    texts = [chat[turn.end() : end].replace("<|endoftext|>", "").strip() for turn, end in zip(found, ends, strict=True)]
    roles, names = [_GLAIVE_ROLES[turn[1]] for turn in found], names_of(tools)
    turns = [_turn_of_text(role, text, names) for role, text in zip(roles, texts, strict=True)]
    return _rows(prompt, turns, tools, row, place)


def _rows(system: str, turns: Iterable[Turn], tools: Any, row: dict[str, Any], place: Place) -> Iterator[RawRow]:
    """One row for each turn of the assistant's; a conversation without any gives one row, which has no answer."""
    history: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    name, serial = row_id(row, place), 0
    given = {"where": place.short, "source": str(row.get("source") or ""), "licence": licence_of(row), "tools": tools}
    for turn in turns:
        if turn.role == "assistant":
            serial += 1
            if turn.learned:
                text = turn.content if not turn.calls and isinstance(turn.content, str) else ""
                # A turn that says nothing at all is no answer.
                answers = turn.calls if turn.calls or text.strip() else None
                answer = {"answers": answers, "thought": turn.thought, "text": text}
                yield RawRow(id=f"{name}#{serial}", messages=list(history), **answer, **given)
        history.append(_message(turn))
    if not serial:
        yield RawRow(id=name, messages=history, answers=None, **given)


def _message(turn: Turn) -> dict[str, Any]:
    """A turn as the history shows it: without its chain of thought."""
    if not isinstance(turn.calls, list):
        return {"role": turn.role, "content": str(turn.calls)}
    message = {"role": turn.role, "content": turn.content}
    return message | {"tool_calls": turn.calls} if turn.calls else message


def _turn_of_text(role: Any, text: Any, names: list[str]) -> Turn:
    """A turn whose calls stand in its text."""
    kind = _ROLES.get(role, role) if isinstance(role, str) else role
    if not isinstance(text, str):
        return Turn(kind, text, [])
    if role in _CALLS_ONLY:
        calls = literal(text)
        return Turn(kind, "", text if calls is None else calls if isinstance(calls, list) else [calls])
    if kind == "assistant":
        return Turn(kind, *read_reply(text, names))
    if kind == "tool" and (responses := _RESPONSE.findall(text)):
        return Turn(kind, "\n".join(response.strip() for response in responses), [])
    return Turn(kind, text, [])


def _turn_of_message(message: Any, names: list[str]) -> Turn:
    """A turn of OpenAI's form, whose calls stand beside its text."""
    if not isinstance(message, dict):
        return Turn(None, message, [])
    role, content = message.get("role"), _joined(message.get("content"))
    calls = message.get("tool_calls") or ([message["function_call"]] if message.get("function_call") else [])
    if role != "assistant" or not calls:
        turn = _turn_of_text(role, content, names)
    else:
        calls = [_call(call) for call in calls] if isinstance(calls, list) else calls
        turn = Turn(role, _THOUGHT.sub("", content) if isinstance(content, str) else content, calls)
    thought = message.get("reasoning_content")
    thought = thought if isinstance(thought, str) and thought else turn.thought
    # A weight of 0 marks a turn of the assistant's that is shown and not learned.
    return turn._replace(thought=thought, learned=message.get("weight") != 0)


def _joined(content: Any) -> Any:
    """Content as text where it is a list of parts that are text."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    return content


def _call(call: Any) -> Any:
    """`{name, arguments}` of a call in OpenAI's form, whose arguments are JSON text."""
    function = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(function, dict):
        return call
    return {"name": function.get("name"), "arguments": parsed(function.get("arguments") or {})}


def _transposed(turns: Any) -> list[dict[str, Any]]:
    """The turns as objects; some tables hold a list of objects as an object of lists."""
    if isinstance(turns, dict) and all(isinstance(column, list) for column in turns.values()):
        turns = [dict(zip(turns, values, strict=False)) for values in zip(*turns.values(), strict=False)]
    return [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
