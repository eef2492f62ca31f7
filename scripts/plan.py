#!/usr/bin/env python3
"""Compile the programs of a run for a TPU slice that is not there: does it fit, and how fast can it be?

plan.py --config configs/qwen2.5-coder-7b-egpo.yaml --topology v5e:4x4
plan.py --config configs/qwen2.5-coder-7b-egpo.yaml --topology v5p:2x4x4 --slices 2 mesh.data=2 mesh.fsdp=8
plan.py --config configs/real_sft.yaml --sft --topology v6e:2x2 mesh.fsdp=4 model.architecture=qwen3-0.6b

Needs libtpu (pip install 'jaxfc[tpu]') and no TPU. Ends with code 1 if a program does not fit.
"""

import sys
from pathlib import Path

from jaxfc.command import InputError, run_command
from jaxfc.config import TrainRL, TrainSFT
from jaxfc.files import to_json, write_atomically
from jaxfc.plan.topology import open_slice, parse_topology, prepare_environment


def main(config: TrainRL | TrainSFT, arguments):
    """Import JAX only once the settings are known to be right."""
    if arguments.topology is None:
        raise InputError("command line: --topology is missing; give a slice, such as v5e:4x4.")
    parse_topology(arguments.topology)
    if arguments.mean_length < 1:
        raise InputError(f"--mean-length is {arguments.mean_length}; a completion has at least 1 token.")
    prepare_environment()
    from jaxfc.models.presets import architecture_of
    from jaxfc.plan.budget import advice, make_plan
    from jaxfc.plan.table import lines, summarize

    architecture, target = architecture_of(config.model), open_slice(arguments.topology, arguments.slices)
    if arguments.dry_run:
        return {}
    plan = make_plan(config, architecture, target)
    summary = summarize(plan, arguments.mean_length)
    summary["advice"] = advice(plan)
    text = "\n".join(lines(summary, summary["advice"], markdown=arguments.markdown)) + "\n"
    if not arguments.json:
        print(text, end="")
    if arguments.output is not None:
        path = Path(arguments.output)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_json(summary) + "\n" if path.suffix == ".json" else text)
    return summary


def add_arguments(parser):
    """What is planned for."""
    parser.add_argument("--topology", metavar="KIND:AxB", help="slice, such as v5e:4x4, v5p:2x2x1, v6e:4x4, v7x:2x2x1")
    parser.add_argument("--slices", type=int, default=1, metavar="N", help="slices of it; mesh.data is split over them")
    parser.add_argument("--sft", action="store_true", help="the settings are those of train_sft.py")
    parser.add_argument(
        "--mean-length", type=int, default=115, metavar="N", help="tokens of a completion, for the pace"
    )
    parser.add_argument("--markdown", action="store_true", help="tables for documents")
    parser.add_argument("--output", metavar="FILE", help="write it there too; the figures if FILE ends in .json")


if __name__ == "__main__":
    summary = run_command(main, TrainSFT if "--sft" in sys.argv[1:] else TrainRL, __doc__, extra=add_arguments)
    sys.exit(0 if summary.get("fits", True) else 1)
