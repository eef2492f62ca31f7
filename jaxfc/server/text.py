"""Bytes of tokens -> text, cut where it should stop, and split into chain of thought and answer, piece by piece."""

import codecs
from collections.abc import Sequence
from typing import NamedTuple

from jaxfc.config import Prompt
from jaxfc.data.prompts import ANSWER, END_ANSWER, END_THINK, THINK


class Utf8:
    """Bytes -> text. A character comes whole, with the last of its bytes; what is no UTF-8 becomes U+FFFD."""

    def __init__(self):
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, data: bytes, last: bool) -> str:
        """The text that is now certain."""
        return self._decoder.decode(data, last)


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

    A reply that does not begin with a think block is all answer. One that is cut within its think block has no answer.
    """

    def __init__(self, prompt: Prompt):
        self._state = "thought" if prompt.opens_think else "start"
        self._tags = (ANSWER, END_ANSWER) if prompt.wrapper == "tags" else ()
        self._held = ""
        self._spoken = {"thought": False, "answer": False}

    def add(self, text: str, last: bool) -> Parts:
        """What is now certain."""
        self._held += text
        thought = ""
        if self._state == "start":
            begun = self._held.lstrip()
            if begun.startswith(THINK):
                self._state, self._held = "thought", begun[len(THINK) :]
            elif last or not THINK.startswith(begun):
                self._state = "answer"
        if self._state == "thought":
            thought, closed, rest = self._held.partition(END_THINK)
            if closed:
                self._state, self._held = "answer", rest
                thought = self._trimmed("thought", thought, True)
            else:
                thought = self._trimmed("thought", *self._take((END_THINK,), last))
        answer = self._answer(last) if self._state == "answer" else ""
        return Parts(thought, answer)

    def _answer(self, last: bool) -> str:
        text, is_end = self._take(self._tags, last)
        for tag in self._tags:
            text = text.replace(tag, "")
        return self._trimmed("answer", text, is_end)

    def _take(self, tags: Sequence[str], last: bool) -> tuple[str, bool]:
        """What is held, but for what may be the begin of a tag."""
        keep = 0 if last else _begun(self._held, tags)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text, last

    def _trimmed(self, part: str, text: str, is_end: bool) -> str:
        """The text without white space before its begin and after its end; what may be the latter is held back."""
        if not self._spoken[part]:
            text = text.lstrip()
            self._spoken[part] = bool(text)
        kept = text.rstrip()
        if not is_end and self._spoken[part]:
            self._held = text[len(kept) :] + self._held
        return kept
