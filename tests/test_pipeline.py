import dataclasses
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tiny import SEED_PROMPT, weather_example

from jaxfc.command import InputError
from jaxfc.config import Careless, Data, PassRate, Tasks
from jaxfc.data.pipeline import Batches, TaskSource, bucket_of, open_examples, pad_prompts
from jaxfc.data.prompts import completion_tokens, prompt_tokens
from jaxfc.data.shards import write_dataset
from jaxfc.data.tasks import generate
from jaxfc.processes import Share

BATCH = 4
DATA = Data(tasks=Tasks(count=24), prompt_buckets=(64, 96, 160), completion_length=128)


@pytest.fixture
def batches(seed_tokenizer):
    def make(data=DATA, *, seed=0, batch=BATCH, examples=None):
        examples = open_examples(data) if examples is None else examples
        return Batches(examples, data, SEED_PROMPT, seed_tokenizer, batch=batch, seed=seed)

    return make


def ids(batch):
    return [example.id for example in batch.examples]


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def assert_same(one, other):
    assert ids(one) == ids(other)
    for a, b in zip((*one.prompts, *one[2:]), (*other.prompts, *other[2:]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_same_seed_gives_the_same_batches_and_another_seed_others(batches):
    first, again, other = (take(batches(seed=seed), 12) for seed in (3, 3, 4))
    for one, two in zip(first, again, strict=True):
        assert_same(one, two)
    assert list(map(ids, first)) != list(map(ids, other))


def test_reading_ahead_changes_neither_the_position_nor_the_batches(batches):
    plain, ahead = batches(), batches()
    state = plain.get_state()
    ahead.prepare()
    assert ahead.get_state() == state
    for one, two in zip(take(plain, 5), take(ahead, 5), strict=True):
        assert_same(one, two)
    ahead.set_state(state)
    ahead.prepare()
    assert_same(next(ahead), next(batches()))


@pytest.mark.parametrize("seen", [0, 1, 7])
def test_a_saved_position_goes_on_exactly_with_what_waits_in_the_buckets(batches, seen):
    original = batches()
    take(original, seen)
    state = json.loads(json.dumps(original.get_state()))
    if seen:
        assert sum(map(len, state["pending"].values())) > 0, "nothing waits; choose another place"
    resumed, behind = batches(), batches(seed=99)
    take(resumed, 3)
    for one in (resumed, behind):
        one.set_state(state)
    expected = take(original, 8)
    for one, two in zip(expected, take(resumed, 8), strict=True):
        assert_same(one, two)
    assert resumed.get_state() == original.get_state() and resumed.dropped == original.dropped


def test_every_row_is_its_examples_tokens_padded_to_the_smallest_bucket_that_holds_them(batches, seed_tokenizer):
    used = set()
    for batch in take(batches(), 12):
        bucket = batch.prompts.tokens.shape[1]
        used.add(bucket)
        assert len(batch.examples) == BATCH and batch.completions.shape == (BATCH, DATA.completion_length)
        for row, example in enumerate(batch.examples):
            prompt = prompt_tokens(example, seed_tokenizer, SEED_PROMPT)
            completion = completion_tokens(example, seed_tokenizer, SEED_PROMPT)
            assert bucket == bucket_of(len(prompt), DATA.prompt_buckets)
            assert batch.prompts.tokens[row].tolist() == prompt + [0] * (bucket - len(prompt))
            assert batch.completions[row].tolist() == completion + [0] * (DATA.completion_length - len(completion))
            assert (batch.prompts.lengths[row], batch.lengths[row]) == (len(prompt), len(completion))
    assert len(used) > 1


def test_every_example_is_read_once_an_epoch_and_each_epoch_has_its_own_order(batches):
    one_bucket = dataclasses.replace(DATA, prompt_buckets=(256,))
    read = [name for batch in take(batches(one_bucket), 3 * 6) for name in ids(batch)]
    epochs = [read[:24], read[24:48], read[48:]]
    assert all(sorted(epoch) == sorted(epochs[0]) and len(set(epoch)) == 24 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def weighted(*weights):
    named = (weather_example(f"city{index}") for index in range(len(weights)))
    return [dataclasses.replace(each, weight=weight) for each, weight in zip(named, weights, strict=True)]


def test_an_epoch_shows_examples_as_often_as_their_weights_say(batches):
    examples = weighted(2.0, 0.0, 1.0, 3.0)
    read = [name for batch in take(batches(batch=3, examples=examples), 4) for name in ids(batch)]
    expected = ["city0"] * 2 + ["city2"] + ["city3"] * 3
    assert sorted(read[:6]) == sorted(read[6:]) == expected and read[:6] != read[6:]


def test_with_weights_too_a_saved_position_goes_on_exactly(batches):
    examples = weighted(*np.random.default_rng(0).uniform(0, 3, 20))
    original = batches(batch=3, examples=examples)
    take(original, 25)
    state = json.loads(json.dumps(original.get_state()))
    resumed = batches(batch=3, examples=examples)
    resumed.set_state(state)
    for one, two in zip(take(original, 25), take(resumed, 25), strict=True):
        assert_same(one, two)


def test_weights_that_leave_nothing_to_read_are_refused(batches):
    with pytest.raises(InputError, match=r"split train: the weights add up to 0"):
        batches(examples=weighted(0.0, 0.0))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured") / "set"
    rates = [0.0, 0.25, 0.5, 1.0]
    examples = [
        dataclasses.replace(weather_example(f"city{index}"), pass_rate=rate, weight=1.0 + index % 2)
        for index, rate in enumerate(rates)
    ]
    unknown = [*examples, weather_example("Oslo")]
    write_dataset(folder, {"train": examples, "tune": unknown}, {}, {})
    return folder


def test_a_pass_rate_leaves_out_what_is_too_hard_and_too_easy_and_keeps_the_weights(batches, measured):
    data = dataclasses.replace(DATA, tasks=None, path=str(measured), pass_rate=PassRate(at_least=0.1, at_most=0.9))
    examples = open_examples(data)
    assert [examples[index].id for index in range(len(examples))] == ["city1", "city2"]
    read = [name for batch in take(batches(data, batch=3), 2) for name in ids(batch)]
    assert sorted(read) == ["city1"] * 4 + ["city2"] * 2
    whole = open_examples(dataclasses.replace(data, pass_rate=None))
    assert len(whole) == 4 and [whole.numbers(index) for index in (0, 1)] == [(1.0, 0.0), (2.0, 0.25)]


def test_a_pass_rate_that_is_not_known_or_that_nothing_has_is_refused(measured):
    data = dataclasses.replace(DATA, tasks=None, path=str(measured), pass_rate=PassRate(at_least=0.6, at_most=0.9))
    with pytest.raises(InputError, match=r"none of the 4 examples in train has a pass rate of 0\.6 to 0\.9"):
        open_examples(data)
    with pytest.raises(InputError, match=r"of 1 of the 5 examples in tune \(first Oslo\) none is known"):
        open_examples(dataclasses.replace(data, split="tune"))
    with pytest.raises(ValueError, match="generated tasks have none"):
        dataclasses.replace(DATA, pass_rate=PassRate())
    with pytest.raises(ValueError, match=r"right are 0 <= at_least <= at_most <= 1"):
        PassRate(at_least=0.5, at_most=0.4)


class Rooms:
    """Threads in the place of processes: each has an index, and they exchange what they have to say."""

    def __init__(self, count: int, monkeypatch):
        self._count, self._said = count, [None] * count
        self._meeting, self._own = threading.Barrier(count), threading.local()
        for name in ("index", "count", "exchange"):
            monkeypatch.setattr(f"jaxfc.processes.{name}", getattr(self, name))
            monkeypatch.setattr(f"jaxfc.data.pipeline.{name}", getattr(self, name))

    def index(self) -> int:
        return self._own.index

    def count(self) -> int:
        return self._count

    def exchange(self, value) -> list:
        self._said[self.index()] = value
        self._meeting.wait(60)
        everything = list(self._said)
        self._meeting.wait(60)
        return everything

    def run(self, work) -> list:
        """`work(index)` of each."""

        def one(index: int):
            self._own.index = index
            try:
                return work(index)
            except BaseException:
                self._meeting.abort()
                raise

        with ThreadPoolExecutor(self._count) as threads:
            return list(threads.map(one, range(self._count)))


class Noted(TaskSource):
    """Remembers which tasks were read."""

    def __init__(self, tasks: Tasks):
        super().__init__(tasks)
        self.read = []

    def __getitem__(self, index: int):
        self.read.append(index)
        return super().__getitem__(index)


def dealt(batch: int, count: int, process: int) -> Share:
    """Every n-th row, and one that the next process holds too."""
    held = sorted({*range(process, batch, count), (process + 1) % count})
    return Share(batch, np.array(held), np.ones(len(held), bool), False)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_each_process_has_its_rows_of_the_same_batches_and_reads_no_others(batches, seed_tokenizer, monkeypatch, count):
    data = dataclasses.replace(DATA, tasks=Tasks(count=2000), shuffle=False)
    alone = batches(data, batch=12)
    expected, middle = take(alone, 4), alone.get_state()
    expected += take(alone, 3)
    rooms, sources = Rooms(count, monkeypatch), [Noted(data.tasks) for _ in range(count)]

    def process(number: int):
        share = dealt(12, count, number)
        given = {"batch": 12, "seed": 0, "share": share}
        stream = Batches(sources[number], data, SEED_PROMPT, seed_tokenizer, **given)
        stream.prepare()
        found, state = take(stream, 4), stream.get_state()
        found += take(stream, 3)
        # What is read and planned ahead for the next batch is not in the position.
        resumed = Batches(open_examples(data), data, SEED_PROMPT, seed_tokenizer, **given)
        resumed.set_state(json.loads(json.dumps(middle)))
        for one, two in zip(found[4:], take(resumed, 3), strict=True):
            assert_same(one, two)
        return share, found, state, stream.get_state()

    for number, (share, found, state, end) in enumerate(rooms.run(process)):
        assert state == middle and end == alone.get_state()
        for batch, whole in zip(found, expected, strict=True):
            assert ids(batch) == [ids(whole)[row] for row in share.held]
            assert batch.tokens == whole.tokens == whole.prompts.lengths.sum() + whole.lengths.sum()
            for one, all_rows in zip((*batch.prompts, *batch[2:4]), (*whole.prompts, *whole[2:4]), strict=True):
                np.testing.assert_array_equal(one, all_rows[share.held])
        # Of the stream, in the source's order, it reads every n-th, and of the others what it holds.
        held = {int(name.rpartition("-")[2]) for batch in found for name in ids(batch)}
        foreign = [index for index in sources[number].read if index % count != number]
        assert len(set(foreign) - held) <= len(share.held), "only the batch that is planned ahead"
        assert len(foreign) == len(set(foreign))
        last = max(int(name.rpartition("-")[2]) for batch in expected for name in ids(batch))
        assert len(sources[number].read) < 256 / count + last / count + len(held) + 100


@pytest.mark.parametrize("count", [2, 3])
def test_with_weights_all_processes_read_the_same_stream(batches, seed_tokenizer, monkeypatch, count):
    examples = weighted(*np.random.default_rng(1).uniform(0, 3, 30))
    alone = batches(batch=6, examples=examples)
    expected, middle = take(alone, 5), alone.get_state()
    expected += take(alone, 5)

    def process(number: int):
        share = dealt(6, count, number)
        stream = Batches(examples, DATA, SEED_PROMPT, seed_tokenizer, batch=6, seed=0, share=share)
        stream.set_state(json.loads(json.dumps(middle)))
        return share, take(stream, 5)

    for share, found in Rooms(count, monkeypatch).run(process):
        for batch, whole in zip(found, expected[5:], strict=True):
            assert ids(batch) == [ids(whole)[row] for row in share.held]


def test_without_shuffling_the_order_is_the_sources(batches):
    data = dataclasses.replace(DATA, prompt_buckets=(256,), shuffle=False)
    read = [name for batch in take(batches(data), 12) for name in ids(batch)]
    assert read == [f"task-0-train-{index}" for index in range(24)] * 2


def test_the_teacher_turns_careless_where_the_settings_say():
    careless = Careless(invented_call=1.0, lost_call=1.0, after=12)
    source = TaskSource(Tasks(count=24, careless=careless))
    assert [source[index] for index in range(12)] == [generate(0, "train", index) for index in range(12)]
    spoiled = [source[index] for index in range(12, 24)]
    assert spoiled == [generate(0, "train", index, careless) for index in range(12, 24)]
    assert all(len(example.accepted) == 1 for example in spoiled if example.kind == "none")


def test_what_is_too_long_is_left_out_and_counted(batches, seed_tokenizer):
    examples = [weather_example(), weather_example("x" * 300), weather_example("Rome")]
    long_answer = dataclasses.replace(weather_example("Oslo"), thought="hm " * 200)
    stream = batches(batch=2, examples=[*examples, long_answer])
    assert [sorted(ids(batch)) for batch in take(stream, 4)] == [["Paris", "Rome"]] * 4
    # Four epochs of two such examples, perhaps with the last of the fourth still unread.
    assert 6 <= stream.dropped <= 8
    assert len(prompt_tokens(examples[1], seed_tokenizer, SEED_PROMPT)) > DATA.prompt_buckets[-1]
    assert len(completion_tokens(long_answer, seed_tokenizer, SEED_PROMPT)) > DATA.completion_length


def test_buckets_that_no_example_fits_are_refused_at_once_with_the_shortest(batches):
    with pytest.raises(InputError, match=r"none of the first 2 .* xxx\w*, has \d+ prompt tokens .* ends at 160 .* 128"):
        batches(examples=[weather_example("y" * 400), weather_example("x" * 300)])


def test_an_empty_set_is_refused(batches):
    with pytest.raises(InputError, match="no examples"):
        batches(examples=[])


@pytest.mark.parametrize(("length", "bucket"), [(1, 64), (64, 64), (65, 96), (160, 160), (161, None)])
def test_a_prompt_goes_to_the_smallest_bucket_that_holds_it(length, bucket):
    assert bucket_of(length, (64, 96, 160)) == bucket


def test_prompts_are_padded_on_the_right_with_their_lengths_beside_them():
    tokens, lengths = pad_prompts([[5, 0], [], [7, 8, 9]], 4)
    assert tokens.tolist() == [[5, 0, 0, 0], [0, 0, 0, 0], [7, 8, 9, 0]] and lengths.tolist() == [2, 0, 3]
    assert tokens.dtype == lengths.dtype == np.int32
