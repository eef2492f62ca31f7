"""The compiled half of serving: completions enter slots and leave them at any time, each drawn in its own way."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxfc.draws import draw
from jaxfc.logprobs import head_logits, logit_scores, sampled_logits
from jaxfc.models.decoder import Decoder
from jaxfc.programs import Compiler, describe
from jaxfc.sharding import place_replicated, replicated, shardings, spec
from jaxfc.truncation import words_of
from jaxfc.types import Cache, Lanes, Params, Prompts, Sampling

_CHANGED = ("own", "inputs", "lengths")
"""What an advance changes of the slots, beside who is busy."""
MOST_TICKS = 32
"""Tokens of a completion that one advance can draw."""


class Slots(NamedTuple):
    """m completions under way, each with a prompt of its own. A slot keeps what the last completion left in it."""

    prefix: tuple[Cache, ...]
    """Of the prompts, by layer."""
    own: tuple[Cache, ...]
    """Of the completions, by layer."""
    inputs: Int[Array, " m"]
    """Last token of each, which is its next input."""
    prompt_lengths: Int[Array, " m"]
    """Positions of the prompt to attend to: its length less one."""
    lengths: Int[Array, " m"]
    """Tokens drawn so far."""
    busy: Bool[Array, " m"]
    seeds: UInt32[Array, "m 2"]
    """Of each completion's random numbers."""
    sampling: Sampling
    """By slot, but for the stop tokens."""


class Entry(NamedTuple):
    """A completion that enters a slot."""

    row: Int[Any, ""]
    """Of its prompt, among those prefilled."""
    slot: Int[Any, ""]
    last_token: Int[Any, ""]
    """Of its prompt."""
    prompt_length: Int[Any, ""]
    seed: UInt32[Any, " 2"]
    temperature: Float[Any, ""]
    top_k: Int[Any, ""]
    top_p: Float[Any, ""]
    max_tokens: Int[Any, ""]


class Command(NamedTuple):
    """What an advance is to do."""

    keep: Bool[Any, " m"]
    """The slots whose completion is still wanted; the others are free from here on."""
    ticks: Int[Any, ""]
    """It returns after this many tokens of each, up to `MOST_TICKS`, ..."""
    until_free: Bool[Any, ""]
    """... or, if this is set, when the first completion has finished."""
    likeliest: Bool[Any, ""]
    """Whether anybody asks for the likeliest tokens."""
    constrained: Bool[Any, ""]
    """Whether `allowed` says anything."""


class Drawn(NamedTuple):
    """What an advance has drawn. Row r has drawn `counts[r]` tokens."""

    tokens: Int[Array, "m k"]
    logprobs: Float[Array, "m k"]
    """Nats, under the distribution that was drawn from."""
    likeliest: Int[Array, "m k l"]
    """The likeliest tokens, best first; of no meaning where nobody asked."""
    likeliest_logprobs: Float[Array, "m k l"]
    counts: Int[Array, " m"]
    ended: Bool[Array, " m"]
    """The last of them is a stop token."""
    finished: Bool[Array, " m"]
    """It has ended, or has all the tokens that it may have."""


class Serving(NamedTuple):
    """The programs for prompts of up to one length. Slots that one of them is given are gone."""

    prefill: Callable
    """(weights, prompts [a, S]) -> the prefix of each"""
    enter: Callable
    """(slots, prefix, entry) -> slots"""
    advance: Mapping[int, Callable]
    """w -> (weights, slots, command, allowed [w, W]) -> (slots, drawn [w, ...]): decode the first w slots."""
    empty: Callable
    """() -> slots of which none is busy"""
    slots: int
    words: int
    """W, of a mask of the tokens that a slot may draw."""


def compile_serving(
    programs: Compiler,
    decoder: Decoder,
    mesh: Mesh,
    weights: Params,
    *,
    bucket: int,
    prefills: int,
    slots: int,
    widths: Sequence[int] = (),
    length: int,
    vocabulary: int,
    stop_tokens: Sequence[int],
    likeliest: int,
    cache: Any = None,
) -> Serving:
    """Compile the programs for prompts of up to `bucket` tokens.

    What a completion is depends on its prompt, seed and settings alone, not on what else is in the slots; but for
    rounding, which differs with the width.

    Args:
        programs: where they are listed.
        decoder: the model's functions.
        mesh: one replica; heads, hidden width and vocabulary may be split over its tensor axis.
        weights: made by `make_weights`.
        bucket: S, room for a prompt.
        prefills: prompts that are prefilled at once.
        slots: completions decoded at once (m).
        widths: numbers of first slots for which there is a program too, quicker than that for all.
        length: room for a completion.
        vocabulary: tokens that exist.
        stop_tokens: any of them ends a completion.
        likeliest: how many of the likeliest tokens are told at most.
        cache: type of keys and values; None is the type of the products.
    """
    dtype, words = decoder.dtype if cache is None else cache, words_of(vocabulary)
    by_head, everywhere = NamedSharding(mesh, spec("rows", "kv_heads")), replicated(mesh)
    placement = Slots(by_head, by_head, *(everywhere,) * (len(Slots._fields) - 2))

    def prefill(weights: Params, prompts: Prompts):
        return decoder.prefill(weights, prompts, dtype)

    def empty():
        return _empty(decoder, bucket, slots, length, stop_tokens, dtype)

    advance = functools.partial(_advance, decoder, vocabulary, min(likeliest, vocabulary), length)

    def compile_advance(width: int) -> Callable:
        function = advance if width == slots else functools.partial(_advance_first, width, advance)
        masks = describe(np.zeros((width, words), np.uint32), everywhere)
        given = weights, held, describe(no_command(slots), everywhere), masks
        compiled = jax.jit(function, donate_argnums=1, out_shardings=(placement, everywhere))
        return programs.compile(f"decode/{bucket}/{width}", compiled, *given)

    jitted_empty = jax.jit(empty, out_shardings=placement)
    shapes = jax.eval_shape(jitted_empty)
    held = jax.tree.map(lambda sharding, part: describe(part, sharding), placement, shapes)
    prompts = describe(Prompts(np.zeros((prefills, bucket), np.int32), np.zeros(prefills, np.int32)), everywhere)
    prefix = describe(jax.eval_shape(prefill, weights, prompts), by_head)
    enter = jax.jit(_enter, donate_argnums=0, out_shardings=placement)
    return Serving(
        programs.compile(f"prefill/{bucket}", jax.jit(prefill, out_shardings=by_head), weights, prompts),
        programs.compile(f"enter/{bucket}", enter, held, prefix, describe(no_entry(), everywhere)),
        {width: compile_advance(width) for width in sorted({*widths, slots})},
        programs.compile(f"empty/{bucket}", jitted_empty),
        slots,
        words,
    )


def make_weights(decoder: Decoder, mesh: Mesh, params: Params) -> Params:
    """The parameters as decoding reads them, layer by layer, so that no more than one is held twice."""
    placement = shardings(mesh, decoder.weight_axes())
    layers, outer = placement["blocks"], {name: home for name, home in placement.items() if name != "blocks"}
    one = jax.jit(decoder.layer_weights, out_shardings=layers[0])
    made = tuple(one(params, place_replicated(mesh, np.int32(layer))) for layer in range(len(layers)))
    return jax.jit(decoder.outer_weights, out_shardings=outer)(params) | {"blocks": made}


def no_entry() -> Entry:
    """The types of an entry's numbers."""
    integer, number = np.int32(0), np.float32(1)
    return Entry(integer, integer, integer, integer, np.zeros(2, np.uint32), number, integer, number, integer)


def no_command(slots: int) -> Command:
    """The types of a command's numbers."""
    return Command(np.zeros(slots, bool), np.int32(0), np.bool_(False), np.bool_(False), np.bool_(False))


def _empty(decoder: Decoder, bucket: int, slots: int, length: int, stop_tokens: Sequence[int], dtype: Any) -> Slots:
    numbers = jnp.zeros(slots, jnp.int32)
    ones = jnp.ones(slots, jnp.float32)
    return Slots(
        prefix=decoder.empty_caches(slots, bucket, dtype),
        own=decoder.empty_caches(slots, length, dtype),
        inputs=numbers,
        prompt_lengths=numbers,
        lengths=numbers,
        busy=jnp.zeros(slots, bool),
        seeds=jnp.zeros((slots, 2), jnp.uint32),
        sampling=Sampling(ones, numbers, ones, jnp.asarray(stop_tokens, jnp.int32), numbers),
    )


def _enter(slots: Slots, prefix: tuple[Cache, ...], entry: Entry) -> Slots:
    """Put a completion into a slot: the prefix of its prompt, and how it is drawn."""
    at, sampling = entry.slot, slots.sampling

    def put(kept: Array, new: Array) -> Array:
        one = jax.lax.dynamic_slice_in_dim(new, entry.row, 1)
        return jax.lax.dynamic_update_slice_in_dim(kept, one, at, 0)

    return slots._replace(
        prefix=jax.tree.map(put, slots.prefix, prefix),
        inputs=slots.inputs.at[at].set(entry.last_token),
        prompt_lengths=slots.prompt_lengths.at[at].set(entry.prompt_length - 1),
        lengths=slots.lengths.at[at].set(0),
        busy=slots.busy.at[at].set(True),
        seeds=slots.seeds.at[at].set(entry.seed),
        sampling=sampling._replace(
            temperature=sampling.temperature.at[at].set(entry.temperature),
            top_k=sampling.top_k.at[at].set(entry.top_k),
            top_p=sampling.top_p.at[at].set(entry.top_p),
            max_tokens=sampling.max_tokens.at[at].set(entry.max_tokens),
        ),
    )


def _advance(
    decoder: Decoder,
    vocabulary: int,
    likeliest: int,
    length: int,
    weights: Params,
    slots: Slots,
    command: Command,
    allowed: UInt32[Array, "m W"],
) -> tuple[Slots, Drawn]:
    """Draw the next tokens of every busy slot."""
    count = slots.busy.shape[0]

    def goes_on(state):
        slots, drawn, ticks = state
        freed = command.until_free & drawn.finished.any()
        return slots.busy.any() & (ticks < jnp.minimum(command.ticks, MOST_TICKS)) & ~freed

    def tick(state):
        slots, drawn, ticks = state
        tokens, logprobs, best, own = _draw_one(decoder, vocabulary, likeliest, weights, slots, command, allowed)
        lengths = slots.lengths + slots.busy
        ended = slots.busy & (tokens[:, None] == slots.sampling.stop_tokens).any(axis=1)
        finished = slots.busy & (ended | (lengths >= jnp.minimum(slots.sampling.max_tokens, length)))
        drawn = Drawn(
            drawn.tokens.at[:, ticks].set(tokens),
            drawn.logprobs.at[:, ticks].set(logprobs),
            drawn.likeliest.at[:, ticks].set(best[0]),
            drawn.likeliest_logprobs.at[:, ticks].set(best[1]),
            drawn.counts + slots.busy,
            drawn.ended | ended,
            drawn.finished | finished,
        )
        inputs = jnp.where(slots.busy, tokens, slots.inputs)
        slots = slots._replace(own=own, inputs=inputs, lengths=lengths, busy=slots.busy & ~finished)
        return slots, drawn, ticks + 1

    room, none = (count, MOST_TICKS), jnp.zeros(count, bool)
    nothing = Drawn(
        jnp.zeros(room, jnp.int32),
        jnp.zeros(room, jnp.float32),
        jnp.zeros((*room, likeliest), jnp.int32),
        jnp.zeros((*room, likeliest), jnp.float32),
        jnp.zeros(count, jnp.int32),
        none,
        none,
    )
    slots = slots._replace(busy=slots.busy & command.keep)
    slots, drawn, _ = jax.lax.while_loop(goes_on, tick, (slots, nothing, jnp.int32(0)))
    return slots, drawn


def _advance_first(
    width: int,
    advance: Callable,
    weights: Params,
    slots: Slots,
    command: Command,
    allowed: UInt32[Array, "w W"],
) -> tuple[Slots, Drawn]:
    """`_advance` of the first slots; those after them have nothing to do."""
    stop_tokens = slots.sampling.stop_tokens
    first = jax.tree.map(lambda whole: whole[:width], slots)
    first = first._replace(sampling=first.sampling._replace(stop_tokens=stop_tokens))
    first, drawn = advance(weights, first, command._replace(keep=command.keep[:width]), allowed)

    def put(whole: Array, part: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(whole, part, 0, 0)

    busy = put(slots.busy & command.keep, first.busy)
    changed = {name: jax.tree.map(put, getattr(slots, name), getattr(first, name)) for name in _CHANGED}
    return slots._replace(busy=busy, **changed), drawn


def _draw_one(
    decoder: Decoder,
    vocabulary: int,
    likeliest: int,
    weights: Params,
    slots: Slots,
    command: Command,
    allowed: UInt32[Array, "m W"],
):
    """One token for each slot, its logprob, the likeliest with theirs, and the cache with the inputs written."""
    count = slots.busy.shape[0]
    each = jnp.arange(count)[None]
    hidden, own = decoder.decode(
        weights,
        slots.inputs[:, None],
        slots.lengths,
        slots.own,
        slots.prefix,
        slots.prompt_lengths,
        Lanes(each, each),
    )
    logits = head_logits(hidden[:, 0], decoder.head(weights))
    logits = jax.lax.cond(
        command.constrained,
        lambda logits: sampled_logits(logits, slots.sampling, vocabulary, allowed=allowed),
        lambda logits: sampled_logits(logits, slots.sampling, vocabulary),
        logits,
    )
    tokens = draw(logits, _uniforms(slots), slots.sampling.temperature)
    logprobs, _ = logit_scores(logits, tokens)

    def find_likeliest():
        values, best = jax.lax.top_k(logits, likeliest)
        return best, values - jax.nn.logsumexp(logits, axis=1, keepdims=True)

    def skip():
        return jnp.zeros((count, likeliest), jnp.int32), jnp.zeros((count, likeliest), jnp.float32)

    return tokens, logprobs, jax.lax.cond(command.likeliest, find_likeliest, skip), own


def _uniforms(slots: Slots) -> Float[Array, " m"]:
    """A random number for each slot's next token; it depends on its seed and its position, not on the slot."""

    def one(seed, position):
        # Named, so that a seed means the same whatever JAX's default is.
        key = jax.random.wrap_key_data(seed, impl="threefry2x32")
        return jax.random.uniform(jax.random.fold_in(key, position))

    return jax.vmap(one)(slots.seeds, slots.lengths)
