import json
import os
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from pathlib import Path
from pickle import PicklingError

import planted
import pytest

from jaxfc.workers import Here, Lost, Workers

TIMEOUT = Lost("timeout", "not done after 0.5 s")
KILLED = Lost("worker died", "killed by SIGKILL")


@pytest.fixture
def two():
    with Workers(planted.act, 2, deadline=0.5) as workers:
        # Not part of a deadline: a process starts.
        processes = {workers.submit(["process"]).result()[0] for _ in range(2)}
        assert os.getpid() not in processes
        yield workers


def test_results_come_in_the_order_of_the_items_here_and_there(two):
    numbers = list(range(500))
    futures = [two.submit(numbers[start : start + 50]) for start in range(0, 500, 50)]
    there = [result for future in futures for result in future.result()]
    assert there == Here(planted.act).submit(numbers).result() == [number * number for number in numbers]
    assert two.submit([]).result() == []


def test_a_worker_starts_without_jax_and_without_the_script_that_runs(two):
    [modules] = two.submit(["modules"]).result()
    assert "jaxfc.rewards" in modules and "planted" in modules
    assert not {"jax", "jaxlib", "flax", "torch", "transformers", "pytest"} & set(modules)


def test_a_script_that_imports_jax_has_workers_that_do_not(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys, jax, planted\n"
        "from jaxfc.workers import Workers\n"
        "with Workers(planted.act, 1, 60.0) as workers:\n"
        "    print(json.dumps(workers.submit(['print', 'modules']).result()[1]))\n"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, script], capture_output=True, env=os.environ | {"PYTHONPATH": path}, timeout=120
    )
    # What a worker prints is not in the script's output either.
    assert "jax" not in json.loads(done.stdout), done.stderr.decode()


def test_only_the_item_that_hangs_is_lost_and_the_worker_is_replaced(two):
    before = two.submit(["process"]).result()
    others = [two.submit([n]) for n in range(20)]
    assert two.submit([2, "sleep", 3]).result() == [4, TIMEOUT, 9]
    assert [future.result() for future in others] == [[n * n] for n in range(20)]
    assert two.submit(["sleep"]).result() == [TIMEOUT]
    assert two.submit(["sleep"]).result() == [TIMEOUT]
    assert two.submit(["process"]).result() != before


def test_a_worker_that_hangs_does_not_hold_the_others_up(two):
    hung = two.submit(["sleep"])
    assert two.submit([["wait", 0.01]]).result() == [0.01]
    assert not hung.done() and hung.result() == [TIMEOUT]


def test_items_that_are_slow_only_together_are_all_done(two):
    assert two.submit([["wait", 0.3]] * 3).result() == [0.3] * 3


def test_items_of_a_killed_worker_are_tried_again_once(two, tmp_path):
    assert two.submit([5, ["killed at first", str(tmp_path / "mark")], 6]).result() == [25, "done", 36]
    assert two.submit([["killed at first", str(tmp_path / "other")]]).result() == ["done"]
    assert two.submit([5, "killed", 6]).result() == [25, KILLED, 36]
    assert two.submit(["killed"]).result() == [KILLED]
    assert two.submit([7]).result() == [49]


@pytest.mark.parametrize(("item", "traceback"), [("bug", "KeyError"), ("end of file", "EOFError"), ("exit", "")])
def test_a_bug_in_the_function_is_raised_and_never_taken_for_a_result(item, traceback, capfd):
    message = r"a worker process ended with code [01]; its traceback is on standard error"
    with Workers(planted.act, 1, 5.0) as workers:
        with pytest.raises(RuntimeError, match=message):
            workers.submit([1, item]).result()
        assert traceback in capfd.readouterr().err
        assert workers.submit([7]).result() == [49]


def test_here_a_bug_is_raised_too():
    with Here(planted.act) as here, pytest.raises(KeyError, match="a planted bug"):
        here.submit(["bug"])


def test_a_function_that_cannot_be_sent_is_an_error():
    with Workers(lambda item: item, 1, 0.5) as workers, pytest.raises((AttributeError, PicklingError), match=r"lambda"):
        workers.submit([1]).result()


def test_workers_are_gone_at_once_in_the_end_whatever_they_are_at():
    with Workers(planted.act, 2, deadline=1000.0) as workers:
        processes = [workers.submit(["process", ["wait", 0.3]]) for _ in range(2)]
        processes = [future.result()[0] for future in processes]
        hung = [workers.submit(["sleep"]) for _ in range(4)]
        time.sleep(0.2)
        start = time.monotonic()
    assert time.monotonic() - start < 5
    for future in hung:
        with pytest.raises(CancelledError):
            future.result()
    for process in processes:
        assert not Path(f"/proc/{process}").exists()


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, planted\n"
        "from jaxfc.workers import Workers\n"
        "with Workers(planted.act, 1, 60.0) as workers:\n"
        "    print(workers.submit(['process']).result()[0], flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, script], capture_output=True, env=os.environ | {"PYTHONPATH": path}, timeout=120
    )
    worker = Path(f"/proc/{int(done.stdout)}")
    deadline = time.monotonic() + 10
    while worker.exists() and "Z" not in (worker / "stat").read_text().split()[2] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.exists() or "Z" in (worker / "stat").read_text().split()[2]
