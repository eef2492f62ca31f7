"""Example -> prompt tokens by the model's chat template; completion tokens -> chain of thought and answer."""

import bisect
import dataclasses
import functools
import itertools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxfc.calls.languages import shown
from jaxfc.calls.schema import Call, calls_from_accepted, signature, tool_to_openai
from jaxfc.command import InputError
from jaxfc.config import Prompt
from jaxfc.data.example import Example

THINK, END_THINK, ANSWER, END_ANSWER = "<think>", "</think>", "<answer>", "</answer>"
_MARKUP, _ESCAPED = re.compile(r"<(?=\||/?(think|answer)>)"), r"\\x3c"


@dataclasses.dataclass(frozen=True)
class Completion:
    """What a completion says. Offsets count its bytes."""

    answer: str | None
    """The text in which calls are looked for; None when the form is wrong."""
    problem: str
    """What is wrong with the form; empty when nothing is."""
    cot: tuple[int, int] = (0, 0)
    """Where the chain of thought stands, tags excluded; empty when it was not closed."""


class Tokenizer:
    """A model's own tokenizer with its chat template; text and tokens map to each other byte by byte."""

    def __init__(self, folder: str | Path):
        """Load the tokenizer of a Hugging Face directory.

        Raises:
            InputError: there is none, it is damaged, it has no chat template, or it is not a byte-level BPE.
        """
        # Without this, transformers says at every start that PyTorch, which is not needed, is not there.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        from transformers import PreTrainedTokenizerFast

        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise InputError(f"{folder}: no tokenizer.json; a model directory holds its tokenizer.")
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            raise InputError(f"{path}: no JSON ({error}); the file is damaged or was cut short.") from error
        # Not AutoTokenizer: by the model's type it picks a class that may rebuild the tokenizer and add tokens to it.
        self._hf = PreTrainedTokenizerFast.from_pretrained(str(folder))
        if not self._hf.chat_template:
            raise InputError(
                f"{folder}: the tokenizer has no chat template, so prompts cannot be written as the model knows them; "
                "use an instruct model, or add chat_template to tokenizer_config.json."
            )
        if '"ByteLevel"' not in json.dumps(json.loads(self._hf.backend_tokenizer.to_str()).get("decoder")):
            raise InputError(f"{folder}: the tokenizer is not a byte-level BPE; those of Qwen and Llama 3 are.")
        if self._hf.eos_token_id is None:
            raise InputError(f"{folder}: the tokenizer names no eos_token, so completions would have no end.")
        self.vocabulary = len(self._hf)
        """Tokens that exist; a model's embedding may have more rows."""
        self.eos = int(self._hf.eos_token_id)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; nothing is added, and tags that are tokens become those."""
        return self._hf(text, add_special_tokens=False)["input_ids"]

    def chat(self, messages: Sequence[dict[str, Any]]) -> str:
        """The conversation as text by the chat template, up to where the assistant's reply begins."""
        return self._hf.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)

    def text(self, tokens: Sequence[int]) -> str:
        """What the tokens say; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self.pieces(tokens)).decode("utf-8", errors="replace")

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of each token. Ids past the vocabulary, which only pad the embedding, have none."""
        return pieces_of(tokens, self.table)

    @functools.cached_property
    def table(self) -> list[bytes]:
        """The bytes of every token in the vocabulary."""
        added = self._hf.get_added_vocab()
        alphabet = {character: byte for byte, character in _byte_alphabet().items()}
        table = [b""] * self.vocabulary
        for piece, index in self._hf.get_vocab().items():
            if piece in added or any(character not in alphabet for character in piece):
                table[index] = piece.encode()
            else:
                table[index] = bytes(alphabet[character] for character in piece)
        return table


def pieces_of(tokens: Sequence[int], table: Sequence[bytes]) -> list[bytes]:
    """The bytes of each token, given those of every token. Ids past the vocabulary have none."""
    size = len(table)
    return [table[token] if 0 <= token < size else b"" for token in tokens]


def _byte_alphabet() -> dict[int, str]:
    """Byte -> the printable character that stands for it in byte-level BPE vocabularies (GPT-2's convention)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


def prompt_messages(example: Example, prompt: Prompt) -> list[dict[str, Any]]:
    """The conversation with its system message, which always comes first.

    An example's own system message follows the prompt's, after a blank line.
    """
    if prompt.tools == "json":
        tools = "\n".join(json.dumps(tool_to_openai(shown(tool)), ensure_ascii=False) for tool in example.tools)
    else:
        tools = "\n".join(signature(shown(tool)) for tool in example.tools)
    tagged = prompt.wrapper == "tags"
    calls = "[name(argument=value, ...), ...]"
    skeleton = f"{THINK}...{END_THINK}\n{ANSWER}{calls}{END_ANSWER}" if tagged else f"{THINK}...{END_THINK}\n{calls}"
    rule = f"the calls between {ANSWER} and {END_ANSWER}" if tagged else "the calls directly after it"
    system = prompt.system
    for name, value in (("{answer_rule}", rule), ("{skeleton}", skeleton), ("{tools}", tools)):
        system = system.replace(name, value)
    messages = [dict(message) for message in example.messages]
    if messages and messages[0]["role"] == "system":
        system += "\n\n" + messages.pop(0)["content"]
    return [{"role": "system", "content": system}, *messages]


def prompt_tokens(example: Example, tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """What the model sees before it writes."""
    return form_of(prompt).tokens_of(example, tokenizer)


def completion_tokens(example: Example, tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """The completion that supervised training teaches, with the token that ends it."""
    return [*tokenizer.encode(completion_text(example, prompt)), tokenizer.eos]


def completion_text(example: Example, prompt: Prompt) -> str:
    """The reply with the accepted calls: think block, then answer."""
    thought = example.thought or _default_thought(example)
    for tag in (THINK, END_THINK, ANSWER, END_ANSWER):
        thought = thought.replace(tag, "")
    opening = "" if prompt.opens_think else THINK
    answer = calls_text(calls_from_accepted(example.accepted, example.tools))
    return f"{opening}{thought}{END_THINK}" + (f"{ANSWER}{answer}{END_ANSWER}" if prompt.wrapper == "tags" else answer)


def _default_thought(example: Example) -> str:
    return "; ".join(call.name for call in example.accepted) or "no tool fits"


def calls_text(calls: Sequence[Call]) -> str:
    """The calls as Python source: `[f(a=1, b='x'), ...]`.

    A tag inside a value, or what starts like a special token, is written with an escape (`\\x3cthink>`) and stays text.
    """
    return f"[{', '.join(_call_text(call) for call in calls)}]"


def _call_text(call: Call) -> str:
    return f"{call.name}({', '.join([f'{name}={_literal(value)}' for name, value in call.arguments.items()])})"


def _literal(value: Any) -> str:
    text = repr(value)
    return _MARKUP.sub(_ESCAPED, text) if "<" in text else text


def read_completion(data: bytes, prompt: Prompt) -> Completion:
    """Split what the model wrote into chain of thought and answer.

    Right are exactly one think block, then one answer, nothing before, between or after them but white space.
    """
    body = data
    if not prompt.opens_think:
        body = data.lstrip()
        if not body.startswith(THINK.encode()):
            return Completion(None, "no think block")
        body = body[len(THINK) :]
    start = len(data) - len(body)
    thought, closed, rest = body.partition(END_THINK.encode())
    if not closed:
        return Completion(None, "think block not closed")
    cot = (start, start + len(thought))
    rest = rest.strip()
    if THINK.encode() in body or END_THINK.encode() in rest:
        return Completion(None, "more than one think block", cot)
    if prompt.wrapper == "tags":
        inner = rest.removeprefix(ANSWER.encode()).removesuffix(END_ANSWER.encode())
        if len(inner) != len(rest) - len(ANSWER) - len(END_ANSWER):
            return Completion(None, "no answer block after the think block", cot)
        rest = inner
    if ANSWER.encode() in thought + rest or END_ANSWER.encode() in thought + rest:
        return Completion(None, "more than one answer block", cot)
    return Completion(rest.decode("utf-8", errors="replace"), "", cot)


def answer_of(text: str, prompt: Prompt) -> str:
    """The part of a completion to score when its form does not count: the answer, or what follows the thinking."""
    completion = read_completion(text.encode("utf-8", errors="replace"), prompt)
    if completion.answer is not None:
        return completion.answer
    return text.rpartition(END_THINK)[2].replace(ANSWER, "").replace(END_ANSWER, "")


class Form(NamedTuple):
    """How a model is asked, and where its answer stands."""

    messages_of: Callable[[Example], Sequence[dict[str, Any]]]
    opening: str
    """What the prompt ends with, after the chat template."""
    answer_of: Callable[[str], str]
    """Takes the answer out of a completion."""
    settings: Mapping[str, Any]
    """What decides all that, as JSON."""

    def tokens_of(self, example: Example, tokenizer: Tokenizer) -> list[int]:
        """What the model sees before it writes."""
        return tokenizer.encode(tokenizer.chat(self.messages_of(example)) + self.opening)


def form_of(prompt: Prompt) -> Form:
    """The project's own: the tools and the form of the reply stand in the system message."""
    return Form(
        functools.partial(prompt_messages, prompt=prompt),
        THINK if prompt.opens_think else "",
        functools.partial(answer_of, prompt=prompt),
        dataclasses.asdict(prompt),
    )


AS_WRITTEN = Form(
    lambda example: [dict(message) for message in example.messages],
    "",
    lambda text: text.rpartition(END_THINK)[2],
    {"system": "of the examples"},
)
"""The messages are complete as they are, and the answer is all that follows the thinking, if there is any."""


def cot_mask(pieces: Sequence[bytes], cot: tuple[int, int]) -> np.ndarray:
    """[T] bool: the tokens that lie wholly within the chain of thought. One that straddles a tag belongs to the tag."""
    # Piece t stands between bounds[t] and bounds[t + 1]. For as few numbers as these, lists are faster than arrays.
    bounds = list(itertools.accumulate(map(len, pieces), initial=0))
    mask = np.zeros(len(pieces), bool)
    mask[bisect.bisect_left(bounds, cot[0]) : max(bisect.bisect_right(bounds, cot[1]) - 1, 0)] = True
    if b"" in pieces:
        mask &= [bool(piece) for piece in pieces]
    return mask
