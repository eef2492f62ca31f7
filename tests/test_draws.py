import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.draws import BLOCK, draw

ONE, ZERO = jnp.float32(1), jnp.float32(0)


def by_hand(logits, uniforms):
    """The first token at which the cumulative distribution, in float64, passes the number."""
    p = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True))
    below = np.cumsum(p / p.sum(axis=1, keepdims=True), axis=1)
    return (below > np.asarray(uniforms, np.float64)[:, None]).argmax(axis=1), below


@pytest.mark.parametrize("vocabulary", [3, BLOCK, BLOCK + 1, 3 * BLOCK - 7])
def test_a_draw_is_the_cumulative_distribution_inverted(vocabulary):
    logits = 3 * jax.random.normal(jax.random.key(vocabulary), (500, vocabulary))
    uniforms = jax.random.uniform(jax.random.key(1), (500,))
    tokens, (expected, below) = np.asarray(draw(logits, uniforms, ONE)), by_hand(logits, uniforms)
    # Rounding may only ever move a number over the border that it lies on.
    near = np.abs(below - np.asarray(uniforms)[:, None]).min(axis=1) < 1e-6
    assert near.mean() < 0.05
    np.testing.assert_array_equal(tokens[~near], expected[~near])


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
def test_what_cannot_be_drawn_is_never_drawn(uniform):
    for possible in ([0], [5], [BLOCK], [BLOCK - 1, 2 * BLOCK], [2 * BLOCK + 3]):
        logits = jnp.full((1, 2 * BLOCK + 4), -jnp.inf).at[0, jnp.array(possible)].set(-7.0)
        assert int(draw(logits, jnp.array([uniform]), ONE)[0]) in possible


def test_temperature_0_takes_the_likeliest_whatever_the_number():
    logits = jax.random.normal(jax.random.key(0), (50, 300))
    for uniform in (0.0, 0.3, 0.99):
        np.testing.assert_array_equal(draw(logits, jnp.full(50, uniform), ZERO), logits.argmax(axis=1))


def test_each_row_may_have_a_temperature_of_its_own():
    logits = jax.random.normal(jax.random.key(0), (60, 300))
    uniforms = jax.random.uniform(jax.random.key(1), (60,))
    hot = jnp.arange(60) % 3 > 0
    drawn = draw(logits, uniforms, jnp.where(hot, 1.0, 0.0))
    np.testing.assert_array_equal(drawn[hot], draw(logits, uniforms, ONE)[hot])
    np.testing.assert_array_equal(drawn[~hot], draw(logits, uniforms, ZERO)[~hot])
    for every in (ONE, ZERO):
        np.testing.assert_array_equal(draw(logits, uniforms, jnp.full(60, every)), draw(logits, uniforms, every))
