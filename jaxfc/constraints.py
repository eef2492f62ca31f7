"""Tools of prompts -> the tokens that each completion may go on with, inside its answer."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt32

from jaxfc.calls.grammar import answer_grammar
from jaxfc.command import InputError
from jaxfc.config import Prompt
from jaxfc.data.example import Example
from jaxfc.data.prompts import ANSWER, END_ANSWER, END_THINK, Tokenizer
from jaxfc.processes import Share, exchange
from jaxfc.truncation import words_of
from jaxfc.types import Allowed

_CLOSE = END_THINK.encode()
ANYTHING = np.uint32(0xFFFFFFFF)
"""A word of a mask that rules nothing out."""
_REGIONS = 1024
"""Sets of tools whose compiled grammars are kept."""
# What most tokens are to the text of an argument: such tokens are judged at once.
_SLICES = [rf"[^'\"\\<\x00-\x1f\x7f]{{1,{most}}}" for most in (10, 30)] + [r"[^'\"\\<\x00-\x1f\x7f]+"]


@dataclasses.dataclass
class Row:
    """One completion under way; changed as its tokens come."""

    region: "Region | None"
    """The answers that it may have; None: any."""
    matcher: Any = None
    """llguidance's, of the answer, once it has begun."""
    seen: int = 0
    """Bytes of `</think>` that the chain of thought ends in."""


class Constraints:
    """Holds answers to the calls of their prompts' tools.

    A completion is free until its first `</think>` is written. From there on it is white space of at most two newlines
    and the answer (`calls.grammar.answer_grammar`), within `<answer>` and `</answer>` where the prompt asks for them,
    and the token that ends it. A token that holds the end of `</think>` and more may only be drawn if the rest of it
    begins such an answer; else the chain of thought is unconstrained, its tags and its end included. So a completion
    that ends after `</think>` has an answer that parses and names offered tools, and one that the token limit cuts is
    truncated as ever: no close is forced near the limit, since the grammar does not tell how many tokens one takes.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Prompt):
        """Read the tokens.

        Args:
            tokenizer: the model's.
            prompt: how replies look.

        Raises:
            InputError: llguidance is not installed, or the tokenizer lacks a token for one of the 256 bytes.
        """
        try:
            import llguidance
            import llguidance.numpy
        except ImportError as error:
            raise InputError(
                f"constrained decoding needs llguidance ({error}); install it with: pip install 'jaxfc[constrain]'"
            ) from error
        self._llguidance = llguidance
        pieces = tokenizer.pieces(range(tokenizer.vocabulary))
        self.tokens = _Tokens(pieces, tokenizer.eos)
        self._prompt = prompt
        self._ll_tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(self.tokens), slices=_SLICES)
        self._executor = llguidance.LLExecutor()
        self._straddling = [_straddling(pieces, seen) for seen in range(len(_CLOSE))]
        self.words = words_of(tokenizer.vocabulary)
        self._region = functools.lru_cache(_REGIONS)(self._compile)

    def begin(self, examples: Sequence[Example | None], *, group_size: int, must_call: bool = False) -> "Constrained":
        """Completions that have not begun: row p * G + g answers `examples[p]`, and None only fills the batch.

        A set of tools whose grammar llguidance refuses, for its size, leaves its completions free (`refused`). Where
        one `must_call`, its answer has a call or more, and it cannot end within its chain of thought.
        """
        fewest = int(must_call)
        regions = [example and self._region(answer_grammar(example.tools, fewest), must_call) for example in examples]
        refused = [example is not None and region is None for example, region in zip(examples, regions, strict=True)]
        return Constrained(self, [Row(region) for region in regions for _ in range(group_size)], refused)

    def fill(self, matchers: Sequence[tuple[Any, int]], masks: UInt32[np.ndarray, "n W"]):
        """Write what each matcher allows next to its row of the masks, in parallel."""
        self._llguidance.numpy.fill_next_token_bitmask_par(self._executor, list(matchers), masks.view(np.int32))

    def _compile(self, grammar: str, must_call: bool) -> "Region | None":
        rules = grammar.replace("start:", "answer:", 1)
        tagged = self._prompt.wrapper == "tags"
        start = f'start: GAP? "{ANSWER}" answer "{END_ANSWER}"' if tagged else "start: GAP? answer"
        # Where only one text can follow, llguidance would else admit no way to write it in tokens but one.
        text = f'%llguidance {{"no_forcing": true}}\n{start}\nGAP: /\\n{{1,2}}/\n{rules}'
        matcher = self._llguidance.LLMatcher(self._ll_tokenizer, self._llguidance.LLMatcher.grammar_from_lark(text))
        if matcher.is_error():
            return None
        return Region(matcher, self.tokens, self._straddling, self.words, may_end_in_thought=not must_call)


class Constrained:
    """A batch of completions under way."""

    def __init__(self, constraints: Constraints, rows: Sequence[Row], refused: Sequence[bool]):
        self._constraints, self._rows = constraints, rows
        self.refused = np.array(refused, bool)
        """[P]: whether the tools of each prompt have no grammar that llguidance takes."""
        eos = constraints.tokens.eos_token_id
        self.only_end = np.zeros(constraints.words, np.uint32)
        """The mask that allows nothing but the token which ends a completion."""
        self.only_end[eos // 32] = 1 << eos % 32

    def masks(
        self, rows: Int[np.ndarray, " n"], lengths: Int[np.ndarray, " n"], last: Int[np.ndarray, " n"]
    ) -> UInt32[np.ndarray, "n W"]:
        """What completions may draw next: token v where bit v % 32 of word v // 32 is set. All of it while they think.

        Where an answer has become too complex for llguidance's limits, it can only end.

        Args:
            rows: of the completions, each once after each of its tokens; none that has ended.
            lengths: tokens that each has.
            last: the last of them; of no account at length 0.

        Raises:
            ValueError: a token that the row's mask ruled out.
        """
        states = [self._rows[row] for row in rows]
        for row, length, token in zip(states, lengths, last, strict=True):
            if length:
                self._advance(row, int(token))
        masks = np.full((len(states), self._constraints.words), ANYTHING)
        answering = [(row.matcher, place) for place, row in enumerate(states) if row.matcher]
        if answering:
            self._constraints.fill(answering, masks)
        for matcher, place in answering:
            if matcher.is_error():
                masks[place] = self.only_end
        for place, row in enumerate(states):
            if row.matcher is None and row.region is not None:
                masks[place] &= row.region.thought_mask(row.seen)
        return masks

    def _advance(self, row: Row, token: int):
        """Go on with a token; what one holds beyond the end of the chain of thought begins the answer."""
        if row.region is None:
            return
        if row.matcher is not None:
            if not row.matcher.consume_token(token):
                raise ValueError(f"token {token} cannot go on with the answer: {row.matcher.get_error()}")
            return
        piece = self._constraints.tokens.tokens[token]
        end = _end_of_close(piece, row.seen)
        if end is None:
            row.seen = _seen(_CLOSE[: row.seen] + piece)
            return
        row.matcher = row.region.matcher.deep_copy()
        row.matcher.consume_tokens(self._constraints.tokens(piece[end:]))


class Recorded:
    """Completions under way whose masks are kept, so that others can score them as they were drawn."""

    def __init__(self, constrained: Constrained, *, share: Share, group_size: int, length: int, masks: int):
        """Begin with no mask.

        Args:
            constrained: the completions that this process holds, none of which has begun.
            share: which prompts of the batch they answer (p).
            group_size: G.
            length: T.
            masks: M, at least 2; where the completions of a prompt need more, an answer can only end.
        """
        self._constrained, self._group_size, self._share = constrained, group_size, share
        prompts = len(share.held)
        self._table = np.full((prompts, masks, constrained.only_end.size), ANYTHING)
        self._table[:, 1] = constrained.only_end
        self._index = np.zeros((prompts * group_size, length), np.int32)
        known = {_key(self._table[0, number]): number for number in (0, 1)}
        self._known = [dict(known) for _ in range(prompts)]
        self._cut = np.zeros(prompts, int)

    def masks(
        self, rows: Int[np.ndarray, " n"], lengths: Int[np.ndarray, " n"], last: Int[np.ndarray, " n"]
    ) -> UInt32[np.ndarray, "n W"]:
        """See `Constrained.masks`."""
        masks = self._constrained.masks(rows, lengths, last)
        for place in np.flatnonzero((masks != ANYTHING).any(axis=1)):
            row = int(rows[place])
            number = self._number(row // self._group_size, masks[place])
            self._index[row, lengths[place]] = number
            masks[place] = self._table[row // self._group_size, number]
        return masks

    def allowed(self) -> Allowed:
        """The masks so far, as arrays of the host: `table` [p, M, W] and `index` [b, T]."""
        return Allowed(self._table, self._index)

    def metrics(self) -> dict[str, int]:
        """`constrain/masks` of the prompt that needed most; `constrain/cut`, answers that had to end.

        And `constrain/refused`, prompts that were left free. They are of the whole batch, on all processes.
        """
        own = self._share.own
        counts = max(map(len, self._known)), int(self._cut[own].sum()), int(self._constrained.refused[own].sum())
        masks, cut, refused = zip(*exchange(counts), strict=True)
        return {"constrain/masks": max(masks), "constrain/cut": sum(cut), "constrain/refused": sum(refused)}

    def _number(self, prompt: int, mask: UInt32[np.ndarray, " W"]) -> int:
        """Which of its prompt's masks this is."""
        known, key = self._known[prompt], _key(mask)
        if key not in known:
            if len(known) == self._table.shape[1]:
                self._cut[prompt] += 1
                return 1
            self._table[prompt, len(known)] = mask
            known[key] = len(known)
        return known[key]


def _key(mask: UInt32[np.ndarray, " W"]) -> bytes:
    return hashlib.blake2b(mask.tobytes(), digest_size=16).digest()


class _Tokens:
    """The vocabulary as llguidance reads one. No token but the end is special: tags stand for what they say."""

    def __init__(self, pieces: list[bytes], eos: int):
        self.tokens = pieces
        self.eos_token_id = eos
        self.bos_token_id = None
        self.special_token_ids = [eos]
        self._of_byte = {piece[0]: token for token, piece in enumerate(pieces) if len(piece) == 1}
        if len(self._of_byte) < 256:
            missing = min(set(range(256)) - set(self._of_byte))
            raise InputError(f"the tokenizer has no token for the byte {missing:#04x}; constrained decoding needs all.")

    def __call__(self, text: bytes) -> list[int]:
        """The text token by token, a byte each."""
        return [self._of_byte[byte] for byte in text]


class Region:
    """The answers to one set of tools."""

    def __init__(
        self,
        matcher: Any,
        tokens: _Tokens,
        straddling: list[list[tuple[int, bytes]]],
        words: int,
        *,
        may_end_in_thought: bool,
    ):
        self.matcher = matcher
        """At the start of the answer; to be copied."""
        self._may_end_in_thought = may_end_in_thought
        self._tokens, self._straddling, self._words = tokens, straddling, words
        self.thought_mask = functools.cache(self._thought_mask)

    def _thought_mask(self, seen: int) -> UInt32[np.ndarray, " W"]:
        """The tokens that may follow `seen` bytes of `</think>`."""
        mask = np.full(self._words, ANYTHING)
        for token, rest in self._straddling[seen]:
            if not self._begins(rest):
                mask[token // 32] &= ~np.uint32(1 << token % 32)
        if not self._may_end_in_thought:
            end = self._tokens.eos_token_id
            mask[end // 32] &= ~np.uint32(1 << end % 32)
        return mask

    def _begins(self, text: bytes) -> bool:
        return self.matcher.validate_tokens(self._tokens(text)) == len(text)


def _straddling(pieces: Sequence[bytes], seen: int) -> list[tuple[int, bytes]]:
    """Tokens that after `seen` bytes of `</think>` complete it and go on, each with what comes after."""
    # Few tokens go on after the tag's last byte.
    candidates = ((token, piece) for token, piece in enumerate(pieces) if b">" in piece[:-1])
    ends = ((token, piece, _end_of_close(piece, seen)) for token, piece in candidates)
    return [(token, piece[end:]) for token, piece, end in ends if end is not None and end < len(piece)]


def _end_of_close(piece: bytes, seen: int) -> int | None:
    """Where in a token the first `</think>` ends, `seen` bytes of it being written; None: it does not."""
    if piece.startswith(_CLOSE[seen:]):
        return len(_CLOSE) - seen
    start = piece.find(_CLOSE)
    return None if start < 0 else start + len(_CLOSE)


def _seen(text: bytes) -> int:
    """How many bytes of `</think>` a text ends in, which does not hold it."""
    return next(count for count in range(len(_CLOSE) - 1, -1, -1) if text.endswith(_CLOSE[:count]))
