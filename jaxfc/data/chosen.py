"""Which examples of a dataset are read: by the pass rates that it has measured; and with what weights."""

from collections.abc import Sequence

import numpy as np

from jaxfc.command import InputError
from jaxfc.config import Data
from jaxfc.data.dataset import Split
from jaxfc.data.example import Example
from jaxfc.processes import deal


class Subset:
    """Some of the examples of a split, by their place among them."""

    def __init__(self, split: Split, chosen: Sequence[int]):
        self._split, self._chosen = split, np.array(chosen, np.int64)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Example:
        return self._split[self._chosen[index]]

    def numbers(self, index: int) -> tuple[float, float | None]:
        """Weight and pass rate of example number `index`."""
        return self._split.numbers(self._chosen[index])


def by_pass_rate(split: Split, data: Data) -> Subset:
    """The examples whose pass rate is in the range of the settings; all processes read the rates together.

    Raises:
        InputError: some have none, or none is in the range.
    """
    rates = [rate for _, rate in deal(split.numbers, range(len(split)))]
    if missing := rates.count(None):
        raise InputError(
            f"{data.path}: data.pass_rate is set, but of {missing} of the {len(rates)} examples in {data.split} (first "
            f"{split[rates.index(None)].id}) none is known; scripts/measure_difficulty.py measures them."
        )
    wanted = data.pass_rate
    chosen = [place for place, rate in enumerate(rates) if wanted.at_least <= rate <= wanted.at_most]
    if not chosen:
        raise InputError(
            f"{data.path}: none of the {len(rates)} examples in {data.split} has a pass rate of {wanted.at_least} to "
            f"{wanted.at_most}."
        )
    return Subset(split, chosen)


def weights_of(examples: Sequence[Example] | Split | Subset) -> np.ndarray:
    """[N] float64: how often an epoch shows each example on average; all processes read them together."""
    if isinstance(examples, Split | Subset):
        return np.array([weight for weight, _ in deal(examples.numbers, range(len(examples)))], np.float64)
    return np.array([examples[place].weight for place in range(len(examples))], np.float64)
