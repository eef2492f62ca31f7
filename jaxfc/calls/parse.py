"""The text of an answer -> calls, through Python's syntax tree; nothing is ever executed."""

import ast
import dataclasses
import re
import threading
import warnings
from collections.abc import Iterable
from typing import Any, ClassVar

from jaxfc.calls.dialects import show
from jaxfc.calls.operators import Evaluator, OperatorError, TooLargeError
from jaxfc.calls.plain import DEEPEST, MOST_CALLS, MOST_DIGITS, read_plain
from jaxfc.calls.schema import Call


class ParseError(ValueError):
    """A text that is no list of calls."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        """One of few: `parse: syntax`, `parse: positional argument`, ..."""
        self.detail = detail


@dataclasses.dataclass(frozen=True, slots=True)
class Syntax:
    """What counts as a list of calls."""

    name: str
    lenient: bool
    """Read as BFCL's own decoder does: missing brackets are added, positional arguments dropped, of repeated ones the
    last taken, bare names are text, operators over literals are evaluated. Otherwise a call's arguments are keywords
    with literals, and all else makes the answer invalid."""
    max_characters: int
    max_depth: int
    """Of brackets, and of operators, within one another."""
    max_digits: int
    """Of an integer."""
    max_calls: int
    max_size: int
    """Characters, items and digits that the operators of one answer may make."""

    def __post_init__(self):
        for name, least in (("max_depth", DEEPEST), ("max_digits", MOST_DIGITS), ("max_calls", MOST_CALLS)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; what is read without a parser reaches {least}.")

    STRICT: ClassVar["Syntax"]
    """For training. What it reads, BFCL's reads in the same way."""
    BFCL: ClassVar["Syntax"]
    """For evaluation. BFCL's decoder knows only Python's own limits: 200 brackets deep, 4,300 digits."""


Syntax.STRICT = Syntax(
    "strict", lenient=False, max_characters=16_384, max_depth=32, max_digits=100, max_calls=64, max_size=0
)
Syntax.BFCL = Syntax(
    "bfcl", lenient=True, max_characters=100_000, max_depth=200, max_digits=4_300, max_calls=1_000, max_size=100_000
)

NO_NAME = "**"
"""The argument name under which the lenient syntax keeps `**x`; no parameter has it."""

_STRICT_REASONS = {
    ast.Name: "parse: bare name",
    ast.Attribute: "parse: attribute",
    ast.Call: "parse: nested call",
    ast.BinOp: "parse: operator",
    ast.UnaryOp: "parse: operator",
    ast.JoinedStr: "parse: f-string",
    ast.ListComp: "parse: comprehension",
    ast.SetComp: "parse: comprehension",
    ast.DictComp: "parse: comprehension",
    ast.GeneratorExp: "parse: comprehension",
    ast.Starred: "parse: starred argument",
}
# Comments, strings (the last may lack its end), and brackets.
_TOKENS = re.compile(
    r"""\#[^\n]*
    | '''(?:\\.|[^\\])*?(?:'''|\Z) | \"""(?:\\.|[^\\])*?(?:\"""|\Z)
    | '(?:\\.|[^'\\\n])*'? | "(?:\\.|[^"\\\n])*"?
    | (?P<open>[(\[{]) | (?P<close>[)\]}])""",
    re.VERBOSE | re.DOTALL,
)
# An escape that Python does not know, or a number that runs into a keyword, makes the parser warn.
_MAY_WARN = re.compile(r"\\|[0-9]\.?[A-Za-z]")
_LIST_OF_CALLS = re.compile(r"\[\s*[^\W\d][\w.]*\s*\(")
_MOST_LISTS = 8
# A name, an opening parenthesis, and an argument's keyword.
_KEYWORD_CALL = re.compile(r"\w[ \t]*\(\s*[^\W\d]\w*\s*=(?!=)")
# An opening brace, a quoted key and a colon.
_JSON_OBJECT = re.compile(r"""\{\s*(?:"[^"\n]*"|'[^'\n]*')\s*:""")
_FILTERS = threading.Lock()
_DIGITS_PER_BIT = 0.30103


def parse_calls(text: str, syntax: Syntax = Syntax.STRICT) -> list[Call]:
    """Read a list of calls, `[f(a=1, b='x'), g.h(c=[1, 2])]`; `[]` is no call.

    Args:
        text: whatever a model wrote.
        syntax: what counts as a list of calls.

    Raises:
        ParseError: it is none. No text raises anything else.

    References: the lenient syntax has the rules of BFCL's decoder (bfcl-eval 2026.3.23), except that operators are
        evaluated over literals only.
    """
    if len(text) > syntax.max_characters:
        raise ParseError("parse: too long", f"{len(text)} characters; at most {syntax.max_characters} are read")
    source = _with_brackets(text) if syntax.lenient else text.strip(" \n")
    if not (source.startswith("[") and source.endswith("]")):
        raise ParseError("parse: not a list of calls", f"no square brackets around {show(source)}")
    calls = read_plain(source)
    return _read_tree(source, syntax) if calls is None else calls


def _read_tree(source: str, syntax: Syntax) -> list[Call]:
    """What Python's parser makes of a text in square brackets."""
    _check_depth(source, syntax.max_depth)
    tree = _syntax_tree(source)
    if not isinstance(tree, ast.List):
        raise ParseError("parse: not a list of calls", f"{type(tree).__name__} in place of a list")
    if len(tree.elts) > syntax.max_calls:
        raise ParseError("parse: too many calls", f"{len(tree.elts)} calls; at most {syntax.max_calls} are read")
    reader = _Reader(syntax)
    try:
        return [reader.call(node) for node in tree.elts]
    except RecursionError:
        raise ParseError("parse: too deep", "more levels than Python's stack has left") from None


def find_calls(text: str) -> list[Call]:
    """The calls that the lenient syntax reads in a text: all of it, or the first list of calls within it; else none."""
    text = text[: Syntax.BFCL.max_characters - 2]
    starts = [match.start() for match in _LIST_OF_CALLS.finditer(text)][:_MOST_LISTS]
    for part in [text, *(text[start : _closing_bracket(text, start)] for start in starts)]:
        try:
            calls = parse_calls(part, Syntax.BFCL)
        except ParseError:
            continue
        if calls:
            return calls
    return []


def attempts_calls(text: str, names: Iterable[str]) -> bool:
    """Whether a text that is no list of calls looks like one that went wrong. All else is prose.

    An attempt is a text that

    - starts with `[` or `{`, after white space and backticks: a broken list, or calls in another notation; or
    - has the name of an offered tool directly before `(`, or directly after `[`; or
    - has any name before `(` and a keyword: `other(city=`; or
    - has an object with a quoted key, `{"name":`: a call in JSON, as the templates of many models wrap it in tags.

    So a remark such as `get_weather needs a city`, `[a map](http://x.y)` within a sentence or `the city (or cities)`
    is prose, while `call get_weather() first` is an attempt.

    Args:
        text: whatever a model wrote.
        names: of the tools on offer.
    """
    if text.lstrip("` \t\r\n")[:1] in ("[", "{") or _KEYWORD_CALL.search(text) or _JSON_OBJECT.search(text):
        return True
    offered = "|".join(re.escape(name) for name in names if name)
    return bool(offered) and re.search(rf"(?<!\w)(?:{offered})\(|\[\s*(?:{offered})(?!\w)", text) is not None


def _closing_bracket(text: str, start: int) -> int:
    """Where the brackets that open at `start` are all closed; the end of the text when they are not."""
    depth = 0
    for token in _TOKENS.finditer(text, start):
        depth += (token["open"] is not None) - (token["close"] is not None)
        if depth == 0:
            return token.end()
    return len(text)


def _with_brackets(text: str) -> str:
    source = text.strip("` \n")
    source = source if source.startswith("[") else f"[{source}"
    return source if source.endswith("]") else f"{source}]"


def _check_depth(source: str, max_depth: int) -> None:
    if source.count("(") + source.count("[") + source.count("{") <= max_depth:
        return
    depth = 0
    for token in _TOKENS.finditer(source):
        depth += (token["open"] is not None) - (token["close"] is not None)
        if depth > max_depth:
            raise ParseError("parse: too deep", f"more than {max_depth} brackets within one another")


def _syntax_tree(source: str) -> ast.expr:
    try:
        if not _MAY_WARN.search(source):
            return ast.parse(source, mode="eval").body
        # The filters belong to the whole process: two threads that change them at once could leave them changed.
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ParseError("parse: syntax", f"{type(error).__name__}: {error}") from None


class _Reader:
    """Reads the syntax trees of one answer."""

    def __init__(self, syntax: Syntax):
        self._syntax = syntax
        self._evaluator = Evaluator(syntax.max_size, syntax.max_digits, syntax.max_depth)

    def call(self, node: ast.expr) -> Call:
        if not isinstance(node, ast.Call):
            raise ParseError("parse: not a list of calls", f"{type(node).__name__} in place of a call")
        name = self._name(node.func)
        if node.args and not self._syntax.lenient:
            starred = any(isinstance(argument, ast.Starred) for argument in node.args)
            raise ParseError(f"parse: {'starred' if starred else 'positional'} argument", f"in a call of {name}")
        arguments: dict[str, Any] = {}
        for keyword in node.keywords:
            if not self._syntax.lenient and keyword.arg is None:
                raise ParseError("parse: starred argument", f"in a call of {name}")
            if not self._syntax.lenient and keyword.arg in arguments:
                raise ParseError("parse: duplicate argument", f"{keyword.arg} in a call of {name}")
            arguments[NO_NAME if keyword.arg is None else keyword.arg] = self._value(keyword.value)
        return Call(name, arguments)

    def _name(self, node: ast.expr) -> str:
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            parts.append(node.id)
        elif not self._syntax.lenient:
            raise ParseError("parse: name", f"{type(node).__name__} in place of a name")
        return ".".join(reversed(parts))

    def _value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant):
            return self._constant(node.value)
        if isinstance(node, ast.List):
            return [self._value(item) for item in node.elts]
        if isinstance(node, ast.Tuple):
            return tuple([self._value(item) for item in node.elts])
        if isinstance(node, ast.Dict):
            return self._dict(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
            return self._negated(node, self._constant(node.operand.value))
        if self._syntax.lenient:
            return self._expression(node)
        reason = _STRICT_REASONS.get(type(node), "parse: value")
        raise ParseError(reason, f"{type(node).__name__} in place of a literal")

    def _constant(self, value: Any) -> Any:
        if isinstance(value, int) and value.bit_length() * _DIGITS_PER_BIT > self._syntax.max_digits + 1:
            raise ParseError("parse: too large", f"an integer of more than {self._syntax.max_digits} digits")
        if self._syntax.lenient:
            return "..." if value is Ellipsis else value
        if not isinstance(value, str | int | float | None):
            raise ParseError("parse: value", f"{type(value).__name__} is not a type of arguments")
        return value

    def _dict(self, node: ast.Dict) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key_node, value_node in zip(node.keys, node.values, strict=True):
            if key_node is None:
                raise ParseError("parse: starred argument", "** in a dict")
            key, value = self._value(key_node), self._value(value_node)
            try:
                repeated = key in result
                result[key] = value
            except TypeError:
                raise ParseError("parse: value", f"a {type(key).__name__} cannot be the key of a dict") from None
            if repeated and not self._syntax.lenient:
                raise ParseError("parse: duplicate key", f"{show(key)} in a dict")
        return result

    def _negated(self, node: ast.UnaryOp, value: Any) -> Any:
        """BFCL negates, whichever the operator: `+5` is -5, `not True` is -1."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if self._syntax.lenient and isinstance(value, int | float | complex):
            return -value
        if isinstance(node.op, ast.USub) and is_number:
            return -value
        raise ParseError("parse: operator", f"{type(node.op).__name__} before a {type(value).__name__}")

    def _expression(self, node: ast.expr) -> Any:
        """What BFCL makes of a value that is neither a literal nor a container of them."""
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Call) and node.keywords:
            call = self.call(node)
            return {call.name: dict(call.arguments)}
        if isinstance(node, ast.Call):
            return _source(node)
        if isinstance(node, ast.Subscript):
            return f"{_source(node.value)}[{_source(node.slice)}]"
        if not isinstance(node, ast.BinOp):
            raise ParseError("parse: value", f"{type(node).__name__} in place of a literal")
        try:
            return self._evaluator.evaluate(node)
        except TooLargeError as error:
            raise ParseError("parse: too large", str(error)) from None
        except OperatorError as error:
            raise ParseError("parse: operator", str(error)) from None


def _source(node: ast.expr) -> str:
    """The expression as Python writes it, which it cannot for some f-strings and for very long integers."""
    try:
        return ast.unparse(node)
    except ValueError as error:
        raise ParseError("parse: value", f"{type(node).__name__}: {error}") from None
