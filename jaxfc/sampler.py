"""Prompts -> Rollouts: the host's loop around the compiled steps of decoding."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, UInt32

from jaxfc.constraints import ANYTHING, Constrained, Recorded
from jaxfc.decoding import Decoding, Steps, Until, begin_rollouts
from jaxfc.programs import Compiler, describe
from jaxfc.sharding import held, place_held, place_replicated
from jaxfc.types import Params, Prompts, Sampling

PROBE_TICKS = 8
"""Length of the first advance with drafts, after which the host looks whether they pay."""
REPORTS = 8
"""Into about how many parts completions are handed over as they finish."""
NO_LIMIT = 2**30


class Effort(NamedTuple):
    """What a rollout batch took."""

    ticks: int
    """Steps of the decoder."""
    slot_ticks: int
    """Steps x slots."""
    busy: int
    """Steps x slots, those without a completion left out."""
    tokens: int
    """Tokens sampled."""

    def metrics(self) -> dict[str, float]:
        """`speed/slot_occupancy`, part of the slots with a completion; `speed/tokens_per_tick`, 1 without drafts."""
        return {
            "speed/slot_occupancy": self.busy / max(self.slot_ticks, 1),
            "speed/tokens_per_tick": self.tokens / max(self.busy, 1),
        }


def make_sampler(steps: Steps, mesh: Mesh):
    """Make `(params, prompts, key, sampling, finished=None, constrained=None) -> (Rollouts, Effort)`.

    What is sampled depends on parameters, prompts, key and sampling alone: not on the number of slots, not on drafts,
    not on the order in which completions end (but for rounding, which differs with the shape of a product).

    Args of the function it makes:
        params: parameters of the policy.
        prompts: P of them, on the mesh.
        key: its random numbers are those of completion and position.
        sampling: see `types.Sampling`.
        finished: is given completions as they end, while others are still being decoded:
            `finished(rows [n], tokens [n, T], lengths [n], ended [n])`, as NumPy arrays, each row once, in any order.
            On several processes each is given those on its own devices, and rows count among these (`sharding.held`);
            so they do for `constrained`.
        constrained: holds the answers to a grammar, and is asked for masks before each token. If it records them,
            the rollouts have them.
    """

    def sample(
        params: Params,
        prompts: Prompts,
        key,
        sampling: Sampling,
        finished: Callable | None = None,
        constrained: Constrained | Recorded | None = None,
    ):
        layers = (place_replicated(mesh, np.int32(layer)) for layer in range(steps.layers))
        weights, decoding = begin_rollouts(steps, params, prompts, layers)
        count, slots = decoding.output.finished.size, decoding.slots.completion.size
        news = NO_LIMIT if finished is None else -(-count // REPORTS)
        drafting, probing = steps.advance_drafting is not None, PROBE_TICKS
        reported, report = np.False_, None
        efforts, done, admits = [], False, True
        while not done:
            while admits:
                decoding, admits = steps.admit(weights, prompts, decoding)
                admits = bool(admits)
            allowed = () if constrained is None else (_masks(constrained, decoding, steps.mask_words, mesh),)
            ticks = 1 if allowed else probing if drafting else NO_LIMIT
            until = place_replicated(mesh, Until(np.int32(ticks), np.int32(news)))
            advance = steps.advance_drafting if drafting else steps.advance
            decoding, progress = advance(weights, prompts, decoding, key, sampling, until, *allowed)
            if report is not None:
                finished(*report)  # While the devices decode.
            done, admits, work = jax.device_get((progress.done, progress.admits, progress.work))
            efforts.append(Effort(int(work.ticks), int(work.ticks) * slots, int(work.busy), int(work.tokens)))
            if drafting:
                drafting, probing = efforts[-1].tokens > steps.drafts.pays_above * efforts[-1].busy, NO_LIMIT
            if finished is not None:
                ended = held(decoding.output.finished).reshape(-1)
                report = _completions(decoding, np.flatnonzero(ended & ~reported))
                reported = ended | reported
        if report is not None:
            finished(*report)
        rollouts = steps.end(decoding, prompts)
        if isinstance(constrained, Recorded):
            rollouts = rollouts._replace(allowed=place_held(mesh, constrained.allowed()))
        return rollouts, Effort(*map(sum, zip(*efforts, strict=True)))

    return sample


def _masks(constrained: Constrained | Recorded, decoding: Decoding, words: int, mesh: Mesh) -> UInt32[Array, "n m W"]:
    """What each slot may draw next; a process says so of the slots on its devices."""
    slots = decoding.slots
    completion, lengths, last = held((slots.completion, slots.length, decoding.inputs))
    shards, count = len(completion), decoding.output.finished.shape[1]
    busy = completion < count
    rows = (np.arange(shards)[:, None] * count + completion)[busy]
    masks = np.full((*busy.shape, words), ANYTHING)
    masks[busy] = constrained.masks(rows, lengths[busy], last[busy])
    return place_held(mesh, masks)


def compile_steps(
    programs: Compiler,
    name: str,
    steps: Steps,
    buckets: Sequence[int],
    arguments: Callable,
    *,
    constrained: bool = False,
) -> Steps:
    """Compile the steps for every bucket of prompts.

    Args:
        programs: where they are listed.
        name: under which.
        steps: made by `make_steps`.
        buckets: lengths of prompts.
        arguments: bucket -> (params, prompts, key, sampling), as arrays or their descriptions.
        constrained: whether completions will be.
    """

    def begun(bucket: int):
        params, prompts, *_ = arguments(bucket)
        shapes = jax.eval_shape(functools.partial(begin_rollouts, steps, layers=range(steps.layers)), params, prompts)
        return jax.tree.map(lambda sharding, part: describe(part, sharding), steps.placement, shapes), prompts

    def admit_at(bucket: int):
        (weights, decoding), prompts = begun(bucket)
        return weights, prompts, decoding

    def advance_at(bucket: int):
        _, _, key, sampling = arguments(bucket)
        until = describe(Until(np.int32(0), np.int32(0)), key.sharding)
        weights, prompts, decoding = admit_at(bucket)
        slots = jax.ShapeDtypeStruct(
            (*decoding.inputs.shape, steps.mask_words), np.uint32, sharding=decoding.inputs.sharding
        )
        return weights, prompts, decoding, key, sampling, until, *([slots] if constrained else [])

    def end_at(bucket: int):
        (_, decoding), prompts = begun(bucket)
        return decoding, prompts

    def compiled(part: str, function: Callable, arguments: Callable):
        return programs.by_bucket(f"{name}/{part}", function, buckets, arguments)

    params, _, key, _ = arguments(buckets[0])
    number = describe(np.int32(0), key.sharding)
    return steps._replace(
        layer=programs.compile(f"{name}/layer", steps.layer, params, number),
        begin=compiled("begin", steps.begin, lambda bucket: arguments(bucket)[:2]),
        admit=compiled("prefill", steps.admit, admit_at),
        advance=compiled("decode", steps.advance, advance_at),
        advance_drafting=steps.drafts and compiled("decode drafts", steps.advance_drafting, advance_at),
        end=compiled("end", steps.end, end_at),
    )


def _completions(decoding: Decoding, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows, tokens, lengths and whether they ended, of the chosen ones among this process's completions."""
    output = decoding.output
    tokens, lengths, ended = held((output.tokens, output.lengths, output.ended))
    return chosen, *(a.reshape(-1, *a.shape[2:])[chosen] for a in (tokens, lengths, ended))
