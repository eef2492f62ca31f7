"""Tokens -> rows of the embedding, where they lie, without moving the table."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxfc.sharding import spec


def look_up(
    table: Float[Array, "V D"], tokens: Int[Array, "P G T"], dtype: Any, mesh: Mesh | None
) -> Float[Array, "P G T D"]:
    """`table[tokens]` in this dtype; its gradient is added up in the type of the table.

    On a mesh a device has some rows of the table and a part of their width. It looks up that part for the tokens of all
    devices that share its rows of the batch's shard, and gets the rest of its own tokens' width from them: what travels
    is as large as the result, however large the vocabulary.

    Args:
        table: the embedding; on a mesh, placed as `spec("vocab", "embed")`.
        tokens: below V; on a mesh, placed as `spec("rows")`.
        dtype: of the result.
        mesh: over which both are spread; None if they are on one device.
    """
    if mesh is None or mesh.size == 1:
        return table[tokens].astype(dtype)
    look = functools.partial(_look_up, dtype)
    inputs = spec("vocab", "embed"), spec("rows")
    return jax.shard_map(look, mesh=mesh, in_specs=inputs, out_specs=spec("rows"), check_vma=False)(table, tokens)


def _look_up(dtype: Any, table: Float[Array, "v e"], tokens: Int[Array, "p G T"]) -> Float[Array, "p G T D"]:
    all_tokens = jax.lax.all_gather(tokens, "fsdp", tiled=True)
    place = all_tokens - jax.lax.axis_index("tensor") * table.shape[0]
    here = (place >= 0) & (place < table.shape[0])
    found = jnp.where(here[..., None], table[jnp.where(here, place, 0)], 0).astype(dtype)
    # One device of the tensor axis has each token, the others have zeros.
    found = jax.lax.psum(found, "tensor")
    return jax.lax.all_to_all(found, "fsdp", split_axis=0, concat_axis=3, tiled=True)
