import pytest

from jaxfc.calls.schema import (
    AcceptedCall,
    Call,
    SchemaError,
    Tool,
    accepted_from_bfcl,
    accepted_from_calls,
    accepted_to_bfcl,
    calls_from_accepted,
    signature,
    tool_from_json,
    tool_to_bfcl,
    tool_to_openai,
)


def schema_of(kind: str, **rest):
    """The schema that a parameter `x` of xLAM's flat dialect is read as."""
    document = {"name": "f", "description": "", "parameters": {"x": {"type": kind, "description": "d", **rest}}}
    return tool_from_json(document).properties["x"]


def is_required(kind: str, **rest) -> bool:
    return tool_from_json({"name": "f", "parameters": {"x": {"type": kind, **rest}}}).required == ("x",)


@pytest.mark.parametrize(
    ("python", "read"),
    [
        ("str", {"type": "string"}),
        ("int, optional", {"type": "integer"}),
        ("float", {"type": "float"}),
        ("bool", {"type": "boolean"}),
        ("list", {"type": "array"}),
        ("List", {"type": "array"}),
        ("set", {"type": "array"}),
        ("tuple", {"type": "tuple"}),
        ("dict", {"type": "dict"}),
        ("List[int]", {"type": "array", "items": {"type": "integer"}}),
        ("typing.List[str], optional", {"type": "array", "items": {"type": "string"}}),
        ("List[List[float]]", {"type": "array", "items": {"type": "array", "items": {"type": "float"}}}),
        ("List[Union[int, float]]", {"type": "array", "items": {"type": "float"}}),
        ("List[Tuple[int, int]]", {"type": "array", "items": {"type": "tuple", "items": {"type": "integer"}}}),
        ("List[Union[int, str]]", {"type": "array"}),
        ("List[Any]", {"type": "array"}),
        ("Tuple[float, float]", {"type": "tuple", "items": {"type": "float"}}),
        ("Tuple[int, ...]", {"type": "tuple", "items": {"type": "integer"}}),
        ("Dict[str, int]", {"type": "dict", "additionalProperties": {"type": "integer"}}),
        ("Dict[str, Any]", {"type": "dict", "additionalProperties": {"type": "any"}}),
        ("Optional[int]", {"type": "integer"}),
        ("int | None", {"type": "integer"}),
        ("Union[str, int]", {"type": "any"}),
        ("Callable[[float], float]", {"type": "string"}),
        ("str, optional, default 'London'", {"type": "string"}),
        ("Any", {"type": "any"}),
        ("pandas.DataFrame", {"type": "any"}),
        ("None", {"type": "any"}),
    ],
)
def test_python_types_are_read_in_bfcl_words(python, read):
    assert schema_of(python) == read | {"description": "d"}


def test_a_flat_parameter_is_required_unless_optional_or_with_a_default():
    assert is_required("str")
    assert is_required("str", default="")
    assert is_required("str", default=None)
    assert not is_required("str", default="London")
    assert not is_required("int", default=0)
    assert not is_required("str, optional")
    assert not is_required("Optional[str]")
    assert not is_required("str", required=False)


def test_an_empty_default_of_a_flat_parameter_is_no_default():
    assert "default" not in schema_of("str, optional", default="")
    assert schema_of("int, optional", default=0)["default"] == 0


JSON_SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Where."},
        "price": {"type": "number"},
        "filters": {
            "type": "object",
            "properties": {"tags": {"type": "array", "items": {"type": "string"}}},
            "required": ["tags"],
        },
        "limit": {"type": ["integer", "null"], "default": 5},
        "unit": {"enum": ["c", "f"]},
        "date": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "extra": {},
    },
    "required": ["city"],
}
READ = Tool(
    name="shop.find",
    description="Finds.",
    properties={
        "city": {"type": "string", "description": "Where."},
        "price": {"type": "float"},
        "filters": {
            "type": "dict",
            "properties": {"tags": {"type": "array", "items": {"type": "string"}}},
            "required": ["tags"],
        },
        "limit": {"type": "integer", "default": 5},
        "unit": {"type": "string", "enum": ["c", "f"]},
        "date": {"type": "string"},
        "extra": {"type": "any"},
    },
    required=("city",),
)


def test_json_schema_is_read_bare_and_in_openai_wrapping():
    function = {"name": "shop.find", "description": "Finds.", "parameters": JSON_SCHEMA}
    assert tool_from_json(function) == READ
    assert tool_from_json({"type": "function", "function": function}) == READ


def test_writing_and_reading_a_tool_gives_the_tool():
    assert tool_from_json(tool_to_openai(READ)) == READ
    assert tool_from_json(tool_to_bfcl(READ)) == READ


def test_openai_tools_have_json_schema_types():
    parameters = {"x": {"type": "float"}, "y": {"type": "tuple", "items": {"type": "dict"}}, "z": {"type": "any"}}
    written = tool_to_openai(Tool("f", "d", parameters, ("x",)))
    assert written == {
        "type": "function",
        "function": {
            "name": "f",
            "description": "d",
            "parameters": {
                "type": "object",
                "properties": {
                    "x": {"type": "number"},
                    "y": {"type": "array", "items": {"type": "object"}},
                    "z": {},
                },
                "required": ["x"],
            },
        },
    }


def test_bfcl_docs_keep_their_types():
    doc = {
        "name": "math.area",
        "description": "Area.",
        "parameters": {
            "type": "dict",
            "properties": {
                "points": {"type": "array", "items": {"type": "tuple", "items": {"type": "float"}}},
                "options": {"type": "dict", "properties": {"unit": {"type": "string"}}, "description": "o"},
                "any": {"type": "any", "default": None},
            },
            "required": ["points"],
        },
    }
    assert tool_to_bfcl(tool_from_json(doc)) == doc


def test_parameters_named_type_and_properties_are_parameters():
    flat = {"name": "f", "parameters": {"type": {"type": "str"}, "properties": {"type": "int", "description": "n"}}}
    assert list(tool_from_json(flat).properties) == ["type", "properties"]


def test_a_tool_may_have_no_parameters():
    for parameters in (None, {}, {"type": "object"}, {"type": "object", "properties": {}}):
        assert tool_from_json({"name": "now", "description": None, "parameters": parameters}) == Tool("now", "", {}, ())


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("f", "a tool should be an object"),
        ({"description": "d"}, "the name of a tool should be text, not None"),
        ({"name": ""}, "the name of a tool"),
        ({"name": "f", "description": 3}, "f: the description should be text, not 3"),
        ({"name": "f", "parameters": ["x"]}, "f: parameters should be an object"),
        ({"name": "f", "parameters": {"type": "string"}}, "f: parameters has the type 'string'"),
        ({"name": "f", "parameters": {"x": "str"}}, "f.x: a parameter should be an object with a type, not 'str'"),
        ({"name": "f", "parameters": {"type": "object", "properties": {"x": 3}}}, "f.x: a schema should be an object"),
        ({"name": "f", "parameters": {"type": "object", "properties": []}}, "f: properties should be an object"),
        ({"name": "f", "parameters": {"type": "object", "required": ["x"]}}, "f: requires 'x', which is not among"),
        ({"name": "f", "parameters": {"type": "object", "required": "x"}}, "f: required should be a list of names"),
        ({"name": "f", "parameters": {"x": {"type": 3}}}, "f.x: the type should be text, not 3"),
        ({"name": "f", "parameters": {"x": {"type": "str", "enum": "ab"}}}, "f.x: enum should be a list"),
        ({"name": "f", "parameters": {"x": {"type": "List[" * 5000}}}, "f.x: its type nests deeper than 32"),
    ],
)
def test_what_is_no_tool_is_refused_with_a_message(document, message):
    with pytest.raises(SchemaError) as error:
        tool_from_json(document)
    assert message in str(error.value)


def test_schemas_that_nest_without_end_are_refused():
    schema: dict = {"type": "string"}
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(SchemaError, match="nested deeper than 32"):
        tool_from_json({"name": "f", "parameters": {"type": "object", "properties": {"x": schema}}})


def test_signature_is_one_line_with_types_and_optional_marks():
    assert (
        signature(READ)
        == "shop.find(city: str, price?: float, filters?: dict, limit?: int, unit?: 'c'|'f', date?: str, extra?: any)"
    )
    kinds = {"a": {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}}}, "t": {"type": "tuple"}}
    assert signature(Tool("f", "", kinds, ("a", "t"))) == "f(a: list[list[bool]], t: tuple)"
    assert signature(Tool("now", "", {}, ())) == "now()"


TOOL = Tool(
    "book",
    "",
    {
        "city": {"type": "string"},
        "days": {"type": "integer", "default": 3},
        "unit": {"type": "string", "default": "km"},
        "options": {"type": "dict"},
        "guests": {"type": "array", "items": {"type": "dict"}},
        "note": {"type": "string"},
        "loose": {"type": "any"},
    },
    ("city",),
)


def test_accepted_calls_hold_the_gold_value_and_the_default_where_either_is_right():
    [accepted] = accepted_from_calls([Call("book", {"city": "Rome", "days": 3})], [TOOL])
    # days is given its default, so it may be left out; unit is not given, so it may be given its default;
    # note and options have no default, so to give them is wrong.
    assert accepted == AcceptedCall("book", {"city": ("Rome",), "days": (3, ""), "unit": ("", "km")})
    [accepted] = accepted_from_calls([Call("book", {"city": "Rome", "days": 4})], [TOOL])
    assert accepted.arguments["days"] == (4,)


def test_dicts_are_nested_one_level_where_bfcl_reads_them_so():
    arguments = {"city": "Rome", "options": {"a": {"b": 1}}, "guests": [{"name": "Ann"}], "loose": {"c": 2}}
    [accepted] = accepted_from_calls([Call("book", arguments)], [TOOL])
    assert accepted.arguments["options"] == ({"a": [{"b": 1}]},)
    assert accepted.arguments["guests"] == ([{"name": ["Ann"]}],)
    assert accepted.arguments["loose"] == ({"c": 2},)
    assert calls_from_accepted([accepted], [TOOL]) == (Call("book", arguments),)


def test_a_required_parameter_is_never_left_out():
    tool = Tool("f", "", {"x": {"type": "string", "default": "a"}}, ("x",))
    assert accepted_from_calls([Call("f", {"x": "a"})], [tool]) == (AcceptedCall("f", {"x": ("a",)}),)
    assert calls_from_accepted([AcceptedCall("f", {"x": ("",)})], [tool]) == (Call("f", {"x": ""}),)


@pytest.mark.parametrize(
    ("kind", "default"), [("integer", "3"), ("integer", True), ("boolean", 1), ("array", "a"), ("string", "")]
)
def test_a_default_of_another_type_is_not_accepted(kind, default):
    tool = Tool("f", "", {"x": {"type": kind, "default": default}}, ())
    assert accepted_from_calls([Call("f", {})], [tool]) == (AcceptedCall("f", {}),)


def test_calls_that_no_tool_takes_are_refused():
    with pytest.raises(SchemaError, match="calls 'fly', which is not among the tools: book"):
        accepted_from_calls([Call("fly", {})], [TOOL])
    with pytest.raises(SchemaError, match="calls book with 'town', which is not among its parameters"):
        accepted_from_calls([Call("book", {"town": "Rome"})], [TOOL])


def test_bfcl_answers_are_read_and_written_back():
    answer = [{"f": {"x": [1, ""], "y": [{"k": ["v", ""]}]}}, {"g.h": {}}]
    accepted = accepted_from_bfcl(answer)
    assert accepted == (AcceptedCall("f", {"x": (1, ""), "y": ({"k": ["v", ""]},)}), AcceptedCall("g.h", {}))
    assert accepted_to_bfcl(accepted) == answer


@pytest.mark.parametrize("answer", ["f", {}, {"f": {}, "g": {}}, {"f": []}, {"f": {"x": 1}}, {"f": {"x": "ab"}}])
def test_what_is_no_bfcl_answer_is_refused(answer):
    with pytest.raises(SchemaError, match="an accepted call should be"):
        accepted_from_bfcl([answer])
