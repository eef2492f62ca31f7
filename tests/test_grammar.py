import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfc.calls.grammar import answer_grammar, literal
from jaxfc.calls.parse import Syntax, parse_calls
from jaxfc.calls.schema import Tool, calls_from_accepted
from jaxfc.data.prompts import calls_text
from jaxfc.data.sources.source import read_rows
from jaxfc.data.tasks import SPLITS, generate
from jaxfc.data.validate import Kept, validate

llguidance = pytest.importorskip("llguidance", reason="needs the extra 'constrain'")

REAL_ROWS = Path(__file__).parents[1] / "jaxfc" / "assets" / "real_rows.jsonl"
EXAMPLES = [kept.example for kept in map(validate, read_rows(REAL_ROWS)) if isinstance(kept, Kept)]


class Bytes:
    """A tokenizer whose tokens are the 256 bytes and an end."""

    eos_token_id, bos_token_id, special_token_ids = 256, None, (256,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text):
        return list(text if isinstance(text, bytes) else text.encode())


BYTES = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()))


def matcher(*tools, fewest=0):
    found = llguidance.LLMatcher(BYTES, llguidance.LLMatcher.grammar_from_lark(answer_grammar(tools, fewest)))
    assert not found.is_error(), found.get_error()
    return found


def accepts(text, *tools, fewest=0):
    found = matcher(*tools, fewest=fewest)
    return found.try_consume_tokens(list(text.encode())) == len(text.encode()) and found.is_accepting()


def tool(*required, name="f", **properties):
    return Tool(name, "", properties, required)


def write(rng, *tools):
    """A random answer: one of the bytes that the grammar allows, most often one that closes something."""
    found, written = matcher(*tools), bytearray()
    while not found.is_stopped():
        mask = found.compute_bitmask()
        allowed = [byte for byte in range(257) if mask[byte // 8] >> (byte % 8) & 1]
        closing = [byte for byte in allowed if byte in b"'\"])}" or byte == 256]
        byte = rng.choice(closing if closing and rng.random() < 0.4 else allowed)
        assert found.consume_token(byte)
        if byte != 256:
            written.append(byte)
    return written.decode()


LEAVES = st.sampled_from(
    [{"type": kind} for kind in ("string", "integer", "float", "boolean", "any", "array", "dict", "tuple", "odd")]
    + [{}, {"type": "string", "enum": ["a", "</answer>", "it's", '"']}, {"type": "integer", "enum": [1, 10, None]}]
    + [{"type": "integer", "nullable": True}, {"type": "float", "enum": [float("nan"), 10**200]}]
)
KEYS = st.sampled_from(["a", "b", "ab", "class", "a b", "it's", "\ud800", "<think>", "ﬁ", "e" * 9])
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda items: {"type": "array", "items": items}, inner),
        st.builds(lambda values: {"type": "dict", "additionalProperties": values}, inner),
        st.builds(
            lambda members, k: {"type": "dict", "properties": members, "required": [*members][:k]},
            st.dictionaries(KEYS, inner, max_size=3),
            st.integers(0, 3),
        ),
    ),
    max_leaves=4,
)
TOOLS = st.builds(
    lambda name, properties, k: Tool(name, "", properties, tuple(properties)[:k]),
    st.sampled_from(["f", "f.g", "ff", "weather.get", "import", "a b", "größe"]),
    st.dictionaries(KEYS, SCHEMAS, max_size=4),
    st.integers(0, 4),
)


@given(tools=st.lists(TOOLS, max_size=3), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_every_answer_parses_and_calls_an_offered_tool_with_what_it_requires(tools, seed):
    text = write(random.Random(seed), *tools)
    for call in parse_calls(text, Syntax.STRICT):
        called = next(tool for tool in tools if tool.name == call.name)
        assert set(called.required) <= set(call.arguments) <= set(called.properties), text


def test_the_accepted_answers_of_the_real_rows_are_in_the_language():
    assert len(EXAMPLES) == 36
    for example in EXAMPLES:
        text = calls_text(calls_from_accepted(example.accepted, example.tools))
        assert accepts(text, *example.tools), text


@pytest.mark.parametrize("split", SPLITS)
def test_the_accepted_answers_of_generated_tasks_are_in_the_language(split):
    for index in range(40):
        example = generate(7, split, index)
        text = calls_text(calls_from_accepted(example.accepted, example.tools))
        assert accepts(text, *example.tools), text


TEXT, INTEGER, FLOAT = ({"type": kind} for kind in ("string", "integer", "float"))
CITY = tool("city", name="w.get", city=TEXT, days=INTEGER)
RIGHT = [
    ("[]", CITY),
    ("[w.get(city='Oslo')]", CITY),
    ('[w.get(days=-3, city="it\'s")]', CITY),
    ("[w.get(city='a'), w.get(city='b')]", CITY),
    (r"[w.get(city='\\ \' \n \x3cthink> \u00e9 \U0001f600 é 😀 <b>')]", CITY),
    ("[f()]", tool()),
    ("[f()]", tool(x=INTEGER)),
    ("[f(x=1.5e-07)]", tool("x", x=FLOAT)),
    ("[f(x=-0.1)]", tool("x", x=FLOAT)),
    ("[f(x=2)]", tool("x", x=FLOAT)),
    (f"[f(x={'9' * 100})]", tool("x", x=INTEGER)),
    ("[f(x=True)]", tool("x", x={"type": "boolean"})),
    ("[f(x=[['a'], []])]", tool("x", x={"type": "array", "items": {"type": "array", "items": TEXT}})),
    ("[f(x={'n': 1, 'a b': 'c'})]", tool(x={"type": "dict", "properties": {"a b": TEXT, "n": INTEGER}})),
    ("[f(x={'n': 1, 'm': [None, {'a': 'b'}]})]", tool(x={"type": "dict"})),
    ("[f(x={})]", tool(x={"type": "dict"})),
    ("[f(x={'a': 1})]", tool(x={"type": "dict", "additionalProperties": INTEGER})),
    ("[f(x=None)]", tool("x", x={"type": "integer", "nullable": True})),
    ("[f(x=[{'a': [1]}, None, 'b'])]", tool("x", x={"type": "odd"})),
    ("[f(x='10')]", tool("x", x={"type": "string", "enum": ["1", "10"]})),
]
WRONG = [
    ("", CITY),
    ("[w.get()]", CITY),
    ("[w.get(days=1)]", CITY),
    ("[w.get(city='a', city='b')]", CITY),
    ("[w.get('Oslo')]", CITY),
    ("[w.get(city='a', other=1)]", CITY),
    ("[w.get(city=1)]", CITY),
    ("[w.get(city='a', )]", CITY),
    ("[w.get(city='a'),]", CITY),
    ("[get(city='a')]", CITY),
    ("[w.get(city='<think>')]", CITY),
    ("[w.get(city='</answer>')]", CITY),
    ("[w.get(city='<|im_end|>')]", CITY),
    (r"[w.get(city='\ud800')]", CITY),
    (r"[w.get(city='\N{DASH}')]", CITY),
    ("[w.get(city='a\nb')]", CITY),
    ("[w.get(city='a', days=1.0)]", CITY),
    ("[w.get(city='a', days=01)]", CITY),
    (f"[f(x={'9' * 101})]", tool("x", x=INTEGER)),
    ("[f(x=1e999)]", tool("x", x=FLOAT)),
    ("[f(x={'ab': 1, 'ac': 2})]", tool(x={"type": "dict"})),
    ("[f(x={'b': 'c'})]", tool(x={"type": "dict", "properties": {"a": TEXT}})),
    ("[f(x={})]", tool(x={"type": "dict", "properties": {"a": TEXT}, "required": ["a"]})),
    ("[f(x=[[[[1]]]])]", tool("x", x={})),
    ("[f(x='c')]", tool("x", x={"type": "string", "enum": ["1", "10"]})),
    ("[f(class=1)]", tool(**{"class": INTEGER})),
    ("[f(class=1)]", tool("class", **{"class": INTEGER})),
    ("[f()]", tool("class", **{"class": INTEGER})),
]


@pytest.mark.parametrize(("text", "offered"), RIGHT)
def test_it_is_in_the_language(text, offered):
    parse_calls(text, Syntax.STRICT)
    assert accepts(text, offered)


@pytest.mark.parametrize(("text", "offered"), WRONG)
def test_it_is_outside_the_language(text, offered):
    assert not accepts(text, offered)


def test_no_more_calls_than_the_parser_reads():
    assert accepts(f"[{', '.join(['f()'] * 64)}]", tool())
    assert not accepts(f"[{', '.join(['f()'] * 65)}]", tool())


def test_of_too_many_parameters_the_required_ones_are_offered():
    many = tool("p99", **{f"p{i}": INTEGER for i in range(100)})
    assert accepts("[f(p62=1, p99=1)]", many)
    assert not accepts("[f(p63=1, p99=1)]", many)
    assert not accepts("[f(p62=1)]", many)


def test_a_huge_enum_admits_all_of_its_type():
    huge = tool("x", x={"type": "string", "enum": [f"value {i}" for i in range(5000)]})
    assert accepts("[f(x='other')]", huge)


def test_schemas_nested_too_deep_admit_any_literal_within_the_parsers_limit():
    schema = {"type": "any"}
    for _ in range(30):
        schema = {"type": "array", "items": schema}
    assert accepts(f"[f(x={'[' * 11}1{']' * 11})]", tool("x", x=schema))
    assert not accepts(f"[f(x={'[' * 12}1{']' * 12})]", tool("x", x=schema))


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**101, [[[]]] * 2 + [float("-inf")]])
def test_what_the_parser_would_not_read_has_no_literal(value):
    assert literal(value) == ""


def test_a_grammar_of_no_tools_knows_one_answer():
    assert accepts("[]")
    assert not accepts("[f()]")


def test_an_answer_of_one_call_at_least_may_not_be_empty():
    assert accepts("[]", tool()) and not accepts("[]", tool(), fewest=1)
    assert all(accepts(text, tool(), fewest=1) for text in ("[f()]", "[f(), f()]"))
