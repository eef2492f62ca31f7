"""A scripted model behind the project's own HTTP server, over real sockets, for tests of what talks to models."""

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import uvicorn

from jaxfc.config import Prompt
from jaxfc.server.protocol import Broken, Busy, NotReady, Order, State, Stream, Token, Update


@dataclasses.dataclass(frozen=True)
class Reply:
    """What the model says."""

    text: str
    seconds: float = 0.0
    """That it takes, before its first token."""
    token_seconds: float = 0.0
    """That each token takes."""
    cut: bool = False
    """It ends because it has all the tokens it may have, whatever their number."""


class Scripted:
    """A backend whose tokens are bytes.

    `script` is given the messages of a chat, or the text of a plain prompt, in a thread of each completion. It returns
    a reply or its text, or raises `Broken`. What `problems` holds is raised when a request is submitted, one by one:
    `Busy` gives 429, `NotReady` 503.
    """

    created, vocabulary, most_prompt_tokens, most_completion_tokens, can_constrain = 1, 256, 10**6, 10**5, True

    def __init__(self, script: Callable[[list[dict] | str], Reply | str], *, name: str = "scripted"):
        self.name, self.prompt, self.script = name, Prompt(), script
        self.problems: list[Exception] = []
        self.ready, self.problem = True, ""
        self.orders: list[Order] = []
        """All that were submitted."""
        self.open = 0
        """Completions under way."""
        self._lock = threading.Lock()

    def chat(self, messages, tools) -> list[int]:
        document = {"messages": list(messages), "tools": [tool.name for tool in tools]}
        return list(json.dumps(document).encode())

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def check_calls(self, tools):
        pass

    def submit(self, orders) -> Stream:
        if self.problems:
            raise self.problems.pop(0)
        if not self.ready:
            raise NotReady(self.problem or "the model is starting.")
        self.orders += orders
        each = [order for order in orders for _ in range(order.choices)]
        stream = Stream(len(each))
        for number, order in enumerate(each):
            threading.Thread(target=self._complete, args=(stream, number, order), daemon=True).start()
        return stream

    def _complete(self, stream: Stream, number: int, order: Order):
        with self._lock:
            self.open += 1
        try:
            self._speak(stream, number, order)
        except Broken as error:
            stream.fail(error)
        finally:
            with self._lock:
                self.open -= 1

    def _speak(self, stream: Stream, number: int, order: Order):
        prompt = bytes(order.prompt).decode()
        with contextlib.suppress(ValueError, TypeError, KeyError):
            prompt = json.loads(prompt)["messages"]
        reply = self.script(prompt)
        reply = Reply(reply) if isinstance(reply, str) else reply
        time.sleep(reply.seconds)
        data = reply.text.encode()
        likeliest = tuple((bytes([65 + k]), -1.0 - k) for k in range(order.draw.likeliest))
        for byte in data[: order.draw.max_tokens]:
            if not stream.is_wanted(number):
                return
            time.sleep(reply.token_seconds)
            stream.put(number, Update((Token(bytes([byte]), -0.5, likeliest),)))
        if reply.cut or len(data) >= order.draw.max_tokens:
            stream.put(number, Update((), "length"))
        else:
            stream.put(number, Update((Token(b"", -0.25, likeliest),), "stop"))

    def state(self) -> State:
        return State(self.ready, self.problem, 64, self.open, 0, 0, 0)


@contextlib.contextmanager
def running(app, **settings) -> Iterator[str]:
    """Serve an ASGI application in a thread, on a free port of this machine; gives its URL, without `/v1`."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off", **settings)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive())
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


def wait_until(holds: Callable[[], bool], seconds: float = 30.0):
    """Wait for something that happens in another thread."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def post(url: str, path: str, **body) -> httpx.Response:
    """Send one request."""
    return httpx.post(f"{url}{path}", json=body, timeout=60)


__all__ = ["Broken", "Busy", "NotReady", "Reply", "Scripted", "post", "running", "wait_until"]
