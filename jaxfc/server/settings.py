"""What a server takes and refuses."""

import dataclasses


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
