"""Work for a client that may hang up, and replies sent piece by piece."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from jaxfc.server.errors import ApiError
from jaxfc.server.protocol import Broken, NotReady

T = TypeVar("T")
_PARTING_SECONDS = 1
"""For which a client is told why its reply ends early."""


class ClientGone(Exception):
    """The client hung up."""


async def read_body(request: Request, most: int) -> bytes:
    """The body of a request.

    Raises:
        ApiError: 413, it is larger than `most` bytes.
    """
    body = bytearray()
    declared = request.headers.get("content-length", "")
    too_large = declared.isdigit() and int(declared) > most
    if not too_large:
        async for chunk in request.stream():
            body += chunk
            if too_large := len(body) > most:
                break
    if too_large:
        raise ApiError(413, f"the body has more than {most} bytes, which is all that this server takes.")
    return bytes(body)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, which is cancelled when the client hangs up.

    Raises:
        ClientGone: it has.
    """

    async def hang_up():
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(hang_up())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientGone
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class EventStream(Response):
    """Server-sent events, one for each document; the last is `[DONE]`, or says what went wrong."""

    media_type = "text/event-stream"

    def __init__(
        self,
        documents: AsyncIterator[dict[str, Any]],
        *,
        deadline: float,
        as_refusal: Callable[[Exception], ApiError],
        close: Callable[[], None],
    ):
        """Prepare to send.

        Args:
            documents: to be sent; closed in the end.
            deadline: by the event loop's clock.
            as_refusal: says what the client is told of an exception.
            close: called in the end, even where no document was asked for.
        """
        self._documents, self._deadline, self._as_refusal, self._close = documents, deadline, as_refusal, close
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        """Send the events until they end or the client hangs up."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send_all(receive, send)
        finally:
            self._close()

    async def _send_all(self, receive: Receive, send: Send):
        last = "[DONE]"
        async with contextlib.aclosing(self._documents):
            try:
                async with asyncio.timeout_at(self._deadline):
                    await unless_gone(receive, self._send(send))
            except ClientGone:
                return
            except (Broken, NotReady, TimeoutError) as error:
                last = to_text(self._as_refusal(error).document())
        # A client that does not read may be what took so long.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PARTING_SECONDS):
                await send({"type": "http.response.body", "body": _event(last)})

    async def _send(self, send: Send):
        async for document in self._documents:
            await send({"type": "http.response.body", "body": _event(to_text(document)), "more_body": True})


def to_text(document: dict[str, Any]) -> str:
    """JSON on one line."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _event(text: str) -> bytes:
    return f"data: {text}\n\n".encode()
