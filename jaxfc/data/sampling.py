"""How often, and in which order, an epoch shows each example, from their weights; any place is found directly."""

import bisect
import functools
import threading

import numpy as np

_STEP, _FIRST, _SECOND = (np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_COPIES, _ORDER = 0, 1


class Epochs:
    """An endless stream of examples by index, epoch after epoch.

    An epoch shows an example of weight w floor(w) times, and once more with probability w - floor(w). Chance and order
    are functions of the seed, the epoch and the example alone, so that every process finds the same example at the
    same place, whatever it has read before.
    """

    def __init__(self, weights: np.ndarray, *, seed: int, shuffle: bool):
        """Begin with nothing worked out.

        Args:
            weights: [N] of the examples, at least 0; their sum is at least 1.
            seed: of chance and order.
            shuffle: mix each epoch anew; else examples stand in their order, the copies of one side by side.

        Raises:
            ValueError: a weight is no number of at least 0, or an epoch would be empty.
        """
        weights = np.asarray(weights, np.float64)
        if not np.all(np.isfinite(weights) & (weights >= 0)):
            raise ValueError("a weight is a number of at least 0")
        if weights.sum() < 1:
            raise ValueError(f"the weights add up to {weights.sum():g}, so that an epoch shows less than one example")
        self._whole, self._part = np.floor(weights).astype(np.int64), weights - np.floor(weights)
        self._seed, self._shuffle = seed, shuffle
        self._starts, self._growing = [0], threading.Lock()
        # An epoch's end and the next one's beginning are read at the same time.
        self._order = functools.lru_cache(maxsize=3)(self._make_order)

    def length(self, epoch: int) -> int:
        """How many examples an epoch shows, repetitions counted."""
        return int(self._copies(epoch).sum())

    def index_at(self, position: int) -> int:
        """Which example stands at a place of the stream, which is counted through all epochs."""
        with self._growing:
            while self._starts[-1] <= position:
                self._starts.append(self._starts[-1] + self.length(len(self._starts) - 1))
        epoch = bisect.bisect_right(self._starts, position) - 1
        return int(self._order(epoch)[position - self._starts[epoch]])

    def _copies(self, epoch: int) -> np.ndarray:
        """[N] how often the epoch shows each example."""
        chance = (_draws(self._seed, epoch, _COPIES, len(self._part)) >> np.uint64(11)) * 2.0**-53
        return self._whole + (chance < self._part)

    def _make_order(self, epoch: int) -> np.ndarray:
        """Indices of the examples that the epoch shows, in order."""
        copies = self._copies(epoch)
        shown = np.repeat(np.arange(len(copies), dtype=np.int32), copies)
        if not self._shuffle:
            return shown
        return shown[np.argsort(_draws(self._seed, epoch, _ORDER, len(shown)), kind="stable")]


def _draws(seed: int, epoch: int, purpose: int, count: int) -> np.ndarray:
    """[count] uint64 that look random; any run of numpy on any machine draws the same.

    References: SplitMix64, Steele et al., 2014, doi:10.1145/2660193.2660195.
    """
    key = np.zeros(1, np.uint64)
    for number in (seed, epoch, purpose):
        key = _mixed(key ^ np.array([number & (2**64 - 1)], np.uint64))
    return _mixed(key + np.arange(count, dtype=np.uint64) * _STEP)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    numbers = numbers + _STEP
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _FIRST
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _SECOND
    return numbers ^ (numbers >> np.uint64(31))
