"""Every setting of a run, explained where it is declared."""

import dataclasses
import math
from typing import Literal

from jaxfc.algorithm import Algorithm
from jaxfc.variants import require

Remat = Literal["none", "attention", "dots", "layer"]
"""Policies of rematerialisation, from most memory to least; `models/decoder.py` has them."""

FUNRL_SYSTEM = """\
You are an expert in composing functions. You are given a question and a set of functions, and you answer the \
question by calling the functions that it needs, once or several times.
If none of the functions fits the question, or the question lacks a parameter that a function requires, make no call: \
leave the list of calls empty.

Here are the functions that you may call, as JSON, one per line:
{tools}

In a single reply do both of the following:
1. Reason about which functions to call, with which arguments, between <think> and </think>.
2. Then give {answer_rule}: a Python list of calls, each with keyword arguments only. An empty list \
means that no function is called.

The reply looks like this:
{skeleton}

Mind the type of each argument: text is quoted, numbers are not, booleans are True or False, lists are in brackets."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """How an example becomes a prompt, and what a reply must look like."""

    system: str = FUNRL_SYSTEM
    """System message. `{tools}` is replaced by the tools; `{answer_rule}` and `{skeleton}` by the reply's form."""
    tools: Literal["json", "signatures"] = "json"
    """How tools are written: JSON Schema, one object a line, or one short signature a line."""
    wrapper: Literal["tags", "bare"] = "tags"
    """`tags`: the calls stand in <answer></answer> after the think block; `bare`: the list follows it directly."""
    opens_think: bool = False
    """The prompt ends with <think>, so that a completion starts inside the think block."""

    def __post_init__(self):
        if "{tools}" not in self.system:
            raise ValueError("prompt.system has no {tools}, so no prompt would show its tools.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """Several completions of each example, for pass@k."""

    count: int = 8
    """Completions of each example (n)."""
    temperature: float = 0.8
    """They are drawn at."""
    seed: int = 0
    """Of the random numbers."""

    def __post_init__(self):
        if self.count < 2:
            raise ValueError(f"samples.count is {self.count}; pass@k needs at least 2 completions of each example.")
        if not self.temperature > 0:
            raise ValueError(f"samples.temperature is {self.temperature}; at 0 all completions would be equal.")

    @property
    def pass_at(self) -> tuple[int, ...]:
        """The k of pass@k: 1, 2, 4, ... and n."""
        powers = (1 << bit for bit in range(self.count.bit_length()))
        return tuple(dict.fromkeys([*powers, self.count]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Create:
    """A new model: random weights, and a tokenizer trained on generated tasks."""

    width: int = 128
    """Width of the residual stream."""
    hidden_width: int = 256
    """Width inside the MLP."""
    layers: int = 4
    """Layers."""
    heads: int = 4
    """Query heads."""
    kv_heads: int = 2
    """Key-value heads."""
    vocabulary: int = 512
    """Tokens of the tokenizer, the 256 bytes and the tags included."""
    tokenizer_tasks: int = 4000
    """Generated tasks whose texts the tokenizer is trained on."""
    seed: int = 0
    """Of the weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The model that a run starts from."""

    path: str | None = None
    """A Hugging Face directory: config.json, safetensors, tokenizer with a chat template."""
    architecture: str | None = None
    """Name of the architecture that the model must have, such as qwen2.5-coder-7b; null takes any. scripts/plan.py goes
    by it where the directory is not at hand."""
    create: Create | None = None
    """A new model instead (supervised training on generated tasks)."""
    compute: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of matrix products; auto is bfloat16 on accelerators and float32 on CPU. Parameters are float32."""
    remat: Remat = "none"
    """What the backward pass computes again to save memory: nothing; the scores of attention; all but the products with
    weights; or each layer whole, about a third more work."""

    def __post_init__(self):
        if (self.path is None) == (self.create is None):
            raise ValueError("model needs either path (a model directory) or create (a new one), and not both.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """How many devices each axis of the mesh has; their product is the number of devices attached."""

    data: int = 1
    """Replicas of the parameters; each sees its part of the batch."""
    fsdp: int = 1
    """Parts into which parameters, optimizer state and the batch are split."""
    tensor: int = 1
    """Parts into which heads, hidden width and vocabulary are split; several may share one key-value head."""

    def __post_init__(self):
        for axis, size in dataclasses.asdict(self).items():
            if size < 1:
                raise ValueError(f"mesh.{axis} is {size}; an axis has at least 1 device.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Careless:
    """How often the teacher of generated tasks makes each fault of real data."""

    invented_call: float = 0.7
    """A query that no tool can serve is answered with a call all the same."""
    lost_call: float = 0.65
    """Of several requests the last is forgotten."""
    quoted_numbers: float = 0.4
    """The numbers of a call are written as text."""
    dropped_argument: float = 0.1
    """The last argument of a call is forgotten."""
    after: int = 0
    """Tasks of a lower index are answered rightly; with `data.shuffle: false` a clean phase comes first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tasks:
    """Generated tasks, made as they are read."""

    count: int
    """How many different tasks; past them the set repeats."""
    seed: int = 0
    """Of the generator."""
    split: Literal["train", "tune", "held_out"] = "train"
    """Tools and values of the splits do not overlap."""
    careless: Careless | None = None
    """None: the answers are right. Set it and they have the faults of a careless teacher (for supervised training)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassRate:
    """Which examples are read, by the part of a given model's completions that was right (`measure_difficulty.py`)."""

    at_least: float = 0.0
    """Leave out what the model does more rarely than that: it may be too hard, or its answer wrong."""
    at_most: float = 1.0
    """Leave out what the model does more often than that: there is nothing left to learn."""

    def __post_init__(self):
        if not 0 <= self.at_least <= self.at_most <= 1:
            raise ValueError(
                f"data.pass_rate is {self.at_least} to {self.at_most}; right are 0 <= at_least <= at_most <= 1."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Where examples come from, and the shapes that they are padded to."""

    path: str | None = None
    """A folder made by scripts/prepare_data.py."""
    split: str = "train"
    """Which split of that folder."""
    tasks: Tasks | None = None
    """Generated tasks instead of a folder."""
    pass_rate: PassRate | None = None
    """Leave out examples that are too hard or too easy; null reads all. The folder has to have measured them."""
    shuffle: bool = True
    """Read in shuffled order, each epoch anew; else in the order of the source."""
    prompt_buckets: tuple[int, ...] = (512, 1024, 2048)
    """Lengths that prompts are padded to, in tokens. A longer prompt is left out and counted."""
    completion_length: int = 256
    """Room for a completion, in tokens, the one that ends it included."""

    def __post_init__(self):
        if (self.path is None) == (self.tasks is None):
            raise ValueError("data needs either path (a prepared folder) or tasks (generated), and not both.")
        if self.pass_rate is not None and self.tasks is not None:
            raise ValueError("data.pass_rate is set, but generated tasks have none; leave one of the two out.")
        if not self.prompt_buckets or list(self.prompt_buckets) != sorted(set(self.prompt_buckets)):
            raise ValueError(f"data.prompt_buckets is {self.prompt_buckets}; give rising lengths such as [512, 1024].")
        if self.prompt_buckets[0] < 2 or self.completion_length < 2:
            raise ValueError("data.prompt_buckets and data.completion_length need at least 2 tokens.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draft:
    """Speculation: the next tokens are copied from where the last ones stood before, and verified all at once.

    It changes how fast completions are sampled, and nothing of what is sampled.
    """

    tokens: int = 4
    """Tokens drafted, verified in one step of the decoder."""
    match: int = 1
    """Tokens that must agree at least; of several places the one where most agree is copied."""
    pays_above: float = 1.3
    """Tokens sampled per slot and step below which drafts are given up for the rest of a batch."""

    def __post_init__(self):
        if self.tokens < 1 or self.match < 1 or self.pays_above < 1:
            raise ValueError(
                f"rollout.draft has tokens {self.tokens}, match {self.match}, pays_above {self.pays_above}; each is at "
                "least 1 (draft=null is no speculation)."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constrain:
    """Hold answers to calls of the offered tools that parse; the chain of thought stays free. Needs llguidance."""

    masks: int = 256
    """Different masks that the completions of one prompt may need together, each of one bit per token. Where there are
    more, an answer is cut (`constrain/cut`); `constrain/masks` is what the greediest prompt needed."""

    def __post_init__(self):
        require("rollout.constrain", masks=(self.masks, self.masks >= 2, "at least 2"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
    """How completions are sampled."""

    temperature: float = 0.7
    """0 is greedy, which training refuses: equal rollouts have no advantage."""
    top_k: int = 0
    """Draw among the k likeliest tokens; 0 is all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this probability."""
    slots: int | None = None
    """Completions decoded at once, on all devices together; as one ends the next begins. null is the whole batch."""
    cache: Literal["compute", "bfloat16", "int8"] = "compute"
    """Type of keys and values while sampling; `compute` is that of the products. The trainer's are not rounded."""
    draft: Draft | None = None
    """null samples one token per completion and step."""
    constrain: Constrain | None = None
    """null lets the model write what it will."""

    def __post_init__(self):
        if self.slots is not None and self.slots < 1:
            raise ValueError(f"rollout.slots is {self.slots}; at least 1 completion is decoded at once.")
        if self.draft is not None and self.constrain is not None:
            raise ValueError(
                "rollout.draft and rollout.constrain are both set, but a grammar is asked before each token, so that "
                "none can be drafted; leave one of the two out."
            )
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"rollout has temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p}; right are "
                "temperature >= 0, top_k >= 0 and 0 < top_p <= 1."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Muon:
    """Muon for the matrices of the layers; the rest stays with AdamW."""

    learning_rate: float = 0.02
    """Peak, on the same schedule as AdamW's."""

    def __post_init__(self):
        require("optimizer.muon", learning_rate=(self.learning_rate, self.learning_rate > 0, "above 0"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW, gradient clipping and the learning-rate schedule."""

    learning_rate: float = 1e-6
    """Peak rate."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.999
    """Decay of the second moment."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    clip_norm: float = 1.0
    """Largest global norm of a gradient."""
    warmup_steps: int = 0
    """Updates of linear warm-up."""
    decay_steps: int = 0
    """Updates until the end of a cosine decay, warm-up included; 0 keeps the rate constant."""
    final_fraction: float = 0.1
    """Rate at the end of the decay, as a part of the peak."""
    muon: Muon | None = None
    """null is AdamW for all parameters."""
    moments: Literal["float32", "bfloat16", "int8"] = "float32"
    """Type of the optimizer's moments. int8 is for matrices: a scale for every 32 numbers, the rest stays float32."""

    def __post_init__(self):
        require(
            "optimizer",
            learning_rate=(self.learning_rate, self.learning_rate > 0, "above 0"),
            beta1=(self.beta1, 0 <= self.beta1 < 1, "at least 0 and below 1"),
            beta2=(self.beta2, 0 <= self.beta2 < 1, "at least 0 and below 1"),
            weight_decay=(self.weight_decay, self.weight_decay >= 0, "at least 0"),
            clip_norm=(self.clip_norm, self.clip_norm > 0, "above 0"),
            warmup_steps=(self.warmup_steps, self.warmup_steps >= 0, "at least 0"),
            decay_steps=(self.decay_steps, self.decay_steps >= 0, "at least 0"),
            final_fraction=(self.final_fraction, 0 <= self.final_fraction <= 1, "between 0 and 1"),
        )
        if self.decay_steps and self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"optimizer.decay_steps is {self.decay_steps} and counts the {self.warmup_steps} warmup_steps in, so "
                "nothing is left to decay in; give more of them, or 0 for a constant rate."
            )


Target = Literal["q", "k", "v", "o", "gate", "up", "down"]
"""The matrices of a layer: of attention, and of the MLP."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora:
    """Train low-rank adapters A B beside frozen matrices W: x (W + scale A B). LoRA, arXiv 2106.09685."""

    rank: int = 16
    """Width of the adapters."""
    alpha: float = 32.0
    """Numerator of the scale."""
    scale_by: Literal["rank", "sqrt_rank"] = "rank"
    """Denominator of the scale: the rank; or its root, so that high ranks learn as fast (rsLoRA, arXiv 2312.03732)."""
    targets: tuple[Target, ...] = ("q", "k", "v", "o", "gate", "up", "down")
    """The matrices that have one."""
    seed: int = 0
    """Of the first A; the first B is 0."""
    start: str | None = None
    """A PEFT directory to go on from, of this rank, scale and targets; null starts anew. A KL is still to the base."""
    merged: bool = False
    """Leave the whole model with the adapters added in (`model/`) beside the adapters (`adapter/`)."""

    def __post_init__(self):
        require("lora", rank=(self.rank, self.rank >= 1, "at least 1"), alpha=(self.alpha, self.alpha > 0, "above 0"))
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"lora.targets is {list(self.targets)}; name at least one matrix, and each once.")

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied with."""
        return self.alpha / (self.rank if self.scale_by == "rank" else math.sqrt(self.rank))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reward:
    """What a completion is worth: 1 when its form and its calls are right, else 0."""

    lenient: bool = False
    """Parse answers as BFCL does, instead of refusing positional arguments, bare names and the like."""
    shuffled: bool = False
    """A control experiment: deal the rewards of a batch out at random. Nothing can be learned from them."""
    workers: int = 0
    """Processes that check completions while others are sampled; 0 checks them in the training process."""
    deadline: float = 5.0
    """Seconds that checking a completion may take, after which its worker process is replaced and it is wrong. The
    parser's limits keep checks far below; with 0 workers there is no process to replace, and no deadline."""

    def __post_init__(self):
        if self.workers < 0 or not self.deadline > 0:
            raise ValueError(
                f"reward has workers {self.workers}, deadline {self.deadline}; right are workers >= 0, deadline > 0."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Greedy accuracy on examples that training does not see."""

    data: Data | None = None
    """The examples; null evaluates nothing."""
    count: int = 400
    """How many of them."""
    curve_count: int = 0
    """How many for the accuracy curve during training; 0 draws none."""
    every: int = 10
    """Steps between points of that curve."""
    batch: int = 64
    """Prompts decoded together."""
    constrain: bool = False
    """Hold answers to calls of the offered tools that parse, as `rollout.constrain` does."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What every training run has."""

    name: str
    """The run's folder is `output`/`name`."""
    output: str = "runs"
    """Where runs are kept."""
    seed: int = 0
    """Of data order and sampling."""
    steps: int = 500
    """Rollout batches (RL) or updates (SFT)."""
    batch: int = 64
    """Prompts per step."""
    save_every: int = 50
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints kept."""
    compile_cache: str | None = "~/.cache/jaxfc"
    """Folder where compiled programs are kept for later runs, of which only the owner may write; null keeps none.
    JAX_COMPILATION_CACHE_DIR in the environment goes before it."""
    model: Model
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    data: Data
    prompt: Prompt | None = None
    """null: the one saved with the model (`prompt.yaml`), else the paper's."""
    lora: Lora | None = None
    """null trains all parameters."""
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)

    def __post_init__(self):
        shards = self.mesh.data * self.mesh.fsdp
        if self.batch % shards:
            raise ValueError(
                f"batch is {self.batch} prompts, which mesh data={self.mesh.data} x fsdp={self.mesh.fsdp} cannot "
                f"split evenly; {self.batch // shards * shards or shards} would do."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainRL(Run):
    """Reinforcement learning: EGPO or GRPO."""

    rollout: Rollout = dataclasses.field(default_factory=Rollout)
    algorithm: Algorithm = dataclasses.field(default_factory=Algorithm)
    reward: Reward = dataclasses.field(default_factory=Reward)
    record_every: int = 10
    """Steps between samples of rollouts that are written out."""
    record_prompts: int = 4
    """Prompts (whole groups) in each of them."""

    def __post_init__(self):
        super().__post_init__()
        parts = self.algorithm.updates * self.algorithm.micro_batches * self.mesh.data * self.mesh.fsdp
        if self.batch % parts:
            raise ValueError(
                f"batch is {self.batch} prompts, but updates x micro_batches x data x fsdp = {parts} parts need a "
                f"multiple of {parts}."
            )
        overlong, room = self.algorithm.overlong, self.data.completion_length
        if overlong is not None and overlong.buffer > room:
            raise ValueError(
                f"algorithm.overlong.buffer is {overlong.buffer} tokens, but completions have room for {room} "
                "(data.completion_length); the buffer is at most that."
            )
        if self.rollout.temperature == 0:
            raise ValueError("rollout.temperature is 0: all rollouts of a group would be equal; 0.7 to 1 is usual.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSFT(Run):
    """Supervised training on the accepted answers."""

    micro_batches: int = 1
    """Parts in which an update's gradient is added up."""

    def __post_init__(self):
        super().__post_init__()
        parts = self.micro_batches * self.mesh.data * self.mesh.fsdp
        if self.batch % parts:
            raise ValueError(f"batch is {self.batch} prompts; micro_batches x data x fsdp needs a multiple of {parts}.")
