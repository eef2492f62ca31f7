"""The fields of a request's body, checked one by one."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from jaxfc.calls.dialects import show
from jaxfc.server.errors import ApiError

_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json(body: bytes) -> Mapping[str, Any]:
    """The object that a request's body is.

    Raises:
        ApiError: 400, it is none, or holds what is no text or no number.
    """

    def refuse(word: str):
        raise ValueError(f"{word} is no JSON number")

    try:
        document = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise ApiError(400, f"the body should be a JSON object, not {show(document)}.")
    if b"\\u" in body and _SURROGATE.search(json.dumps(document, ensure_ascii=False)):
        raise ApiError(400, "the body holds half of a surrogate pair, which is no character.")
    return document


class Fields:
    """Reads fields; null counts as not given. What is not right is refused by name (400)."""

    def __init__(self, document: Mapping[str, Any]):
        self._document = document

    def get(self, name: str) -> Any:
        """The value as it is."""
        return self._document.get(name)

    def text(self, name: str) -> str:
        """A text that must be there."""
        value = self.get(name)
        if not isinstance(value, str):
            raise wrong(name, value, "text")
        return value

    def flag(self, name: str) -> bool:
        """True or false; false if not given."""
        value = self.get(name)
        if not isinstance(value, bool | None):
            raise wrong(name, value, "true or false")
        return bool(value)

    def integer(self, name: str, default: int | None, low: int, high: int) -> int | None:
        """An integer within bounds."""
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise wrong(name, value, f"an integer from {low} to {high}")
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number within bounds."""
        value = self.get(name)
        if value is None:
            return default
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high or not math.isfinite(value):
            raise wrong(name, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def items(self, name: str) -> list[Any]:
        """A list; empty if not given."""
        value = self.get(name)
        if not isinstance(value, list | None):
            raise wrong(name, value, "a list")
        return value or []

    def refuse(self, neutral: Mapping[str, tuple[Any, ...]], why: str):
        """Refuse fields whose value would change the reply, but cannot: all but null and their neutral values."""
        for name, values in neutral.items():
            value = self.get(name)
            if value is not None and not any(value == each and type(value) is type(each) for each in values):
                raise ApiError(
                    400, f"{name} is {show(value)}, which {why}; leave it out.", param=name, code="unsupported"
                )


def wrong(name: str, value: Any, right: str) -> ApiError:
    """The refusal of a field's value."""
    return ApiError(400, f"{name} is {show(value)}, but should be {right}.", param=name, code="invalid_value")
