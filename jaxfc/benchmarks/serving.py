"""Serving: chat completions over sockets, many at once and one after the other, by the same server."""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from jaxfc.benchmarks.host import SEED_MODEL
from jaxfc.benchmarks.measure import alternate, figures, report
from jaxfc.benchmarks.settings import ServeBenchmark, check_peers
from jaxfc.calls.schema import tool_to_openai
from jaxfc.config import Mesh, Model
from jaxfc.data.tasks import generate
from jaxfc.programs import Programs
from jaxfc.server.app import make_app
from jaxfc.server.model import Model as ServedModel
from jaxfc.server.run import in_thread
from jaxfc.server.settings import Limits, Sizes
from jaxfc.workspace import open_workspace

_SECONDS = 600.0


def benchmark_serve(settings: ServeBenchmark, peers: Sequence[str] = ()) -> dict[str, Any]:
    """Send the same requests in both ways; the client runs beside the server, on the same cores."""
    check_peers(settings, peers)
    bodies = [request(settings, number) for number in range(settings.requests)]
    replies: list[list[dict[str, Any]]] = []
    with served(settings) as url, httpx.Client(base_url=url, timeout=_SECONDS) as client:

        def ask(body: dict[str, Any]) -> dict[str, Any]:
            response = client.post("/v1/chat/completions", json=body)
            if response.status_code != 200:
                raise RuntimeError(f"a request was refused ({response.status_code}): {response.text}")
            return response.json()

        def at_once(_: int):
            with ThreadPoolExecutor(settings.requests) as threads:
                replies.append(list(threads.map(ask, bodies)))

        def one_by_one(_: int):
            replies.append(list(map(ask, bodies)))

        laps = alternate({"at once": at_once, "one by one": one_by_one}, settings.runs)
    tokens = {sum(reply["usage"]["completion_tokens"] for reply in each) for each in replies}
    if len(tokens) > 1:
        raise RuntimeError(f"the runs drew {sorted(tokens)} tokens; greedy ones should all draw the same.")
    amounts = {"requests": settings.requests, "tokens": tokens.pop()}
    return report(settings, {name: figures(each, **amounts) for name, each in laps.items()})


@contextlib.contextmanager
def served(settings: ServeBenchmark) -> Iterator[str]:
    """The URL of a server with all programs compiled."""
    work = open_workspace(Model(path=settings.model or str(SEED_MODEL)), Mesh(), None)
    sizes = Sizes(
        slots=settings.slots,
        widths=settings.widths,
        prompt_buckets=(settings.prompt_bucket,),
        completion_length=settings.completion_length,
        queue=settings.requests,
    )
    model = ServedModel(work, "served", sizes, Programs())
    model.start()
    try:
        model.wait_until_ready()
        with in_thread(make_app(model, Limits(requests=2 * settings.requests))) as url:
            yield url
    finally:
        model.close()


def request(settings: ServeBenchmark, number: int) -> dict[str, Any]:
    """The body of one request."""
    task = generate(settings.seed, "held_out", number)
    tools = [tool_to_openai(tool) for tool in task.tools]
    return {"model": "served", "messages": list(task.messages), "tools": tools, "temperature": 0}
