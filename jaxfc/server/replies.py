"""The JSON of replies, whole and in chunks."""

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfc.server.choices import Choice, Delta, Said

_NEVER = -9999.0
"""In place of the logarithm of 0, which JSON lacks."""


class Usage:
    """Tokens of a request."""

    def __init__(self, prompt_tokens: int, choices: Sequence[Choice]):
        """Count.

        Args:
            prompt_tokens: of all its prompts, each once.
            choices: its completions.
        """
        self.prompt, self.completion = prompt_tokens, sum(choice.tokens for choice in choices)

    def document(self) -> dict[str, int]:
        """As a reply has it."""
        total = self.prompt + self.completion
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": total}


class ChatReplies:
    """Replies to one request for chat completions."""

    def __init__(self, model: str, logprobs: bool):
        self._logprobs = logprobs
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """The one reply."""
        found = [self._choice(number, choice) for number, choice in enumerate(choices)]
        return self._head | {"object": "chat.completion", "choices": found, "usage": usage.document()}

    def _choice(self, number: int, choice: Choice) -> dict[str, Any]:
        whole = choice.whole
        content = None if whole.calls and not whole.answer else whole.answer
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if whole.thought:
            message["reasoning_content"] = whole.thought
        if whole.calls:
            message["tool_calls"] = [call.document() for call in whole.calls]
        logprobs = {"content": _chat_logprobs(whole.said)} if self._logprobs else None
        return {"index": number, "message": message, "logprobs": logprobs, "finish_reason": choice.finish}

    def opening(self, number: int) -> dict[str, Any]:
        """The first chunk of a choice."""
        return self._chunk(number, {"role": "assistant", "content": ""})

    def chunks(self, number: int, delta: Delta, choice: Choice) -> list[dict[str, Any]]:
        """The chunks that bring what is new."""
        new: dict[str, Any] = {}
        if delta.thought:
            new["reasoning_content"] = delta.thought
        if delta.answer:
            new["content"] = delta.answer
        if delta.calls:
            new["tool_calls"] = [{"index": place} | call.document() for place, call in enumerate(delta.calls)]
        logprobs = {"content": _chat_logprobs(delta.said)} if self._logprobs and delta.said else None
        found = [self._chunk(number, new, logprobs)] if new or logprobs else []
        return found + ([self._chunk(number, {}, finish=choice.finish)] if choice.finish else [])

    def _chunk(self, number: int, delta: Mapping[str, Any], logprobs: Any = None, finish: str | None = None):
        choice = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._head | {"object": "chat.completion.chunk", "choices": [choice]}

    def last(self, usage: Usage) -> dict[str, Any]:
        """The chunk after all choices, with what they took."""
        return self._head | {"object": "chat.completion.chunk", "choices": [], "usage": usage.document()}


class TextReplies:
    """Replies to one request for plain completions."""

    def __init__(self, model: str, logprobs: bool):
        self._logprobs = logprobs
        head = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion"}
        self._head = head | {"created": int(time.time()), "model": model}

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """The one reply."""
        found = [self._choice(number, choice.whole, choice.finish) for number, choice in enumerate(choices)]
        return self._head | {"choices": found, "usage": usage.document()}

    def _choice(self, number: int, delta: Delta, finish: str | None) -> dict[str, Any]:
        logprobs = _text_logprobs(delta.said) if self._logprobs else None
        return {"index": number, "text": delta.answer, "logprobs": logprobs, "finish_reason": finish}

    def opening(self, number: int) -> None:
        """Plain completions have none."""

    def chunks(self, number: int, delta: Delta, choice: Choice) -> list[dict[str, Any]]:
        """The chunks that bring what is new."""
        if not (delta.answer or choice.finish or (self._logprobs and delta.said)):
            return []
        return [self._head | {"choices": [self._choice(number, delta, choice.finish)]}]

    def last(self, usage: Usage) -> dict[str, Any]:
        """The chunk after all choices, with what they took."""
        return self._head | {"choices": [], "usage": usage.document()}


def _chat_logprobs(said: Sequence[Said]) -> list[dict[str, Any]]:
    def entry(piece: bytes, logprob: float) -> dict[str, Any]:
        text = piece.decode("utf-8", errors="replace")
        return {"token": text, "logprob": max(logprob, _NEVER), "bytes": list(piece)}

    return [
        entry(token.piece, token.logprob) | {"top_logprobs": [entry(*likely) for likely in token.likeliest]}
        for token, _ in said
    ]


def _text_logprobs(said: Sequence[Said]) -> dict[str, Any]:
    tops = [{_shown(piece): max(value, _NEVER) for piece, value in token.likeliest} for token, _ in said]
    return {
        "tokens": [_shown(token.piece) for token, _ in said],
        "token_logprobs": [max(token.logprob, _NEVER) for token, _ in said],
        "top_logprobs": tops if any(tops) else None,
        "text_offset": [offset for _, offset in said],
    }


def _shown(piece: bytes) -> str:
    """A token as text; one that is no whole character as its bytes."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
