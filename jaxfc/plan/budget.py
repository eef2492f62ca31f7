"""What a plan comes to: whether every program fits its chip, how long a step takes at best, and what to change."""

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from jax.sharding import Mesh

from jaxfc.config import TrainRL, TrainSFT
from jaxfc.models.network import DecoderConfig
from jaxfc.plan.compiled import CLASSES, STATE_CLASSES, Compiled, plan_programs
from jaxfc.plan.hlo import by_kind
from jaxfc.plan.topology import GIB, Chip, Slice
from jaxfc.sharding import make_mesh
from jaxfc.slots import Plan
from jaxfc.workspace import check_tensor_axis

SHARE = 0.95
"""Part of a chip's memory that may be planned with: compiled at full optimisation a program needs up to 2 % more."""
TRIES = 3
"""Changes that are compiled for what does not fit."""


class Need(NamedTuple):
    """What is on a chip while a program runs, in bytes."""

    classes: dict[str, int]
    total: int
    limit: float

    @property
    def fits(self) -> bool:
        """Whether it is within the part of the chip that may be planned with."""
        return self.total <= SHARE * self.limit


class Pace(NamedTuple):
    """Seconds that one run of a program takes at least, by what it waits for."""

    flops: float
    bandwidth: float
    ici: float
    dcn: float
    runs: float
    """How often it runs in a step."""

    @property
    def seconds(self) -> float:
        """Of all its runs in a step, if everything that can overlap does."""
        return self.runs * max(self[:4])

    @property
    def bound(self) -> str:
        """What takes longest."""
        return ("FLOPs", "HBM", "ICI", "DCN")[max(range(4), key=lambda at: self[at])]


class Planned(NamedTuple):
    """A run, compiled for a slice."""

    config: TrainRL | TrainSFT
    architecture: DecoderConfig
    target: Slice
    mesh: Mesh
    programs: dict[str, Compiled]

    @property
    def layers(self) -> int:
        """Of the model."""
        return self.architecture.layers


def make_plan(config: TrainRL | TrainSFT, architecture: DecoderConfig, target: Slice) -> Planned:
    """Compile every program of a run for a slice.

    Raises:
        InputError: the mesh has another number of devices, or does not divide the model.
    """
    check_tensor_axis(architecture, config.mesh.tensor)
    mesh = make_mesh((config.mesh.data, config.mesh.fsdp, config.mesh.tensor), target.devices)
    return Planned(config, architecture, target, mesh, plan_programs(config, architecture, mesh))


def resident(plan: Planned, name: str) -> dict[str, int]:
    """Class -> bytes of what lies on a chip while a program runs, whether it reads it or not.

    That is the state and the reference beside it, and while sampling begins the weights that are made for it.

    The reference is the model that the run started from. With adapters it is their base, which is no second copy.
    """
    update = plan.programs["update"].held
    state = {name: update[name] for name in STATE_CLASSES}
    is_copied = plan.config.lora is None and isinstance(plan.config, TrainRL)
    state["reference"] = update["parameters"] if is_copied else 0
    if name in ("rollout/layer", "rollout/begin"):
        state["sampling weights"] = plan.programs["rollout/decode"].held["sampling weights"]
    return state


def need(program: Compiled, always: dict[str, int], chip: Chip) -> Need:
    """What a program needs together with all that lies there meanwhile."""
    classes = dict.fromkeys(CLASSES, 0) | always
    own = {name: held for name, held in program.held.items() if held and name not in always}
    classes |= own | {"activations": program.activations}
    arguments_there = sum(program.held[name] for name in always if name in program.held)
    total = sum(always.values()) + program.peak - min(arguments_there, program.peak)
    classes["temporaries"] = max(0, total - sum(classes.values()))
    return Need(classes, total, chip.memory)


def paces(plan: Planned, mean_length: int) -> dict[str, Pace]:
    """Name of each program -> its pace.

    Args:
        plan: what was compiled.
        mean_length: tokens of a completion, on average.
    """
    often, chip, found = _runs(plan, mean_length), plan.target.chip, {}
    for name, program in plan.programs.items():
        sent = defaultdict(float)
        for (_, network), size in by_kind(program.work.collectives, plan.target.per_slice).items():
            sent[network] += size
        found[name] = Pace(
            program.work.flops / chip.flops,
            program.work.bytes / chip.bandwidth,
            sent["ICI"] / chip.ici,
            sent["DCN"] / chip.dcn,
            often.get(name, 1.0),
        )
    return found


def _runs(plan: Planned, mean_length: int) -> dict[str, float]:
    """How often each program runs in a step, where that is not once."""
    config = plan.config
    if isinstance(config, TrainSFT):
        return {}
    algorithm, room = config.algorithm, config.data.prompt_buckets[-1]
    sizes = {"shards": config.mesh.data * config.mesh.fsdp, "group_size": algorithm.group_size}
    slots = Plan.make(config.batch * algorithm.oversample, room, slots=config.rollout.slots, **sizes)
    scores = (algorithm.old_logprobs == "trainer") + (algorithm.kl_coefficient > 0)
    return {
        "rollout/layer": float(plan.layers),
        "rollout/prefill": float(math.ceil(slots.prompts / slots.admissions)),
        "rollout/decode": slots.completions * mean_length / slots.slots,
        "score": float(scores if config.lora is None else 1),
    }


def trained_tokens(config: TrainRL | TrainSFT, mean_length: int) -> int:
    """Tokens of prompts and completions that a step trains on, prompts as long as the longest bucket."""
    group = config.algorithm.group_size if isinstance(config, TrainRL) else 1
    return config.batch * (config.data.prompt_buckets[-1] + group * mean_length)


def smaller(config: TrainRL | TrainSFT, program: str) -> Iterator[tuple[str, TrainRL | TrainSFT]]:
    """The same run with less at once in what does not fit: the setting that was changed, and the settings.

    An update is made of more micro-batches, a rollout of fewer slots, as far as the batch can be divided.
    """
    while True:
        if isinstance(config, TrainSFT):
            key, value = "micro_batches", config.micro_batches * 2
            changed = {"micro_batches": value}
        elif program.startswith("rollout"):
            groups = config.batch * config.algorithm.oversample * config.algorithm.group_size
            key, value = "rollout.slots", (config.rollout.slots or groups) // 2
            changed = {"rollout": dataclasses.replace(config.rollout, slots=value)} if value else {}
        else:
            key, value = "algorithm.micro_batches", config.algorithm.micro_batches * 2
            changed = {"algorithm": dataclasses.replace(config.algorithm, micro_batches=value)}
        try:
            config = dataclasses.replace(config, **changed) if changed else None
        except ValueError:
            return
        if config is None:
            return
        yield f"{key}={value}", config


def advice(plan: Planned) -> list[str]:
    """What to change so that each program fits; each change was compiled."""
    lines, room = [], SHARE * plan.target.chip.memory
    for name, program in plan.programs.items():
        always = resident(plan, name)
        if need(program, always, plan.target.chip).fits:
            continue
        if (there := sum(always.values())) > room:
            what = ", ".join(f"{each} {size / GIB:.2f} GiB" for each, size in always.items() if size)
            lines.append(f"What lies on a chip all along does not fit by itself: {what}, {there / GIB:.2f} GiB. {LESS}")
            return lines
        what = f"{name} does not fit; its largest buffers are {', '.join(program.largest)}."
        lines.append(f"{what} {_what_would(plan, name, always) or LESS}")
    return lines


LESS = "A larger mesh.fsdp or mesh.tensor, smaller optimizer.moments, lora or model.remat=layer take less of a chip."


def _what_would(plan: Planned, name: str, always: dict[str, int]) -> str | None:
    for change, config in itertools.islice(smaller(plan.config, name), TRIES):
        again = plan_programs(config, plan.architecture, plan.mesh, only=(name,))[name]
        if need(again, always, plan.target.chip).fits:
            return f"With {change} it would."
    return None
