"""Questions put until the replies can be read; what was answered before comes from the file of replies."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from jaxfc.command import InputError
from jaxfc.data.judging.client import Client, Reply
from jaxfc.data.judging.endpoint import Endpoint
from jaxfc.data.judging.questions import Question
from jaxfc.data.judging.replies import Replies, key_of
from jaxfc.data.judging.verdicts import Unreadable

T = TypeVar("T")

_PROBLEMS = {
    "empty": "the reply was empty",
    "cut short": "the reply was cut off where it reached the limit of tokens",
    "enormous": "the reply was too long",
    "no text": "the reply held no text",
}
"""What is wrong with a reply without text, in words that the judge can be told."""


class Undecided(Exception):
    """A question has no answer, and its row is dropped: `reason` is a key of `validate.REASONS`."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Missing(Exception):
    """A replay lacks a reply."""


class Asker:
    """Puts questions to an endpoint, each once. For one event loop."""

    def __init__(self, endpoint: Endpoint, attempts: int, longest: int, replies: Replies, client: Client | None):
        """Prepare to ask.

        Args:
            endpoint: what requests say.
            attempts: how often a question is put whose replies cannot be read.
            longest: characters of JSON of a row that is asked about.
            replies: the file.
            client: of the endpoint; None answers from the file alone.
        """
        self.replies = replies
        """What was answered."""
        self._endpoint, self._attempts, self._longest, self._client = endpoint, attempts, longest, client
        self._under_way: dict[bytes, asyncio.Task[Reply]] = {}
        self.tokens = 0, 0
        """Of the requests and of the replies that came in."""

    async def ask(self, question: Question, read: Callable[[str], T], unreadable: str, where: str) -> T:
        """Put a question until the reply to it can be read.

        Args:
            question: about a row.
            read: turns the text of a reply into what it says, or raises `Unreadable`.
            unreadable: the reason for dropping the row when no reply can be read.
            where: the row's file and line, for messages.

        Raises:
            Undecided: the row cannot be asked about, or no reply could be read.
            Missing: a replay lacks a reply.
            InputError: the endpoint is down or refuses requests.
        """
        if len(question.row) > self._longest:
            raise Undecided("judge: too long", f"{len(question.row)} characters of JSON")
        problem = ""
        for attempt in range(self._attempts):
            body = self._endpoint.body(question.messages(attempt, problem), question.schema)
            reply = await self._reply(body, attempt, where)
            if reply.problem == "refused":
                raise Undecided("judge: refused", "the endpoint did not take it")
            try:
                if not reply.problem:
                    return read(reply.text)
                problem = _PROBLEMS[reply.problem]
            except Unreadable as error:
                problem = str(error)
        raise Undecided(unreadable, f"{problem} (attempt {self._attempts})")

    async def _reply(self, body: dict[str, Any], attempt: int, where: str) -> Reply:
        """From the file, from a request for the same that is under way, or from the endpoint."""
        key = key_of(body, attempt)
        task = self._under_way.get(key)
        if task is None:
            reply = self.replies.get(key)
            if reply is not None:
                return reply
            if self._client is None:
                raise Missing
            task = asyncio.get_running_loop().create_task(self._fetch(self._client, key, body, where))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    def _forget(self, key: bytes, task: asyncio.Task[Reply]) -> None:
        del self._under_way[key]
        # Asked for here, since the rows that wait for it may have been cancelled, and asyncio complains of that.
        _ = task.cancelled() or task.exception()

    async def _fetch(self, client: Client, key: bytes, body: dict[str, Any], where: str) -> Reply:
        try:
            reply = await client.ask(body, where)
        except InputError as error:
            raise InputError(
                f"{error} Replies so far are in {self.replies.path}: the same command goes on there."
            ) from error
        self.replies.put(key, reply)
        self.tokens = self.tokens[0] + reply.prompt_tokens, self.tokens[1] + reply.completion_tokens
        return reply
