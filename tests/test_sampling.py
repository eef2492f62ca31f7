import collections
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfc.data.sampling import Epochs

WEIGHTS = st.lists(st.floats(0, 4), min_size=1, max_size=30).filter(lambda weights: sum(weights) >= 1)


def epoch_of(epochs, number):
    start = sum(epochs.length(before) for before in range(number))
    return [epochs.index_at(start + place) for place in range(epochs.length(number))]


# The checker of signatures draws random numbers while an example is built.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
@settings(deadline=None)
@given(WEIGHTS, st.integers(-(2**40), 2**70), st.booleans())
def test_an_epoch_shows_each_example_its_weight_rounded_down_or_up(weights, seed, shuffle):
    epochs = Epochs(np.array(weights), seed=seed, shuffle=shuffle)
    for number in range(3):
        shown = collections.Counter(epoch_of(epochs, number))
        whole = {index: int(weight) for index, weight in enumerate(weights)}
        more = {index: shown[index] - times for index, times in whole.items()}
        assert all(extra == 0 or (extra == 1 and weights[index] > whole[index]) for index, extra in more.items())
        assert shown.total() == epochs.length(number)


def test_over_many_epochs_the_mean_is_the_weight():
    weights = np.array([0.0, 0.1, 0.5, 0.9, 1.0, 2.25, 3.0])
    epochs, rounds = Epochs(weights, seed=5, shuffle=True), 1000
    shown = collections.Counter(map(epochs.index_at, range(sum(map(epochs.length, range(rounds))))))
    parts = weights - np.floor(weights)
    error = np.sqrt(parts * (1 - parts) / rounds)
    means = np.array([shown[index] for index in range(len(weights))]) / rounds
    assert np.all(np.abs(means - weights) <= 4 * error)


def test_every_place_is_found_whatever_was_read_before():
    weights = np.random.default_rng(0).uniform(0, 3, 50)
    expected = list(map(Epochs(weights, seed=1, shuffle=True).index_at, range(1000)))
    places = list(range(1000))
    random.Random(0).shuffle(places)
    epochs = Epochs(weights, seed=1, shuffle=True)
    assert {place: epochs.index_at(place) for place in places} == dict(enumerate(expected))


def test_each_epoch_and_each_seed_has_its_own_order_and_its_own_chance():
    epochs, other = (Epochs(np.full(40, 1.5), seed=seed, shuffle=True) for seed in (1, 2))
    first, second = epoch_of(epochs, 0), epoch_of(epochs, 1)
    assert first != second and sorted(first) != sorted(second)
    assert epoch_of(other, 0) != first and sorted(epoch_of(other, 0)) != sorted(first)


def test_without_shuffling_the_copies_of_an_example_stand_side_by_side():
    epochs = Epochs(np.array([1.0, 0.0, 3.0, 2.0]), seed=0, shuffle=False)
    assert epoch_of(epochs, 0) == epoch_of(epochs, 7) == [0, 2, 2, 2, 3, 3]


def mixed(number):
    """SplitMix64, in Python's own integers."""
    number = (number + 0x9E3779B97F4A7C15) % 2**64
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB % 2**64
    return number ^ (number >> 31)


def draws(seed, epoch, purpose, count):
    key = 0
    for number in (seed, epoch, purpose):
        key = mixed(key ^ number)
    return [mixed((key + place * 0x9E3779B97F4A7C15) % 2**64) for place in range(count)]


def test_chance_and_order_are_the_same_on_every_machine_and_in_every_version():
    assert mixed(0) == 0xE220A8397B1DCDAF, "the first number of SplitMix64 with seed 0"
    weights = [0.5, 1.5, 2.0, 0.25, 1.0]
    epochs = Epochs(np.array(weights), seed=7, shuffle=True)
    for number in range(3):
        chance = [draw / 2**64 for draw in draws(7, number, 0, 5)]
        copies = [int(weight) + (draw < weight % 1) for weight, draw in zip(weights, chance, strict=True)]
        shown = [index for index, times in enumerate(copies) for _ in range(times)]
        keys = draws(7, number, 1, len(shown))
        assert epoch_of(epochs, number) == [shown[place] for place in sorted(range(len(shown)), key=keys.__getitem__)]


@pytest.mark.parametrize("weights", [[1.0, -0.5], [1.0, float("nan")], [1.0, float("inf")]])
def test_a_weight_that_is_none_is_refused(weights):
    with pytest.raises(ValueError, match="at least 0"):
        Epochs(np.array(weights), seed=0, shuffle=True)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [0.5, 0.4]])
def test_an_epoch_of_less_than_one_example_is_refused(weights):
    with pytest.raises(ValueError, match="less than one example"):
        Epochs(np.array(weights), seed=0, shuffle=True)
