import asyncio
import contextlib
import json
import random
import time

import pytest
from faults import BODIES, Faults, gone
from scripted import Reply, Scripted, running

from jaxfc.command import InputError
from jaxfc.data.judging.client import Client
from jaxfc.data.judging.client import Reply as Answer
from jaxfc.data.judging.endpoint import Endpoint, Prices
from jaxfc.server.app import make_app
from jaxfc.server.settings import Limits

KEY = "sk-secret-0123456789"


@contextlib.contextmanager
def serving(choose=lambda number, body: "", script=lambda messages: "yes", api_key=None):
    faults = Faults(make_app(Scripted(script), Limits(), api_key=api_key), choose)
    with running(faults) as url:
        yield faults, f"{url}/v1"


def first(*faults):
    """The first requests meet these."""
    return lambda number, body: faults[number] if number < len(faults) else ""


def ask(url, *contents, seed=0, **settings):
    """What each question is answered, all asked at once, and the client."""
    given = {"model": "scripted", "first_wait": 0.01, "retries": 3, "timeout": 20.0} | settings
    endpoint = Endpoint(base_url=url, **given)

    async def go():
        client = Client(endpoint, random.Random(seed))
        try:
            bodies = [endpoint.body([{"role": "user", "content": content}], {}) for content in contents]
            return await asyncio.gather(
                *(client.ask(body, "rows:1") for body in bodies), return_exceptions=True
            ), client
        finally:
            await client.close()

    return asyncio.run(go())


def test_a_reply_comes_with_its_tokens():
    with serving(script=lambda messages: f"you said {messages[-1]['content']}") as (faults, url):
        (reply,), client = ask(url, "hé")
    assert reply.text == "you said hé" and reply.problem == ""
    assert reply.completion_tokens == len(reply.text.encode()) + 1
    assert reply.prompt_tokens > 0
    assert (client.requests, client.retries) == (1, 0)
    body = json.loads(faults.asked[0].body)
    assert body["temperature"] == 0.0 and body["max_tokens"] == 1024 and "response_format" not in body


@pytest.mark.parametrize("fault", ["429", "429:0.05", "500", "502", "503:0.01", "408", "409", "hang up", *BODIES])
def test_what_may_pass_is_asked_again(fault):
    with serving(first(fault, fault)) as (faults, url):
        (reply,), client = ask(url, "q")
    assert reply.text == "yes"
    assert (client.requests, client.retries) == (3, 2)
    assert sum(client.failures.values()) == 2
    assert len({asked.body for asked in faults.asked}) == 1


def test_a_reply_that_takes_too_long_is_asked_for_again():
    with serving(first("slow")) as (_, url):
        start = time.monotonic()
        (reply,), client = ask(url, "q", timeout=0.5)
    assert reply.text == "yes"
    assert client.failures == {"timeout": 1}
    assert time.monotonic() - start < 15


def test_bytes_that_keep_coming_do_not_stretch_the_time_limit():
    async def drip(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        hung_up = asyncio.ensure_future(gone(receive))
        while not hung_up.done():
            await asyncio.sleep(0.1)
            await send({"type": "http.response.body", "body": b" ", "more_body": True})

    with running(drip) as url:
        (error,), client = ask(url, "q", timeout=0.5, retries=0)
    assert isinstance(error, InputError) and "within 0.5 s" in str(error)
    assert client.failures == {"timeout": 1}


def test_an_endpoint_that_is_down_is_given_up_after_the_retries():
    with serving(lambda number, body: "503") as (faults, url):
        (error,), _ = ask(url, "q", retries=2)
    assert isinstance(error, InputError)
    assert str(error).startswith(f"{url}/chat/completions: no answer to rows:1 in 3 attempts; the last: status 503")
    assert len(faults.asked) == 3


def test_a_port_that_nobody_listens_on_is_given_up():
    with serving() as (_, url):
        pass
    (error,), client = ask(url, "q", retries=1)
    assert isinstance(error, InputError) and "ConnectError" in str(error)
    assert client.failures == {"connection": 2}


@pytest.mark.parametrize(
    ("status", "hint"),
    [(400, "settings"), (401, "key"), (403, "may use"), (404, "model's name"), (302, "settings"), (204, "settings")],
)
def test_a_refusal_ends_all_requests_at_once(status, hint):
    with serving(lambda number, body: str(status)) as (faults, url):
        replies, _ = ask(url, *map(str, range(50)), concurrency=4)
    assert len({str(error) for error in replies}) == 1
    assert isinstance(replies[0], InputError)
    assert f"status {status}" in str(replies[0]) and hint in str(replies[0])
    assert len(faults.asked) <= 4


def test_a_wrong_key_is_told_without_the_key(monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)

    with serving(api_key="another") as (faults, url):
        (error,), _ = ask(url, "q", key_variable="SOME_KEY")
    assert [asked.key for asked in faults.asked] == [f"Bearer {KEY}"]
    assert isinstance(error, InputError) and "status 401" in str(error)
    assert KEY not in str(error)


def test_an_error_that_repeats_the_key_is_shown_without_it(monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)

    async def echo(scope, receive, send):
        await send({"type": "http.response.start", "status": 403, "headers": []})
        given = dict(scope["headers"])[b"authorization"]
        await send({"type": "http.response.body", "body": b"no \x1b[31m" + given + b" here"})

    with running(echo) as url:
        (error,), _ = ask(url, "q", key_variable="SOME_KEY")
    assert "no [31mBearer [key] here" in str(error)


def test_the_right_key_is_sent(monkeypatch):
    monkeypatch.setenv("SOME_KEY", f"{KEY}\n")
    with serving(api_key=KEY) as (faults, url):
        (reply,), _ = ask(url, "q", key_variable="SOME_KEY")
    assert reply.text == "yes"
    assert faults.asked[0].key == f"Bearer {KEY}"


@pytest.mark.parametrize("value", [None, "", " ", "two words", "tab\tbed", "clé"])
def test_a_key_that_cannot_be_one_is_refused_before_anything_is_sent(monkeypatch, value):
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(InputError, match="SOME_KEY"):
        ask("http://localhost:1/v1", "q", key_variable="SOME_KEY")


def error_body(status, **error):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"error": error}).encode()})

    return app


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"code": "content_filter", "message": "Filtered."}),
        (400, {"code": "context_length_exceeded", "message": "Too long."}),
        (400, {"code": 400, "message": "This model's maximum context length is 4096 tokens."}),
        (413, {"message": "Body too large."}),
    ],
)
def test_a_refusal_of_one_request_is_a_reply_and_not_the_end(status, error):
    with running(error_body(status, **error)) as url:
        replies, client = ask(url, "q", "r")
    assert replies == [Answer("", "refused")] * 2
    assert client.requests == 2


def test_an_account_without_money_is_not_waited_for():
    with running(error_body(429, code="insufficient_quota", message="Pay.")) as url:
        (error,), client = ask(url, "q")
    assert "quota is used up" in str(error) and client.requests == 1


def test_all_requests_wait_as_long_as_one_is_told_to():
    with serving(first("429:0.6")) as (_, url):
        start = time.monotonic()
        replies, client = ask(url, "a", "b", "c", concurrency=1)
    assert [reply.text for reply in replies] == ["yes"] * 3
    assert client.failures == {"status 429": 1}
    assert time.monotonic() - start >= 0.6


def test_a_longer_pause_than_is_wanted_ends_the_run():
    with serving(first("429:3600")) as (faults, url):
        replies, _ = ask(url, "a", "b", concurrency=1, longest_wait=5.0)
    assert all("pause of 3600 s" in str(error) for error in replies)
    assert len(faults.asked) == 1


def test_a_used_up_rate_limit_holds_requests_back_before_one_fails():
    with serving() as (faults, url):
        faults.limits = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "300ms"}
        start = time.monotonic()
        replies, client = ask(url, "a", "b", "c", concurrency=1)
    assert [reply.text for reply in replies] == ["yes"] * 3
    assert not client.failures and time.monotonic() - start >= 0.6


def test_a_rate_limit_that_is_used_up_for_long_costs_no_reply():
    with serving() as (faults, url):
        faults.limits = {"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "8h"}
        replies, _ = ask(url, "a", "b", concurrency=1, longest_wait=5.0)
    assert replies[0].text == "yes"
    assert "pause of 28800 s" in str(replies[1])


def completion(**message):
    choice = {"message": message, "finish_reason": message.pop("finish_reason", "stop")}

    async def app(scope, receive, send):
        body = json.dumps({"choices": [choice], "usage": {"prompt_tokens": True, "completion_tokens": 2**60}}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return app


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"content": None}, "empty"),
        ({"content": ""}, "empty"),
        ({}, "empty"),
        ({"content": ["parts"]}, "no text"),
        ({"content": "\ud800"}, "no text"),
        ({"content": "half", "finish_reason": "length"}, "cut short"),
        ({"content": "half", "finish_reason": "content_filter"}, "refused"),
    ],
)
def test_a_reply_without_a_usable_text_says_why_and_is_not_asked_for_again(message, problem):
    with running(completion(**message)) as url:
        replies, client = ask(url, "q")
    assert replies == [Answer("", problem)]
    assert client.requests == 1


def test_an_enormous_reply_is_not_read_on():
    sent = 0

    async def flood(scope, receive, send):
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        hung_up = asyncio.ensure_future(gone(receive))
        while sent < 2**28 and not hung_up.done():
            sent += 2**16
            await send({"type": "http.response.body", "body": b"x" * 2**16, "more_body": True})

    with running(flood) as url:
        replies, client = ask(url, "q", longest_reply=2**17)
    assert replies == [Answer("", "enormous")] and client.requests == 1
    assert sent < 2**27


def test_no_more_requests_are_under_way_than_allowed():
    with serving(script=lambda messages: Reply("yes", seconds=0.05)) as (faults, url):
        most = 0

        def choose(number, body):
            nonlocal most
            most = max(most, sum(not asked.answered for asked in faults.asked) + 1)
            return ""

        faults.choose = choose
        replies, _ = ask(url, *map(str, range(12)), concurrency=3)
    assert len(replies) == 12 and most == 3


def test_chance_decides_no_reply():
    texts = []
    for seed in range(2):
        with serving(lambda number, body: "500" if number % 2 else "", lambda messages: messages[-1]["content"]) as (
            _,
            url,
        ):
            replies, _ = ask(url, *map(str, range(9)), seed=seed, retries=50)
        texts.append([reply.text for reply in replies])
    assert texts == [list(map(str, range(9)))] * 2


GOOD = {"base_url": "http://localhost:8000/v1", "model": "m"}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"base_url": "localhost:8000/v1"}, "begins with http"),
        ({"base_url": "ftp://host/v1"}, "begins with http"),
        ({"base_url": ""}, "begins with http"),
        ({"base_url": "http://"}, "names a host"),
        ({"base_url": "http://host:port/v1"}, "no URL"),
        ({"base_url": "https://user:secret@host/v1"}, "user name or password"),
        ({"model": ""}, "model is empty"),
        ({"key_variable": "sk-abc"}, "no name of an environment variable"),
        ({"temperature": 3.0}, "temperature is 3.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"most_tokens": 0}, "most_tokens is 0"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"retries": -1}, "retries is -1"),
        ({"timeout": 0.0}, "timeout is 0.0"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"longest_reply": 1}, "longest_reply is 1"),
    ],
)
def test_a_wrong_setting_is_refused_and_secrets_in_it_are_not_repeated(settings, problem):
    with pytest.raises(ValueError, match=problem) as caught:
        Endpoint(**GOOD | settings)
    assert "secret" not in str(caught.value) and "sk-abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("http://h:1/v1", "http://h:1/v1/chat/completions"),
        ("http://h/v1/", "http://h/v1/chat/completions"),
        ("https://h", "https://h/chat/completions"),
        ("https://h/openai/v1?api-version=2", "https://h/openai/v1/chat/completions?api-version=2"),
    ],
)
def test_requests_go_to_chat_completions_below_the_base(base, url):
    assert Endpoint(base_url=base, model="m").url == url


def test_a_request_says_what_the_settings_say():
    endpoint = Endpoint(**GOOD, temperature=None, limit_field="max_completion_tokens", response_format="json_schema")
    body = endpoint.body([{"role": "user", "content": "q"}], {"type": "object"})
    assert "temperature" not in body and "max_tokens" not in body
    assert body["max_completion_tokens"] == 1024
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": {"type": "object"}},
    }
    assert Endpoint(**GOOD, response_format="json_object").body([], {})["response_format"] == {"type": "json_object"}


def test_prices_are_per_million():
    assert Prices(prompt=2.5, completion=10.0).of(1_000_000, 500_000) == 7.5
    assert Prices(prompt=0.15, completion=0.6).of(1, 1) == 0.000001
    with pytest.raises(ValueError, match="at least 0"):
        Prices(prompt=-1.0, completion=0.0)
