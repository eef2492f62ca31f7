"""A run's folder and its life: claimed, checkpointed, resumed, measured and summed up; the same for RL and SFT."""

import json
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxfc.calls.parse import Syntax
from jaxfc.checkpoint import Checkpoints
from jaxfc.command import InputError, Preempted, dump
from jaxfc.completions import make_greedy
from jaxfc.config import Evaluation, Run
from jaxfc.constraints import Constraints
from jaxfc.data.example import Example
from jaxfc.data.pipeline import Batches, open_examples
from jaxfc.data.prompts import form_of
from jaxfc.decoding import make_steps
from jaxfc.draws import make_sampling
from jaxfc.engine import describe_prompts
from jaxfc.files import write_atomically
from jaxfc.metrics import Metrics
from jaxfc.processes import deal, exchange, from_writer
from jaxfc.programs import Programs, describe
from jaxfc.rewards import judge_completion
from jaxfc.sampler import compile_steps, make_sampler
from jaxfc.sharding import replicated
from jaxfc.types import Params, TrainState
from jaxfc.workspace import Workspace


class Clock:
    """Runs the phases of a step one after the other and says how long each took."""

    def __init__(self):
        self.totals: defaultdict[str, float] = defaultdict(float)
        """Phase -> seconds since the start."""
        self._lap: defaultdict[str, float] = defaultdict(float)

    def __call__(self, phase: str, function: Callable, *arguments):
        """`function(*arguments)`, awaited, its wall time added to the phase."""
        start = time.perf_counter()
        result = jax.block_until_ready(function(*arguments))
        seconds = time.perf_counter() - start
        self.totals[phase] += seconds
        self._lap[phase] += seconds
        return result

    def lap(self, *, trained: int, sampled: int = 0) -> dict[str, float]:
        """Metrics of the step that ends here: `time/<phase>` in seconds, `speed/*` in tokens per second.

        Args:
            trained: tokens of the prompts and completions that were trained on.
            sampled: tokens of the completions that were sampled.
        """
        lap, self._lap = self._lap, defaultdict(float)
        row = {f"time/{phase}": seconds for phase, seconds in lap.items()}
        if "rollout" in lap:
            row["speed/rollout_tokens_per_s"] = sampled / lap["rollout"]
        return row | {"speed/train_tokens_per_s": trained / lap["update"]}


VISIBLE_SECONDS = 30.0
"""After which a file that one process has written is seen by the others, if the folder is shared."""


class RunFolder:
    """`output/name`: config.yaml, checkpoints/, summary.json and whatever views are written beside them.

    Every process has one, of a folder that all of them see, and calls its methods at the same steps. One of them
    writes, but for checkpoints, to which each gives its part.
    """

    def __init__(self, config: Run, work: Workspace, kind: str):
        """Claim the folder for these settings.

        Raises:
            InputError: it holds a run with other settings; or the processes differ in settings, model or folder.
        """
        self.path, settings = Path(config.output) / config.name, dump(config)
        meta = {"kind": kind, "model": work.digest, "architecture": str(work.decoder.config)}
        _require_agreement(settings, meta)
        from_writer(lambda: _claim(self.path / "config.yaml", settings))
        _require_shared(self.path / "config.yaml")
        self._checkpoints = Checkpoints(self.path / "checkpoints", keep=config.keep, meta=meta)
        self._save_every, self._steps = config.save_every, config.steps

    def resume(self, state: TrainState, batches: Batches) -> tuple[int, TrainState, dict[str, Any]]:
        """Where to go on: the step, the state and the notes of the last checkpoint; else the beginning."""
        latest = self._checkpoints.latest()
        if latest is None:
            return 0, state, {}
        state, position = self._checkpoints.restore(latest, state)
        batches.set_state(position["data"])
        return latest, state, position["notes"]

    def log(self, first: int) -> Metrics:
        """The log of the run's numbers from step `first` on; a context manager."""
        log = Metrics(self.path, first, self._steps)
        exchange(None)  # If it cannot be opened, no process begins.
        return log

    def save(self, step: int, state: TrainState, batches: Batches, notes: Mapping[str, Any]):
        """Checkpoint after `step` steps if one is due.

        Raises:
            Preempted: the machine is about to be taken, and the checkpoint is complete; on all processes at one step.
        """
        exchange(None)  # If what belongs to the step could not be written, no process goes on.
        stop = self._checkpoints.reached_preemption(step)
        if stop or step == self._steps or step % self._save_every == 0:
            self._checkpoints.save(step, state, {"data": batches.get_state(), "notes": dict(notes)})
        if stop:
            self._checkpoints.finish()
            raise Preempted(f"{self.path}: stopped and saved after step {step}; the same command goes on from there.")

    def summarize(self, scores: Mapping[str, float], clock: Clock, programs: Programs) -> dict[str, int | float]:
        """Write `summary.json`, the figures that a run is quoted by, once its last checkpoint is complete.

        They are the scores before and after, the first and last `reward/mean` or `loss/total`, the seconds of each
        phase and the programs of the process that writes, how many were compiled after the first step, and its peak
        memory.
        """
        self._checkpoints.finish()
        return from_writer(lambda: self._summarize(scores, clock, programs))

    def _summarize(self, scores: Mapping[str, float], clock: Clock, programs: Programs) -> dict[str, int | float]:
        steps = [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]
        summary: dict[str, int | float] = dict(scores) | {"steps": len(steps)}
        for name in ("reward/mean", "loss/total"):
            if name in steps[0]:
                summary |= {f"{name}/first": steps[0][name], f"{name}/last": steps[-1][name]}
        used = resource.getrusage(resource.RUSAGE_SELF)
        summary |= {f"seconds/{phase}": seconds for phase, seconds in clock.totals.items()}
        summary |= {f"seconds/compile/{name}": seconds for name, seconds in programs.seconds.items()}
        summary |= {
            "speed/compiles": sum(int(row["speed/compiles"]) for row in steps[1:]),
            "memory/peak_rss_gib": used.ru_maxrss / 2**20,
            "cpu_seconds": used.ru_utime + used.ru_stime,
        }
        write_atomically(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")
        return summary


def _require_agreement(settings: str, meta: Mapping[str, str]):
    """Refuse processes that would do different things."""
    everywhere = exchange((settings, dict(meta)))
    first_settings, first_meta = everywhere[0]
    for process, (its_settings, its_meta) in enumerate(everywhere):
        if its_settings != first_settings:
            changed = _differences(first_settings, its_settings, f"on process {process}")
            raise InputError(f"process {process} has other settings than process 0 ({changed}); give all the same.")
        for name, value in its_meta.items():
            if value != first_meta[name]:
                raise InputError(
                    f"process {process} has another {name} than process 0 ({value}, not {first_meta[name]}); all "
                    "processes need the same."
                )


def _claim(path: Path, settings: str):
    """Write the settings of a run into its folder, unless it has others."""
    if path.is_file() and path.read_text() != settings:
        changed = _differences(path.read_text(), settings, "here")
        raise InputError(
            f"{path}: the folder holds a run with other settings ({changed}). "
            "Choose another name, or remove the folder to start again."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, settings)


def _differences(old: str, new: str, where: str) -> str:
    pairs = zip(old.splitlines(), new.splitlines(), strict=False)
    return "; ".join(f"{a.strip()} there, {b.strip()} {where}" for a, b in pairs if a != b) or "more or fewer of them"


def _require_shared(path: Path):
    """Refuse an output folder that not all processes see."""
    end = time.monotonic() + VISIBLE_SECONDS
    while not path.is_file() and time.monotonic() < end:
        time.sleep(0.2)
    blind = [process for process, sees in enumerate(exchange(path.is_file())) if not sees]
    if blind:
        raise InputError(
            f"{path.parent}: process 0 has written {path.name}, but process {blind[0]} (of {len(blind)}) does "
            "not see it; output has to be a folder that all hosts share."
        )


class HeldOut:
    """Greedy accuracy on examples that training does not see: how often the reward is 1."""

    def __init__(self, config: Evaluation, work: Workspace, programs: Programs):
        """Read the examples and compile the greedy sampler; with no data set there is nothing to measure."""
        self.examples, self.curve_examples = [], []
        if config.data is None:
            return
        source = open_examples(config.data)
        if len(source) < config.count:
            raise InputError(f"evaluation.count is {config.count}, but there are only {len(source)} examples.")
        self.examples = [source[index] for index in range(config.count)]
        self.curve_examples = self.examples[: config.curve_count]
        self._every = config.every
        self._greedy = make_greedy(
            _compile_sampler(config, work, programs),
            work.tokenizer,
            form_of(work.prompt),
            work.mesh,
            buckets=config.data.prompt_buckets,
            batch=config.batch,
            max_tokens=config.data.completion_length,
            constraints=Constraints(work.tokenizer, work.prompt) if config.constrain else None,
        )
        self._is_right = lambda text, example: (
            judge_completion(text.encode(errors="replace"), example, work.prompt, Syntax.STRICT).ok
        )

    def measure(self, params: Params, prefix: str) -> dict[str, float]:
        """`<prefix>/overall` and `<prefix>/<kind>` on all examples; empty without data."""
        return self._measure(params, self.examples, prefix)

    def curve_point(self, step: int, params: Params) -> dict[str, float]:
        """The same on the curve's examples, in the steps that have a point."""
        due = self.curve_examples and step % self._every == 0
        return self._measure(params, self.curve_examples, "eval") if due else {}

    def _measure(self, params: Params, examples: Sequence[Example], prefix: str) -> dict[str, float]:
        if not examples:
            return {}
        texts = self._greedy(params, examples)
        pairs = list(zip(texts, examples, strict=True))
        right = np.array(deal(lambda pair: pair[0] is not None and self._is_right(*pair), pairs))
        kinds = np.array([example.kind for example in examples])
        by_kind = {f"{prefix}/{kind}": float(right[kinds == kind].mean()) for kind in sorted(set(kinds)) if kind}
        return {f"{prefix}/overall": float(right.mean())} | by_kind


def _compile_sampler(config: Evaluation, work: Workspace, programs: Programs):
    length = config.data.completion_length
    steps = make_steps(work.decoder, work.mesh, group_size=1, length=length, vocabulary=work.vocabulary)

    def arguments(bucket: int):
        sampling = make_sampling(temperature=0.0, stop_tokens=(work.tokenizer.eos,), max_tokens=length)
        whole = describe((jax.random.key(0), sampling), replicated(work.mesh))
        return work.policy(work.trained), describe_prompts(config.batch, bucket, work.mesh), *whole

    steps = compile_steps(
        programs, "evaluate", steps, config.data.prompt_buckets, arguments, constrained=config.constrain
    )
    return make_sampler(steps, work.mesh)


def floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as numbers of the host."""
    return {name: float(value) for name, value in metrics.items()}
