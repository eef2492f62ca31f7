"""Python's operators over literals, on a budget: what a text can make the evaluation cost is bounded beforehand."""

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.BitAnd: operator.and_,
    ast.MatMult: operator.matmul,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    # Python deprecates the inversion of booleans, with a warning at each use.
    ast.Invert: lambda value: operator.invert(int(value) if isinstance(value, bool) else value),
}
_SEQUENCES = (str, bytes, list, tuple)
_BITS_PER_DIGIT = 3.33
# A width or precision of four digits or more, or one that is an argument.
_WIDE_FORMAT = re.compile(r"\*|[0-9]{4}")


class OperatorError(ValueError):
    """An expression that is not evaluated."""


class TooLargeError(OperatorError):
    """An expression that would exceed its limits."""


class Evaluator:
    """Evaluates expressions over literals; all expressions of one answer share one budget."""

    def __init__(self, max_size: int, max_digits: int, max_depth: int):
        """Set the limits: characters, items and digits in all results together; digits of one integer; nesting."""
        self._left = max_size
        self._max_bits = int(max_digits * _BITS_PER_DIGIT)
        self._max_depth = max_depth

    def evaluate(self, node: ast.expr, depth: int = 0) -> Any:
        """The value that Python gives the expression.

        Raises:
            OperatorError: it holds something other than literals and operators, Python would raise an error, or a
                limit is exceeded.
        """
        if depth > self._max_depth:
            raise TooLargeError(f"operators nest deeper than {self._max_depth}")
        deeper = depth + 1
        match node:
            case ast.Constant(value=value):
                return value
            case ast.List(elts=items):
                return [self.evaluate(item, deeper) for item in items]
            case ast.Tuple(elts=items):
                return tuple([self.evaluate(item, deeper) for item in items])
            case ast.Set(elts=items):
                return self._attempt(set, [self.evaluate(item, deeper) for item in items])
            case ast.Dict(keys=keys, values=values) if None not in keys:
                pairs = zip(keys, values, strict=True)
                return self._attempt(dict, [(self.evaluate(k, deeper), self.evaluate(v, deeper)) for k, v in pairs])
            case ast.UnaryOp(op=op, operand=operand):
                return self._attempt(_UNARY[type(op)], self.evaluate(operand, deeper))
            case ast.BinOp(left=left, op=op, right=right):
                return self._binary(type(op), self.evaluate(left, deeper), self.evaluate(right, deeper))
        raise OperatorError(f"{type(node).__name__} within an operator is not evaluated")

    def _binary(self, op: type[ast.operator], left: Any, right: Any) -> Any:
        self._check(op, left, right)
        result = self._attempt(_BINARY[op], left, right)
        self._left -= _size(result)
        if self._left < 0:
            raise TooLargeError("operators make too much")
        return result

    def _attempt(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise OperatorError(f"{type(error).__name__}: {error}") from None

    def _check(self, op: type[ast.operator], left: Any, right: Any) -> None:
        """Refuse an operation whose result would be large, before it is made."""
        size, bits = 0, 0
        if op is ast.Mod and isinstance(left, str | bytes):
            text = left if isinstance(left, str) else left.decode("latin-1")
            if _WIDE_FORMAT.search(text):
                raise TooLargeError("a format with a wide or a given width")
            size = text.count("%") * _size(right)
        elif isinstance(left, int) and isinstance(right, int):
            if op is ast.Mult:
                bits = left.bit_length() + right.bit_length()
            elif op is ast.Pow and abs(left) > 1:
                bits = left.bit_length() * right
            elif op is ast.LShift:
                bits = left.bit_length() + right
        elif op is ast.Mult and isinstance(left, _SEQUENCES) and isinstance(right, int):
            size = _size(left) * right
        elif op is ast.Mult and isinstance(left, int) and isinstance(right, _SEQUENCES):
            size = _size(right) * left
        if size > self._left or bits > self._max_bits:
            raise TooLargeError(f"{op.__name__} makes too much")


def _size(value: Any) -> int:
    """Characters, items and digits in a value, nested ones included; about what it costs to copy, hash or print it."""
    if isinstance(value, str | bytes):
        return 1 + len(value)
    if isinstance(value, int):
        return 1 + value.bit_length() // 3
    if isinstance(value, list | tuple | set):
        return 1 + sum(_size(item) for item in value)
    if isinstance(value, dict):
        return 1 + sum(_size(key) + _size(item) for key, item in value.items())
    return 1
