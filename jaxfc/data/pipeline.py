"""The Grain pipeline: shuffle, tokenise, sort into length buckets, batch; its position can be saved and restored."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, runtime_checkable

import grain
import numpy as np

from jaxfc.command import InputError
from jaxfc.config import Data, Prompt, Tasks
from jaxfc.data.chosen import by_pass_rate, weights_of
from jaxfc.data.dataset import open_split
from jaxfc.data.example import Example
from jaxfc.data.prompts import Tokenizer, completion_tokens, prompt_tokens
from jaxfc.data.sampling import Epochs
from jaxfc.data.tasks import generate
from jaxfc.processes import Share, count, deal, exchange, index
from jaxfc.types import Prompts

LOOK_AHEAD = 256
"""Examples that are tokenised before a run starts, to see that some fit the buckets."""
ENDLESS = 2**60
"""More examples than any run reads."""


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
    """The examples that the settings name; with a pass rate, those that are neither too hard nor too easy.

    Raises:
        InputError: the folder is missing, incomplete or damaged, or its pass rates are not known or all out of range.
    """
    if data.tasks is not None:
        return TaskSource(data.tasks)
    split = open_split(data.path, data.split)
    return split if data.pass_rate is None else by_pass_rate(split, data)


class Batch(NamedTuple):
    """Those of P examples, whose prompts share a bucket, that this process feeds; arrays are on the host."""

    examples: tuple[Example, ...]
    """p of them."""
    prompts: Prompts
    completions: np.ndarray
    """[p, T] int32: the accepted answer, as supervised training teaches it."""
    lengths: np.ndarray
    """[p] tokens of it."""
    tokens: int
    """Tokens of the prompts and completions of all P examples."""


class _Tokenised(NamedTuple):
    example: Example
    prompt: list[int]
    completion: list[int]


class _Sizes(NamedTuple):
    """What every process knows of an example."""

    position: int
    """In the stream."""
    prompt: int
    """Tokens."""
    completion: int


class _Planned(NamedTuple):
    """A batch to be, and where the stream is after it."""

    bucket: int
    rows: list["_Tokenised | Future[_Tokenised]"]
    """Those of this process."""
    tokens: int
    state: dict[str, Any]


class Batches(Iterator[Batch]):
    """Endless batches, each from one length bucket. The order depends on the seed alone.

    Examples are read from a stream, of which each process tokenises every n-th example, n being the number of
    processes. They tell each other the lengths, a window of the stream at a time, so all know what each batch will be
    of. Each then needs the rows that its devices hold: those that another process has tokenised it reads anew, while
    the batch before is worked on.
    """

    def __init__(
        self,
        examples: Examples,
        data: Data,
        prompt: Prompt,
        tokenizer: Tokenizer,
        *,
        batch: int,
        seed: int,
        share: Share | None = None,
    ):
        """Begin at the start of the stream.

        Args:
            examples: to batch.
            data: buckets and limits.
            prompt: how an example becomes a prompt.
            tokenizer: the model's.
            batch: examples in a batch (P), on all processes together.
            seed: of their order.
            share: the rows of a batch that this process feeds; None: all.

        Raises:
            InputError: there are no examples, or none fits.
        """
        if len(examples) == 0:
            raise InputError(f"{data.path or 'generated tasks'}: split {data.split} has no examples.")
        self._buckets, self._room, self._batch = data.prompt_buckets, data.completion_length, batch
        self._share = Share.whole(batch) if share is None else share
        self._window = 1 if count() == 1 else -(-2 * batch // count())

        def tokenise(example: Example) -> _Tokenised:
            return _Tokenised(
                example, prompt_tokens(example, tokenizer, prompt), completion_tokens(example, tokenizer, prompt)
            )

        self._stream = _stream(examples, data, seed).map(tokenise)
        self._loaders = ThreadPoolExecutor(2, thread_name_prefix="load")
        self._begin(0, {bucket: [] for bucket in self._buckets}, 0)
        self._refuse_if_none_fits(examples, tokenise)

    def _begin(self, position: int, pending: dict[int, list[_Sizes]], dropped: int):
        """Go to a place in the stream."""
        shard = self._stream.slice(slice(position + index(), None, count()))
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=max(2 * self._batch // count(), self._window))
        self._reader = iter(shard.to_iter_dataset(options))
        self._position, self._pending, self._dropped = position, pending, dropped
        self._read_up_to = position
        self._sizes: deque[_Sizes] = deque()
        self._tokenised: dict[int, _Tokenised] = {}
        self._planned: _Planned | None = None
        self._state = self._snapshot()

    def _bucket(self, sizes: _Sizes) -> int | None:
        return bucket_of(sizes.prompt, self._buckets) if sizes.completion <= self._room else None

    def _refuse_if_none_fits(self, examples: Examples, tokenise):
        def sizes_of(number: int) -> _Sizes:
            item = tokenise(examples[number])
            return _Sizes(number, len(item.prompt), len(item.completion))

        found = deal(sizes_of, range(min(LOOK_AHEAD, len(examples))))
        shortest = min(found, key=lambda sizes: sizes.prompt + sizes.completion)
        if all(self._bucket(sizes) is None for sizes in found):
            raise InputError(
                f"none of the first {len(found)} examples fits; the shortest, {examples[shortest.position].id}, has "
                f"{shortest.prompt} prompt tokens and {shortest.completion} completion tokens, while "
                f"data.prompt_buckets ends at {self._buckets[-1]} and data.completion_length is {self._room}."
            )

    def __next__(self) -> Batch:
        planned = self._planned or self._plan()
        # What one process alone plans it has read already.
        self._planned = self._plan() if count() > 1 else None
        self._state = planned.state
        items = [item.result() if isinstance(item, Future) else item for item in planned.rows]
        return Batch(
            tuple(item.example for item in items),
            pad_prompts([item.prompt for item in items], planned.bucket),
            pad([item.completion for item in items], self._room),
            np.array([len(item.completion) for item in items], np.int32),
            planned.tokens,
        )

    def _plan(self) -> _Planned:
        """Sort examples into buckets until one is full, and begin to load this process's part of it."""
        while True:
            if not self._sizes:
                self._read_window()
            sizes = self._sizes.popleft()
            self._position = sizes.position + 1
            bucket = self._bucket(sizes)
            if bucket is None:
                self._dropped += 1
                self._tokenised.pop(sizes.position, None)
                continue
            pending = self._pending[bucket]
            pending.append(sizes)
            if len(pending) == self._batch:
                self._pending[bucket] = []
                here = {each.position: self._tokenised.pop(each.position, None) for each in pending}
                positions = [pending[row].position for row in self._share.held]
                rows = [here[at] or self._loaders.submit(self._stream.__getitem__, at) for at in positions]
                tokens = sum(each.prompt + each.completion for each in pending)
                return _Planned(bucket, rows, tokens, self._snapshot())

    def _read_window(self):
        """Tokenise this process's part of the next examples, and learn the sizes of all."""
        start, mine = self._read_up_to, []
        for number in range(self._window):
            item, position = next(self._reader), start + index() + number * count()
            self._tokenised[position] = item
            mine.append((position, len(item.prompt), len(item.completion)))
        for of_processes in zip(*exchange(mine), strict=True):
            self._sizes += (_Sizes(*sizes) for sizes in of_processes)
        self._read_up_to = start + self._window * count()

    def _snapshot(self) -> dict[str, Any]:
        pending = {str(bucket): [list(sizes) for sizes in waiting] for bucket, waiting in self._pending.items()}
        return {"position": self._position, "pending": pending, "dropped": self._dropped}

    def prepare(self):
        """Begin to read and tokenise ahead, so that the first batches are there when they are asked for."""
        self._reader.start_prefetch()
        if count() > 1 and self._planned is None:
            self._planned = self._plan()

    @property
    def dropped(self) -> int:
        """Examples left out so far because prompt or answer is too long."""
        return self._state["dropped"]

    def get_state(self) -> dict[str, Any]:
        """The position as JSON: what was read, and what waits in the buckets for a full batch.

        It is the same on every process, and any number of processes can go on from it.
        """
        return self._state

    def set_state(self, state: dict[str, Any]):
        """Go back to a saved position."""
        pending = {bucket: [_Sizes(*sizes) for sizes in state["pending"][str(bucket)]] for bucket in self._buckets}
        self._begin(state["position"], pending, state["dropped"])


def _stream(examples: Examples, data: Data, seed: int) -> grain.MapDataset:
    """The endless stream of examples; an epoch shows each as often as its weight says."""
    weights = None if isinstance(examples, TaskSource) else weights_of(examples)
    if weights is None or np.all(weights == 1):
        source = grain.MapDataset.source(examples)
        return (source.seed(seed).shuffle() if data.shuffle else source).repeat()
    try:
        epochs = Epochs(weights, seed=seed, shuffle=data.shuffle)
    except ValueError as error:
        raise InputError(f"{data.path}: split {data.split}: {error}.") from error
    return grain.MapDataset.range(ENDLESS).map(lambda position: examples[epochs.index_at(position)])


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
