"""What the HTTP side asks of the model side: prompts go in, tokens come out as they are drawn."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from jaxfc.calls.schema import Tool
from jaxfc.config import Prompt

Finish = Literal["stop", "length"]
"""Why a completion is over: the model ended it, or it has all the tokens that it may have."""


class Token(NamedTuple):
    """One token of a completion."""

    piece: bytes
    """What it says; empty for the token that ends a completion."""
    logprob: float
    """Under the distribution that it was drawn from, in nats."""
    likeliest: tuple[tuple[bytes, float], ...] = ()
    """The likeliest tokens at its place with their logprobs, best first, as many as were asked for."""


class Update(NamedTuple):
    """What is new of a completion."""

    tokens: tuple[Token, ...]
    finish: Finish | None = None
    """None: more is to come."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """How a completion is drawn."""

    max_tokens: int
    """It is cut after this many tokens; at least 1."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this probability."""
    top_k: int = 0
    """Draw among the k likeliest tokens; 0 is all."""
    seed: int | None = None
    """Of its random numbers, 64 bits; None draws a seed too."""
    likeliest: int = 0
    """How many of the likeliest tokens to tell at each place."""
    must_call: tuple[Tool, ...] | None = None
    """Hold the answer to one call or more of these tools; None leaves it free."""


class Order(NamedTuple):
    """Completions of one prompt."""

    prompt: Sequence[int]
    """Its tokens, at least one."""
    choices: int
    """How many completions; with a seed, each has random numbers of its own."""
    draw: Draw


class State(NamedTuple):
    """How the model side is."""

    ready: bool
    """It takes orders."""
    problem: str
    """Why it never will again; empty where it is well, or not ready yet."""
    slots: int
    """Completions that can be decoded at once."""
    slots_in_use: int
    waiting: int
    """Completions that have no slot yet."""
    programs: int
    """Compiled before it was ready."""
    compiles_after: int
    """Programs compiled since; anything but 0 is a bug."""


class PromptError(ValueError):
    """A conversation that cannot become a prompt; the message says why."""


class Busy(Exception):
    """There is no room for more completions to wait in."""


class NotReady(Exception):
    """The model side does not take orders: it is starting, stopping or broken."""


class Broken(Exception):
    """The model side failed while a completion was under way."""


class Stream:
    """The completions of one request under way: the model side puts updates in, the event loop takes them out.

    They are numbered as they were ordered, all choices of an order before those of the next.
    """

    def __init__(self, count: int):
        """Begin with `count` completions, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._updates: asyncio.Queue[tuple[int, Update] | Exception] = asyncio.Queue()
        self._open = set(range(count))
        self._unwanted: set[int] = set()

    def put(self, number: int, update: Update):
        """Tell what is new of a completion; from any thread."""
        self._put((number, update))

    def fail(self, error: Exception):
        """Tell what went wrong; from any thread."""
        self._put(error)

    def _put(self, item: tuple[int, Update] | Exception):
        # A loop that is closed has no one left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._updates.put_nowait, item)

    def is_wanted(self, number: int) -> bool:
        """Whether anybody waits for the rest of a completion; if not, its slot is to be freed at once."""
        return number not in self._unwanted

    def cancel(self, number: int | None = None):
        """Give up a completion, or all that is left; harmless where it has finished."""
        given_up = self._open if number is None else {number}
        self._unwanted |= given_up
        self._open -= given_up

    async def updates(self) -> AsyncIterator[tuple[int, Update]]:
        """What is new of which completion, until all have finished or been given up.

        Raises:
            Broken: the model side failed.
        """
        while self._open:
            item = await self._updates.get()
            if isinstance(item, Exception):
                raise item
            number, update = item
            if number not in self._open:
                continue
            if update.finish:
                self._open.discard(number)
            yield item


@runtime_checkable
class Backend(Protocol):
    """A model that can be asked over HTTP."""

    name: str
    """By which requests call it."""
    created: int
    """Seconds since 1970."""
    prompt: Prompt
    """How its replies look."""
    vocabulary: int
    """Tokens that exist."""
    most_prompt_tokens: int
    most_completion_tokens: int
    can_constrain: bool
    """Whether it takes `Draw.must_call`."""

    def chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]) -> list[int]:
        """Tokens of a conversation, up to where the reply begins. Called from one thread at a time.

        Raises:
            PromptError: it cannot be written as the model knows conversations.
        """

    def encode(self, text: str) -> list[int]:
        """Tokens of a plain text. Called from one thread at a time."""

    def check_calls(self, tools: Sequence[Tool]):
        """Make ready to hold answers to calls of these tools (`Draw.must_call`). Called from one thread at a time.

        Raises:
            PromptError: they cannot be called, or are too much to hold answers to.
        """

    def submit(self, orders: Sequence[Order]) -> Stream:
        """Begin all of these or none; called in the event loop.

        Raises:
            Busy: too much is waiting.
            NotReady: it takes no orders.
        """

    def state(self) -> State:
        """How it is; never waits."""
