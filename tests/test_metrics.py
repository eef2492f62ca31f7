import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jaxfc.command import InputError
from jaxfc.metrics import Metrics, read_metrics

ROOT = Path(__file__).parents[1]


def events_in(folder):
    """Steps, tags and values of TensorBoard's files, read by the rules of the TFRecord format."""
    found = []
    for path in sorted(folder.glob("events.*"), key=lambda path: int(path.name.rpartition(".")[2])):
        data = path.read_bytes()
        while data:
            # 8 bytes of length, 4 of its checksum, the record, 4 of its checksum.
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            data = data[12 + length + 4 :]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            if event.session_log.status == SessionLog.START:
                found.append((event.step, "start", None))
    return found


def run(folder, start, stop, steps=4):
    with Metrics(folder, start, steps) as metrics:
        for step in range(start, stop):
            metrics.write(step, {"reward/mean": step / 8, "kl/reference": 2.0**-step})


def test_a_resumed_run_leaves_the_file_of_an_uninterrupted_one(tmp_path):
    run(tmp_path / "whole", 0, 4)
    run(tmp_path / "cut", 0, 3)
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rewar')  # killed while it wrote
    run(tmp_path / "cut", 2, 4)
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert [row["step"] for row in read_metrics(tmp_path / "whole" / "metrics.jsonl")] == [0, 1, 2, 3]


def test_a_run_that_starts_again_begins_an_empty_file(tmp_path):
    run(tmp_path, 0, 3)
    run(tmp_path, 0, 1)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0]


def test_tensorboard_gets_every_number_and_is_told_where_a_run_resumed(tmp_path):
    run(tmp_path, 0, 2)
    run(tmp_path, 1, 2)
    first = [(0, "start", None), (0, "reward/mean", 0.0), (0, "kl/reference", 1.0)]
    second = [(1, "reward/mean", 0.125), (1, "kl/reference", 0.5)]
    assert events_in(tmp_path) == [*first, *second, (1, "start", None), *second]


def test_numbers_of_numpy_and_jax_become_floats_and_nan_becomes_null(tmp_path):
    with Metrics(tmp_path, 0, 1) as metrics:
        metrics.write(0, {"a": jnp.float32(0.5), "b": np.int64(3), "c": float("nan"), "d": jnp.inf, "e": True})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    row = json.loads(line, parse_constant=refuse)
    assert row == {"step": 0, "a": 0.5, "b": 3.0, "c": None, "d": None, "e": 1.0}


def test_each_step_is_on_disk_before_the_next_begins(tmp_path):
    with Metrics(tmp_path, 0, 2) as metrics:
        metrics.write(0, {"a": 1.0})
        assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
        assert events_in(tmp_path)[-1] == (0, "a", 1.0)


def test_a_file_that_is_no_log_is_refused_by_line_and_left_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\nmy notes\n')
    with pytest.raises(InputError, match=r"metrics.jsonl:2: should be a JSON object with a step"):
        Metrics(tmp_path, 1, 4)
    assert path.read_text() == '{"step": 0}\nmy notes\n'


def test_without_a_terminal_there_are_plain_lines_for_the_first_and_the_last_step(tmp_path, capsys):
    with Metrics(tmp_path, 1, 4) as metrics:
        metrics.note("2 programs")
        for step in range(1, 4):
            metrics.write(step, {"other": 1.0, "reward/mean": step / 8} | ({"eval/overall": 0.25} if step == 1 else {}))
    shown = capsys.readouterr()
    assert shown.out == ""
    note, first, last = shown.err.splitlines()
    assert note == "2 programs"
    assert first.startswith("step 2/4  reward/mean 0.125  eval/overall 0.25  ")
    assert last.startswith("step 4/4  reward/mean 0.375  eval/overall 0.25  ")
    assert last.endswith("0s left")


PROGRAM = """
import sys
from pathlib import Path
from jaxfc.metrics import Metrics
with Metrics(Path(sys.argv[1]), 0, 3) as metrics:
    metrics.note("compiled [3] programs")
    for step in range(3):
        metrics.write(step, {"reward/mean": step / 8})
print("done")
"""


def test_on_a_terminal_there_is_a_bar_with_the_key_figures(tmp_path):
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.stdout == "done\n"
    assert "compiled [3] programs" in shown
    assert "3/3" in shown
    assert "reward/mean 0.25" in shown


FULL_DISK = """
import resource, sys
from pathlib import Path
from jaxfc.files import OutputError
from jaxfc.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]), 0, 1000)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    for step in range(1000):
        metrics.write(step, {"reward/mean": 0.5})
except OutputError as error:
    print(error)
"""


def test_a_full_disk_stops_the_run_with_one_message_and_keeps_the_steps_before(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.startswith(f"{tmp_path / 'metrics.jsonl'}: cannot write this: File too large.")
    assert "Traceback" not in done.stderr
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(len(rows)))
    assert len(rows) > 10


def test_processes_but_the_first_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    run(tmp_path / "run", 0, 2)
    assert not (tmp_path / "run").exists()
