"""Bodies of requests -> what is asked for, in one form."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxfc.server.errors import ApiError
from jaxfc.server.fields import Fields, read_json, wrong
from jaxfc.server.protocol import Backend, Draw
from jaxfc.server.settings import Limits
from jaxfc.server.tools import Offer, read_offer

MOST_LIKELIEST = 20
"""Of `top_logprobs`."""
_MOST_STOPS, _LONGEST_STOP = 16, 1000
_LEGACY_TOKENS = 16
"""max_tokens of plain completions where none is given, as OpenAI has it."""
_ROLES = ("system", "developer", "user", "assistant", "tool")
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logit_bias": ({},),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "repetition_penalty": (1, 1.0),
    "min_p": (0, 0.0),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
}
_NEUTRAL_CHAT = _NEUTRAL | {
    "response_format": ({"type": "text"},),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True,),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "reasoning_effort": (),
    "verbosity": (),
}
_NEUTRAL_TEXT = _NEUTRAL | {"suffix": ("",), "echo": (False,), "best_of": (1,)}
_WHY = "this server cannot do"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What chat and plain completions have in common."""

    choices: int
    """Completions of each prompt."""
    draw: Draw
    logprobs: bool
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chat(Asked):
    """A conversation to go on with."""

    messages: tuple[Mapping[str, Any], ...]
    offer: Offer | None
    """The tools that may be called; None: none may."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts(Asked):
    """Plain prompts to complete."""

    prompts: tuple[str | tuple[int, ...], ...]
    """Texts, or tokens."""


def read_chat(document: Mapping[str, Any], backend: Backend, limits: Limits) -> Chat:
    """The body of a request for chat completions.

    Raises:
        ApiError: what is not right, or cannot be done.
    """
    fields = _fields(document, backend, _NEUTRAL_CHAT)
    offer = read_offer(fields, limits.tools)
    if offer and offer.must_call and not backend.can_constrain:
        message = (
            "tool_choice asks for a call, which this server can only promise with llguidance installed (pip install "
            "'jaxfc[constrain]') and a tokenizer fit for it; use auto or none."
        )
        raise ApiError(400, message, param="tool_choice", code="unsupported")
    likeliest = fields.integer("top_logprobs", 0, 0, MOST_LIKELIEST)
    logprobs = fields.flag("logprobs")
    if likeliest and not logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true.", param="top_logprobs", code="invalid_value")
    asked = _asked(fields, backend, limits, default_tokens=backend.most_completion_tokens, prompts=1)
    draw = dataclasses.replace(asked.pop("draw"), likeliest=likeliest, must_call=offer and offer.must_call)
    return Chat(**asked, draw=draw, logprobs=logprobs, messages=_messages(fields, offer), offer=offer)


def read_texts(document: Mapping[str, Any], backend: Backend, limits: Limits) -> Texts:
    """The body of a request for plain completions.

    Raises:
        ApiError: what is not right, or cannot be done.
    """
    fields = _fields(document, backend, _NEUTRAL_TEXT)
    likeliest = fields.integer("logprobs", None, 0, MOST_LIKELIEST)
    prompts = _prompts(fields.get("prompt"))
    default = min(_LEGACY_TOKENS, backend.most_completion_tokens)
    asked = _asked(fields, backend, limits, default_tokens=default, prompts=len(prompts))
    draw = dataclasses.replace(asked.pop("draw"), likeliest=likeliest or 0)
    return Texts(**asked, draw=draw, logprobs=likeliest is not None, prompts=prompts)


def _fields(document: Mapping[str, Any], backend: Backend, neutral: Mapping[str, tuple[Any, ...]]) -> Fields:
    fields = Fields(document)
    name = fields.text("model")
    if name != backend.name:
        message = f"the model {name!r} does not exist; this server has {backend.name!r}."
        raise ApiError(404, message, param="model", code="model_not_found")
    fields.refuse(neutral, _WHY)
    return fields


def _asked(fields: Fields, backend: Backend, limits: Limits, *, default_tokens: int, prompts: int) -> dict[str, Any]:
    choices = fields.integer("n", 1, 1, limits.choices)
    if choices * prompts > limits.choices:
        message = f"{prompts} prompts with {choices} choices each; at most {limits.choices} completions a request."
        raise ApiError(400, message, param="n", code="invalid_value")
    stream, options = fields.flag("stream"), fields.get("stream_options")
    if not isinstance(options, dict | None) or (options and not stream):
        raise wrong("stream_options", options, "an object, and only with stream: true")
    draw = Draw(
        max_tokens=_max_tokens(fields, backend, limits, default_tokens),
        temperature=fields.number("temperature", 1.0, 0.0, 2.0),
        top_p=fields.number("top_p", 1.0, 0.0, 1.0),
        top_k=max(0, fields.integer("top_k", 0, -1, 2**31 - 1)),
        seed=fields.integer("seed", None, -(2**63), 2**64 - 1),
    )
    usage = stream and Fields(options or {}).flag("include_usage")
    return {"choices": choices, "draw": draw, "stops": _stops(fields), "stream": stream, "include_usage": usage}


def _max_tokens(fields: Fields, backend: Backend, limits: Limits, default: int) -> int:
    name = "max_tokens" if fields.get("max_completion_tokens") is None else "max_completion_tokens"
    asked, most = fields.integer(name, default, 1, 2**31 - 1), backend.most_completion_tokens
    if asked > most and not limits.cut_max_tokens:
        message = f"{name} is {asked}; this server completes up to {most} tokens."
        raise ApiError(400, message, param=name, code="max_tokens_exceeded")
    return min(asked, most)


def _stops(fields: Fields) -> tuple[str, ...]:
    given = fields.get("stop")
    stops = [given] if isinstance(given, str) else given
    right = isinstance(stops, list | None) and all(
        isinstance(stop, str) and 0 < len(stop) <= _LONGEST_STOP for stop in stops or []
    )
    if not right or len(stops or []) > _MOST_STOPS:
        raise wrong("stop", given, f"a text or up to {_MOST_STOPS} of them, of up to {_LONGEST_STOP} characters")
    return tuple(stops or ())


def _prompts(given: Any) -> tuple[str | tuple[int, ...], ...]:
    def is_tokens(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)

    prompts = [given] if isinstance(given, str) or is_tokens(given) else given
    if not isinstance(prompts, list) or not prompts or not all(isinstance(p, str) or is_tokens(p) for p in prompts):
        raise wrong("prompt", given, "text, a list of token ids, or a list of either")
    return tuple(prompt if isinstance(prompt, str) else tuple(prompt) for prompt in prompts)


# Messages


def _messages(fields: Fields, offer: Offer | None) -> tuple[dict[str, Any], ...]:
    given = fields.items("messages")
    if not given:
        raise wrong("messages", given, "a list of one message or more")
    return tuple(_message(message, f"messages[{place}]", offer) for place, message in enumerate(given))


def _message(message: Any, where: str, offer: Offer | None) -> dict[str, Any]:
    """A message as chat templates take it: text as one string, arguments of calls as objects."""
    role = message.get("role") if isinstance(message, dict) else None
    if role not in _ROLES:
        raise wrong(f"{where}.role", role, f"one of {', '.join(_ROLES)}")
    read = {"role": "system" if role == "developer" else role, "content": _content(message.get("content"), where)}
    calls = message.get("tool_calls")
    if role == "assistant" and calls:
        if not isinstance(calls, list):
            raise wrong(f"{where}.tool_calls", calls, "a list")
        read["tool_calls"] = [_call(call, f"{where}.tool_calls[{place}]", offer) for place, call in enumerate(calls)]
    elif message.get("content") is None and role != "assistant":
        raise wrong(f"{where}.content", None, "text")
    for name in ("name", "tool_call_id"):
        if isinstance(message.get(name), str):
            read[name] = message[name]
    return read


def _content(content: Any, where: str) -> str:
    if isinstance(content, str | None):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    for place, part in enumerate(parts):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise wrong(f"{where}.content[{place}]", part, '{"type": "text", "text": ...}: this model reads text only')
    return "".join(part["text"] for part in parts)


def _call(call: Any, where: str, offer: Offer | None) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise wrong(where, call, '{"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}}')
    name, arguments = function["name"], _arguments(function.get("arguments"), f"{where}.function.arguments")
    said = {"name": offer.written(name) if offer else name, "arguments": arguments}
    return {"id": str(call.get("id") or ""), "type": "function", "function": said}


def _arguments(given: Any, where: str) -> Mapping[str, Any]:
    if isinstance(given, dict):
        return given
    if not isinstance(given, str):
        raise wrong(where, given, "a JSON object, as text")
    try:
        return read_json(given.encode()) if given.strip() else {}
    except ApiError as error:
        raise wrong(where, given, "a JSON object, as text") from error
