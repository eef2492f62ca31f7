"""Java answers, as BFCL reads them: text -> call, and argument text -> value by declared type."""

import re
from typing import Any

from jaxfc.calls.grammars import MAX_DEPTH, inside_brackets, root_of
from jaxfc.calls.parse import NO_NAME, ParseError
from jaxfc.calls.schema import Call

KINDS = {
    "byte": "integer",
    "short": "integer",
    "integer": "integer",
    "long": "integer",
    "float": "float",
    "double": "float",
    "boolean": "boolean",
    "char": "string",
    "String": "string",
    "any": "any",
    "Array": "array",
    "ArrayList": "array",
    "HashMap": "dict",
    # BFCL knows of these, and converts no value to them.
    "Queue": "any",
    "Stack": "any",
    "Set": "any",
    "Hashtable": "any",
}
"""Declared type -> the type, in the words of Python's tools, that its values have once they are converted."""

_AS_WRITTEN = ("identifier", "class_literal", "type_identifier", "method_invocation")
_PUNCTUATION = (",", "(", ")")


def parse_java(text: str) -> list[Call]:
    """Read the first method invocation of an answer; its arguments are text.

    As in BFCL, offsets in UTF-8 cut characters, so that what follows a character beyond ASCII is shifted.

    Raises:
        ParseError: the text is no Java, makes no call, or names an argument twice.
        MissingGrammarError: the grammar is not installed.
    """
    source = inside_brackets(text)
    waiting = [(root_of(source, "java"), 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ParseError("parse: too deep", f"more than {MAX_DEPTH} levels")
        if node.type != "method_invocation":
            waiting += [(child, depth + 1) for child in reversed(node.children)]
        elif (arguments := node.child_by_field_name("arguments")) is not None:
            return [Call(_name(node, source), _arguments(arguments, source))]
    raise ParseError("parse: not a list of calls", "no method is called")


def _text(node: Any, source: str) -> str:
    if node is None:
        raise ParseError("parse: syntax", "a part of the call is missing")
    return source[node.start_byte : node.end_byte]


def _name(node: Any, source: str) -> str:
    name, owner = _text(node.child_by_field_name("name"), source), node.child_by_field_name("object")
    return name if owner is None else f"{_text(owner, source)}.{name}"


def _arguments(node: Any, source: str) -> dict[str, str]:
    arguments: dict[str, str] = {}
    for child in node.children:
        if child.type == "assignment_expression":
            # By position, as BFCL does: a comment shifts them.
            if child.child_count < 3:
                raise ParseError("parse: syntax", "an assignment without a value")
            key, written = _text(child.child(0), source), _value(child.child(2), source)
        elif child.type in ("identifier", "class_literal"):
            key, written = NO_NAME, _text(child, source)
        else:
            continue
        if key in arguments:
            raise ParseError("parse: duplicate argument", key)
        arguments[key] = written
    return arguments


def _value(node: Any, source: str, depth: int = 0) -> str:
    """The text of a value, without the white space between its tokens; at depth 0 without quotes around it."""
    if node is None:
        raise ParseError("parse: value", "a part of an expression is missing")
    if depth > MAX_DEPTH:
        raise ParseError("parse: too deep", f"more than {MAX_DEPTH} levels")
    deeper = depth + 1
    if node.type in ("string_literal", "character_literal"):
        return _text(node, source) if depth else _text(node, source)[1:-1]
    if node.type in _AS_WRITTEN:
        return _text(node, source)
    if node.type == "array_creation_expression":
        kind, items = node.child_by_field_name("type"), node.child_by_field_name("value")
        return f"new {_value(kind, source, deeper)}[]{_value(items, source, deeper)}"
    if node.type == "object_creation_expression":
        kind, arguments = node.child_by_field_name("type"), node.child_by_field_name("arguments")
        children = arguments.children if arguments is not None else ()
        given = [_value(child, source, deeper) for child in children if child.type not in _PUNCTUATION]
        # The body, in which a map is filled, is no part of the text.
        return f"new {_value(kind, source, deeper)}({', '.join(given)})"
    if node.child_count:
        return "".join([_value(child, source, deeper) for child in node.children])
    return _text(node, source)


# Values. `$` of the official patterns is also before a last line feed.

_INTEGER, _LONG = re.compile(r"-?\d+\n?"), re.compile(r"-?\d+[lL]\n?")
_DOUBLE, _FLOAT = (re.compile(rf"-?\d+(\.\d+)?([eE][+-]?\d+)?{suffix}\n?") for suffix in ("", "[fF]"))
_ARRAY = re.compile(r"new\s+\w+\[\]\s*\{([^}\n]*+)\}")
_LIST_OF, _LIST = (re.compile(rf"new\s+ArrayList<\w*>\({rest}") for rest in (r"Arrays\.asList\(", r"\)"))
_LIST_BODY, _ADDED = re.compile(r"\s*\{\{(\s*)"), re.compile(r"add\(([^\n][^)\n]*+)\)")
_MAP, _MAP_END, _MAP_BODY = re.compile(r"new\s+HashMap<"), re.compile(r">\s*\(\)"), re.compile(r"\s*\{\s*\{?\s*")
_SPACE, _PUT, _KEY_END = re.compile(r"\s*"), 'put("', '",'


def convert_java(text: str, kind: str, items: str | None = None) -> Any:
    """The value that a text stands for; the text itself where it is not written as its type asks.

    Args:
        text: an argument as `parse_java` gives it.
        kind: its declared type, of `KINDS`.
        items: the declared type of the items of an array or list; None guesses each item's.

    Raises:
        ValueError: BFCL does not convert to this type, or an integer has more digits than Python reads.
    """
    match kind:
        case "byte" | "short" | "integer":
            return int(text) if _INTEGER.fullmatch(text) else text
        case "long":
            return int(text.rstrip("\nlL")) if _LONG.fullmatch(text) else text
        case "float":
            return float(text.rstrip("\nfF")) if _FLOAT.fullmatch(text) else text
        case "double":
            return float(text) if _DOUBLE.fullmatch(text) else text
        case "boolean":
            return text == "true" if text in ("true", "false") else text
        case "String" | "char" | "any":
            return text
        case "Array":
            return _array(text, items)
        case "ArrayList":
            return _array_list(text, items)
        case "HashMap":
            return _hash_map(text)
    raise ValueError(f"a {kind} is not converted")


def _item(text: str, kind: str | None) -> Any:
    return _guess(text) if kind is None else convert_java(text, kind)


def _guess(text: str) -> Any:
    """The value of a text of which no type is declared."""
    if text in ("true", "false"):
        return text == "true"
    if text.startswith('"') and text.endswith('"'):
        return text[1:-1]
    if _LONG.fullmatch(text):
        return int(text[:-1])
    if _FLOAT.fullmatch(text):
        return float(text.rstrip("\nfF"))
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _array(text: str, items: str | None) -> Any:
    found = _ARRAY.search(text)
    return [_item(part.strip(), items) for part in found[1].split(",") if part.strip()] if found else text


def _array_list(text: str, items: str | None) -> Any:
    for head in _LIST_OF.finditer(text):
        end = text.find("))", head.end() + 1)
        if end >= 0 and "\n" not in text[head.end() : end]:
            return [_list_item(part.strip(), items) for part in text[head.end() : end].split(",")]
    lists = list(_LIST.finditer(text))
    bodies = (body for body in (_LIST_BODY.match(text, found.end()) for found in lists) if body)
    for body in bodies:
        # The body holds at least one character, be it one of the white space before it.
        end = text.find("}}", body.end() + 1)
        if end >= 0:
            return [_list_item(part.strip(), items) for part in _ADDED.findall(text[body.end() : end])]
        if body[1] and text.startswith("}}", body.end()):
            return []
    return [] if lists else text


def _list_item(text: str, kind: str | None) -> Any:
    return text[1:-1] if kind in ("String", "char") else _item(text, kind)


def _hash_map(text: str) -> Any:
    """A map's text; one that stands in a literal may still have its body."""
    head = _MAP.search(text)
    if head is None:
        return text
    for end in _MAP_END.finditer(text, head.end()):
        body = _MAP_BODY.match(text, end.end())
        if body:
            close = text.find("}", body.end())
            if close >= 0:
                return _entries(text[body.end() : close])
            break
    # Without a body, the type's brackets close on the line on which they open.
    ends = [end.start() for end in _MAP_END.finditer(text, head.end())]
    for head in _MAP.finditer(text):
        while ends and ends[0] < head.end():
            ends.pop(0)
        if ends and "\n" not in text[head.end() : ends[0]]:
            return {}
    return text


def _entries(text: str) -> dict[str, Any]:
    """The `put("key", value)` of a body."""
    entries, start = {}, text.find(_PUT)
    while start >= 0:
        key = start + len(_PUT)
        line_end = key + len(text[key:].partition("\n")[0])
        # Of the ends that a key could have on its line only the first and the last can differ in what follows.
        for key_end in (text.find(_KEY_END, key, line_end), text.rfind(_KEY_END, key, line_end)):
            if key_end < 0:
                continue
            value = _SPACE.match(text, key_end + len(_KEY_END)).end()
            close = text.find(")", value)
            if close >= 0 and "\n" not in text[value:close]:
                entries[text[key:key_end]] = _guess(text[value:close].strip())
                key = close + 1
                break
        start = text.find(_PUT, key)
    return entries
