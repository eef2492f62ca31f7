"""A process of its own that runs one contestant's update and prints how far memory rose during the last."""

import json
import sys

from jaxfc.benchmarks.measure import WARM_UPS, rise
from jaxfc.benchmarks.settings import TrainStepBenchmark
from jaxfc.benchmarks.training import contestants
from jaxfc.command import load


def main(contestant: str, path: str) -> dict[str, int]:
    """Measure `contestant` with the settings in the file `path`.

    Returns:
        `update_bytes`, by which memory rose during an update over what the process held before it (code, weights,
        optimizer state, batch), and `update_peak_bytes`, the most that it held in all.
    """
    with contestants(load(TrainStepBenchmark, path), (contestant,)) as (runs, _):
        for number in range(WARM_UPS):
            runs[contestant](number)
        up, before = rise(lambda: runs[contestant](WARM_UPS))
    return {"update_bytes": up, "update_peak_bytes": before + up}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
