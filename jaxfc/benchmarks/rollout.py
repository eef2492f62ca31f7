"""Rollout: prompts in, completions of a fixed number of tokens out, by our sampler and by those of others."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfc.benchmarks.limits import decode_bytes, measure_limits
from jaxfc.benchmarks.measure import alternate, figures, report
from jaxfc.benchmarks.peers import Peer
from jaxfc.benchmarks.settings import RolloutBenchmark, check_peers
from jaxfc.benchmarks.workload import Subject, full_prompts, make_rollout, make_subject, peers_of, random_tokens
from jaxfc.engine import CACHE_TYPES
from jaxfc.models.decoder import parameter_count
from jaxfc.sampler import Effort


def benchmark_rollout(settings: RolloutBenchmark, peers: Sequence[str] = ()) -> dict[str, Any]:
    """Run it; `prefill` is the same with one token, so that the rest of the time is that of decoding."""
    check_peers(settings, peers)
    subject = make_subject(settings, weights=settings.weights)
    tokens = random_tokens(settings, settings.prompts, settings.prompt_length, 0)
    with peers_of(peers, subject) as others:
        efforts: list[Effort] = []
        runs = our_contestants(subject, settings, tokens, efforts)
        runs |= {name: peer_contestant(each, settings, tokens) for name, each in others.items()}
        laps = alternate(runs, settings.runs)
        rows = settings.prompts * settings.group_size
        prefill = figures(laps.pop("prefill"))
        results = {name: figures(each, tokens=rows * settings.new_tokens) for name, each in laps.items()}
        for name, peer in others.items():
            results[name]["options"] = peer.options
        packages = [package for peer in others.values() for package in peer.packages]
    results["jaxfc"] |= decoding(subject, settings, results["jaxfc"], prefill) | efforts[-1].metrics()
    parameters = parameter_count(subject.config)
    return report(settings, results, packages, parameters=parameters)


def our_contestants(subject: Subject, settings: RolloutBenchmark, tokens: np.ndarray, efforts: list[Effort]):
    """Our rollout, whole and with one token; what each took is added to `efforts`."""
    sizes = {"group_size": settings.group_size, "new_tokens": settings.new_tokens}
    rollout = make_rollout(subject, settings.rollout, **sizes)
    prompts = full_prompts(subject, tokens)

    def run(limit: int):
        def once(number: int):
            rollouts, effort = rollout(subject.params, prompts, number, limit)
            efforts.append(effort)
            lengths = np.asarray(jax.device_get(rollouts.lengths))
            if (lengths != limit).any():
                raise RuntimeError(f"a completion has {lengths.min()} tokens; {limit} were to be sampled.")
            return rollouts

        return once

    # The whole comes last, and so does its effort.
    return {"prefill": run(1), "jaxfc": run(settings.new_tokens)}


def peer_contestant(peer: Peer, settings: RolloutBenchmark, tokens: np.ndarray):
    """The same by another stack."""
    shape = (settings.prompts * settings.group_size, settings.new_tokens)

    def once(number: int):
        completions = peer.sample(
            tokens,
            group_size=settings.group_size,
            new_tokens=settings.new_tokens,
            temperature=settings.rollout.temperature,
            seed=number,
        )
        if completions.shape != shape:
            raise RuntimeError(f"a peer sampled {completions.shape}; {shape} is the workload.")

    return once


def decoding(subject: Subject, settings: RolloutBenchmark, whole: dict, prefill: dict) -> dict[str, Any]:
    """Decoding alone, against what reading its bytes would take at the measured copy bandwidth of the devices.

    The limit is that of one token a step: drafts may beat it, and so may a CPU whose own caches hold the model.
    """
    seconds = whole["wall_s"]["median"] - prefill["wall_s"]["median"]
    steps = settings.new_tokens - 1
    needed = decode_bytes(
        subject.config,
        prompts=settings.prompts,
        group_size=settings.group_size,
        prompt_length=settings.prompt_length,
        steps=steps,
        weight=jax.tree.leaves(subject.params)[0].dtype.itemsize,
        cache=jnp.dtype(CACHE_TYPES[settings.rollout.cache] or subject.decoder.dtype).itemsize,
    )
    limits = measure_limits(subject.decoder.dtype)
    bandwidth = limits.copy_bytes_per_s * subject.mesh.size
    return {
        "prefill": prefill,
        "decode_s": seconds,
        "decode_tokens_per_s": settings.prompts * settings.group_size * steps / seconds,
        "decode_bytes": needed,
        "copy_bytes_per_s": limits.copy_bytes_per_s,
        "fraction_of_limit": needed / bandwidth / seconds,
    }
