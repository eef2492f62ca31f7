import functools
import gzip
import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from launch import ROOT, Processes, report

from jaxfc.command import PREEMPTED

COUNTED = str(Path(__file__).with_name("counted.py"))
TRAIN = str(ROOT / "scripts" / "train_rl.py")
STEPS, BATCH, GROUP, OVERSAMPLE = 4, 4, 4, 2
SETTINGS = {
    "name": "run",
    "output": "runs",
    "steps": STEPS,
    "batch": BATCH,
    "save_every": 2,
    "record_every": 3,
    "record_prompts": 3,
    "model": {"path": str(ROOT / "jaxfc" / "assets" / "seed")},
    "data": {"tasks": {"count": 1000}, "prompt_buckets": [144], "completion_length": 48},
    # Without a scoring pass there is less to compile.
    "algorithm": {
        "group_size": GROUP,
        "dynamic_sampling": {"oversample": OVERSAMPLE},
        "kl_coefficient": 0.0,
        "old_logprobs": "sampler",
    },
    "reward": {"shuffled": True},
    "rollout": {"temperature": 1.0},
    "optimizer": {"learning_rate": 3e-5},
    "mesh": {"data": 2, "fsdp": 2, "tensor": 2},
}


def write(folder: Path, **changes) -> list[str]:
    """A run's settings in a folder of its own; the arguments of a script that reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(SETTINGS | changes))
    return ["--config", "config.yaml"]


def rows(folder: Path) -> list[dict[str, float]]:
    """Metrics without those that a clock makes."""
    lines = (folder / "runs" / "run" / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(("time/", "speed/"))} for line in lines]


def assert_same_run(folder: Path, other: Path):
    """What is counted is equal, and what is computed is as near as the products of another partition round."""
    found, expected = rows(folder), rows(other)
    assert [row["step"] for row in found] == [row["step"] for row in expected] == list(range(STEPS))
    for row, wanted in zip(found, expected, strict=True):
        assert row.keys() == wanted.keys()
        for name, value in row.items():
            if name.startswith(("reward/", "reason/", "length/", "constrain/")):
                assert value == wanted[name], (row["step"], name)
            elif not name.startswith("kl/sampler"):  # Rounding itself.
                assert value == pytest.approx(wanted[name], rel=1e-4, abs=1e-5), (row["step"], name)


def transcripts(folder: Path) -> dict[str, list[dict]]:
    """File -> what it says of each completion."""
    files = sorted((folder / "runs" / "run" / "rollouts").iterdir())
    return {path.name: [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()] for path in files}


def files(folder: Path) -> set[str]:
    """What a run has left, but for the names that Orbax and TensorBoard make up."""
    run = folder / "runs" / "run"
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith(("events", "checkpoints"))}


@pytest.fixture(scope="module")
def run_on(tmp_path_factory):
    """(number of processes) -> folder of a whole run, and how much each process read and judged; each is made once."""

    @functools.cache
    def run(count: int):
        folder = tmp_path_factory.mktemp(f"on_{count}")
        with Processes([COUNTED, *write(folder)], count, folder=folder) as processes:
            # The last line, because Gloo says before it how many it has met.
            return folder, [json.loads(ended.out.splitlines()[-1]) for ended in processes.succeeded()]

    return run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run on 2 processes, of which one was sent SIGTERM; and what became of both."""
    folder = tmp_path_factory.mktemp("stopped")
    with Processes([TRAIN, *write(folder)], 2, folder=folder) as processes:
        metrics = folder / "runs" / "run" / "metrics.jsonl"
        while processes.is_running() and not (metrics.exists() and metrics.read_bytes()):
            time.sleep(0.02)
        processes[1].send_signal(signal.SIGTERM)
        return folder, processes.ended()


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_is_the_same_on_any_number_of_processes(run_on, count):
    (folder, counts), (alone, (all_counts,)) = run_on(count), run_on(1)
    assert_same_run(folder, alone)
    assert files(folder) == files(alone)
    assert all_counts["judged"] == STEPS * BATCH * OVERSAMPLE * GROUP
    for of_process in counts:
        assert of_process["judged"] * count == all_counts["judged"]
        assert of_process["tokenised"] < all_counts["tokenised"]  # tests/test_pipeline.py says which.
    # Groups of all processes are shown, in the order in which they were chosen.
    for name, shown in transcripts(folder).items():
        expected = transcripts(alone)[name]
        assert [row["text"] for row in shown] == [row["text"] for row in expected] and len(shown) == 3 * GROUP
        np.testing.assert_allclose([r["advantage"] for r in shown], [r["advantage"] for r in expected], atol=1e-4)


def test_a_signal_to_one_process_stops_all_at_one_step_and_the_same_command_goes_on(run_on, stopped):
    folder, ended = stopped
    assert [each.code for each in ended] == [PREEMPTED, PREEMPTED], report(ended)
    assert all("the same command goes on" in each.errors for each in ended)
    saved = max(int(path.name) for path in (folder / "runs/run/checkpoints").iterdir())
    assert 0 < saved == len(rows(folder)) < STEPS
    again = shutil.copytree(folder, folder.with_name("again"))
    with Processes([TRAIN, "--config", "config.yaml"], 2, folder=again) as processes:
        processes.succeeded()
    assert rows(again) == rows(run_on(2)[0])


@pytest.mark.parametrize("count", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_goes_on_with_another_number_of_processes(run_on, stopped, count):
    folder = shutil.copytree(stopped[0], stopped[0].with_name(f"goes_on_with_{count}"))
    with Processes([TRAIN, "--config", "config.yaml"], count, folder=folder) as processes:
        processes.succeeded()
    assert_same_run(folder, run_on(1)[0])


def test_answers_are_constrained_judged_and_shuffled_alike_where_processes_hold_the_same_rows(tmp_path):
    pytest.importorskip("llguidance", reason="needs the extra 'constrain'")
    changes = {
        "algorithm": {"group_size": GROUP},
        "rollout": {"temperature": 1.5, "constrain": {"masks": 64}},
        "reward": {"shuffled": True, "workers": 1},
        "mesh": {"tensor": 2},
    }
    for count in (1, 2):
        folder = tmp_path / str(count)
        with Processes([TRAIN, *write(folder, **changes)], count, devices=2, folder=folder) as processes:
            processes.succeeded()
    assert_same_run(tmp_path / "2", tmp_path / "1")
    assert all(2 < row["constrain/masks"] <= 64 and row["constrain/refused"] == 0 for row in rows(tmp_path / "2"))
    shown = [row for name in transcripts(tmp_path / "2").values() for row in name]
    assert len({row["reward"] for row in shown}) == 2 and any(r["reward"] != (r["reason"] == "ok") for r in shown)
