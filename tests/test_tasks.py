import collections
import functools
import itertools
import math

import numpy as np
import pytest

from jaxfc.calls.match import match_calls
from jaxfc.calls.schema import Call
from jaxfc.command import load
from jaxfc.config import Careless, TrainSFT
from jaxfc.data.prompts import completion_tokens, prompt_tokens
from jaxfc.data.tasks import KINDS, NOUNS, SPLITS, generate

COUNT = 2000
NEVER = Careless(invented_call=0.0, lost_call=0.0, quoted_numbers=0.0, dropped_argument=0.0)


@functools.cache
def tasks(split, *, seed=0, careless=None, count=COUNT):
    return [generate(seed, split, index, careless) for index in range(count)]


def calls_of(example):
    return [Call(call.name, {name: values[0] for name, values in call.arguments.items()}) for call in example.accepted]


def values_of(examples):
    """What was drawn for free parameters: the items of lists, the words of texts; enums and flags are shared."""
    values = set()
    for example in examples:
        tools = {tool.name: tool for tool in example.tools}
        for call in calls_of(example):
            for name, value in call.arguments.items():
                if isinstance(value, bool) or "enum" in tools[call.name].properties[name]:
                    continue
                values |= set(map(str, value)) if isinstance(value, list) else set(str(value).split())
    return values


def nouns_of(examples):
    return {tool.name.split("_")[1] for example in examples for tool in example.tools}


def said(value):
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def assert_rate(hits, rate):
    """The share of `hits` is `rate`, within four standard errors of it."""
    hits = list(hits)
    assert len(hits) > 100
    assert abs(sum(hits) / len(hits) - rate) <= 4 * math.sqrt(rate * (1 - rate) / len(hits)), sum(hits) / len(hits)


def test_a_task_depends_on_its_seed_split_and_index_alone():
    assert generate(5, "train", 17) == generate(5, "train", 17)
    several = [generate(seed, split, index) for seed in (5, 6) for split in SPLITS for index in (17, 21)]
    assert all(a.messages != b.messages for a, b in itertools.combinations(several, 2))
    assert len({example.id for example in several}) == len(several)


def test_kinds_are_equally_many_and_are_what_they_say():
    counts = collections.Counter(example.kind for example in tasks("train"))
    assert counts == dict.fromkeys(KINDS, COUNT // 4)
    for example in tasks("train"):
        size, calls = len(example.tools), len(example.accepted)
        assert {
            "single": size == 1 and calls == 1,
            "choice": 2 <= size <= 3 and calls == 1,
            "several": 1 <= size <= 3 and 2 <= calls <= 3,
            "none": 1 <= size <= 3 and calls == 0,
        }[example.kind], example


def test_tools_of_a_task_are_distinct_and_what_is_asked_for_in_vain_is_not_among_them():
    for example in tasks("train"):
        names = [tool.name for tool in example.tools]
        assert len(set(names)) == len(names)
        if example.kind == "none":
            # The thought names the wish first: "<verb in the query's words> <noun>: ...".
            wish = example.thought.split(":")[0]
            query = example.messages[0]["content"].lower()
            assert wish in query.replace(" a ", " ").replace(" the ", " ").replace(" my ", " ")


def test_there_are_more_than_forty_tool_schemas_in_every_split():
    for split in SPLITS:
        schemas = {(tool.name, tuple(tool.properties), tool.required) for e in tasks(split) for tool in e.tools}
        assert len(schemas) >= 40, split
        assert len({tool.name for example in tasks(split) for tool in example.tools}) >= 40


def test_every_type_of_argument_occurs():
    schemas = [schema for e in tasks("train") for tool in e.tools for schema in tool.properties.values()]
    assert {schema["type"] for schema in schemas} == {"string", "integer", "float", "boolean", "array"}
    assert any("enum" in schema for schema in schemas)
    values = [value for e in tasks("train") for call in calls_of(e) for value in call.arguments.values()]
    assert {type(value) for value in values} == {str, int, float, bool, list}
    assert {type(item) for value in values if isinstance(value, list) for item in value} == {str, int}
    required = [name in tool.required for e in tasks("train") for tool in e.tools for name in tool.properties]
    assert 0.05 < required.count(False) / len(required) < 0.3


def test_training_shows_no_tool_of_another_split_and_the_splits_share_none():
    nouns = {split: nouns_of(tasks(split)) for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not nouns[one] & nouns[other], (one, other)
    assert nouns["tune"] == set(NOUNS["tune"]) and nouns["held_out"] == set(NOUNS["held_out"])
    # Half of the training tools have a noun that is in no list.
    listed = [tool.name.split("_")[1] in NOUNS["train"] for e in tasks("train") for tool in e.tools]
    assert 0.4 < sum(listed) / len(listed) < 0.6


@pytest.mark.parametrize("careless", [None, Careless()], ids=["right", "careless"])
def test_training_shows_no_value_of_another_split(careless):
    shown = values_of(tasks("train", careless=careless))
    for split in ("tune", "held_out"):
        # More than a thousand values each, of words, numbers and dates.
        assert len(values_of(tasks(split))) > 1000
        assert not shown & values_of(tasks(split)), split


def test_every_value_is_said_in_the_query():
    for split in SPLITS:
        for example in tasks(split):
            query = example.messages[0]["content"].lower()
            for call in calls_of(example):
                for value in call.arguments.values():
                    if not isinstance(value, bool):
                        assert all(word.lower() in query for word in said(value)), (query, value)


def test_right_answers_match_themselves_and_give_what_is_required():
    for example in itertools.chain.from_iterable(tasks(split) for split in SPLITS):
        calls, tools = calls_of(example), {tool.name: tool for tool in example.tools}
        assert match_calls(calls, example.tools, example.accepted).ok
        for call in calls:
            assert set(tools[call.name].required) <= set(call.arguments) <= set(tools[call.name].properties)


def test_a_thought_names_the_calls_in_order_and_holds_no_tag():
    for example in tasks("train"):
        steps = example.thought.removeprefix("Plan: ").removeprefix("Steps: ").split("; ")
        if example.accepted:
            assert [step.split(": ")[1] for step in steps] == [call.name for call in example.accepted]
        assert "<" not in example.thought


# The careless teacher


def test_a_teacher_that_is_never_careless_gives_the_right_calls():
    for right, same in zip(tasks("train"), tasks("train", careless=NEVER), strict=True):
        assert calls_of(right) == calls_of(same) and right.messages == same.messages


def test_each_fault_comes_at_its_rate():
    careless = Careless(invented_call=0.7, lost_call=0.65, quoted_numbers=0.4, dropped_argument=0.1)
    pairs = list(zip(tasks("train", count=4000), tasks("train", count=4000, careless=careless), strict=True))
    assert all(right.messages == spoiled.messages and right.tools == spoiled.tools for right, spoiled in pairs)
    assert_rate((bool(spoiled.accepted) for right, spoiled in pairs if not right.accepted), 0.7)
    assert_rate((len(s.accepted) == len(r.accepted) - 1 for r, s in pairs if len(r.accepted) > 1), 0.65)
    quoted, dropped = [], []
    for right, spoiled in pairs:
        for good, bad in zip(calls_of(right), calls_of(spoiled), strict=False):
            assert good.name == bad.name
            if len(good.arguments) > 1:
                dropped.append(len(bad.arguments) == len(good.arguments) - 1)
            numbers = [name for name in bad.arguments if type(good.arguments[name]) in (int, float)]
            if numbers:
                changed = {type(bad.arguments[name]) is str for name in numbers}
                assert len(changed) == 1, "all numbers of a call are quoted, or none"
                quoted.append(changed.pop())
    assert_rate(quoted, 0.4)
    assert_rate(dropped, 0.1)


def test_an_invented_call_is_to_a_tool_on_offer_and_is_what_the_thought_names():
    for example in tasks("train", careless=Careless(invented_call=1.0)):
        assert {call.name for call in example.accepted} <= {tool.name for tool in example.tools}
        if example.kind == "none":
            assert len(example.accepted) == 1 and example.accepted[0].name in example.thought


# Lengths


def test_nearly_all_tasks_fit_the_shapes_of_the_seed_models_training(seed_tokenizer, pytestconfig):
    config = load(TrainSFT, str(pytestconfig.rootpath / "configs" / "seed.yaml"))
    for data, split in ((config.data, "train"), (config.evaluation.data, "tune"), (config.evaluation.data, "held_out")):
        examples = [generate(9, split, index) for index in range(400)]
        prompts = [len(prompt_tokens(example, seed_tokenizer, config.prompt)) for example in examples]
        completions = [len(completion_tokens(example, seed_tokenizer, config.prompt)) for example in examples]
        assert np.mean(np.array(prompts) <= data.prompt_buckets[-1]) > 0.98, split
        assert np.mean(np.array(completions) <= data.completion_length) > 0.98, split
