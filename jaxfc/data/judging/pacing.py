"""When the next request may go out: rate limits that an endpoint declares, and waits between repeated attempts."""

import asyncio
import datetime
import email.utils
import random
import re
import time
from collections.abc import Callable, Mapping

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?", re.ASCII)
_UNITS = (86400.0, 3600.0, 60.0, 1.0, 0.001)
_NUMBER = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)


class Pacer:
    """One gate for all requests to an endpoint: closed while the endpoint wants no more of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._opens = 0.0

    def hold(self, seconds: float) -> None:
        """Let no request start for so long; a longer hold that is in force stays."""
        self._opens = max(self._opens, self._clock() + seconds)

    @property
    def remaining(self) -> float:
        """Seconds until requests may start; 0 when they may."""
        return max(0.0, self._opens - self._clock())

    async def passed(self) -> None:
        """Wait until a request may start."""
        while (seconds := self.remaining) > 0:
            await asyncio.sleep(seconds)


def backoff(failures: int, first: float, longest: float, draw: random.Random) -> float:
    """Seconds to wait after so many failures (from 1): doubling from `first`, up to `longest`, half of it by chance.

    Chance keeps requests that failed together from coming back together.
    """
    # Beyond 2**60 the power would only overflow.
    full = min(longest, first * 2.0 ** min(failures - 1, 60))
    return full * draw.uniform(0.5, 1.0)


def asked_to_wait(headers: Mapping[str, str], now: datetime.datetime) -> float | None:
    """Seconds that a refusal's headers ask to wait (`retry-after-ms`, `Retry-After`); None when they do not say."""
    milliseconds = headers.get("retry-after-ms", "")
    if _NUMBER.fullmatch(milliseconds):
        return float(milliseconds) / 1000
    text = headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, (moment - now).total_seconds())


def exhausted_for(headers: Mapping[str, str], tokens: int) -> float:
    """Seconds until the endpoint's budget allows one more request; 0 when it does now, or when nothing is declared.

    Reads OpenAI's `x-ratelimit-remaining-requests`, `-remaining-tokens`, and the two `-reset-`.

    Args:
        headers: of a reply.
        tokens: that the next request may take.
    """
    waits = [0.0]
    for kind, needed in (("requests", 1), ("tokens", tokens)):
        remaining = headers.get(f"x-ratelimit-remaining-{kind}", "")
        if _NUMBER.fullmatch(remaining) and float(remaining) < needed:
            waits.append(duration(headers.get(f"x-ratelimit-reset-{kind}", "")) or 0.0)
    return max(waits)


def duration(text: str) -> float | None:
    """Seconds of a duration such as `6m0s`, `20ms`, `1.5s` or plain seconds; None when it is none."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    found = _DURATION.fullmatch(text)
    if not text or not found:
        return None
    return sum(float(part) * unit for part, unit in zip(found.groups(), _UNITS, strict=True) if part)
