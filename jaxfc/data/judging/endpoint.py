"""Settings of an OpenAI-protocol endpoint: where it is, what it is asked for, and how patiently."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import httpx


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prices:
    """What tokens cost, in any one currency, per million."""

    prompt: float
    """Per million tokens of requests."""
    completion: float
    """Per million tokens of replies."""

    def __post_init__(self):
        for name in ("prompt", "completion"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"prices.{name} is {getattr(self, name)}; a price is at least 0.")

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The cost of so many tokens, to six decimals."""
        return round((prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6, 6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An endpoint that speaks OpenAI's protocol, and how it is to be treated."""

    base_url: str
    """What `/chat/completions` is appended to, such as https://api.openai.com/v1 or http://localhost:8000/v1."""
    model: str
    """As the endpoint names it."""
    key_variable: str | None = None
    """The environment variable that holds the API key; null sends none. The key itself is never written anywhere."""
    temperature: float | None = 0.0
    """Null leaves it out of requests, for models that refuse it."""
    most_tokens: int = 1024
    """Tokens that a reply may have, its reasoning included."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What requests call that limit: newer models of OpenAI's know only the second."""
    response_format: Literal["text", "json_object", "json_schema"] = "text"
    """What the endpoint is told to hold replies to. Text tells it nothing, and works everywhere."""
    concurrency: int = 16
    """Requests under way at a time."""
    timeout: float = 120.0
    """Seconds that one request may take in all."""
    retries: int = 8
    """Further attempts at a request that failed; after these the endpoint counts as down, and the run stops."""
    first_wait: float = 1.0
    """Seconds before the first of them, about; each wait is twice the one before."""
    longest_wait: float = 120.0
    """Seconds at most between attempts; an endpoint that asks for a longer pause stops the run."""
    longest_reply: int = 262144
    """Bytes of a response, as the network carries it; a longer one is not read on."""
    prices: Prices | None = None
    """For the cost in reports; null reports tokens alone."""

    def __post_init__(self):
        _check_url(self.base_url)
        if not self.model:
            raise ValueError("endpoint.model is empty; name a model as the endpoint does (GET /models lists them).")
        if self.key_variable is not None and not self.key_variable.isidentifier():
            raise ValueError(
                "endpoint.key_variable is no name of an environment variable; give the name, such as OPENAI_API_KEY, "
                "and never the key itself."
            )
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise ValueError(f"endpoint.temperature is {self.temperature}; it is from 0 to 2, or null.")
        for name, least in (("most_tokens", 1), ("concurrency", 1), ("retries", 0), ("longest_reply", 1024)):
            if getattr(self, name) < least:
                raise ValueError(f"endpoint.{name} is {getattr(self, name)}; it is at least {least}.")
        for name in ("timeout", "first_wait", "longest_wait"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"endpoint.{name} is {getattr(self, name)}; it is a number of seconds above 0.")

    @property
    def url(self) -> str:
        """Where requests go."""
        url = httpx.URL(self.base_url)
        return str(url.copy_with(path=f"{url.path.rstrip('/')}/chat/completions"))

    def body(self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any]) -> dict[str, Any]:
        """A request's content.

        Args:
            messages: the conversation.
            schema: JSON Schema of the reply, for endpoints that can hold replies to one.
        """
        body: dict[str, Any] = {"model": self.model, "messages": list(messages), self.limit_field: self.most_tokens}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.response_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        elif self.response_format == "json_schema":
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}
        return body


def _check_url(text: str) -> None:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(
            f"endpoint.base_url is no URL ({error}); give one such as http://localhost:8000/v1."
        ) from error
    if url.userinfo:
        raise ValueError("endpoint.base_url holds a user name or password; put the key in an environment variable.")
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"endpoint.base_url is {text!r}; it begins with http:// or https:// and names a host.")
