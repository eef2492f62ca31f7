"""What a server has room for, what it takes and what it refuses."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Shapes of the compiled programs: one set for each bucket, made before the server says that it is ready."""

    slots: int = 32
    """Completions decoded at once, of each bucket."""
    widths: tuple[int, ...] = ()
    """Numbers below `slots` for which there are programs too, such as [1, 8]: with few requests under way these are
    quicker, and what is drawn with a seed is then the same but for rounding."""
    prompt_buckets: tuple[int, ...] = (512, 2048, 8192)
    """Lengths that prompts are padded to, in tokens; a longer prompt is refused (400)."""
    completion_length: int = 1024
    """Tokens that a completion may have."""
    prefills: int = 1
    """Prompts prefilled at once. More use an accelerator better where prompts are short and come together."""
    ticks: int = 8
    """Tokens drawn of each completion before the server looks for new requests and sends what there is."""
    queue: int = 256
    """Completions that may wait for a slot; more are refused (429)."""
    cache: Literal["compute", "bfloat16", "int8"] = "compute"
    """Type of keys and values; compute is that of the products."""

    def __post_init__(self):
        for name in ("slots", "prefills", "ticks"):
            if getattr(self, name) < 1:
                raise ValueError(f"sizes.{name} is {getattr(self, name)}; it is at least 1.")
        if list(self.widths) != sorted(set(self.widths)) or not all(0 < width < self.slots for width in self.widths):
            raise ValueError(f"sizes.widths is {self.widths}; give rising numbers from 1 to {self.slots - 1}.")
        if self.ticks > 32:
            raise ValueError(f"sizes.ticks is {self.ticks}; a completion has room for 32 tokens at once.")
        if self.queue < 0:
            raise ValueError(f"sizes.queue is {self.queue}; it is at least 0, where requests wait for nothing.")
        if list(self.prompt_buckets) != sorted(set(self.prompt_buckets)) or min(self.prompt_buckets, default=0) < 2:
            raise ValueError(f"sizes.prompt_buckets is {self.prompt_buckets}; give rising lengths such as [512, 1024].")
        if self.completion_length < 2:
            raise ValueError(f"sizes.completion_length is {self.completion_length}; it is at least 2 tokens.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Of requests; what is over one is refused with a status code that says so."""

    body_bytes: int = 4 * 2**20
    """Size of a request's body (413)."""
    requests: int = 256
    """Requests under way at once (429)."""
    choices: int = 64
    """Completions that one request asks for, over all its prompts (400)."""
    tools: int = 256
    """Tools that one request offers (400)."""
    seconds: float = 600.0
    """From a request's arrival to the last byte of its reply (504)."""
    cut_max_tokens: bool = False
    """Whether a max_tokens beyond what the server completes is cut to that, instead of refused (400)."""
    api_key_variable: str | None = None
    """Environment variable with the key that requests must bring (401); null asks for none."""

    def __post_init__(self):
        for name in ("body_bytes", "requests", "choices", "tools", "seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"limits.{name} is {getattr(self, name)}; nothing would be served. Give more than 0.")
