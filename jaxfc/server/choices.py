"""Updates of a completion -> what is new of a reply: thought, answer, calls, and the tokens that they are made of."""

from collections.abc import Sequence
from itertools import chain
from typing import Literal, NamedTuple

from jaxfc.server.protocol import Token, Update
from jaxfc.server.text import Splitter, Stops, Utf8
from jaxfc.server.tools import Offer, ToolCall, read_calls


class Said(NamedTuple):
    """A token, and how many characters come before it."""

    token: Token
    offset: int


class Delta(NamedTuple):
    """What is new of a reply."""

    thought: str = ""
    answer: str = ""
    calls: tuple[ToolCall, ...] = ()
    said: tuple[Said, ...] = ()

    def __add__(self, other: "Delta") -> "Delta":
        return Delta(*(one + more for one, more in zip(self, other, strict=True)))


class Choice:
    """One completion on its way to the client. What may yet turn out to be something else is held back."""

    def __init__(self, stops: Sequence[str], splitter: Splitter | None = None, offer: Offer | None = None):
        """Begin with nothing.

        Args:
            stops: the answer ends before the first of these.
            splitter: tells thought from answer; None: all is answer.
            offer: the tools whose calls are told from text.
        """
        self._utf8, self._stops, self._splitter, self._offer = Utf8(), Stops(stops), splitter, offer
        self._held_answer: str | None = "" if offer else None
        self._characters, self._pending = 0, []
        self._deltas: list[Delta] = []
        self.tokens = 0
        """Drawn up to the end, the one that ended it included."""
        self.finish: Literal["stop", "length", "tool_calls"] | None = None
        """None: more is to come."""

    def add(self, update: Update) -> Delta:
        """What an update brings."""
        delta = Delta()
        for place, token in enumerate(update.tokens):
            is_last = bool(update.finish) and place == len(update.tokens) - 1
            delta += self._add(token, is_last)
            if self._stops.found:
                break
        if update.finish and not update.tokens:
            delta += self._add(None, True)
        if update.finish or self._stops.found:
            delta += self._end("stop" if self._stops.found else update.finish)
        self._deltas.append(delta)
        return delta

    @property
    def whole(self) -> Delta:
        """All that was new so far."""
        thoughts, answers, calls, said = zip(*self._deltas, strict=True) if self._deltas else ((), (), (), ())
        return Delta("".join(thoughts), "".join(answers), tuple(chain(*calls)), tuple(chain(*said)))

    def _add(self, token: Token | None, is_last: bool) -> Delta:
        if token is not None:
            self.tokens += 1
            if token.piece:
                self._pending.append(Said(token, self._characters))
        text = self._utf8.add(token.piece if token else b"", is_last)
        self._characters += len(text)
        thought, answer = self._splitter.add(text, is_last) if self._splitter else ("", text)
        answer = self._stops.add(answer, is_last)
        if self._stops.found:
            self._drop_beyond()
        elif self._stops.held or self._utf8.held:
            return Delta(thought, self._text_or_calls(answer))
        said, self._pending = tuple(self._pending), []
        return Delta(thought, self._text_or_calls(answer), (), said)

    def _drop_beyond(self):
        """Forget the tokens that say nothing but the string at which the text stops, and what follows it."""
        while self._pending and self._characters - self._pending[-1].offset <= self._stops.beyond:
            self._pending.pop()

    def _text_or_calls(self, answer: str) -> str:
        """The answer, unless it may be calls: then it is held to the end."""
        if self._held_answer is None:
            return answer
        self._held_answer += answer
        if not self._held_answer or self._held_answer.startswith("["):
            return ""
        answer, self._held_answer = self._held_answer, None
        return answer

    def _end(self, finish: Literal["stop", "length"]) -> Delta:
        said, self._pending = tuple(self._pending), []
        answer, self._held_answer = self._held_answer or "", None
        calls = tuple(read_calls(answer, self._offer)) if self._offer and answer else ()
        self.finish = "tool_calls" if calls else finish
        return Delta("", "" if calls else answer, calls, said)
