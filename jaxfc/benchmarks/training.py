"""Policy updates: loss, gradient and optimizer on a batch of groups, by our learner and by that of google-tunix."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfc.benchmarks.limits import matmul_flops, measure_limits
from jaxfc.benchmarks.measure import alternate, figures, report
from jaxfc.benchmarks.peers import NO_TOKEN, GroupBatch, PeerTraining, TrainingPeer
from jaxfc.benchmarks.settings import TrainStepBenchmark, check_peers
from jaxfc.benchmarks.workload import (
    Subject,
    full_prompts,
    make_subject,
    peers_of,
    random_tokens,
)
from jaxfc.command import dump
from jaxfc.draws import make_sampling
from jaxfc.learner import make_optimizer, make_policy_step, make_score, make_state
from jaxfc.models.decoder import parameter_count
from jaxfc.sharding import place_replicated, place_rows
from jaxfc.types import Rollouts, Sampling, TokenScores, TrainBatch, TrainState

TEMPERATURE = 0.7


class Work(NamedTuple):
    """What every contestant updates on, on the host."""

    prompts: np.ndarray
    """[P, S]"""
    completions: np.ndarray
    """[B, T]"""
    advantages: np.ndarray
    """[B]"""


class Ours(NamedTuple):
    """Our update, ready to run."""

    state: TrainState
    batch: TrainBatch
    sampling: Sampling
    step: Callable
    """(state, batch, sampling) -> (state, metrics); the state is donated"""
    score: Callable
    """(params, rollouts, sampling) -> TokenScores"""
    rollouts: Rollouts


def make_work(settings: TrainStepBenchmark) -> Work:
    """Random prompts, completions and advantages."""
    rows = settings.prompts * settings.algorithm.group_size
    return Work(
        random_tokens(settings, settings.prompts, settings.prompt_length, 0),
        random_tokens(settings, rows, settings.new_tokens, 1),
        np.random.default_rng((settings.seed, 2)).normal(size=rows).astype(np.float32),
    )


def make_ours(settings: TrainStepBenchmark, subject: Subject, work: Work) -> Ours:
    """Our learner's step; old and reference log-probabilities are those of the weights that it starts from."""
    optimizer, vocabulary = make_optimizer(settings.optimizer), subject.config.vocab_size
    algorithm, mesh = settings.algorithm, subject.mesh
    step = make_policy_step(subject.decoder, optimizer, algorithm, mesh, vocabulary=vocabulary)
    parts = algorithm.updates * algorithm.micro_batches
    score = make_score(subject.decoder, mesh, vocabulary=vocabulary, micro_batches=parts)
    sampling = make_sampling(temperature=TEMPERATURE, stop_tokens=(NO_TOKEN,), max_tokens=settings.new_tokens)
    sampling = place_replicated(mesh, sampling)
    shape = work.completions.shape
    zeros = TokenScores(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    rest = work.completions, np.full(shape[0], shape[1], np.int32), np.zeros(shape[0], bool), zeros
    rollouts = Rollouts(full_prompts(subject, work.prompts), *place_rows(mesh, rest))
    old = score(subject.params, rollouts, sampling).logprobs
    advantages = place_rows(mesh, work.advantages)
    batch = TrainBatch(rollouts.prompts, rollouts.tokens, rollouts.lengths, old, old, advantages)
    return Ours(make_state(subject.decoder, subject.params, optimizer, mesh), batch, sampling, step, score, rollouts)


def our_contestant(ours: Ours) -> Callable[[int], Any]:
    """Update again and again; the state is handed on."""
    state = ours.state

    def run(_: int):
        nonlocal state
        state, metrics = ours.step(state, ours.batch, ours.sampling)
        return state, metrics

    return run


def peer_contestant(peer: TrainingPeer, work: Work) -> Callable[[int], Any]:
    """The same updates by another stack."""
    group = len(work.completions) // len(work.prompts)
    prompts = np.repeat(work.prompts, group, axis=0)
    old = jax.block_until_ready(peer.score(prompts, work.completions))
    batch = GroupBatch(prompts, work.completions, old, old, work.advantages)
    return lambda _: peer.update(batch)


@contextmanager
def contestants(settings: TrainStepBenchmark, names: Sequence[str]) -> Iterator[tuple[dict[str, Callable], dict]]:
    """Name -> update, and the peers among them."""
    subject, work = make_subject(settings, remat=settings.remat), make_work(settings)
    peers = [name for name in names if name != "jaxfc"]
    training = PeerTraining(TEMPERATURE, make_optimizer(settings.optimizer), settings.peer_remat)
    with peers_of(peers, subject, training) as others:
        runs = {name: peer_contestant(peer, work) for name, peer in others.items()}
        if "jaxfc" in names:
            runs = {"jaxfc": our_contestant(make_ours(settings, subject, work))} | runs
        yield runs, others


def benchmark_train_step(settings: TrainStepBenchmark, peers: Sequence[str] = ()) -> dict[str, Any]:
    """Run it; memory comes first, so that nothing else is in memory."""
    check_peers(settings, peers)
    memory = {name: measure_memory(settings, name) for name in ("jaxfc", *peers) if settings.memory}
    with contestants(settings, ("jaxfc", *peers)) as (runs, others):
        laps = alternate(runs, settings.runs)
    tokens = settings.prompts * (settings.prompt_length + settings.algorithm.group_size * settings.new_tokens)
    results = {name: figures(each, tokens=tokens) for name, each in laps.items()}
    for name, peer in others.items():
        results[name]["options"] = peer.options
    for name, figures_of_memory in memory.items():
        results[name] |= figures_of_memory
    results["jaxfc"] |= against_limit(settings, results["jaxfc"]["wall_s"]["median"])
    packages = [package for peer in others.values() for package in peer.packages]
    outcome = report(settings, results, packages)
    for name in others:
        if memory:
            outcome["ratios"][name] |= memory_ratios(memory["jaxfc"], memory[name])
    return outcome


def memory_ratios(ours: dict, theirs: dict) -> dict[str, float]:
    """Their memory over ours: above 1, ours is the less."""
    return {name: theirs[name] / ours[name] for name in ours}


def against_limit(settings: TrainStepBenchmark, seconds: float) -> dict[str, Any]:
    """FLOPs of the matrix products, and the part of the measured matmul rate of the devices that they reach.

    `model_flops` is three times the forward pass, as model-FLOPs utilisation counts; `program_flops` is what the
    update's program does, recomputation included. `program_extra_bytes` is what that program holds, by the compiler's
    count, beside its arguments and results, on one device.
    """
    subject = make_subject(settings, remat=settings.remat)
    ours = make_ours(settings, subject, make_work(settings))
    forward = matmul_flops(ours.score, subject.params, ours.rollouts, ours.sampling)
    arguments = ours.state, ours.batch, ours.sampling
    program = matmul_flops(ours.step, *arguments)
    rate = measure_limits(subject.decoder.dtype).matmul_flops_per_s * subject.mesh.size
    return {
        "parameters": parameter_count(subject.config),
        "model_flops": 3 * forward,
        "program_flops": program,
        "matmul_flops_per_s": rate,
        "fraction_of_limit": 3 * forward / rate / seconds,
        "program_fraction_of_limit": program / rate / seconds,
        "program_extra_bytes": ours.step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes,
    }


def measure_memory(settings: TrainStepBenchmark, contestant: str) -> dict[str, int]:
    """Memory of one contestant's update, in a fresh process; see `jaxfc.benchmarks.memory`.

    Raises:
        RuntimeError: that process failed; with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.yaml"
        path.write_text(dump(settings))
        command = [sys.executable, "-m", "jaxfc.benchmarks.memory", contestant, str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {contestant} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
