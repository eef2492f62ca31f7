"""The slots for prompts of up to one length: which completion is in which, and what the devices draw of it."""

import collections
import dataclasses
import hashlib
import secrets
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt32

from jaxfc.constraints import ANYTHING, Constrained
from jaxfc.data.pipeline import pad_prompts
from jaxfc.server.protocol import Draw, Stream, Token, Update
from jaxfc.serving import MOST_TICKS, Command, Drawn, Entry, Serving
from jaxfc.sharding import replicated
from jaxfc.types import Params

_FIRST = np.zeros(1, int)
"""The one row of what holds one completion to a grammar."""


@dataclasses.dataclass(eq=False)
class Completion:
    """One on its way; changed as its tokens come."""

    prompt: Sequence[int]
    draw: Draw
    stream: Stream
    number: int
    """In its stream."""
    choice: int
    """Among those of its prompt."""
    constrained: Constrained | None = None
    drawn: int = 0
    last: int = 0

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for it."""
        return self.stream.is_wanted(self.number)

    def seed(self) -> UInt32[np.ndarray, " 2"]:
        """Of its random numbers: the request's seed and which choice it is, or chance."""
        if self.draw.seed is None:
            return np.frombuffer(secrets.token_bytes(8), np.uint32)
        text = f"{self.draw.seed % 2**64} {self.choice}".encode()
        return np.frombuffer(hashlib.blake2b(text, digest_size=8).digest(), "<u4").astype(np.uint32)


class Pool:
    """Completions of prompts that fit one bucket. For one thread, but that any may read how much is in it."""

    def __init__(
        self, serving: Serving, weights: Params, mesh: Mesh, *, bucket: int, prefills: int, pieces: Sequence[bytes]
    ):
        """Begin with empty slots.

        Args:
            serving: the programs.
            weights: of the model.
            mesh: where they are.
            bucket: room for a prompt.
            prefills: prompts that are prefilled at once.
            pieces: what each token says.
        """
        self._serving, self._weights, self._everywhere = serving, weights, replicated(mesh)
        self._bucket, self._prefills, self._pieces = bucket, prefills, pieces
        self._slots = serving.empty()
        self._in_slot: list[Completion | None] = [None] * serving.slots
        self._waiting: collections.deque[Completion] = collections.deque()
        self._no_masks = {width: self._place(np.full((width, serving.words), ANYTHING)) for width in serving.advance}

    def _place(self, tree):
        return jax.device_put(tree, self._everywhere)

    def add(self, completion: Completion):
        """Let it wait for a slot."""
        self._waiting.append(completion)

    @property
    def waiting(self) -> int:
        """Completions without a slot."""
        return len(self._waiting)

    @property
    def free(self) -> int:
        """Slots without a completion."""
        return self._in_slot.count(None)

    @property
    def in_use(self) -> int:
        """Completions with one."""
        return len(self._in_slot) - self.free

    @property
    def has_work(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._waiting) or self.in_use > 0

    def step(self, ticks: int):
        """Free the slots of what nobody wants, fill them with what waits, and draw up to `ticks` tokens of each."""
        self._in_slot = [one if one is not None and one.wanted else None for one in self._in_slot]
        self._waiting = collections.deque(one for one in self._waiting if one.wanted)
        while self._waiting and None in self._in_slot:
            self._admit()
        if self.in_use:
            self._deliver(self._advance(ticks))

    def abandon(self, error: Exception):
        """Tell everyone who waits that there is nothing to wait for."""
        for completion in [*self._waiting, *self._in_slot]:
            if completion is not None:
                completion.stream.fail(error)

    def _admit(self):
        """Prefill the next prompts, each once for all its completions that have a slot, and let these enter."""
        free = [slot for slot, completion in enumerate(self._in_slot) if completion is None]
        prompts: list[Sequence[int]] = []
        entering: list[tuple[int, Completion]] = []
        while self._waiting and len(entering) < len(free):
            prompt = self._waiting[0].prompt
            row = next((row for row, known in enumerate(prompts) if known is prompt), len(prompts))
            if row == self._prefills:
                break
            if row == len(prompts):
                prompts.append(prompt)
            entering.append((row, self._waiting.popleft()))
        rows = [*prompts, *[[]] * (self._prefills - len(prompts))]
        prefix = self._serving.prefill(self._weights, self._place(pad_prompts(rows, self._bucket)))
        for slot, (row, completion) in zip(free, entering, strict=False):
            entry = self._place(_entry(row, slot, completion))
            self._slots = self._serving.enter(self._slots, prefix, entry)
            self._in_slot[slot] = completion

    def _advance(self, ticks: int) -> Drawn:
        there = [one for one in self._in_slot if one is not None]
        constrained = any(one.constrained is not None for one in there)
        command = Command(
            keep=np.array([one is not None for one in self._in_slot]),
            ticks=np.int32(1 if constrained else min(ticks, MOST_TICKS)),
            until_free=np.bool_(bool(self._waiting)),
            likeliest=np.bool_(any(one.draw.likeliest for one in there)),
            constrained=np.bool_(constrained),
        )
        width = self._width()
        masks = self._place(self._masks(width)) if constrained else self._no_masks[width]
        advance = self._serving.advance[width]
        self._slots, drawn = advance(self._weights, self._slots, self._place(command), masks)
        return jax.device_get(drawn)

    def _width(self) -> int:
        """Of the narrowest program that has all slots in use."""
        used = max(slot for slot, one in enumerate(self._in_slot) if one is not None) + 1
        return min(width for width in self._serving.advance if width >= used)

    def _masks(self, width: int) -> UInt32[np.ndarray, "w W"]:
        """What each completion may draw next."""
        masks = np.full((width, self._serving.words), ANYTHING)
        for slot, one in enumerate(self._in_slot):
            if one is not None and one.constrained is not None:
                masks[slot] = one.constrained.masks(_FIRST, np.array([one.drawn]), np.array([one.last]))[0]
        return masks

    def _deliver(self, drawn: Drawn):
        for slot, completion in enumerate(self._in_slot):
            if completion is None:
                continue
            count, finished, ended = int(drawn.counts[slot]), bool(drawn.finished[slot]), bool(drawn.ended[slot])
            tokens = [self._token(drawn, slot, tick, completion.draw.likeliest) for tick in range(count)]
            if ended:
                tokens[-1] = tokens[-1]._replace(piece=b"")
            completion.drawn += count
            completion.last = int(drawn.tokens[slot, count - 1])
            if finished:
                self._in_slot[slot] = None
            finish = ("stop" if ended else "length") if finished else None
            completion.stream.put(completion.number, Update(tuple(tokens), finish))

    def _token(self, drawn: Drawn, slot: int, tick: int, likeliest: int) -> Token:
        best = drawn.likeliest[slot, tick, :likeliest], drawn.likeliest_logprobs[slot, tick, :likeliest]
        # What cannot be drawn is told of no one.
        told = tuple((self._pieces[one], float(value)) for one, value in zip(*best, strict=True) if np.isfinite(value))
        return Token(self._pieces[drawn.tokens[slot, tick]], float(drawn.logprobs[slot, tick]), told)


def _entry(row: int, slot: int, completion: Completion) -> Entry:
    draw, prompt = completion.draw, completion.prompt
    return Entry(
        np.int32(row),
        np.int32(slot),
        np.int32(prompt[-1]),
        np.int32(len(prompt)),
        completion.seed(),
        np.float32(draw.temperature),
        np.int32(draw.top_k),
        np.float32(draw.top_p),
        np.int32(draw.max_tokens),
    )
