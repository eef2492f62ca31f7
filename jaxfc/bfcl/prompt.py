"""BFCL's own prompt: the messages that its client sends to a model without native function calling."""

import functools
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfc.bfcl.categories import LANGUAGE_OF
from jaxfc.calls.languages import LANGUAGES, as_shown


@functools.cache
def system_of_no_functions() -> str:
    """BFCL's default system prompt with an empty list of functions; see `assets/bfcl_system.NOTICE.md`."""
    return (importlib.resources.files("jaxfc") / "assets" / "bfcl_system.txt").read_text(encoding="utf-8")


def bfcl_messages(
    messages: Sequence[Mapping[str, Any]], docs: Sequence[Mapping[str, Any]], category: str
) -> list[dict[str, Any]]:
    """An entry's messages as BFCL's client sends them: its system prompt comes first, then the entry's own.

    Args:
        messages: of the entry's one turn.
        docs: the entry's functions, as its file has them.
        category: says the language of the functions.
    """
    functions = json.dumps([_altered(doc, LANGUAGE_OF.get(category, "python")) for doc in docs], indent=4)
    before, _, after = system_of_no_functions().rpartition("[]")
    system = before + functions + after
    sent = [dict(message) for message in messages]
    if sent[0]["role"] == "system":
        system += f"\n\n{sent.pop(0)['content']}"
    return [{"role": "system", "content": system}, *sent]


def _altered(doc: Mapping[str, Any], language: str) -> dict[str, Any]:
    """A function doc as BFCL shows it: the language is named, and the types of other languages are text."""
    syntax = LANGUAGES[language].syntax if language in LANGUAGES else "Python 3"
    note = f" Note that the provided function is in {syntax} syntax."
    altered = dict(doc) | {"description": f"{doc.get('description') or ''}{note}"}
    if language in LANGUAGES:
        shown = {key: as_shown(schema, language) for key, schema in doc["parameters"]["properties"].items()}
        altered["parameters"] = doc["parameters"] | {"properties": shown}
    return altered
