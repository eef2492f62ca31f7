import json
import time

import pytest

from jaxfc.data.sources.notations import literal, read_reply
from jaxfc.data.sources.offers import tools_in
from jaxfc.data.sources.source import read_rows
from jaxfc.data.validate import Dropped, Kept, validate

WEATHER = {
    "name": "Get Weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "dict",
        "properties": {"city": {"type": "string"}, "days": {"type": "int"}, "in-detail": {"type": "boolean"}},
        "required": ["city"],
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
OSLO = {"name": "Get Weather", "arguments": {"city": "Oslo", "days": 2, "in-detail": True}}
ROME = {"name": "get_time", "arguments": {"city": "Rome"}}

TOOLACE = {
    "system": "You compose functions. The current time is 2031-05-04 10:00:00.Here is a list of functions in JSON "
    f"format that you can invoke:\n{json.dumps([WEATHER, TIME['function']])}. \nShould you decide to return calls, put "
    "them in the format of [func1(params_name=params_value, ...), func2(params)]\n",
    "conversations": [
        {"from": "user", "value": "How will Oslo be, and what time is it in Rome?"},
        {"from": "assistant", "value": "[Get Weather(city='Oslo', days=2, in-detail=true), get_time(city=\"Rome\")]"},
        {"from": "tool", "value": '[{"name": "Get Weather", "results": "snow"}]'},
        {"from": "assistant", "value": "Snow in Oslo [1]."},
    ],
}
HERMES = {
    "id": "h-1",
    "conversations": [
        {
            "from": "system",
            "value": "You are a function calling AI model with signatures within <tools> </tools> XML tags.\n<tools>\n"
            f"{json.dumps(TIME)}\n{json.dumps({'type': 'function', 'function': WEATHER})}\n</tools>\nReturn a json "
            "object within <tool_call></tool_call> tags.",
        },
        {"from": "human", "value": "How will Oslo be, and what time is it in Rome?"},
        {
            "from": "gpt",
            "value": "<think>Two calls.</think>\nI look.\n<tool_call>\n{'arguments': {'city': 'Oslo', 'days': 2, "
            "'in-detail': True}, 'name': 'Get Weather'}\n</tool_call>\n<tool_call>\n"
            f"{json.dumps(ROME)}\n</tool_call>",
        },
        {
            "from": "tool",
            "value": "<tool_response>\nsnow\n</tool_response>\n<tool_response>\n10:00\n</tool_response>\n",
        },
        {"from": "gpt", "value": "Snow, and it is ten."},
    ],
}
OPENAI = {
    "messages": [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": [{"type": "text", "text": "How will Oslo be, "}, {"type": "text", "text": "and"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Two calls.",
            "tool_calls": [
                {"id": f"c{i}", "type": "function", "function": {**call, "arguments": json.dumps(call["arguments"])}}
                for i, call in enumerate((OSLO, ROME))
            ],
        },
        {"role": "tool", "tool_call_id": "c0", "content": "snow"},
        {"role": "tool", "tool_call_id": "c1", "content": "10:00"},
        {"role": "assistant", "content": "Snow, and it is ten."},
    ],
    "tools": [{"type": "function", "function": WEATHER}, TIME],
}
GLAIVE = {
    "system": "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"
    f"{json.dumps(TIME['function'], indent=4)}\n\n{json.dumps(WEATHER, indent=4)}\n",
    "chat": "USER: What time is it in Rome?\n\n\nASSISTANT: <functioncall> "
    '{"name": "get_time", "arguments": \'{"city": "Rome"}\'} <|endoftext|>\n\n\nFUNCTION RESPONSE: {"time": "10:00"}'
    "\n\n\nASSISTANT: It's ten. <|endoftext|>\n\n\nUSER: Thanks.\n\n\nASSISTANT: You're welcome! <|endoftext|>\n",
}
SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "What time is it in Rome?"},
        {"from": "function_call", "value": json.dumps(ROME)},
        {"from": "observation", "value": '{"time": "10:00"}'},
        {"from": "gpt", "value": "Ten."},
    ],
    "tools": json.dumps([TIME["function"]]),
}


def rows_of(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return list(read_rows(path))


@pytest.mark.parametrize("row", [TOOLACE, HERMES, OPENAI], ids=["toolace", "hermes", "openai"])
def test_every_form_gives_the_same_calls_and_an_example_for_each_turn(tmp_path, row):
    first, second = rows_of(tmp_path, row)
    assert first.answers == [OSLO, ROME] and second.answers == []
    assert [first.id, second.id] == [f"{row.get('id', 'rows-1')}#1", f"{row.get('id', 'rows-1')}#2"]
    assert {first.where, second.where} == {"rows.jsonl:1"}
    users = [message for message in first.messages if message["role"] != "system"]
    assert [message["role"] for message in users] == ["user"]
    assert [message["role"] for message in second.messages[len(first.messages) :]][:2] == ["assistant", "tool"]
    assert second.messages[len(first.messages)]["tool_calls"] == [OSLO, ROME]
    assert "snow" in second.messages[-1]["content"] + second.messages[-2]["content"]
    kept = [validate(raw) for raw in (first, second)]
    assert all(isinstance(each, Kept) for each in kept), kept
    weather, hour = kept[0].example.accepted
    assert (weather.name, hour.name) == ("Get_Weather", "get_time")
    assert weather.arguments == {"city": ("Oslo",), "days": (2,), "in_detail": (True,)}
    assert kept[0].example.text == "" and kept[1].example.text == second.text != ""
    assert kept[1].example.kind == "none" and kept[0].example.kind == "several"
    history = kept[1].example.messages[len(first.messages)]
    assert history["tool_calls"][0]["name"] == "Get_Weather" and "in_detail" in history["tool_calls"][0]["arguments"]


def test_toolaces_prompt_goes_but_for_the_date(tmp_path):
    first, _ = rows_of(tmp_path, TOOLACE)
    assert first.messages[0] == {"role": "system", "content": "The current time is 2031-05-04 10:00:00"}
    assert first.tools == [WEATHER, TIME["function"]]


def test_hermes_thoughts_are_the_answers_and_never_the_historys(tmp_path):
    first, second = rows_of(tmp_path, HERMES)
    assert first.thought == "Two calls."
    assert second.messages[1] == {"role": "assistant", "content": "I look.", "tool_calls": [OSLO, ROME]}
    assert second.messages[2] == {"role": "tool", "content": "snow\n10:00"}
    assert len(first.tools) == 2 and first.messages[0]["role"] == "user"


def test_openais_own_system_prompt_stays_and_its_parts_are_joined(tmp_path):
    first, second = rows_of(tmp_path, OPENAI)
    assert first.messages == [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "How will Oslo be, and"},
    ]
    assert first.thought == "Two calls." and second.text == "Snow, and it is ten."


def test_openais_older_form_and_a_turn_that_is_not_to_be_learned(tmp_path):
    old = {
        "messages": [
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hello!", "weight": 0},
            {"role": "user", "content": "What time is it in Rome?"},
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "get_time", "arguments": '{"city": "Rome"}'},
            },
        ],
        "functions": [TIME["function"]],
    }
    (row,) = rows_of(tmp_path, old)
    assert row.id == "rows-1#2" and row.answers == [ROME] and len(row.messages) == 3


def test_glaives_text_is_taken_apart(tmp_path):
    rows = rows_of(tmp_path, GLAIVE)
    assert [row.answers for row in rows] == [[ROME], [], []]
    assert [row.text for row in rows] == ["", "It's ten.", "You're welcome!"]
    assert [message["role"] for message in rows[2].messages] == ["user", "assistant", "tool", "assistant", "user"]
    assert rows[0].tools == [TIME["function"], WEATHER]
    assert all(isinstance(validate(row), Kept) for row in rows)


def test_glaive_without_functions_offers_none(tmp_path):
    system = "SYSTEM: You are a helpful assistant, with no access to external functions.\n"
    (row,) = rows_of(tmp_path, {"system": system, "chat": "USER: Hi\n\n\nASSISTANT: Hello <|endoftext|>"})
    assert (row.tools, row.answers, row.text) == ([], [], "Hello")


def test_calls_may_have_a_turn_of_their_own(tmp_path):
    call, text = rows_of(tmp_path, SHAREGPT)
    assert call.answers == [ROME] and text.text == "Ten." and text.messages[2]["role"] == "tool"


def test_a_table_with_a_column_for_each_key_of_a_turn_is_read_too(tmp_path):
    turns = SHAREGPT["conversations"]
    columns = {key: [turn[key] for turn in turns] for key in ("from", "value")}
    assert rows_of(tmp_path, SHAREGPT | {"conversations": columns}) == rows_of(tmp_path, SHAREGPT)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("[get_time(city='Rome'", "answer: not parseable"),
        ("[get_time('Rome')]", "answer: not parseable"),
        ("[get_time(city=open('x'))]", "answer: not parseable"),
        ('<tool_call>{"name": "get_time", "arguments": {</tool_call>', "answer: not parseable"),
        ("<tool_call>[1, 2]</tool_call>", "answer: not parseable"),
        ("[get_date(city='Rome')]", "call: unknown tool"),
        ("[get_time(town='Rome')]", "call: undeclared argument"),
    ],
)
def test_calls_that_cannot_be_read_drop_their_turn_with_a_reason(tmp_path, value, reason):
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": value}]
    (row,) = rows_of(tmp_path, {"conversations": turns, "tools": [TIME["function"]]})
    dropped = validate(row)
    assert isinstance(dropped, Dropped) and dropped.reason == reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "tools: not parseable"),
        ({"conversations": [{"from": "human", "value": "q"}], "tools": [TIME]}, "answer: not parseable"),
        ({"conversations": [{"from": "gpt", "value": "Hi!"}], "tools": [TIME]}, "prompt: malformed"),
        ({"conversations": 17, "tools": [TIME]}, "prompt: malformed"),
        ({"messages": [17], "tools": [TIME]}, "prompt: malformed"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": None}], "tools": [TIME]}, ""),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": " "}], "tools": [TIME]}, ""),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": 3}], "tools": [TIME]}, ""),
    ],
)
def test_a_conversation_that_is_none_is_a_dropped_row_and_no_crash(tmp_path, row, reason):
    (raw,) = rows_of(tmp_path, row)
    result = validate(raw)
    assert isinstance(result, Dropped) and result.reason == (reason or "answer: not parseable")


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[]", []),
        ("[a.b(x=1)]", [{"name": "a.b", "arguments": {"x": 1}}]),
        ("[f(), f()]", [{"name": "f", "arguments": {}}] * 2),
        ("[f(x=[1, (2, 3)], y={'a': 'b, c)'})]", [{"name": "f", "arguments": {"x": [1, (2, 3)], "y": {"a": "b, c)"}}}]),
        ("[Odd (name)(x=null)]", [{"name": "Odd (name)", "arguments": {"x": None}}]),
        ("[f(x='true', y=true)] ", [{"name": "f", "arguments": {"x": "true", "y": True}}]),
        ("[f(x=1, x=2)]", "[f(x=1, x=2)]"),
        ("[f(x=1) and more]", "[f(x=1) and more]"),
        ("[f(x=1)], more", "[f(x=1)], more"),
        ("[f(x=a if b else c)]", "[f(x=a if b else c)]"),
        ("[f(x=1, **{'y': 2})]", "[f(x=1, **{'y': 2})]"),
        ("[1] and [2](of course)", []),
        ("[a map](http://x.y)", []),
        ("Call f(x=1).", []),
    ],
)
def test_a_list_of_calls_is_told_from_prose(text, calls):
    assert read_reply(text, ["f", "a.b", "Odd (name)"]).calls == calls


@pytest.mark.parametrize("text", ["[" * 50_000 + "f(", "[f(x=" + "(" * 50_000, "[f(x=" + "'a" * 20_000, "[f(" * 9_000])
def test_a_hostile_text_is_no_call_and_costs_no_time(text):
    start = time.process_time()
    for body in (text, f"<tool_call>{text}</tool_call>", f"<functioncall> {text}", f"<think>{text}"):
        assert read_reply(body, ["f"]).calls in ([], body)
    assert time.process_time() - start < 1


def test_a_literal_is_json_or_pythons_and_never_code():
    assert literal('{"a": [1, null]}') == literal("{'a': [1, None]}") == literal("{'a': [1, null]}") == {"a": [1, None]}
    assert literal("f(x)") is literal("1, y=2") is literal("{") is literal("__import__('os')") is None


def test_a_prompt_without_tools_is_itself():
    assert tools_in("You are brief.") == "You are brief."
    assert tools_in("Functions: []") == [] == tools_in("<tools>[]</tools>")
    assert tools_in("<tools>{broken</tools>") == "<tools>{broken</tools>"
