"""What answers to BFCL's questions are made of when they go wrong."""

VALUES = [
    None, True, False, 0, 1, -1, 2.5, 1.0, 1e300, "", "x", " -. ", "5", "True", [], [[]], {}, {"a": 1}, ["a"],
    [1, 2],
]  # fmt: skip

PYTHON_EXPRESSIONS = [
    "x", "x.y", "x[0]", 'd["a"]', "g(1,  2)", "g(a=1)", "g(1, a=2)", "f'{x}'", "{1, 2}", "[i for i in x]",
    "lambda: 1",
    "1 if x else 2", "1 < 2", "a and b", "(y := 1)", "...", "b'ab'", "3j", "+5", "~5", "not True", "not 'a'", "-x",
    "--5", "-(2+3)", "2+3", "2 * 3.5", "'a' * 3", "'a' + 'b'", "[1] + [2]", "10 / 4", "7 // 2", "7 % 4",
    "'%s!' % 'a'",
    "2**5", "1 << 4", "1 | 2", "1/0", "'a' + 1", "{**x}", "{'a': 1, 'a': 2}", "{[]: 1}", "*x", "true", "null",
    "None",
    "0x10", "1_000", "1e3", "r'a\\b'", "u'a'", "'a' 'b'", "'''a\nb'''", "-0", "-0.0", "1e400", "-True", "(1)",
    "(1,)",
    "()", "await x", "yield", "9" * 5000, "'\\ud800'", "'\\x00'", "'\\q'", "x=1", "ｘ", "_", "[*[1]]", "[1, 2,]",
    "{1: 2,}", "{(): 1}", "-'a'", "@", "-(1)", "g()", "g()()", "x[1:2]", "x[g(a=1)]", "'é'", "[True, 1.0]",
    "[[1], (2,)]",
]  # fmt: skip

FOREIGN_EXPRESSIONS = [
    "x", "a.b", "f(1, 2)", "f(x=1)", "a + b", 'a + "b c"', "-5", "!x", "(x)", "x ? 1 : 2", "new A(1, x)", "new A()",
    "A.class", "null", "new int[5]", "new int[][]{{1}}", "x -> 1", "() => { return 1; }",
    "function(a) { return a; }",
    "[[1, 2], [3]]", "{a: {b: 1}}", "{a: [1, 'x'], b: c}", "new Array([1], [2])", "/re/g", "`t${x}`", "5n",
    "0x10", "1e3",
    "1_000", "'c'", '"\\""', "undefined", "{}", "[]", "9" * 1500, "new HashMap<>()", "new ArrayList<>()",
    "List.of(1)",
    "Map.of()", '"5"', "'5'", "5L", "5f", "5d", "true", "...x", 'new HashMap<String, Integer>() {{ put("a", 1); }}',
    '"""new HashMap<>() {{ put("a", 1); }}"""', "async () => 1", "await x", "new String[]{a, b}",
    '"new String[]{a}"',
]  # fmt: skip

PIECES = [
    "(", ")", "[", "]", "{", "}", '"', "'", "`", ",", ".", "=", "+=", ";", " ", "\n", "\t", "\r", "x", "f(",
    "new ", "5",
    "new int[]{", "new ArrayList<String>(", "Arrays.asList(", '{{ put("a", 1); }}', "=>", "->", "a.b", "-5",
    '"é"', "é",
    "/*c*/", "//c\n", "true", "null", "x=5", 'y="a"', "...x", "?.", "!", "?", ":", "<", ">", "class ",
    "function(){}",
    "() => 1", "await ", "var ", "A.class", "::", '"""\n', "1.5f", "10L", "'c'", "${", "name=", "add(1)",
    "put(", "# c\n",
    "**x", "*", "lambda", "<think>", "None", "0", "\\", "\x00", "\u2028", "\ufeff", "%",
]  # fmt: skip

NAMES = [
    lambda name: name.replace(".", "_"),
    str.upper,
    lambda name: f"x.{name}",
    lambda name: name.rpartition(".")[2],
    lambda name: f"x[0].{name}",
    lambda name: f"{name}.x",
    lambda name: name.replace(".", " . "),
    lambda name: f"'s'.{name}",
    lambda name: f"{name}()",
    lambda name: f"{name}2",
    lambda name: name.replace("a", "ａ"),
    lambda name: f"new {name}",
    lambda name: f"({name})",
    lambda name: f"{name} ",
]

WRAPPERS = [
    "[{}]", "{}", "```\n[{}]\n```", "```python\n[{}]\n```", "Sure: [{}]", "[{}", "{}]", "[{},]", "\t[{}]",
    "\t{}", "[{}]\r\n",
    "[{}]  \n", "[[{}]]", "({})", "[({})]", "[{}];", "[{};]", "{};", "[{}] # done", "# calls\n{}",
    "# calls\n[{}]", "[\n{}\n]",
    "<think>a</think>[{}]", "", "[]", "I cannot.", "[{}][0]", "[{}] + []", "x = [{}]", "[x, {}]", "[*[{}]]",
    "var x = {};",
    "await {}", "foo({})", "{}\n{}", "return {}", "() => {}", "{} // done", "[{}]]", "[[{}]", "`[{}]", "  [ {} ]  ",
]  # fmt: skip
