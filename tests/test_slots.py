import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.slots import Plan, admit, empty_slots, finish, lanes_of, start

PLAN = Plan(shards=1, prompts=7, group_size=3, slots=4, places=3, admissions=2)


def running(slots):
    return {int(c): int(p) for c, p in zip(slots.completion, slots.place, strict=True) if c < PLAN.completions}


@pytest.mark.parametrize("seed", range(4))
def test_every_completion_runs_once_in_order_beside_its_own_resident_prompt(seed):
    rng, slots, begun, place_of = np.random.default_rng(seed), empty_slots(PLAN), [], {}
    for _ in range(200):
        if (np.asarray(slots.left) == 0).any():
            slots, prompts, places = admit(slots, PLAN)
            place_of |= {int(p): int(at) for p, at in zip(prompts, places, strict=True) if p < PLAN.prompts}
        before = set(running(slots))
        slots, begins = start(slots, PLAN)
        new = sorted(set(running(slots)) - before)
        assert int(begins.sum()) == len(new)
        begun += new
        for completion, place in running(slots).items():
            # The place still holds its prompt, and counts it among those that are left.
            assert place == place_of[completion // 3] and int(slots.prompt[place]) == completion // 3
        left = np.bincount([c // 3 for c in range(21) if c not in begun or c in running(slots)], minlength=7)
        assert all(int(n) == left[int(p)] for n, p in zip(slots.left, slots.prompt, strict=True) if n)
        ends = (slots.completion < PLAN.completions) & jnp.asarray(rng.random(4) < 0.4)
        slots = finish(slots, ends, PLAN)
    assert begun == list(range(21))
    assert not running(slots) and not np.asarray(slots.left).any()


def test_no_two_slots_share_a_lane_and_each_finds_itself_there():
    slots, _, _ = admit(empty_slots(PLAN), PLAN)
    slots, _ = start(slots, PLAN)
    slots = finish(slots, jnp.array([True, False, False, True]), PLAN)  # Idle slots lie between busy ones.
    slot_of, lane_of = lanes_of(slots, PLAN)
    busy = [slot for slot in range(4) if slots.completion[slot] < PLAN.completions]
    assert busy == [1, 2]
    assert [int(slot_of[lane_of[slot]]) for slot in busy] == busy
    assert len({int(lane_of[slot]) for slot in busy}) == len(busy)
    assert all(int(lane_of[slot]) // 3 == int(slots.place[slot]) for slot in busy)


def test_a_batch_that_fits_is_admitted_at_once():
    plan = Plan.make(8, 100, shards=2, group_size=4, slots=None)
    assert plan == Plan(shards=2, prompts=4, group_size=4, slots=16, places=4, admissions=4)


def test_a_prefill_is_bounded_by_its_tokens():
    assert Plan.make(512, 4096, shards=1, group_size=8, slots=None).admissions == 8
    assert Plan.make(4, 10**6, shards=1, group_size=8, slots=None).admissions == 1
