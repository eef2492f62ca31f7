"""The AST stage: which rows are fit to train on, what was mended in them, and why the others are not."""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from jaxfc.calls.match import judge_answer
from jaxfc.calls.parse import Syntax
from jaxfc.calls.schema import (
    AcceptedCall,
    Call,
    Tool,
    accepted_from_bfcl,
    accepted_from_calls,
    calls_from_accepted,
)
from jaxfc.data.example import Example, kind_of
from jaxfc.data.offer import Offer, is_plain, make_offer, read_tools
from jaxfc.data.plain import DEEPEST, plain_json
from jaxfc.data.prompts import calls_text
from jaxfc.data.repair import Findings, Unfit, fit_value
from jaxfc.data.sources.rows import RawRow

EXACT_REPEAT = "exact repeat"
NORMALISED_REPEAT = "normalised repeat"
SAME_QUERY = "overlap: same query"
SAME_RUN = "overlap: ten words in a row"
SAME_TOOL = "overlap: same tool"
SPLIT_MIXED = "split: calls tools of both splits"
REASONS = {
    "judge: too long": "the row is longer than the judge may be sent",
    "judge: refused": "the endpoint does not take the row: its filter objects, or it exceeds the model's context",
    "judge: no verdict": "none of the judge's replies could be read as a verdict",
    "judge: no correction": "the answer was judged wrong, and no reply could be read as a corrected one",
    "judge: not corrected": "the answer was judged wrong, and so was each corrected one",
    "judge: wrong at the end": "what the other stages left was judged wrong",
    "row: no plain JSON": "holds NaN, an infinity, half a surrogate pair, or nests deeper than 50",
    "prompt: malformed": "not a list of user, assistant and tool messages that ends with one to answer",
    "prompt: empty": "the message to answer has no text",
    "tools: not parseable": "tools is not a list, or text that is not JSON",
    "schema: invalid": "a tool on offer has a schema that is none",
    "tools: duplicate name": "two tools of the row share a name",
    "tools: name is no identifier": "a name cannot be made a Python identifier, or two become the same one",
    "answer: not parseable": "answers is not a list of {name, arguments}, or text that is not JSON",
    "call: no tools offered": "a call is expected, but no tool is on offer",
    "call: unknown tool": "a call to a tool that is not on offer",
    "call: undeclared argument": "an argument that the tool does not declare",
    "call: missing required": "a required argument is missing",
    "call: placeholder value": "a value stands in for an earlier call's result (`API_call_3`)",
    "call: wrong type": "a value is not of its declared type, and no lossless cast makes it so",
    "call: outside enum": "a value is not among those that its schema lists",
    "answer: fails its own check": "the calls, written as text, do not parse or do not match themselves",
    EXACT_REPEAT: "an earlier row has the same conversation, tools and answers",
    NORMALISED_REPEAT: "an earlier row has the same words, names of tools and answers",
    SAME_QUERY: "an evaluation row asks the same",
    SAME_RUN: "ten words of a question follow each other in an evaluation row too",
    SAME_TOOL: "an evaluation row offers a tool of the same name with parameters of the same names",
    SPLIT_MIXED: "its calls use a tool that is held out and one that is not",
}
"""Every reason for which a row is dropped. A row with several faults gets the first in this order."""

_ORDER = {reason: place for place, reason in enumerate(REASONS)}
_MARK = "API_call_"
_PLACEHOLDER = re.compile(rf"\b{_MARK}\d+")


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """A row that is fit to train on."""

    example: Example
    repairs: tuple[str, ...]
    """What was mended, by the names in `repair.REPAIRS`; empty: kept as found."""
    where: str
    """File and line."""


@dataclasses.dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is not fit to train on."""

    id: str
    source: str
    reason: str
    """A key of `REASONS`."""
    detail: str
    """What was found."""
    where: str
    """File and line."""


def validate(row: RawRow) -> Kept | Dropped:
    """Hold a row against its own tools.

    Mechanical faults that have one obvious repair, which loses nothing, are mended; any other fault drops the row.
    The calls of a kept example, written as Python text, parse strictly and match its accepted calls.

    References: METHOD.md, section 5, stage 2.
    """
    findings = Findings(list(row.repairs))
    try:
        offer = _read_offer(row, findings)
        messages = _read_messages(row.messages, offer)
        calls = _read_calls(row.answers, offer, findings)
        tools = offer.tools
        example = Example(
            id=row.id,
            messages=messages,
            tools=tools,
            accepted=accepted_from_calls(calls, tools) if row.accepted is None else _read_accepted(row.accepted, offer),
            source=row.source,
            licence=row.licence,
            kind=kind_of(len(tools), len(calls)),
            thought=row.thought,
            text=row.text,
            weight=row.weight,
        )
        check_example(example)
    except Unfit as unfit:
        return Dropped(row.id, row.source, unfit.reason, unfit.detail, row.where)
    return Kept(example, tuple(findings.repairs), row.where)


def check_example(example: Example) -> None:
    """Write the accepted calls as the text that training teaches, and hold it against the accepted calls.

    Raises:
        Unfit: the text does not parse strictly, or is not judged right.
    """
    text = calls_text(calls_from_accepted(example.accepted, example.tools))
    verdict = judge_answer(text, example.tools, example.accepted, Syntax.STRICT)
    if not verdict.ok:
        raise Unfit("answer: fails its own check", f"{verdict.reason}: {verdict.detail}")


def _raise_first(findings: Findings) -> None:
    if findings.faults:
        raise Unfit(*min(findings.faults, key=lambda fault: _ORDER[fault[0]]))


def _read_offer(row: RawRow, findings: Findings) -> Offer:
    # Two levels are those of the row and of the list of tools.
    tools = read_tools(row.tools, DEEPEST - 2) if isinstance(row.tools, list) else None
    rest = [row.id, row.messages, row.answers, row.thought, row.text]
    if tools is None or False in [tool.is_plain for tool in tools] or not is_plain(rest, DEEPEST):
        _check_plain(row)
    if tools is None:
        raise Unfit("tools: not parseable", f"tools is {str(row.tools)[:60]!r}")
    return make_offer(tools, findings)


def _check_plain(row: RawRow) -> None:
    try:
        plain_json([row.id, row.messages, row.tools, row.answers, row.thought, row.text])
    except ValueError as error:
        raise Unfit("row: no plain JSON", str(error)) from error


def _read_messages(messages: Any, offer: Offer) -> tuple[dict[str, Any], ...]:
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise Unfit("prompt: malformed", "messages is not a list of objects")
    for place, message in enumerate(messages):
        role, content, calls = message.get("role"), message.get("content"), message.get("tool_calls")
        if role not in ("user", "assistant", "tool") and (role, place) != ("system", 0):
            raise Unfit("prompt: malformed", f"message {place + 1} has role {role!r}")
        if not isinstance(content, str) and not (content is None and calls):
            raise Unfit("prompt: malformed", f"the content of message {place + 1} is no text")
        if calls and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
            raise Unfit("prompt: malformed", f"tool_calls of message {place + 1} is not a list of objects")
    if messages[-1]["role"] not in ("user", "tool"):
        raise Unfit("prompt: malformed", f"the last message is the {messages[-1]['role']}'s: nothing to answer")
    if not (messages[-1]["content"] or "").strip():
        raise Unfit("prompt: empty", "the last message has no text")
    return tuple([_message(message, offer) for message in messages])


def _message(message: Mapping[str, Any], offer: Offer) -> dict[str, Any]:
    kept = {"role": message["role"], "content": message["content"] or ""}
    if message.get("tool_calls"):
        kept["tool_calls"] = [
            {**call, "function": offer.renamed(call["function"])}
            if isinstance(call.get("function"), dict)
            else offer.renamed(call)
            for call in message["tool_calls"]
        ]
    return kept


def _read_calls(answers: Any, offer: Offer, findings: Findings) -> tuple[Call, ...]:
    if not isinstance(answers, list):
        raise Unfit("answer: not parseable", f"answers is {str(answers)[:60]!r}")
    if answers and not offer.found:
        raise Unfit("call: no tools offered", f"{len(answers)} calls are expected")
    calls = [_read_call(answer, offer, findings) for answer in answers]
    _raise_first(findings)
    return tuple(call for call in calls if call)


def _read_call(answer: Any, offer: Offer, findings: Findings) -> Call | None:
    """One expected call, mended; None with a fault in `findings` when there is no telling what it calls."""
    name = answer.get("name") if isinstance(answer, dict) else None
    arguments = answer.get("arguments", {}) if isinstance(answer, dict) else None
    if isinstance(arguments, str):
        arguments = _arguments_from_text(arguments, findings)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        findings.faults.append(("answer: not parseable", f"{str(answer)[:60]!r} is no call"))
        return None
    if name not in offer.found:
        name = _stripped(name, findings)
    if name not in offer.found:
        findings.faults.append(("call: unknown tool", f"{name} is not among {', '.join(offer.found)}"))
        return None
    tool, new_names = offer.found[name].tool, offer.found[name].parameters
    kept: dict[str, Any] = {}
    for key, value in arguments.items():
        if key not in new_names:
            key = _stripped(key, findings)
        if key not in new_names:
            findings.faults.append(("call: undeclared argument", f"{name} has no parameter {key!r}"))
        elif value is None and new_names[key] not in tool.required:
            findings.repair("answer: null argument left out")
        else:
            kept[new_names[key]] = _read_value(value, tool, new_names[key], findings)
    for key in tool.required:
        if key not in kept:
            findings.faults.append(("call: missing required", f"{name} lacks {key}"))
    return Call(tool.name, kept)


def _read_accepted(answer: Any, offer: Offer) -> tuple[AcceptedCall, ...]:
    """BFCL's answer, under the names as kept; its calls are those that were read."""
    accepted = []
    for call in accepted_from_bfcl(answer):
        tool, new_names = offer.found[call.name.strip()].tool, offer.found[call.name.strip()].parameters
        unknown = [key for key in call.arguments if key not in new_names]
        if unknown:
            raise Unfit("call: undeclared argument", f"{call.name} has no parameter {unknown[0]!r}")
        arguments = {new_names[key]: values for key, values in call.arguments.items()}
        accepted.append(AcceptedCall(tool.name, arguments))
    return tuple(accepted)


def _stripped(name: str, findings: Findings) -> str:
    if name != name.strip():
        findings.repair("name: stripped")
    return name.strip()


def _arguments_from_text(text: str, findings: Findings) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    findings.repair("answer: arguments read from JSON text")
    return value


def _read_value(value: Any, tool: Tool, parameter: str, findings: Findings) -> Any:
    path = f"{tool.name}.{parameter}"
    # Texts without the mark, and numbers, are not worth writing as JSON.
    may_hold = _MARK in value if isinstance(value, str) else isinstance(value, list | dict)
    found = _PLACEHOLDER.search(json.dumps(value, ensure_ascii=False)) if may_hold else None
    if found:
        findings.faults.append(("call: placeholder value", f"{path} stands for the result of {found.group()}"))
    return fit_value(value, tool.properties[parameter], path, findings)
