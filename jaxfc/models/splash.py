"""Attention on TPU: JAX's splash kernel over the shared-prefix layout; blocks that nothing sees cost nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxfc.sharding import spec

LANES = 128
"""What the sizes of blocks are multiples of."""
BLOCK = 512
"""Queries, and keys, of a block."""


class SharedPrefixMask(masks.Mask):
    """What the completions of one prompt see: keys are the prompt's, then their own, completion after completion.

    Query (g, t) sees the whole prompt, and key (g', u) where g' = g and u <= t. It is never held whole.
    """

    def __init__(self, prompt: int, length: int, queries: int):
        """Describe it.

        Args:
            prompt: keys of the prompt.
            length: of a completion (T).
            queries: of all completions, those that fill the last block included.
        """
        self._of = prompt, length, queries

    @property
    def shape(self) -> tuple[int, int]:
        """Queries and keys."""
        prompt, _, queries = self._of
        return queries, prompt + queries

    def __getitem__(self, block) -> np.ndarray:
        prompt, length, _ = self._of
        query, key = (np.arange(size)[part] for size, part in zip(self.shape, block, strict=True))
        query, own = query[:, None], key - prompt
        return (own < 0) | ((own <= query) & (own // length == query // length))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SharedPrefixMask) and self._of == other._of

    def __hash__(self) -> int:
        return hash(self._of)


def attend_causally(
    q: Float[Array, "P G T H Dh"],
    k: Float[Array, "P G T K Dh"],
    v: Float[Array, "P G T K Dh"],
    *,
    mesh: Mesh | None,
    interpret: bool = False,
) -> Float[Array, "P G T H Dh"]:
    """As `attention.attend_causally` without a window."""
    prompts, _, _, kv_heads, width = k.shape
    none = jnp.zeros((prompts, 0, kv_heads, width), k.dtype)
    lengths = jnp.zeros(prompts, jnp.int32)
    return attend_shared(q, k, v, (none, none), lengths, mesh=mesh, interpret=interpret)


def attend_shared(
    q: Float[Array, "P G T H Dh"],
    k: Float[Array, "P G T K Dh"],
    v: Float[Array, "P G T K Dh"],
    shared: tuple[Float[Array, "P S K Dh"], Float[Array, "P S K Dh"]],
    lengths: Int[Array, " P"],
    *,
    mesh: Mesh | None,
    interpret: bool = False,
) -> Float[Array, "P G T H Dh"]:
    """As `attention.attend_shared` without a window.

    Keys and values of a prompt and of its completions stand in one array, each once.

    Args:
        q: queries; H is a multiple of K.
        k: own keys.
        v: own values.
        shared: keys and values of the prompts.
        lengths: prompt positions that count.
        mesh: over which prompts and heads are spread; None if they are on one device.
        interpret: run the kernel step by step, on any device.
    """
    group, length, width = q.shape[1], q.shape[2], q.shape[4]
    block = min(BLOCK, _up(group * length, LANES))

    def own(x: Array) -> Array:
        return _filled(x.reshape(x.shape[0], group * length, *x.shape[3:]), block)

    attend = functools.partial(_attend, block, length, interpret)
    if mesh is not None:
        heads, kv_heads = (spec("rows", None, name) for name in ("heads", "kv_heads"))
        inputs = heads, kv_heads, kv_heads, (kv_heads, kv_heads), spec("rows")
        attend = jax.shard_map(attend, mesh=mesh, in_specs=inputs, out_specs=heads, check_vma=False)
    prompt = tuple(_filled(x, block) for x in shared)
    out = attend(own(q * width**-0.5), own(k), own(v), prompt, lengths)
    return out[:, : group * length].reshape(q.shape)


def _attend(block: int, length: int, interpret: bool, q, k, v, shared, lengths):
    """One device's share: [P, queries, H, Dh] over [P, S + queries, K, Dh]."""
    queries, room = q.shape[1], shared[0].shape[1]
    mask = SharedPrefixMask(room, length, queries)
    sizes = splash.BlockSizes(
        **dict.fromkeys(("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq"), block)
    )
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([mask] * q.shape[2]), block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )

    def one(q, k, v, shared_k, shared_v, count):
        keys, values = (jnp.concatenate([prompt, own]).swapaxes(0, 1) for prompt, own in ((shared_k, k), (shared_v, v)))
        # Positions that do not count are of another segment, which no query is of.
        counts = jnp.concatenate([jnp.arange(room) < count, jnp.ones(queries, bool)]).astype(jnp.int32)
        segments = splash.SegmentIds(jnp.ones(queries, jnp.int32), counts)
        return kernel(q.swapaxes(0, 1), keys, values, segment_ids=segments).swapaxes(0, 1)

    return jax.vmap(one)(q, k, v, *shared, lengths)


def _filled(x: Array, block: int) -> Array:
    """[P, N, ...] with N filled up to a multiple of the block."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % block), *((0, 0),) * (x.ndim - 2)))


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
