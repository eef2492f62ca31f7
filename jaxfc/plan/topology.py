"""TPU slices by name: their devices, which exist for the compiler alone, and what a chip of them can do."""

import dataclasses
import importlib.util
import os
import re
from typing import Any, NamedTuple

from jaxfc.command import InputError

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pod:
    """A slice to plan for."""

    name: str
    """As the cloud calls it, v5p-128."""
    topology: str
    """As the compiler does, v5p:4x4x4."""
    slices: int = 1
    """How many of it."""
    settings: tuple[str, ...] = ()
    """key=value, over those of the run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pods:
    """Slices to plan for."""

    pods: tuple[Pod, ...]
    """Each in a section of its own."""


class Chip(NamedTuple):
    """One device of a slice, as JAX counts them: a chip, or one of the two of a chip of the seventh generation."""

    memory: float
    """Bytes of HBM that the compiler lets a program use, as its refusals say."""
    flops: float
    """Of products in bfloat16, a second."""
    bandwidth: float
    """Of its HBM, bytes a second."""
    ici: float
    """Bytes a second that it sends around a ring along one axis of the torus, in both directions."""
    dcn: float
    """Its part of its host's network, bytes a second."""
    devices: int = 1
    """Of a chip."""


CHIPS = {
    "v5e": Chip(15.75 * GIB, 197e12, 819e9, 100e9, 25e9 / 8),
    "v5p": Chip(95.73 * GIB, 459e12, 2765e9, 200e9, 50e9 / 8),
    "v6e": Chip(31.24 * GIB, 918e12, 1638e9, 200e9, 100e9 / 8),
    "tpu7x": Chip(94.74 * GIB, 2307e12 / 2, 7380e9 / 2, 200e9 / 2, 100e9 / 16, devices=2),
}
"""What Google publishes of each kind (docs.cloud.google.com/tpu/docs: v5e, v5p, v6e, tpu7x), but for the memory.

There ICI is given for all ports of a chip in both directions; a ring along one axis has two of four or six ports.
"""
ALIASES = {"v7x": "tpu7x", "v5": "v5p", "v5litepod": "v5e"}
_CLOUD_SIZES = {"v5e": 1, "v6e": 1, "v5p": 2, "tpu7x": 2}
"""By how much the number in the cloud's name (v5p-128) is larger than the number of chips."""


class Slice(NamedTuple):
    """One or several slices of the same kind."""

    name: str
    """As the compiler calls it, `v5e:4x4`."""
    chip: Chip
    count: int
    """Slices."""
    devices: tuple[Any, ...]
    """Of all of them."""

    @property
    def chips(self) -> int:
        """Of all slices."""
        return len(self.devices) // self.chip.devices

    @property
    def per_slice(self) -> int:
        """Devices of one slice."""
        return len(self.devices) // self.count


def parse_topology(text: str) -> tuple[str, str]:
    """`v5e:4x4` -> the kind and the extents.

    Raises:
        InputError: it is no such name, or of a kind that is not known.
    """
    kind, _, extents = text.partition(":")
    kind = ALIASES.get(kind, kind)
    if kind in CHIPS and re.fullmatch(r"\d+x\d+(x\d+)?", extents):
        return kind, extents
    cloud = re.fullmatch(r"(\w+?)-(\d+)", text)
    hint = ""
    if cloud and ALIASES.get(cloud[1], cloud[1]) in CHIPS:
        of = ALIASES.get(cloud[1], cloud[1])
        chips = int(cloud[2]) // _CLOUD_SIZES[of]
        hint = f" {text} has {chips} chips: give how they are laid out, such as {of}:{_layout(of, chips)}."
    raise InputError(
        f"--topology {text}: should be a kind and its extents in chips, such as v5e:4x4 or v5p:2x2x1; kinds are "
        f"{', '.join(CHIPS)}.{hint}"
    )


def _layout(kind: str, chips: int) -> str:
    """The usual layout: as near to a square, or a cube, as powers of two allow."""
    sides = [1] * (2 if kind in ("v5e", "v6e") else 3)
    while chips > 1:
        sides[sides.index(min(sides))] *= 2
        chips //= 2
    return "x".join(map(str, sorted(sides, key=lambda side: (side == 1, side))))


def prepare_environment():
    """What JAX and the TPU compiler want set where there is no TPU, before they are imported."""
    defaults = {
        "JAX_PLATFORMS": "cpu",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_MIN_LOG_LEVEL": "3",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def open_slice(text: str, slices: int = 1) -> Slice:
    """The devices of a slice, to compile for.

    Raises:
        InputError: libtpu is not installed, or it knows no such slice.
    """
    kind, extents = parse_topology(text)
    if slices < 1:
        raise InputError(f"--slices is {slices}; there is at least 1.")
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("libtpu is not installed, which has the compiler for TPUs: pip install 'jaxfc[tpu]'.")
    prepare_environment()
    from jax.experimental import topologies

    name, more = f"{kind}:{extents}", {} if slices == 1 else {"num_slices": slices}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **more)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--topology {name}: the compiler knows no such slice ({reason}).") from None
    return Slice(name, CHIPS[kind], slices, tuple(found.devices))
