"""Java and JavaScript texts -> syntax trees, by tree-sitter (optional: `pip install 'jaxfc[bfcl]'`)."""

import functools
from collections.abc import Iterator
from typing import Any

from jaxfc.calls.parse import ParseError

VERSIONS = {"tree_sitter": "0.21.3", "tree-sitter-java": "0.21.0", "tree-sitter-javascript": "0.21.4"}
"""BFCL's verdict depends on how these very versions recover from errors."""
MAX_CHARACTERS = 2_048
"""Of an answer; BFCL's data has none of 500. Error recovery grows with the square of some texts: this long, the worst
that was found (`,!,!,!`) takes 0.6 s."""
MAX_DEPTH = 200
"""Of nodes of a syntax tree within one another."""


class MissingGrammarError(Exception):
    """tree-sitter, or the grammar of a language, is not installed in the version that is needed."""


@functools.cache
def grammar_of(language: str) -> Any:
    """The grammar of `java` or `javascript`.

    Raises:
        MissingGrammarError: it is not installed, or in another version.
    """
    import importlib.metadata

    package = f"tree-sitter-{language}"
    for name in ("tree_sitter", package):
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "no version"
        if found != VERSIONS[name]:
            raise MissingGrammarError(
                f"{language} answers are parsed with {name} {VERSIONS[name]}, but {found} is installed; "
                "pip install 'jaxfc[bfcl]'."
            )
    from tree_sitter import Language

    return Language(importlib.import_module(package.replace("-", "_")).language(), language)


def root_of(text: str, language: str) -> Any:
    """The root of a text's syntax tree, in which tokens may be missing, but which holds no error.

    Raises:
        ParseError: the text is too long or no UTF-8, or the tree has an error in it.
        MissingGrammarError: as of `grammar_of`.
    """
    from tree_sitter import Parser

    if len(text) > MAX_CHARACTERS:
        raise ParseError("parse: too long", f"{len(text)} characters; at most {MAX_CHARACTERS} are read")
    parser = Parser()
    parser.set_language(grammar_of(language))
    try:
        root = parser.parse(text.encode("utf-8")).root_node
    except UnicodeEncodeError as error:
        raise ParseError("parse: syntax", f"no text: {error.reason}") from None
    if any(node.type == "ERROR" for node in _suspects(root)):
        raise ParseError("parse: syntax", f"not {language}")
    return root


def _suspects(root: Any) -> Iterator[Any]:
    """The nodes in which a token is missing or an error stands, from the root down."""
    waiting = [root] if root.has_error else []
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [child for child in node.children if child.has_error]


def inside_brackets(text: str) -> str:
    """An answer without the brackets of its list, of which either may be missing, and without a fence."""
    return text.strip("` \n").removeprefix("[").removesuffix("]")
