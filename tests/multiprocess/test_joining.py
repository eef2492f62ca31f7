import os
import subprocess
import sys
import textwrap
import time

import pytest
from launch import ROOT, Processes, free_port, report
from test_joint_run import TRAIN, write

from jaxfc.command import InputError
from jaxfc.processes import ADDRESS, COUNT, INDEX, Share, deal, exchange, from_writer, join

SOON = 120
"""Seconds, on a busy machine."""


@pytest.fixture
def environment(monkeypatch):
    """Set the variables that tell of other processes."""

    def change(**values):
        for name in (ADDRESS, COUNT, INDEX):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return change


def test_a_process_that_is_told_of_no_others_is_alone(environment):
    environment()
    join()
    import jax

    assert not jax.distributed.is_initialized()
    assert exchange("one") == ["one"] and from_writer(lambda: 7) == 7 and deal(str, [1, 2]) == ["1", "2"]
    assert Share.whole(3).held.tolist() == [0, 1, 2] and Share.whole(3).own.all()


def test_an_environment_that_is_incomplete_is_refused_by_name(environment):
    environment(**{ADDRESS: "localhost:1234", INDEX: "0"})
    with pytest.raises(InputError, match=f"{COUNT} not set"):
        join()
    environment(**{ADDRESS: "localhost:1234", COUNT: "two", INDEX: "0"})
    with pytest.raises(InputError, match=f"{COUNT} is 'two', but should be a whole number"):
        join()


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_whose_others_do_not_come_says_so(number):
    others = {ADDRESS: f"127.0.0.1:{free_port()}", COUNT: "2", INDEX: str(number), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from jaxfc.processes import join; join(seconds=3)"]
    ended = subprocess.run(command, env=os.environ | others, capture_output=True, text=True, timeout=SOON)
    assert ended.returncode == 2 and "did not meet the others within 3 s" in ended.stderr, ended.stderr


def refused(commands, folder, message: str):
    """What was printed by processes that all end, soon, with code 2 and one message."""
    with Processes(commands, 2, folder=folder) as processes:
        ended = processes.ended(SOON)
    assert [each.code for each in ended] == [2, 2], report(ended)
    assert all(message in each.errors and "Traceback" not in each.errors for each in ended), report(ended)
    return ended


def test_a_mistake_in_the_settings_ends_all_processes(tmp_path):
    refused([TRAIN, *write(tmp_path, mesh={"data": 4})], tmp_path, "mesh data=4 x fsdp=1 x tensor=1 needs 4 devices")


def test_what_one_process_finds_wrong_ends_all_with_its_message(tmp_path):
    arguments = [TRAIN, *write(tmp_path)]
    refused([arguments, [*arguments, "model.path=elsewhere"]], tmp_path, "model.path elsewhere: no such directory")
    assert not (tmp_path / "runs").exists()


def test_processes_with_different_settings_are_refused(tmp_path):
    arguments = [TRAIN, *write(tmp_path)]
    message = "process 1 has other settings than process 0 (seed: 0 there, seed: 3 on process 1)"
    refused([arguments, [*arguments, "seed=3"]], tmp_path, message)


def test_a_folder_of_another_run_that_process_0_refuses_ends_all(tmp_path):
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / "config.yaml").write_text("seed: 5\n")
    refused([TRAIN, *write(tmp_path)], tmp_path, "the folder holds a run with other settings")


DIES = """
    import sys
    from jaxfc.processes import exchange, run_joined

    def program():
        ours = exchange(("x" * 50_000 * int(sys.argv[1]), int(sys.argv[1])))
        assert [(len(text), number) for text, number in ours] == [(0, 0), (50_000, 1)]
        if sys.argv[1] == "0":
            raise RuntimeError("a bug on process 0")
        exchange(None)

    run_joined(program)
"""


def test_a_bug_on_process_0_ends_all_soon(tmp_path):
    begin = time.monotonic()
    with Processes([["-c", textwrap.dedent(DIES), number] for number in "01"], 2, folder=tmp_path) as processes:
        ended = processes.ended(SOON)
    assert ended[0].code == 1 and "a bug on process 0" in ended[0].errors, report(ended)
    assert ended[1].code != 0 and time.monotonic() - begin < SOON
