"""The Flax decoder of the Qwen2 family, as pure functions over a shared prefix: encode, extend, decode."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jaxfc.models.attention import attend, attend_causally
from jaxfc.sharding import constrain
from jaxfc.types import Cache, Params, Prefix, Prompts

FLAT_LAYERS = 4
"""Up to this many layers the scan is laid out flat, so that XLA sees through it (no cache copies, no unused work)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The architecture: what a Hugging Face `config.json` says of it."""

    vocab_size: int
    width: int
    hidden_width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-6
    tied: bool = True
    """The output head is the embedding."""

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads cannot share {self.kv_heads} key-value heads evenly.")
        if self.head_width % 2:
            raise ValueError(f"head width {self.head_width} is odd; rotary positions turn pairs of features.")


def _param(rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str | None, ...], init) -> nnx.Param:
    return nnx.Param(init(rngs.params(), shape, jnp.float32), axes=axes)


class Linear(nnx.Module):
    """`x @ kernel + bias`; parameters are cast to the dtype of `x` here and nowhere else."""

    def __init__(self, sizes: tuple[int, int], axes: tuple[str, str], *, bias: bool = False, rngs: nnx.Rngs):
        self.kernel = _param(rngs, sizes, axes, nnx.initializers.normal(1 / math.sqrt(sizes[0])))
        self.bias = _param(rngs, sizes[1:], axes[1:], nnx.initializers.zeros) if bias else None

    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        """Apply it to the last axis."""
        y = x @ self.kernel[...].astype(x.dtype)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation, in float32."""

    def __init__(self, width: int, epsilon: float, *, rngs: nnx.Rngs):
        self.scale = _param(rngs, (width,), (None,), nnx.initializers.ones)
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalise the last axis."""
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.epsilon)
        return (y * self.scale[...]).astype(x.dtype)


class Block(nnx.Module):
    """One layer: attention and SwiGLU, each after a norm and added to the stream."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        heads, kv_heads = c.heads * c.head_width, c.kv_heads * c.head_width
        self.attention_norm = RMSNorm(c.width, c.norm_epsilon, rngs=rngs)
        self.q = Linear((c.width, heads), ("embed", "heads"), bias=True, rngs=rngs)
        self.k = Linear((c.width, kv_heads), ("embed", "kv_heads"), bias=True, rngs=rngs)
        self.v = Linear((c.width, kv_heads), ("embed", "kv_heads"), bias=True, rngs=rngs)
        self.o = Linear((heads, c.width), ("heads", "embed"), rngs=rngs)
        self.mlp_norm = RMSNorm(c.width, c.norm_epsilon, rngs=rngs)
        self.gate = Linear((c.width, c.hidden_width), ("embed", "hidden"), rngs=rngs)
        self.up = Linear((c.width, c.hidden_width), ("embed", "hidden"), rngs=rngs)
        self.down = Linear((c.hidden_width, c.width), ("hidden", "embed"), rngs=rngs)

    def project(self, x: Float[Array, "P G T D"], rotation) -> tuple[Array, Array, Array]:
        """Queries [P, G, T, H, Dh], keys and values [P, G, T, K, Dh], rotated to their positions."""
        x = self.attention_norm(x)
        q, k, v = (y.reshape(*x.shape[:-1], -1, self.config.head_width) for y in (self.q(x), self.k(x), self.v(x)))
        return rotate(q, rotation), rotate(k, rotation), v

    def finish(self, x: Float[Array, "P G T D"], attended: Float[Array, "P G T H Dh"]) -> Float[Array, "P G T D"]:
        """The rest of the layer, after attention."""
        x = x + self.o(attended.reshape(*x.shape[:-1], -1))
        y = self.mlp_norm(x)
        return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y))


class Network(nnx.Module):
    """All parameters of the decoder; the layers are stacked on a leading axis."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        c = config
        self.embed = _param(rngs, (c.vocab_size, c.width), ("vocab", "embed"), nnx.initializers.normal(0.02))
        make_blocks = nnx.vmap(lambda rngs: Block(c, rngs=rngs), transform_metadata={nnx.PARTITION_NAME: None})
        self.blocks = make_blocks(rngs.split(c.layers))
        self.norm = RMSNorm(c.width, c.norm_epsilon, rngs=rngs)
        if not c.tied:
            self.head = _param(rngs, (c.vocab_size, c.width), ("vocab", "embed"), nnx.initializers.normal(0.02))


def rotation_at(positions: Int[Array, "P G T"], config: DecoderConfig) -> tuple[Array, Array]:
    """Cosine and sine, [P, G, T, 1, Dh / 2] in float32, of rotary embedding. RoFormer, arXiv:2104.09864."""
    half = config.head_width // 2
    frequencies = config.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "P G T N Dh"], rotation: tuple[Array, Array]) -> Float[Array, "P G T N Dh"]:
    """Turn each pair (x[i], x[i + Dh / 2]) by its position's angle."""
    cosine, sine = rotation
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=-1).astype(x.dtype)


class Decoder:
    """The pure functions of one architecture. It holds no arrays; every function takes `params`."""

    def __init__(
        self, config: DecoderConfig, *, dtype: Any = jnp.float32, remat: bool = False, mesh: Mesh | None = None
    ):
        """Derive the functions.

        Args:
            config: the architecture.
            dtype: of matrix products.
            remat: recompute each layer in the backward pass.
            mesh: over which activations are split by row, and nothing else of them. Without one the compiler chooses,
                and on several devices may move every activation to where a feature of the embedding lies.
        """
        self.config, self.dtype, self.remat, self.mesh = config, dtype, remat, mesh
        abstract = nnx.eval_shape(lambda: Network(config, rngs=nnx.Rngs(0)))
        _, variables = nnx.split(abstract)
        self._block, _ = nnx.split(nnx.eval_shape(lambda: Block(config, rngs=nnx.Rngs(0))))
        self._norm, _ = nnx.split(nnx.eval_shape(lambda: RMSNorm(config.width, config.norm_epsilon, rngs=nnx.Rngs(0))))
        self.axes = {path: self._axes(path, variable) for path, variable in nnx.to_flat_state(variables)}
        self.axes = nnx.traversals.unflatten_mapping(self.axes)

    @staticmethod
    def _axes(path: tuple, variable) -> tuple[str | None, ...]:
        return ("layers", *variable.axes) if path[0] == "blocks" else variable.axes

    def init(self, key: Array) -> Params:
        """Random float32 parameters: a nested dict, its layers stacked on the first axis."""
        _, variables = nnx.split(Network(self.config, rngs=nnx.Rngs(params=key)))
        return nnx.to_pure_dict(variables)

    def head(self, params: Params) -> Float[Array, "V D"]:
        """The matrix whose rows give the logits of hidden states, token by token, in float32."""
        return params["embed"] if self.config.tied else params["head"]

    def encode(self, params: Params, prompts: Prompts) -> Prefix:
        """Run P prompts through the layers once; differentiable."""
        length = prompts.tokens.shape[1]
        x = self._embed(params, prompts.tokens[:, None])
        rotation = rotation_at(jnp.arange(length)[None, None], self.config)

        def layer(x, _, block):
            q, k, v = block.project(x, rotation)
            # Padding is on the right, so the causal mask alone keeps it from every token that counts.
            return block.finish(x, attend_causally(q, k, v)), (k[:, 0], v[:, 0])

        _, (keys, values) = self._scan(layer, params, x)
        last = jnp.maximum(prompts.lengths - 1, 0)
        last_tokens = jnp.take_along_axis(prompts.tokens, last[:, None], axis=1)[:, 0]
        return Prefix(keys, values, last, last_tokens)

    def extend(self, params: Params, completions: Int[Array, "B T"], prefix: Prefix) -> Float[Array, "B T D"]:
        """Hidden states from which each completion token is predicted: [b, t] belongs to completions[b, t]."""
        batch, length = completions.shape
        prompts = prefix.lengths.shape[0]
        tokens = completions.reshape(prompts, batch // prompts, length)
        first = jnp.broadcast_to(prefix.last_tokens[:, None, None], (*tokens.shape[:2], 1))
        x = self._embed(params, jnp.concatenate([first, tokens[..., :-1]], axis=-1))
        positions = prefix.lengths[:, None, None] + jnp.arange(length)
        rotation = rotation_at(positions, self.config)
        causal, seen = jnp.tri(length, dtype=bool), _seen(prefix)

        def layer(x, shared, block):
            q, k, v = block.project(x, rotation)
            return block.finish(x, attend(q, k, v, causal, shared, seen)), None

        x, _ = self._scan(layer, params, x, (prefix.keys, prefix.values))
        return self._final_norm(params, x).reshape(batch, length, -1)

    def decode(
        self, params: Params, tokens: Int[Array, " B"], step: Int[Array, ""], prefix: Prefix, cache: Cache
    ) -> tuple[Float[Array, "B D"], Cache]:
        """One position of every completion: `tokens` are the inputs at `step`, counted from the prompt's last token."""
        x = self._embed(params, tokens.reshape(prefix.lengths.shape[0], -1, 1))
        rotation = rotation_at(prefix.lengths[:, None, None] + step, self.config)
        so_far = (jnp.arange(cache.keys.shape[3]) <= step)[None]
        seen = _seen(prefix)

        def layer(carry, xs, block):
            x, keys, values = carry
            shared, index = xs
            q, k, v = block.project(x, rotation)
            at = (index, 0, 0, step, 0, 0)
            keys = jax.lax.dynamic_update_slice(keys, k[None].astype(keys.dtype), at)
            values = jax.lax.dynamic_update_slice(values, v[None].astype(values.dtype), at)
            own = (jax.lax.dynamic_index_in_dim(a, index, keepdims=False) for a in (keys, values))
            return (block.finish(x, attend(q, *own, so_far, shared, seen)), keys, values), None

        xs = ((prefix.keys, prefix.values), jnp.arange(self.config.layers))
        (x, keys, values), _ = self._scan(layer, params, (x, *cache), xs)
        return self._final_norm(params, x).reshape(tokens.shape[0], -1), Cache(keys, values)

    def empty_cache(self, prefix: Prefix, group_size: int, length: int) -> Cache:
        """A cache for `group_size` completions per prompt of up to `length` tokens."""
        layers, prompts, _, kv_heads, head_width = prefix.keys.shape
        zeros = jnp.zeros((layers, prompts, group_size, length, kv_heads, head_width), prefix.keys.dtype)
        return Cache(zeros, zeros)

    def _embed(self, params: Params, tokens: Int[Array, "P G T"]) -> Float[Array, "P G T D"]:
        # Whole in width for the look-up, as every weight is for its product.
        table = constrain(self.mesh, params["embed"], "vocab", None)
        return constrain(self.mesh, table[tokens].astype(self.dtype), "rows")

    def _final_norm(self, params: Params, x: Float[Array, "P G T D"]) -> Float[Array, "P G T D"]:
        return nnx.merge(self._norm, nnx.State(params["norm"]))(x)

    def _scan(self, layer, params: Params, carry, xs=None):
        """Scan `layer(carry, xs, block) -> (carry, ys)` over the stacked blocks."""

        def body(carry, inputs):
            block_params, xs = inputs
            return layer(carry, xs, nnx.merge(self._block, nnx.State(block_params)))

        body = jax.checkpoint(body) if self.remat else body
        layers = self.config.layers
        return jax.lax.scan(body, carry, (params["blocks"], xs), unroll=layers if layers <= FLAT_LAYERS else 1)


def _seen(prefix: Prefix) -> Bool[Array, "P S"]:
    return jnp.arange(prefix.keys.shape[2]) < prefix.lengths[:, None]


@functools.cache
def parameter_count(config: DecoderConfig) -> int:
    """How many numbers the model has."""
    shapes = jax.eval_shape(Decoder(config).init, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
