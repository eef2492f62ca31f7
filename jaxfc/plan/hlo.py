"""A compiled program's text -> what one device does in it: products, bytes, and what it sends to others."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
KERNEL_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}
"""Products of queries x keys x head width in the kernels of attention: forward, and the two of the backward pass."""
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s64": 8, "u64": 8, "f64": 8}
_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([0-9,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^  (ROOT )?%([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$", re.DOTALL)
_NAME = re.compile(r"%([\w.\-]+)")


class Shape(NamedTuple):
    """Of one array."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Of one device's part."""
        return self.size * _BYTES.get(self.dtype, 4)


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shapes: tuple[Shape, ...]
    """Of its result; several of a tuple."""
    opcode: str
    operands: tuple[str, ...]
    rest: str
    """Its attributes, as text."""
    is_root: bool

    @property
    def bytes(self) -> int:
        """Of its result."""
        return sum(shape.bytes for shape in self.shapes)


class Module(NamedTuple):
    """A program after it was split over the devices."""

    computations: dict[str, dict[str, Instruction]]
    entry: str


class Collective(NamedTuple):
    """An exchange between devices, as often as it runs."""

    kind: str
    shapes: tuple[Shape, ...]
    """Of its result on one device."""
    operands: tuple[Shape, ...]
    groups: np.ndarray | None
    """[n, g] of devices that exchange; None of a permutation."""
    pairs: tuple[tuple[int, int], ...]
    """Of a permutation: from, to."""
    times: float
    where: str
    """What it was made for."""

    @property
    def sent(self) -> float:
        """Bytes that a device sends in all its runs, when all of them pass on what they get around a ring."""
        if self.kind == "collective-permute":
            return self.times * sum(shape.bytes for shape in self.operands)
        size = self.groups.shape[1]
        moved = max(sum(s.bytes for s in self.shapes), sum(s.bytes for s in self.operands)) * (size - 1) / size
        return self.times * moved * (2 if self.kind == "all-reduce" else 1)

    def crosses(self, devices: int) -> bool:
        """Whether it leaves a slice of so many devices."""
        if self.kind == "collective-permute":
            return any(a // devices != b // devices for a, b in self.pairs)
        return bool((self.groups // devices != self.groups[:, :1] // devices).any())


class Work(NamedTuple):
    """What one device does in one run of a program."""

    flops: float
    """Of its products, two for each multiplication; those of elementwise work are left out."""
    bytes: float
    """Read and written by products, and as arguments and results of the program."""
    collectives: tuple[Collective, ...]
    kernels: float
    """Calls of Mosaic kernels in the text."""
    open_loops: int
    """Loops whose number of rounds the data decides; of each one round is counted."""


def parse(text: str) -> Module:
    """Read the text that XLA prints of a module."""
    computations, entry, current, pending = {}, "", None, ""
    for line in text.splitlines():
        if (head := _COMPUTATION.match(line)) is not None:
            current = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif line.startswith(("  %", "  ROOT ")) or line == "}":
            _add(current, pending)
            pending = line
        else:
            pending += "\n" + line
    return Module(computations, entry)


def _add(computation: dict[str, Instruction] | None, line: str):
    found = _INSTRUCTION.match(line)
    if computation is None or found is None:
        return
    root, name, shape, opcode, rest = found.groups()
    inner, attributes = _closed(rest)
    attributes = inner if opcode == "constant" else attributes
    computation[name] = Instruction(name, shapes_in(shape), opcode, tuple(_NAME.findall(inner)), attributes, bool(root))


def _closed(text: str) -> tuple[str, str]:
    """What is before the parenthesis that closes, and what comes after it."""
    depth = 1
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return text[:at], text[at + 1 :]
    return text, ""


def shapes_in(text: str) -> tuple[Shape, ...]:
    """All arrays that a text names."""
    return tuple(Shape(kind, tuple(map(int, filter(None, dims.split(","))))) for kind, dims in _ARRAY.findall(text))


def work_of(module: Module) -> Work:
    """Add up what the entry does, loops as often as they go round."""
    flops = moved = kernels = 0.0
    collectives, open_loops = [], 0
    for computation, instruction, times in runs(module):
        shape_of = _shape_lookup(computation)
        open_loops += instruction.opcode == "while" and rounds(module, instruction) is None
        if instruction.opcode == "dot":
            operands = [shape_of(name) for name in instruction.operands]
            flops += times * _dot_flops(instruction, operands[0][0])
            moved += times * (instruction.bytes + sum(shape.bytes for shapes in operands for shape in shapes))
        elif "tpu_custom_call" in instruction.rest:
            kernels += 1
            operands = [shape for name in instruction.operands for shape in shape_of(name)]
            flops += times * _kernel_flops(instruction, operands)
            moved += times * (instruction.bytes + sum(shape.bytes for shape in operands))
        elif instruction.opcode.removesuffix("-start") in COLLECTIVES:
            operands = tuple(shape for name in instruction.operands for shape in shape_of(name))
            collectives.append(_scattered(_collective(instruction, operands, times), instruction, computation))
    entry = module.computations[module.entry]
    ends = sum(i.bytes for i in entry.values() if i.opcode == "parameter" or i.is_root)
    alone = [each for each in collectives if each.groups is None or each.groups.shape[1] > 1]
    return Work(flops, moved + ends, tuple(alone), kernels, open_loops)


def runs(module: Module) -> Iterator[tuple[dict[str, Instruction], Instruction, float]]:
    """Every instruction that runs, with its computation and how often it does.

    Of a choice that data makes, such as whether top-k is on, the shorter branch is taken.
    """

    def walk(name: str, times: float):
        computation = module.computations[name]
        for instruction in computation.values():
            yield computation, instruction, times
            if instruction.opcode == "while":
                often = rounds(module, instruction)
                yield from walk(_called(instruction, "body")[0], times * (1 if often is None else often))
            elif instruction.opcode in ("call", "fusion", "async-start"):
                for inner in _called(instruction, "to_apply") + _called(instruction, "calls"):
                    yield from walk(inner, times)
            elif instruction.opcode == "conditional":
                yield from walk(min(_branches(instruction), key=lambda name: len(module.computations[name])), times)

    yield from walk(module.entry, 1.0)


def rounds(module: Module, loop: Instruction) -> int | None:
    """How often a loop goes round: what its counter is compared with; None where something else decides."""
    condition = module.computations[_called(loop, "condition")[0]]
    root = next(i for i in condition.values() if i.is_root)
    if root.opcode != "compare" or "direction=LT" not in root.rest:
        return None
    limits = [condition[name].rest for name in root.operands if condition[name].opcode == "constant"]
    return int(limits[0]) if limits else None


def _called(instruction: Instruction, attribute: str) -> list[str]:
    return re.findall(rf"\b{attribute}=%?([\w.\-]+)", instruction.rest)


def _branches(instruction: Instruction) -> list[str]:
    found = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
    if found:
        return _NAME.findall(found[1])
    return _called(instruction, "true_computation") + _called(instruction, "false_computation")


def _shape_lookup(computation: dict[str, Instruction]) -> Callable[[str], tuple[Shape, ...]]:
    return lambda name: computation[name].shapes if name in computation else ()


def _dot_flops(dot: Instruction, left: Shape) -> float:
    contracted = re.search(r"lhs_contracting_dims=\{([0-9,]*)\}", dot.rest)
    dims = [int(d) for d in contracted[1].split(",") if d] if contracted else []
    return 2.0 * dot.shapes[0].size * math.prod(left.dims[d] for d in dims)


def _kernel_flops(call: Instruction, operands: list[Shape]) -> float:
    """Of a splash kernel: its products over the blocks that its mask leaves. 0 of a kernel that is not known."""
    products = next((n for kind, n in KERNEL_PRODUCTS.items() if f"splash_mha_{kind}" in call.rest), 0)
    blocks = [shape for shape in operands if shape.dtype == "s8"]
    arrays = [shape for shape in operands if shape.dtype in ("bf16", "f32") and len(shape.dims) >= 3]
    edges = [shape for shape in operands if shape.dtype == "s32" and len(shape.dims) == 3][-1:]
    if not (products and blocks and arrays and edges):
        return 0.0
    *batch, _, width = arrays[0].dims
    return 2.0 * products * math.prod(batch) * blocks[0].size * math.prod(edges[0].dims[-2:]) * width


def _collective(instruction: Instruction, operands: tuple[Shape, ...], times: float) -> Collective:
    where = re.search(r'op_name="([^"]*)"', instruction.rest)
    pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", instruction.rest)
    return Collective(
        instruction.opcode.removesuffix("-start"),
        instruction.shapes,
        operands,
        groups_of(instruction.rest),
        tuple((int(a), int(b)) for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[1])) if pairs else (),
        times,
        where[1] if where else "",
    )


def _scattered(each: Collective, instruction: Instruction, computation: dict[str, Instruction]) -> Collective:
    """A sum of which each device only takes its part is a reduce-scatter, and is compiled to one."""
    if each.kind != "all-reduce" or len(each.shapes) > 1:
        return each
    users = [i for i in computation.values() if instruction.name in i.operands]
    if users and all(user.opcode == "dynamic-slice" for user in users):
        return each._replace(kind="reduce-scatter", shapes=users[0].shapes)
    return each


def groups_of(text: str) -> np.ndarray | None:
    """`replica_groups`, in any way in which XLA writes them, as [n, g] device numbers; None where there are none.

    Raises:
        ValueError: they are written in another way.
    """
    if "replica_groups=" not in text:
        return None
    if found := re.search(r"replica_groups=\{((?:\{[0-9,]+\},?)+)\}", text):
        return np.array([_numbers(group) for group in re.findall(r"\{([0-9,]+)\}", found[1])])
    if found := re.search(rf"replica_groups=\[([0-9,]+)\]<={_IOTA}", text):
        return _iota(*found.groups()[1:]).reshape(_numbers(found[1]))
    if found := re.search(rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({_IOTA}\))? \{{([^}}]*)\}}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
        order = np.arange(math.prod(sizes.values())) if found[2] is None else _iota(found[2], found[3])
        return _along(order.reshape(-1), sizes, re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", found[4]))
    raise ValueError(f"the groups of a collective are not readable: {text[text.index('replica_groups=') :][:120]}")


_IOTA = r"\[([0-9,]+)\](?:T\(([0-9,]+)\))?"


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _iota(dims: str, order: str | None) -> np.ndarray:
    devices = np.arange(math.prod(_numbers(dims))).reshape(_numbers(dims))
    return devices if order is None else devices.transpose(_numbers(order))


def _along(devices: np.ndarray, sizes: dict[str, int], within: list[tuple[str, str, str]]) -> np.ndarray:
    """Groups along some axes of a mesh, or parts of axes: (name, "", ""), or (name, what is outside it, its size)."""
    parts = {name: (int(before), int(size)) for name, before, size in within if size}
    dims, inside = [], {}
    for name, extent in sizes.items():
        before, size = parts.get(name, (1, extent))
        inside[name] = len(dims) + 1
        dims += [before, size, extent // before // size]
    last = [inside[name] for name, *_ in within]
    first = [axis for axis in range(len(dims)) if axis not in last]
    return devices.reshape(dims).transpose(first + last).reshape(-1, math.prod(dims[axis] for axis in last))


def by_kind(collectives: tuple[Collective, ...], devices: int) -> dict[tuple[str, str], float]:
    """(kind, "ICI" or "DCN") -> bytes that a device sends, of slices of so many devices."""
    sums = defaultdict(float)
    for each in collectives:
        sums[each.kind, "DCN" if each.crosses(devices) else "ICI"] += each.sent
    return dict(sums)
