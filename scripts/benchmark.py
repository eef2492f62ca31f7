#!/usr/bin/env python3
"""Measure one part of jaxfc on this machine, and other stacks beside it where they are installed.

benchmark.py NAME [--json] [--peer tunix,transformers] [key=value ...]

    rollout      prompts -> completions of a fixed length             peers: tunix, transformers
    train_step   loss, gradient and optimizer of one policy update    peers: tunix
    loop         a whole RL step, phase by phase                      peers: tunix
    logprobs     token log-probabilities against the dense form
    calls        judging completions on the host
    checker      decoding and checking answers by BFCL's rules        peers: bfcl-eval
    validate     the AST stage of preparation, raw rows -> kept or dropped
    loader       prompts from prepared shards
    serve        requests to the server, at once and one by one

benchmark.py NAME --help lists the settings of that benchmark.
"""

import os
import sys

from jaxfc.benchmarks.settings import (
    Benchmark,
    CallsBenchmark,
    CheckerBenchmark,
    LoaderBenchmark,
    LogprobsBenchmark,
    LoopBenchmark,
    RolloutBenchmark,
    ServeBenchmark,
    TrainStepBenchmark,
    ValidateBenchmark,
    check_peers,
)
from jaxfc.command import run_command


def rollout(config: RolloutBenchmark, peers: tuple[str, ...]):
    """Sampling."""
    from jaxfc.benchmarks.rollout import benchmark_rollout

    return benchmark_rollout(config, peers)


def train_step(config: TrainStepBenchmark, peers: tuple[str, ...]):
    """An update."""
    from jaxfc.benchmarks.training import benchmark_train_step

    return benchmark_train_step(config, peers)


def loop(config: LoopBenchmark, peers: tuple[str, ...]):
    """A whole step."""
    from jaxfc.benchmarks.loop import benchmark_loop

    return benchmark_loop(config, peers)


def logprobs(config: LogprobsBenchmark, peers: tuple[str, ...]):
    """The head."""
    from jaxfc.benchmarks.logprobs import benchmark_logprobs

    return benchmark_logprobs(config, peers)


def calls(config: CallsBenchmark, peers: tuple[str, ...]):
    """Judging."""
    from jaxfc.benchmarks.host import benchmark_calls

    return benchmark_calls(config, peers)


def checker(config: CheckerBenchmark, peers: tuple[str, ...]):
    """Checking."""
    from jaxfc.benchmarks.checker import benchmark_checker

    return benchmark_checker(config, peers)


def validate(config: ValidateBenchmark, peers: tuple[str, ...]):
    """Validating."""
    from jaxfc.benchmarks.preparation import benchmark_validate

    return benchmark_validate(config, peers)


def loader(config: LoaderBenchmark, peers: tuple[str, ...]):
    """Loading."""
    from jaxfc.benchmarks.host import benchmark_loader

    return benchmark_loader(config, peers)


def serve(config: ServeBenchmark, peers: tuple[str, ...]):
    """Serving."""
    from jaxfc.benchmarks.serving import benchmark_serve

    return benchmark_serve(config, peers)


RUNS = {
    RolloutBenchmark: rollout,
    TrainStepBenchmark: train_step,
    LoopBenchmark: loop,
    LogprobsBenchmark: logprobs,
    CallsBenchmark: calls,
    CheckerBenchmark: checker,
    ValidateBenchmark: validate,
    LoaderBenchmark: loader,
    ServeBenchmark: serve,
}
BENCHMARKS = {settings.name: settings for settings in RUNS}


def main(config: Benchmark, arguments):
    """JAX is imported only once the settings are known to be right."""
    peers = tuple(filter(None, (arguments.peer or "").split(",")))
    check_peers(config, peers)
    if arguments.dry_run:
        return None
    # Else JAX takes most of a GPU's memory, and a peer finds none.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    result = RUNS[type(config)](config, peers)
    if not arguments.json:
        from jaxfc.benchmarks.table import table

        print(table(result))
    return result


def add_arguments(parser):
    """The name of the benchmark, and the peers."""
    parser.add_argument("benchmark", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--peer", metavar="NAMES", help="other stacks to run beside ours: tunix, transformers, bfcl-eval"
    )


if __name__ == "__main__":
    named = next((BENCHMARKS[argument] for argument in sys.argv[1:] if argument in BENCHMARKS), Benchmark)
    run_command(main, named, __doc__, extra=add_arguments)
