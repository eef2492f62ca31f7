"""The parameters of the decoder as Flax modules, and what each layer computes around its attention."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxfc.config import Lora, Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3's way to more positions: slow rotations are slowed further, fast ones stay, those between are blended."""

    factor: float
    """By how much the slowest are slowed."""
    low_frequency: float
    """Rotations with fewer turns than this within the original context are slow."""
    high_frequency: float
    """Those with more are fast."""
    original_length: int
    """Positions of the original context."""


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
    qkv_bias: bool = True
    """Queries, keys and values have a bias, as in Qwen2."""
    qk_norm: bool = False
    """Queries and keys are normalised head by head, as in Qwen3."""
    rope_scaling: RopeScaling | None = None
    windows: tuple[int | None, ...] | None = None
    """How many positions each layer attends to, its own included, None being all; None for all layers alike."""

    def __post_init__(self):
        if self.windows is not None and len(self.windows) != self.layers:
            raise ValueError(f"{len(self.windows)} attention windows are given for {self.layers} layers.")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads cannot share {self.kv_heads} key-value heads evenly.")
        if self.head_width % 2:
            raise ValueError(f"head width {self.head_width} is odd; rotary positions turn pairs of features.")


def _param(rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str | None, ...], init) -> nnx.Param:
    return nnx.Param(init(rngs.params(), shape, jnp.float32), axes=axes)


class Linear(nnx.Module):
    """`x @ kernel + bias`, plus `scale (x @ A) @ B`; they are cast to the dtype of `x` here and nowhere else."""

    def __init__(
        self,
        sizes: tuple[int, int],
        axes: tuple[str, str],
        *,
        bias: bool = False,
        lora: Lora | None = None,
        rngs: nnx.Rngs,
    ):
        self.kernel = _param(rngs, sizes, axes, nnx.initializers.normal(1 / math.sqrt(sizes[0])))
        self.bias = _param(rngs, sizes[1:], axes[1:], nnx.initializers.zeros) if bias else None
        self.scale = None if lora is None else lora.scale
        if lora is not None:
            # Uniform up to 1 / sqrt(in), as in PEFT.
            uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
            self.lora_a = _param(rngs, (sizes[0], lora.rank), (axes[0], None), uniform)
            self.lora_b = _param(rngs, (lora.rank, sizes[1]), (None, axes[1]), nnx.initializers.zeros)

    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        """Apply it to the last axis."""
        y = x @ self.kernel[...].astype(x.dtype)
        if self.scale is not None:
            y += self.scale * ((x @ self.lora_a[...].astype(x.dtype)) @ self.lora_b[...].astype(x.dtype))
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

    def __init__(self, config: DecoderConfig, lora: Lora | None = None, *, rngs: nnx.Rngs):
        c = self.config = config
        heads, kv_heads = c.heads * c.head_width, c.kv_heads * c.head_width

        def linear(name: Target, sizes: tuple[int, int], axes: tuple[str, str], *, bias: bool = False) -> Linear:
            adapted = lora is not None and name in lora.targets
            return Linear(sizes, axes, bias=bias, lora=lora if adapted else None, rngs=rngs)

        self.attention_norm = RMSNorm(c.width, c.norm_epsilon, rngs=rngs)
        self.q = linear("q", (c.width, heads), ("embed", "heads"), bias=c.qkv_bias)
        self.k = linear("k", (c.width, kv_heads), ("embed", "kv_heads"), bias=c.qkv_bias)
        self.v = linear("v", (c.width, kv_heads), ("embed", "kv_heads"), bias=c.qkv_bias)
        if c.qk_norm:
            self.q_norm = RMSNorm(c.head_width, c.norm_epsilon, rngs=rngs)
            self.k_norm = RMSNorm(c.head_width, c.norm_epsilon, rngs=rngs)
        self.o = linear("o", (heads, c.width), ("heads", "embed"))
        self.mlp_norm = RMSNorm(c.width, c.norm_epsilon, rngs=rngs)
        self.gate = linear("gate", (c.width, c.hidden_width), ("embed", "hidden"))
        self.up = linear("up", (c.width, c.hidden_width), ("embed", "hidden"))
        self.down = linear("down", (c.hidden_width, c.width), ("hidden", "embed"))

    def project(self, x: Float[Array, "P G T D"], rotation) -> tuple[Array, Array, Array]:
        """Queries [P, G, T, H, Dh], keys and values [P, G, T, K, Dh], rotated to their positions."""
        x = self.attention_norm(x)
        q, k, v = (y.reshape(*x.shape[:-1], -1, self.config.head_width) for y in (self.q(x), self.k(x), self.v(x)))
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        return rotate(q, rotation), rotate(k, rotation), v

    def finish(self, x: Float[Array, "P G T D"], attended: Float[Array, "P G T H Dh"]) -> Float[Array, "P G T D"]:
        """The rest of the layer, after attention."""
        x = x + self.o(attended.reshape(*x.shape[:-1], -1))
        y = self.mlp_norm(x)
        return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y))


class Network(nnx.Module):
    """All parameters of the decoder; the layers are stacked on a leading axis."""

    def __init__(self, config: DecoderConfig, lora: Lora | None = None, *, rngs: nnx.Rngs):
        c = config
        self.embed = _param(rngs, (c.vocab_size, c.width), ("vocab", "embed"), nnx.initializers.normal(0.02))
        make_blocks = nnx.vmap(lambda rngs: Block(c, lora, rngs=rngs), transform_metadata={nnx.PARTITION_NAME: None})
        self.blocks = make_blocks(rngs.split(c.layers))
        self.norm = RMSNorm(c.width, c.norm_epsilon, rngs=rngs)
        if not c.tied:
            self.head = _param(rngs, (c.vocab_size, c.width), ("vocab", "embed"), nnx.initializers.normal(0.02))


def rotation_at(positions: Int[Array, "P G T"], config: DecoderConfig) -> tuple[Array, Array]:
    """Cosine and sine, [P, G, T, 1, Dh / 2] in float32, of rotary embedding. RoFormer, arXiv:2104.09864."""
    half = config.head_width // 2
    frequencies = config.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if config.rope_scaling is not None:
        frequencies = _slowed(frequencies, config.rope_scaling)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def _slowed(frequencies: Float[Array, " F"], scaling: RopeScaling) -> Float[Array, " F"]:
    """Frequencies in radians per position, for a longer context. Llama 3.1, arXiv:2407.21783, and its released code."""
    turns = scaling.original_length * frequencies / (2 * math.pi)
    kept = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
    kept = jnp.clip(kept, 0, 1)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor


def rotate(x: Float[Array, "P G T N Dh"], rotation: tuple[Array, Array]) -> Float[Array, "P G T N Dh"]:
    """Turn each pair (x[i], x[i + Dh / 2]) by its position's angle."""
    cosine, sine = rotation
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=-1).astype(x.dtype)
