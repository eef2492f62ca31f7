import dataclasses

import pytest

from jaxfc.calls.schema import AcceptedCall, Tool
from jaxfc.data.example import Example
from jaxfc.data.repeats import Repeats, UniqueIds, exact_digest, normalised_digest, without_repeats, words_of
from jaxfc.data.validate import EXACT_REPEAT, NORMALISED_REPEAT, Dropped, Kept

CITY = Tool("weather", "", {"city": {"type": "string"}, "days": {"type": "integer"}}, ("city",))
CLOCK = Tool("clock", "", {}, ())


def example(query="Weather in Oslo?", tools=(CITY, CLOCK), city="Oslo", **changes):
    accepted = (AcceptedCall("weather", {"city": (city,)}), AcceptedCall("clock", {}))
    return Example("r", ({"role": "user", "content": query},), tools, accepted, "s", **changes)


def kept(*examples):
    return [Kept(each, (), f"f:{line}") for line, each in enumerate(examples, start=1)]


def reasons(results, *arguments):
    return [getattr(result, "reason", "kept") for result in without_repeats(results, *arguments)]


def test_the_first_of_exact_repeats_stays_and_what_was_dropped_before_passes():
    before = Dropped("x", "s", "call: wrong type", "", "f:0")
    results = [before, *kept(example(), example("other"), example())]
    assert reasons(results) == ["call: wrong type", "kept", "kept", EXACT_REPEAT]
    (repeat,) = [each for each in without_repeats(results) if getattr(each, "reason", "") == EXACT_REPEAT]
    assert repeat == Dropped("r", "s", EXACT_REPEAT, "", "f:3")


@pytest.mark.parametrize(
    "changes", [{"source": "t"}, {"licence": "MIT"}, {"thought": "x"}, {"weight": 2.0}, {"id": "q"}]
)
def test_where_a_row_is_from_does_not_make_it_another(changes):
    other = dataclasses.replace(example(), **changes)
    assert exact_digest(other) == exact_digest(example()) and normalised_digest(other) == normalised_digest(example())


@pytest.mark.parametrize(
    "other",
    [
        example("weather in  oslo"),
        example("Wéather, in Oslo!"),
        example(tools=(CLOCK, CITY)),
        example(tools=(dataclasses.replace(CITY, description="of a city"), CLOCK)),
        example(city="oslo."),
        dataclasses.replace(example(), accepted=example().accepted[::-1]),
    ],
)
def test_case_punctuation_white_space_and_order_make_another_row_but_not_other_words(other):
    assert exact_digest(other) != exact_digest(example())
    assert normalised_digest(other) == normalised_digest(example())
    assert reasons(kept(example(), other), NORMALISED_REPEAT, normalised_digest) == ["kept", NORMALISED_REPEAT]


@pytest.mark.parametrize(
    "other",
    [
        example("Weather in Bergen?"),
        example(tools=(CITY,)),
        example(city="Bergen"),
        example(city=1),
        example(city="+"),
        dataclasses.replace(example(), accepted=()),
        dataclasses.replace(example(), messages=({"role": "tool", "content": "Weather in Oslo?"},)),
    ],
)
def test_other_words_tools_or_answers_make_another_row(other):
    assert exact_digest(other) != exact_digest(example())
    assert normalised_digest(other) != normalised_digest(example())


def test_answers_that_consist_of_signs_are_told_apart():
    assert normalised_digest(example(city="+")) != normalised_digest(example(city="-"))


def test_words_have_no_case_punctuation_or_accents():
    assert words_of("  The café's “menu”:\n\tsnake_case 3.5 ") == ["the", "cafes", "menu", "snakecase", "35"]
    assert words_of("天気 は？") == ["天気", "は"]
    assert words_of("?!") == []


def test_the_settings_say_what_is_dropped():
    assert [reason for reason, _ in Repeats().digests()] == [EXACT_REPEAT]
    assert [reason for reason, _ in Repeats(normalised=True).digests()] == [EXACT_REPEAT, NORMALISED_REPEAT]
    assert Repeats(exact=False).digests() == []


def test_all_but_the_first_row_of_an_id_are_named_after_their_place():
    with_own_id = UniqueIds()
    named = [with_own_id(each) for each in kept(example("a"), example("b"), example("c"))]
    assert [each.example.id for each in named] == ["r", "r~f:2", "r~f:3"]
    assert [each.repairs for each in named] == [(), ("id: made unique",), ("id: made unique",)]


def test_ids_stay_unique_where_two_files_have_one_name_and_where_a_row_has_a_made_name_already():
    with_own_id = UniqueIds()
    rows = [Kept(example(), (), "f:1") for _ in range(3)] + [
        Kept(dataclasses.replace(example(), id="r~f:1"), (), "g:1")
    ]
    names = [with_own_id(each).example.id for each in rows]
    assert names == ["r", "r~f:1", "r~f:1~2", "r~f:1~g:1"]
