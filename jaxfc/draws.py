"""How tokens are drawn: the settings as arrays, and the draw itself."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxfc.types import Sampling

BLOCK = 128
"""Tokens whose probabilities are added up before one of them is looked for."""


def make_sampling(
    *, temperature: float, top_k: int = 0, top_p: float = 1.0, stop_tokens: tuple[int, ...], max_tokens: int
) -> Sampling:
    """Sampling settings as arrays, the form that compiled programs take."""
    return Sampling(
        jnp.float32(temperature),
        jnp.int32(top_k),
        jnp.float32(top_p),
        jnp.asarray(stop_tokens, jnp.int32),
        jnp.int32(max_tokens),
    )


def draw(
    logits: Float[Array, "N V"],
    uniforms: Float[Array, " N"],
    temperature: Float[Array, ""] | Float[Array, " N"],
) -> Int[Array, " N"]:
    """One token a row from softmax(logits), where its uniform number falls; the likeliest when the temperature is 0.

    The cumulative distribution is inverted in two stages, blocks and the tokens of one, so that no row is sorted, no
    random number is made for each token and none is summed up whole. float32 uniforms have 2^-23 steps: what
    is less likely than that is drawn as if it were more or less so by up to one step.
    """

    def invert():
        weights = jnp.exp(logits - logits.max(axis=1, keepdims=True))
        blocks = jnp.pad(weights, ((0, 0), (0, -logits.shape[1] % BLOCK))).reshape(len(uniforms), -1, BLOCK)
        below = jnp.cumsum(blocks.sum(axis=2), axis=1)
        target = uniforms * below[:, -1]
        block = jnp.argmax(below > target[:, None], axis=1)
        inside = jnp.cumsum(jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0], axis=1)
        before = jnp.where(block > 0, jnp.take_along_axis(below, jnp.maximum(block - 1, 0)[:, None], axis=1)[:, 0], 0)
        # The two ways of adding up differ by rounding: never look past the end of the block.
        rest = jnp.minimum(target - before, inside[:, -1] * (1 - 1e-6))
        return block * BLOCK + jnp.argmax(inside > rest[:, None], axis=1)

    def likeliest():
        return jnp.argmax(logits, axis=1)

    if temperature.ndim == 0:
        return jax.lax.cond(temperature > 0, invert, likeliest).astype(jnp.int32)
    drawn, unused = temperature > 0, jnp.zeros_like(uniforms, int)
    inverted = jax.lax.cond(drawn.any(), invert, lambda: unused)
    return jnp.where(drawn, inverted, jax.lax.cond(drawn.all(), lambda: unused, likeliest)).astype(jnp.int32)
