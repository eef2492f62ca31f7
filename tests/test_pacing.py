import asyncio
import datetime
import random

import pytest

from jaxfc.data.judging.pacing import Pacer, asked_to_wait, backoff, duration, exhausted_for

NOON = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20ms", 0.02),
        ("1s", 1.0),
        ("1.5s", 1.5),
        ("6m0s", 360.0),
        ("1h2m3s", 3723.0),
        ("1d", 86400.0),
        ("2m", 120.0),
        (" 7 ", 7.0),
        ("0.25", 0.25),
        ("", None),
        ("soon", None),
        ("-1s", None),
        ("1s1h", None),
        ("nan", None),
        ("9" * 400, None),
    ],
)
def test_durations_are_read_as_endpoints_write_them(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sun, 01 Mar 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:30 -0000"}, 30.0),
        ({"retry-after": "later"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_a_refusal_says_how_long_to_wait(headers, seconds):
    assert asked_to_wait(headers, NOON) == seconds


def limits(requests="9", tokens="9000", reset_requests="1s", reset_tokens="2s"):
    prefix = "x-ratelimit-"
    return {
        f"{prefix}remaining-requests": requests,
        f"{prefix}remaining-tokens": tokens,
        f"{prefix}reset-requests": reset_requests,
        f"{prefix}reset-tokens": reset_tokens,
    }


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (limits(), 0.0),
        (limits(requests="0"), 1.0),
        (limits(tokens="99"), 2.0),
        (limits(requests="0", tokens="0"), 2.0),
        (limits(requests="0", reset_requests="never"), 0.0),
        (limits(requests="many"), 0.0),
        ({}, 0.0),
    ],
)
def test_a_budget_that_is_used_up_says_when_there_is_a_new_one(headers, seconds):
    assert exhausted_for(headers, tokens=100) == seconds


def test_waits_double_up_to_the_longest_and_half_of_each_is_chance():
    draw = random.Random(1)
    for failures, full in ((1, 2.0), (2, 4.0), (3, 8.0), (4, 10.0), (5000, 10.0)):
        waits = [backoff(failures, 2.0, 10.0, draw) for _ in range(200)]
        assert full / 2 <= min(waits) < 0.55 * full
        assert 0.95 * full < max(waits) <= full


def test_a_hold_stops_all_and_a_shorter_one_does_not_end_it():
    now = [100.0]
    pacer = Pacer(lambda: now[0])
    assert pacer.remaining == 0
    pacer.hold(5.0)
    pacer.hold(1.0)
    assert pacer.remaining == 5.0
    now[0] = 104.5
    assert pacer.remaining == 0.5
    now[0] = 106.0
    assert pacer.remaining == 0


def test_what_waits_goes_on_when_the_last_hold_ends():
    async def wait():
        pacer = Pacer()
        loop = asyncio.get_running_loop()
        pacer.hold(0.05)
        loop.call_later(0.03, pacer.hold, 0.1)
        start = loop.time()
        await asyncio.wait_for(pacer.passed(), 5)
        return loop.time() - start

    assert asyncio.run(wait()) >= 0.125
