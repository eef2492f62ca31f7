#!/usr/bin/env python3
"""Compile the programs of a run for a TPU slice that is not there: does it fit, and how fast can it be?

plan.py --config configs/qwen2.5-coder-7b-egpo.yaml --topology v5e:4x4
plan.py --config configs/qwen2.5-coder-7b-egpo.yaml --topology v5p:2x4x4 --slices 2 mesh.data=2 mesh.fsdp=8
plan.py --config configs/real_sft.yaml --sft --topology v6e:2x2 mesh.fsdp=4 model.architecture=qwen3-0.6b
plan.py --config configs/qwen2.5-coder-7b-egpo.yaml --pods configs/pods.yaml        writes ...-egpo.plan.md

Needs libtpu (pip install 'jaxfc[tpu]') and no TPU. Ends with code 1 if a program does not fit.
"""

import sys
from pathlib import Path

from jaxfc.command import InputError, load, run_command
from jaxfc.config import TrainRL, TrainSFT
from jaxfc.files import write_atomically
from jaxfc.plan.topology import Pod, Pods, open_slice, parse_topology, prepare_environment


def main(config: TrainRL | TrainSFT, arguments):
    """Plan for one slice, or for all of a file."""
    if (arguments.topology is None) == (arguments.pods is None):
        raise InputError("command line: give --topology, such as v5e:4x4, or --pods, a file of several; and not both.")
    if arguments.mean_length < 1:
        raise InputError(f"--mean-length is {arguments.mean_length}; a completion has at least 1 token.")
    prepare_environment()
    if arguments.pods is not None:
        return plan_all(type(config), arguments)
    pod = Pod(name=arguments.topology, topology=arguments.topology, slices=arguments.slices)
    summary, text = plan_one(config, pod, arguments)
    if summary and not arguments.json:
        print(text, end="")
    if summary and arguments.output is not None:
        write(arguments.output, text)
    return summary


def plan_one(config: TrainRL | TrainSFT, pod: Pod, arguments) -> tuple[dict, str]:
    """Its figures, and its tables."""
    parse_topology(pod.topology)
    from jaxfc.models.presets import architecture_of
    from jaxfc.plan.budget import advice, make_plan
    from jaxfc.plan.table import lines, summarize

    architecture, target = architecture_of(config.model), open_slice(pod.topology, pod.slices)
    if arguments.dry_run:
        return {}, ""
    plan = make_plan(config, architecture, target)
    summary = summarize(plan, arguments.mean_length)
    summary["advice"] = advice(plan)
    markdown = arguments.markdown or arguments.pods is not None
    return summary, "\n".join(lines(summary, summary["advice"], markdown=markdown)) + "\n"


def plan_all(kind: type, arguments) -> dict:
    """Plan for each slice of a file; the tables are written next to the settings, as NAME.plan.md."""
    given = Path(arguments.config or "")
    document, found = (
        [f"# What `{given.name}` needs, slice by slice", "", HEAD.format(pods=arguments.pods, config=given)],
        {},
    )
    for pod in load(Pods, arguments.pods).pods:
        settings = [*pod.settings, *arguments.overrides]
        print(f"{given.name} on {pod.name} ...", file=sys.stderr, flush=True)
        found[pod.name], text = plan_one(load(kind, given, settings), pod, arguments)
        command = " ".join(["scripts/train_rl.py --config", str(given), *settings])
        document += ["", f"## {pod.name}", "", f"    {command}", "", text.rstrip()]
    if not arguments.dry_run:
        write(arguments.output or given.with_suffix(".plan.md"), "\n".join(document) + "\n")
    return {"fits": all(each.get("fits", True) for each in found.values()), "pods": found}


HEAD = """\
Made by `scripts/plan.py --config {config} --pods {pods}`: compiled ahead of time by the TPU compiler, for
prompts of the longest bucket. Memory is the compiler's own figure; seconds are what chip and network allow at best.
Nothing was run."""


def write(path: str | Path, text: str):
    """Complete or not at all."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(path), text)


def add_arguments(parser):
    """What is planned for."""
    parser.add_argument("--topology", metavar="KIND:AxB", help="slice, such as v5e:4x4, v5p:2x2x1, v6e:4x4, v7x:2x2x1")
    parser.add_argument("--slices", type=int, default=1, metavar="N", help="slices of it; mesh.data is split over them")
    parser.add_argument("--pods", metavar="FILE", help="plan for the slices of this file instead (configs/pods.yaml)")
    parser.add_argument("--sft", action="store_true", help="the settings are those of train_sft.py")
    parser.add_argument("--mean-length", type=int, default=115, metavar="N", help="of a completion, in tokens")
    parser.add_argument("--markdown", action="store_true", help="tables for documents")
    parser.add_argument("--output", metavar="FILE", help="write the tables there too")


if __name__ == "__main__":
    summary = run_command(main, TrainSFT if "--sft" in sys.argv[1:] else TrainRL, __doc__, extra=add_arguments)
    sys.exit(0 if summary.get("fits", True) else 1)
