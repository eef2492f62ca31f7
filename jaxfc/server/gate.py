"""What every request passes first: the key, the limit on requests at once, the clock and the counters."""

import hmac
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxfc.server.counters import Counters
from jaxfc.server.errors import ApiError
from jaxfc.server.settings import Limits

_OPEN = ("/health",)
"""Paths that need no key."""
_KNOWN = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics")
_GONE = 499
"""Counted where a client hung up before its reply began."""


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, *, limits: Limits, counters: Counters, api_key: str | None):
        self._app, self._limits, self._counters = app, limits, counters
        self._key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, status, start = scope["path"], _GONE, time.monotonic()

        async def watched(message: Message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        is_work = scope["method"] == "POST"
        self._counters.under_way += is_work
        try:
            refusal = self._refusal(scope, path, is_work)
            await (refusal.response() if refusal else self._app)(scope, receive, watched)
        except BaseException:
            status = 500 if status == _GONE else status
            raise
        finally:
            self._counters.under_way -= is_work
            # Paths that do not exist would make counters without end.
            path = path if path in _KNOWN else "other"
            self._counters.requests[path, status] += 1
            self._counters.seconds[path] += time.monotonic() - start

    def _refusal(self, scope: Scope, path: str, is_work: bool) -> ApiError | None:
        if self._key is not None and path not in _OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self._key):
                return ApiError(
                    401, "the API key is missing or wrong; send `Authorization: Bearer KEY`.", code="invalid_api_key"
                )
        if is_work and self._counters.under_way > self._limits.requests:
            message = f"{self._limits.requests} requests are under way, which is all that this server takes at once."
            return ApiError(429, message, code="too_many_requests", retry_after=1)
        return None
