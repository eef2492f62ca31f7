import pytest
from toy_talks import conversation, toy_backend

from jaxfc.bfcl.turns import (
    EMPTY_TURN,
    FORCE_TERMINATED,
    RESPONSE_MISMATCH,
    STATE_MISMATCH,
    calls_of,
    judge_conversation,
)

# The reference: put(item='fig'), then pay() and read().
RIGHT = [["[put(item='fig')]", "Done."], ["[pay()]", "[read()]", "[]"]]


@pytest.fixture(scope="module")
def backend():
    with toy_backend() as backend:
        yield backend


def reason(backend, transcript, **changed):
    return judge_conversation(conversation(**changed), transcript, backend).reason


def test_the_reference_itself_is_right(backend):
    assert reason(backend, RIGHT) == "ok"


def test_calls_may_be_spread_over_steps_and_prose_between_them_counts_for_nothing(backend):
    assert reason(backend, [["Let me see.", *RIGHT[0]], ["[read(), pay()]"]]) == "ok"


def test_calls_that_change_nothing_may_be_added(backend):
    assert reason(backend, [["[prices()]", *RIGHT[0]], ["[nothing(), put(item='nut')]", *RIGHT[1]]]) == "ok"


def test_a_transcript_that_ends_early_was_ended_by_force(backend):
    verdict = judge_conversation(conversation(), RIGHT[:1], backend)
    assert verdict == (False, FORCE_TERMINATED, "1 of 2 turns")


def test_a_turn_needs_calls_where_the_reference_has_some(backend):
    assert reason(backend, [RIGHT[0], ["Done.", "[]", "pay("]]) == EMPTY_TURN


def test_the_state_after_a_turn_has_to_be_the_references(backend):
    verdict = judge_conversation(conversation(), [["[put(item='pear')]"], RIGHT[1]], backend)
    assert verdict == (False, STATE_MISMATCH, "turn 0: Shop.basket")


def test_what_was_done_a_turn_too_late_is_found_out_in_time(backend):
    late = [["[prices()]"], ["[put(item='fig')]", *RIGHT[1]]]
    assert reason(backend, late) == STATE_MISMATCH


def test_every_result_of_the_reference_has_to_be_among_the_models(backend):
    verdict = judge_conversation(conversation(), [RIGHT[0], ["[pay()]"]], backend)
    assert verdict == (False, RESPONSE_MISMATCH, 'turn 1: no {"level": 0, "label": ""}')


def test_a_result_of_an_earlier_turn_will_do(backend):
    assert reason(backend, [["[read(), put(item='fig')]"], ["[pay()]"]]) == "ok"


def test_two_equal_results_of_a_turn_need_two(backend):
    twice = {"reference": (("read()", "read()"),)}
    assert reason(backend, [["[read()]"]], **twice) == RESPONSE_MISMATCH
    assert reason(backend, [["[read()]", "[read()]"]], **twice) == "ok"


def test_one_result_serves_two_turns(backend):
    assert reason(backend, [["[read()]"], ["[prices()]"]], reference=(("read()",), ("read()",))) == "ok"


def test_a_turn_that_asks_for_nothing_is_not_judged_but_its_calls_count(backend):
    reference = ((), ("put(item='fig')",))
    assert reason(backend, [["[put(item='fig')]"], ["[read()]"]], reference=reference) == "ok"
    assert reason(backend, [["[put(item='pear')]"], ["[put(item='fig')]"]], reference=reference) == STATE_MISMATCH
    assert reason(backend, [["[put(item='fig')]"], ["Done."]], reference=reference) == EMPTY_TURN
    assert reason(backend, [["Done."], ["[put(item='fig')]"]], reference=reference) == "ok"


def test_an_error_that_the_reference_runs_into_is_a_result_like_any_other(backend):
    reference = (("put(item='nut')",),)
    assert reason(backend, [["[put(item='nut')]"]], reference=reference) == "ok"
    assert reason(backend, [["[put(item='oat')]"]], reference=reference) == RESPONSE_MISMATCH


def test_calls_by_position_of_the_reference_are_run(backend):
    assert reason(backend, [["[put(item='fig')]"]], reference=(("put('fig')",),)) == "ok"


def test_a_call_that_cannot_be_run_makes_the_conversation_wrong():
    with toy_backend(deadline=0.5) as backend:
        assert reason(backend, [["[blink(seconds=60)]"], RIGHT[1]]) == "environment: timeout"
        assert reason(backend, [["[burn()]"], RIGHT[1]]) == "environment: worker died"
        assert reason(backend, [["[shine(lumen=2000000)]"], RIGHT[1]]) == "environment: result too large"
        assert reason(backend, RIGHT) == "ok"


def test_an_answer_that_is_no_list_of_calls_makes_none():
    assert calls_of("[f(a=1)]") == ["f(a=1)"]
    assert calls_of("Done.") == calls_of("[]") == calls_of("[f(a={})]") == []
