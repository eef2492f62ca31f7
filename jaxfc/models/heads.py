"""Key-value heads over the tensor axis of a mesh that has more devices than they are: each is held by several."""

from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxfc.sharding import constrain
from jaxfc.types import Params


def held_heads(kv_heads: int, mesh: Mesh | None) -> int:
    """How many the decoder works with: those of the model, or one for each device of the tensor axis if there are more.

    A device then has the one head that its query heads attend to, and its cache.
    """
    tensor = 1 if mesh is None else mesh.shape["tensor"]
    return kv_heads if tensor % kv_heads else tensor


def repeat_heads(layer: Params, kv_heads: int, mesh: Mesh | None, dtype: Any) -> Params:
    """A layer that makes `held_heads` keys and values, where its own makes `kv_heads`.

    Weights are repeated instead of what they make: they are fewer than the numbers of a batch, and for decoding they
    are repeated once. A gradient is the sum over the copies of a head.

    Args:
        layer: parameters of one layer, with adapters or without; a device may have a part of a head.
        kv_heads: of the model.
        mesh: over which they are spread.
        dtype: in which they travel: that of the products.
    """
    copies = held_heads(kv_heads, mesh) // kv_heads
    if copies == 1:
        return layer

    def repeat(leaf: Float[Array, "... KDh"], *axes: str | None) -> Float[Array, "... HeldDh"]:
        cut = leaf.shape[-1] % mesh.shape["tensor"] == 0
        # Pinned to its place first: what is gathered is then what has been cast.
        whole = constrain(mesh, constrain(mesh, leaf.astype(dtype), *axes, "kv_heads" if cut else None), *axes, None)
        heads = whole.reshape(*leaf.shape[:-1], kv_heads, -1)
        return constrain(mesh, jnp.repeat(heads, copies, axis=-2).reshape(*leaf.shape[:-1], -1), *axes, "kv_heads")

    def repeated(linear: Params) -> Params:
        axes = {"kernel": ("embed",), "bias": (), "lora_b": (None,)}
        return linear | {name: repeat(linear[name], *axes[name]) for name in axes.keys() & linear.keys()}

    return layer | {name: repeated(layer[name]) for name in ("k", "v")}
