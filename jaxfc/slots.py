"""Which completion is in which slot: the bookkeeping of continuous batching, for one shard of the rows."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

PREFILL_TOKENS = 2**15
"""Prompt positions that a shard prefills at once, if more than one prompt: what its activations need is bounded."""


SPARE_PLACES = 4
"""Places per place that the slots fill. A group's longest completion is, at geometric lengths and G = 8, 2.7 times its
mean: with fewer places, slots stand idle while places are held by a group's last."""


class Plan(NamedTuple):
    """The sizes of one shape of batch, counted in each of the n shards of its rows."""

    shards: int
    prompts: int
    group_size: int
    slots: int
    """Completions decoded at once."""
    places: int
    """Prompts that are resident at once."""
    admissions: int
    """Prompts that are prefilled at once."""

    @property
    def completions(self) -> int:
        """Of a shard."""
        return self.prompts * self.group_size

    @classmethod
    def make(cls, prompts: int, room: int, *, shards: int, group_size: int, slots: int | None) -> "Plan":
        """Sizes for a batch of prompts padded to `room` tokens, decoded in about `slots` slots (None: all at once).

        More prompts are resident than fill the slots, so that the last of an old group keeps no new group out.
        """
        prompts //= shards
        slots = prompts * group_size if slots is None else min(prompts * group_size, max(1, slots // shards))
        fill = -(-slots // group_size)
        places = min(prompts, SPARE_PLACES * fill)
        at_once = places if places == prompts else max(1, fill // 2)
        return cls(shards, prompts, group_size, slots, places, max(1, min(at_once, PREFILL_TOKENS // room)))


class Slots(NamedTuple):
    """m slots decode completions of a shard's p prompts, of which r at a time are resident in the prompts' cache.

    Prompts are admitted in order and their completions started in order; completion = prompt * G + g.
    """

    prompt: Int[Array, " r"]
    """Prompt in each resident place; p where there has been none."""
    left: Int[Array, " r"]
    """Its completions that have not finished; 0 marks a place that is free."""
    admitted: Int[Array, ""]
    """Prompts that have been given a place."""
    started: Int[Array, ""]
    """Completions that have been given a slot."""
    completion: Int[Array, " m"]
    """Completion in each slot; p * G marks an idle one."""
    place: Int[Array, " m"]
    """Resident place of its prompt."""
    length: Int[Array, " m"]
    """Tokens that it has so far."""


def empty_slots(plan: Plan) -> Slots:
    """Nothing admitted, nothing started."""
    zero = jnp.int32(0)
    return Slots(
        prompt=jnp.full(plan.places, plan.prompts, jnp.int32),
        left=jnp.zeros(plan.places, jnp.int32),
        admitted=zero,
        started=zero,
        completion=jnp.full(plan.slots, plan.completions, jnp.int32),
        place=jnp.zeros(plan.slots, jnp.int32),
        length=jnp.zeros(plan.slots, jnp.int32),
    )


def admit(slots: Slots, plan: Plan) -> tuple[Slots, Int[Array, " a"], Int[Array, " a"]]:
    """Give free places to the next prompts, up to `plan.admissions`.

    Returns:
        The slots; the prompts admitted and the place of each, both out of range where there was no prompt or no place.
    """
    places = jnp.nonzero(slots.left == 0, size=plan.admissions, fill_value=plan.places)[0].astype(jnp.int32)
    prompt = slots.admitted + jnp.arange(plan.admissions, dtype=jnp.int32)
    granted = (places < plan.places) & (prompt < plan.prompts)
    places, prompt = jnp.where(granted, places, plan.places), jnp.where(granted, prompt, plan.prompts)
    slots = slots._replace(
        prompt=slots.prompt.at[places].set(prompt, mode="drop"),
        left=slots.left.at[places].set(plan.group_size, mode="drop"),
        admitted=slots.admitted + granted.sum(dtype=jnp.int32),
    )
    return slots, prompt, places


def start(slots: Slots, plan: Plan) -> tuple[Slots, Bool[Array, " m"]]:
    """Put the next completions of admitted prompts into idle slots; returns the slots and which of them began."""
    idle = slots.completion == plan.completions
    rank = jnp.cumsum(idle, dtype=jnp.int32) - 1
    begins = idle & (rank < slots.admitted * plan.group_size - slots.started)
    completion = jnp.where(begins, slots.started + rank, slots.completion)
    # A free place still names its last prompt, but all completions of that one have been started.
    place = jnp.argmax(slots.prompt == completion[:, None] // plan.group_size, axis=1).astype(jnp.int32)
    slots = slots._replace(
        started=slots.started + begins.sum(dtype=jnp.int32),
        completion=completion,
        place=jnp.where(begins, place, slots.place),
        length=jnp.where(begins, 0, slots.length),
    )
    return slots, begins


def finish(slots: Slots, finished: Bool[Array, " m"], plan: Plan) -> Slots:
    """Take finished completions out of their slots."""
    return slots._replace(
        left=slots.left.at[slots.place].add(-finished.astype(jnp.int32)),
        completion=jnp.where(finished, plan.completions, slots.completion),
    )


def lanes_of(slots: Slots, plan: Plan) -> tuple[Int[Array, " M"], Int[Array, " m"]]:
    """The slot in each lane and the lane of each slot; a resident place has G lanes (`types.Lanes`)."""
    lane = slots.place * plan.group_size + slots.completion % plan.group_size
    lanes = plan.places * plan.group_size
    filled = jnp.where(slots.completion < plan.completions, lane, lanes)
    return jnp.zeros(lanes, jnp.int32).at[filled].set(jnp.arange(plan.slots, dtype=jnp.int32), mode="drop"), lane
