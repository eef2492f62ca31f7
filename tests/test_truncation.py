import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.draws import make_sampling
from jaxfc.truncation import allowed_columns, least_kept, padded_words

CUTS = [(0, 1.0), (1, 1.0), (3, 1.0), (500, 1.0), (0, 0.1), (0, 0.9), (0, 0.999), (0, 0.0), (20, 0.5), (7, 0.95)]
"""top_k and top_p."""

find = jax.jit(least_kept)


def cut(top_k, top_p):
    return make_sampling(temperature=1.0, top_k=top_k, top_p=top_p, stop_tokens=(0,), max_tokens=1)


def rows_of_logits():
    """Rows of 200 logits, flat to steep, around 0 and far from it, with and without what cannot be drawn."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 200)) * np.logspace(-2, 1.5, 60)[:, None] + rng.choice([0, -300, 300], (60, 1))
    rows[::3] = np.where(rng.random((20, 200)) < 0.7, -np.inf, rows[::3])
    return rows.astype(np.float32)


def kept_by_sorting(row, top_k, top_p):
    """What stays of a row, in float64, and whether rounding could decide otherwise."""
    row = np.asarray(row, np.float64)
    order = np.argsort(-row)[: min(top_k or row.size, np.isfinite(row).sum())]
    probabilities = np.exp(row[order] - row.max())
    before = (np.cumsum(probabilities) - probabilities) / probabilities.sum()
    count = max(1, (before < top_p).sum()) if top_p < 1 else len(order)
    return np.isin(np.arange(row.size), order[:count]), top_p < 1 and abs(before - top_p).min() < 1e-5


@pytest.mark.parametrize(("top_k", "top_p"), CUTS)
def test_bisection_keeps_what_sorting_keeps(top_k, top_p):
    rows = rows_of_logits()
    thresholds = np.asarray(find(jnp.asarray(rows), cut(top_k, top_p)))
    compared = 0
    for row, threshold in zip(rows, thresholds, strict=True):
        expected, doubtful = kept_by_sorting(row, top_k, top_p)
        if top_p > 0 and doubtful:
            continue
        np.testing.assert_array_equal((row >= threshold) & np.isfinite(row), expected)
        compared += 1
    assert compared > 45


def test_equal_logits_stay_together():
    row = jnp.array([[1.0, 2.0, 1.0, 0.0, 1.0, -0.0]])
    for top_k, kept in [(1, [1]), (2, [0, 1, 2, 4]), (4, [0, 1, 2, 4]), (5, [0, 1, 2, 3, 4, 5])]:
        assert np.flatnonzero(row[0] >= find(row, cut(top_k, 1.0))[0]).tolist() == kept, top_k


def test_the_threshold_lies_halfway_so_that_rounding_moves_nothing_across_it():
    row = jnp.array([[0.0, 3.0, 1.0, -jnp.inf]])
    assert find(row, cut(1, 1.0))[0] == 2.0
    assert find(row, cut(2, 1.0))[0] == 0.5
    assert find(row, cut(3, 1.0))[0] == find(row, cut(0, 1.0))[0] == -np.inf
    # Where no float lies between, it is the least that is kept.
    above = np.nextafter(np.float32(1), np.float32(2))
    assert find(jnp.array([[1.0, above]]), cut(1, 1.0))[0] == above


@pytest.mark.parametrize("count", [1, 31, 32, 33, 64, 100])
def test_bits_are_unpacked_from_any_column_on(count):
    rng = np.random.default_rng(count)
    expected = rng.random((3, count)) < 0.5
    filled = np.pad(expected, ((0, 0), (0, -count % 32)))
    table = jnp.asarray(np.packbits(filled, axis=1, bitorder="little").view("<u4"))
    words = padded_words(table, count, count)
    index = jnp.array([2, 0, 0, 1])
    unpack = jax.jit(allowed_columns, static_argnums=3)
    for size in {1, min(count, 7), count}:
        for start in {0, count - size, (count - size) // 2}:
            found = unpack(words, index, start, size)
            np.testing.assert_array_equal(found, expected[np.asarray(index), start : start + size])


def test_each_row_may_have_a_cut_of_its_own():
    rows, cuts = jnp.asarray(rows_of_logits()), [CUTS[number % len(CUTS)] for number in range(60)]
    top_k, top_p = (jnp.asarray(values) for values in zip(*cuts, strict=True))
    together = find(rows, cut(0, 1.0)._replace(top_k=top_k, top_p=top_p.astype(jnp.float32)))
    for number, one in enumerate(cuts):
        assert together[number] == find(rows, cut(*one))[number], one
