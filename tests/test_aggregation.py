import jax.numpy as jnp
import numpy as np

from jaxfc.aggregation import constant_weights, sequence_mean_weights, token_mean_weights

MASK = jnp.array([[True, True, True, False], [True, False, False, False], [False] * 4])
VALUES = jnp.array([[1.0, 2.0, 6.0, 99.0], [7.0, 99.0, 99.0, 99.0], [99.0] * 4])


def test_token_mean_counts_tokens():
    # (1 + 2 + 6 + 7) / 4
    assert (token_mean_weights(MASK, tokens=4) * VALUES).sum() == 4.0


def test_sequence_mean_is_a_mean_of_means():
    # Means 3 and 7 of two completions that have tokens.
    np.testing.assert_allclose((sequence_mean_weights(MASK, sequences=2) * VALUES).sum(), 5.0, rtol=1e-6)


def test_constant_divides_the_sum():
    # (1 + 2 + 6 + 7) / 32; below 1 it multiplies.
    assert (constant_weights(MASK, constant=32) * VALUES).sum() == 0.5
    assert (constant_weights(MASK, constant=0.5) * VALUES).sum() == 32.0


def test_micro_batches_weigh_as_their_batch():
    for weights, count in (
        (token_mean_weights, {"tokens": 4}),
        (sequence_mean_weights, {"sequences": 2}),
        (constant_weights, {"constant": 12.0}),
    ):
        parts = [weights(MASK[rows], **count) for rows in (slice(0, 1), slice(1, 3))]
        np.testing.assert_array_equal(jnp.concatenate(parts), weights(MASK, **count))


def test_a_batch_without_tokens_weighs_nothing():
    empty = jnp.zeros((2, 3), bool)
    np.testing.assert_array_equal(token_mean_weights(empty, tokens=0), 0.0)
    np.testing.assert_array_equal(sequence_mean_weights(empty, sequences=0), 0.0)
    np.testing.assert_array_equal(constant_weights(empty, constant=3.0), 0.0)
