"""The Flax decoder of Qwen2, Qwen3 and Llama 3, as pure functions over a shared prefix: encode, extend, decode."""

import functools
import math
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxfc.config import Lora, Remat
from jaxfc.models.attention import EVERYTHING, attend_cached, attend_causally, attend_shared
from jaxfc.models.cache import empty_cache, make_cache, write_rows
from jaxfc.models.embedding import look_up
from jaxfc.models.heads import held_heads, repeat_heads
from jaxfc.models.lora import adapters_of, merge
from jaxfc.models.network import Block, DecoderConfig, Network, RMSNorm, rotation_at
from jaxfc.sharding import constrain, is_axes
from jaxfc.types import Cache, Lanes, Params, Prefix, Prompts

FLAT_LAYERS = 4
"""Up to this many layers the scan is laid out flat, so that XLA sees through it (no cache copies, no unused work)."""


def rematerialisation(remat: Remat) -> tuple[Callable, Callable]:
    """What to wrap a layer in, and what its attention: the backward pass keeps this, and computes the rest again.

    - `none`: everything is kept.
    - `attention`: everything but scores and weights of attention, which grow with queries x keys.
    - `dots`: what each layer begins with, and the results of its products with weights.
    - `layer`: what each layer begins with; the least memory, and about a third more work.
    """
    match remat:
        case "none":
            return _kept, _kept
        case "attention":
            return _kept, jax.checkpoint
        case "dots":
            policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            return functools.partial(jax.checkpoint, policy=policy), _kept
        case "layer":
            return jax.checkpoint, _kept
    typing.assert_never(remat)


def attention_of(config: DecoderConfig, mesh: Mesh | None) -> tuple[Callable, Callable]:
    """`attend_causally` and `attend_shared` as the mesh's devices do them best: on TPU by a kernel, but for windows."""
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    # On GPU it is plain too. What JAX makes public of cuDNN's attention cannot attend to a shared prompt exactly: the
    # log-sum-exp by which two parts are put together is rounded to bfloat16 and has no gradient.
    if platform != "tpu" or config.windows is not None:
        return attend_causally, attend_shared
    # Its import costs half a second and is of no use elsewhere.
    from jaxfc.models import splash

    def causally(q, k, v, window):
        return splash.attend_causally(q, k, v, mesh=mesh)

    def shared(q, k, v, prompt, lengths, window):
        return splash.attend_shared(q, k, v, prompt, lengths, mesh=mesh)

    return causally, shared


def _kept(function: Callable) -> Callable:
    return function


class Decoder:
    """The pure functions of one architecture. It holds no arrays; every function takes `params`.

    These are whole, with adapters beside the matrices that have one, or without any: then it is the base that answers.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        dtype: Any = jnp.float32,
        remat: Remat = "none",
        mesh: Mesh | None = None,
        lora: Lora | None = None,
    ):
        """Derive the functions.

        Args:
            config: the architecture.
            dtype: of matrix products.
            remat: what the backward pass computes again.
            mesh: over which activations are split by row, and nothing else of them. Without one the compiler chooses,
                and on several devices may move every activation to where a feature of the embedding lies. If its tensor
                axis is a multiple of the key-value heads, these are repeated, so that each device has one of its own.
            lora: what is trained are adapters; None trains all parameters.
        """
        self.config, self.dtype, self.mesh, self.lora = config, dtype, mesh, lora
        self._of_layer, self._of_attention = rematerialisation(remat)
        self._causally, self._shared = attention_of(config, mesh)
        self._block, _ = nnx.split(nnx.eval_shape(lambda: Block(config, rngs=nnx.Rngs(0))))
        self._adapted, _ = nnx.split(nnx.eval_shape(lambda: Block(config, lora, rngs=nnx.Rngs(0))))
        self._norm, _ = nnx.split(nnx.eval_shape(lambda: RMSNorm(config.width, config.norm_epsilon, rngs=nnx.Rngs(0))))
        self._kv_heads = held_heads(config.kv_heads, mesh)
        # Heads that are fewer than the devices may not be of a width that can be cut into parts for all of them.
        cut = mesh is None or config.kv_heads * config.head_width % mesh.shape["tensor"] == 0
        self.axes = self._axes(None, cut)
        self.trained_axes = self.axes if lora is None else adapters_of(self._axes(lora, cut))

    def _axes(self, lora: Lora | None, cut_kv_heads: bool = True) -> Params:
        _, variables = nnx.split(nnx.eval_shape(lambda: Network(self.config, lora, rngs=nnx.Rngs(0))))

        def named(path: tuple, variable) -> tuple[str | None, ...]:
            axes = tuple(None if name == "kv_heads" and not cut_kv_heads else name for name in variable.axes)
            return ("layers", *axes) if path[0] == "blocks" else axes

        flat = nnx.to_flat_state(variables)
        return nnx.traversals.unflatten_mapping({path: named(path, variable) for path, variable in flat})

    def init(self, key: Array) -> Params:
        """Random float32 parameters: a nested dict, its layers stacked on the first axis."""
        _, variables = nnx.split(Network(self.config, rngs=nnx.Rngs(params=key)))
        return nnx.to_pure_dict(variables)

    def init_trained(self, key: Array) -> Params:
        """What training starts from: the adapters, of which B is 0 so that they do nothing yet, or all parameters."""
        if self.lora is None:
            return self.init(key)
        _, variables = nnx.split(Network(self.config, self.lora, rngs=nnx.Rngs(params=key)))
        return adapters_of(nnx.to_pure_dict(variables))

    def head(self, params: Params) -> Float[Array, "V D"]:
        """The matrix whose rows give the logits of hidden states, token by token, in float32."""
        return params["embed"] if self.config.tied else params["head"]

    def encode(self, params: Params, prompts: Prompts) -> Prefix:
        """Run P prompts through the layers once; differentiable."""
        keys, values = self._read(params, prompts)
        last = jnp.maximum(prompts.lengths - 1, 0)
        last_tokens = jnp.take_along_axis(prompts.tokens, last[:, None], axis=1)[:, 0]
        return Prefix(keys, values, last, last_tokens)

    def _read(self, params: Params, prompts: Prompts):
        """Keys and values of the prompts, [P, S, K, Dh] of each layer: stacked, or a tuple of pairs."""
        x = self._embed(params, prompts.tokens[:, None])
        rotation = rotation_at(jnp.arange(prompts.tokens.shape[1])[None, None], self.config)

        def layer(x, _, block, window):
            q, k, v = block.project(x, rotation)
            # Padding is on the right, so the causal mask alone keeps it from every token that counts.
            return block.finish(x, self._of_attention(self._causally)(q, k, v, window)), (k[:, 0], v[:, 0])

        return self._scan(layer, params, x)[1]

    def extend(self, params: Params, completions: Int[Array, "B T"], prefix: Prefix) -> Float[Array, "B T D"]:
        """Hidden states from which each completion token is predicted: [b, t] belongs to completions[b, t]."""
        batch, length = completions.shape
        prompts = prefix.lengths.shape[0]
        tokens = completions.reshape(prompts, batch // prompts, length)
        first = jnp.broadcast_to(prefix.last_tokens[:, None, None], (*tokens.shape[:2], 1))
        x = self._embed(params, jnp.concatenate([first, tokens[..., :-1]], axis=-1))
        positions = prefix.lengths[:, None, None] + jnp.arange(length)
        rotation = rotation_at(positions, self.config)

        def layer(x, shared, block, window):
            q, k, v = block.project(x, rotation)
            attended = self._of_attention(self._shared)(q, k, v, shared, prefix.lengths, window)
            return block.finish(x, attended), None

        x, _ = self._scan(layer, params, x, (prefix.keys, prefix.values))
        return self._final_norm(params, x).reshape(batch, length, -1)

    def weights(self, params: Params) -> Params:
        """Parameters as sampling reads them: merged, matrices in the type of the products, layers apart in a tuple.

        Each device has the key-value heads that it needs. Cast and sliced once, ahead of a loop, they give the same
        numbers as in every product, with less to read; merged, the same but for rounding.
        """
        layers = (self.layer_weights(params, layer) for layer in range(self.config.layers))
        return self.outer_weights(params) | {"blocks": tuple(layers)}

    def layer_weights(self, params: Params, layer: int | Int[Array, ""]) -> Params:
        """One layer of `weights`: made apart, nothing but it is held twice meanwhile."""
        one = jax.tree.map(lambda a: a[layer], params["blocks"])
        return self._repeat_heads(self._cast(merge(one, self.lora)))

    def outer_weights(self, params: Params) -> Params:
        """What `weights` has beside the layers."""
        return self._cast({name: part for name, part in params.items() if name != "blocks"})

    def _cast(self, params: Params) -> Params:
        def cast(path, leaf):
            return leaf.astype(self.dtype) if path[-1].key in ("kernel", "embed", "head") else leaf

        return jax.tree_util.tree_map_with_path(cast, params)

    def _repeat_heads(self, layer: Params) -> Params:
        return repeat_heads(layer, self.config.kv_heads, self.mesh, self.dtype)

    def weight_axes(self) -> Params:
        """Logical axes of what `weights` makes, as `axes` are those of the parameters.

        They are whole in width: a step of decoding is too short to gather a weight for.
        """

        def whole(axes):
            return tuple(None if name == "embed" else name for name in axes)

        axes = jax.tree.map(whole, self._axes(None), is_leaf=is_axes)
        layer = jax.tree.map(lambda axes: axes[1:], axes["blocks"], is_leaf=is_axes)
        return axes | {"blocks": (layer,) * self.config.layers}

    def prefill(self, weights: Params, prompts: Prompts, dtype: Any) -> tuple[Cache, ...]:
        """Run prompts through the layers once: what `encode` finds, as decoding reads it.

        Args:
            weights: made by `weights`.
            prompts: P of them.
            dtype: of the caches.
        """
        return tuple(make_cache(k, v, dtype) for k, v in self._read(weights, prompts))

    def decode(
        self,
        weights: Params,
        tokens: Int[Array, "R Q"],
        lengths: Int[Array, " R"],
        own: tuple[Cache, ...],
        shared: tuple[Cache, ...],
        prompt_lengths: Int[Array, " N"],
        lanes: Lanes,
    ) -> tuple[Float[Array, "R Q D"], tuple[Cache, ...]]:
        """Hidden states at Q successive positions of R slots, and their cache with these positions written.

        Args:
            weights: made by `weights`.
            tokens: the inputs; `hidden[r, q]` predicts what follows `tokens[r, q]`.
            lengths: how many inputs each slot has had; 0 is next to have its prompt's last token.
            own: cache of the slots.
            shared: cache of N prompts, all their tokens but the last.
            prompt_lengths: of the prompts, less one.
            lanes: which slot reads which prompt.
        """
        x = self._embed(weights, tokens[:, None])
        lanes_each = lanes.slot_of.size // prompt_lengths.shape[0]
        starts = jnp.repeat(prompt_lengths.reshape(lanes.lane_of.shape[0], -1), lanes_each, axis=1)
        starts = jnp.take_along_axis(starts, lanes.lane_of, axis=1).reshape(-1)
        rotation = rotation_at((starts + lengths)[:, None, None] + jnp.arange(tokens.shape[1]), self.config)

        def layer(x, xs, block, window):
            own, shared = xs
            q, k, v = (a[:, 0] for a in block.project(x, rotation))
            own = write_rows(own, k, v, lengths)
            attended = attend_cached(q, own, lengths, shared, prompt_lengths, lanes, window)
            return block.finish(x, attended[:, None]), own

        x, own = self._scan(layer, weights, x, tuple(zip(own, shared, strict=True)))
        return self._final_norm(weights, x)[:, 0], own

    def empty_caches(self, rows: int, room: int, dtype: Any) -> tuple[Cache, ...]:
        """One cache a layer for `rows` sequences of up to `room` positions."""
        c = self.config
        return tuple(empty_cache(rows, self._kv_heads, room, c.head_width, dtype) for _ in range(c.layers))

    def _embed(self, params: Params, tokens: Int[Array, "P G T"]) -> Float[Array, "P G T D"]:
        if isinstance(params["blocks"], tuple):
            # As sampling has it, whole in width.
            return constrain(self.mesh, params["embed"][tokens].astype(self.dtype), "rows")
        return constrain(self.mesh, look_up(params["embed"], tokens, self.dtype, self.mesh), "rows")

    def _final_norm(self, params: Params, x: Float[Array, "P G T D"]) -> Float[Array, "P G T D"]:
        return nnx.merge(self._norm, nnx.State(params["norm"]))(x)

    def _scan(self, layer, params: Params, carry, xs=None):
        """Scan `layer(carry, xs, block, window) -> (carry, ys)` over the blocks.

        They are stacked, or apart with xs and ys in tuples.
        """

        def body(carry, inputs):
            block_params, xs, window = inputs
            block = self._adapted if adapters_of(block_params) else self._block
            return layer(carry, xs, nnx.merge(block, nnx.State(block_params)), window)

        windows = self.config.windows
        if isinstance(params["blocks"], tuple):
            none = (None,) * self.config.layers
            ys = []
            for inputs in zip(params["blocks"], xs or none, windows or none, strict=True):
                carry, y = body(carry, inputs)
                ys.append(y)
            return carry, tuple(ys)

        def repeating(carry, inputs):
            return body(carry, (self._repeat_heads(inputs[0]), *inputs[1:]))

        layers = self.config.layers
        if windows is not None:
            windows = jnp.array([EVERYTHING if window is None else window for window in windows])
        inputs = params["blocks"], xs, windows
        return jax.lax.scan(self._of_layer(repeating), carry, inputs, unroll=layers if layers <= FLAT_LAYERS else 1)


@functools.cache
def parameter_count(config: DecoderConfig) -> int:
    """How many numbers the model has."""
    shapes = jax.eval_shape(Decoder(config).init, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
