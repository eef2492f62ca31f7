"""The Grain pipeline: shuffle, tokenise, sort into length buckets, batch; its position can be saved and restored."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import grain
import numpy as np

from jaxfc.command import InputError
from jaxfc.config import Data, Prompt, Tasks
from jaxfc.data.example import Example
from jaxfc.data.prompts import Tokenizer, completion_tokens, prompt_tokens
from jaxfc.data.tasks import generate
from jaxfc.types import Prompts

LOOK_AHEAD = 256
"""Examples that are tokenised before a run starts, to see that some fit the buckets."""


@runtime_checkable
class Examples(Protocol):
    """Examples by index."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int) -> Example:
        """Example number `index`."""


class TaskSource:
    """Generated tasks as a random-access source: task i is made when it is read."""

    def __init__(self, tasks: Tasks):
        self._tasks = tasks

    def __len__(self) -> int:
        return self._tasks.count

    def __getitem__(self, index: int) -> Example:
        tasks, careless = self._tasks, self._tasks.careless
        spoiled = careless is not None and index >= careless.after
        return generate(tasks.seed, tasks.split, int(index), careless if spoiled else None)


def open_examples(data: Data) -> Examples:
    """The examples that the settings name.

    Raises:
        InputError: the folder is missing, incomplete or damaged.
    """
    if data.tasks is not None:
        return TaskSource(data.tasks)
    from jaxfc.data.dataset import open_split

    return open_split(data.path, data.split)


class Batch(NamedTuple):
    """P examples whose prompts share a bucket; arrays are on the host."""

    examples: tuple[Example, ...]
    prompts: Prompts
    completions: np.ndarray
    """[P, T] int32: the accepted answer, as supervised training teaches it."""
    lengths: np.ndarray
    """[P] tokens of it."""


class _Tokenised(NamedTuple):
    index: int
    example: Example
    prompt: list[int]
    completion: list[int]


class Batches(Iterator[Batch]):
    """Endless batches, each from one length bucket. The order depends on the seed alone."""

    def __init__(self, examples: Examples, data: Data, prompt: Prompt, tokenizer: Tokenizer, *, batch: int, seed: int):
        if len(examples) == 0:
            raise InputError(f"{data.path or 'generated tasks'}: split {data.split} has no examples.")
        self._buckets, self._room, self._batch = data.prompt_buckets, data.completion_length, batch

        def tokenise(index: int, example: Example) -> _Tokenised:
            return _Tokenised(
                index,
                example,
                prompt_tokens(example, tokenizer, prompt),
                completion_tokens(example, tokenizer, prompt),
            )

        source = grain.MapDataset.source(examples)
        ordered = source.seed(seed).shuffle() if data.shuffle else source
        self._tokenised = ordered.repeat().map_with_index(tokenise)
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2 * batch)
        self._reader = iter(self._tokenised.to_iter_dataset(options))
        self._pending: dict[int, list[_Tokenised]] = {bucket: [] for bucket in self._buckets}
        self.dropped = 0
        """Examples left out so far because prompt or answer is too long."""
        self._refuse_if_none_fits([tokenise(index, examples[index]) for index in range(min(LOOK_AHEAD, len(examples)))])

    def _bucket(self, item: _Tokenised) -> int | None:
        return bucket_of(len(item.prompt), self._buckets) if len(item.completion) <= self._room else None

    def _refuse_if_none_fits(self, items: Sequence[_Tokenised]):
        shortest = min(items, key=lambda item: len(item.prompt) + len(item.completion))
        if all(self._bucket(item) is None for item in items):
            raise InputError(
                f"none of the first {len(items)} examples fits; the shortest, {shortest.example.id}, has "
                f"{len(shortest.prompt)} prompt tokens and {len(shortest.completion)} completion tokens, while "
                f"data.prompt_buckets ends at {self._buckets[-1]} and data.completion_length is {self._room}."
            )

    def __next__(self) -> Batch:
        while True:
            item = next(self._reader)
            bucket = self._bucket(item)
            if bucket is None:
                self.dropped += 1
                continue
            pending = self._pending[bucket]
            pending.append(item)
            if len(pending) == self._batch:
                self._pending[bucket] = []
                return self._collate(pending, bucket)

    def _collate(self, items: Sequence[_Tokenised], bucket: int) -> Batch:
        return Batch(
            tuple(item.example for item in items),
            pad_prompts([item.prompt for item in items], bucket),
            pad([item.completion for item in items], self._room),
            np.array([len(item.completion) for item in items], np.int32),
        )

    def prepare(self):
        """Begin to read and tokenise ahead, so that the first batches are there when they are asked for."""
        self._reader.start_prefetch()

    def get_state(self) -> dict[str, Any]:
        """The position as JSON: what was read, and what waits in the buckets for a full batch."""
        pending = {str(bucket): [item.index for item in items] for bucket, items in self._pending.items()}
        return {"reader": self._reader.get_state(), "pending": pending, "dropped": self.dropped}

    def set_state(self, state: dict[str, Any]):
        """Go back to a saved position."""
        self._reader.set_state(state["reader"])
        self._pending = {
            bucket: [self._tokenised[index] for index in state["pending"][str(bucket)]] for bucket in self._buckets
        }
        self.dropped = state["dropped"]


def bucket_of(length: int, buckets: Sequence[int]) -> int | None:
    """The smallest bucket that holds `length` tokens; None when none does."""
    return next((bucket for bucket in buckets if length <= bucket), None)


def pad(rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """[N, length] int32: the rows, padded with 0 on the right."""
    out = np.zeros((len(rows), length), np.int32)
    for row, tokens in zip(out, rows, strict=True):
        row[: len(tokens)] = tokens
    return out


def pad_prompts(prompts: Sequence[Sequence[int]], bucket: int) -> Prompts:
    """A batch of prompts in one bucket, on the host."""
    return Prompts(pad(prompts, bucket), np.array([len(tokens) for tokens in prompts], np.int32))
