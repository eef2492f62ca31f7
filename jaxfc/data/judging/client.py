"""A client of one OpenAI-protocol endpoint, which copes with whatever comes back."""

import asyncio
import collections
import datetime
import json
import os
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx

from jaxfc.command import InputError
from jaxfc.data.judging.endpoint import Endpoint
from jaxfc.data.judging.pacing import Pacer, asked_to_wait, backoff, exhausted_for

_RETRIED = (408, 409, 425, 429)
_REFUSED = (400, 413)
_OF_ONE_REQUEST = ("content_filter", "content_policy_violation", "context_length_exceeded", "maximum context length")
"""What an error says, in one form or another, when it is about this request and not about all of them."""
_NO_MONEY = "insufficient_quota"
_SHOWN = 200
_MOST_TOKENS = 2**53


class Reply(NamedTuple):
    """What a model wrote."""

    text: str
    """Empty where there is a problem."""
    problem: str = ""
    """Why there is nothing to read: `empty`, `cut short`, `enormous`, `refused`, `no text`; empty where there is."""
    prompt_tokens: int = 0
    """As the endpoint counts them; 0 where it does not say."""
    completion_tokens: int = 0


class _Failed(Exception):
    """An attempt that may be made again."""

    def __init__(self, kind: str, detail: str, wait: float | None = None):
        super().__init__(kind, detail)
        self.kind, self.detail, self.wait = kind, detail, wait


class Client:
    """Asks an endpoint until it answers or is plainly not going to. For one event loop."""

    def __init__(self, endpoint: Endpoint, draw: random.Random):
        """Prepare to ask; nothing is sent yet.

        Args:
            endpoint: settings.
            draw: decides how waits vary, and nothing else.

        Raises:
            InputError: the environment does not hold the key.
        """
        self.requests = 0
        """Attempts made."""
        self.retries = 0
        """Those of them that repeat a failed one."""
        self.failures: collections.Counter[str] = collections.Counter()
        """Kind of failure -> attempts that ended so."""
        self.pacer = Pacer()
        """What holds requests back."""
        self._endpoint, self._draw = endpoint, draw
        self._key = _read_key(endpoint.key_variable)
        self._fatal = ""
        self._largest = 1
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        limits = httpx.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency)
        self._http = httpx.AsyncClient(headers=headers, timeout=endpoint.timeout, limits=limits)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(self, body: Mapping[str, Any], about: str) -> Reply:
        """What the model says.

        Args:
            body: of the request.
            about: what the question concerns, for messages.

        Raises:
            InputError: the endpoint refuses such requests, or failed too often in a row. From then on every call
                raises it, and sends nothing.
        """
        content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        failures = 0
        async with self._slots:
            while True:
                await self.pacer.passed()
                if self._fatal:
                    raise InputError(self._fatal)
                self.requests += 1
                self.retries += failures > 0
                try:
                    return await self._attempt(content)
                except _Failed as failed:
                    failures += 1
                    self.failures[failed.kind] += 1
                    await asyncio.sleep(self._wait_after(failed, failures, about))

    def _wait_after(self, failed: _Failed, failures: int, about: str) -> float:
        """Seconds until the next attempt; where there is to be none, the endpoint is given up."""
        endpoint = self._endpoint
        if failures > endpoint.retries:
            self._give_up(
                f"no answer to {about} in {failures} attempts; the last: {failed.detail} "
                "Is it up, and does it speak OpenAI's protocol?"
            )
            return 0.0
        if failed.wait is None:
            return backoff(failures, endpoint.first_wait, endpoint.longest_wait, self._draw)
        self._hold(failed.wait, failed.detail)
        # All requests waited, and not all of them should come back at the same moment.
        return 0.0 if self._fatal else failed.wait + self._draw.uniform(0, endpoint.first_wait)

    def _hold(self, seconds: float, why: str) -> None:
        if seconds <= self._endpoint.longest_wait:
            self.pacer.hold(seconds)
        else:
            self._give_up(
                f"it asks for a pause of {seconds:.0f} s, and endpoint.longest_wait is "
                f"{self._endpoint.longest_wait:g} s: {why} Raise longest_wait, or go on later."
            )

    def _give_up(self, problem: str) -> None:
        """Let no further request start; each raises this, the first problem there was."""
        self._fatal = self._fatal or f"{self._endpoint.url}: {problem}"

    async def _attempt(self, content: bytes) -> Reply:
        endpoint = self._endpoint
        try:
            # httpx limits each wait for some bytes; this limits all of them together.
            async with (
                asyncio.timeout(endpoint.timeout),
                self._http.stream("POST", endpoint.url, content=content) as response,
            ):
                data = await _read(response, endpoint.longest_reply)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise _Failed("timeout", f"nothing complete came within {endpoint.timeout:g} s.") from error
        except httpx.TransportError as error:
            raise _Failed("connection", f"{type(error).__name__}: {self._shown(str(error))}.") from error
        if response.status_code != 200:
            return self._refused(response, data or b"")
        if data is None:
            return Reply("", "enormous")
        reply = self._reply(response, data)
        self._largest = max(self._largest, reply.prompt_tokens + reply.completion_tokens)
        self._hold(exhausted_for(response.headers, self._largest), "its rate limit is used up.")
        return reply

    def _refused(self, response: httpx.Response, data: bytes) -> Reply:
        """Sort out a status other than 200: it is tried again, concerns one request, or ends the run."""
        status = response.status_code
        text = data.decode("utf-8", errors="replace")
        shown = f"status {status}: {self._shown(text) or 'no explanation'}."
        if status == 413 or (status in _REFUSED and any(word in text.lower() for word in _OF_ONE_REQUEST)):
            return Reply("", "refused")
        if (status in _RETRIED or status >= 500) and _NO_MONEY not in text:
            now = datetime.datetime.now(datetime.UTC)
            wait = asked_to_wait(response.headers, now)
            if wait is None:
                wait = exhausted_for(response.headers, 1) or None
            raise _Failed(f"status {status}", shown, wait)
        hints = {
            401: "Check the key and the variable that holds it.",
            403: "Check that the key may use this model.",
            404: "Check base_url and the model's name.",
            429: "The account's quota is used up.",
        }
        hint = hints.get(status, "Check the settings of the endpoint.")
        self._give_up(f"it refuses requests with {shown} {hint}")
        raise InputError(self._fatal)

    def _reply(self, response: httpx.Response, data: bytes) -> Reply:
        """Read a chat completion; anything else is some proxy's page or half an answer, and is asked for again."""
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            kind = response.headers.get("content-type", "no type")
            detail = (
                f"status 200 with {self._shown(kind)} that is not JSON: {self._shown(data.decode(errors='replace'))}."
            )
            raise _Failed("not JSON", detail) from error
        match document:
            case {"choices": [{"message": {**message}, **choice}, *_]}:
                usage = document.get("usage")
                counts = [_tokens(usage, "prompt_tokens"), _tokens(usage, "completion_tokens")]
                return Reply(*_text(message.get("content"), choice.get("finish_reason")), *counts)
        raise _Failed("no completion", f"status 200 without a chat completion: {self._shown(str(document))}.")

    def _shown(self, text: str) -> str:
        """An excerpt of what came back, on one line, printable, without the key."""
        if self._key:
            text = text.replace(self._key, "[key]")
        text = "".join(character if character.isprintable() else " " for character in text[: 4 * _SHOWN])
        text = " ".join(text.split())
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _read_key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(f"environment: {variable} is not set; endpoint.key_variable says that it holds the API key.")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(f"environment: {variable} holds characters that no API key has; export it again.")
    return key


async def _read(response: httpx.Response, longest: int) -> bytes | None:
    """The body of a response; None when it is longer than that."""
    data = bytearray()
    # Raw: a compressed body, which was not asked for, could grow beyond any limit.
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > longest:
            return None
    return bytes(data)


def _text(content: Any, finish: Any) -> tuple[str, str]:
    """The text of a message and what is wrong with it."""
    if finish == "length":
        return "", "cut short"
    if finish == "content_filter":
        return "", "refused"
    if content is None or content == "":
        return "", "empty"
    if not isinstance(content, str):
        return "", "no text"
    try:
        content.encode()
    except UnicodeEncodeError:
        return "", "no text"
    return content, ""


def _tokens(usage: Any, name: str) -> int:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and 0 <= count < _MOST_TOKENS else 0
