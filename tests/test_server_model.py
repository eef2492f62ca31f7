"""The server with the seed model behind it, over real sockets."""

import asyncio
import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest
from scripted import post, running, wait_until
from tiny import one_device

from jaxfc.calls.schema import tool_to_openai
from jaxfc.completions import make_greedy
from jaxfc.config import Model as ModelSettings
from jaxfc.data.prompts import Tokenizer, form_of
from jaxfc.data.tasks import generate
from jaxfc.decoding import make_steps
from jaxfc.models.decoder import Decoder
from jaxfc.models.presets import architecture_of
from jaxfc.models.weights import load_params
from jaxfc.programs import Programs
from jaxfc.sampler import make_sampler
from jaxfc.server.app import make_app
from jaxfc.server.model import Model
from jaxfc.server.protocol import Draw, NotReady, Order, Stream
from jaxfc.server.settings import Limits, Sizes
from jaxfc.workspace import Workspace, saved_prompt

ROOT = Path(__file__).parents[1]
SEED_MODEL = ROOT / "jaxfc" / "assets" / "seed"
LENGTH, SLOTS, QUEUE = 64, 8, 64
EXAMPLES = [generate(7, "held_out", index) for index in range(12)]


@pytest.fixture(scope="module")
def work():
    mesh = one_device()
    decoder = Decoder(architecture_of(ModelSettings(path=str(SEED_MODEL))), mesh=mesh)
    params = load_params(SEED_MODEL, decoder, mesh)
    return Workspace(SEED_MODEL, mesh, Tokenizer(SEED_MODEL), saved_prompt(SEED_MODEL), decoder, params, "")


@pytest.fixture(scope="module")
def model(work):
    sizes = Sizes(slots=SLOTS, prompt_buckets=(192,), completion_length=LENGTH, ticks=4, queue=QUEUE)
    model = Model(work, "seed", sizes, Programs())
    model.start()
    model.wait_until_ready()
    yield model
    model.close()


@pytest.fixture(scope="module")
def url(model):
    with running(make_app(model, Limits())) as url:
        yield url


def asked(example, **changed):
    """A request for the calls of an example."""
    tools = [tool_to_openai(tool) for tool in example.tools]
    return {"model": "seed", "messages": list(example.messages), "tools": tools, "temperature": 0} | changed


def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def chat(url, example=EXAMPLES[0], **changed):
    return client(url).chat.completions.create(**asked(example, **changed))


def said(reply):
    """All that a choice says."""
    message = reply.choices[0].message
    calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or []]
    return getattr(message, "reasoning_content", None), message.content, calls


def test_greedy_completions_are_those_of_evaluation(url, work):
    steps = make_steps(work.decoder, work.mesh, group_size=1, length=LENGTH, vocabulary=work.vocabulary)
    sizes = {"buckets": (192,), "batch": 4, "max_tokens": LENGTH}
    greedy = make_greedy(make_sampler(steps, work.mesh), work.tokenizer, form_of(work.prompt), work.mesh, **sizes)
    texts = greedy(work.params, EXAMPLES)
    served = [
        "".join(token.token for token in chat(url, example, logprobs=True).choices[0].logprobs.content)
        for example in EXAMPLES
    ]
    assert served == texts and len(set(texts)) == len(texts)


def test_the_calls_of_the_seed_model_come_as_tool_calls(url):
    thought, content, calls = said(chat(url))
    assert thought and content is None
    ((name, arguments),) = calls
    assert name in {tool.name for tool in EXAMPLES[0].tools} and isinstance(json.loads(arguments), dict)


def test_a_seed_decides_what_is_drawn_and_choices_differ(url):
    hot = {"temperature": 2.0, "logprobs": True, "n": 3}

    def drawn(**changed):
        reply = chat(url, **hot | changed)
        return [[(token.bytes, token.logprob) for token in choice.logprobs.content] for choice in reply.choices]

    first = drawn(seed=5)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        others = [threads.submit(chat, url, example, temperature=1.5) for example in EXAMPLES]
        assert drawn(seed=5) == first
        for other in others:
            other.result()
    assert len({str(choice) for choice in first}) == 3
    assert drawn(seed=6) != first and drawn() != drawn()
    assert drawn(seed=5, n=1)[0] == first[0]


def test_the_likeliest_tokens_hold_the_one_that_is_greedily_drawn(url):
    tokens = chat(url, logprobs=True, top_logprobs=5).choices[0].logprobs.content
    for token in tokens:
        assert len(token.top_logprobs) == 5 and token.top_logprobs[0].bytes == token.bytes
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob, abs=1e-6)
    again = chat(url, logprobs=True).choices[0].logprobs.content
    assert [token.logprob for token in again] == pytest.approx([token.logprob for token in tokens], abs=1e-6)


@pytest.mark.parametrize("index", range(4))
def test_a_promised_call_is_one_of_the_tool_that_was_named(url, index):
    pytest.importorskip("llguidance", reason="needs the extra 'constrain'")
    example = EXAMPLES[index]
    named = {"type": "function", "function": {"name": example.tools[-1].name}}
    for choice, names in (("required", {tool.name for tool in example.tools}), (named, {example.tools[-1].name})):
        reply = chat(url, example, tool_choice=choice, temperature=1.0, seed=index, max_tokens=LENGTH)
        if reply.choices[0].finish_reason == "length":
            continue
        calls = said(reply)[2]
        assert calls and {name for name, _ in calls} <= names


def test_no_call_is_promised_without_llguidance(work, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert not Model(work, "seed", Sizes(), Programs()).can_constrain


def test_no_call_is_promised_of_tools_that_cannot_be_called(url):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a-b": {}}}}}
    tool["function"]["parameters"]["required"] = ["a-b"]
    response = post(url, "/v1/chat/completions", **asked(EXAMPLES[0], tools=[tool], tool_choice="required"))
    assert response.status_code == 400 and "Python" in response.json()["error"]["message"]


def test_plain_completions_stop_at_a_string_and_after_max_tokens(url, work):
    text = "<|user|>hello<|end|><|assistant|>"
    create = client(url).completions.create
    free = create(model="seed", prompt=text, max_tokens=20, temperature=0).choices[0]
    cut = create(model="seed", prompt=text, max_tokens=3, temperature=0)
    stop = free.text[4:7]
    stopped = create(model="seed", prompt=work.tokenizer.encode(text), max_tokens=20, temperature=0, stop=stop)
    assert cut.choices[0].finish_reason == "length" and free.text.startswith(cut.choices[0].text)
    assert cut.usage.completion_tokens == 3 and cut.usage.prompt_tokens == len(work.tokenizer.encode(text))
    assert stopped.choices[0].text == free.text[: free.text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


async def _load(url, requests, cancelled):
    """All requests at once, streamed; the cancelled ones hang up after their second event."""
    limits = httpx.Limits(max_connections=len(requests))

    async def one(http, number):
        async with http.stream("POST", f"{url}/v1/chat/completions", json=requests[number]) as response:
            assert response.status_code == 200, await response.aread()
            text, events = "", 0
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                events += 1
                for choice in json.loads(line[6:])["choices"]:
                    entries = (choice["logprobs"] or {"content": []})["content"]
                    text += "".join(entry["token"] for entry in entries)
                if number in cancelled and events == 2:
                    return None
            return text

    async with httpx.AsyncClient(timeout=120, limits=limits) as http:
        return await asyncio.gather(*(one(http, number) for number in range(len(requests))))


def test_64_requests_at_once_half_of_them_hung_up_leave_no_slot_taken(url, model):
    shared = {"logprobs": True, "temperature": 1.0, "stream": True}
    requests = [asked(EXAMPLES[number % 12], seed=number, **shared) for number in range(64)]
    cancelled = set(range(0, 64, 2))
    before = model.state().compiles_after
    texts = asyncio.run(_load(url, requests, cancelled))
    wait_until(lambda: model.state().slots_in_use == model.state().waiting == 0, 10)
    assert model.state().compiles_after == before
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    kept = sorted(set(range(64)) - cancelled)
    assert [text is None for text in texts] == [number in cancelled for number in range(64)]
    alone = [asyncio.run(_load(url, [requests[number]], set()))[0] for number in kept[:8]]
    assert [texts[number] for number in kept[:8]] == alone and len(set(alone)) > 4
    figures = dict(line.rsplit(" ", 1) for line in httpx.get(f"{url}/metrics").text.splitlines() if line[0] != "#")
    assert figures["jaxfc_slots_in_use"] == figures["jaxfc_queue_length"] == figures["jaxfc_requests_under_way"] == "0"


def test_more_than_the_queue_holds_is_refused_and_the_rest_is_served(url, model):
    prompts = [[5, 6, 7]] * (SLOTS + QUEUE)
    long = {"model": "seed", "max_tokens": LENGTH, "temperature": 1.0}
    with concurrent.futures.ThreadPoolExecutor() as threads:
        halves = [threads.submit(post, url, "/v1/completions", prompt=prompts[:36], **long) for _ in range(2)]
        wait_until(lambda: model.state().slots_in_use + model.state().waiting > 60, 10)
        refused = post(url, "/v1/completions", prompt=prompts[:40], **long)
        assert [half.result().status_code for half in halves] == [200, 200]
    assert refused.status_code == 429 and refused.headers["retry-after"]


def test_a_completion_that_nobody_wants_is_drawn_no_further(model, monkeypatch):
    drawn = []
    put = Stream.put
    monkeypatch.setattr(Stream, "put", lambda self, number, update: drawn.append(update) or put(self, number, update))

    async def give_up():
        stream = model.submit([Order([5, 6], 2, Draw(max_tokens=LENGTH, temperature=2.0, seed=1))])
        async for number, _ in stream.updates():
            stream.cancel(0)
            if number == 1:
                stream.cancel()

    asyncio.run(give_up())
    wait_until(lambda: model.state().slots_in_use == 0, 5)
    assert sum(len(update.tokens) for update in drawn) < LENGTH and not any(update.finish for update in drawn)


class BrokenPool:
    """What a failing device looks like."""

    waiting, in_use, free, has_work, completions = 0, 0, 2, False, ()

    def add(self, completion):
        self.has_work, self.completions = True, (*self.completions, completion)

    def step(self, ticks):
        raise IndexError("no device")

    def abandon(self, error):
        for completion in self.completions:
            completion.stream.fail(error)


def test_a_model_that_fails_ends_its_requests_and_says_so(work, monkeypatch):
    monkeypatch.setattr(Model, "_compile", lambda self: {64: BrokenPool()})
    broken = Model(work, "seed", Sizes(slots=2, prompt_buckets=(64,), completion_length=8), Programs())
    broken.start()
    wait_until(lambda: broken.state().ready)
    with running(make_app(broken, Limits())) as url:
        response = post(url, "/v1/completions", model="seed", prompt="a")
        health = httpx.get(f"{url}/health")
        assert post(url, "/v1/completions", model="seed", prompt="a").status_code == 503
    assert response.status_code == 500 and response.json()["error"]["code"] == "model_failed"
    assert health.status_code == 503 and "IndexError: no device" in health.json()["problem"]
    broken.close()


def test_a_model_that_is_closed_tells_those_who_wait(work, monkeypatch):
    class Stuck(BrokenPool):
        def step(self, ticks):
            time.sleep(0.01)

    monkeypatch.setattr(Model, "_compile", lambda self: {64: Stuck()})
    model = Model(work, "seed", Sizes(slots=2, prompt_buckets=(64,), completion_length=8), Programs())
    model.start()
    wait_until(lambda: model.state().ready)

    async def wait():
        stream = model.submit([Order([5], 1, Draw(max_tokens=5))])
        await asyncio.to_thread(model.close)
        with pytest.raises(NotReady):
            await anext(stream.updates())
        with pytest.raises(NotReady):
            model.submit([Order([5], 1, Draw(max_tokens=5))])

    asyncio.run(wait())


@pytest.mark.slow
def test_a_server_told_to_end_finishes_what_is_under_way(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, ROOT / "scripts" / "serve.py", "--model", SEED_MODEL, "--port", str(port), "name=seed"]
    command += ["sizes.prompt_buckets=[192]", "sizes.slots=2", "sizes.completion_length=512", "sizes.ticks=1"]
    command += ["compile_cache=null", "limits.api_key_variable=SERVE_KEY"]
    variables = {"JAX_NUM_CPU_DEVICES": "1", "SERVE_KEY": "s3cret", "PYTHONPATH": str(ROOT)}
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(command, env=os.environ | variables, stderr=log, stdout=subprocess.DEVNULL)
    url, key = f"http://127.0.0.1:{port}", {"Authorization": "Bearer s3cret"}
    try:
        wait_until(lambda: is_ready(url) or process.poll() is not None, 240)
        body = {"model": "seed", "prompt": [5, 6], "max_tokens": 512, "temperature": 2, "stream": True, "seed": 1}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, headers=key, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            lines = [line for line in lines if line]
        assert lines[-1] == "data: [DONE]" and '"finish_reason":"' in lines[-2]
        assert process.wait(30) == 0
    finally:
        process.kill()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    assert "s3cret" not in (tmp_path / "log").read_text()


def is_ready(url):
    time.sleep(0.2)
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False
