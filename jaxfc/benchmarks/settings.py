"""What each benchmark measures: the model, the workload and how often; read before JAX is."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

from jaxfc.algorithm import Algorithm
from jaxfc.command import InputError
from jaxfc.config import Data, Mesh, Optimizer, Prompt, Remat, Rollout, Tasks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """A Qwen2 architecture of any size."""

    vocabulary: int = 8192
    """Tokens, and rows of the embedding."""
    width: int = 256
    """Width of the residual stream."""
    hidden_width: int = 1024
    """Width inside the MLP."""
    layers: int = 4
    """Layers."""
    heads: int = 4
    """Query heads."""
    kv_heads: int = 2
    """Key-value heads."""
    head_width: int = 64
    """Width of a head."""
    tied: bool = True
    """The output head is the embedding, transposed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What every benchmark has."""

    name: ClassVar[str]
    """As the command line has it."""
    peers: ClassVar[tuple[str, ...]] = ()
    """Other stacks that can run the same workload."""

    runs: int = 5
    """Measured runs of each contestant, in turn; those before them, which compile, are not counted."""
    seed: int = 0
    """Of weights and tokens."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is int and field.name != "seed" and value < 1:
                raise ValueError(f"{field.name} is {value}; right is a whole number above 0.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelBenchmark(Benchmark):
    """A benchmark that runs a model of random weights on prompts of random tokens."""

    model: Literal["small", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-7b"] = "small"
    """Named size; small has 4 layers of width 256 and 8,192 tokens."""
    shape: Shape | None = None
    """A size of one's own instead."""
    compute: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of matrix products; auto is bfloat16 on accelerators and float32 on CPU."""
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    """Taken from the first devices that are attached."""
    prompts: int = 4
    """Different prompts (P)."""
    prompt_length: int = 1024
    """Tokens of each (S)."""


def refuse_grammar(rollout: Rollout):
    """Refuse settings under which completions end where a grammar says."""
    if rollout.constrain is not None:
        raise ValueError("rollout.constrain ends completions, which all have new_tokens tokens here; leave it out.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutBenchmark(ModelBenchmark):
    """Sampling: every completion has the same number of tokens, and none stops earlier."""

    name: ClassVar[str] = "rollout"
    peers: ClassVar[tuple[str, ...]] = ("tunix", "transformers")

    group_size: int = 8
    """Completions per prompt (G)."""
    new_tokens: int = 128
    """Tokens of each completion (T)."""
    rollout: Rollout = dataclasses.field(default_factory=Rollout)
    weights: Literal["float32", "bfloat16"] = "float32"
    """Type in which parameters are held; training holds them in float32."""

    def __post_init__(self):
        super().__post_init__()
        if self.new_tokens < 2:
            raise ValueError(f"new_tokens is {self.new_tokens}; decoding is timed from the second token on.")
        refuse_grammar(self.rollout)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingBenchmark(ModelBenchmark):
    """What benchmarks that train have."""

    peers: ClassVar[tuple[str, ...]] = ("tunix",)

    new_tokens: int = 128
    """Tokens of each completion (T)."""
    remat: Remat = "none"
    """What the backward pass computes again."""
    peer_remat: Literal["none", "block", "decoder"] = "none"
    """What tunix recomputes in its backward pass: nothing (its default), attention and MLP, or each layer."""
    algorithm: Algorithm = dataclasses.field(default_factory=lambda: Algorithm(entropy=None))
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)

    def __post_init__(self):
        super().__post_init__()
        parts = self.algorithm.updates * self.algorithm.micro_batches
        if self.prompts % parts:
            raise ValueError(f"prompts is {self.prompts}; updates x micro_batches needs a multiple of {parts}.")
        if self.algorithm.dynamic_sampling is not None:
            raise ValueError("algorithm.dynamic_sampling chooses by rewards, which are random here; leave it out.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainStepBenchmark(TrainingBenchmark):
    """One policy update: loss, gradient and optimizer."""

    name: ClassVar[str] = "train_step"

    memory: bool = True
    """Measure the memory of updates too, in a fresh process for each contestant."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopBenchmark(TrainingBenchmark):
    """A whole RL step: rollout, scores by policy and reference, update. Rewards are drawn at random."""

    name: ClassVar[str] = "loop"

    rollout: Rollout = dataclasses.field(default_factory=Rollout)

    def __post_init__(self):
        super().__post_init__()
        refuse_grammar(self.rollout)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogprobsBenchmark(Benchmark):
    """Log-probabilities and entropies from hidden states, against the form that holds all logits."""

    name: ClassVar[str] = "logprobs"

    tokens: int = 1024
    """Completion tokens."""
    width: int = 896
    """Of the hidden states (D)."""
    vocabulary: int = 151936
    """Rows of the head (V)."""
    compute: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of matrix products; auto is bfloat16 on accelerators and float32 on CPU."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostBenchmark(Benchmark):
    """A benchmark of what runs on the host: examples, a tokenizer and a prompt, but no model."""

    tokenizer: str | None = None
    """A model directory whose tokenizer is used; null is that of the seed model that ships with the package."""
    prompt: Prompt | None = None
    """null: the one saved in that directory (`prompt.yaml`), else the paper's."""
    data: Data = dataclasses.field(default_factory=lambda: Data(tasks=Tasks(count=2000)))
    """The examples."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CallsBenchmark(HostBenchmark):
    """Judging completions: right ones, wrong ones, cut ones and ones without the form, in equal parts."""

    name: ClassVar[str] = "calls"

    prompts: int = 1024
    """Prompts of a batch (P)."""
    group_size: int = 8
    """Completions per prompt (G)."""
    workers: int = 2
    """Processes that judge in the second of the two ways; the first judges in this process."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderBenchmark(HostBenchmark):
    """Reading, tokenising and batching prompts from prepared shards; generated tasks are first written to such."""

    name: ClassVar[str] = "loader"

    batch: int = 64
    """Prompts per batch."""
    batches: int = 16
    """Batches per run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckerBenchmark(Benchmark):
    """Decoding and checking answers in Python to BFCL's questions, right and wrong ones, in one process."""

    name: ClassVar[str] = "checker"
    peers: ClassVar[tuple[str, ...]] = ("bfcl-eval",)

    bfcl: str
    """Folder of BFCL's question and answer files."""
    rows: int = 8000
    """Answers that are judged in a run."""
    peer_python: str | None = None
    """Interpreter that has the peer's package; null: this one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidateBenchmark(Benchmark):
    """The AST stage of preparation: raw rows, already read, are kept or dropped, in one process."""

    name: ClassVar[str] = "validate"

    rows: str
    """A file of raw rows, as scripts/prepare_data.py takes them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeBenchmark(Benchmark):
    """Chat completions over sockets, greedily, of generated tasks: all at once, and one after the other."""

    name: ClassVar[str] = "serve"

    model: str | None = None
    """A model directory; null is the seed model that ships with the package."""
    requests: int = 64
    """Requests of a run."""
    slots: int = 64
    """Completions decoded at once."""
    widths: tuple[int, ...] = ()
    """Numbers of slots that have programs of their own."""
    prompt_bucket: int = 192
    """Room for a prompt, in tokens; each request has to fit."""
    completion_length: int = 64
    """Tokens after which a completion is cut."""


def check_peers(settings: Benchmark, names: Sequence[str]):
    """Refuse a peer that a benchmark does not have, or that could not run these settings.

    Raises:
        InputError: and says what would be right.
    """
    for name in names:
        if name not in settings.peers:
            possible = f"possible: {', '.join(settings.peers)}" if settings.peers else "it has none"
            raise InputError(f"command line: --peer {name}: no such peer of {settings.name}; {possible}.")
    if names and isinstance(settings, RolloutBenchmark | LoopBenchmark):
        rollout = settings.rollout
        if rollout.top_k or rollout.top_p < 1:
            raise InputError(
                f"command line: --peer {','.join(names)}: peers draw from the whole distribution, but rollout.top_k is "
                f"{rollout.top_k} and rollout.top_p is {rollout.top_p}; right are 0 and 1."
            )
