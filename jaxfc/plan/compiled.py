"""The programs of a run, compiled for a slice that is not there, and what the compiler says of each."""

import contextlib
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxfc.config import TrainRL, TrainSFT
from jaxfc.decoding import Decoding
from jaxfc.engine import compile_engine, compile_sft, plain_sampling, sampling_of
from jaxfc.learner import describe_state, make_optimizer
from jaxfc.models.decoder import Decoder
from jaxfc.models.network import DecoderConfig
from jaxfc.plan.hlo import Module, Shape, Work, parse, runs, shapes_in, work_of
from jaxfc.programs import describe
from jaxfc.sharding import replicated, shardings
from jaxfc.types import Params, TrainState
from jaxfc.workspace import Workspace

OPTIONS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
"""Keeps collectives whole, so that the text says what is exchanged; the bytes are those of the pieces."""
STATE_CLASSES = ("parameters", "optimizer")
CLASSES = (*STATE_CLASSES, "reference", "sampling weights", "cache", "batch", "activations", "temporaries")
"""What HBM holds; temporaries are all that the others are not, gradients among them."""


class Compiled(NamedTuple):
    """A program, and what one device needs for it."""

    name: str
    held: dict[str, int]
    """Class -> bytes of its arguments."""
    activations: int
    """Bytes kept layer by layer, for the backward pass or for the completions."""
    peak: int
    """Bytes at its fullest moment, arguments and results included; of a refused one what it would need."""
    refusal: str | None
    """What the compiler said when it would not: there is too little memory."""
    donated: int
    """Bytes of results that take the place of arguments."""
    arguments: int
    largest: tuple[str, ...]
    """Its largest buffers: size and shape."""
    work: Work
    text: str
    """The program of one device, before it is optimised further."""
    seconds: float
    """CPU time of compilation."""


class NoTokenizer(NamedTuple):
    """What the programs ask of a tokenizer: how many tokens there are, and which ends a completion."""

    vocabulary: int
    eos: int = 0


class Planner:
    """Stands in for `programs.Programs`: compiles for the slice, at the longest bucket, and keeps what was said."""

    def __init__(self, mesh: Mesh, layers: int, only: Sequence[str] = ()):
        """Begin with no program.

        Args:
            mesh: of the slice.
            layers: of the model.
            only: beginnings of the names of programs to compile; empty compiles all.
        """
        self.programs: dict[str, Compiled] = {}
        self._mesh, self._layers, self._only = mesh, layers, tuple(only)

    def compile(self, name: str, function: Callable, *arguments) -> Callable:
        """Compile it, unless it is not asked for. The result cannot be called."""
        if not self._only or name.startswith(self._only):
            with jax.set_mesh(self._mesh), jax.default_device(self._mesh.devices.flat[0]):
                lowered = function.trace(*arguments).lower(lowering_platforms=("tpu",))
                self.programs[name] = _compile(name, lowered, arguments, self._layers)
        return _not_here

    def by_bucket(self, name: str, function: Callable, buckets: Sequence[int], arguments: Callable) -> Callable:
        """Compile it for the longest bucket, which needs most."""
        return self.compile(name, function, *arguments(buckets[-1]))


def _not_here(*_):
    raise RuntimeError("this program was compiled for devices that are not attached.")


def plan_programs(
    config: TrainRL | TrainSFT, architecture: DecoderConfig, mesh: Mesh, only: Sequence[str] = ()
) -> dict[str, Compiled]:
    """Compile what a run compiles, from descriptions of its arrays.

    Args:
        config: the run's settings; its mesh is that of `mesh`.
        architecture: of its model.
        mesh: of a slice, see `topology`.
        only: beginnings of the names of programs to compile; empty compiles all.
    """
    dtype = jnp.float32 if config.model.compute == "float32" else jnp.bfloat16
    decoder = Decoder(architecture, dtype=dtype, remat=config.model.remat, mesh=mesh, lora=config.lora)
    work = _workspace(decoder, mesh)
    state = describe_state(decoder, make_optimizer(config.optimizer), mesh)
    planner = Planner(mesh, architecture.layers, only)
    with _for_a_plan():
        if isinstance(config, TrainRL):
            sampling = describe(sampling_of(config, (0,)), replicated(mesh))
            compile_engine(config, work, state, sampling, planner)
        else:
            compile_sft(config, work, state, describe(plain_sampling(config, (0,)), replicated(mesh)), planner)
    return planner.programs


@contextlib.contextmanager
def _for_a_plan():
    """A level of optimisation that takes a sixth of the time and, to 2 %, the same memory; nothing is kept on disk."""
    settings = {"jax_optimization_level": "O0", "jax_enable_compilation_cache": False}
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _workspace(decoder: Decoder, mesh: Mesh) -> Workspace:
    """As `open_workspace` makes it, of a model that is not there."""

    def described(init: Callable, axes) -> Params:
        shapes, homes = jax.eval_shape(init, jax.random.key(0)), shardings(mesh, axes)
        return jax.tree.map(lambda a, home: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=home), shapes, homes)

    params = described(decoder.init, decoder.axes)
    adapters = None if decoder.lora is None else described(decoder.init_trained, decoder.trained_axes)
    return Workspace(Path(), mesh, NoTokenizer(decoder.config.vocab_size), None, decoder, params, "", adapters)


def bytes_on_device(tree) -> int:
    """Of one device's parts of described arrays."""
    leaves = jax.tree.leaves(tree)
    return sum(_size(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size


def _held(arguments: tuple[Any, ...]) -> dict[str, int]:
    """The classes of a program's arguments."""
    held = dict.fromkeys(CLASSES[:-2], 0)
    for argument in arguments:
        match argument:
            case TrainState():
                held["parameters"] += bytes_on_device(argument.params)
                held["optimizer"] += bytes_on_device(argument.opt_state)
            case Decoding():
                held["cache"] += bytes_on_device((argument.prefix, argument.own))
                held["batch"] += bytes_on_device(argument._replace(prefix=(), own=()))
            case {"blocks": tuple()}:
                held["sampling weights"] += bytes_on_device(argument)
            case {"blocks": _}:
                held["parameters"] += bytes_on_device(argument)
            case _:
                held["batch"] += bytes_on_device(argument)
    return held


def _compile(name: str, lowered, arguments: tuple[Any, ...], layers: int) -> Compiled:
    begin, program, refusal = time.process_time(), None, None
    with tempfile.TemporaryDirectory() as folder:
        options = OPTIONS | {"xla_dump_to": folder, "xla_dump_hlo_pass_re": "tpu-spmd-partitioning"}
        try:
            program = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            refusal = str(error).splitlines()[0]
        seconds = time.process_time() - begin
        # Of a program that does not fit the compiler leaves these too.
        text = _written(folder, "after_tpu-spmd-partitioning")
        report = _written(folder, "memory-usage-report")
    module, memory = parse(text), program and program.memory_analysis()
    return Compiled(
        name,
        _held(arguments),
        _activations(module, layers),
        memory.peak_memory_in_bytes if memory else _total(report),
        refusal,
        memory.alias_size_in_bytes if memory else 0,
        memory.argument_size_in_bytes if memory else bytes_on_device(arguments),
        _largest(report),
        work_of(module),
        text,
        seconds,
    )


def _written(folder: str, kind: str) -> str:
    """What the compiler wrote of this kind.

    Raises:
        RuntimeError: nothing, as another version of it might.
    """
    files = sorted(Path(folder).glob(f"*{kind}*"))
    if not files:
        raise RuntimeError(f"this libtpu wrote no {kind} of a program; the version that jax[tpu] asks for does.")
    return files[-1].read_text()


def _total(report: str) -> int:
    """Bytes that a program would need."""
    return int(re.search(r"^Total bytes: (\d+)", report, re.MULTILINE)[1])


def _largest(report: str) -> tuple[str, ...]:
    """The first buffers of the compiler's report, each with the largest array that it holds."""
    rows = re.findall(r"^\s*[\d.]+[KMG]iB\(\s*\d+%\);\s*([\d.]+[KMG]iB);\s*\d+;\s*\d+; (.*)$", report, re.MULTILINE)
    return tuple(f"{size} {_name(max(shapes_in(arrays), key=lambda shape: shape.bytes))}" for size, arrays in rows[:3])


def _name(shape: Shape) -> str:
    return f"{shape.dtype}[{','.join(map(str, shape.dims))}]"


def _activations(module: Module, layers: int) -> int:
    """What a loop over the layers writes one by one, and is no parameter: kept until the way back, or for others."""
    kept: dict[Shape, int] = {}
    for _, instruction, _ in runs(module):
        if instruction.opcode != "while":
            continue
        stacked = [s for s in instruction.shapes if len(s.dims) > 3 and s.dims[0] == layers and s.dtype == "bf16"]
        for shape in set(stacked):
            kept[shape] = max(kept.get(shape, 0), stacked.count(shape))
    return sum(shape.bytes * count for shape, count in kept.items())
