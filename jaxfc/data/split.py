"""Splits by tool: what is held out calls tools that training never offers."""

import dataclasses
import hashlib
from collections.abc import Mapping

from jaxfc.data.example import Example, kind_of

TRAIN, HELD_OUT = "train", "held_out"


@dataclasses.dataclass(frozen=True, slots=True)
class Placed:
    """An example in its split."""

    split: str
    example: Example
    """With the tools of that split only."""
    withdrawn: int
    """How many tools of the other split were taken off its offer; none of them is called."""


def split_of_tool(name: str, *, held_out: float, seed: int) -> str:
    """The split of a tool, from its name alone: it does not depend on the other data.

    Args:
        name: of the tool, as kept.
        held_out: about which part of all tools is held out, 0 to 1.
        seed: another seed holds other tools out.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return HELD_OUT if int.from_bytes(digest[:8], "big") < held_out * 2**64 else TRAIN


def place(example: Example, fixed: Mapping[str, str], *, held_out: float, seed: int) -> Placed | None:
    """Put an example where the tools that it calls belong; None when it calls tools of both splits.

    Calls in the conversation so far count too. Without any call, the first tool on offer decides. Tools of the other
    split are taken off the offer, so that no tool that is offered in one split is offered in the other; the answer
    stays right, since none of them is called.

    Args:
        example: any.
        fixed: the split of tools for which it is settled already; for the others their name decides.
        held_out: see `split_of_tool`.
        seed: see `split_of_tool`.
    """
    splits = {
        tool.name: fixed.get(tool.name) or split_of_tool(tool.name, held_out=held_out, seed=seed)
        for tool in example.tools
    }
    wanted = {splits[name] for name in _called(example) if name in splits} or set(list(splits.values())[:1])
    if len(wanted) > 1:
        return None
    split = wanted.pop() if wanted else TRAIN
    tools = tuple(tool for tool in example.tools if splits[tool.name] == split)
    withdrawn = len(example.tools) - len(tools)
    if withdrawn:
        example = dataclasses.replace(example, tools=tools, kind=kind_of(len(tools), len(example.accepted)))
    return Placed(split, example, withdrawn)


def _called(example: Example) -> set[str]:
    names = {call.name for call in example.accepted}
    for message in example.messages:
        for call in message.get("tool_calls", ()):
            name = call.get("function", call).get("name")
            if isinstance(name, str):
                names.add(name)
    return names
