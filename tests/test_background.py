import asyncio
import threading
from concurrent.futures import Future

import pytest

from jaxfc.data.judging.background import Background, in_order


@pytest.fixture
def background():
    background = Background("test")
    yield background
    background.cancel()
    background.close()
    assert "test" not in [thread.name for thread in threading.enumerate()]


async def after(seconds, result):
    await asyncio.sleep(seconds)
    return result


def test_results_come_in_order_though_later_ones_are_there_first(background):
    waits = [0.2, 0.0, 0.1, 0.0]
    futures = in_order(enumerate(waits), lambda item: background.start(after(item[1], item[0])), ahead=4)
    assert [future.result(20) for future in futures] == [0, 1, 2, 3]


def test_no_more_are_started_than_may_be_ahead():
    started = []

    def start(item):
        started.append(item)
        return Future()

    futures = in_order(range(100), start, ahead=3)
    for taken in range(5):
        next(futures)
        assert started == list(range(taken + 3))


def test_what_is_under_way_is_cancelled_when_nobody_wants_it(background):
    started = []

    def start(item):
        started.append(background.start(after(0.0 if item == 0 else 600.0, item)))
        return started[-1]

    futures = in_order(range(9), start, ahead=4)
    assert next(futures).result(20) == 0
    futures.close()
    assert [future.cancelled() for future in started] == [False, True, True, True]


def test_an_exception_is_the_futures(background):
    async def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        background.start(fail()).result(20)
