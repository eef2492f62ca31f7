"""Completions at random and damaged ones, judged by both syntaxes: no crash, no hang, no growth of memory.

python tests/test_fuzz.py COUNT [SEED] judges as many, and prints what they took.
"""

import array
import collections
import gc
import json
import random
import sys
import time
from pathlib import Path

import pytest

from jaxfc.calls.match import judge_answer
from jaxfc.calls.parse import Syntax
from jaxfc.config import Prompt
from jaxfc.data.prompts import completion_text
from jaxfc.data.sources.source import read_rows
from jaxfc.data.tasks import generate
from jaxfc.data.validate import Kept, validate
from jaxfc.rewards import judge_completion

REAL_ROWS = Path(__file__).parents[1] / "jaxfc" / "assets" / "real_rows.jsonl"
SYNTAXES = (Syntax.STRICT, Syntax.BFCL)
PROMPTS = (Prompt(wrapper="tags"), Prompt(wrapper="bare", opens_think=True))

MARKS = [*"[](){}<>'\"`,:;=.\\\n\t\r\0#@%&*+-/|~^!?_ ", "'''", '"""', "**", "//", "<<", ":=", "==", "->", "..."]
WORDS = [
    "if ", "else ", "for ", " in ", "is ", "not ", "and ", " or ", "lambda ", "await ", "yield ", "async ", "class ",
    "None", "True", "true", "null", "print", "match ", "f(", "x=", "f'{", "b'", "rb'", "u'", "0x1f", "1e999", "007",
    "1_000", ".5", "5.", "1j", "<think>", "</think>", "<answer>", "</answer>", "```python\n", "```",
]  # fmt: skip
JUNK = [*"éßｆﬁ٣²東😀\u200b\u202e\ufeff\u2028\x85\xa0\u0301\ud800\udfff\U000e0001\x1b\x07\x0c"]
OPERATORS = ["9**9**9", "'a'*10**9", "[0]*10**9", "1<<10**9", "'%99999d'%1", "2**10000", "10**4000*10**4000", "1/0"]
NESTING = [("[", "]"), ("(", ")"), ("{1:", "}"), ("f(x=", ")"), ("-", ""), ("not ", ""), ("1**", ""), ("lambda:", "")]
OTHERS = [
    "I cannot do that; which city (or cities) do you mean?",
    "See [the docs](http://x.y/z?a=1&b=[2]) for `weather.get(city)`.",
    '{"name": "weather", "arguments": {"city": "Paris", "days": 3}}',
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Par\\u00eds"}}\n</tool_call>',
    "import os\nfor x in range(10):\n    print(f'{x!r:>{10}}')  # a comment [(\n",
    "[f(x=[y for y in z if y], y=lambda a, *b, **c: (yield a), z={**a, 'b': 1})]",
    "[f(x=g(y=h(z=1)), y=a.b[0]['c'](d)[1:2], z=not -+~1 if 1 < 2 else (a := 3))]",
    "[f(x='%s %d' % ('a', 2), y={1, 2} | {3}, z=(1,) + (2,) * 3, w=b'a' + rb'\\d')]",
    "[" + ", ".join(f"f{number}(a={number}, b='{number}')" for number in range(60)) + "]",
]


def real_completions() -> list[tuple]:
    """(example, its accepted completion) of real rows and of generated tasks."""
    examples = [found.example for found in map(validate, read_rows(REAL_ROWS)) if isinstance(found, Kept)]
    examples += [generate(0, "train", index) for index in range(60)]
    return [(example, completion_text(example, PROMPTS[number % 2])) for number, example in enumerate(examples)]


def length(rng: random.Random) -> int:
    """From 10, mostly below 100; one in fifty above 5,000, one in a thousand beyond what is read."""
    size = 10 ** (1 + 3.2 * rng.random() ** 8)
    return int(size * (rng.randrange(10, 50) if rng.random() < 0.001 else 1))


def invented(rng: random.Random) -> str:
    """A text that nobody would call an answer."""
    size = length(rng)
    match rng.randrange(9):
        case 0:  # A storm of a few marks.
            return "".join(rng.choices(rng.sample(MARKS, rng.randrange(1, 4)), k=size))
        case 1:  # Brackets, operators or calls within one another.
            opens, closes = rng.choice(NESTING)
            deep = rng.choice([size, min(size, 150), min(size, 30)])
            return f"[f(x={opens * deep}1{closes * deep})]"
        case 2:  # A number that is too long.
            digits = "".join(rng.choices("0123456789", k=size))
            start, end = rng.choice(["", "-", "0x", "1e", "0.", "1_", "0b"]), rng.choice(["", "j", ".", "e5"])
            return f"[f(x={start}{digits}{end})]"
        case 3:
            joint = rng.choice(["+", "*", "**", " if 1 else ", ",", " or ", "%"])
            return f"[f(x={joint.join(rng.choices(OPERATORS, k=1 + size // 20))})]"
        case 4:  # A name that is too long.
            name = rng.choice(["a", "a.", "é", "a.b[0].", "f()", "ｆ", "'s'."]) * size
            return rng.choice([f"[{name}f(x=1)]", f"[f({name}=1)]", f"[f(x={name})]", name])
        case 5:  # Any characters at all.
            return "".join(chr(rng.choice([rng.randrange(128), rng.randrange(0x110000)])) for _ in range(size))
        case 6:
            return "".join(rng.choices(MARKS + WORDS + JUNK, k=size // 2))
        case 7:  # Text in every kind of quotes, mostly left open.
            quotes = ["'", '"', "'''", '"""', "\\", "\\'", "a", "\n", "f'{", "}'", "b'"]
            return "[f(x=" + "".join(rng.choices(quotes, k=size))
    return rng.choice(OTHERS)


def mutated(text: str, others: list[str], rng: random.Random) -> str:
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randrange(1, 40))
        match rng.randrange(8):
            case 0:
                text = text[:start]
            case 1:
                text = text[:start] + text[end:]
            case 2:
                text = text[:end] + text[start:]
            case 3:
                other = rng.choice(others)
                text = text[:start] + other[rng.randrange(len(other) + 1) :]
            case 4:
                text = text[:start] + rng.choice(MARKS + WORDS + JUNK + OPERATORS) + text[start:]
            case 5:
                text = text[:start] + rng.choice(MARKS + JUNK) + text[start + 1 :]
            case 6 if len(text) < 5000:
                text = text[:start] + text[start:end] * rng.randrange(2, 50) + text[end:]
            case 7 if rng.random() < 0.3:
                text = text[:start] + invented(rng) + text[start:]
    return text


def fuzz(count: int, seed: int) -> dict:
    """Judge `count` completions; CPU seconds of each judgement, and how far memory rose after the first tenth."""
    rng, rows = random.Random(seed), real_completions()
    texts = [text for _, text in rows] + OTHERS
    # All its room at once, so that memory that rises is the judges'.
    took = array.array("d", bytes(8 * count * len(SYNTAXES)))
    slowest, reasons, rss = ("", 0.0), collections.Counter(), 0
    gc.collect()
    gc.freeze()  # So that no judgement is charged for looking through all that was there before.
    for number in range(count):
        example, text = rng.choice(rows)
        kind = rng.random()
        text = text if kind < 0.7 else invented(rng)
        text = mutated(text, texts, rng) if kind < 0.75 else text
        accepted = example.accepted if rng.random() < 0.7 else ()
        data, prompt = text.encode(errors="surrogatepass"), rng.choice(PROMPTS)
        bare = text.rpartition("</think>")[2].replace("<answer>", "").replace("</answer>", "")
        for place, syntax in enumerate(SYNTAXES, start=number * len(SYNTAXES)):
            start = time.thread_time()
            verdicts = (
                judge_completion(data, example, prompt, syntax),
                judge_answer(bare, example.tools, accepted, syntax),
            )
            took[place] = time.thread_time() - start
            if took[place] > slowest[1]:
                slowest = (bare, took[place])
            for verdict in verdicts:
                assert verdict.ok is (verdict.reason == "ok")
                reasons[verdict.reason] += 1
        if number == count // 10:
            gc.collect()
            rss = resident()
    gc.collect()
    after, took = resident(), sorted(took)
    parts = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "p99.99": 0.9999}
    return {
        "completions": count,
        "seed": seed,
        "cpu_ms": {name: 1000 * took[int(part * len(took))] for name, part in parts.items()} | {"max": 1000 * took[-1]},
        "slowest": (len(slowest[0]), slowest[0][:200]),
        "rss_mib": (rss / 2**20, after / 2**20),
        "reasons": dict(reasons.most_common()),
    }


def resident() -> int:
    """Bytes of memory that this process holds; 0 where the system does not say."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * 4096 if path.exists() else 0


@pytest.mark.parametrize("count", [3000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_no_completion_crashes_or_hangs_the_judge_and_memory_does_not_grow(count):
    found = fuzz(count, seed=0)
    # The types of arguments that tests check take their time too.
    assert found["cpu_ms"]["p99.9"] < 50 and found["cpu_ms"]["max"] < 1000, found
    before, after = found["rss_mib"]
    assert after - before < 50, found
    assert {"ok", "parse: syntax", "parse: too deep", "parse: too large", "parse: too long"} <= set(found["reasons"])


if __name__ == "__main__":
    print(json.dumps(fuzz(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0), indent=2))
