"""Print the folder of the run that a training command makes, or nothing: run_folder.py scripts/train_rl.py ..."""

import sys
from pathlib import Path

from jaxfc.command import run_command
from jaxfc.config import TrainRL, TrainSFT

CONFIGS = {"train_rl.py": TrainRL, "train_sft.py": TrainSFT}


def main(config, arguments):
    """A dry run makes no folder."""
    if not arguments.dry_run:
        print((Path(config.output) / config.name).absolute())


if __name__ == "__main__":
    script, *argv = sys.argv[1:]
    if config := CONFIGS.get(Path(script).name):
        run_command(main, config, __doc__, argv)
