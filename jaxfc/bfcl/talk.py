"""Conversations under way: what the model is asked next, and what becomes of its answer; many at a time."""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxfc.bfcl.backend import Backend, EnvironmentFailure, Session
from jaxfc.bfcl.files import Messages
from jaxfc.bfcl.multi_turn import Conversation
from jaxfc.bfcl.turns import INFERENCE_ERROR, calls_of
from jaxfc.data.example import Example
from jaxfc.processes import from_writer

MAX_STEPS = 20
"""Of a turn. After one more that makes calls the conversation is over, as in BFCL."""
GO_ON = (
    "The results of your calls are given to you in the next message, and you may then make more calls. When a turn "
    "asks for nothing more that your functions can do, leave the list of calls empty, and the next turn begins."
)
"""What is added to a system message that was written for one question and one answer."""
MORE_FUNCTIONS = "I have updated some more functions you can choose from. What about now?"
"""What the user says, below their docs, when functions are added. From bfcl-eval, Apache-2.0."""

Generate = Callable[[Sequence[Example]], Sequence[str | None]]
"""Examples -> the text of one completion each; None where the prompt is too long."""


def noted_messages(messages: Sequence[Mapping[str, Any]], docs: Any, category: str) -> Sequence[Mapping[str, Any]]:
    """The messages of the first turn, and `GO_ON`; `config.Prompt` says how the tools are shown."""
    return [{"role": "system", "content": GO_ON}, *messages]


class Step(NamedTuple):
    """One completion within a turn."""

    text: str
    """The whole completion."""
    answer: str
    """The part of it that was read."""
    calls: list[str]
    """As they were run; none where the answer is no list of calls, or an empty one, and so ends the turn."""
    results: list[str]


class Failed(NamedTuple):
    """Why a conversation cannot go on."""

    reason: str
    detail: str


class Talk:
    """A conversation under way."""

    def __init__(self, conversation: Conversation, messages_of: Messages):
        """Begin with the first turn.

        Args:
            conversation: what is said and done.
            messages_of: makes the messages that the model is first asked with.
        """
        self.conversation = conversation
        self.turns: list[list[Step]] = []
        self.failed: Failed | None = None
        self.is_over = False
        """Whether the model is asked nothing more."""
        self._tools = conversation.tools
        first = messages_of(conversation.turns[0], conversation.functions, conversation.category)
        self._messages: list[Mapping[str, Any]] = list(first)
        self._begin_turn()

    def example(self) -> Example:
        """What the model is asked: all that was said so far."""
        return Example(
            id=self.conversation.id,
            messages=tuple(self._messages),
            tools=self._tools,
            accepted=(),
            source="bfcl",
            licence="Apache-2.0",
            kind=self.conversation.category,
        )

    def go_on(self, step: Step):
        """Take what the model said, and tell it the results of its calls, or begin the next turn.

        The model's own part of the history is its answers, without the thinking, as BFCL has it of models that think.
        """
        self.turns[-1].append(step)
        self._messages.append({"role": "assistant", "content": step.answer})
        if not step.calls:
            self._begin_turn()
            return
        pairs = zip(step.calls, step.results, strict=True)
        told = [{"role": "tool", "name": call, "content": result} for call, result in pairs]
        self._messages.append({"role": "user", "content": repr(told)})
        self.is_over = len(self.turns[-1]) > MAX_STEPS

    def fail(self, failed: Failed):
        """End the conversation where it stands."""
        self.failed, self.is_over = failed, True

    def _begin_turn(self):
        number = len(self.turns)
        if number == len(self.conversation.turns):
            self.is_over = True
            return
        self.turns.append([])
        if number in self.conversation.held_back:
            docs = list(self.conversation.held_back[number])
            self._messages.append({"role": "user", "content": f"{docs}\n{MORE_FUNCTIONS}"})
        elif number:
            self._messages += self.conversation.turns[number]


def converse(
    conversations: Sequence[Conversation],
    generate: Generate,
    answer_of: Callable[[str], str],
    backend: Backend | None,
    *,
    at_once: int,
    messages_of: Messages,
) -> Iterator[list[Talk]]:
    """Hold conversations, as many at a time as there is room for; one that is over makes room for the next at once.

    Args:
        conversations: in the order in which they begin.
        generate: asked for a completion of every conversation under way, all together.
        answer_of: takes the answer out of a completion.
        backend: where process 0 runs the calls of all; the other processes have none.
        at_once: conversations under way at the same time.
        messages_of: as of `Talk`.

    Yields:
        Those that are over, after each round in which some are.
    """
    waiting = collections.deque(conversations)
    talking: list[tuple[Talk, Session | None]] = []
    while waiting or talking:
        while waiting and len(talking) < at_once:
            conversation = waiting.popleft()
            talking.append((Talk(conversation, messages_of), backend and backend.open(conversation.scene)))
        texts = generate([talk.example() for talk, _ in talking])
        _hear([talk for talk, _ in talking], [session for _, session in talking], texts, answer_of)
        over = [(talk, session) for talk, session in talking if talk.is_over]
        for _, session in over:
            if session:
                session.close()
        if over:
            yield [talk for talk, _ in over]
        talking = [(talk, session) for talk, session in talking if not talk.is_over]


def _hear(
    talks: Sequence[Talk],
    sessions: Sequence[Session | None],
    texts: Sequence[str | None],
    answer_of: Callable[[str], str],
):
    """Take the model's completion in each conversation, and run its calls."""
    answers = ["" if text is None else answer_of(text) for text in texts]
    calls = [calls_of(answer) for answer in answers]
    # The others hold no objects; and a call that runs out of time here may not do so there.
    results = from_writer(lambda: list(map(_run, sessions, calls)))
    for talk, text, *said in zip(talks, texts, answers, calls, results, strict=True):
        if text is None:
            talk.fail(Failed(INFERENCE_ERROR, "prompt too long"))
        elif isinstance(said[-1], Failed):
            talk.fail(said[-1])
        else:
            talk.go_on(Step(text, *said))


def _run(session: Session, calls: list[str]) -> list[str] | Failed:
    try:
        return session.run("model", calls) if calls else []
    except EnvironmentFailure as failure:
        return Failed(f"environment: {failure.reason}", failure.detail)
