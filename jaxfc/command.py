"""What every command does: read its settings, explain them, and say one clear thing when it cannot go on."""

import argparse
import dataclasses
import difflib
import hashlib
import json
import math
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import yaml

from jaxfc.files import OutputError, to_json
from jaxfc.settings import Dumper, default_of, describe, in_words, options_of, settings_of, yaml_of

T = TypeVar("T")


class InputError(ValueError):
    """A mistake of the user's; the message says what was found, where, and what would be right."""


class Preempted(Exception):
    """The machine is being taken away; what is needed to go on is saved."""


PREEMPTED = 75
"""The exit code that says so: the same command goes on where this one stopped (EX_TEMPFAIL of sysexits.h)."""


# Settings in


class _Override(str):
    """The text of a value from the command line, not yet read as YAML."""


@dataclasses.dataclass(frozen=True)
class _Source:
    """Where the values come from, for messages."""

    root: type
    file: str | None = None
    overrides: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Dotted key -> the override as it was given."""

    def of(self, key: str) -> str:
        """The origin of a value."""
        given = any(f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.") for name in self.overrides)
        return "command line" if given else self.file or "command line"

    def around(self, key: str) -> str:
        """The origins of a record and of what is in it."""
        given = " ".join(text for name, text in self.overrides.items() if not key or name.startswith(f"{key}."))
        if self.file:
            return f"{self.file} with {given}" if given else self.file
        return given or "command line"


def load(cls: type[T], path: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """Build a config from a YAML file and `key.sub=value` overrides, whose values are YAML too.

    What is not given keeps its declared default, within a record that is given in part too. A record that is null can
    be set key by key. An override of a text setting is taken as it stands (`name=0123`).

    Args:
        cls: a frozen dataclass, nested to any depth; fields are bool, int, float, str, Literal, tuple[X, ...], other
            such dataclasses, or `X | None` of these.
        path: the file; None builds from the overrides alone.
        overrides: taken in order, after the file.

    Raises:
        InputError: the file cannot be read, or a key or value is not a right one.
    """
    tree, given = {} if path is None else _read_yaml(Path(path)), {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
            raise InputError(f"command line: {override!r} is no setting; give key=value, such as seed=1.")
        given[key] = override
        _set(tree, key, _Override(text))
    return _build(cls, tree, "", _Source(cls, None if path is None else str(path), given))


def _set(tree: dict, key: str, value: _Override):
    *parents, name = key.split(".")
    for parent in parents:
        inner = tree.get(parent)
        if isinstance(inner, _Override):
            inner = _parse_yaml(str(inner), "command line")
        if not isinstance(inner, dict | None):
            raise InputError(f"command line: {key} cannot be set, because {parent} is {_show(inner)}, not settings.")
        # Copied, because YAML's aliases share one mapping.
        tree[parent] = dict(inner or {})
        tree = tree[parent]
    tree[name] = value


class _Loader(yaml.SafeLoader):
    """YAML in which all keys are text, and a key that stands twice is a mistake."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    seen = set()
    for key, _ in node.value:
        name = str(loader.construct_object(key, deep=True))
        if name in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {name} stands twice", key.start_mark)
        seen.add(name)
    loader.flatten_mapping(node)
    return {str(loader.construct_object(k, deep=True)): loader.construct_object(v, deep=True) for k, v in node.value}


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
# The key `<<`, which merges another mapping, is looked at before it is merged.
_Loader.add_constructor("tag:yaml.org,2002:merge", yaml.SafeLoader.construct_yaml_str)


def _read_yaml(path: Path) -> dict:
    try:
        tree = _parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot read this: {error.strerror}. Give a YAML file of settings.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); give a YAML file of settings.") from error
    if not isinstance(tree, dict | None):
        raise InputError(f"{path}: should hold settings, as `key: value` lines, but holds {_show(tree)}.")
    return tree or {}


def _parse_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        begin = f", {error.context} that begins on line {error.context_mark.line + 1}" if error.context_mark else ""
        raise InputError(f"{source}:{mark.line + 1}: {error.problem or 'not YAML'}{begin}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: not YAML: {' '.join(str(error).split())}.") from error


def _build(cls: type, tree: Mapping[str, Any], key: str, source: _Source, default: Any = None) -> Any:
    """Make one record; what is not given comes from `default`, a record of the same class, or from the class."""
    hints, values, missing = typing.get_type_hints(cls), {}, []
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in tree:
        if name not in fields:
            _refuse_key(name, key, list(fields), source)
    for name, field in fields.items():
        dotted = f"{key}.{name}" if key else name
        standard = default_of(field, default if isinstance(default, cls) else None)
        if name in tree:
            values[name] = _read(hints[name], tree[name], dotted, source, standard)
        elif standard is not dataclasses.MISSING:
            values[name] = standard
        else:
            missing += [f"missing {dotted}: {each.explanation}" for each in settings_of(cls) if each.key == name]
    if missing:
        raise InputError("\n".join(f"{source.around(key)}: {each}" for each in missing))
    try:
        return cls(**values)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{source.around(key)}: {error}") from error


def _refuse_key(name: str, key: str, known: list[str], source: _Source) -> NoReturn:
    dotted = f"{key}.{name}" if key else name
    elsewhere = [setting.key for setting in settings_of(source.root) if setting.key.rpartition(".")[2] == name]
    meant = difflib.get_close_matches(name, known, 1) or elsewhere[:1]
    hint = f"did you mean {meant[0]}?" if meant else f"known here: {', '.join(known)}."
    raise InputError(f"{source.of(dotted)}: unknown key {dotted}; {hint}")


def _read(kind: Any, value: Any, key: str, source: _Source, default: Any) -> Any:
    """Check one value against its type, and turn lists into tuples and mappings into records."""
    options = options_of(kind)
    if isinstance(value, _Override):
        value = _read_override(options, str(value), f"command line: {key}")
    if value is None and type(None) in options:
        return None
    wanted, arguments = options[0], typing.get_args(options[0])
    match typing.get_origin(wanted), value:
        case None, dict() if dataclasses.is_dataclass(wanted):
            return _build(wanted, value, key, source, default)
        case origin, _ if origin is Literal and any(value == each and type(value) is type(each) for each in arguments):
            return value
        case origin, list() | tuple() if origin is tuple:
            return tuple(_read(arguments[0], item, f"{key}[{i}]", source, None) for i, item in enumerate(value))
        case None, bool() | int() | str() if type(value) is wanted:
            return value
        case None, int() | float() | str() if wanted is float and (number := _number(value)) is not None:
            return number
    hint = "."
    if typing.get_origin(wanted) is Literal and (close := difflib.get_close_matches(str(value), arguments, 1)):
        hint = f"; did you mean {close[0]}?"
    elif wanted is str and not isinstance(value, dict | list | None):
        hint = "; put it in quotes."
    raise InputError(f"{source.of(key)}: {key} is {_show(value)}, but should be {in_words(kind)}{hint}")


def _read_override(options: tuple[Any, ...], text: str, where: str) -> Any:
    """The value of an override: YAML, or the text as it stands where text is what it should be."""
    choices = [
        choice for option in options if typing.get_origin(option) is Literal for choice in typing.get_args(option)
    ]
    try:
        value = _parse_yaml(text, where)
    except InputError:
        if str not in options:
            raise
        return text
    return text if (str in options or text in choices) and not isinstance(value, str | None) else value


def _number(value: int | float | str) -> float | None:
    # YAML 1.1 reads 1e-6, which has no point, as text.
    if isinstance(value, bool) or (isinstance(value, str) and not re.fullmatch(r"[-+]?[\d.]+[eE][-+]?\d+", value)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def _show(value: Any) -> str:
    if isinstance(value, dict | list):
        return "settings (key: value)" if isinstance(value, dict) else "a list"
    return f"the text {yaml_of(value)}" if isinstance(value, str) else yaml_of(value)


# Settings out


def dump(config: Any) -> str:
    """The config as YAML, every setting spelled out; `load` turns it back into an equal config."""
    return yaml.dump(dataclasses.asdict(config), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def digest(config: Any) -> str:
    """sha256, in hexadecimal, of the config's canonical form: equal configs have equal digests."""
    # Built anew, so that a number that Python was given as an int counts as the float that it is.
    canonical = _build(type(config), dataclasses.asdict(config), "", _Source(type(config)))
    text = json.dumps(dataclasses.asdict(canonical), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# Running a script


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"command line: {message}. See {self.prog} --help.")


def run_command(
    main: Callable[[Any, argparse.Namespace], Mapping[str, Any] | None],
    config_class: type,
    description: str | None,
    argv: Sequence[str] | None = None,
    extra: Callable[[argparse.ArgumentParser], None] | None = None,
) -> Mapping[str, Any] | None:
    """Run a script: read its command line, build its config, call `main(config, arguments)`.

    `arguments` has `config`, `dry_run`, `json` and what `extra` added. With --json, the mapping that `main` returns is
    printed as one JSON object on standard output. A mistake in the input, or output that cannot be written, ends the
    process with code 2 and one message on standard error; a run whose machine is taken away ends with `PREEMPTED`.

    Args:
        main: the work; with `arguments.dry_run` it checks everything and stops.
        config_class: the settings of the script.
        description: what the script does, for --help.
        argv: the command line; None takes the process's own.
        extra: adds the script's own arguments to the parser. One whose `dest` is a dotted setting sets it, over the
            file and under the overrides: `parser.add_argument("--model", dest="model.path")`. None sets nothing.

    Returns:
        What `main` returned.
    """
    try:
        arguments, overrides = _read_arguments(config_class, description, argv, extra)
        result = main(load(config_class, arguments.config, overrides), arguments)
        if arguments.json and result is not None:
            print(to_json(result))
        return result
    except (InputError, OutputError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    except Preempted as error:
        print(error, file=sys.stderr)
        raise SystemExit(PREEMPTED) from None
    except KeyboardInterrupt:
        print("Interrupted; the same command resumes from what was saved.", file=sys.stderr)
        raise SystemExit(130) from None


def _read_arguments(
    config_class: type, description: str | None, argv: Sequence[str] | None, extra: Callable | None
) -> tuple[argparse.Namespace, list[str]]:
    """The command line, and the overrides that it makes."""
    parser = _Parser(
        description=description,
        epilog=f"settings, in FILE or as key=value:\n\n{describe(config_class)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings")
    parser.add_argument("--dry-run", action="store_true", help="check everything and stop before any work")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    if extra:
        extra(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, over those of FILE")
    arguments = parser.parse_intermixed_args(argv)
    keys = {setting.key for setting in settings_of(config_class)}
    set_by_name = [
        f"{key}={to_json(value)}" for key, value in vars(arguments).items() if key in keys and value is not None
    ]
    return arguments, set_by_name + arguments.overrides
