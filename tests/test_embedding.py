import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.models.embedding import look_up
from jaxfc.sharding import make_mesh, rows, shardings

V, D, P, G, T = 24, 16, 8, 2, 5


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 2, 2), (1, 8, 1), (8, 1, 1), (1, 4, 2)], ids=str)
def test_a_mesh_finds_the_rows_of_the_table_and_adds_up_their_gradient(shape, dtype):
    table = jax.random.normal(jax.random.key(0), (V, D))
    # Some tokens are frequent, so that many gradients meet in one row.
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, V, (P, G, T)) // 2 * 2)
    weights = jax.random.normal(jax.random.key(1), (P, G, T, D))

    def loss(mesh, table, tokens):
        found = look_up(table, tokens, dtype, mesh)
        assert found.dtype == dtype
        return (found * weights).sum(), found

    mesh = make_mesh(shape)
    placed = jax.device_put(table, shardings(mesh, ("vocab", "embed"))), jax.device_put(tokens, rows(mesh))
    gradient = jax.jit(jax.grad(loss, argnums=1, has_aux=True), static_argnums=0)
    (expected, values), (found, on_mesh) = gradient(None, table, tokens), gradient(mesh, *placed)
    np.testing.assert_array_equal(values, table[tokens].astype(dtype))
    np.testing.assert_array_equal(on_mesh, values)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert not np.asarray(found)[1::2].any() and found.dtype == jnp.float32
