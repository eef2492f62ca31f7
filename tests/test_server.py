"""The HTTP side, asked by the openai package and by hand, over real sockets; the model is scripted."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import openai
import pytest
from scripted import Broken, Busy, Reply, Scripted, post, running, wait_until

from jaxfc.server.app import make_app
from jaxfc.server.settings import Limits

WEATHER = {
    "type": "function",
    "function": {
        "name": "get-weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = "<think>a tool fits</think>\n<answer>[get_weather(city='Zürich', days=3)]</answer>"


@contextlib.contextmanager
def serving(script, *, api_key=None, **limits):
    """A backend and its URL; a text is what it always says."""
    backend = Scripted((lambda prompt: script) if isinstance(script, str | Reply) else script)
    with running(make_app(backend, Limits(**limits), api_key=api_key)) as url:
        yield backend, url


def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def user(text):
    return {"role": "user", "content": text}


def chat(url, **body):
    """A chat by the openai package."""
    return client(url).chat.completions.create(**{"model": "scripted", "messages": [user("hi")]} | body)


def say(url, **body):
    """A chat by hand."""
    return post(url, "/v1/chat/completions", **{"model": "scripted", "messages": [user("hi")]} | body)


def joined(chunks, field):
    parts = (getattr(chunk.choices[0].delta, field, None) for chunk in chunks if chunk.choices)
    return "".join(part for part in parts if part)


# Replies


def test_a_reply_has_its_thought_apart_from_its_content():
    text = "<think>hm</think>\n<answer>you said hi</answer>"
    with serving(lambda messages: text if messages[-1]["content"] == "hi" else "") as (_, url):
        reply = chat(url)
    assert reply.choices[0].message.content == "you said hi"
    assert reply.choices[0].message.reasoning_content == "hm"
    assert reply.choices[0].finish_reason == "stop"
    # The token that ends it counts.
    assert reply.usage.completion_tokens == len(text) + 1
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + len(text) + 1


def test_a_stream_says_what_the_whole_reply_says():
    text = "<think>é, 日本 ...</think>\n\n <answer>naïve 🙂 a < b </answer>"
    with serving(text) as (_, url):
        whole = chat(url).choices[0].message
        chunks = list(chat(url, stream=True, stream_options={"include_usage": True}))
    assert whole.content == joined(chunks, "content") == "naïve 🙂 a < b"
    assert whole.reasoning_content == joined(chunks, "reasoning_content") == "é, 日本 ..."
    assert chunks[0].choices[0].delta.role == "assistant" and len(chunks) > 10
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == len(text.encode()) + 1


def test_no_usage_is_streamed_unasked():
    with serving("hi") as (_, url):
        assert all(chunk.choices and chunk.usage is None for chunk in chat(url, stream=True))


@pytest.mark.parametrize("stream", [False, True])
def test_calls_come_as_tool_calls_with_the_names_of_the_request(stream):
    with serving(CALL) as (_, url):
        reply = chat(url, tools=[WEATHER], stream=stream)
        if stream:
            chunks = list(reply)
            (call,) = (call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or [])
            assert (
                call.index == 0
                and not joined(chunks, "content")
                and chunks[-1].choices[0].finish_reason == "tool_calls"
            )
        else:
            (call,) = reply.choices[0].message.tool_calls
            assert reply.choices[0].message.content is None and reply.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "get-weather" and call.id and call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Zürich", "days": 3}


@pytest.mark.parametrize(
    "answer",
    [
        "It is sunny.",
        "[other(city='x')]",
        "[get_weather(city=1e999)]",
        "[get_weather(city={1: 2})]",
        "[get_weather('x')]",
        "[get_weather(city=",
        "[]",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_call_of_an_offered_tool_stays_text(answer, stream):
    with serving(answer) as (_, url):
        reply = chat(url, tools=[WEATHER], stream=stream)
        text = joined(list(reply), "content") if stream else reply.choices[0].message.content
    assert text == answer


def test_half_of_a_surrogate_pair_in_a_call_is_replaced():
    with serving("[get_weather(city='\\ud800')]") as (_, url):
        (call,) = chat(url, tools=[WEATHER]).choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "\ufffd"}


def test_tools_are_not_shown_where_none_may_be_called():
    with serving(CALL) as (backend, url):
        reply = chat(url, tools=[WEATHER], tool_choice="none")
    assert json.loads(bytes(backend.orders[0].prompt))["tools"] == []
    assert reply.choices[0].message.content.startswith("[get_weather(")


def test_a_choice_of_tool_reaches_the_model():
    other = {"type": "function", "function": {"name": "other"}}
    with serving(CALL) as (backend, url):
        for choice in ("auto", "required", {"type": "function", "function": {"name": "get-weather"}}):
            chat(url, tools=[WEATHER, other], tool_choice=choice)
    held = [order.draw.must_call and [tool.name for tool in order.draw.must_call] for order in backend.orders]
    assert held == [None, ["get_weather", "other"], ["get_weather"]]


def test_a_history_with_calls_and_results_reaches_the_model_with_arguments_as_objects():
    call = {"id": "c1", "type": "function", "function": {"name": "get-weather", "arguments": '{"city": "Bonn"}'}}
    history = [
        {"role": "developer", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}]},
        user("Bonn?"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    seen = []
    with serving(lambda messages: seen.append(messages) or "It rains.") as (_, url):
        chat(url, messages=history, tools=[WEATHER])
    system, _, assistant, result = seen[0]
    assert system == {"role": "system", "content": "be brief"}
    assert assistant["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": {"city": "Bonn"}}
    assert result == {"role": "tool", "tool_call_id": "c1", "content": "rain"}


def test_n_choices_are_complete_and_numbered():
    with serving("abc") as (backend, url):
        assert [choice.message.content for choice in chat(url, n=3).choices] == ["abc"] * 3
        chunks = list(chat(url, n=3, stream=True))
    assert backend.orders[0].choices == 3
    for number in range(3):
        assert joined([c for c in chunks if c.choices[0].index == number], "content") == "abc"


def test_a_reply_that_is_cut_says_so():
    with serving("<think>too long a thought") as (_, url):
        reply = chat(url, max_completion_tokens=10).choices[0]
    assert reply.finish_reason == "length" and not reply.message.content
    assert reply.message.reasoning_content == "too"


def test_settings_of_drawing_reach_the_model():
    with serving("x") as (backend, url):
        say(url, temperature=0, top_p=0.5, top_k=7, seed=-3, max_tokens=9)
        say(url)
        post(url, "/v1/completions", model="scripted", prompt="a")
    asked, chat_default, text_default = (order.draw for order in backend.orders)
    assert (asked.temperature, asked.top_p, asked.top_k, asked.seed, asked.max_tokens) == (0, 0.5, 7, -3, 9)
    assert chat_default.max_tokens == backend.most_completion_tokens and text_default.max_tokens == 16
    assert (chat_default.temperature, chat_default.top_p, chat_default.top_k, chat_default.seed) == (1, 1, 0, None)


def test_thought_stays_out_of_content_wherever_it_stands():
    with serving("<think>a</think>one <think>b</think> two<think>cut") as (_, url):
        message = chat(url).choices[0].message
        chunks = list(chat(url, stream=True))
    assert message.content == joined(chunks, "content") == "one  two"
    assert message.reasoning_content == joined(chunks, "reasoning_content") == "abcut"


# Stop strings


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "stop, kept", [("END", "one ENd three"), (["two", "three END"], "one ENd"), ("é🙂", "one ENd three END")], ids=str
)
def test_text_ends_before_a_stop_string_that_spans_tokens(stream, stop, kept):
    with serving("one ENd three END é🙂 more") as (backend, url):
        reply = chat(url, stop=stop, stream=stream)
        if stream:
            chunks = list(reply)
            text, finish = joined(chunks, "content"), chunks[-1].choices[0].finish_reason
        else:
            text, finish = reply.choices[0].message.content, reply.choices[0].finish_reason
        wait_until(lambda: backend.open == 0)
    assert text.rstrip() == kept and finish == "stop"


def test_what_only_begins_like_a_stop_string_is_said():
    with serving("abcabd") as (_, url):
        assert chat(url, stop=["abd", "abdx"]).choices[0].message.content == "abc"
        assert chat(url, stop=["abcabdx"]).choices[0].message.content == "abcabd"
        assert joined(list(chat(url, stop=["abcabdx"], stream=True)), "content") == "abcabd"


def test_stop_strings_leave_the_thought_alone():
    with serving("<think>a. b. c</think>d. e") as (_, url):
        message = chat(url, stop=".").choices[0].message
    assert (message.reasoning_content, message.content) == ("a. b. c", "d")


# Log-probabilities


def test_chat_logprobs_tell_each_token_and_the_likeliest():
    with serving("né") as (_, url):
        (choice,) = chat(url, logprobs=True, top_logprobs=2).choices
        chunks = list(chat(url, logprobs=True, top_logprobs=2, stream=True))
        assert chat(url).choices[0].logprobs is None
    tokens = choice.logprobs.content
    assert [token.bytes for token in tokens] == [[110], [195], [169]]
    assert [token.token for token in tokens] == ["n", "\ufffd", "\ufffd"]
    assert all(token.logprob == -0.5 for token in tokens)
    assert [(top.token, top.logprob) for top in tokens[0].top_logprobs] == [("A", -1), ("B", -2)]
    streamed = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert streamed == tokens


def test_logprobs_end_where_the_text_ends():
    with serving("abcSTOPxyz") as (_, url):
        chosen = chat(url, logprobs=True, stop="STOP").choices[0]
        chunks = list(chat(url, logprobs=True, stop="STOP", stream=True))
    assert "".join(token.token for token in chosen.logprobs.content) == "abc"
    streamed = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert streamed == chosen.logprobs.content


def test_plain_completions_take_several_prompts_texts_and_tokens():
    with serving(lambda text: text + "!") as (_, url):
        create = client(url).completions.create
        assert create(model="scripted", prompt="a", max_tokens=5).choices[0].text == "a!"
        several = create(model="scripted", prompt=["a", "bc"], n=2, max_tokens=5)
        tokens = create(model="scripted", prompt=[[104, 105], [97]], max_tokens=5)
        chunks = list(create(model="scripted", prompt="xyz", stream=True, max_tokens=5))
    assert [(c.index, c.text) for c in several.choices] == [(0, "a!"), (1, "a!"), (2, "bc!"), (3, "bc!")]
    assert several.usage.prompt_tokens == 3
    assert [choice.text for choice in tokens.choices] == ["hi!", "a!"]
    assert (
        "".join(chunk.choices[0].text for chunk in chunks) == "xyz!" and chunks[-1].choices[0].finish_reason == "stop"
    )


def test_plain_logprobs_have_offsets_and_bytes_of_broken_characters():
    with serving("aé<think>") as (_, url):
        reply = client(url).completions.create(model="scripted", prompt="a", logprobs=1, max_tokens=4).choices[0]
    assert reply.text == "aé<" and reply.finish_reason == "length"
    assert reply.logprobs.tokens == ["a", "bytes:\\xc3", "bytes:\\xa9", "<"]
    assert reply.logprobs.text_offset == [0, 1, 1, 2]
    assert reply.logprobs.token_logprobs == [-0.5] * 4 and reply.logprobs.top_logprobs[0] == {"A": -1.0}


# Refusals


def refusal(response, status, param=None, code=None):
    error = response.json()["error"]
    assert response.status_code == status, response.text
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert param is None or error["param"] == param, error
    assert code is None or error["code"] == code, error
    return error["message"]


@pytest.mark.parametrize(
    "body, param",
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": 3}]}]}, "messages[0].tool_calls[0]"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"n": 0}, "n"),
        ({"n": 65}, "n"),
        ({"seed": 2**64}, "seed"),
        ({"seed": True}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 10**5 + 1}, "max_completion_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 3}}]}, "tools[0]"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1]"),
        ({"tools": [WEATHER] * 257}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"presence_penalty": 0.1}, "presence_penalty"),
        ({"frequency_penalty": 1}, "frequency_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
    ],
    ids=str,
)
def test_a_field_that_is_wrong_or_cannot_be_served_is_refused_by_name(body, param, served):
    backend, url = served
    refusal(say(url, **body), 400, param)
    assert not backend.orders


@pytest.fixture(scope="module")
def served():
    with serving("ok") as both:
        yield both


def test_fields_that_change_nothing_are_taken(served):
    neutral = {"logit_bias": {}, "presence_penalty": 0, "user": "me", "store": False, "metadata": {}, "anything": 1}
    backend, url = served
    assert say(url, **neutral, n=None, stop=None, parallel_tool_calls=True).status_code == 200
    backend.orders.clear()


@pytest.mark.parametrize(
    "body, param",
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [256]}, "prompt"),
        ({"prompt": ["a"] * 33, "n": 2}, "n"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
    ],
    ids=str,
)
def test_a_plain_completion_is_refused_by_name_too(body, param, served):
    refusal(post(served[1], "/v1/completions", model="scripted", **body), 400, param)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b'{"model": NaN}', b"[" * 10**5, b'{"a": "\\ud800"}'], ids=str
)
def test_a_body_that_is_no_json_object_is_refused(body, served):
    refusal(httpx.post(f"{served[1]}/v1/chat/completions", content=body), 400)


def test_what_does_not_exist_is_not_found(served):
    _, url = served
    refusal(say(url, model="gpt-9"), 404, "model", "model_not_found")
    refusal(httpx.get(f"{url}/v1/nothing"), 404)
    refusal(httpx.get(f"{url}/v1/models/gpt-9"), 404)
    refusal(httpx.get(f"{url}/v1/completions"), 405)


def test_the_model_is_listed(served):
    models = client(served[1]).models
    assert [model.id for model in models.list()] == ["scripted"] and models.retrieve("scripted").id == "scripted"


def test_a_body_that_is_too_large_is_refused_declared_or_not():
    with serving("ok", body_bytes=1000) as (_, url):
        path = f"{url}/v1/chat/completions"
        refusal(httpx.post(path, content=b"x" * 1001), 413)
        refusal(httpx.post(path, content=iter([b"x" * 600] * 2)), 413)
        assert say(url).status_code == 200


def test_a_prompt_that_is_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(Scripted, "most_prompt_tokens", 100)
    with serving("ok") as (_, url):
        refusal(say(url, messages=[user("x" * 100)]), 400, "messages", "context_length_exceeded")


def test_max_tokens_beyond_the_servers_are_cut_where_that_is_set():
    with serving("ok", cut_max_tokens=True) as (backend, url):
        assert say(url, max_tokens=10**6).status_code == 200
    assert backend.orders[0].draw.max_tokens == backend.most_completion_tokens


def test_a_call_cannot_be_promised_without_constrained_decoding(monkeypatch):
    monkeypatch.setattr(Scripted, "can_constrain", False)
    with serving(CALL) as (_, url):
        assert "llguidance" in refusal(say(url, tools=[WEATHER], tool_choice="required"), 400, "tool_choice")
        assert say(url, tools=[WEATHER], tool_choice="auto").status_code == 200


def test_a_key_is_asked_for_but_by_health():
    with serving("ok", api_key="s3cret") as (_, url):
        refusal(say(url), 401, code="invalid_api_key")
        refusal(httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer wrong"}), 401)
        assert httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer s3cret"}).status_code == 200
        assert httpx.get(f"{url}/health").status_code == 200


def test_too_many_requests_at_once_are_refused_and_told_when_to_come_again():
    release = threading.Event()
    with serving(lambda messages: release.wait(20) and "ok", requests=1) as (backend, url):
        first = threading.Thread(target=say, args=(url,))
        first.start()
        wait_until(lambda: backend.open == 1)
        refused = say(url)
        release.set()
        first.join()
        assert say(url).status_code == 200
    refusal(refused, 429, code="too_many_requests")
    assert int(refused.headers["retry-after"]) >= 1


def test_a_full_queue_gives_429_and_a_model_that_is_not_ready_503():
    with serving("ok") as (backend, url):
        backend.problems = [Busy("64 completions wait already.")]
        response = say(url)
        refusal(response, 429, code="queue_full")
        assert int(response.headers["retry-after"]) >= 1
        backend.ready = False
        refusal(say(url), 503, code="not_ready")
        assert httpx.get(f"{url}/health").json() == {"status": "not ready"}


def fail(prompt):
    raise Broken("out of memory")


def test_a_model_that_fails_gives_500_and_in_a_stream_an_event_that_says_so():
    with serving(fail) as (backend, url):
        assert "out of memory" in refusal(say(url), 500, code="model_failed")
        with pytest.raises(openai.APIError, match="out of memory"):
            list(chat(url, stream=True))
        backend.ready, backend.problem = False, "out of memory"
        health = httpx.get(f"{url}/health")
    assert health.status_code == 503 and health.json() == {"status": "failed", "problem": "out of memory"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_that_takes_too_long_ends_and_gives_its_slot_back(stream):
    with serving(Reply("slow" * 100, token_seconds=0.02), seconds=0.3) as (backend, url):
        if stream:
            with pytest.raises(openai.APIError, match="longer than"):
                list(chat(url, stream=True))
        else:
            refusal(say(url), 504, code="timeout")
        wait_until(lambda: backend.open == 0, 5)


# Clients that hang up


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_gives_its_slots_back(stream):
    with serving(Reply("slow" * 1000, token_seconds=0.01)) as (backend, url):
        host, port = url.removeprefix("http://").split(":")
        body = json.dumps({"model": "scripted", "messages": [user("hi")], "n": 2, "stream": stream}).encode()
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            wait_until(lambda: backend.open == 2)
        wait_until(lambda: backend.open == 0, 5)
        assert say(url, max_tokens=1).status_code == 200


# The end

ENDLESS = """
import sys
from scripted import Reply, Scripted
from jaxfc.server.app import make_app
from jaxfc.server.run import listen, run
from jaxfc.server.settings import Limits

reply = Reply("word " * int(sys.argv[2]), token_seconds=0.01)
run(make_app(Scripted(lambda prompt: reply), Limits()), listen("127.0.0.1", int(sys.argv[1])), grace_seconds=1,
    access_log=False)
"""


@pytest.mark.parametrize("words, is_whole", [(10, True), (1000, False)])
def test_told_to_end_a_server_takes_nothing_new_and_cuts_what_is_left_after_the_grace(words, is_whole):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(port), str(words)], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: is_up(url) or process.poll() is not None, 60)
        body = {"model": "scripted", "prompt": "a", "stream": True, "max_tokens": 10**5}
        lines = []
        cut = contextlib.suppress(httpx.RemoteProtocolError)
        with cut, httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
            for line in response.iter_lines():
                lines += [line] if line else []
                if len(lines) == 1:
                    process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
    assert len(lines) > 1 and (lines[-1] == "data: [DONE]") == is_whole
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def is_up(url):
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/health").status_code == 200


# Figures


def test_metrics_count_requests_tokens_and_time():
    with serving("four") as (_, url):
        usage = chat(url).usage
        say(url, n=0)
        httpx.get(f"{url}/{'x' * 50}")
        text = httpx.get(f"{url}/metrics").text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert figures['jaxfc_requests_total{path="/v1/chat/completions",status="200"}'] == "1"
    assert figures['jaxfc_requests_total{path="/v1/chat/completions",status="400"}'] == "1"
    assert figures['jaxfc_requests_total{path="other",status="404"}'] == "1"
    assert figures["jaxfc_completion_tokens_total"] == "5"
    assert figures["jaxfc_prompt_tokens_total"] == str(usage.prompt_tokens)
    assert figures['jaxfc_request_seconds_count{path="/v1/chat/completions"}'] == "2"
    assert float(figures['jaxfc_request_seconds_sum{path="/v1/chat/completions"}']) > 0
    assert figures["jaxfc_requests_under_way"] == "0" and figures["jaxfc_slots"] == "64"
