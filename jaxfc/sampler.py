"""Prompts -> Rollouts: each prompt is prefilled once, then its G completions are decoded together."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jaxfc.logprobs import head_logits, logit_scores, sampled_logits
from jaxfc.models.decoder import Decoder
from jaxfc.sharding import rows
from jaxfc.types import Cache, Params, Prompts, Rollouts, Sampling, TokenScores


class _Progress(NamedTuple):
    """The state of the decode loop. Per-step results are [T, B]: a step writes one row."""

    step: Int[Array, ""]
    inputs: Int[Array, " B"]
    lengths: Int[Array, " B"]
    running: Bool[Array, " B"]
    tokens: Int[Array, "T B"]
    logprobs: Float[Array, "T B"]
    entropies: Float[Array, "T B"]
    cache: Cache


def make_sampling(
    *, temperature: float, top_k: int = 0, top_p: float = 1.0, stop_tokens: tuple[int, ...], max_tokens: int
) -> Sampling:
    """Sampling settings as arrays, the form that compiled programs take."""
    return Sampling(
        jnp.float32(temperature),
        jnp.int32(top_k),
        jnp.float32(top_p),
        jnp.asarray(stop_tokens, jnp.int32),
        jnp.int32(max_tokens),
    )


def make_sampler(decoder: Decoder, mesh: Mesh, *, group_size: int, length: int, vocabulary: int):
    """Compile `(params, prompts, key, sampling) -> Rollouts`: one program per prompt bucket.

    Args:
        decoder: the model's functions.
        mesh: over which rollouts are spread by row.
        group_size: completions per prompt (G).
        length: room for a completion (T); `sampling.max_tokens` may stop it earlier.
        vocabulary: tokens that exist; padded entries of the head are never drawn.
    """

    def start(prompts: Prompts, params: Params):
        prefix = decoder.encode(params, prompts)
        batch = prompts.lengths.shape[0] * group_size
        empty = jnp.zeros((length, batch), jnp.float32)
        return prefix, _Progress(
            step=jnp.int32(0),
            inputs=jnp.repeat(prefix.last_tokens, group_size),
            lengths=jnp.zeros(batch, jnp.int32),
            running=jnp.repeat(prompts.lengths > 0, group_size),
            tokens=jnp.zeros((length, batch), jnp.int32),
            logprobs=empty,
            entropies=empty,
            cache=decoder.empty_cache(prefix, group_size, length),
        )

    def sample(params: Params, prompts: Prompts, key: Array, sampling: Sampling) -> Rollouts:
        prefix, progress = start(prompts, params)
        head = decoder.head(params)
        limit = jnp.minimum(sampling.max_tokens, length)

        def unfinished(progress: _Progress):
            return (progress.step < limit) & progress.running.any()

        def advance(progress: _Progress) -> _Progress:
            step, running = progress.step, progress.running
            hidden, cache = decoder.decode(params, progress.inputs, step, prefix, progress.cache)
            logits = sampled_logits(head_logits(hidden, head), sampling, vocabulary)
            drawn = draw(logits, jax.random.fold_in(key, step), sampling.temperature)
            logprobs, entropies = logit_scores(logits, drawn)
            stopped = (drawn[:, None] == sampling.stop_tokens).any(axis=1)
            return _Progress(
                step=step + 1,
                inputs=drawn,
                lengths=progress.lengths + running,
                running=running & ~stopped,
                tokens=progress.tokens.at[step].set(jnp.where(running, drawn, 0)),
                logprobs=progress.logprobs.at[step].set(jnp.where(running, logprobs, 0.0)),
                entropies=progress.entropies.at[step].set(jnp.where(running, entropies, 0.0)),
                cache=cache,
            )

        end = jax.lax.while_loop(unfinished, advance, progress)
        ended = ~end.running & (end.lengths > 0)
        return Rollouts(prompts, end.tokens.T, end.lengths, ended, TokenScores(end.logprobs.T, end.entropies.T))

    return jax.jit(sample, out_shardings=rows(mesh))


def draw(logits: Float[Array, "B V"], key: Array, temperature: Float[Array, ""]) -> Int[Array, " B"]:
    """One token a row from softmax(logits); the likeliest when the temperature is 0."""
    return jax.lax.cond(
        temperature > 0,
        lambda: jax.random.categorical(key, logits, axis=1),
        lambda: jnp.argmax(logits, axis=1),
    ).astype(jnp.int32)
