"""A process of its own that runs one contestant's updates and prints how far they make memory rise."""

import json
import sys

import jax

from jaxfc.benchmarks.measure import WARM_UPS, rise
from jaxfc.benchmarks.settings import TrainStepBenchmark
from jaxfc.benchmarks.training import contestants
from jaxfc.command import load


def main(contestant: str, path: str) -> dict[str, int]:
    """Measure `contestant` with the settings in the file `path`.

    Returns:
        `update_bytes`, by which memory rose over what the process held before the first of three updates (libraries,
        weights, optimizer state, batch), and `update_peak_bytes`, the most that it held in all.
    """
    with contestants(load(TrainStepBenchmark, path), (contestant,)) as (runs, _):

        def updates():
            # All from the first on: what an update leaves to the allocator would hide in the next.
            for number in range(WARM_UPS + 1):
                jax.block_until_ready(runs[contestant](number))

        up, before = rise(updates)
    return {"update_bytes": up, "update_peak_bytes": before + up}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
