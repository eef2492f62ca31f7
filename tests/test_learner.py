import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import (
    DECODER,
    GROUPED,
    MESHES,
    VOCABULARY,
    device_bytes,
    one_device,
    plain_hidden,
    ragged_prompts,
    tiny_params,
)

from jaxfc.advantages import NoSignal, require_signal
from jaxfc.algorithm import Algorithm, EntropyBonus
from jaxfc.config import Muon, Optimizer
from jaxfc.credit import make_credit
from jaxfc.decoding import make_steps
from jaxfc.draws import make_sampling
from jaxfc.learner import (
    deal,
    gather,
    learning_rate,
    make_optimizer,
    make_policy_step,
    make_score,
    make_sft_step,
    make_state,
    train_batch,
)
from jaxfc.logprobs import length_mask
from jaxfc.models.decoder import Decoder
from jaxfc.sampler import make_sampler
from jaxfc.sharding import make_mesh, place_rows, replicated, rows, shardings
from jaxfc.types import Prompts, Rollouts, SftBatch, TokenScores, TrainBatch
from jaxfc.variants import Clip, Surrogate

P, G, S, T = 8, 2, 9, 7
PROMPT_LENGTHS = (9, 1, 4, 7, 2, 9, 5, 3)
LENGTHS = np.array([7, 1, 4, 6, 2, 7, 5, 3, 7, 7, 1, 2, 6, 5, 3, 4], np.int32)
MASK = np.arange(T) < LENGTHS[:, None]
TEMPERATURE = 0.7
KEY = jax.random.key(3)
ADAMW = Optimizer(learning_rate=1e-3, beta2=0.99)
SGD = optax.chain(optax.trace(decay=0.0), optax.scale(-0.5))
"""Plain descent, whose updates are as exact as the gradient, which its state keeps."""


@pytest.fixture(autouse=True, scope="module")
def quick_compiles():
    """Compiling is most of the time here; this halves it."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def settings(temperature=TEMPERATURE):
    return make_sampling(temperature=temperature, stop_tokens=(0, 3, 5), max_tokens=T)


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.cache
def batch() -> TrainBatch:
    """An off-policy batch: ratios and divergences away from 1 and 0, some of them clipped."""
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, (P * G, T)).astype(np.int32)
    logprobs = np.asarray(score(ragged_prompts(PROMPT_LENGTHS, S), np.where(MASK, tokens, 0)))
    return TrainBatch(
        prompts=ragged_prompts(PROMPT_LENGTHS, S),
        completions=jnp.asarray(np.where(MASK, tokens, 0)),
        lengths=jnp.asarray(LENGTHS),
        old_logprobs=jnp.asarray(np.where(MASK, logprobs + 0.2 * random(2, P * G, T), 0.0)),
        reference_logprobs=jnp.asarray(np.where(MASK, logprobs + 0.5 * random(3, P * G, T), 0.0)),
        advantages=jnp.asarray(random(4, P * G)),
    )


@functools.cache
def scorer(micro_batches=1):
    return make_score(DECODER, one_device(), vocabulary=VOCABULARY, micro_batches=micro_batches)


def rollouts_of(prompts, tokens):
    tokens, zeros = jnp.asarray(tokens), jnp.zeros(tokens.shape)
    return Rollouts(prompts, tokens, jnp.asarray(LENGTHS), jnp.ones(len(tokens), bool), TokenScores(zeros, zeros))


def score(prompts, tokens):
    return scorer()(tiny_params(), rollouts_of(prompts, tokens), settings()).logprobs


def decoder_on(mesh):
    return Decoder(DECODER.config, mesh=mesh)


@functools.cache
def stepper(optimizer, mesh=None, **algorithm):
    mesh = mesh or one_device()
    algorithm = Algorithm(**{"group_size": G, "kl_coefficient": 0.1} | algorithm)
    return make_policy_step(decoder_on(mesh), optimizer, algorithm, mesh, vocabulary=VOCABULARY)


@functools.cache
def adamw(config=ADAMW):
    return make_optimizer(config)


def fresh_state(optimizer, mesh=None):
    return make_state(DECODER, jax.tree.map(jnp.copy, tiny_params()), optimizer, mesh or one_device())


def gradient_of(taken: TrainBatch, **algorithm):
    """The gradient of an update, and its metrics."""
    state, metrics = stepper(SGD, **algorithm)(fresh_state(SGD), taken, settings())
    return state.opt_state[0].trace, metrics


def assert_close(one, other, relative):
    """Every leaf, to a fraction of its largest element."""
    for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.abs(a - b).max() <= relative * np.abs(b).max(), (jax.tree_util.keystr(path), np.abs(a - b).max())


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


# The gradient


def plain_loss(params, taken: TrainBatch):
    """The objective of METHOD.md with every row written out as prompt + completion, and a dense log-softmax."""
    hidden = plain_hidden(params, taken.prompts, taken.completions)
    logits = (hidden @ DECODER.head(params).T)[..., :VOCABULARY] / TEMPERATURE
    logprobs = jnp.take_along_axis(jax.nn.log_softmax(logits), taken.completions[..., None], axis=2)[..., 0]
    ratio = jnp.exp(logprobs - taken.old_logprobs)
    advantages = taken.advantages[:, None]
    surrogate = jnp.minimum(ratio * advantages, jnp.clip(ratio, 0.8, 1.2) * advantages)
    d = taken.reference_logprobs - logprobs
    return jnp.where(MASK, -surrogate + 0.1 * (jnp.exp(d) - d - 1), 0.0).sum() / MASK.sum()


def test_loss_and_gradient_over_a_shared_prefix_are_those_of_the_plain_concatenated_form():
    gradient, metrics = gradient_of(batch())
    loss, plain = jax.jit(jax.value_and_grad(plain_loss))(tiny_params(), batch())
    assert metrics["loss/total"] == pytest.approx(float(loss), rel=1e-5)
    assert_close(gradient, plain, 1e-5)
    assert metrics["optim/grad_norm"] == pytest.approx(float(optax.tree.norm(plain)), rel=1e-5)
    assert 0 < metrics["loss/clip_fraction"] < 1 and metrics["kl/reference"] > 0


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_do_not_change_the_update(parts):
    whole, metrics = stepper(SGD)(fresh_state(SGD), batch(), settings())
    split, same_metrics = stepper(SGD, micro_batches=parts)(fresh_state(SGD), batch(), settings())
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), split.params, whole.params)
    assert_close(split.opt_state[0].trace, whole.opt_state[0].trace, 1e-5)
    for name, value in metrics.items():
        assert same_metrics[name] == pytest.approx(float(value), rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("token", [30, 10**6])
def test_padding_never_reaches_a_gradient(token):
    clean, prompts = batch(), ragged_prompts(PROMPT_LENGTHS, S, padding=token)
    dirty = clean._replace(
        prompts=prompts,
        completions=jnp.where(MASK, clean.completions, token),
        old_logprobs=jnp.where(MASK, clean.old_logprobs, -jnp.inf),
        reference_logprobs=jnp.where(MASK, clean.reference_logprobs, jnp.nan),
    )
    assert_equal(gradient_of(dirty), gradient_of(clean))


def test_a_row_that_only_fills_the_batch_adds_nothing():
    clean = batch()
    prompts = Prompts(clean.prompts.tokens, clean.prompts.lengths.at[3].set(0))
    filler = np.repeat(np.arange(P) == 3, G)
    filled = clean._replace(prompts=prompts, lengths=jnp.where(filler, 0, clean.lengths))
    gradient, metrics = gradient_of(filled)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves((gradient, metrics)))
    quiet = filled._replace(prompts=clean.prompts, advantages=jnp.where(filler, jnp.nan, clean.advantages))
    assert_close(gradient, gradient_of(quiet)[0], 1e-6)


def test_an_update_of_dead_groups_at_the_reference_moves_nothing_but_decay():
    logprobs = score(batch().prompts, batch().completions)
    still = batch()._replace(advantages=jnp.zeros(P * G), old_logprobs=logprobs, reference_logprobs=logprobs)
    gradient, metrics = gradient_of(still)
    assert optax.tree.norm(gradient) < 1e-6 and metrics["kl/reference"] < 1e-12


# Updates


def test_two_updates_of_a_batch_are_two_updates_of_its_halves_in_turn():
    both, metrics = stepper(SGD, updates=2)(fresh_state(SGD), batch(), settings())
    state, seen = fresh_state(SGD), []
    halves = deal(batch(), 2)
    for half in range(2):
        state, one = stepper(SGD)(state, jax.tree.map(operator.itemgetter(half), halves), settings())
        seen.append(one)
    assert both.step == state.step == 2
    assert_close(both.params, state.params, 1e-6)
    for name, value in metrics.items():
        mean = (float(seen[0][name]) + float(seen[1][name])) / 2
        assert value == pytest.approx(mean, rel=1e-4, abs=1e-7), name


SMOOTH = optax.chain(
    optax.clip_by_global_norm(0.5),
    optax.trace(decay=0.0),
    optax.adamw(1.0, b1=0.9, b2=0.99, eps=0.01, weight_decay=0.1),
)
"""AdamW in which rounding stays rounding: with the usual eps an update is the sign of a gradient that may be near 0."""


@functools.cache
def step_on(shape):
    """Rollouts, the update that they make and the state after it, on a mesh; and bytes of the state on each device."""
    mesh = make_mesh(shape, jax.devices()[: np.prod(shape)])
    decoder = Decoder(GROUPED.config, mesh=mesh)
    before = tiny_params(GROUPED)
    params = jax.device_put(before, shardings(mesh, decoder.axes))
    prompts = place_rows(mesh, ragged_prompts(PROMPT_LENGTHS, S))
    key, sampling = jax.device_put((jax.random.key(4), settings()), replicated(mesh))
    sample = make_sampler(make_steps(decoder, mesh, group_size=G, length=T, vocabulary=VOCABULARY), mesh)
    rollouts, _ = sample(params, prompts, key, sampling)
    old = make_score(decoder, mesh, vocabulary=VOCABULARY)(params, rollouts, sampling)
    rewards = place_rows(mesh, np.arange(P * G, dtype=np.float32).reshape(P, G) ** 2 % 7 % 2)
    cot = place_rows(mesh, np.tile(np.arange(T) < 3, (P * G, 1)))
    algorithm = Algorithm(group_size=G, kl_coefficient=0.1)
    credit, shaping = make_credit(algorithm, mesh)(rewards, cot, rollouts.lengths, rollouts.scores, old, key)
    step = make_policy_step(decoder, SMOOTH, algorithm, mesh, vocabulary=VOCABULARY)
    state = make_state(decoder, params, SMOOTH, mesh)
    state, metrics = step(state, train_batch(rollouts, old, old, credit), sampling)
    update = jax.tree.map(lambda new, old: np.asarray(new) - np.asarray(old), state.params, before)
    return jax.tree.map(np.asarray, (rollouts, update, state, metrics | shaping)), device_bytes(state)


def test_the_step_that_meshes_are_compared_in_samples_trains_and_moves_everything():
    (rollouts, update, _, metrics), _ = step_on((1, 1, 1))
    assert len(set(rollouts.lengths.tolist())) > 2 and metrics["reward/live_groups"] > 2
    assert metrics["optim/grad_norm"] > 0.5, "no gradient is clipped"
    # Up to 1 where the gradient is well above eps, and not its sign alone: many are smaller.
    for moved in jax.tree.leaves(update):
        assert 0.01 < np.abs(moved).max() < 1.2
    assert np.median(np.abs(update["blocks"]["down"]["kernel"])) < 0.5
    # Sampler and trainer agree.
    assert metrics["kl/sampler"] < 1e-8 and metrics["kl/sampler_max_gap"] < 1e-4


@pytest.mark.parametrize("mesh", MESHES)
def test_a_mesh_draws_the_samples_and_makes_the_update_of_one_device(mesh):
    (one, update, state, metrics), _ = step_on((1, 1, 1))
    (other, other_update, other_state, other_metrics), _ = step_on(MESHES[mesh])
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_array_equal(one.lengths, other.lengths)
    assert_close(other_update, update, 1e-5)
    # The gradient and both moments.
    assert_close(other_state.opt_state, state.opt_state, 1e-5)
    for name in sorted(metrics.keys() - {"kl/sampler", "kl/sampler_max_gap"}):
        assert other_metrics[name] == pytest.approx(float(metrics[name]), rel=1e-4, abs=1e-6), name
    assert other_metrics["kl/sampler"] < 1e-8 and other_metrics["kl/sampler_max_gap"] < 1e-4


@pytest.mark.parametrize("mesh", MESHES)
def test_a_device_holds_its_part_of_parameters_gradients_and_moments_and_no_more(mesh):
    (_, fsdp, tensor), of_layers = MESHES[mesh], GROUPED.config.layers
    # Matrices are cut by both axes, biases by tensor, norms by none. Width 32, hidden 48, q 32, k and v 2 x 4, V 40.
    matrices = 40 * 32 + of_layers * (2 * 32 * 32 + 2 * 32 * 8 + 3 * 32 * 48)
    biases, norms = of_layers * (32 + 2 * 8), of_layers * 2 * 32 + 32
    held = matrices // (fsdp * tensor) + biases // tensor + norms
    # The parameters, the gradient that the state keeps, and two moments, in float32; two counters in int32.
    assert step_on(MESHES[mesh])[1] == {4 * (4 * held + 2)}


def test_scale_zero_makes_bitwise_the_update_of_grpo():
    rewards = jnp.asarray((np.arange(P * G) % 3 == 0).astype(np.float32).reshape(P, G))
    scores = TokenScores(batch().old_logprobs, jnp.asarray(abs(random(5, P * G, T))))
    cot = jnp.asarray(np.tile(np.arange(T) < 3, (P * G, 1)))
    states, shaped = [], []
    for entropy in (None, EntropyBonus(scale=0.0), EntropyBonus()):
        shape = make_credit(Algorithm(group_size=G, entropy=entropy), one_device())
        shaped.append(shape(rewards, cot, batch().lengths, scores, scores, KEY)[0].advantages)
    for entropy, advantages in zip((None, EntropyBonus(scale=0.0)), shaped, strict=False):
        step = stepper(SGD, entropy=entropy)
        states.append(step(fresh_state(SGD), batch()._replace(advantages=advantages), settings())[0])
    assert_equal(*shaped[:2])
    assert_equal(*states)
    assert not np.array_equal(shaped[0], shaped[2]), "the bonus has no effect, so the comparison shows nothing"


def test_products_in_bfloat16_leave_parameters_gradients_and_moments_in_float32():
    decoder = Decoder(DECODER.config, dtype=jnp.bfloat16)
    optimizer = optax.chain(optax.trace(decay=0.0), make_optimizer(dataclasses.replace(ADAMW, learning_rate=1e-6)))
    # A clip so wide that rounding takes no token from one side of it to the other.
    wide = Surrogate(clip=Clip(low=0.99, high=99.0))
    algorithm = Algorithm(group_size=G, kl_coefficient=0.1, surrogate=wide)
    step = make_policy_step(decoder, optimizer, algorithm, one_device(), vocabulary=VOCABULARY)
    state, metrics = step(fresh_state(optimizer), batch(), settings())
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt_state)) if leaf.ndim} == {
        jnp.dtype("float32")
    }
    # A rate of 1e-6 moves float32 weights; half of bfloat16's spacing near 0.1 is 2e-4.
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, tiny_params())
    assert all(0.5e-6 < distance < 2e-6 for distance in jax.tree.leaves(moved))
    # The products have 8 bits, and the gradient of float32 points the same way.
    exact = gradient_of(batch(), surrogate=wide)[0]
    found = state.opt_state[0].trace
    norms = optax.tree.norm(found) * optax.tree.norm(exact)
    assert 0.99 < optax.tree.vdot(found, exact) / norms < 1 and metrics["loss/total"].dtype == jnp.float32


def test_the_state_given_to_an_update_is_donated():
    state = fresh_state(SGD)
    new, _ = stepper(SGD)(state, batch(), settings())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((new, tiny_params())))


def test_supervised_steps_learn_the_completions_and_micro_batches_do_not_change_them():
    taken, after = SftBatch(batch().prompts, batch().completions, batch().lengths), []
    # The mean surprise of the masked tokens, at temperature 1.
    logprobs = scorer()(tiny_params(), rollouts_of(*taken[:2]), settings(1.0)).logprobs
    for parts in (4, 1):
        step = make_sft_step(DECODER, SGD, one_device(), vocabulary=VOCABULARY, micro_batches=parts)
        state, metrics = step(fresh_state(SGD), taken, settings(1.0))
        assert metrics["loss/total"] == pytest.approx(-float(logprobs[MASK].mean()), rel=1e-5)
        after.append(jax.tree.map(np.asarray, state.params))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), *after)
    for _ in range(30):
        state, metrics = step(state, taken, settings(1.0))
    assert metrics["loss/total"] < -0.7 * logprobs[MASK].mean() and state.step == 31


# Scores


def test_scoring_in_parts_gives_the_same_scores_in_the_same_rows():
    rollouts = rollouts_of(batch().prompts, batch().completions)
    whole = scorer()(tiny_params(), rollouts, settings())
    split = scorer(4)(tiny_params(), rollouts, settings())
    for one, other in zip(split, whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_dealing_keeps_completions_with_their_prompt_and_gathering_undoes_it(parts):
    numbers = jnp.arange(P * G)[:, None] * jnp.ones((1, T), jnp.int32)
    prompts = Prompts(jnp.arange(P)[:, None] * jnp.ones((1, S), jnp.int32), jnp.arange(P))
    dealt, completions = deal((prompts, numbers), parts)
    assert dealt.lengths.shape == (parts, P // parts) and completions.shape == (parts, P * G // parts, T)
    for part in range(parts):
        assert dealt.lengths[part].tolist() == list(range(part, P, parts))
        np.testing.assert_array_equal(dealt.tokens[part, :, 0], dealt.lengths[part])
        np.testing.assert_array_equal(completions[part, :, 0] // G, np.repeat(dealt.lengths[part], G))
    scores = TokenScores(numbers.astype(jnp.float32), -numbers.astype(jnp.float32))
    assert_equal(gather(deal((prompts, scores), parts)[1], P), scores)


# Advantages, and the guard against a bonus that is silently 0


def shaped(rewards, cot, entropies, **algorithm):
    shape = make_credit(Algorithm(group_size=G, **algorithm), one_device())
    scores = TokenScores(batch().old_logprobs, entropies)
    sampled = TokenScores(batch().old_logprobs.at[~MASK].set(7.0), entropies)
    credit, metrics = shape(rewards, cot, batch().lengths, sampled, scores, KEY)
    return credit.advantages, {name: float(value) for name, value in metrics.items()}


LIVE = jnp.asarray(np.tile([[1.0, 0.0], [1.0, 1.0]], (P // 2, 1)), jnp.float32)
"""Rewards of which every second group is live."""
COT = jnp.asarray(MASK & (np.arange(T) < 2))
HALF_A_NAT = jnp.full((P * G, T), 0.5)


def test_advantages_are_those_of_egpo_row_by_row():
    advantages, metrics = shaped(LIVE, COT, HALF_A_NAT)
    # Rewards 1 and 0: mean 1/2, std sqrt(1/2) (ddof 1), so A = +-0.7071; the bonus is min(0.4 * 0.5, 0.7071 / 2).
    expected = np.tile([0.70711 + 0.2, -0.70711 + 0.2, 0, 0], P // 2)
    np.testing.assert_allclose(advantages, expected, atol=1e-5)
    assert metrics["entropy/bonus_max"] == pytest.approx(0.2) and metrics["entropy/bonus_mean"] == pytest.approx(0.1)
    assert metrics["reward/live_groups"] == P // 2 and metrics["entropy/cot_mean"] == pytest.approx(0.5)
    assert metrics["entropy/live_cot_tokens"] == np.asarray(COT).reshape(P, -1)[::2].sum()
    # Off the mask sampler and trainer may differ; on it they do not.
    assert metrics["kl/sampler"] == 0 and metrics["kl/sampler_max_gap"] == 0


def test_a_sampler_that_disagrees_with_the_trainer_is_seen():
    shape = make_credit(Algorithm(group_size=G), one_device())
    old = TokenScores(batch().old_logprobs, HALF_A_NAT)
    _, metrics = shape(LIVE, COT, batch().lengths, old._replace(logprobs=old.logprobs - 0.5), old, KEY)
    # d = old - sampled = 0.5 at every token: e^0.5 - 0.5 - 1.
    assert metrics["kl/sampler"] == pytest.approx(np.exp(0.5) - 1.5, rel=1e-4)
    assert metrics["kl/sampler_max_gap"] == pytest.approx(0.5, rel=1e-5)


def test_a_run_stops_when_no_live_rollout_has_a_chain_of_thought():
    only_in_dead_groups = COT & jnp.repeat(jnp.arange(P) % 2 == 1, G)[:, None]
    for cot in (jnp.zeros_like(COT), only_in_dead_groups):
        _, metrics = shaped(LIVE, cot, HALF_A_NAT)
        with pytest.raises(NoSignal, match="no rollout of a live group has a chain-of-thought token"):
            require_signal(metrics)


def test_a_run_stops_when_every_bonus_is_zero():
    _, metrics = shaped(LIVE, COT, jnp.zeros_like(HALF_A_NAT))
    with pytest.raises(NoSignal, match="the entropy bonus is 0 for every rollout"):
        require_signal(metrics)


def test_a_run_goes_on_when_there_is_a_bonus_or_when_all_groups_are_dead():
    require_signal(shaped(LIVE, COT, HALF_A_NAT)[1])
    for rewards in (jnp.zeros((P, G)), jnp.ones((P, G))):
        advantages, metrics = shaped(rewards, jnp.zeros_like(COT), HALF_A_NAT)
        assert not advantages.any()
        require_signal(metrics)


# Optimizers


MUON = dataclasses.replace(ADAMW, muon=Muon(learning_rate=0.02))


@pytest.mark.parametrize("config", [ADAMW, MUON], ids=["adamw", "muon"])
def test_moments_are_placed_as_their_parameters_are(config):
    mesh, optimizer = make_mesh((2, 2, 2)), adamw(config)
    params = jax.device_put(tiny_params(), shardings(mesh, DECODER.axes))
    state = make_state(DECODER, params, optimizer, mesh)
    homes = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    moments = dict.fromkeys(homes, 0)
    for path, leaf in jax.tree.leaves_with_path(state.opt_state):
        name = next((home for home in homes if jax.tree_util.keystr(path).endswith(home)), None)
        if name is None or not leaf.ndim:
            assert leaf.size < 20 and leaf.sharding.is_fully_replicated, path
            continue
        moments[name] += 1
        assert leaf.shape == homes[name].shape
        assert leaf.sharding.is_equivalent_to(homes[name].sharding, leaf.ndim), path
    # AdamW keeps two moments of each parameter, Muon one of each matrix of the layers.
    matrices = {name for name, leaf in homes.items() if "blocks" in name and leaf.ndim == 3}
    assert moments == {name: 1 if config.muon and name in matrices else 2 for name in homes}
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.opt_state))


@pytest.mark.parametrize(("config", "count"), [(ADAMW, 12), (MUON, 6)], ids=["adamw", "muon"])
def test_moments_in_8_bits_are_placed_as_their_parameters_are(config, count):
    mesh, optimizer = make_mesh((2, 2, 2)), adamw(dataclasses.replace(config, moments="int8"))
    params = jax.device_put(tiny_params(), shardings(mesh, DECODER.axes))
    packed = {".codes": 0, ".scales": 0}
    for path, leaf in jax.tree.leaves_with_path(make_state(DECODER, params, optimizer, mesh).opt_state):
        name = next((name for name in packed if jax.tree_util.keystr(path).endswith(name)), None)
        if name:
            packed[name] += 1
            parts = leaf.size // np.prod(leaf.sharding.shard_shape(leaf.shape))
            # A matrix is cut in four. Its single block of 32 rows is not cut in two, so its scales are only by column.
            assert parts == (4 if name == ".codes" else 2), path
    # Of eight matrices all but the embedding (40 rows) and `down` (48) are of whole blocks; Muon has one moment.
    assert packed == {".codes": count, ".scales": count}


def test_moments_in_8_bits_make_the_update_of_float32_ones_before_they_are_rounded():
    config = dataclasses.replace(ADAMW, moments="int8")
    packed, _ = stepper(adamw(config))(fresh_state(adamw(config)), batch(), settings())
    plain, _ = stepper(adamw())(fresh_state(adamw()), batch(), settings())
    assert_close(packed.params, plain.params, 1e-6)
    assert any(leaf.dtype == jnp.int8 for leaf in jax.tree.leaves(packed.opt_state))


@pytest.mark.parametrize("moments", ["float32", "int8"])
def test_the_state_keeps_its_placement_through_an_update(moments):
    mesh, optimizer = make_mesh((2, 2, 2)), adamw(dataclasses.replace(ADAMW, moments=moments))
    params = jax.device_put(tiny_params(), shardings(mesh, DECODER.axes))
    state = make_state(DECODER, params, optimizer, mesh)
    placed = jax.tree.map(lambda a: a.sharding, state)
    taken = jax.device_put(batch(), rows(mesh))
    state, _ = stepper(optimizer, mesh)(state, taken, jax.device_put(settings(), replicated(mesh)))
    for (path, leaf), before in zip(jax.tree.leaves_with_path(state), jax.tree.leaves(placed), strict=True):
        assert leaf.sharding.is_equivalent_to(before, leaf.ndim), path


def test_muon_makes_the_updates_of_layer_matrices_orthogonal_and_leaves_the_rest_to_adam():
    optimizer = make_optimizer(dataclasses.replace(MUON, weight_decay=0.0))
    shapes = {"embed": (10, 6), "blocks": {"q": (2, 6, 8), "bias": (2, 6)}}
    params = jax.tree.map(jnp.ones, shapes, is_leaf=lambda x: isinstance(x, tuple))
    gradient = jax.tree.map(lambda a: jax.random.normal(jax.random.key(a.size), a.shape), params)
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
    # Each layer's matrix by itself: all its singular values near the rate, as five Newton-Schulz steps bring them.
    values = np.linalg.svd(np.asarray(updates["blocks"]["q"]), compute_uv=False)
    assert (values > 0.6 * 0.02).all() and (values < 1.4 * 0.02).all(), values
    spread = np.linalg.svd(np.asarray(gradient["blocks"]["q"]), compute_uv=False)
    assert (spread[:, 0] > 2.5 * spread[:, -1]).all()
    # Adam's first step is the gradient's sign, with Nesterov momentum times 1 + b1 / (1 + b1) = 1 + 0.9 / 1.9.
    for update, g in ((updates["embed"], gradient["embed"]), (updates["blocks"]["bias"], gradient["blocks"]["bias"])):
        np.testing.assert_allclose(update, -MUON.learning_rate * (1 + 0.9 / 1.9) * np.sign(g), rtol=1e-3)


@pytest.mark.parametrize("config", [ADAMW, MUON], ids=["adamw", "muon"])
def test_both_betas_reach_adam(config):
    # The first step's moments are (1 - beta1) g and (1 - beta2) g^2.
    params, gradient = {"embed": jnp.zeros((1, 4))}, {"embed": jnp.full((1, 4), 0.25)}
    optimizer = make_optimizer(dataclasses.replace(config, beta1=0.8, beta2=0.6))
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    moments = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(state) if leaf.ndim}
    for name, value in ((".mu[", 0.2 * 0.25), (".nu[", 0.4 * 0.25**2)):
        (moment,) = (leaf for path, leaf in moments.items() if name in path)
        np.testing.assert_allclose(moment, value, rtol=1e-5)


def test_gradients_are_clipped_to_their_largest_norm():
    # Adam does not see a gradient's size, so the clip shows in its second moment: (1 - beta2) g^2 / |g|^2.
    params = {"blocks": {"w": jnp.zeros(4)}}
    optimizer = adamw()
    for size, norm in ((10.0, 1.0), (0.1, 0.2)):
        gradient = {"blocks": {"w": jnp.full(4, size)}}
        _, state = optimizer.update(gradient, optimizer.init(params), params)
        nu = optax.tree.get(state, "nu")["blocks"]["w"]
        np.testing.assert_allclose(nu, 0.01 * (norm / 2) ** 2, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Optimizer(learning_rate=2.0), {0: 2, 1: 2, 10_000: 2}),
        (Optimizer(learning_rate=2.0, warmup_steps=10), {0: 0, 5: 1, 10: 2, 10_000: 2}),
        # Half-way down a cosine from 2 to 0.2: (2 + 0.2) / 2.
        (
            Optimizer(learning_rate=2.0, warmup_steps=10, decay_steps=110),
            {0: 0, 5: 1, 10: 2, 60: 1.1, 110: 0.2, 999: 0.2},
        ),
        (Optimizer(learning_rate=2.0, decay_steps=100, final_fraction=0.0), {0: 2, 50: 1, 100: 0, 101: 0}),
    ],
    ids=["constant", "warm-up", "cosine", "no-warm-up"],
)
def test_the_learning_rate_warms_up_and_decays_as_the_settings_say(config, expected):
    rate = learning_rate(config)
    assert {step: round(float(rate(step)), 5) for step in expected} == pytest.approx(expected)


def test_masks_of_these_tests_are_those_of_the_lengths():
    np.testing.assert_array_equal(length_mask(jnp.asarray(LENGTHS), T), MASK)
