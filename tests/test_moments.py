"""Moments in fewer bits, held to Adam with float32 ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfc.moments import (
    BLOCK,
    Blocks,
    dequantise,
    keep_moments,
    quantise_signed,
    quantise_unsigned,
    round_to_bfloat16,
    unpack,
)

M, N = 4 * BLOCK, 6
BETA1, BETA2 = 0.9, 0.999


def spread(seed: int, *shape: int):
    """Numbers whose sizes go over five powers of ten, from row to row and within one."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=shape) * 10.0 ** rng.uniform(-5, 0, size=shape), jnp.float32)


def uniform(seed: int, *shape: int):
    return jax.random.uniform(jax.random.key(seed), shape)


def is_matrix(path, leaf) -> bool:
    return leaf.ndim == 2


def largest(values):
    return np.repeat(np.abs(values).reshape(-1, BLOCK, N).max(axis=1), BLOCK, axis=0)


@pytest.mark.parametrize("noise", [0.0, 0.5, 0.999])
def test_signed_codes_are_off_by_less_than_their_spacing(noise):
    values = np.asarray(spread(0, M, N))
    blocks = quantise_signed(jnp.asarray(values), jnp.full((M, N), noise))
    assert (blocks.codes.dtype, blocks.codes.shape, blocks.scales.shape) == (jnp.int8, (M, N), (M // BLOCK, N))
    part = np.abs(values) / largest(values)
    # Between code c and c + 1 of the square law lie (2c + 1) / 127^2, and c is at most 127 sqrt(part).
    spacing = (2 * 127 * np.sqrt(part) + 1) / 127**2 * largest(values)
    found = np.asarray(dequantise(blocks))
    assert (np.abs(found - values) <= spacing * 1.001).all()
    assert (found * values >= 0).all()
    top = part == 1
    np.testing.assert_allclose(found[top], values[top], rtol=1e-6)


def test_unsigned_codes_are_off_by_less_than_their_spacing_and_only_zero_is_zero():
    values = np.array(spread(1, M, N) ** 2)
    values[0, 0], values[:, 1] = 0.0, 0.0
    blocks = quantise_unsigned(jnp.asarray(values), uniform(0, M, N))
    assert blocks.codes.dtype == jnp.uint8
    found, top = np.asarray(dequantise(blocks)), np.maximum(largest(values), 1e-30)
    code = np.maximum(255 * (values / top) ** 0.25, 1)
    assert (np.abs(found - values) <= ((code + 1) ** 4 - (code - 1e-3) ** 4) / 255**4 * top).all()
    np.testing.assert_array_equal(found == 0, values == 0)


@pytest.mark.parametrize(("quantise", "values"), [(quantise_signed, 1), (quantise_unsigned, 2)], ids=["mu", "nu"])
def test_the_mean_of_the_codes_is_the_number(quantise, values):
    draws, values = 4000, jnp.abs(spread(2, BLOCK, N)) ** values * (1 if values == 2 else jnp.sign(spread(3, BLOCK, N)))
    found = np.asarray(jax.vmap(lambda noise: dequantise(quantise(values, noise)))(uniform(1, draws, BLOCK, N)), float)
    # Five standard errors of a mean, and what rounding of float32 adds; nu is raised where it would have had code 0.
    error = 5 * found.std(axis=0) / np.sqrt(draws) + 1e-6 * np.abs(values)
    counted = np.asarray(jnp.abs(values) > (1 / 255) ** 4 * jnp.abs(values).max(axis=0))
    assert counted.mean() > 0.8
    assert (np.abs(found.mean(axis=0) - values) <= error)[counted].all()


def test_bfloat16_lies_next_to_the_number_and_its_mean_is_the_number():
    values = np.asarray(spread(4, 500))
    keys = jax.random.split(jax.random.key(0), 4000)
    found = np.asarray(jax.vmap(lambda key: round_to_bfloat16(jnp.asarray(values), key))(keys), np.float64)
    assert (np.abs(found - values) < 2.0**-7 * np.abs(values)).all()
    # The standard error is at most half the spacing over the root of their number; five of these.
    assert (np.abs(found.mean(axis=0) - values) <= 5 * 2.0**-8 * np.abs(values) / np.sqrt(len(keys))).all()
    odd = jnp.array([0.0, -0.0, jnp.inf, -jnp.inf, jnp.nan])
    np.testing.assert_array_equal(round_to_bfloat16(odd, keys[0]).astype(jnp.float32), odd)


@functools.cache
def adam(dtype):
    inner = optax.scale_by_adam(b1=BETA1, b2=BETA2)
    return inner if dtype == "float32" else keep_moments(inner, dtype, is_matrix)


def run(optimizer, gradients, params):
    """All updates, and the last state."""

    def step(state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return state, updates

    return jax.jit(lambda state: jax.lax.scan(step, state, gradients))(optimizer.init(params))


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_second_moment_decays_when_its_gradient_is_gone(dtype):
    # One row's gradient stays, so that its scale does not fall with the rest. 2,000 steps: 0.999^2000 = 0.135.
    first = jnp.asarray(np.random.default_rng(0).uniform(0.2, 1.0, (BLOCK, 64)), jnp.float32).at[0].set(1.0)
    later = first.at[1:].set(0.0)
    gradients = {"w": jnp.stack([first] * 300 + [later] * 2000)}
    state, _ = run(adam(dtype), gradients, {"w": jnp.zeros((BLOCK, 64))})
    true, _ = run(adam("float32"), gradients, {"w": jnp.zeros((BLOCK, 64))})
    ratio = np.asarray(unpack(state).packed.nu["w"] / true.nu["w"])[1:]
    # Rounding adds noise and no drift: where codes are 8 % apart, the smallest, each step goes down one with odds
    # 0.001 / 0.08, in all a standard deviation of sqrt(2000 * 0.001 * 0.08) = 0.4. Rounded to the nearest, they would
    # stay where they were, at a ratio of 7.4.
    assert 0.97 < ratio.mean() < 1.03 and ratio.std() < 0.4


@pytest.mark.parametrize(("dtype", "far"), [("bfloat16", 0.01), ("int8", 0.08)])
def test_updates_stay_close_to_those_of_float32_moments(dtype, far):
    rng = np.random.default_rng(1)
    sizes = 10.0 ** rng.uniform(-2, 0, (M, N))
    gradients = {"w": jnp.asarray(rng.normal(size=(400, M, N)) * sizes, jnp.float32)}
    gradients["w"] += jnp.asarray(0.5 * rng.normal(size=(M, N)) * sizes, jnp.float32)
    params = {"w": jnp.zeros((M, N))}
    _, found = run(adam(dtype), gradients, params)
    _, true = run(adam("float32"), gradients, params)
    found, true = (np.asarray(updates["w"], np.float64) for updates in (found, true))
    apart = np.linalg.norm((found - true)[50:]) / np.linalg.norm(true[50:])
    assert apart < 3 * far
    # Where they lead to, the noise of the first moment has evened out. That of the second lasts as long as its memory:
    # up to 0.16 of a step (half of 0.33) for those whose codes are 16 % apart, a ten thousandth of their block's top.
    assert np.linalg.norm((found - true).sum(axis=0)) < far * np.linalg.norm(true.sum(axis=0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_model_learns_with_any_of_them(dtype):
    rng = np.random.default_rng(2)
    inputs = jnp.asarray(rng.normal(size=(512, 2 * BLOCK)), jnp.float32)
    targets = inputs @ jnp.asarray(rng.normal(size=(2 * BLOCK, N)) / 8, jnp.float32)
    optimizer = optax.chain(adam(dtype), optax.scale(-3e-3))
    params = {"w": jnp.zeros((2 * BLOCK, N)), "bias": jnp.ones(N)}

    def loss(params):
        return jnp.mean((inputs @ params["w"] + params["bias"] - targets) ** 2)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (after, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, None, length=1500))((params, optimizer.init(params)))
    assert loss(after) < 1e-3 * loss(params)


def test_eight_bits_take_little_more_than_a_quarter_of_the_memory():
    params = {"w": jnp.zeros((64 * BLOCK, 32)), "bias": jnp.zeros(32), "odd": jnp.zeros((BLOCK + 1, 3))}
    size = {
        dtype: sum(a.nbytes for a in jax.tree.leaves(adam(dtype).init(params)))
        for dtype in ("float32", "bfloat16", "int8")
    }
    # 1 byte for 4, and 4 bytes for every 32 numbers: 9 / 32.
    assert size["int8"] / size["float32"] == pytest.approx(9 / 32, rel=0.02)
    assert size["bfloat16"] / size["float32"] == pytest.approx(1 / 2, rel=0.02)


def test_what_is_no_matrix_or_not_of_whole_blocks_stays_float32():
    params = {"w": jnp.zeros((BLOCK, 3)), "bias": jnp.zeros(BLOCK), "odd": jnp.zeros((BLOCK + 1, 3))}
    state = adam("int8").init(params).packed
    for moments, dtype in ((state.mu, jnp.int8), (state.nu, jnp.uint8)):
        assert isinstance(moments["w"], Blocks) and moments["w"].codes.dtype == dtype
        assert moments["bias"].dtype == moments["odd"].dtype == jnp.float32


def test_rounding_comes_from_the_count_of_updates_alone():
    gradients = {"w": spread(5, 6, BLOCK, N)}
    params = {"w": jnp.zeros((BLOCK, N))}
    optimizer = adam("int8")
    whole, _ = run(optimizer, gradients, params)
    state = optimizer.init(params)
    for step in range(6):
        # As from a checkpoint: nothing but the numbers of the state is known.
        state = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), state)
        _, state = jax.jit(optimizer.update)(jax.tree.map(lambda g, at=step: g[at], gradients), state, params)
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    first = optimizer.update(jax.tree.map(lambda g: g[0], gradients), optimizer.init(params), params)[1]
    later = optimizer.init(params)._replace(count=jnp.int32(7))
    second = optimizer.update(jax.tree.map(lambda g: g[0], gradients), later, params)[1]
    assert (first.packed.mu["w"].codes != second.packed.mu["w"].codes).any()
