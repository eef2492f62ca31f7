"""Bytes of tokens -> text, cut where it should stop, and split into chain of thought and answer, piece by piece."""

import codecs
from collections.abc import Sequence
from typing import Literal, NamedTuple

from jaxfc.config import Prompt
from jaxfc.data.prompts import ANSWER, END_ANSWER, END_THINK, THINK


class Utf8:
    """Bytes -> text. A character comes whole, with the last of its bytes; what is no UTF-8 becomes U+FFFD."""

    def __init__(self):
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, data: bytes, last: bool) -> str:
        """The text that is now certain."""
        return self._decoder.decode(data, last)

    @property
    def held(self) -> bytes:
        """What may be the begin of a character."""
        return self._decoder.getstate()[0]


class Stops:
    """Ends a text before the first of some strings, which is never let through, in part neither."""

    def __init__(self, strings: Sequence[str]):
        self._strings = strings
        self.held = ""
        """What may be the begin of one."""
        self.found = False
        self.beyond = 0
        """Characters from the begin of the one that was found to the end of what was added."""

    def add(self, text: str, last: bool) -> str:
        """The text that is now certain; none after `found`."""
        if self.found:
            return ""
        text, self.held = self.held + text, ""
        places = [place for place in map(text.find, self._strings) if place >= 0]
        if places:
            self.found, self.beyond = True, len(text) - min(places)
            return text[: min(places)]
        if not last:
            keep = _begun(text, self._strings)
            text, self.held = text[: len(text) - keep], text[len(text) - keep :]
        return text


def _begun(text: str, strings: Sequence[str]) -> int:
    """How many characters at the end of a text may be the begin of one of the strings."""
    longest = max(map(len, strings), default=1) - 1
    for count in range(min(longest, len(text)), 0, -1):
        if any(string.startswith(text[-count:]) for string in strings):
            return count
    return 0


class Parts(NamedTuple):
    """What is new of a reply."""

    thought: str
    answer: str


class Splitter:
    """Splits a reply into its chain of thought and its answer, both without tags and without white space around them.

    A reply that does not begin with a think block begins with its answer. One that is cut within its think block has
    no answer.
    """

    def __init__(self, prompt: Prompt):
        """Begin where the model begins to write.

        Args:
            prompt: how its replies look.
        """
        self._part: Literal["thought", "answer"] = "thought" if prompt.opens_think else "answer"
        self._tags = (ANSWER, END_ANSWER) if prompt.wrapper == "tags" else ()
        self._held = ""
        # White space that comes before whatever a part says next; None: it has said nothing.
        self._space: dict[str, str | None] = {"thought": None, "answer": None}

    def add(self, text: str, last: bool) -> Parts:
        """What is now certain."""
        self._held += text
        said = {"thought": "", "answer": ""}
        while True:
            turn = END_THINK if self._part == "thought" else THINK
            before, found, rest = self._held.partition(turn)
            if not found:
                break
            said[self._part] += self._say(before)
            self._part, self._held = "answer" if self._part == "thought" else "thought", rest
        tags = (END_THINK,) if self._part == "thought" else (THINK, *self._tags)
        certain = len(self._held) - (0 if last else _begun(self._held, tags))
        text, self._held = self._held[:certain], self._held[certain:]
        said[self._part] += self._say(text)
        return Parts(**said)

    def _say(self, text: str) -> str:
        """What a text adds to the part that it belongs to; white space at its end waits for more."""
        if self._part == "answer":
            for tag in self._tags:
                text = text.replace(tag, "")
        space = self._space[self._part]
        text = text.lstrip() if space is None else space + text
        kept = text.rstrip()
        if kept or space is not None:
            self._space[self._part] = text[len(kept) :]
        return kept
