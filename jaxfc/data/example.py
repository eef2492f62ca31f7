"""Example: one record of a dataset, and its JSON form."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from jaxfc.calls.schema import AcceptedCall, Tool, accepted_from_bfcl, accepted_to_bfcl


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """A conversation to answer, the tools on offer, and the calls that are accepted as its answer."""

    id: str
    """Unique within its file; named in every message about the example."""
    messages: tuple[Mapping[str, Any], ...]
    """Chat messages (`role`, `content`, and on history turns `tool_calls`), without a system prompt; the last is the
    one to answer."""
    tools: tuple[Tool, ...]
    accepted: tuple[AcceptedCall, ...]
    """Empty: no call is the right answer."""
    source: str = ""
    licence: str = ""
    """SPDX expression."""
    kind: str = ""
    """What is asked, where the source says so: `single`, `choice`, `several`, `none`, or a benchmark's category."""
    thought: str = ""
    """The source's own reasoning, used as the chain of thought of supervised training."""
    text: str = ""
    """The source's own answer text where it is not calls: what supervised training says instead of a call."""
    weight: float = 1.0
    """How often an epoch shows it on average: 2 is twice, 0.5 every other epoch."""
    pass_rate: float | None = None
    """Part of a given model's completions that are right, 0 to 1; None: not measured."""
    origin: str = ""
    """File and line that it was made from."""
    repairs: tuple[str, ...] = ()
    """What was mended in it, by the names in `repair.REPAIRS`."""


def kind_of(tools: int, calls: int) -> str:
    """What is asked, from how many tools are on offer and how many calls are expected."""
    if calls == 0:
        return "none"
    if calls > 1:
        return "several"
    return "choice" if tools > 1 else "single"


def example_to_json(example: Example) -> str:
    """One line of JSON that `example_from_json` turns back into an equal example."""
    document = _fields_of(example)
    document["tools"] = [_fields_of(tool) for tool in example.tools]
    document["accepted"] = accepted_to_bfcl(example.accepted)
    return json.dumps(document, ensure_ascii=False, allow_nan=False)


def _fields_of(record: Any) -> dict[str, Any]:
    """Field -> value, without the copy of everything that `dataclasses.asdict` makes."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def example_from_json(text: str | bytes) -> Example:
    """The example that `example_to_json` wrote.

    Raises:
        ValueError: the text is no JSON, or not that of an example.
    """
    document = json.loads(text)
    names = {field.name for field in dataclasses.fields(Example)}
    if not isinstance(document, dict) or set(document) != names:
        raise ValueError(f"an example is an object with {', '.join(sorted(names))}")
    try:
        tools = tuple(Tool(**tool | {"required": tuple(tool["required"])}) for tool in document["tools"])
    except (TypeError, KeyError) as error:
        raise ValueError(f"not the tools of an example: {error}") from error
    accepted, repairs = accepted_from_bfcl(document["accepted"]), tuple(document["repairs"])
    messages = tuple(document["messages"])
    return Example(**document | {"messages": messages, "tools": tools, "accepted": accepted, "repairs": repairs})
