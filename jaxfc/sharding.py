"""The mesh, the names of its axes, and where parameters and batches are placed."""

import functools
import math
from collections import defaultdict
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from jaxfc.command import InputError
from jaxfc.processes import Share, exchange, index, process_of

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")
"""The mesh axes over which rows (prompts, and completions in prompt-major order) are split."""

RULES = {
    "layers": None,
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "hidden": "tensor",
    "rows": BATCH,
    None: None,
}
"""Logical axis of an array -> mesh axis."""


def make_mesh(shape: Sequence[int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of `data x fsdp x tensor` devices; the axes of a TPU's mesh follow those of its torus.

    Of several slices each has its part of `data`: what crosses between them, over the data centre's network, is the
    sum of the gradients.

    Raises:
        InputError: the mesh needs another number of devices than are attached, or slices do not divide `data`.
    """
    devices, shape = list(jax.devices() if devices is None else devices), tuple(shape)
    if math.prod(shape) != len(devices):
        named = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
        raise InputError(f"mesh {named} needs {math.prod(shape)} devices; {len(devices)} are attached.")
    return Mesh(_arranged(shape, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arranged(shape: tuple[int, ...], devices: Sequence[jax.Device]) -> np.ndarray:
    if devices[0].platform != "tpu":
        return np.asarray(devices).reshape(shape)
    slices = len({device.slice_index for device in devices if hasattr(device, "slice_index")}) or 1
    if shape[0] % slices:
        raise InputError(
            f"mesh.data is {shape[0]}, but the devices are {slices} slices, and only `data` may cross between slices; "
            f"{-(-shape[0] // slices) * slices} would do."
        )
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    within = shape[0] // slices, *shape[1:]
    return mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), devices, allow_split_physical_axes=True)


def spec(*axes: str | None) -> Spec:
    """The placement of an array whose dimensions have these logical names."""
    return Spec(*(RULES[axis] for axis in axes))


def shardings(mesh: Mesh, axes):
    """A tree of logical axis names (tuples as leaves) -> the same tree of shardings."""
    return jax.tree.map(lambda names: NamedSharding(mesh, spec(*names)), axes, is_leaf=is_axes)


def is_axes(node) -> bool:
    """Whether a node of a tree is the logical axis names of an array."""
    return isinstance(node, tuple) and all(name is None or isinstance(name, str) for name in node)


def constrain(mesh: Mesh | None, array: jax.Array, *axes: str | None) -> jax.Array:
    """The array, placed in compiled code by the logical names of its first dimensions; without a mesh, as it is."""
    return array if mesh is None else jax.lax.with_sharding_constraint(array, NamedSharding(mesh, spec(*axes)))


def rows(mesh: Mesh) -> NamedSharding:
    """The placement of arrays whose first axis is prompts or completions."""
    return NamedSharding(mesh, spec("rows"))


def fitting(sharding: NamedSharding, shape: Sequence[int]) -> NamedSharding:
    """The same placement, less the axes whose parts this shape cannot be cut into evenly."""
    mesh = sharding.mesh

    def parts(axes: str | tuple[str, ...] | None) -> int:
        names = (axes,) if isinstance(axes, str) else axes or ()
        return math.prod(mesh.shape[name] for name in names)

    kept = (axes if size % parts(axes) == 0 else None for axes, size in zip(sharding.spec, shape, strict=False))
    return NamedSharding(mesh, Spec(*kept))


def replicated(mesh: Mesh) -> NamedSharding:
    """The placement of scalars and keys."""
    return NamedSharding(mesh, Spec())


def place_rows(mesh: Mesh, tree):
    """Put host arrays, the same on every process, on the mesh with their first axis split over it."""
    sharding = rows(mesh)
    return jax.tree.map(lambda a: jax.make_array_from_callback(np.shape(a), sharding, np.asarray(a).__getitem__), tree)


def place_replicated(mesh: Mesh, tree):
    """Put host arrays on every device of the mesh."""
    sharding = replicated(mesh)
    return jax.tree.map(lambda a: jax.make_array_from_callback(np.shape(a), sharding, np.asarray(a).__getitem__), tree)


def place_key(mesh: Mesh, key: jax.Array) -> jax.Array:
    """Put a random key, the same on every process, on every device of the mesh."""
    return jax.random.wrap_key_data(place_replicated(mesh, jax.random.key_data(key)), impl=jax.random.key_impl(key))


def row_shards(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


# What lies on this process's devices


@functools.cache
def _holders(mesh: Mesh) -> dict[int, list[int]]:
    """Shard of the rows -> the processes whose devices hold it."""
    holders = defaultdict(set)
    for device, (shard,) in rows(mesh).devices_indices_map((row_shards(mesh),)).items():
        holders[shard.start or 0].add(process_of(device))
    return {shard: sorted(processes) for shard, processes in sorted(holders.items())}


def _held_shards(mesh: Mesh) -> list[int]:
    return [shard for shard, processes in _holders(mesh).items() if index() in processes]


def share_of(mesh: Mesh, batch: int) -> Share:
    """Which of `batch` rows, split over the mesh, are this process's."""
    holders, size = _holders(mesh), batch // row_shards(mesh)
    held = [row for shard in _held_shards(mesh) for row in range(shard * size, (shard + 1) * size)]
    # Those who hold the same rows take turns.
    judges = [holders[row // size][row % len(holders[row // size])] for row in held]
    is_exclusive = all(len(processes) == 1 for processes in holders.values())
    return Share(batch, np.array(held), np.array(judges) == index(), is_exclusive)


def place_held(mesh: Mesh, tree):
    """Make global arrays, split over the mesh by rows, of the rows that each process holds (`Share.held`)."""
    shards, sharding = _held_shards(mesh), rows(mesh)

    def place(held: np.ndarray) -> jax.Array:
        size = len(held) // len(shards)

        def part(at: tuple[slice, ...]) -> np.ndarray:
            start = shards.index((at[0].start or 0) // size) * size
            return held[start : start + size]

        return jax.make_array_from_callback((size * row_shards(mesh), *held.shape[1:]), sharding, part)

    return jax.tree.map(lambda held: place(np.asarray(held)), tree)


def held(tree):
    """The rows of global arrays that lie on this process's devices, as NumPy arrays; `place_held`'s inverse."""

    def of(array: jax.Array) -> np.ndarray:
        if array.is_fully_addressable:
            return np.asarray(array)
        parts = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
        return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])

    return jax.tree.map(of, tree)


def fetch(tree):
    """Global arrays split by rows -> whole NumPy arrays, on every process: for small ones, see `exchange`."""

    def first_copies(array: jax.Array) -> dict[int, np.ndarray]:
        shards = (shard for shard in array.addressable_shards if shard.replica_id == 0)
        return {shard.index[0].start or 0: np.asarray(shard.data) for shard in shards}

    leaves, structure = jax.tree.flatten(tree)
    if all(leaf.is_fully_addressable for leaf in leaves):
        return jax.tree.map(np.asarray, tree)
    parts = exchange([first_copies(leaf) for leaf in leaves])
    merged = [
        {start: part for of_process in parts for start, part in of_process[at].items()} for at in range(len(leaves))
    ]
    return structure.unflatten([np.concatenate([part[start] for start in sorted(part)]) for part in merged])
