import collections
import dataclasses
import json

import numpy as np
import planted
import pytest
from tiny import SEED_PROMPT, weather_example
from tiny import seed_tokenizer as make_seed_tokenizer

import jaxfc.rewards as rewards_module
from jaxfc.calls.match import Verdict
from jaxfc.calls.parse import Syntax
from jaxfc.calls.schema import accepted_from_bfcl
from jaxfc.config import Prompt, Reward
from jaxfc.data.pipeline import pad
from jaxfc.data.prompts import Tokenizer
from jaxfc.data.tasks import generate
from jaxfc.processes import Share
from jaxfc.rewards import (
    Judge,
    Judged,
    Judging,
    judge_completion,
    judge_rollouts,
    judging_pool,
    preflight,
    reward_metrics,
    shuffled,
    syntax_of,
)
from jaxfc.workers import Here

ROOM = 96
RIGHT = "<think>weather: weather</think><answer>[weather(city='Paris', days=3)]</answer>"
NO_CALL = "<think>nothing fits</think><answer>[]</answer>"
HOSTILE = {
    "empty": "",
    "zero": "\x00",
    "deep": "<think></think><answer>" + "[" * 5000 + "</answer>",
    "power": "<think></think><answer>[f(a=10**10**10)]</answer>",
    "import": "<think></think><answer>[__import__('os').system('true')]</answer>",
    "tags": "<think>" * 1000 + "</answer>" * 1000,
}
EXAMPLES = [weather_example(), weather_example(calls=False)]


def rollouts(tokenizer, texts, *, cut=()):
    """(tokens, lengths, ended) of these completions; those in `cut` were cut at the limit."""
    rows = [tokenizer.encode(text) + [tokenizer.eos] * (row not in cut) for row, text in enumerate(texts)]
    return pad(rows, ROOM), np.array([len(row) for row in rows]), np.array([row not in cut for row in range(len(rows))])


def judge_of(tokenizer, prompt=SEED_PROMPT):
    return Judge(tokenizer.table, prompt, Syntax.STRICT)


def judge(tokenizer, texts, *, cut=(), examples=EXAMPLES, prompt=SEED_PROMPT, pool=None):
    pool = pool or Here(judge_of(tokenizer, prompt))
    return judge_rollouts(examples, *rollouts(tokenizer, texts, cut=cut), pool)


def test_each_completion_gets_its_verdict_and_its_reward(seed_tokenizer):
    texts = [
        RIGHT,
        RIGHT.replace("Paris", "Rome"),
        RIGHT.replace("<think>", "").replace("</think>", ""),
        RIGHT.replace("=3", "="),
        NO_CALL,
        RIGHT,
        NO_CALL.replace("[]", "I cannot."),
        NO_CALL + " Bye.",
    ]
    judged = judge(seed_tokenizer, texts)
    np.testing.assert_array_equal(judged.rewards, [[1, 0, 0, 0], [1, 0, 1, 0]])
    assert judged.rewards.dtype == np.float32
    assert [verdict.ok for verdict in judged.verdicts] == [True, False, False, False, True, False, True, False]
    reasons = [verdict.reason for verdict in judged.verdicts]
    assert reasons[2] == "format: no think block" and reasons[7].startswith("format: no answer block")
    assert reasons[1].startswith("value") and reasons[3].startswith("parse")
    assert reasons[0] == reasons[4] == reasons[6] == "ok" and reasons[5] == "no call expected"


def test_a_right_completion_that_was_cut_is_wrong_but_keeps_its_thought(seed_tokenizer):
    judged = judge(seed_tokenizer, [RIGHT, RIGHT, NO_CALL, NO_CALL], cut=(1,))
    np.testing.assert_array_equal(judged.rewards, [[1, 0], [1, 1]])
    assert judged.verdicts[1].reason == "format: cut at the limit"
    np.testing.assert_array_equal(judged.cot_mask[0], judged.cot_mask[1])


def test_the_mask_is_the_thought_of_each_row_and_nothing_else(seed_tokenizer):
    texts = [RIGHT, NO_CALL, "<think>never closed", "[]"]
    judged = judge(seed_tokenizer, texts)
    tokens, lengths, _ = rollouts(seed_tokenizer, texts)
    thoughts = [seed_tokenizer.text(row[mask].tolist()) for row, mask in zip(tokens, judged.cot_mask, strict=True)]
    assert thoughts == ["weather: weather", "nothing fits", "", ""]
    assert judged.cot_mask.shape == tokens.shape and not judged.cot_mask[np.arange(ROOM) >= lengths[:, None]].any()


def test_the_token_that_ends_a_completion_is_not_judged(seed_tokenizer):
    # Of a completion that ended the last token is left out, whatever it is; of one that was cut it is kept.
    tokens, lengths, _ = rollouts(seed_tokenizer, [RIGHT + "!", RIGHT + "!"], cut=(0, 1))
    judged = judge_rollouts(EXAMPLES[:1], tokens, lengths, np.array([True, False]), Here(judge_of(seed_tokenizer)))
    assert judged.verdicts[0].ok and not judged.verdicts[1].ok


def test_rows_that_only_fill_the_batch_are_wrong_and_without_thought(seed_tokenizer):
    tokens, lengths, ended = rollouts(seed_tokenizer, [RIGHT, RIGHT])
    tokens[1], lengths[1], ended[1] = seed_tokenizer.encode("<think>a</think>")[0], 0, False
    judged = judge_rollouts(EXAMPLES[:1], tokens, lengths, ended, Here(judge_of(seed_tokenizer)))
    assert not judged.verdicts[1].ok and not judged.cot_mask[1].any()


def test_opened_blocks_and_bare_answers_are_judged_by_their_own_form(seed_tokenizer):
    prompt = Prompt(wrapper="bare", opens_think=True)
    text = "weather: weather</think>[weather(city='Paris', days=3)]"
    judged = judge(seed_tokenizer, [text, RIGHT], examples=EXAMPLES[:1], prompt=prompt)
    np.testing.assert_array_equal(judged.rewards, [[1, 0]])
    assert judged.cot_mask[0, 0]


def test_lenient_syntax_is_bfcls():
    assert syntax_of(Reward()) is Syntax.STRICT and syntax_of(Reward(lenient=True)) is Syntax.BFCL
    data = b"<think></think><answer>weather(city='Paris', days=3)</answer>"
    assert not judge_completion(data, EXAMPLES[0], SEED_PROMPT, Syntax.STRICT).ok
    assert judge_completion(data, EXAMPLES[0], SEED_PROMPT, Syntax.BFCL).ok


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_completions_are_wrong_and_never_raise(text):
    for example in EXAMPLES[:1]:
        assert not judge_completion(text.encode(), example, SEED_PROMPT, Syntax.STRICT).ok


# While sampling goes on


@pytest.mark.parametrize("workers", [0, 2])
def test_completions_judged_in_any_order_and_in_parts_are_judged_as_a_whole_batch(seed_tokenizer, monkeypatch, workers):
    monkeypatch.setattr(rewards_module, "CHUNK", 3)
    texts = [RIGHT, RIGHT.replace("3", "4"), NO_CALL, "", RIGHT + RIGHT, NO_CALL, RIGHT, "<think>"]
    whole = judge(seed_tokenizer, texts, cut=(3,))
    tokens, lengths, ended = rollouts(seed_tokenizer, texts, cut=(3,))
    order = np.random.default_rng(0).permutation(8)
    with judging_pool(judge_of(seed_tokenizer), Reward(workers=workers)) as pool:
        judging = Judging(EXAMPLES, pool, group_size=4, length=ROOM)
        for rows in (order[:5], order[5:5], order[5:6], order[6:]):
            judging.submit(rows, tokens[rows], lengths[rows], ended[rows])
        judged = judging.collect()
    assert judged.verdicts == whole.verdicts and 0 < judged.rewards.sum() < 8
    np.testing.assert_array_equal(judged.rewards, whole.rewards)
    np.testing.assert_array_equal(judged.cot_mask, whole.cot_mask)
    assert judged.rewards.dtype == np.float32


def test_each_row_is_submitted_once_or_the_run_stops(seed_tokenizer):
    tokens, lengths, ended = rollouts(seed_tokenizer, [RIGHT, RIGHT, NO_CALL, NO_CALL])
    judging = Judging(EXAMPLES, Here(judge_of(seed_tokenizer)), group_size=2, length=ROOM)
    for rows in (np.array([2, 0]), np.array([3])):
        judging.submit(rows, tokens[rows], lengths[rows], ended[rows])
    with pytest.raises(RuntimeError, match="of 4 completions 1 were never submitted"):
        judging.collect()
    for rows in (np.array([1, 0]), np.array([1, 1])):
        with pytest.raises(RuntimeError, match=r"completions 1, [01] some were submitted to the judge before"):
            judging.submit(rows, tokens[rows], lengths[rows], ended[rows])


def test_a_completion_that_is_not_judged_in_time_is_wrong_with_its_reason(seed_tokenizer):
    # The worker that meets the text "hang" never answers.
    judge = planted.Hangs(judge_of(seed_tokenizer), b"hang")
    texts = [RIGHT, "<think>hang</think>", RIGHT, RIGHT.replace("Paris", "Rome")]
    with judging_pool(judge, Reward(workers=1, deadline=1.0)) as pool:
        judged = judge_rollouts(EXAMPLES[:1], *rollouts(seed_tokenizer, texts), pool)
    assert judged.verdicts[1] == Verdict(False, "timeout", "not done after 1 s")
    np.testing.assert_array_equal(judged.rewards, [[1, 0, 1, 0]])
    assert judged.cot_mask[0].any() and not judged.cot_mask[1].any()
    assert reward_metrics(judged, np.ones(4))["reason/timeout"] == 0.25


@pytest.mark.parametrize("setting", [{"workers": -1}, {"deadline": 0.0}])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ValueError, match="right are workers >= 0, deadline > 0"):
        Reward(**setting)


# The control experiment


def test_shuffled_rewards_are_the_same_ones_elsewhere():
    rewards = np.arange(24, dtype=np.float32).reshape(4, 6)
    judged = Judged(rewards, np.zeros((24, 2), bool), [], Share.whole(4))
    dealt = [shuffled(judged, (seed, step)).rewards for seed, step in ((0, 1), (0, 1), (0, 2), (1, 1))]
    for one in dealt:
        assert one.shape == (4, 6) and one.dtype == np.float32 and sorted(one.ravel()) == sorted(rewards.ravel())
        # A reward may go to any prompt, not only to another rollout of its own.
        assert any(set(row) != set(original) for row, original in zip(one, rewards, strict=True))
    np.testing.assert_array_equal(dealt[0], dealt[1])
    assert not np.array_equal(dealt[0], dealt[2]) and not np.array_equal(dealt[0], dealt[3])
    np.testing.assert_array_equal(judged.rewards, np.arange(24).reshape(4, 6))


# Metrics


def test_metrics_are_counted_over_completions_and_groups(seed_tokenizer):
    # Group 0: 1, 0 (no think), 0 (cut); group 1: three right answers, so it is dead.
    texts = [RIGHT, "[]", RIGHT, NO_CALL, NO_CALL, NO_CALL]
    judged = judge(seed_tokenizer, texts, cut=(2,))
    _, lengths, _ = rollouts(seed_tokenizer, texts, cut=(2,))
    metrics = reward_metrics(judged, lengths)
    assert metrics["reward/mean"] == pytest.approx(4 / 6)
    assert metrics["reward/pass_any"] == 1.0 and metrics["reward/dead_groups"] == 0.5
    assert metrics["reward/format_ok"] == pytest.approx(4 / 6)
    assert metrics["length/truncated"] == pytest.approx(1 / 6)
    assert metrics["length/completion_mean"] == pytest.approx(lengths.sum() / 6)
    assert metrics["entropy/cot_tokens"] == pytest.approx(judged.cot_mask.sum() / 6)
    reasons = {name: value for name, value in metrics.items() if name.startswith("reason/")}
    assert sum(reasons.values()) == pytest.approx(1) and reasons["reason/ok"] == pytest.approx(4 / 6)
    assert len(reasons) == len(collections.Counter(verdict.reason for verdict in judged.verdicts))


# The preflight


@pytest.mark.parametrize("prompt", [SEED_PROMPT, Prompt(wrapper="bare", opens_think=True)], ids=["tags", "bare"])
def test_preflight_passes_what_fits_together(seed_tokenizer, prompt):
    preflight([generate(0, "tune", index) for index in range(20)], seed_tokenizer, prompt, Syntax.STRICT)


def test_preflight_stops_a_run_whose_tokenizer_cannot_write_the_answers(tmp_path):
    # A byte-level BPE that was never given the letter P leaves it out without a word.
    make_seed_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    document = json.loads(path.read_text())
    document["model"]["vocab"]["\u0144"] = document["model"]["vocab"].pop("P")
    document["model"]["merges"] = [pair for pair in document["model"]["merges"] if "P" not in "".join(pair)]
    path.write_text(json.dumps(document))
    with pytest.raises(RuntimeError, match=r"example Paris is judged wrong \(value.*'aris'.*do not fit"):
        preflight(EXAMPLES, Tokenizer(tmp_path), SEED_PROMPT, Syntax.STRICT)


def test_preflight_stops_a_run_whose_data_contradict_themselves(seed_tokenizer):
    # The tool requires a city, and the accepted call has none.
    broken = dataclasses.replace(EXAMPLES[0], accepted=accepted_from_bfcl([{"weather": {"days": [3]}}]))
    with pytest.raises(RuntimeError, match="judged wrong"):
        preflight([EXAMPLES[1], broken], seed_tokenizer, SEED_PROMPT, Syntax.STRICT)
