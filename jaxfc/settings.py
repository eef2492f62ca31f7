"""What a config class declares: its settings, their types in words, their defaults and explanations."""

import ast
import dataclasses
import inspect
import itertools
import math
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import yaml


class Setting(NamedTuple):
    """One setting, for people."""

    key: str
    """Dotted, from the outermost record; `[]` stands for each item of a list."""
    kind: str
    default: str
    """As it follows the kind: ` = 1`, or `, required`; empty for a record, whose settings have their own."""
    explanation: str


def describe(cls: type) -> str:
    """Every setting of a config class: its dotted key, type, default, and the text that follows its declaration."""
    lines = []
    for setting in settings_of(cls):
        lines.append(f"  {setting.key}: {setting.kind}{setting.default}")
        lines += textwrap.wrap(setting.explanation, 100, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def settings_of(cls: type, prefix: str = "", default: Any = None) -> Iterator[Setting]:
    """The settings of a config class and of the records in it, in the order in which they are declared.

    Args:
        cls: a dataclass.
        prefix: of the keys, its dot included.
        default: a record of this class that holds the defaults, where they are not those of the class.
    """
    hints, explanations = typing.get_type_hints(cls), explanations_of(cls)
    for field in dataclasses.fields(cls):
        key, kinds = prefix + field.name, options_of(hints[field.name])
        record = kinds[0] if dataclasses.is_dataclass(kinds[0]) else None
        standard = default_of(field, default if isinstance(default, cls) else None)
        explanation = explanations.get(field.name) or (inspect.getdoc(record) if record else "")
        yield Setting(key, in_words(hints[field.name]), _default_in_words(standard), " ".join(explanation.split()))
        if record:
            yield from settings_of(record, f"{key}.", standard)
        elif typing.get_origin(kinds[0]) is tuple and dataclasses.is_dataclass(typing.get_args(kinds[0])[0]):
            yield from settings_of(typing.get_args(kinds[0])[0], f"{key}[].")


def _default_in_words(standard: Any) -> str:
    if standard is dataclasses.MISSING:
        return ", required"
    if dataclasses.is_dataclass(standard):
        return ""
    return f" = {textwrap.shorten(standard if isinstance(standard, str) else yaml_of(standard), 70)}"


def default_of(field: dataclasses.Field, record: Any = None) -> Any:
    """The default of a field: that of `record`, where one is given; `dataclasses.MISSING` if it has none."""
    if record is not None:
        return getattr(record, field.name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def explanations_of(cls: type) -> dict[str, str]:
    """Field -> the string literal that follows it in the source of its class."""
    found: dict[str, str] = {}
    for owner in reversed([base for base in cls.__mro__ if dataclasses.is_dataclass(base)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body
        for field, text in itertools.pairwise(body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(explanation))):
                    found[name] = " ".join(explanation.split())
    return found


def options_of(kind: Any) -> tuple[Any, ...]:
    """The types of a union, None last; a type alone is a union of one."""
    union = isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
    return tuple(sorted(typing.get_args(kind), key=lambda option: option is type(None))) if union else (kind,)


def in_words(kind: Any) -> str:
    """A type in words."""
    options = options_of(kind)
    if len(options) > 1:
        return " or ".join(map(in_words, options))
    if typing.get_origin(kind) is Literal:
        return " | ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return f"a list, each item {in_words(typing.get_args(kind)[0])}"
    if dataclasses.is_dataclass(kind):
        return "settings (key: value)"
    words = {bool: "true | false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    return words[kind]


class Dumper(yaml.SafeDumper):
    """YAML for people: lists on one line, text of several lines as it reads."""


def _represent_tuple(dumper: Dumper, items: tuple) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)


def _represent_text(dumper: Dumper, text: str) -> yaml.Node:
    # PyYAML writes these line breaks of Unicode bare, and reads them back as others; in quotes it escapes them.
    odd = any(character in text for character in "\x85\u2028\u2029")
    style = '"' if odd else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(tuple, _represent_tuple)
Dumper.add_representer(str, _represent_text)


def yaml_of(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.dump(value, Dumper=Dumper, default_flow_style=True, allow_unicode=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("...").strip()
