"""Low-rank adapters as a part of the parameters: put beside the base, taken from it, or added into it."""

import jax.numpy as jnp
from jax.lax import Precision

from jaxfc.config import Lora
from jaxfc.types import Params

ADAPTER = ("lora_a", "lora_b")
"""What an adapted matrix has beside its `kernel` [in, out]: A [in, rank] and B [rank, out]."""


def adapters_of(tree: Params) -> Params:
    """The adapters in a nested dict, and nothing else."""
    kept = {}
    for name, part in tree.items():
        if name in ADAPTER:
            kept[name] = part
        elif isinstance(part, dict) and (inner := adapters_of(part)):
            kept[name] = inner
    return kept


def base_of(tree: Params) -> Params:
    """The nested dict without its adapters."""
    parts = {name: part for name, part in tree.items() if name not in ADAPTER}
    return {name: base_of(part) if isinstance(part, dict) else part for name, part in parts.items()}


def combine(frozen: Params | None, trained: Params) -> Params:
    """All parameters, the arrays themselves: what is trained, beside what is not if anything is not."""
    if frozen is None:
        return trained
    return frozen | {name: combine(frozen.get(name), part) for name, part in trained.items()}


def merge(params: Params, lora: Lora | None) -> Params:
    """Parameters without adapters that do the same: `kernel + scale A B`, in float32.

    Args:
        params: stacked by layer, or any part of such a tree. What has no adapter stays as it is.
        lora: its scale; None where nothing has an adapter.
    """
    if not set(ADAPTER) <= params.keys():
        return {name: merge(part, lora) if isinstance(part, dict) else part for name, part in params.items()}
    a, b = (params[name].astype(jnp.float32) for name in ADAPTER)
    # Once per rollout, so that it costs nothing to be exact.
    added = lora.scale * jnp.matmul(a, b, precision=Precision.HIGHEST)
    return base_of(params) | {"kernel": params["kernel"].astype(jnp.float32) + added}
