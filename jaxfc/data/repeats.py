"""Repeats: examples that an earlier one makes superfluous, and ids that an earlier one has."""

import dataclasses
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jaxfc.calls.schema import accepted_to_bfcl
from jaxfc.data.digests import Digests, digest_of
from jaxfc.data.example import Example
from jaxfc.data.validate import EXACT_REPEAT, NORMALISED_REPEAT, Dropped, Kept

ID_MADE_UNIQUE = "id: made unique"
_PUNCTUATION = re.compile(r"[^\w\s]|_")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repeats:
    """Which repeats of an earlier row are dropped; the first in the order of the input stays."""

    exact: bool = True
    """Those with the same conversation, tools and answers."""
    normalised: bool = False
    """Those with the same words in the conversation, the same names of tools and the same answers, whatever their
    case, punctuation, white space and the order of tools and calls."""

    def digests(self) -> list[tuple[str, Callable[[Example], bytes]]]:
        """The reasons for which a row is dropped, in their order, each with the digest that repeats share."""
        wanted = (
            (self.exact, EXACT_REPEAT, exact_digest),
            (self.normalised, NORMALISED_REPEAT, normalised_digest),
        )
        return [(reason, digest) for is_wanted, reason, digest in wanted if is_wanted]


def without_repeats(
    results: Iterable[Kept | Dropped], reason: str = EXACT_REPEAT, digest: Callable[[Example], bytes] | None = None
) -> Iterator[Kept | Dropped]:
    """The same results in the same order, with every kept example dropped whose digest an earlier one has.

    Args:
        results: of the stages before; what they dropped is passed on.
        reason: of the rows that are dropped here.
        digest: what repeats share; None: `exact_digest`.
    """
    digest, seen = digest or exact_digest, Digests()
    for result in results:
        if isinstance(result, Kept) and not seen.add(digest(result.example)):
            result = repeat(result, reason)
        yield result


def repeat(kept: Kept, reason: str) -> Dropped:
    """The row as one that repeats another."""
    return Dropped(kept.example.id, kept.example.source, reason, "", kept.where)


def exact_digest(example: Example) -> bytes:
    """Of the conversation, the tools and the accepted calls."""
    tools = [[tool.name, tool.description, tool.properties, tool.required] for tool in example.tools]
    content = [example.messages, tools, accepted_to_bfcl(example.accepted)]
    return digest_of(json.dumps(content, sort_keys=True))


def normalised_digest(example: Example) -> bytes:
    """Of the words of the conversation, the names of the tools, and the accepted calls in lower case."""
    conversation = [
        [message["role"], words_of(message["content"]), _normalised(message.get("tool_calls", []))]
        for message in example.messages
    ]
    tools = sorted(tool.name.casefold() for tool in example.tools)
    calls = [[call.name, {key: list(values) for key, values in call.arguments.items()}] for call in example.accepted]
    answers = sorted(json.dumps(_normalised(call)) for call in calls)
    return digest_of(json.dumps([conversation, tools, answers]))


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation, accents and white space: "Café's" is `cafes`."""
    # NFKD parts letters from their accents, which are no letters, and go with the punctuation.
    plain = text if text.isascii() else unicodedata.normalize("NFKD", text)
    return _PUNCTUATION.sub("", plain).casefold().split()


def _normalised(value: Any) -> Any:
    """A JSON value with every text, keys too, reduced to its words; other values are left alone."""
    match value:
        case str():
            # Texts without any word (`+`, `-`) differ by their signs alone.
            return " ".join(words_of(value)) or value
        case dict():
            return sorted(([_normalised(key), _normalised(item)] for key, item in value.items()), key=json.dumps)
        case list() | tuple():
            return [_normalised(item) for item in value]
    return value


class UniqueIds:
    """Tells apart examples with one id: all but the first get the place of their row added."""

    def __init__(self):
        self._seen = Digests()

    def __call__(self, kept: Kept) -> Kept:
        """The row under an id that no row before it has."""
        name = kept.example.id
        if self._is_new(name):
            return kept
        name, serial = f"{name}~{kept.where}", 2
        while not self._is_new(name):
            name, serial = f"{kept.example.id}~{kept.where}~{serial}", serial + 1
        example = dataclasses.replace(kept.example, id=name)
        return dataclasses.replace(kept, example=example, repairs=(*kept.repairs, ID_MADE_UNIQUE))

    def _is_new(self, name: str) -> bool:
        return self._seen.add(digest_of(name))
