"""The compiled half of training: the initial state, the scoring pass, the policy update and the supervised step."""

import functools

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from jaxfc.algorithm import Algorithm
from jaxfc.config import Optimizer
from jaxfc.logprobs import length_mask, token_scores
from jaxfc.losses import sft_loss
from jaxfc.models.decoder import Decoder
from jaxfc.models.lora import combine
from jaxfc.moments import keep_moments
from jaxfc.objective import Counts, Tally, count, policy_objective
from jaxfc.sharding import fitting, replicated, rows, shardings
from jaxfc.types import (
    Allowed,
    Credit,
    Params,
    Prompts,
    Rollouts,
    Sampling,
    SftBatch,
    TokenScores,
    TrainBatch,
    TrainState,
)


def learning_rate(config: Optimizer) -> optax.Schedule:
    """Linear warm-up, then constant, or a cosine down to `final_fraction` of the peak."""
    peak, warmup = config.learning_rate, config.warmup_steps
    start = 0.0 if warmup else peak
    if not config.decay_steps:
        return optax.warmup_constant_schedule(start, peak, warmup)
    return optax.warmup_cosine_decay_schedule(start, peak, warmup, config.decay_steps, peak * config.final_fraction)


def make_optimizer(config: Optimizer) -> optax.GradientTransformation:
    """Gradient clipping by global norm, then AdamW, or Muon on the matrices of the layers and AdamW on the rest.

    With Muon the AdamW half has Nesterov momentum too: Optax's Muon has one flag for both, and it is on. Its `beta1`,
    `beta2` and decay are those of the settings; Muon's own momentum is 0.95.

    References: AdamW, arXiv:1711.05101; Muon, https://kellerjordan.github.io/posts/muon, arXiv:2502.16982.
    """
    rate = learning_rate(config)
    adamw = optax.adamw(rate, b1=config.beta1, b2=config.beta2, weight_decay=config.weight_decay)
    if config.muon is not None:
        scale = config.muon.learning_rate / config.learning_rate
        adamw = optax.contrib.muon(
            lambda step: rate(step) * scale,
            adam_learning_rate=rate,
            adam_b1=config.beta1,
            adam_b2=config.beta2,
            adam_weight_decay=config.weight_decay,
            weight_decay=config.weight_decay,
            muon_weight_dimension_numbers=_layer_matrices,
        )
    if config.moments != "float32":
        adamw = keep_moments(adamw, config.moments, _is_matrix)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)


def _is_matrix(path: tuple, leaf: Array) -> bool:
    """Whether this is a matrix, or one of each layer, [L, in, out]; not biases and norms."""
    return leaf.ndim == (3 if _in_layers(path) else 2)


def _in_layers(path: tuple) -> bool:
    return path[0].key == "blocks"


def _layer_matrices(params: Params):
    """Muon's view of the parameters: matrices of the layers, [L, in, out], one at a time; None is left to AdamW."""

    def dimensions(path, leaf):
        taken = _in_layers(path) and _is_matrix(path, leaf)
        return optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2) if taken else None

    return jax.tree_util.tree_map_with_path(dimensions, params)


def state_shardings(decoder: Decoder, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Where each part of the state lives: what is trained, moments with their parameters, counters everywhere."""
    placed = shardings(mesh, decoder.trained_axes)
    params = jax.eval_shape(decoder.init_trained, jax.random.key(0))
    homes = dict(jax.tree_util.tree_leaves_with_path(placed))

    def home(path, leaf):
        # A moment is found in the optimizer's state under the path of its parameter, and its codes one further down.
        parts = (path[start:end] for start in range(len(path)) for end in (len(path), len(path) - 1))
        home = next((homes[part] for part in parts if part in homes and leaf.ndim), replicated(mesh))
        return fitting(home, leaf.shape)

    opt_state = jax.tree_util.tree_map_with_path(home, jax.eval_shape(optimizer.init, params))
    return TrainState(replicated(mesh), placed, opt_state)


def describe_state(decoder: Decoder, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The shapes, types and places of what `make_state` makes."""
    params = jax.eval_shape(decoder.init_trained, jax.random.key(0))
    shapes = jax.eval_shape(lambda params: TrainState(jnp.int32(0), params, optimizer.init(params)), params)
    homes = state_shardings(decoder, optimizer, mesh)
    return jax.tree.map(lambda a, home: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=home), shapes, homes)


def make_state(decoder: Decoder, params: Params, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state before the first update, of the parameters that are trained."""

    def start(params: Params) -> TrainState:
        return TrainState(jnp.int32(0), params, optimizer.init(params))

    return jax.jit(start, out_shardings=state_shardings(decoder, optimizer, mesh))(params)


def make_score(decoder: Decoder, mesh: Mesh, *, vocabulary: int, micro_batches: int = 1):
    """Compile `(params, rollouts, sampling) -> TokenScores`: the completions as the trainer sees them, [B, T]."""

    def score(params: Params, rollouts: Rollouts, sampling: Sampling) -> TokenScores:
        def part(taken):
            prompts, tokens, allowed = taken
            return _scores(decoder, params, prompts, tokens, sampling, allowed, vocabulary, mesh)

        parts = deal((rollouts.prompts, rollouts.tokens, rollouts.allowed), micro_batches)
        return gather(jax.lax.map(part, parts), rollouts.prompts.lengths.shape[0])

    return jax.jit(score, out_shardings=rows(mesh))


def train_batch(rollouts: Rollouts, old: TokenScores, reference: TokenScores | None, credit: Credit) -> TrainBatch:
    """Put together what an update needs; without a reference its loss has no KL."""
    return TrainBatch(
        rollouts.prompts,
        rollouts.tokens,
        rollouts.lengths,
        old.logprobs,
        None if reference is None else reference.logprobs,
        credit.advantages if credit.of_tokens is None else credit.of_tokens,
        credit.weights,
        credit.selected,
        rollouts.allowed,
    )


def make_policy_step(
    decoder: Decoder,
    optimizer: optax.GradientTransformation,
    config: Algorithm,
    mesh: Mesh,
    *,
    vocabulary: int,
):
    """Compile `(state, batch, sampling, frozen=None) -> (state, metrics)`. `state` is donated: use the one returned.

    What is trained are the parameters of the state; `frozen` are those beside them that are not.
    """

    def loss_fn(params: Params, batch: TrainBatch, sampling: Sampling, counts: Counts):
        scores = _scores(decoder, params, batch.prompts, batch.completions, sampling, batch.allowed, vocabulary, mesh)
        return policy_objective(scores, batch, counts, config)

    placement = state_shardings(decoder, optimizer, mesh)
    update = _make_update(loss_fn, optimizer, config.micro_batches, placement.params)

    def step(state: TrainState, batch: TrainBatch, sampling: Sampling, frozen: Params | None = None):
        parts = deal(batch, config.updates)
        state, metrics = jax.lax.scan(lambda s, part: update(s, part, sampling, frozen), state, parts)
        # Only the first update has the parameters that sampled.
        first = {name: values[0] for name, values in metrics.items() if name.startswith("kl/sampler")}
        return state, jax.tree.map(jnp.mean, metrics) | first

    return jax.jit(step, donate_argnums=0, out_shardings=(placement, replicated(mesh)))


def make_sft_step(
    decoder: Decoder,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    vocabulary: int,
    micro_batches: int = 1,
):
    """Compile `(state, batch, sampling, frozen=None) -> (state, metrics)`: see `make_policy_step`."""

    def loss_fn(params: Params, batch: SftBatch, sampling: Sampling, counts: Counts):
        scores = _scores(decoder, params, batch.prompts, batch.completions, sampling, None, vocabulary, mesh)
        mask = length_mask(batch.lengths, batch.completions.shape[1])
        loss, metrics = sft_loss(scores.logprobs, mask, normalizer=counts.tokens)
        return loss, Tally(metrics, {})

    placement = state_shardings(decoder, optimizer, mesh)
    update = _make_update(loss_fn, optimizer, micro_batches, placement.params)
    return jax.jit(update, donate_argnums=0, out_shardings=(placement, replicated(mesh)))


def _scores(
    decoder: Decoder,
    params: Params,
    prompts: Prompts,
    tokens: Int[Array, "B T"],
    sampling: Sampling,
    allowed: Allowed | None,
    vocabulary: int,
    mesh: Mesh,
) -> TokenScores:
    hidden = decoder.extend(params, tokens, decoder.encode(params, prompts))
    head = decoder.head(params)
    return token_scores(hidden, head, tokens, sampling, vocabulary=vocabulary, allowed=allowed, mesh=mesh)


def _make_update(loss_fn, optimizer: optax.GradientTransformation, micro_batches: int, placement: Params):
    """An optimizer step whose gradient is the sum over micro-batches of `loss_fn(params, batch, sampling, counts)`."""

    @functools.partial(jax.grad, has_aux=True)
    def gradient_fn(trained: Params, frozen: Params | None, *given):
        return loss_fn(combine(frozen, trained), *given)

    def gradient(trained: Params, frozen: Params | None, batch, sampling: Sampling, counts: Counts):
        gradients, tally = gradient_fn(trained, frozen, batch, sampling, counts)
        # Left to itself the compiler keeps gradients whole on some axis, and a whole one costs what the model costs.
        return jax.lax.with_sharding_constraint(gradients, placement), tally

    def update(state: TrainState, batch: TrainBatch | SftBatch, sampling: Sampling, frozen: Params | None = None):
        counts, parts = count(batch.lengths), deal(batch, micro_batches)

        def of(part):
            return gradient(state.params, frozen, part, sampling, counts)

        first = jax.tree.map(lambda a: a[0], parts)
        if micro_batches == 1:
            total = of(first)
        else:

            def add(total, part):
                gradients, tally = of(part)
                return (jax.tree.map(jnp.add, total[0], gradients), total[1] + tally), None

            none = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(of, first))
            none = jax.lax.with_sharding_constraint(none[0], placement), none[1]
            total, _ = jax.lax.scan(add, none, parts)
        gradients, tally = total
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics = tally.sums | tally.tops | {"optim/grad_norm": optax.tree.norm(gradients)}
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state), metrics

    return update


def deal(batch, parts: int):
    """Split rows into parts, [N, ...] -> [parts, N / parts, ...]: prompt p goes to part p % parts with its completions.

    Dealt out in turn, each part keeps an equal share of every device's rows.

    Args:
        batch: a tuple of arrays whose first element is its Prompts.
        parts: a divisor of the number of prompts.
    """
    prompts = batch[0].lengths.shape[0]

    def split(array):
        dealt = array.reshape(prompts // parts, parts, -1, *array.shape[1:]).swapaxes(0, 1)
        return dealt.reshape(parts, -1, *array.shape[1:])

    return jax.tree.map(split, batch)


def gather(scores: TokenScores, prompts: int) -> TokenScores:
    """Undo `deal`: [parts, N / parts, T] -> [N, T]."""

    def join(array):
        parts, _, length = array.shape
        return array.reshape(parts, prompts // parts, -1, length).swapaxes(0, 1).reshape(-1, length)

    return jax.tree.map(join, scores)
