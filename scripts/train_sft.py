#!/usr/bin/env python3
"""Supervised training of a model on the accepted answers of a dataset or of generated tasks."""

from jaxfc.command import run_command
from jaxfc.config import TrainSFT


def main(config: TrainSFT, arguments):
    """Import JAX only once the settings are known to be right."""
    from jaxfc.processes import run_joined
    from jaxfc.sft import train_sft

    return run_joined(train_sft, config, dry_run=arguments.dry_run)


if __name__ == "__main__":
    run_command(main, TrainSFT, __doc__)
