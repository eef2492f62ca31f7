import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxfc.selection import covariances, random_between, top_fraction

SHAPE = (4, 6)
top = jax.jit(top_fraction, static_argnames="fraction")
# Devices take numbers below 2^-126 for 0.
FLOATS = st.floats(width=32, allow_nan=False, allow_subnormal=False)


@given(hnp.arrays(np.float32, SHAPE, elements=FLOATS), hnp.arrays(bool, SHAPE), st.sampled_from([0.01, 0.2, 0.5, 1.0]))
def test_top_fraction_is_what_sorting_gives(values, mask, fraction):
    ranked = np.sort(values[mask])[::-1]
    count = min(max(1, int(np.floor(np.float32(fraction) * np.float32(mask.sum())))), len(ranked))
    expected = mask & (values >= ranked[count - 1]) if count else np.zeros(SHAPE, bool)
    np.testing.assert_array_equal(top(jnp.asarray(values), jnp.asarray(mask), fraction=fraction), expected)


def test_top_fraction_of_ten_tokens_is_two_in_five():
    # Ten tokens, 0.2: the two highest, 5 and 4; 9 is off the mask, and -7 is not high for being large.
    values = jnp.array([[1.0, 5.0, -7.0, 0.0, 2.0, 9.0], [4.0, 3.0, -1.0, -2.0, 0.5, 9.0]])
    mask = jnp.arange(6)[None] < 5
    chosen = top_fraction(values, jnp.broadcast_to(mask, (2, 6)), fraction=0.2)
    np.testing.assert_array_equal(chosen, [[0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]])


def test_top_fraction_counts_over_the_batch_and_not_by_row():
    values, mask = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.ones((2, 2), bool)
    np.testing.assert_array_equal(top_fraction(values, mask, fraction=0.5), [[False, False], [True, True]])


def test_equal_values_are_chosen_together_and_zeros_of_either_sign_are_equal():
    values, mask = jnp.array([[0.0, -0.0, -1.0, -2.0]]), jnp.ones((1, 4), bool)
    np.testing.assert_array_equal(top_fraction(values, mask, fraction=0.25), [[True, True, False, False]])


def test_covariance_parts_average_to_the_covariance():
    # Log-probabilities -1, -2, -3 and advantages 1, -1, 3 on the mask: distances 1, 0, -1 from -2; 0, -2, 2 from 1.
    logprobs = jnp.array([[-1.0, -2.0], [-3.0, jnp.nan]])
    advantages = jnp.array([[1.0, -1.0], [3.0, jnp.inf]])
    mask = jnp.array([[True, True], [True, False]])
    np.testing.assert_allclose(covariances(logprobs, advantages, mask), [[0.0, 0.0], [-2.0, 0.0]], atol=1e-6)


def test_covariances_take_a_completions_advantage_for_all_its_tokens():
    logprobs = -jax.random.exponential(jax.random.key(0), (3, 4))
    advantages, mask = jnp.array([1.0, -2.0, 0.5]), jnp.ones((3, 4), bool).at[0, 2:].set(False)
    per_token = jnp.broadcast_to(advantages[:, None], (3, 4))
    np.testing.assert_array_equal(covariances(logprobs, advantages, mask), covariances(logprobs, per_token, mask))


def test_random_choice_has_the_count_the_range_and_no_favourites():
    values = jnp.linspace(0.0, 1.0, 40).reshape(4, 10)
    mask = jnp.ones((4, 10), bool).at[1].set(False)
    candidates = mask & (values >= 0.1) & (values <= 0.8)
    draw = jax.vmap(lambda key: random_between(key, values, mask, fraction=0.2, low=0.1, high=0.8))
    chosen = draw(jax.random.split(jax.random.key(0), 2000))
    # 30 tokens on the mask, 0.2 of them: 6 in each draw.
    np.testing.assert_array_equal(chosen.sum(axis=(1, 2)), 6)
    assert not chosen[:, ~candidates].any()
    # Each of the n candidates is drawn in 6 / n of the draws, give or take four standard deviations.
    share = 6 / candidates.sum()
    np.testing.assert_allclose(
        chosen.mean(axis=0)[candidates], share, atol=4 * float(share * (1 - share) / 2000) ** 0.5
    )


def test_all_candidates_are_chosen_when_they_are_few():
    values, mask = jnp.array([[0.0, 2.0, 5.0, 2.5]]), jnp.ones((1, 4), bool)
    chosen = random_between(jax.random.key(1), values, mask, fraction=1.0, low=2.0, high=2.5)
    np.testing.assert_array_equal(chosen, [[False, True, False, True]])
    nobody = random_between(jax.random.key(1), values, mask, fraction=1.0, low=6.0, high=7.0)
    assert not nobody.any()


def test_the_key_decides_the_choice():
    values, mask = jnp.ones((8, 8)), jnp.ones((8, 8), bool)
    draws = [random_between(jax.random.key(k), values, mask, fraction=0.3, low=0.0, high=2.0) for k in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


@pytest.mark.parametrize("padding", [jnp.inf, -jnp.inf, jnp.nan])
def test_padding_is_neither_chosen_nor_counted(padding):
    values = jax.random.normal(jax.random.key(0), (4, 6))
    mask = jnp.arange(6)[None] < jnp.array([6, 3, 0, 1])[:, None]
    dirty = jnp.where(mask, values, padding)
    for choose in (
        lambda x: top_fraction(x, mask, fraction=0.3),
        lambda x: random_between(jax.random.key(0), x, mask, fraction=0.3, low=-1.0, high=1.0),
        lambda x: covariances(x, x, mask),
    ):
        np.testing.assert_array_equal(choose(dirty), choose(values))
        assert not jnp.where(mask, 0, choose(dirty)).any()


def test_a_batch_without_tokens_has_none_to_choose():
    values, mask = jnp.ones((2, 3)), jnp.zeros((2, 3), bool)
    assert not top_fraction(values, mask, fraction=0.5).any()
    assert not random_between(jax.random.key(0), values, mask, fraction=0.5, low=0.0, high=2.0).any()
    np.testing.assert_array_equal(covariances(values, values, mask), 0.0)


def test_nothing_here_is_differentiated():
    values, mask = jax.random.normal(jax.random.key(0), (3, 4)), jnp.ones((3, 4), bool)

    def total(x):
        return (x * top_fraction(x, mask, fraction=0.5)).sum() + covariances(x, x, mask).sum()

    np.testing.assert_array_equal(jax.grad(total)(values), top_fraction(values, mask, fraction=0.5))


def test_a_batch_spread_over_devices_is_ranked_as_one():
    values = jax.random.normal(jax.random.key(0), (16, 8))
    mask = jax.random.bernoulli(jax.random.key(1), 0.8, (16, 8))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put((values, mask), NamedSharding(mesh, PartitionSpec("data")))
    choose = jax.jit(lambda x, m: top_fraction(x, m, fraction=0.3))
    np.testing.assert_array_equal(choose(*spread), choose(values, mask))
    text = choose.lower(*spread).compile().as_text()
    assert "all-reduce" in text and "all-gather" not in text
