import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from toy_apis import CATALOGUE, Lamp, Shop

from jaxfc.bfcl import worker
from jaxfc.bfcl.worker import MAX_RESULT, Host, TooLargeError, World


def world(side="model", money=20, long_context=False):
    return World(side, {"Shop": Shop, "Lamp": Lamp}, {"Shop": {"money": money}}, long_context)


def ran(source):
    return world().run(source)


def test_a_call_gives_back_text_dicts_as_json_and_all_else_as_python_prints_it():
    assert ran("put(item='pear', count=2)") == '{"basket": ["pear", "pear"]}'
    assert ran("price(item='fig')") == "5"
    assert ran("dim(level=3)") == "None"
    assert ran("name(label='desk')") == "desk"


def test_arguments_by_position_are_passed_on():
    assert ran("put('pear', 2)") == '{"basket": ["pear", "pear"]}'


def test_what_a_method_raises_is_what_it_says():
    assert ran("put(item='nut')") == "Error during execution: no nut here"
    assert "unexpected keyword argument 'x'" in ran("prices(x=1)")


def test_a_nested_call_is_run_and_its_result_passed_on():
    assert ran("name(label=price(item='fig'))") == "5"
    # The outer name is looked up first, so that the inner call never runs.
    shop = world()
    assert shop.run("nothing(x=dim(level=9))") == "Error during execution: name 'nothing' is not defined"
    assert shop.run("read()") == '{"level": 0, "label": ""}'


@pytest.mark.parametrize(
    "source",
    [
        "_steal()",
        "model_Shop_instance._steal()",
        "model_Shop_instance.money.bit_length()",
        "model_Shop_instance._load_scenario(scenario={'money': 9})",
        "__import__('os').getcwd()",
        "name(label=__import__('os').getcwd())",
        "name(label={'x': __import__('os').getcwd()})",
        "open('toy_apis.py')",
        "CATALOGUE.clear()",
        "name(label=[x for x in (1,)])",
        "name(label=lambda: 1)",
        "name(label=f'{1}')",
        "name(label=2 ** 9)",
        "name(label='a' * 9)",
        "name(label={**{}})",
        "name(label=(yield))",
        "prices() or prices()",
        "price(item='pear').real",
    ],
)
def test_nothing_but_literals_and_public_methods_is_evaluated(source):
    shop = world()
    assert shop.run(source).startswith("Error during execution: ")
    assert shop.run("pay(amount=0)") == '{"left": 20}' and shop.run("read()") == '{"level": 0, "label": ""}'


def test_a_text_that_python_cannot_read_is_an_error_like_any_other():
    assert ran("put(item=").startswith("Error during execution: '(' was never closed")
    assert ran("name(label=" + "[" * 300 + "]" * 300 + ")").startswith("Error during execution: ")
    assert ran("name(label='\0')").startswith("Error during execution: ")
    assert ran("name(" + "a." * 50_000 + "b())").startswith("Error during execution: ")
    assert ran("name(label=" + "+".join(["1j"] * 600) + ")").startswith("Error during execution: maximum recursion")


def test_some_names_are_never_called():
    assert ran("kill()") == "Error during execution: Function call kill is not allowed."
    assert ran("os.remove('x')") == "Error during execution: Function call remove is not allowed."


def test_names_before_a_parenthesis_are_rewritten_in_texts_too_as_bfcl_does():
    assert ran("name(label='a desk (left)')") == "a desk(left)"
    assert ran("name(label='use prices() first')") == "use model_Shop_instance.prices() first"


def test_literals_keep_their_values():
    for literal in ("-1", "-2.5", "1e5", "(1+2j)", "(-1-2j)", "None", "b'x'", "{1}", "[(1, 'a'), {'b': None}]"):
        assert ran(f"name(label={literal})") == str(ast.literal_eval(literal))
    assert ran("name(label={[]: 1})") == "Error during execution: unhashable type: 'list'"


def test_a_result_that_python_cannot_write_is_an_error_and_one_that_is_too_long_is_refused():
    assert "Exceeds the limit" in ran(f"name(label=0x{'f' * 4000})")
    assert len(ran(f"shine(lumen={MAX_RESULT})")) == MAX_RESULT
    with pytest.raises(TooLargeError, match="at most"):
        ran(f"shine(lumen={MAX_RESULT + 1})")


def test_worlds_differ_in_the_public_attributes_alone():
    model, reference = world(), world("reference")
    model.run("prices()")  # It counts visits, in private.
    assert model.differences(reference) == []
    model.run("put(item='pear')")
    model.run("dim(level=1)")
    assert model.differences(reference) == ["Shop.basket", "Lamp.level"]
    reference.run("put(item='pear')")
    reference.run("dim(level=True)")
    assert model.differences(reference) == []  # 1 == True, as BFCL compares.


def test_an_object_that_holds_itself_differs_and_ends_nothing():
    model, reference = world(), world("reference")
    model.run("tangle()")
    reference.run("tangle()")
    assert model.differences(reference) == ["Lamp.label"]


def test_a_long_context_is_asked_of_the_loader():
    assert world(long_context=True).differences(world("reference")) == ["Shop.shelf_labels"]


def test_a_session_does_not_see_what_another_did_to_the_constants_of_a_module():
    host = Host({"Shop": "toy_apis:Shop"})
    scene = {"classes": ["Shop"], "config": {}, "long_context": False}

    def ask(session, *calls):
        return host.answer({"do": "run", "session": session, "side": "model", "calls": calls})

    host.answer({"do": "open", "session": 1, "world": scene})
    assert ask(1, "mark_up(item='fig', price=99)", "price(item='fig')") == ["marked", "99"]
    host.answer({"do": "open", "session": 2, "world": scene})
    assert ask(2, "price(item='fig')") == ["5"] and CATALOGUE["fig"]["price"] == 5
    with pytest.raises(ValueError, match="shout"):
        host.answer({"do": "shout", "session": 2})


def test_the_worker_needs_nothing_but_the_standard_library():
    tree = ast.parse(Path(worker.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


def test_the_modules_beside_the_worker_do_not_shadow_those_that_it_imports():
    script = "import runpy, sys; sys.path[0] = sys.argv[1]; runpy.run_path(sys.argv[2], run_name='__main__')"
    folder = Path(worker.__file__).parent
    first = '{"classes": {"x": "categories:x"}, "path": [], "seconds": 1}\n'
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), worker.__file__],
        input=first,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    assert "No module named 'categories'" in done.stdout


def test_a_worker_whose_parent_is_gone_ends_in_the_midst_of_a_call():
    first = {"classes": {"Lamp": "toy_apis:Lamp"}, "path": [str(Path(__file__).parent)], "seconds": 1}
    opened = {"do": "open", "session": 1, "world": {"classes": ["Lamp"], "config": {}, "long_context": False}}
    run = {"do": "run", "session": 1, "side": "model", "calls": ["blink(seconds=60)"]}
    with subprocess.Popen([sys.executable, worker.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"".join(json.dumps(each).encode() + b"\n" for each in (first, opened, run)))
        process.stdin.close()
        assert process.wait(30) == -signal.SIGALRM
