"""Attention of many completions to one shared prompt and to themselves: the one primitive of the decoder."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxfc.types import Cache, Lanes

QUERY_BLOCK = 256
"""Queries of a prompt whose scores are held at once: memory grows with the prompt's length, not with its square."""


EVERYTHING = 2**30
"""A window that reaches back past all positions."""

Window = int | Int[Array, ""] | None
"""How many positions a query attends to, the one before it being its own; None is all."""


def within(query: Int[Array, "..."], key: Int[Array, "..."], window: Window) -> Bool[Array, "..."]:
    """Whether a query at one position may attend to a key at another of the same sequence."""
    seen = key <= query
    return seen if window is None else seen & (query - key < window)


def attend_causally(
    q: Float[Array, "P G T H Dh"],
    k: Float[Array, "P G T K Dh"],
    v: Float[Array, "P G T K Dh"],
    window: Window = None,
) -> Float[Array, "P G T H Dh"]:
    """Each position attends to itself and those before it; a long sequence goes through in blocks of queries."""
    length = q.shape[2]
    positions = jnp.arange(length)
    if length <= QUERY_BLOCK:
        return attend(q, k, v, within(positions[:, None], positions, window))

    @jax.checkpoint
    def attend_block(block):
        queries, start = block
        mask = within(start + jnp.arange(QUERY_BLOCK)[:, None], positions, window)
        return attend(queries, k, v, mask)

    padded = jnp.pad(q, ((0, 0), (0, 0), (0, -length % QUERY_BLOCK), (0, 0), (0, 0)))
    blocks = jnp.moveaxis(padded.reshape(*q.shape[:2], -1, QUERY_BLOCK, *q.shape[3:]), 2, 0)
    out = jax.lax.map(attend_block, (blocks, jnp.arange(len(blocks)) * QUERY_BLOCK))
    return jnp.moveaxis(out, 0, 2).reshape(padded.shape)[:, :, :length]


def attend_shared(
    q: Float[Array, "P G T H Dh"],
    k: Float[Array, "P G T K Dh"],
    v: Float[Array, "P G T K Dh"],
    shared: tuple[Float[Array, "P S K Dh"], Float[Array, "P S K Dh"]],
    lengths: Int[Array, " P"],
    window: Window = None,
) -> Float[Array, "P G T H Dh"]:
    """Each completion attends to its prompt, of `lengths` positions, and causally to itself, which comes after."""
    own, prompt = jnp.arange(q.shape[2]), jnp.arange(shared[0].shape[1])
    seen = (prompt < lengths[:, None])[:, None]
    if window is not None:
        seen &= within((lengths[:, None] + own)[..., None], prompt, window)
    return attend(q, k, v, within(own[:, None], own, window), shared, seen)


def attend(
    q: Float[Array, "P G T H Dh"],
    k: Float[Array, "P G U K Dh"],
    v: Float[Array, "P G U K Dh"],
    mask: Bool[Array, "T U"],
    shared: tuple[Float[Array, "P S K Dh"], Float[Array, "P S K Dh"]] | None = None,
    seen: Bool[Array, "P _ S"] | None = None,
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
        seen: True on the prompt positions that count, for each query or for all alike.

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
        prompt_scores = jnp.where(seen[:, None, None, :, None], prompt_scores, -jnp.inf)
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


def attend_cached(
    q: Float[Array, "R Q H Dh"],
    own: Cache,
    length: Int[Array, " R"],
    shared: Cache,
    prompt_length: Int[Array, " N"],
    lanes: Lanes,
    window: Window = None,
) -> Float[Array, "R Q H Dh"]:
    """`attend` for decoding: the queries of R slots over their own cache and their prompts'.

    Queries move into the lanes of their prompt and their results move back; keys and values stay where they are, and a
    prompt's are read once for all its completions.

    Args:
        q: queries of Q successive positions of each slot.
        own: this layer's cache of the slots; the positions of the queries are already written.
        length: position of each slot's first query in its own cache.
        shared: this layer's cache of N prompts.
        prompt_length: positions of each prompt that count.
        lanes: which slot reads which prompt.
        window: how far back a query sees.
    """
    slots, count, heads, width = q.shape
    prompts, kv_heads = shared.keys.shape[:2]
    repeats = heads // kv_heads
    q = (q * width**-0.5).reshape(slots, count, kv_heads, repeats, width)

    positions = jnp.repeat(length[:, None] + jnp.arange(count), repeats, axis=1)
    visible = within(positions[..., None], jnp.arange(own.values.shape[2]), window)
    alone = _attend_part(jnp.moveaxis(q, 2, 1).reshape(slots, kv_heads, -1, width), own, visible)
    alone = [jnp.moveaxis(a.reshape(slots, kv_heads, count, repeats, -1), 1, 2) for a in alone]

    gathered = _take_rows(q, lanes.slot_of).reshape(prompts, -1, *q.shape[1:])
    in_lanes = jnp.moveaxis(gathered, 3, 1).reshape(prompts, kv_heads, -1, width)
    seen = jnp.arange(shared.values.shape[2]) < prompt_length[:, None]
    seen = seen[:, None]
    if window is not None:
        # A query stands behind its whole prompt.
        reached = _take_rows(positions, lanes.slot_of).reshape(prompts, -1) + prompt_length[:, None]
        seen &= within(reached[..., None], jnp.arange(shared.values.shape[2]), window)
    prompt = _attend_part(in_lanes, shared, seen)
    prompt = [jnp.moveaxis(a.reshape(prompts, kv_heads, -1, count, repeats, a.shape[-1]), 1, 3) for a in prompt]
    prompt = [_take_rows(a.reshape(-1, *a.shape[2:]), lanes.lane_of) for a in prompt]

    top = jnp.maximum(alone[1], prompt[1])
    parts = [(part, jnp.exp(part[1] - top)) for part in (alone, prompt)]
    out = sum(part[0] * scale for part, scale in parts) / sum(part[2] * scale for part, scale in parts)
    return out.reshape(slots, count, heads, width).astype(q.dtype)


LOWEST = -1e30
"""Below any score: where nothing is visible, the maximum is this instead of -inf, and the weights are 0."""


def _attend_part(
    q: Float[Array, "N K M Dh"], cache: Cache, visible: Bool[Array, "N _ U"]
) -> tuple[Float[Array, "N K M Dh"], Float[Array, "N K M 1"], Float[Array, "N K M 1"]]:
    """A softmax that can be put together with others: sum of weights x values, largest score, sum of weights."""
    scores = jnp.einsum("nkmd,nkdu->nkmu", q, cache.keys.astype(q.dtype), preferred_element_type=jnp.float32)
    if cache.key_scales is not None:
        scores = scores * cache.key_scales[:, :, None]
    scores = jnp.where(visible[:, None], scores, -jnp.inf)
    top = scores.max(axis=-1, keepdims=True, initial=LOWEST)
    weights = jnp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    if cache.value_scales is not None:
        weights = weights * cache.value_scales[:, :, None]
    weights = weights.astype(q.dtype)
    out = jnp.einsum("nkmu,nkud->nkmd", weights, cache.values.astype(q.dtype), preferred_element_type=jnp.float32)
    return out, top, total


def _take_rows(x: Array, rows: Int[Array, "n M"]) -> Array:
    """Rows of x, [n * m, ...] -> [n * M, ...], each looked up within its shard."""
    parts = x.reshape(rows.shape[0], -1, *x.shape[1:])
    return jax.vmap(lambda part, rows: part[rows])(parts, rows).reshape(-1, *x.shape[1:])
