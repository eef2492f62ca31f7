"""The TPU kernel, interpreted, against plain attention: values and gradients, on one device and on a mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.models import splash
from jaxfc.models.attention import attend_causally, attend_shared
from jaxfc.sharding import make_mesh, rows

P, G, H, K, DH = 4, 3, 4, 2, 16


def inputs(length, room):
    def random(seed, *shape):
        return jax.random.normal(jax.random.key(seed), shape)

    own = random(0, P, G, length, H, DH), random(1, P, G, length, K, DH), random(2, P, G, length, K, DH)
    return *own, (random(3, P, room, K, DH), random(4, P, room, K, DH))


@pytest.mark.parametrize("shape", [None, (2, 2, 2)])
@pytest.mark.parametrize(("length", "room"), [(50, 70), (128, 1), (200, 600)])
def test_it_is_plain_attention_and_so_is_its_gradient(shape, length, room):
    given, lengths = inputs(length, room), jnp.array([room, room // 2, 0, 1])
    mesh = shape and make_mesh(shape)
    if mesh:
        given, lengths = jax.device_put((given, lengths), rows(mesh))

    def loss(attend, q, k, v, shared):
        return jnp.sin(attend(q, k, v, shared, lengths)).sum()

    def both(attend):
        return jax.jit(jax.value_and_grad(functools.partial(loss, attend), argnums=(0, 1, 2, 3)))(*given)

    expected, found = both(attend_shared), both(functools.partial(splash.attend_shared, mesh=mesh, interpret=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), expected, found)


def test_a_prompt_attends_causally():
    q, k, v, _ = inputs(150, 1)
    found = splash.attend_causally(q, k, v, mesh=None, interpret=True)
    np.testing.assert_allclose(found, attend_causally(q, k, v), atol=1e-5)


def test_the_mask_is_that_of_the_layout():
    mask = splash.SharedPrefixMask(prompt=3, length=2, queries=4)
    expected = np.array(
        [
            [1, 1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 1, 0, 0],
            [1, 1, 1, 0, 0, 1, 0],
            [1, 1, 1, 0, 0, 1, 1],
        ]
    )
    np.testing.assert_array_equal(mask[:, :], expected)
    np.testing.assert_array_equal(mask[1:3, 2:6], expected[1:3, 2:6])
    assert mask == splash.SharedPrefixMask(3, 2, 4) != splash.SharedPrefixMask(3, 1, 4)
