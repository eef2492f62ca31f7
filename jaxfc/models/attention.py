"""Attention of many completions to one shared prompt and to themselves: the one primitive of the decoder."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

QUERY_BLOCK = 256
"""Queries of a prompt whose scores are held at once: memory grows with the prompt's length, not with its square."""


def attend_causally(
    q: Float[Array, "P G T H Dh"], k: Float[Array, "P G T K Dh"], v: Float[Array, "P G T K Dh"]
) -> Float[Array, "P G T H Dh"]:
    """Each position attends to itself and those before it; a long sequence goes through in blocks of queries."""
    length = q.shape[2]
    if length <= QUERY_BLOCK:
        return attend(q, k, v, jnp.tri(length, dtype=bool))

    @jax.checkpoint
    def attend_block(block):
        queries, start = block
        mask = start + jnp.arange(QUERY_BLOCK)[:, None] >= jnp.arange(length)
        return attend(queries, k, v, mask)

    padded = jnp.pad(q, ((0, 0), (0, 0), (0, -length % QUERY_BLOCK), (0, 0), (0, 0)))
    blocks = jnp.moveaxis(padded.reshape(*q.shape[:2], -1, QUERY_BLOCK, *q.shape[3:]), 2, 0)
    out = jax.lax.map(attend_block, (blocks, jnp.arange(len(blocks)) * QUERY_BLOCK))
    return jnp.moveaxis(out, 0, 2).reshape(padded.shape)[:, :, :length]


def attend(
    q: Float[Array, "P G T H Dh"],
    k: Float[Array, "P G U K Dh"],
    v: Float[Array, "P G U K Dh"],
    mask: Bool[Array, "T U"],
    shared: tuple[Float[Array, "P S K Dh"], Float[Array, "P S K Dh"]] | None = None,
    seen: Bool[Array, "P S"] | None = None,
) -> Float[Array, "P G T H Dh"]:
    """Softmax attention over two sets of keys at once, the completion's own and its prompt's.

    The G completions of a prompt read its keys as one matrix product; no array repeats them. Scores and softmax are
    float32.

    Args:
        q: queries; H is a multiple of K (grouped-query attention, arXiv:2305.13245).
        k: own keys.
        v: own values.
        mask: True where query t may attend to own position u.
        shared: keys and values of the prompts.
        seen: True on the prompt positions that count.

    Returns:
        The attended values, in the dtype of `q`.
    """
    prompts, group, length, heads, width = q.shape
    kv_heads = k.shape[3]
    q = (q * width**-0.5).reshape(prompts, group, length, kv_heads, heads // kv_heads, width)
    scores = jnp.einsum("pgtkrd,pgukd->pgktru", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, :], scores, -jnp.inf)
    top = jax.lax.stop_gradient(scores.max(axis=-1))
    if shared is not None:
        prompt_k, prompt_v = shared
        prompt_scores = jnp.einsum("pgtkrd,pskd->pkgtrs", q, prompt_k, preferred_element_type=jnp.float32)
        prompt_scores = jnp.where(seen[:, None, None, None, None], prompt_scores, -jnp.inf)
        top = jnp.maximum(top, jax.lax.stop_gradient(prompt_scores.max(axis=-1)).swapaxes(1, 2))
    weights = jnp.exp(scores - top[..., None])
    total = weights.sum(axis=-1)
    out = jnp.einsum("pgktru,pgukd->pgtkrd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    if shared is not None:
        weights = jnp.exp(prompt_scores - top.swapaxes(1, 2)[..., None])
        total = total + weights.sum(axis=-1).swapaxes(1, 2)
        weights = weights.astype(v.dtype)
        out = out + jnp.einsum("pkgtrs,pskd->pgtkrd", weights, prompt_v, preferred_element_type=jnp.float32)
    # [P, G, K, T, R] -> [P, G, T, K, R]
    out = out / total.swapaxes(2, 3)[..., None]
    return out.reshape(prompts, group, length, heads, width).astype(q.dtype)
