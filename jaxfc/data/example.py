"""Example: one record of a dataset, and its JSON form."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxfc.calls.schema import AcceptedCall, Tool


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
