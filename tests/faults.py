"""An HTTP server's faults, injected around an ASGI application; every request is written down."""

import asyncio
import dataclasses
import json
import threading
from collections.abc import Callable

COMPLETION = {"choices": [{"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]}


@dataclasses.dataclass
class Asked:
    """One request."""

    body: bytes
    fault: str
    """Which fault answered it; empty: the application did."""
    answered: bool = False
    """The application's reply went out whole."""
    gone: bool = False
    """The application ended without one: the client hung up."""
    key: str = ""
    """The Authorization header."""


class Faults:
    """An ASGI application around another.

    `choose` is given the number of the request (from 0) and its body, and names a fault or "". A fault is a status
    (`429`), a status with seconds to wait (`429:0.2`), or one of those below.
    """

    def __init__(self, app, choose: Callable[[int, bytes], str] = lambda number, body: ""):
        self.app, self.choose = app, choose
        self.asked: list[Asked] = []
        self.limits: dict[str, str] = {}
        """Headers added to the application's replies."""
        self.slow_seconds = 20.0
        self._lock = threading.Lock()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or not scope["path"].endswith("/chat/completions"):
            await self.app(scope, receive, send)
            return
        body = await _read(receive)
        if body is None:
            return
        key = dict(scope["headers"]).get(b"authorization", b"").decode()
        with self._lock:
            asked = Asked(body, self.choose(len(self.asked), body), key=key)
            self.asked.append(asked)
        if asked.fault:
            await self._fail(asked.fault, receive, send)
            return
        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again():
            return next(given, None) or await receive()

        status = 0

        async def watched(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_raw(self.limits)]
            await send(message)

        await self.app(scope, again, watched)
        asked.answered, asked.gone = status == 200, status != 200

    async def _fail(self, fault: str, receive, send):
        status, _, wait = fault.partition(":")
        if status.isdigit():
            error = json.dumps({"error": {"message": f"injected {status}"}}).encode()
            headers = {"content-type": "application/json"} | ({"retry-after": wait} if wait else {})
            await _send(send, int(status), headers, error)
        elif fault == "hang up":
            # Less than was announced: the server closes the connection.
            await _send(send, 200, {"content-type": "application/json", "content-length": "500"}, b'{"choices": [')
        elif fault == "slow":
            hung_up = asyncio.ensure_future(gone(receive))
            await asyncio.wait([hung_up], timeout=self.slow_seconds)
            hung_up.cancel()
            await _send(send, 200, {"content-type": "application/json"}, json.dumps(COMPLETION).encode())
        else:
            await _send(send, 200, *BODIES[fault])


BODIES = {
    "cut JSON": ({"content-type": "application/json"}, json.dumps(COMPLETION)[:-9].encode()),
    "empty": ({"content-type": "application/json"}, b""),
    "web page": ({"content-type": "text/html"}, b"<html>\x1b[31mGateway</html>"),
    "no choices": ({"content-type": "application/json"}, b'{"choices": []}'),
    "no object": ({"content-type": "application/json"}, b"[" * 50_000),
    "binary": ({"content-type": "application/octet-stream"}, bytes(range(256))),
}


async def _read(receive) -> bytes | None:
    """The body of a request; None when the client hung up before it was whole."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def gone(receive):
    """Returns when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send, status: int, headers: dict[str, str], body: bytes):
    await send({"type": "http.response.start", "status": status, "headers": _raw(headers)})
    await send({"type": "http.response.body", "body": body})


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
