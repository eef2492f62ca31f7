"""Answers to BFCL's questions, right ones and ones that went wrong in many ways, for any source of random choices."""

import ast
import json
from pathlib import Path
from random import Random
from typing import NamedTuple

from bfcl_pieces import FOREIGN_EXPRESSIONS, NAMES, PIECES, PYTHON_EXPRESSIONS, VALUES, WRAPPERS

LANGUAGES = {"simple_java": "java", "simple_javascript": "javascript"}


class Entry(NamedTuple):
    id: str
    category: str
    functions: list
    answer: list

    @property
    def language(self):
        return LANGUAGES.get(self.category, "python")


def read_entries(folder: Path, category: str) -> list[Entry]:
    """The entries of a folder of BFCL's data; the answer to those of which no call is asked is empty."""
    questions = [json.loads(line) for line in (folder / f"BFCL_v4_{category}.json").read_text().splitlines()]
    file = folder / "possible_answer" / f"BFCL_v4_{category}.json"
    answers = [json.loads(line)["ground_truth"] for line in file.read_text().splitlines()] if file.is_file() else None
    return [
        Entry(row["id"], category, row["function"], answers[number] if answers else [])
        for number, row in enumerate(questions)
    ]


# Values


def chosen(values, rng):
    """One of the accepted values; of a dict, one of those of each key. Ellipsis: leave it out."""
    value = rng.choice(values) if values else None
    return ... if value == "" and rng.random() < 0.8 else nested(value, rng)


def nested(value, rng):
    if isinstance(value, dict) and all(isinstance(inner, list) for inner in value.values()):
        picked = {key: chosen(inner, rng) for key, inner in value.items()}
        return {key: inner for key, inner in picked.items() if inner is not ...}
    return [nested(item, rng) for item in value] if isinstance(value, list) else value


def changed(value, rng):
    """A value that may still count as the same, or as of the same type, or as neither."""
    changes = [lambda: rng.choice(VALUES), lambda: [value], lambda: str(value), lambda: {"value": value}]
    if rng.random() < 0.8:
        changes = _changes_of_kind(value, rng) or changes
    try:
        return rng.choice(changes)()
    except (ValueError, OverflowError):
        return value


def _changes_of_kind(value, rng):
    match value:
        case str():
            return [
                value.upper,
                value.lower,
                value.swapcase,
                lambda: value + rng.choice(".,-_*^/ \t!:\u00a0é"),
                lambda: value.replace(" ", rng.choice(["", "  ", "_", "\n"])),
                lambda: value.replace("a", "ä"),
                lambda: value.replace("'", '"'),
                lambda: f" {value} ",
                lambda: value[1:],
            ]
        case bool():
            return [lambda: not value, lambda: int(value), lambda: str(value).lower()]
        case int() | float():
            return [
                lambda: float(value),
                lambda: int(value),
                lambda: -value,
                lambda: value + 1,
                lambda: value + 1e-9,
                lambda: value / 100,
                lambda: value * 10**30,
                lambda: int("9" * rng.choice([300, 400, 4000])),
                lambda: str(value),
            ]
        case [_, *_]:
            at = rng.randrange(len(value))
            return [
                lambda: value[::-1],
                lambda: value[1:],
                lambda: value + value[:1],
                lambda: tuple(value),
                lambda: value[0],
                lambda: [tuple(value)],
                lambda: [None, *value],
                lambda: [*value[:at], changed(value[at], rng), *value[at + 1 :]],
                lambda: [*value[:at], changed(value[at], rng), *value[at + 1 :]],
            ]
        case dict() if value:
            key = rng.choice(list(value))
            return [
                lambda: {k: v for k, v in value.items() if k != key},
                lambda: value | {key: changed(value[key], rng)},
                lambda: value | {key: changed(value[key], rng)},
                lambda: value | {"extra": 1},
                lambda: {k.upper(): v for k, v in value.items()},
                lambda: dict(reversed(value.items())),
                lambda: list(value.items()),
            ]


def python_value(value, schema, rng):
    """A value as Python writes it, in one of several ways."""
    if isinstance(value, str):
        return rng.choice([repr, repr, json.dumps, lambda text: json.dumps(text, ensure_ascii=False)])(value)
    if isinstance(value, list):
        return f"[{', '.join(python_value(item, schema, rng) for item in value)}]"
    if isinstance(value, tuple):
        return f"({''.join(python_value(item, schema, rng) + ', ' for item in value)})"
    if isinstance(value, dict):
        pairs = (f"{python_value(k, schema, rng)}: {python_value(v, schema, rng)}" for k, v in value.items())
        return f"{{{', '.join(pairs)}}}"
    if type(value) is int and rng.random() < 0.1:
        return rng.choice([hex, bin, "{:_}".format, "0{:d}".format, "({})".format, "+{}".format])(value)
    return repr(value)


def java_value(value, schema, rng):
    """A value as Java writes one of its declared type, or of another."""
    kind = schema["type"] if rng.random() < 0.9 else rng.choice(["String", "long", "double", "Array", "HashMap"])
    items = (schema.get("items") or {}).get("type", "any")
    if isinstance(value, list | tuple):
        inner = ", ".join(java_value(item, {"type": items}, rng) for item in value)
        boxed = {"String": "String", "integer": "Integer", "long": "Long"}.get(items, "")
        plain = {"integer": "int", "char": "char", "long": "long"}.get(items, "String")
        adds = "".join(f"add({item}); " for item in inner.split(", "))
        arrays = [f"new {plain}[]{{{inner}}}", f"new {plain}[] {{ {inner} }}", f"{{{inner}}}"]
        lists = [f"new ArrayList<{boxed}>(Arrays.asList({inner}))"] * 3 + [f"new ArrayList<{boxed}>() {{{{ {adds}}}}}"]
        return rng.choice(arrays if kind == "Array" else [*lists, f"List.of({inner})", f"new ArrayList<{boxed}>()"])
    if isinstance(value, dict):
        puts = (f'put("{key}", {java_value(inner, {"type": "any"}, rng)}); ' for key, inner in value.items())
        body = f"new HashMap<String, Object>() {{{{ {''.join(puts)}}}}}"
        return rng.choice([body, f'"""{body}"""', f'"{body}"', "new HashMap<>()"])
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        suffix = {"long": "L", "float": "f"}.get(kind, "") if rng.random() < 0.8 else rng.choice(["", "L", "f", "d"])
        return f"{value}{suffix}"
    text = str(value)
    if kind not in ("String", "char") and rng.random() < 0.7:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return rng.choice([quoted, quoted, quoted, f"'{text}'", text, f'"""\n{text}"""'])


def javascript_value(value, schema, rng):
    """A value as JavaScript writes it."""
    if isinstance(value, list | tuple):
        inner = ", ".join(javascript_value(item, schema, rng) for item in value)
        return rng.choice(["[{}]", "[{}]", "[{}]", "new Array({})", "[ {}, ]", "Array.of({})"]).format(inner)
    if isinstance(value, dict):
        quote = rng.choice([str, repr, json.dumps])
        inner = ", ".join(f"{quote(key)}: {javascript_value(item, schema, rng)}" for key, item in value.items())
        return rng.choice(["{{{}}}", "{{{}}}", "{{{}}}", "{{ {} }}", "{{{},}}", "new Map([{}])"]).format(inner)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: rng.choice(["null", "undefined"])}[value]
    if isinstance(value, int | float):
        return rng.choice(["{}", "{}", "{}", "{}", "{}n", "{}.0", "'{}'", "+{}"]).format(value)
    text = str(value)
    return rng.choice([json.dumps(text, ensure_ascii=False), json.dumps(text), repr(text), f"`{text}`", text])


WRITERS = {"python": python_value, "java": java_value, "javascript": javascript_value}


# Answers


KINDS = ["values", "expressions", "arguments", "names", "calls", "wrapper", "edits"]


def output(entry: Entry, rng: Random) -> str:
    """One answer, in which up to three kinds of things are changed."""
    kinds = rng.sample(
        ["values", "expressions", "arguments", "names", "calls", "wrapper", "edits"], rng.choice([0, 1, 1, 1, 2, 3])
    )
    expected = entry.answer or [{function["name"]: {}} for function in entry.functions[:2]]
    texts = [call_text(entry, *next(iter(accepted.items())), kinds, rng) for accepted in expected]
    if "calls" in kinds:
        rng.shuffle(texts)
        texts = rng.choice([texts, texts, texts[:-1], texts + texts[:1], [*texts, "other(x=1)"]])
    text = rng.choice([", ", ", ", ",", ",\n", "; "] if "wrapper" in kinds else [", "]).join(texts)
    text = rng.choice(WRAPPERS if "wrapper" in kinds else ["[{}]", "{}"]).replace("{}", text)
    for _ in range(rng.choice([1, 1, 2]) if "edits" in kinds else 0):
        text = edited(text, rng)
    return text


def call_text(entry, name, arguments, kinds, rng):
    doc = next((function for function in entry.functions if function["name"] == name), None)
    schemas = doc["parameters"]["properties"] if doc else {}
    values = {key: chosen(options, rng) for key, options in arguments.items()}
    values = {key: value for key, value in values.items() if value is not ...}
    if "values" in kinds and values:
        key = rng.choice(list(values))
        values[key] = changed(values[key], rng)
    written = {key: WRITERS[entry.language](v, schemas.get(key, {"type": "any"}), rng) for key, v in values.items()}
    if "expressions" in kinds and written:
        expressions = PYTHON_EXPRESSIONS if entry.language == "python" else FOREIGN_EXPRESSIONS
        written[rng.choice(list(written))] = rng.choice(expressions)
    items = [f"{key}={text}" for key, text in written.items()]
    if "arguments" in kinds:
        items = rearranged(items, rng)
    if "names" in kinds:
        name = rng.choice(NAMES)(name)
    return f"{name}({', '.join(items)})"


def rearranged(items, rng):
    at = rng.randrange(len(items) + 1)
    more = rng.choice(["extra=1", "7", "'a'", "x", "**x", "*x", "", "true", *items])
    ways = [
        items[::-1],
        rng.sample(items, len(items)),
        items[:at] + items[at + 1 :],
        [*items[:at], more, *items[at:]],
        [*items[:at], more, *items[at:]],
        [item.partition("=")[2] for item in items],
        [item.replace("=", rng.choice([" = ", "==", ":", "+=", "\t="]), 1) for item in items],
    ]
    return rng.choice(ways)


def edited(text, rng):
    """A text with a piece put in, taken out, doubled or put in place of another."""
    start = rng.randrange(len(text) + 1)
    end = min(len(text), start + rng.randrange(6))
    piece = rng.choice(PIECES)
    return rng.choice(
        [
            text[:start] + piece + text[start:],
            text[:start] + text[end:],
            text[:start] + piece + text[end:],
            text[:end] + text[start:end] + text[end:],
        ]
    )


# What may be sent to a decoder that evaluates operators

_LITERALS = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.List, ast.Tuple, ast.Set, ast.Dict)
_PARTS = (*_LITERALS, ast.operator, ast.unaryop, ast.expr_context)


def is_harmless(text: str) -> bool:
    """Whether all operators of a text are over literals, small ones."""
    source = text.strip("` \n")
    source = source if source.startswith("[") else f"[{source}"
    source = source if source.endswith("]") else f"{source}]"
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    operations = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp)]
    return all(_is_small(part) for node in operations for part in ast.walk(node))


def _is_small(part) -> bool:
    if isinstance(part, ast.Constant):
        value = part.value
        return not isinstance(value, int | str | bytes) or (
            abs(value) <= 64 if isinstance(value, int) else len(value) < 40
        )
    return isinstance(part, _PARTS)
