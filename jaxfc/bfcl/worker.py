"""The process that hosts simulated APIs: calls over an allow-list, the state that they leave, JSON lines in and out.

It runs in any interpreter of Python 3.10 or newer, so it imports nothing but the standard library.
"""

import ast
import contextlib
import copy
import importlib
import inspect
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

FORBIDDEN = ("kill", "exit", "quit", "remove", "unlink", "popen", "Popen", "run")
"""Names that BFCL refuses to call, whatever they are."""
MAX_RESULT = 2**20
"""Characters of one result."""
MAX_MEMORY = 4 * 2**30
"""Bytes of address space of the process."""

_NAME_BEFORE_PARENTHESIS = re.compile(r"\b([a-zA-Z_]\w*)\s*(?=\()")
_CANNOT_COMPILE = (SyntaxError, ValueError, MemoryError, RecursionError)
# A ValueError: an integer with more digits than Python writes, or something that holds itself.
_CANNOT_WRITE = (ValueError, MemoryError, RecursionError)


class CallError(Exception):
    """A call without a result; the message is what is said of it."""


class TooLargeError(Exception):
    """A result that is longer than results may be."""


class World:
    """The simulated objects of one side: of the model, or of the reference."""

    def __init__(self, side: str, classes: Mapping[str, type], config: Mapping[str, Any], long_context: bool):
        """Make the objects and load their state.

        Args:
            side: tells the objects of one side from those of the other in rewritten sources.
            classes: class name -> class, in the order in which their methods are looked up; of equal names the last.
            config: class name -> the state to begin with.
            long_context: the state is padded with things that nothing asks for.
        """
        self._objects: dict[str, Any] = {}
        self._homes: dict[str, str] = {}
        self._methods: dict[tuple[str, str], Callable[..., Any]] = {}
        for name, kind in classes.items():
            instance, home = kind(), f"{side}_{name}_instance"
            if hasattr(instance, "_load_scenario"):
                instance._load_scenario(copy.deepcopy(config.get(name, {})), long_context=long_context)
            self._objects[name] = instance
            for method, function in inspect.getmembers(instance, predicate=inspect.ismethod):
                if not method.startswith("_"):
                    self._homes[method] = home
                    self._methods[home, method] = function

    def run(self, source: str) -> str:
        """The text that a call gives back, or `Error during execution: ...`.

        The source is rewritten as BFCL does: every name before an opening parenthesis, in text values too, loses the
        spaces in between and, if it is a method's, gets its object's name in front. Then it is evaluated: literals,
        and calls of the objects' public methods, nested ones too. Nothing else is.

        Raises:
            TooLargeError: the text is longer than `MAX_RESULT`.
        """
        rewritten = _NAME_BEFORE_PARENTHESIS.sub(self._with_home, source)
        head = rewritten.split("(")[0]
        name = head.split(".")[1] if "." in head else head
        try:
            if name in FORBIDDEN:
                raise CallError(f"Function call {name} is not allowed.")
            text = _text_of(self._value(_syntax_tree(rewritten)))
        except (CallError, RecursionError) as error:
            text = f"Error during execution: {error}"
        if len(text) > MAX_RESULT:
            raise TooLargeError(f"{len(text)} characters; a result has at most {MAX_RESULT}")
        return text

    def differences(self, reference: "World") -> list[str]:
        """Public attributes, `class.attribute`, whose values are not those of the reference's objects."""
        return [
            f"{name}.{attribute}"
            for name, expected in reference._objects.items()
            for attribute, value in vars(expected).items()
            if not attribute.startswith("_") and _differ(self._objects[name], attribute, value)
        ]

    def _with_home(self, match: re.Match) -> str:
        name = match.group(1)
        return f"{self._homes[name]}.{name}" if name in self._homes else name

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value):
                return value
            case ast.List(items):
                return [self._value(item) for item in items]
            case ast.Tuple(items):
                return tuple([self._value(item) for item in items])
            case ast.Set() | ast.Dict():
                return self._hashed(node)
            case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() | complex() as number)):
                return -number
            # Complex numbers, as Python writes them.
            case ast.BinOp(left, ast.Add(), ast.Constant(complex() as imaginary)):
                return self._number(left) + imaginary
            case ast.BinOp(left, ast.Sub(), ast.Constant(complex() as imaginary)):
                return self._number(left) - imaginary
            case ast.Call(function, positional, keywords):
                return self._called(function, positional, keywords)
            case ast.Name(name):
                raise CallError(f"name '{name}' is not defined")
        raise CallError(f"{type(node).__name__} is not evaluated")

    def _hashed(self, node: ast.Set | ast.Dict) -> Any:
        if isinstance(node, ast.Dict) and None in node.keys:
            raise CallError("** is not evaluated")
        # Not within the `try`: what the methods of nested calls raise is told apart from a key that cannot be one.
        parts = (node.elts,) if isinstance(node, ast.Set) else (node.keys, node.values)
        values = [[self._value(item) for item in part] for part in parts]
        try:
            return set(*values) if isinstance(node, ast.Set) else dict(zip(*values, strict=True))
        except TypeError as error:
            raise CallError(str(error)) from None

    def _number(self, node: ast.expr) -> int | float | complex:
        value = self._value(node)
        if not isinstance(value, int | float | complex):
            raise CallError(f"{type(value).__name__} in place of a number")
        return value

    def _called(self, function: ast.expr, positional: Iterable[ast.expr], keywords: Iterable[ast.keyword]) -> Any:
        method = self._method(function)
        arguments = [self._value(argument) for argument in positional]
        named = {str(keyword.arg): self._value(keyword.value) for keyword in keywords}
        try:
            return method(*arguments, **named)
        # A simulated API raises what it likes, and its message is the answer.
        except Exception as error:
            raise CallError(str(error)) from error

    def _method(self, node: ast.expr) -> Callable[..., Any]:
        match node:
            case ast.Attribute(ast.Name(home), method) if (home, method) in self._methods:
                return self._methods[home, method]
        while isinstance(node, ast.Attribute):
            node = node.value
        if isinstance(node, ast.Name):
            raise CallError(f"name '{node.id}' is not defined")
        kind = type(node.value) if isinstance(node, ast.Constant) else type(node)
        raise CallError(f"'{kind.__name__}' object is not callable")


def _syntax_tree(source: str) -> ast.expr:
    try:
        return compile(source, "<string>", "eval", ast.PyCF_ONLY_AST).body
    except _CANNOT_COMPILE as error:
        raise CallError(str(error)) from None


def _text_of(result: Any) -> str:
    if type(result) is str:
        return result
    if type(result) is dict:
        with contextlib.suppress(TypeError, *_CANNOT_WRITE):
            return json.dumps(result)
    try:
        return str(result)
    except _CANNOT_WRITE as error:
        raise CallError(str(error)) from None


def _differ(instance: Any, attribute: str, expected: Any) -> bool:
    if not hasattr(instance, attribute):
        return True
    try:
        return bool(getattr(instance, attribute) != expected)
    except RecursionError:
        return True  # Objects that hold themselves have no end.


class Host:
    """Classes, and the sessions in which calls are run; a session has a world for each side."""

    def __init__(self, classes: Mapping[str, str]):
        """Import the classes, class name -> `module:class`; whatever that raises is raised."""
        modules = {place.partition(":")[0] for place in classes.values()}
        self._classes = {
            name: getattr(importlib.import_module(place.partition(":")[0]), place.partition(":")[2])
            for name, place in classes.items()
        }
        packages = {module.rpartition(".")[0] for module in modules} - {""}
        self._constants = [
            (value, copy.deepcopy(value))
            for module, loaded in sys.modules.items()
            if module in modules or module.rpartition(".")[0] in packages
            for name, value in vars(loaded).items()
            if type(value) in (dict, list) and not name.startswith("_")
        ]
        self._sessions: dict[int, dict[str, World]] = {}

    def answer(self, request: Mapping[str, Any]) -> Any:
        """Do what a request says, and give what it asks for.

        Raises:
            TooLargeError: a result is too long.
        """
        number = request["session"]
        match request["do"]:
            case "open":
                self._sessions[number] = self._open(**request["world"])
                return None
            case "run":
                world = self._sessions[number][request["side"]]
                return [world.run(source) for source in request["calls"]]
            case "compare":
                return self._sessions[number]["model"].differences(self._sessions[number]["reference"])
            case "close":
                self._sessions.pop(number, None)
                return None
        raise ValueError(f"nothing is known of {request['do']!r}")

    def _open(self, classes: list[str], config: dict[str, Any], long_context: bool) -> dict[str, World]:
        # Objects may hold the constants of their modules, and change them; the next session's should not see that.
        for live, saved in self._constants:
            if live != saved:
                fresh = copy.deepcopy(saved)
                live.clear()
                live.update(fresh) if isinstance(live, dict) else live.extend(fresh)
        chosen = {name: self._classes[name] for name in classes}
        return {side: World(side, chosen, config, long_context) for side in ("model", "reference")}


def serve():
    """Answer the JSON lines of standard input on standard output, until it ends.

    The first line is `{"classes": {name: "module:class"}, "path": [folders], "seconds": n}`; the others are requests of
    `Host`. An answer is `{"value": ...}`, or `{"error": reason, "detail": text}`. A request that takes longer than that
    ends the process: its parent, which would have ended it before, is gone.
    """
    # Ctrl-C and the notice that the machine is taken away are for the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _limit_memory()
    # What the simulated APIs print is no answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")

    def say(answer: Mapping[str, Any]):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    first = json.loads(sys.stdin.readline())
    sys.path[:0] = first["path"]
    try:
        host = Host(first["classes"])
    except (ImportError, AttributeError) as error:
        say({"error": "import", "detail": f"{type(error).__name__}: {error}"})
        return
    say({"value": None})
    for line in sys.stdin:
        signal.alarm(first["seconds"])
        try:
            say({"value": host.answer(json.loads(line))})
        except TooLargeError as error:
            say({"error": "result too large", "detail": str(error)})
        signal.alarm(0)


def _limit_memory():
    try:
        import resource
    except ImportError:
        return  # Not on Windows.
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = MAX_MEMORY if most == resource.RLIM_INFINITY else min(MAX_MEMORY, most)
    # macOS knows the limit, but takes none below what is in use.
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))


if __name__ == "__main__":
    # Run by its path, so that its folder, with modules of other names, would come first among those imported.
    del sys.path[0]
    serve()
