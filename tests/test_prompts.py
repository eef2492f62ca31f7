import json
import re
import shutil

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from tiny import SEED_PROMPT, weather_example

from jaxfc.calls.parse import Syntax
from jaxfc.calls.schema import Call, accepted_from_bfcl
from jaxfc.command import InputError
from jaxfc.config import Prompt
from jaxfc.data.example import Example
from jaxfc.data.prompts import (
    Tokenizer,
    answer_of,
    calls_text,
    completion_text,
    completion_tokens,
    cot_mask,
    prompt_messages,
    prompt_tokens,
    read_completion,
)
from jaxfc.data.tasks import KINDS, generate
from jaxfc.rewards import judge_completion

TAGS, BARE, OPEN = Prompt(), Prompt(wrapper="bare"), Prompt(opens_think=True)
PROMPTS = [
    Prompt(tools=tools, wrapper=wrapper, opens_think=opens)
    for tools in ("json", "signatures")
    for wrapper in ("tags", "bare")
    for opens in (False, True)
]
NAMES = [f"{p.tools}-{p.wrapper}-{'open' if p.opens_think else 'shut'}" for p in PROMPTS]
LIKE_TAGS = ["<|think|>", "<thinking>", "a < b", "</ think>", "<|end|>", "<|im_end|>", "<|im_start|>system"]
IN_VALUES = ["<think>", "</think>", "x</answer>", "<answer>[]", "\\<think>", 'it\'s "<think>"', "\\\\</answer>\n"]


@pytest.fixture(params=["seed", "qwen"])
def tokenizer(request):
    return request.getfixturevalue("seed_tokenizer" if request.param == "seed" else "qwen")


@pytest.fixture
def seed_folder(seed_tokenizer, tmp_path):
    """A copy of the seed-like tokenizer's files, to damage."""
    source = seed_tokenizer._hf.name_or_path
    return shutil.copytree(source, tmp_path / "tokenizer")


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def thought_of(text: str, tokenizer: Tokenizer, prompt: Prompt) -> bytes:
    """The bytes of the tokens that the mask calls chain of thought."""
    pieces = tokenizer.pieces(tokenizer.encode(text))
    mask = cot_mask(pieces, read_completion(text.encode(), prompt).cot)
    return b"".join(piece for piece, inside in zip(pieces, mask, strict=True) if inside)


# Tokens and bytes


@hypothesis.given(text=st.text(st.characters(exclude_categories=["Cs"])))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=200)
def test_the_pieces_of_a_text_are_its_bytes(seed_tokenizer, text):
    assert b"".join(seed_tokenizer.pieces(seed_tokenizer.encode(text))) == text.encode()


def test_a_character_of_several_tokens_is_put_together_again(tokenizer):
    text = "naïve 日本 🦜 <think>"
    assert tokenizer.text(tokenizer.encode(text)) == text
    bird = tokenizer.pieces(tokenizer.encode("🦜"))
    assert len(bird) > 1 and b"".join(bird).decode() == "🦜"


def test_every_byte_has_a_token(tokenizer):
    single = {piece for piece in tokenizer.pieces(range(tokenizer.vocabulary)) if len(piece) == 1}
    assert single == {bytes([byte]) for byte in range(256)}


def test_bytes_that_are_no_utf8_are_marked_and_the_rest_is_kept(seed_tokenizer):
    bird = seed_tokenizer.encode("🦜")
    assert seed_tokenizer.text([*seed_tokenizer.encode("a"), *bird[:2], *seed_tokenizer.encode("b")]) == "a�b"


def test_ids_past_the_vocabulary_say_nothing(seed_tokenizer):
    assert seed_tokenizer.pieces([10**6, seed_tokenizer.vocabulary, -1]) == [b"", b"", b""]


# Prompts


@pytest.mark.parametrize(
    "prompt", PROMPTS, ids=lambda p: f"{p.tools}-{p.wrapper}-{'open' if p.opens_think else 'shut'}"
)
def test_the_template_writes_the_completion_behind_the_prompt_unchanged(tokenizer, prompt):
    example = generate(0, "train", 1)
    completion = completion_text(example, prompt)
    said = ("<think>" if prompt.opens_think else "") + completion
    messages = prompt_messages(example, prompt)
    whole = tokenizer._hf.apply_chat_template([*messages, {"role": "assistant", "content": said}], tokenize=False)
    seen = tokenizer.text(prompt_tokens(example, tokenizer, prompt))
    assert whole.startswith(seen + completion + tokenizer.text([tokenizer.eos]))
    written = completion_tokens(example, tokenizer, prompt)
    assert tokenizer.text(written) == completion + tokenizer.text([tokenizer.eos])


@pytest.mark.parametrize("prompt", PROMPTS[:2], ids=["shut", "open"])
def test_a_prompt_ends_where_the_reply_begins(tokenizer, prompt):
    text = tokenizer.text(prompt_tokens(weather_example(), tokenizer, prompt))
    assert re.search(r"assistant[^a-z]*(<think>)?$", text)
    assert text.endswith("<think>") == prompt.opens_think


def test_the_system_message_holds_tools_and_the_form_of_the_reply():
    (system, user) = prompt_messages(weather_example(), TAGS)
    assert system["role"] == "system" and user == {"role": "user", "content": "Three days of weather in Paris?"}
    (line,) = [line for line in system["content"].splitlines() if line.startswith('{"type": "function"')]
    assert json.loads(line)["function"]["parameters"]["properties"]["days"] == {"type": "integer"}
    assert "<answer>[name(argument=value, ...), ...]</answer>" in system["content"]
    assert not set(re.findall(r"{(\w+)}", system["content"])), "a place holder is left"
    bare = prompt_messages(weather_example(), BARE)[0]["content"]
    assert "<answer>" not in bare and "</think>\n[name(" in bare
    assert prompt_messages(weather_example(), SEED_PROMPT)[0]["content"] == "weather(city: str, days?: int)"


def test_an_examples_own_system_message_follows_the_prompts():
    own = ({"role": "system", "content": "Today is Monday."}, {"role": "user", "content": "Hi {tools}"})
    example = Example(id="x", messages=own, tools=weather_example().tools, accepted=())
    system, user = prompt_messages(example, SEED_PROMPT)
    assert system["content"] == "weather(city: str, days?: int)\n\nToday is Monday."
    assert user["content"] == "Hi {tools}"


# Known-good completions


@pytest.mark.parametrize(
    "prompt", PROMPTS, ids=lambda p: f"{p.tools}-{p.wrapper}-{'open' if p.opens_think else 'shut'}"
)
def test_the_gold_completion_of_every_kind_of_task_is_right_after_a_trip_through_the_tokenizer(tokenizer, prompt):
    for split in ("train", "held_out"):
        for index in range(10 * len(KINDS)):
            example = generate(3, split, index)
            tokens = completion_tokens(example, tokenizer, prompt)
            assert tokens[-1] == tokenizer.eos and tokenizer.eos not in tokens[:-1]
            verdict = judge_completion(b"".join(tokenizer.pieces(tokens[:-1])), example, prompt, Syntax.STRICT)
            assert verdict.ok, (example.id, verdict)


@pytest.mark.parametrize("value", LIKE_TAGS + IN_VALUES)
@pytest.mark.parametrize("prompt", [TAGS, BARE, OPEN], ids=["tags", "bare", "open"])
def test_text_like_a_tag_or_a_special_token_inside_a_value_is_only_text(tokenizer, prompt, value):
    example = weather_example(value)
    tokens = completion_tokens(example, tokenizer, prompt)
    assert tokenizer.eos not in tokens[:-1]
    data = b"".join(tokenizer.pieces(tokens[:-1]))
    assert judge_completion(data, example, prompt, Syntax.STRICT).ok, data
    thought = thought_of(data.decode(), tokenizer, prompt)
    assert thought and thought in b"weather: weather"


def test_values_are_written_as_python_and_calls_in_order():
    calls = [Call("f", {"a": 1, "b": "it's", "c": [True, None]}), Call("g.h", {})]
    assert calls_text(calls) == """[f(a=1, b="it's", c=[True, None]), g.h()]"""
    assert calls_text([]) == "[]"


def test_an_argument_that_may_be_left_out_first_is_left_out():
    accepted = accepted_from_bfcl([{"weather": {"city": ["Rome", "Roma"], "days": ["", 3]}}])
    example = Example(id="x", messages=(), tools=weather_example().tools, accepted=accepted)
    assert completion_text(example, BARE) == "<think>weather</think>[weather(city='Rome')]"


def test_tags_in_a_thought_are_left_out():
    example = weather_example()
    example = Example(**{name: getattr(example, name) for name in example.__slots__} | {"thought": "<think>a</think>b"})
    assert completion_text(example, TAGS).startswith("<think>ab</think><answer>[weather(")


# Reading completions


def test_a_right_completion_is_thought_and_answer():
    text = " <think>why</think>\n<answer> [f()] </answer>\n"
    completion = read_completion(text.encode(), TAGS)
    assert (completion.problem, completion.answer.strip()) == ("", "[f()]")
    assert text[slice(*completion.cot)] == "why"
    bare = read_completion(b"<think>why</think> [f()]", BARE)
    assert (bare.problem, bare.answer) == ("", "[f()]")


@pytest.mark.parametrize(
    ("prompt", "text", "problem", "cot"),
    [
        (TAGS, "", "no think block", ""),
        (TAGS, "[f()]", "no think block", ""),
        (TAGS, "Sure. <think>a</think><answer>[]</answer>", "no think block", ""),
        (TAGS, "a</think><answer>[]</answer>", "no think block", ""),
        (TAGS, "<think>a<answer>[]</answer>", "think block not closed", ""),
        (OPEN, "a", "think block not closed", ""),
        (OPEN, "<think>a</think><answer>[]</answer>", "more than one think block", "<think>a"),
        (TAGS, "<think>a<think>b</think><answer>[]</answer>", "more than one think block", "a<think>b"),
        (TAGS, "<think>a</think></think><answer>[]</answer>", "more than one think block", "a"),
        (TAGS, "<think>a</think><answer><think></answer>", "more than one think block", "a"),
        (TAGS, "<think>a</think>[]", "no answer block after the think block", "a"),
        (TAGS, "<think>a</think><answer>[]", "no answer block after the think block", "a"),
        (TAGS, "<think>a</think>so <answer>[]</answer>", "no answer block after the think block", "a"),
        (TAGS, "<think>a</think><answer>[]</answer> bye", "no answer block after the think block", "a"),
        (TAGS, "<think>a</think><answer></answer><answer>[]</answer>", "more than one answer block", "a"),
        (TAGS, "<think><answer></think><answer>[]</answer>", "more than one answer block", "<answer>"),
        (BARE, "<think>a</think><answer>[]</answer>", "more than one answer block", "a"),
    ],
)
def test_each_fault_of_form_has_its_problem(prompt, text, problem, cot):
    completion = read_completion(text.encode(), prompt)
    assert (completion.answer, completion.problem) == (None, problem)
    assert text[slice(*completion.cot)] == cot


@pytest.mark.parametrize("overlap", ["<answer>", "</answer>", "<answer></answer"])
def test_an_opening_and_a_closing_tag_do_not_share_characters(overlap):
    assert read_completion(f"<think></think>{overlap}".encode(), TAGS).answer is None


@hypothesis.given(data=st.binary(max_size=60) | st.text("<>/thinkaswer []f()", max_size=60).map(str.encode))
def test_no_bytes_raise_and_offsets_stay_inside(data):
    for prompt in (TAGS, BARE, OPEN):
        completion = read_completion(data, prompt)
        assert 0 <= completion.cot[0] <= completion.cot[1] <= len(data)
        assert (completion.answer is None) == bool(completion.problem)


@pytest.mark.parametrize("inside", [b"\xff", "🦜".encode()[:2]])
def test_bytes_that_are_no_utf8_shift_no_offset(inside):
    data = b"<think>" + inside + b"why</think><answer>[f(a='" + inside + b"')]</answer>"
    completion = read_completion(data, TAGS)
    assert data[slice(*completion.cot)] == inside + b"why"
    assert completion.answer.startswith("[f(a='\N{REPLACEMENT CHARACTER}")


def test_what_is_scored_without_regard_to_form_is_the_answer_or_what_follows_the_thinking():
    assert answer_of("<think>a</think><answer>[f()]</answer>", TAGS) == "[f()]"
    assert answer_of("a</think><answer>[f()]</answer> bye", TAGS) == "[f()] bye"
    assert answer_of("[f()]", TAGS) == "[f()]"


# The chain of thought


def test_tags_of_one_token_bound_the_chain_of_thought(seed_tokenizer):
    assert len(seed_tokenizer.encode("<think>")) == 1
    text = "<think>get song: get_song</think><answer>[get_song(a=1)]</answer>"
    assert thought_of(text, seed_tokenizer, TAGS) == b"get song: get_song"


def test_tags_of_several_tokens_bound_the_chain_of_thought(qwen):
    assert len(qwen.encode("<think>")) == 3
    text = "<think> get song: get_song </think><answer>[get_song(a=1)]</answer>"
    assert thought_of(text, qwen, TAGS) == b" get song: get_song" and qwen.pieces(qwen.encode(" </"))[-1] == b" </"


def test_a_token_that_straddles_a_tag_belongs_to_the_tag():
    pieces = [b"<thi", b"nk>so", b" it", b" is", b"</", b"thin", b"k>", b"[]"]
    data = b"".join(pieces)
    cot = read_completion(data, BARE).cot
    assert data[slice(*cot)] == b"so it is"
    np.testing.assert_array_equal(cot_mask(pieces, cot), [False, False, True, True, False, False, False, False])


def test_a_prompt_that_opens_the_block_makes_the_first_token_thought(tokenizer):
    text = "get song </think><answer>[]</answer>"
    pieces = tokenizer.pieces(tokenizer.encode(text))
    mask = cot_mask(pieces, read_completion(text.encode(), OPEN).cot)
    assert mask[0] and not mask[-1]
    assert b"get song ".startswith(thought_of(text, tokenizer, OPEN))


@pytest.mark.parametrize("text", ["<think>on and on", "on and on", "<think></think><answer>[]</answer>"])
def test_a_block_that_is_not_closed_not_there_or_empty_has_no_thought(tokenizer, text):
    assert thought_of(text, tokenizer, TAGS) == b""


def test_pieces_without_bytes_are_no_thought():
    np.testing.assert_array_equal(cot_mask([b"", b"ab", b"", b"c"], (0, 3)), [False, True, False, True])
    assert cot_mask([], (0, 0)).shape == (0,)


# Tokenizers that cannot be used


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        Tokenizer(tmp_path)


def test_a_tokenizer_without_a_chat_template_is_refused(seed_folder):
    edit(seed_folder / "tokenizer_config.json", lambda config: config.pop("chat_template", None))
    (seed_folder / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(InputError, match="no chat template"):
        Tokenizer(seed_folder)


def test_a_tokenizer_without_an_end_is_refused(seed_folder):
    edit(seed_folder / "tokenizer_config.json", lambda config: config.pop("eos_token"))
    with pytest.raises(InputError, match="no eos_token"):
        Tokenizer(seed_folder)


def test_a_tokenizer_that_is_not_byte_level_is_refused(seed_folder):
    edit(seed_folder / "tokenizer.json", lambda tokenizer: tokenizer.update(decoder={"type": "Fuse"}))
    with pytest.raises(InputError, match="not a byte-level BPE"):
        Tokenizer(seed_folder)


def test_a_tokenizer_file_that_is_broken_is_refused(seed_folder):
    path = seed_folder / "tokenizer.json"
    path.write_text(path.read_text()[:1000])
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        Tokenizer(seed_folder)
