import sys
from pathlib import Path

import pytest
from toy_apis import TOY_CLASSES

from jaxfc.bfcl.backend import Backend, EnvironmentFailure, Scene
from jaxfc.command import InputError

SCENE = Scene(("Shop", "Lamp"), {"Shop": {"money": 10}}, long_context=False)


def toy_backend(**changed):
    return Backend(classes=TOY_CLASSES, path=[Path(__file__).parent], **changed)


@pytest.fixture(scope="module")
def backend():
    with toy_backend() as backend:
        yield backend


def test_both_sides_of_a_session_begin_alike_and_are_run_apart(backend):
    with backend.open(SCENE) as session:
        assert session.run("model", ["put(item='fig')", "pay()"]) == ['{"basket": ["fig"]}', '{"left": 5}']
        assert session.differences() == ["Shop.money"]
        session.run("reference", ["put(item='fig')", "pay()"])
        assert session.differences() == []


def test_sessions_know_nothing_of_each_other(backend):
    with backend.open(SCENE) as one, backend.open(SCENE) as other:
        one.run("model", ["put(item='fig')", "pay()"])
        assert other.run("model", ["pay()"]) == ['{"left": 10}']


def test_what_a_simulated_api_prints_is_no_answer(backend):
    with backend.open(SCENE) as session:
        assert session.run("model", ["say(text='{}')", "price(item='fig')"]) == ["said", "5"]


def test_any_text_gets_through(backend):
    text = "line\nbreak \u2028 \U0001f600 \ud800 \\ \" '"
    with backend.open(SCENE) as session:
        assert session.run("model", [f"name(label={text!r})"]) == [text]


def test_sets_are_written_in_the_same_order_by_every_process(backend):
    with backend.open(SCENE) as session, toy_backend() as another, another.open(SCENE) as there:
        assert session.run("model", ["kinds()"]) == there.run("model", ["kinds()"])


def test_a_call_that_takes_too_long_ends_its_session_and_no_other():
    with toy_backend(deadline=0.5) as backend, backend.open(SCENE) as slow, backend.open(SCENE) as other:
        other.run("model", ["put(item='fig')", "dim(level=4)"])
        with pytest.raises(EnvironmentFailure, match=r"timeout: not done after 0.5 s"):
            slow.run("model", ["blink(seconds=60)"])
        # The process was started anew, and what the other session had done was done again.
        assert backend.deaths == 1
        assert other.run("model", ["read()", "pay()"]) == ['{"level": 4, "label": ""}', '{"left": 5}']


def test_a_call_that_kills_the_process_ends_its_session_and_no_other():
    with toy_backend() as backend, backend.open(SCENE) as deadly, backend.open(SCENE) as other:
        other.run("reference", ["dim(level=4)"])
        with pytest.raises(EnvironmentFailure, match="worker died: killed by SIGKILL"):
            deadly.run("model", ["burn()"])
        assert other.differences() == ["Lamp.level"]


def test_a_process_that_dies_unasked_is_started_anew_at_the_next_call():
    with toy_backend() as backend, backend.open(SCENE) as one, backend.open(SCENE) as other:
        one.run("model", ["dim(level=1)"])
        other.run("model", ["dim(level=2)"])
        backend._process.kill()
        other.close()
        assert one.run("model", ["read()"]) == ['{"level": 1, "label": ""}'] and backend.deaths == 1


def test_a_result_that_is_too_long_ends_nothing_but_its_call(backend):
    with backend.open(SCENE) as session:
        with pytest.raises(EnvironmentFailure, match="result too large"):
            session.run("model", ["shine(lumen=2000000)"])
        assert backend.deaths == 0 and session.run("model", ["price(item='fig')"]) == ["5"]


def test_an_interpreter_without_the_simulated_apis_is_named():
    with pytest.raises(InputError, match=r"lacks the simulated APIs .*no_such_module.*pip install"):
        Backend(classes={"Shop": "no_such_module:Shop"})
    with pytest.raises(InputError, match=r"lacks the simulated APIs .*NoShop"):
        Backend(classes={"Shop": "toy_apis:NoShop"}, path=[Path(__file__).parent])


def test_what_is_no_interpreter_is_named(tmp_path):
    with pytest.raises(InputError, match="no Python interpreter can be started"):
        Backend(python=str(tmp_path / "python"))


def test_a_scene_that_its_class_cannot_load_is_a_bug_and_not_an_answer(capfd):
    with toy_backend() as backend:
        session = backend.open(Scene(("NoSuchClass",), {}, False))
        with pytest.raises(RuntimeError, match="ended with code 1"):
            session.run("model", ["read()"])
    assert "KeyError" in capfd.readouterr().err


def test_the_process_is_gone_in_the_end():
    with toy_backend() as backend:
        process = backend._process
    assert process.poll() is not None and sys.executable in process.args
