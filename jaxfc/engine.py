"""The compiled functions of a run, RL or SFT, made ahead of the first step for every bucket."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxfc.config import TrainRL, TrainSFT
from jaxfc.constraints import Constraints, Recorded
from jaxfc.credit import make_credit, make_selection, make_whole
from jaxfc.data.example import Example
from jaxfc.decoding import make_steps
from jaxfc.draws import make_sampling
from jaxfc.learner import (
    make_optimizer,
    make_policy_step,
    make_score,
    make_sft_step,
    make_state,
    train_batch,
)
from jaxfc.programs import Compiler, abstract, describe
from jaxfc.sampler import compile_steps, make_sampler
from jaxfc.sharding import place_replicated, replicated, rows, share_of
from jaxfc.truncation import words_of
from jaxfc.types import Allowed, Params, Prompts, Rollouts, Sampling, SftBatch, TokenScores, TrainState
from jaxfc.workspace import Workspace

CACHE_TYPES = {"compute": None, "bfloat16": jnp.bfloat16, "int8": jnp.int8}
"""Names of `rollout.cache` -> types."""


class Engine(NamedTuple):
    """Programs, each dispatched by the bucket of its prompts."""

    constrain: Callable
    """(examples) -> Recorded, or None where completions are free"""
    sample: Callable
    """(params, prompts, key, sampling, finished, constrained) -> (Rollouts, Effort)"""
    choose: Callable
    """(rewards, rollouts, cot_mask) -> Lesson, the groups to train on"""
    old: Callable
    """(params, rollouts, sampling) -> TokenScores, those before the update"""
    reference: Callable
    """(params, rollouts, sampling) -> TokenScores, or None where the loss has no KL"""
    credit: Callable
    """(rewards, cot_mask, lengths, sampled, old, key) -> (Credit, metrics)"""
    update: Callable
    """(state, batch, sampling, frozen) -> (state, metrics); the state is donated"""


class _Shapes:
    """Descriptions of what passes between the programs, for `groups` groups of prompts."""

    def __init__(self, groups: int, config: TrainRL, work: Workspace):
        self._groups, self._rows = groups, rows(work.mesh)
        self._group_size, self._length = config.algorithm.group_size, config.data.completion_length
        self._constrain, self._words = config.rollout.constrain, words_of(work.vocabulary)

    def _array(self, dtype, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self._rows)

    def _of_completions(self, dtype) -> jax.ShapeDtypeStruct:
        return self._array(dtype, self._groups * self._group_size)

    def _of_tokens(self, dtype) -> jax.ShapeDtypeStruct:
        return self._array(dtype, self._groups * self._group_size, self._length)

    def prompts(self, bucket: int) -> Prompts:
        return Prompts(self._array(jnp.int32, self._groups, bucket), self._array(jnp.int32, self._groups))

    def rollouts(self, bucket: int) -> Rollouts:
        lengths, ended = self._of_completions(jnp.int32), self._of_completions(jnp.bool_)
        return Rollouts(self.prompts(bucket), self._of_tokens(jnp.int32), lengths, ended, self.scores, self._allowed)

    @property
    def _allowed(self) -> Allowed | None:
        if self._constrain is None:
            return None
        table = self._array(jnp.uint32, self._groups, self._constrain.masks, self._words)
        return Allowed(table, self._of_tokens(jnp.int32))

    @property
    def scores(self) -> TokenScores:
        return TokenScores(self._of_tokens(jnp.float32), self._of_tokens(jnp.float32))

    @property
    def judged(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Rewards, and the mask of the chain of thought."""
        return self._array(jnp.float32, self._groups, self._group_size), self._of_tokens(jnp.bool_)


def start_sft(config: TrainSFT, work: Workspace) -> tuple[TrainState, Sampling]:
    """The state before the first update, and the settings of plain log-probabilities, on the mesh."""
    state = make_state(work.decoder, work.trained, make_optimizer(config.optimizer), work.mesh)
    return state, place_replicated(work.mesh, plain_sampling(config, (work.tokenizer.eos,)))


def plain_sampling(config: TrainSFT, stop_tokens: tuple[int, ...]) -> Sampling:
    """Log-probabilities as they are, as arrays on no mesh yet."""
    return make_sampling(temperature=1.0, stop_tokens=stop_tokens, max_tokens=config.data.completion_length)


def compile_sft(
    config: TrainSFT, work: Workspace, state: TrainState, sampling: Sampling, programs: Compiler
) -> Callable:
    """Compile the supervised update for every bucket; see `compile_engine`."""
    optimizer, length = make_optimizer(config.optimizer), config.data.completion_length
    step = make_sft_step(
        work.decoder, optimizer, work.mesh, vocabulary=work.vocabulary, micro_batches=config.micro_batches
    )

    def arguments(bucket: int):
        completions = np.zeros((config.batch, length), np.int32), np.zeros(config.batch, np.int32)
        batch = SftBatch(describe_prompts(config.batch, bucket, work.mesh), *describe(completions, rows(work.mesh)))
        return abstract(state), batch, sampling, abstract(work.frozen)

    return programs.by_bucket("update", step, config.data.prompt_buckets, arguments)


def describe_prompts(batch: int, bucket: int, mesh: Mesh) -> Prompts:
    """The shapes of a batch of prompts, to compile for."""
    prompts = Prompts(np.zeros((batch, bucket), np.int32), np.zeros(batch, np.int32))
    return describe(prompts, rows(mesh))


def sampling_of(config: TrainRL, stop_tokens: tuple[int, ...]) -> Sampling:
    """How completions are drawn, as arrays on no mesh yet."""
    return make_sampling(
        temperature=config.rollout.temperature,
        top_k=config.rollout.top_k,
        top_p=config.rollout.top_p,
        stop_tokens=stop_tokens,
        max_tokens=config.data.completion_length,
    )


def start(config: TrainRL, work: Workspace) -> tuple[TrainState, Sampling]:
    """The state before the first update, and how completions are drawn, on the mesh."""
    state = make_state(work.decoder, work.trained, make_optimizer(config.optimizer), work.mesh)
    return state, place_replicated(work.mesh, sampling_of(config, (work.tokenizer.eos,)))


def compile_engine(
    config: TrainRL, work: Workspace, state: TrainState, sampling: Sampling, programs: Compiler
) -> Engine:
    """Compile sampling, scoring, credit and the update for the shapes that the settings fix.

    Args:
        config: the run's settings.
        work: what it starts from. Its parameters, the state and the sampling may be arrays or descriptions of them.
        state: before the first update.
        sampling: how completions are drawn.
        programs: compiles and lists them.
    """
    optimizer = make_optimizer(config.optimizer)
    sample = _compile_sampler(config, work, programs, sampling)
    choose = _compile_choice(config, work, programs)
    old, reference = _compile_scores(config, work, programs, sampling)
    key = describe(jax.random.key(0), replicated(work.mesh))
    taught = _Shapes(config.batch, config, work)
    rollouts = taught.rollouts(config.data.prompt_buckets[0])
    # It does not see the prompts, so one program serves all buckets.
    credit = make_credit(config.algorithm, work.mesh)
    given = *taught.judged, rollouts.lengths, rollouts.scores, rollouts.scores, key
    credited, _ = jax.eval_shape(credit, *given)
    update = make_policy_step(work.decoder, optimizer, config.algorithm, work.mesh, vocabulary=work.vocabulary)

    def update_at(bucket: int):
        rollouts = taught.rollouts(bucket)
        scores = rollouts.scores, rollouts.scores if config.algorithm.kl_coefficient else None
        batch = jax.eval_shape(train_batch, rollouts, *scores, credited)
        return abstract(state), describe(batch, rows(work.mesh)), sampling, abstract(work.frozen)

    return Engine(
        _make_constrain(config, work),
        sample,
        choose,
        old,
        reference,
        programs.compile("credit", credit, *given),
        programs.by_bucket("update", update, config.data.prompt_buckets, update_at),
    )


def _compile_sampler(config: TrainRL, work: Workspace, programs: Compiler, sampling: Sampling) -> Callable:
    steps = make_steps(
        work.decoder,
        work.mesh,
        group_size=config.algorithm.group_size,
        length=config.data.completion_length,
        vocabulary=work.vocabulary,
        slots=config.rollout.slots,
        cache=CACHE_TYPES[config.rollout.cache],
        drafts=config.rollout.draft,
    )
    shapes = _Shapes(config.batch * config.algorithm.oversample, config, work)
    params, key = abstract(work.policy(work.trained)), describe(jax.random.key(0), replicated(work.mesh))
    steps = compile_steps(
        programs,
        "rollout",
        steps,
        config.data.prompt_buckets,
        lambda bucket: (params, shapes.prompts(bucket), key, sampling),
        constrained=config.rollout.constrain is not None,
    )
    return make_sampler(steps, work.mesh)


def _make_constrain(config: TrainRL, work: Workspace) -> Callable:
    if config.rollout.constrain is None:
        return lambda examples: None
    constraints = Constraints(work.tokenizer, work.prompt)
    group, length, masks = config.algorithm.group_size, config.data.completion_length, config.rollout.constrain.masks
    share = share_of(work.mesh, config.batch * config.algorithm.oversample)

    def constrain(examples: Sequence[Example]) -> Recorded:
        constrained = constraints.begin(examples, group_size=group)
        return Recorded(constrained, share=share, group_size=group, length=length, masks=masks)

    return constrain


def _compile_choice(config: TrainRL, work: Workspace, programs: Compiler) -> Callable:
    """Of the groups to train on: all, or the live ones."""
    if config.algorithm.dynamic_sampling is None:
        return make_whole(config.batch, work.mesh)
    shapes = _Shapes(config.batch * config.algorithm.oversample, config, work)
    rewards, cot_mask = shapes.judged
    select = make_selection(config.batch, work.mesh)
    buckets = config.data.prompt_buckets
    return programs.by_bucket("choose", select, buckets, lambda bucket: (rewards, shapes.rollouts(bucket), cot_mask))


def _compile_scores(
    config: TrainRL, work: Workspace, programs: Compiler, sampling: Sampling
) -> tuple[Callable, Callable]:
    """What gives the scores before the update and those of the reference.

    One program serves both, but for adapters: the reference has none, being the base.
    """
    algorithm, shapes = config.algorithm, _Shapes(config.batch, config, work)
    from_sampler, no_reference = algorithm.old_logprobs == "sampler", not algorithm.kl_coefficient
    if from_sampler and no_reference:
        return _sampler_scores, _no_scores
    parts = algorithm.updates * algorithm.micro_batches
    score = make_score(work.decoder, work.mesh, vocabulary=work.vocabulary, micro_batches=parts)

    def compiled(name: str, params: Params) -> Callable:
        params, buckets = abstract(params), config.data.prompt_buckets
        return programs.by_bucket(name, score, buckets, lambda bucket: (params, shapes.rollouts(bucket), sampling))

    if from_sampler or work.frozen is None:
        both = compiled("score", work.params)
        return _sampler_scores if from_sampler else both, _no_scores if no_reference else both
    old = compiled("score", work.policy(work.trained))
    return old, _no_scores if no_reference else compiled("reference", work.params)


def _sampler_scores(params, rollouts: Rollouts, sampling: Sampling) -> TokenScores:
    return rollouts.scores


def _no_scores(params, rollouts: Rollouts, sampling: Sampling) -> None:
    return None
