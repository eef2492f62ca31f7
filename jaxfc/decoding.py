"""The compiled half of sampling: prompts are prefilled once, completions pass through slots refilled as they end."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxfc.config import Draft
from jaxfc.drafts import draft
from jaxfc.draws import draw
from jaxfc.logprobs import head_logits, logit_scores, sampled_logits
from jaxfc.models.decoder import Decoder
from jaxfc.sharding import replicated, row_shards, rows, shardings, spec
from jaxfc.slots import Plan, Slots, admit, empty_slots, finish, lanes_of, start
from jaxfc.truncation import words_of
from jaxfc.types import Cache, Lanes, Params, Prompts, Rollouts, Sampling, TokenScores


class Output(NamedTuple):
    """What has been sampled, by completion: n shards of b completions."""

    tokens: Int[Array, "n b T"]
    logprobs: Float[Array, "n b T"]
    entropies: Float[Array, "n b T"]
    lengths: Int[Array, "n b"]
    ended: Bool[Array, "n b"]
    finished: Bool[Array, "n b"]


class Work(NamedTuple):
    """What the slots have done. A tick is one step of the decoder."""

    ticks: Int[Array, ""]
    busy: Int[Array, ""]
    """Slots with a completion, added up over the ticks."""
    tokens: Int[Array, ""]
    """Tokens sampled."""


class Decoding(NamedTuple):
    """A rollout batch under way."""

    prefix: tuple[Cache, ...]
    """Of the resident prompts, n shards of r, by layer."""
    own: tuple[Cache, ...]
    """Of the slots, n shards of m, by layer."""
    slots: Slots
    """Of each shard: every field has a leading axis n."""
    inputs: Int[Array, "n m"]
    """Last token of each slot, which is its next input."""
    output: Output
    work: Work


class Until(NamedTuple):
    """When an advance returns at the latest."""

    ticks: Int[Array, ""]
    finished: Int[Array, ""]
    """Completions that have finished since it began."""


class Progress(NamedTuple):
    """What the host asks after each advance."""

    done: Bool[Array, ""]
    """Every completion has finished."""
    admits: Bool[Array, ""]
    """Prompts wait and can be prefilled."""
    work: Work
    """Of this advance."""


class Steps(NamedTuple):
    """The programs of a sampler. A `Decoding` that one of them is given is gone."""

    layer: Callable
    """(params, number) -> the weights of one layer: its parameters as decoding reads them."""
    begin: Callable
    """(params, prompts) -> (the other weights, decoding): nothing is prefilled yet."""
    admit: Callable
    """(weights, prompts, decoding) -> (decoding, whether more prompts wait and have a place): prefill the next."""
    advance: Callable
    """(weights, prompts, decoding, key, sampling, until, allowed=None) -> (decoding, progress): decode."""
    advance_drafting: Callable | None
    """The same, with drafts; None where there are none."""
    end: Callable
    """(decoding, prompts) -> rollouts"""
    drafts: Draft | None
    placement: tuple[Params, "Decoding"]
    """Where the weights and each part of a decoding live."""
    layers: int
    mask_words: int
    """W, of the masks `allowed` [n, m, W] that each slot may be given, for one tick: what it may draw."""


def make_steps(
    decoder: Decoder,
    mesh: Mesh,
    *,
    group_size: int,
    length: int,
    vocabulary: int,
    slots: int | None = None,
    cache: Any = None,
    drafts: Draft | None = None,
) -> Steps:
    """Compile the programs of a sampler, one set for each shape of prompts.

    Args:
        decoder: the model's functions.
        mesh: over which prompts, and with them completions and slots, are spread.
        group_size: completions per prompt (G).
        length: room for a completion (T).
        vocabulary: tokens that exist; padded entries of the head are never drawn.
        slots: completions decoded at once, on all devices together; None is all.
        cache: type of keys and values; None is the type of the products.
        drafts: None samples one token per slot and tick.
    """
    dtype = decoder.dtype if cache is None else cache
    extra = drafts.tokens if drafts else 0

    def planned(prompts: Prompts) -> Plan:
        return Plan.make(*prompts.tokens.shape, shards=row_shards(mesh), group_size=group_size, slots=slots)

    def begin(params: Params, prompts: Prompts):
        plan = planned(prompts)
        decoding = _empty(decoder, plan, prompts.tokens.shape[1], length, extra, dtype)
        return decoder.outer_weights(params), decoding

    def admit_next(weights: Params, prompts: Prompts, decoding: Decoding):
        return _admit(decoder, planned(prompts), weights, prompts, decoding, dtype)

    def advance(
        drafts, weights, prompts: Prompts, decoding: Decoding, key, sampling: Sampling, until: Until, allowed=None
    ):
        plan, limit = planned(prompts), jnp.minimum(sampling.max_tokens, length)
        tick = functools.partial(
            _tick, decoder, plan, vocabulary, drafts, weights, prompts, key, sampling, limit, allowed
        )
        at_start = decoding.output.finished.sum()

        def goes_on(decoding: Decoding):
            news = decoding.output.finished.sum() - at_start
            busy = (decoding.slots.completion < plan.completions).any()
            ticks = decoding.work.ticks - before.ticks
            return busy & (ticks < until.ticks) & (news < until.finished) & ~_admission_is_due(decoding.slots, plan)

        before = decoding.work
        decoding = jax.lax.while_loop(goes_on, tick, decoding)
        finished = decoding.output.finished
        work = jax.tree.map(jnp.subtract, decoding.work, before)
        due = _admission_is_due(decoding.slots, plan)
        return decoding, Progress(finished.all(), due, work)

    def end(decoding: Decoding, prompts: Prompts) -> Rollouts:
        output = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), decoding.output)
        scores = TokenScores(output.logprobs, output.entropies)
        return Rollouts(prompts, output.tokens, output.lengths, output.ended, scores)

    placement = shardings(mesh, decoder.weight_axes()), _placement(mesh)

    def compiled(drafts):
        advance_with = functools.partial(advance, drafts)
        return jax.jit(advance_with, donate_argnums=2, out_shardings=(placement[1], replicated(mesh)))

    layers, outer = placement[0]["blocks"], {name: home for name, home in placement[0].items() if name != "blocks"}
    return Steps(
        jax.jit(decoder.layer_weights, out_shardings=layers[0]),
        jax.jit(begin, out_shardings=(outer, placement[1])),
        jax.jit(admit_next, donate_argnums=2, out_shardings=(placement[1], replicated(mesh))),
        compiled(None),
        compiled(drafts) if drafts else None,
        jax.jit(end, donate_argnums=0, out_shardings=rows(mesh)),
        drafts,
        placement,
        len(layers),
        words_of(vocabulary),
    )


def begin_rollouts(steps: Steps, params: Params, prompts: Prompts, layers: Iterable) -> tuple[Params, Decoding]:
    """The weights that sampling reads, made layer by layer, and a rollout batch of which nothing is prefilled.

    Args:
        steps: of the sampler.
        params: of the policy.
        prompts: on the mesh.
        layers: the layers' numbers, on the mesh.
    """
    made = tuple(steps.layer(params, layer) for layer in layers)
    weights, decoding = steps.begin(params, prompts)
    return weights | {"blocks": made}, decoding


def _placement(mesh: Mesh) -> Decoding:
    """Where each part lives: rows on their shard, the heads of a cache split over the tensor axis."""
    by_head, by_row = NamedSharding(mesh, spec("rows", "kv_heads")), rows(mesh)
    return Decoding(by_head, by_head, by_row, by_row, by_row, replicated(mesh))


def _empty(decoder: Decoder, plan: Plan, prompt_length: int, length: int, drafted: int, dtype: Any) -> Decoding:
    """A batch of which nothing has been prefilled."""
    n = plan.shards
    by_completion = (n, plan.completions)
    return Decoding(
        prefix=decoder.empty_caches(n * plan.places, prompt_length, dtype),
        own=decoder.empty_caches(n * plan.slots, length + drafted, dtype),
        slots=jax.tree.map(lambda a: jnp.broadcast_to(a, (n, *a.shape)), empty_slots(plan)),
        inputs=jnp.zeros((n, plan.slots), jnp.int32),
        output=Output(
            tokens=jnp.zeros((*by_completion, length), jnp.int32),
            logprobs=jnp.zeros((*by_completion, length), jnp.float32),
            entropies=jnp.zeros((*by_completion, length), jnp.float32),
            lengths=jnp.zeros(by_completion, jnp.int32),
            ended=jnp.zeros(by_completion, bool),
            finished=jnp.zeros(by_completion, bool),
        ),
        work=Work(*(jnp.int32(0),) * 3),
    )


def _admission_is_due(slots: Slots, plan: Plan) -> Bool[Array, ""]:
    """Whether it is time to prefill: enough places are free, or one is while a slot has nothing to do."""
    free = (slots.left == 0).sum(axis=1)
    idle = (slots.completion == plan.completions).any(axis=1)
    return ((slots.admitted < plan.prompts) & ((free >= plan.admissions) | (idle & (free > 0)))).any()


def _look_up(values: Array, index: Int[Array, "n k"]) -> Array:
    """values[shard, index[shard, k]]; an index past the end finds the last."""
    return jax.vmap(lambda part, at: part.at[at].get(mode="clip"))(values, index)


def _by_shard(prompts: Prompts, plan: Plan) -> Prompts:
    return jax.tree.map(lambda a: a.reshape(plan.shards, -1, *a.shape[1:]), prompts)


def _admit(decoder: Decoder, plan: Plan, weights: Params, prompts: Prompts, decoding: Decoding, dtype: Any):
    """Prefill the next prompts into free places and start completions; also whether more could follow at once."""
    slots, admitted, places = jax.vmap(lambda slots: admit(slots, plan))(decoding.slots)
    sharded = _by_shard(prompts, plan)
    taken = Prompts(*(_look_up(a, admitted).reshape(-1, *a.shape[2:]) for a in sharded))
    prefix = decoder.prefill(weights, taken, dtype)
    if plan.admissions < plan.prompts:

        def put(pool, new):
            parts = (a.reshape(plan.shards, -1, *a.shape[1:]) for a in (pool, new))
            put_part = jax.vmap(lambda pool, new, at: pool.at[at].set(new, mode="drop"))
            return put_part(*parts, places).reshape(pool.shape)

        prefix = jax.tree.map(put, decoding.prefix, prefix)
    slots, inputs = _start(slots, decoding.inputs, sharded, plan)
    return decoding._replace(prefix=prefix, slots=slots, inputs=inputs), _admission_is_due(slots, plan)


def _start(slots: Slots, inputs: Int[Array, "n m"], sharded: Prompts, plan: Plan) -> tuple[Slots, Int[Array, "n m"]]:
    """Fill idle slots; the first input of a completion is the last token of its prompt."""
    slots, begins = jax.vmap(lambda slots: start(slots, plan))(slots)
    last = jnp.take_along_axis(sharded.tokens, jnp.maximum(sharded.lengths - 1, 0)[..., None], axis=2)[..., 0]
    return slots, jnp.where(begins, _look_up(last, slots.completion // plan.group_size), inputs)


def _tick(
    decoder: Decoder,
    plan: Plan,
    vocabulary: int,
    drafts: Draft | None,
    weights: Params,
    prompts: Prompts,
    key: Array,
    sampling: Sampling,
    limit: Int[Array, ""],
    allowed: UInt32[Array, "n m W"] | None,
    decoding: Decoding,
) -> Decoding:
    """Decode one position of every slot and the drafted ones after it; refill the slots whose completion ended."""
    slots, output, sharded = decoding.slots, decoding.output, _by_shard(prompts, plan)
    busy = slots.completion < plan.completions
    drafted, exists = _draft(drafts, slots, output, sharded, plan)
    resident = jnp.maximum(_look_up(sharded.lengths, slots.prompt) - 1, 0)
    hidden, own = decoder.decode(
        weights,
        jnp.concatenate([decoding.inputs[..., None], drafted], axis=2).reshape(-1, 1 + drafted.shape[2]),
        slots.length.reshape(-1),
        decoding.own,
        decoding.prefix,
        resident.reshape(-1),
        Lanes(*jax.vmap(lambda slots: lanes_of(slots, plan))(slots)),
    )
    logits = head_logits(hidden.reshape(-1, hidden.shape[2]), decoder.head(weights))
    words = None if allowed is None else allowed.reshape(-1, allowed.shape[2])
    logits = sampled_logits(logits, sampling, vocabulary, allowed=words)
    drawn = draw(logits, _uniforms(key, slots, plan, hidden.shape[1]), sampling.temperature)
    scores = (a.reshape(*busy.shape, -1) for a in logit_scores(logits, drawn))
    drawn = drawn.reshape(*busy.shape, -1)

    # A draft is right if it is what was drawn; what was drawn after a wrong one was drawn after a wrong input.
    right = jnp.cumprod((drawn[..., :-1] == drafted) & exists, axis=2).sum(axis=2)
    position = jnp.arange(drawn.shape[2])
    stops = (drawn[..., None] == sampling.stop_tokens).any(axis=3)
    before_stop = jnp.where(stops, position, drawn.shape[2]).min(axis=2)
    is_filler = _look_up(sharded.lengths, slots.completion // plan.group_size) == 0
    count = jnp.minimum(jnp.minimum(right, before_stop) + 1, limit - slots.length)
    count = jnp.where(busy & ~is_filler, count, 0)
    ended = count > before_stop
    length = slots.length + count
    finished = busy & (ended | is_filler | (length >= limit))

    slots = slots._replace(length=length)
    output = _write(output, slots, decoding.slots.length, count, ended, finished, drawn, *scores)
    last = jnp.take_along_axis(drawn, jnp.maximum(count - 1, 0)[..., None], axis=2)[..., 0]
    slots = jax.vmap(lambda slots, finished: finish(slots, finished, plan))(slots, finished)
    slots, inputs = _start(slots, last, sharded, plan)
    work = decoding.work
    work = Work(work.ticks + 1, work.busy + busy.sum(), work.tokens + count.sum())
    return Decoding(decoding.prefix, own, slots, inputs, output, work)


def _draft(drafts: Draft | None, slots: Slots, output: Output, sharded: Prompts, plan: Plan):
    """Drafted tokens of every slot and which of them exist, [n, m, tokens]; none without drafts."""
    if drafts is None:
        none = jnp.zeros((*slots.length.shape, 0), jnp.int32)
        return none, none.astype(bool)
    prompt = slots.completion // plan.group_size
    tokens, lengths = (_look_up(a, prompt) for a in sharded)
    one = functools.partial(draft, count=drafts.tokens, match=drafts.match)
    return jax.vmap(jax.vmap(one))(tokens, lengths, _look_up(output.tokens, slots.completion), slots.length)


def _uniforms(key: Array, slots: Slots, plan: Plan, count: int) -> Float[Array, " N"]:
    """A random number for each position of each slot. It depends on completion and position, not on slot or tick."""
    completion = jnp.arange(plan.shards)[:, None] * plan.completions + slots.completion

    def one(completion, position):
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, completion), position))

    positions = (slots.length[..., None] + jnp.arange(count)).reshape(-1)
    return jax.vmap(one)(jnp.repeat(completion.reshape(-1), count), positions)


def _write(output: Output, slots: Slots, at, count, ended, finished, drawn, logprobs, entropies) -> Output:
    """Write what every slot has drawn, `count` tokens from position `at`, to its completion."""
    position = at[..., None] + jnp.arange(drawn.shape[2])
    # What is not to be written, and all of an idle slot, goes out of range.
    position = jnp.where(jnp.arange(drawn.shape[2]) < count[..., None], position, output.tokens.shape[2])

    def put(kept, new):
        write = jax.vmap(lambda kept, row, at, new: kept.at[row[:, None], at].set(new, mode="drop"))
        return write(kept, slots.completion, position, new)

    def mark(kept, new):
        return jax.vmap(lambda kept, row, new: kept.at[row].set(new, mode="drop"))(kept, slots.completion, new)

    return Output(
        put(output.tokens, drawn),
        put(output.logprobs, logprobs),
        put(output.entropies, entropies),
        mark(output.lengths, slots.length),
        mark(output.ended, ended),
        mark(output.finished, finished),
    )
