"""An event loop in a thread of its own, and results in the order in which they were asked for."""

import asyncio
import collections
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Background:
    """Runs coroutines while the thread that asked for them does other work, or waits."""

    def __init__(self, name: str):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def start(self, coroutine: Coroutine[Any, Any, R]) -> Future[R]:
        """Start it; its result or exception is the future's. Cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def cancel(self) -> None:
        """Cancel what still runs, and wait for it to end."""
        self.start(_cancel_others()).result()

    def close(self) -> None:
        """End the thread; nothing may run any more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def in_order(items: Iterable[T], start: Callable[[T], Future[R]], ahead: int) -> Iterator[Future[R]]:
    """The future of each item, in order, with no more than `ahead` of them started and not yet passed on.

    What is still under way when the iterator is closed is cancelled.
    """
    waiting: collections.deque[Future[R]] = collections.deque()
    try:
        for item in items:
            waiting.append(start(item))
            if len(waiting) >= ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for future in waiting:
            future.cancel()
