"""Text that comes piece by piece is what it would be in one piece."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Scripted

from jaxfc.config import Prompt
from jaxfc.server.choices import Choice
from jaxfc.server.errors import ApiError
from jaxfc.server.fields import Fields
from jaxfc.server.protocol import Token, Update
from jaxfc.server.requests import read_chat, read_texts
from jaxfc.server.settings import Limits
from jaxfc.server.text import Splitter, Stops, Utf8
from jaxfc.server.tools import read_calls, read_offer

TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
PARTS = [*TAGS, "<", "</", "<thi", " ", "\n", "a", "é", "🙂", "STOP", "ST", "["]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)
PROMPTS = [Prompt(wrapper=wrapper, opens_think=opens) for wrapper in ("tags", "bare") for opens in (False, True)]


def fed(make, data, cuts):
    """What comes out of pieces cut at these places, joined."""
    machine, places = make(), sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    out = [machine.add(piece, False) for piece in pieces] + [machine.add(data[:0], True)]
    return ["".join(part) for part in zip(*out, strict=True)] if isinstance(out[0], tuple) else "".join(out)


WORDS = ("role", "content", "type", "text", "function", "name", "parameters", "properties", "tool_calls", "arguments")
FIELDS = ("messages", "prompt", "tools", "tool_choice", "temperature", "top_p", "top_k", "n", "seed", "max_tokens")
FIELDS += ("stop", "stream", "stream_options", "logprobs", "top_logprobs", "logit_bias", "response_format", "echo")
CUTS = st.lists(st.integers(0, 100), max_size=8)


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: f"{prompt.wrapper}-{prompt.opens_think}")
@given(text=TEXTS, cuts=CUTS)
def test_thought_and_answer_do_not_depend_on_the_pieces(prompt, text, cuts):
    thought, answer = fed(lambda: Splitter(prompt), text, cuts)
    assert [thought, answer] == fed(lambda: Splitter(prompt), text, range(100))
    assert "<think>" not in answer and thought.strip() == thought and answer.strip() == answer
    if prompt.wrapper == "tags":
        assert "<answer>" not in answer or "<<answer>" in text or "<answer" in text


@given(text=TEXTS, cuts=CUTS)
def test_a_stop_string_is_never_let_through_and_nothing_else_is_lost(text, cuts):
    assert fed(lambda: Stops(("STOP", "T a")), text, cuts) == text.split("STOP")[0].split("T a")[0]


@given(data=st.one_of(st.binary(max_size=30), st.text(max_size=10).map(str.encode)), cuts=CUTS)
def test_characters_come_whole(data, cuts):
    assert fed(Utf8, data, cuts) == data.decode("utf-8", errors="replace")


@given(text=TEXTS, cuts=CUTS, stops=st.lists(st.sampled_from(["STOP", "é", "a\n", "🙂🙂"]), max_size=2))
def test_a_choice_is_the_same_whatever_its_tokens_and_updates(text, cuts, stops):
    """Tokens of one byte, in updates of any size."""
    tokens = [Token(bytes([byte]), -1.0) for byte in text.encode()] + [Token(b"", -1.0)]
    whole, cut = Choice(stops), Choice(stops)
    whole.add(Update(tuple(tokens), "stop"))
    places = [*sorted({place % len(tokens) for place in cuts} | {0}), len(tokens)]
    for start, end in itertools.pairwise(places):
        if cut.finish is None:
            cut.add(Update(tuple(tokens[start:end]), "stop" if end == len(tokens) else None))
    assert (cut.whole, cut.finish, cut.tokens) == (whole.whole, whole.finish, whole.tokens)
    expected = text
    for stop in stops:
        expected = expected.split(stop)[0]
    assert cut.whole.answer == expected
    assert b"".join(token.piece for token, _ in cut.whole.said).decode() == expected


LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(["", "auto", "user"])
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)
MESSAGES = [{"role": "user", "content": "hi"}]


@given(fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5))
def test_any_body_is_read_or_refused(fields):
    scripted, limits = Scripted(lambda prompt: ""), Limits()
    for read, always in ((read_chat, {"messages": MESSAGES}), (read_texts, {"prompt": "hi"})):
        try:
            read({"model": "scripted"} | always | fields, scripted, limits)
        except ApiError as error:
            assert error.status == 400 and json.loads(error.response().body)["error"]["message"]


NAMES = st.text(st.sampled_from("ab-. 1_é(\n"), min_size=1, max_size=6)


@given(names=st.lists(NAMES, min_size=1, max_size=6, unique=True))
def test_every_tool_has_a_name_that_stands_in_a_call_and_leads_back(names):
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    offer = read_offer(Fields({"tools": tools}), 100)
    assert list(offer.names.values()) == names and len(offer.names) == len(names)
    for tool, name in zip(offer.tools, names, strict=True):
        assert offer.written(name) == tool.name
        (call,) = read_calls(f"[{tool.name}(x=1)]", offer)
        assert (call.name, call.arguments) == (name, '{"x": 1}')
