import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.models.attention import attend

P, G, T, S, H, K, DH = 2, 3, 4, 5, 6, 2, 8
CAUSAL = jnp.tri(T, dtype=bool)


def random(*shape, seed):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture
def inputs():
    q, k, v = (random(P, G, T, heads, DH, seed=i) for i, heads in enumerate((H, K, K)))
    shared = random(P, S, K, DH, seed=3), random(P, S, K, DH, seed=4)
    seen = (jnp.arange(S) < jnp.array([[2], [5]]))[:, None]
    return q, k, v, CAUSAL, shared, seen


def by_hand(q, k, v, mask, shared, seen):
    """In float64, one query at a time: softmax over the list of all keys that it may see."""
    q, k, v, prompt_k, prompt_v = (np.asarray(a, np.float64) for a in (q, k, v, *shared))
    out = np.zeros_like(q)
    for p, g, t, h in np.ndindex(*q.shape[:4]):
        kv = h // (q.shape[3] // k.shape[3])
        visible = np.broadcast_to(seen, (q.shape[0], q.shape[2], prompt_k.shape[1]))[p, t]
        keys = np.concatenate([prompt_k[p, visible, kv], k[p, g, np.asarray(mask)[t], kv]])
        values = np.concatenate([prompt_v[p, visible, kv], v[p, g, np.asarray(mask)[t], kv]])
        scores = np.exp(keys @ q[p, g, t, h] / np.sqrt(q.shape[-1]))
        out[p, g, t, h] = scores @ values / scores.sum()
    return out


def test_it_is_one_softmax_over_the_prompts_keys_and_the_completions_own(inputs):
    np.testing.assert_allclose(attend(*inputs), by_hand(*inputs), atol=1e-6)


def test_each_query_may_see_its_own_part_of_the_prompt(inputs):
    *rest, _ = inputs
    seen = jnp.asarray(np.random.default_rng(0).random((P, T, S)) < 0.5)
    np.testing.assert_allclose(attend(*rest, seen), by_hand(*rest, seen), atol=1e-6)


def test_a_prompt_that_is_not_seen_is_as_no_prompt(inputs):
    q, k, v, mask, shared, seen = inputs
    unseen = attend(q, k, v, mask, shared, jnp.zeros_like(seen))
    np.testing.assert_allclose(unseen, attend(q, k, v, mask), atol=1e-6)


def test_equal_keys_average_the_values():
    # Two prompt positions are seen, with values 1 and 2; query t sees its own t + 1 positions, all of value 6.
    zeros = jnp.zeros((1, 1, 2, 1, 2))
    shared = jnp.zeros((1, 3, 1, 2)), jnp.array([1.0, 2.0, 100.0])[None, :, None, None] * jnp.ones(2)
    out = attend(zeros, zeros, zeros + 6, jnp.tri(2, dtype=bool), shared, jnp.array([[[True, True, False]]]))
    np.testing.assert_allclose(out[0, 0, :, 0, 0], [(1 + 2 + 6) / 3, (1 + 2 + 6 + 6) / 4], rtol=1e-6)


def test_what_is_masked_reaches_neither_values_nor_gradients(inputs):
    q, k, v, mask, shared, seen = inputs
    # Query t of mask sees own positions up to t but never the last.
    mask = mask.at[:, -1].set(False)
    garbage = 1e30
    hide = ~seen[:, 0, :, None, None]
    dirty = (
        q,
        k.at[:, :, -1].set(garbage),
        v.at[:, :, -1].set(-garbage),
        mask,
        tuple(jnp.where(hide, garbage, a) for a in shared),
        seen,
    )
    clean = (q, k, v, mask, shared, seen)

    def total(q, k, v, mask, shared, seen):
        out = attend(q, k, v, mask, shared, seen)
        return (out * random(*out.shape, seed=5)).sum(), out

    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2, 4), has_aux=True))
    for one, other in zip(jax.tree.leaves(gradients(*clean)), jax.tree.leaves(gradients(*dirty)), strict=True):
        np.testing.assert_array_equal(one, other)
    (_, own, _, (prompt, _)), _ = gradients(*dirty)
    assert not own[:, :, -1].any()
    assert not (prompt * hide).any()


def test_scores_beyond_the_range_of_exp_stay_finite(inputs):
    q, k, v, mask, shared, seen = inputs
    # Scores of up to about 1e4: exp of them overflows, their differences decide.
    out = attend(q * 1e2, k * 1e2, v, mask, tuple(a * 1e2 for a in shared), seen)
    assert np.isfinite(out).all()
    assert np.abs(out).max() <= max(np.abs(v).max(), np.abs(shared[1]).max() * 1e2) * (1 + 1e-6)


def test_bfloat16_in_is_bfloat16_out_and_close(inputs):
    q, k, v, mask, shared, seen = inputs
    low = [a.astype(jnp.bfloat16) for a in (q, k, v, *shared)]
    out = attend(*low[:3], mask, tuple(low[3:]), seen)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), attend(*inputs), atol=0.03)
