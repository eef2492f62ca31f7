"""Whole RL steps: rollout, scores by policy and reference, advantages, update; by the engine of a run and by a peer."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfc.advantages import group_advantages
from jaxfc.benchmarks.measure import WARM_UPS, alternate, figures, report
from jaxfc.benchmarks.peers import NO_TOKEN, GroupBatch, PeerTraining, TrainingPeer
from jaxfc.benchmarks.settings import LoopBenchmark, check_peers
from jaxfc.benchmarks.workload import Subject, full_prompts, make_subject, peers_of, random_tokens
from jaxfc.config import Data, Model, Prompt, Tasks, TrainRL
from jaxfc.engine import compile_engine, start
from jaxfc.learner import make_optimizer, train_batch
from jaxfc.models.decoder import parameter_count
from jaxfc.programs import Programs
from jaxfc.run import Clock
from jaxfc.sharding import fetch, place_rows
from jaxfc.workspace import Workspace, step_key


class NeverEnds(NamedTuple):
    """What the engine asks of a tokenizer; its end token never comes."""

    vocabulary: int
    eos: int = NO_TOKEN


def benchmark_loop(settings: LoopBenchmark, peers: Sequence[str] = ()) -> dict[str, Any]:
    """Run it. Rewards are coin tosses of the step's number: judging has a benchmark of its own, `calls`."""
    check_peers(settings, peers)
    subject = make_subject(settings, remat=settings.remat)
    prompts = random_tokens(settings, settings.prompts, settings.prompt_length, 0)
    training = PeerTraining(settings.rollout.temperature, make_optimizer(settings.optimizer), settings.peer_remat)
    with peers_of(peers, subject, training) as others:
        clocks = {name: PhaseClock() for name in ("jaxfc", *others)}
        runs = {"jaxfc": our_step(settings, subject, prompts, clocks["jaxfc"])}
        for name, peer in others.items():
            runs[name] = peer_step(settings, peer, prompts, clocks[name])
        laps = alternate(runs, settings.runs)
    tokens = settings.prompts * settings.algorithm.group_size * settings.new_tokens
    results = {name: figures(each, tokens=tokens) | {"phase_s": clocks[name].medians()} for name, each in laps.items()}
    for name, peer in others.items():
        results[name]["options"] = peer.options
    packages = [package for peer in others.values() for package in peer.packages]
    parameters = parameter_count(subject.config)
    return report(settings, results, packages, parameters=parameters)


class PhaseClock:
    """Wall seconds of each phase of each step."""

    def __init__(self):
        self._clock = Clock()
        self._steps: defaultdict[str, list[float]] = defaultdict(list)

    def __call__(self, phase: str, function: Callable, *arguments):
        """`function(*arguments)`, awaited, its time added to the phase."""
        return self._clock(phase, function, *arguments)

    def lap(self):
        """The step ends here."""
        for phase, seconds in self._clock.totals.items():
            self._steps[phase].append(seconds - sum(self._steps[phase]))

    def medians(self) -> dict[str, float]:
        """Phase -> median seconds, without the warm-ups."""
        return {phase: float(np.median(seconds[WARM_UPS:])) for phase, seconds in self._steps.items()}


def toss(settings: LoopBenchmark, number: int) -> np.ndarray:
    """Rewards [P, G] of 0 or 1."""
    shape = (settings.prompts, settings.algorithm.group_size)
    return np.random.default_rng((settings.seed, 3, number)).integers(0, 2, shape).astype(np.float32)


def our_step(settings: LoopBenchmark, subject: Subject, tokens: np.ndarray, clock: PhaseClock) -> Callable[[int], Any]:
    """One step of `jaxfc.train`, with the engine that it compiles."""
    config = TrainRL(
        name="benchmark",
        batch=settings.prompts,
        model=Model(path="random weights"),
        data=Data(
            tasks=Tasks(count=1),
            prompt_buckets=(settings.prompt_length,),
            completion_length=settings.new_tokens,
        ),
        rollout=settings.rollout,
        algorithm=settings.algorithm,
        optimizer=settings.optimizer,
    )
    mesh = subject.mesh
    tokenizer = NeverEnds(subject.config.vocab_size)
    work = Workspace(Path(), mesh, tokenizer, Prompt(), subject.decoder, subject.params, digest="")
    state, sampling = start(config, work)
    engine = compile_engine(config, work, state, sampling, Programs())
    # Each token may be one of the chain of thought.
    cot_mask = np.ones((settings.prompts * settings.algorithm.group_size, settings.new_tokens), bool)

    def step(number: int):
        nonlocal state
        prompts = full_prompts(subject, tokens)
        key = step_key(mesh, settings.seed, number, "rollout")
        rollouts, _ = clock("rollout", engine.sample, state.params, prompts, key, sampling)
        if (fetch(rollouts.lengths) != settings.new_tokens).any():
            raise RuntimeError(f"not all completions have the {settings.new_tokens} tokens of the workload.")
        old = clock("score", engine.old, state.params, rollouts, sampling)
        reference = clock("score", engine.reference, subject.params, rollouts, sampling)
        given = place_rows(mesh, (toss(settings, number), cot_mask))
        credit, _ = engine.credit(*given, rollouts.lengths, rollouts.scores, old, key)
        update = train_batch(rollouts, old, reference, credit)
        state, metrics = clock("update", engine.update, state, update, sampling, work.frozen)
        clock.lap()
        return state, metrics

    return step


def peer_step(
    settings: LoopBenchmark, peer: TrainingPeer, tokens: np.ndarray, clock: PhaseClock
) -> Callable[[int], Any]:
    """The same step by another stack: as many rollouts, both scores, one update on all of them."""
    group = settings.algorithm.group_size
    prompts = np.repeat(tokens, group, axis=0)

    def sample(number: int) -> np.ndarray:
        return peer.sample(
            tokens,
            group_size=group,
            new_tokens=settings.new_tokens,
            temperature=settings.rollout.temperature,
            seed=number,
        )

    def step(number: int):
        completions = clock("rollout", sample, number)
        old = clock("score", peer.policy_score, prompts, completions)
        reference = clock("score", peer.score, prompts, completions)
        advantages = np.asarray(group_advantages(jnp.asarray(toss(settings, number)))).reshape(-1)
        batch = GroupBatch(prompts, completions, old, reference, advantages)
        done = clock("update", peer.update, batch)
        clock.lap()
        return jax.block_until_ready(done)

    return step
