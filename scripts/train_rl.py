#!/usr/bin/env python3
"""Reinforcement learning of a function-calling model: EGPO, or GRPO with algorithm.entropy=null."""

from jaxfc.command import run_command
from jaxfc.config import TrainRL


def main(config: TrainRL, arguments):
    """Import JAX only once the settings are known to be right."""
    from jaxfc.processes import run_joined
    from jaxfc.train import train

    return run_joined(train, config, dry_run=arguments.dry_run)


if __name__ == "__main__":
    run_command(main, TrainRL, __doc__)
