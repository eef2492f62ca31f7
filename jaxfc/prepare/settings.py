"""Prepare: every setting of the preparation of a dataset."""

import dataclasses

from jaxfc.data.judging.judge import JudgeSettings
from jaxfc.data.overlap import Overlap
from jaxfc.data.repeats import Repeats
from jaxfc.data.sources.source import Source
from jaxfc.data.tasks import SPLITS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generated:
    """How many generated tasks are added to each split."""

    seed: int = 0
    """Of the generator."""
    train: int = 0
    """Tasks in `train`."""
    tune: int = 0
    """Tasks in `tune`, whose tools and values neither of the other splits has."""
    held_out: int = 0
    """Tasks in `held_out`, with tools and values that `train` does not have."""

    def __post_init__(self):
        for split in SPLITS:
            if getattr(self, split) < 0:
                raise ValueError(f"tasks.{split} is {getattr(self, split)}; a number of tasks is at least 0.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beam:
    """How the stages run as Apache Beam transforms (pip install jaxfc[beam])."""

    runner: str = "DirectRunner"
    """The runner, as Beam names it: DirectRunner (this process), DataflowRunner, FlinkRunner, SparkRunner."""
    options: tuple[str, ...] = ()
    """Options of the runner, as Beam's command line has them: --project=mine, --region=europe-west4."""
    staging: str | None = None
    """A folder that all machines reach (gs://bucket/folder, or a shared disk), for their files; null is for runners
    that work on this machine alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepare:
    """How rows become a dataset: read, judge, AST, final judge, repeats, overlap, split, write."""

    sources: tuple[Source, ...] = ()
    """Where rows come from, one after the other; --input adds files."""
    judge: JudgeSettings | None = None
    """The language model that judges answers before and after the AST stage; null leaves both stages out."""
    ast: bool = True
    """Hold each row against its own tools, and mend what can be mended; false takes rows as they are."""
    repeats: Repeats | None = dataclasses.field(default_factory=Repeats)
    """Which repeats are dropped; null leaves the stage out."""
    overlap: Overlap | None = None
    """What is held against evaluation files; null leaves the stage out."""
    held_out: float = 0.05
    """About which part of all tools is held out: rows that call them form the split `held_out`. 0 leaves the stage out:
    all rows are in `train`."""
    seed: int = 0
    """Decides which tools are held out."""
    tasks: Generated | None = None
    """Generated tasks to add; null adds none."""
    beam: Beam | None = None
    """How to run past one process; null works here, a row at a time."""
    shard_megabytes: float = 256.0
    """A shard ends with the example that reaches this size, before compression (1 MB = 10^6 bytes)."""

    def __post_init__(self):
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}; it is a part of all tools, at least 0 and below 1.")
        if self.shard_megabytes <= 0:
            raise ValueError(f"shard_megabytes is {self.shard_megabytes}; a shard has more than 0.")
