"""The compiled functions of an RL run, made ahead of the first step for every bucket."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfc.config import TrainRL
from jaxfc.decoding import make_steps
from jaxfc.draws import make_sampling
from jaxfc.learner import (
    make_advantages,
    make_optimizer,
    make_policy_step,
    make_score,
    make_state,
    train_batch,
)
from jaxfc.programs import Programs, abstract, describe
from jaxfc.sampler import compile_steps, make_sampler
from jaxfc.sharding import place_replicated, replicated, rows
from jaxfc.types import Prompts, Rollouts, Sampling, TokenScores, TrainState
from jaxfc.workspace import Workspace

CACHE_TYPES = {"compute": None, "bfloat16": jnp.bfloat16, "int8": jnp.int8}
"""Names of `rollout.cache` -> types."""


class Engine(NamedTuple):
    """Programs, each dispatched by the bucket of its prompts, and the state that they start from."""

    state: TrainState
    sampling: Sampling
    sample: Callable
    """(params, prompts, key, sampling, finished=None) -> (Rollouts, Effort)"""
    score: Callable
    """(params, rollouts, sampling) -> TokenScores"""
    shape: Callable
    """(rewards, cot_mask, lengths, sampled, old) -> (advantages, metrics)"""
    update: Callable
    """(state, batch, sampling) -> (state, metrics); the state is donated"""


def compile_engine(config: TrainRL, work: Workspace, programs: Programs) -> Engine:
    """Compile sampling, scoring, advantages and the update for the shapes that the settings fix."""
    algorithm, length, vocabulary = config.algorithm, config.data.completion_length, work.vocabulary
    optimizer = make_optimizer(config.optimizer)
    state = make_state(work.decoder, work.params, optimizer, work.mesh)
    sampling = make_sampling(
        temperature=config.rollout.temperature,
        top_k=config.rollout.top_k,
        top_p=config.rollout.top_p,
        stop_tokens=(work.tokenizer.eos,),
        max_tokens=length,
    )
    sampling = place_replicated(work.mesh, sampling)
    steps = make_steps(
        work.decoder,
        work.mesh,
        group_size=algorithm.group_size,
        length=length,
        vocabulary=vocabulary,
        slots=config.rollout.slots,
        cache=CACHE_TYPES[config.rollout.cache],
        drafts=config.rollout.draft,
    )
    parts = algorithm.updates * algorithm.micro_batches
    score = make_score(work.decoder, work.mesh, vocabulary=vocabulary, micro_batches=parts)
    shape = make_advantages(algorithm, work.mesh)
    update = make_policy_step(work.decoder, optimizer, algorithm, work.mesh, vocabulary=vocabulary)

    on_rows, whole = rows(work.mesh), replicated(work.mesh)
    batch, count = config.batch, config.batch * algorithm.group_size
    # The advantages do not depend on the bucket, so one program serves all.
    rewards = jax.ShapeDtypeStruct((batch, algorithm.group_size), jnp.float32, sharding=on_rows)
    cot_mask = jax.ShapeDtypeStruct((count, length), jnp.bool_, sharding=on_rows)
    advantages = jax.ShapeDtypeStruct((count,), jnp.float32, sharding=on_rows)
    lengths = jax.ShapeDtypeStruct((count,), jnp.int32, sharding=on_rows)
    scores = TokenScores(*(jax.ShapeDtypeStruct((count, length), jnp.float32, sharding=on_rows),) * 2)
    params, key = abstract(work.params), describe(jax.random.key(0), whole)

    def prompts_at(bucket: int) -> Prompts:
        return describe(Prompts(np.zeros((batch, bucket), np.int32), np.zeros(batch, np.int32)), on_rows)

    def rollouts_at(bucket: int) -> Rollouts:
        tokens = jax.ShapeDtypeStruct((count, length), jnp.int32, sharding=on_rows)
        ended = jax.ShapeDtypeStruct((count,), jnp.bool_, sharding=on_rows)
        return Rollouts(prompts_at(bucket), tokens, lengths, ended, scores)

    def batch_at(bucket: int):
        rollouts = rollouts_at(bucket)
        batch = jax.eval_shape(train_batch, rollouts, rollouts.scores, rollouts.scores, advantages)
        return describe(batch, on_rows)

    buckets = config.data.prompt_buckets
    by_bucket = programs.by_bucket
    steps = compile_steps(
        programs, "rollout", steps, buckets, lambda bucket: (params, prompts_at(bucket), key, sampling)
    )
    return Engine(
        state,
        sampling,
        make_sampler(steps, work.mesh),
        by_bucket("score", score, buckets, lambda bucket: (params, rollouts_at(bucket), sampling)),
        programs.compile("advantages", shape, rewards, cot_mask, lengths, scores, scores),
        by_bucket("update", update, buckets, lambda bucket: (abstract(state), batch_at(bucket), sampling)),
    )
