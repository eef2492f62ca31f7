"""A whole run: its life, its death and what is refused before it starts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from jaxfc.command import InputError, load
from jaxfc.config import TrainRL
from jaxfc.train import train

ROOT = Path(__file__).parents[1]
SEED_MODEL = ROOT / "jaxfc" / "assets" / "seed"


def settings(folder: Path, **changes) -> dict:
    """A run of a few small steps from the seed model, on generated tasks."""
    return {
        "name": "run",
        "output": str(folder),
        "steps": 6,
        "batch": 4,
        "save_every": 2,
        "record_every": 3,
        "record_prompts": 2,
        "model": {"path": str(SEED_MODEL)},
        "data": {"tasks": {"count": 1000}, "prompt_buckets": [96, 144], "completion_length": 48},
        "rollout": {"temperature": 1.0},
        "algorithm": {"group_size": 4},
        "optimizer": {"learning_rate": 3e-4},
        "mesh": {"data": 2, "fsdp": 2, "tensor": 2},
    } | changes


def write(folder: Path, **changes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings(folder, **changes)))
    return path


def rows(folder: Path) -> list[dict]:
    """Metrics without those that a clock makes."""
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    clocks = ("time/", "speed/")
    return [{key: value for key, value in json.loads(line).items() if not key.startswith(clocks)} for line in lines]


def start(config: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "scripts" / "train_rl.py"), "--config", str(config)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)


def wait_for_steps(folder: Path, process: subprocess.Popen, count: int):
    metrics = folder / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and len(metrics.read_bytes().splitlines()) >= count):
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read()


def test_a_killed_run_goes_on_as_if_it_had_never_stopped(tmp_path):
    whole = load(TrainRL, write(tmp_path / "whole", steps=6))
    train(whole)
    config = write(tmp_path / "killed", steps=6)
    first = start(config)
    wait_for_steps(tmp_path / "killed", first, 4)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = start(config)
    _, errors = second.communicate()
    assert second.returncode == 0, errors
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")


def test_a_finished_run_leaves_everything_that_it_promises(tmp_path):
    evaluation = {
        "data": {"tasks": {"count": 8, "split": "held_out"}, "prompt_buckets": [144], "completion_length": 48},
        "count": 8,
        "curve_count": 4,
        "every": 2,
        "batch": 8,
    }
    summary = train(load(TrainRL, write(tmp_path, steps=3, evaluation=evaluation)))
    run = tmp_path / "run"
    for name in ("config.yaml", "metrics.jsonl", "summary.json", "report.html", "model/model.safetensors"):
        assert (run / name).stat().st_size > 0
    assert list(run.glob("events*"))
    assert sorted(path.name for path in (run / "rollouts").iterdir()) == [
        "step_000000.jsonl.gz",
        "step_000002.jsonl.gz",
    ]
    assert summary["speed/compiles"] == 0
    assert {"eval/before/overall", "eval/after/overall", "eval/after/single"} <= set(summary)
    promised = """reward/mean reward/pass_any reward/dead_groups reward/format_ok entropy/cot_mean entropy/cot_tokens
        entropy/bonus_mean entropy/cap_active advantage/abs_mean kl/reference kl/sampler loss/total loss/clip_fraction
        optim/grad_norm length/completion_mean length/truncated time/rollout time/reward time/score time/update
        time/data speed/rollout_tokens_per_s speed/train_tokens_per_s speed/compiles"""
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert set(promised.split()) <= set(row)
        assert any(name.startswith("reason/") for name in row)
        assert row["kl/sampler_max_gap"] < 1e-4
    # The model that it leaves is a model that a run can start from.
    train(load(TrainRL, write(tmp_path / "again", steps=1, model={"path": str(run / "model")})))


def test_a_run_without_kl_on_the_sampler_s_log_probabilities_scores_nothing(tmp_path):
    algorithm = {
        "group_size": 4,
        "kl_coefficient": 0.0,
        "old_logprobs": "sampler",
        "surrogate": {"gspo": {}},
        "aggregation": {"sequence_mean": {}},
        "dynamic_sampling": {"oversample": 3},
        "overlong": {"buffer": 16},
    }
    summary = train(load(TrainRL, write(tmp_path, steps=2, algorithm=algorithm)))
    assert not [name for name in summary if name.startswith("seconds/compile/score")]
    assert [name for name in summary if name.startswith("seconds/compile/choose")]
    assert summary["speed/compiles"] == 0
    for row in rows(tmp_path):
        assert row["kl/sampler_max_gap"] < 1e-4 and "kl/reference" not in row
        # 4 of the 12 groups that were sampled are trained on, live ones first.
        assert 0 < row["reward/live_groups"] <= 4 and row["optim/grad_norm"] > 0


def test_a_run_corrects_for_what_the_sampler_rounds(tmp_path):
    algorithm = {
        "group_size": 4,
        "entropy": None,
        "token_entropy": {},
        "importance": {"truncated": {"of": "sequence", "cap": 1.5}},
        "surrogate": {"kl_cov": {"fraction": 0.02}},
        "high_entropy": {"fraction": 0.5},
        "entropy_coefficient": 0.01,
        "updates": 2,
    }
    rollout = {"temperature": 1.0, "cache": "int8"}
    train(load(TrainRL, write(tmp_path, steps=2, batch=8, algorithm=algorithm, rollout=rollout)))
    for row in rows(tmp_path):
        assert row["kl/sampler_max_gap"] > 1e-3 and 0.5 < row["importance/weight_mean"] < 1.5
        assert 0 < row["loss/selected"] < 0.1 and row["entropy/bonus_mean"] > 0


def test_a_constrained_run_samples_scores_and_trains_under_the_same_masks(tmp_path):
    pytest.importorskip("llguidance", reason="needs the extra 'constrain'")
    algorithm = {"group_size": 4, "dynamic_sampling": {}, "micro_batches": 1}
    rollout = {"temperature": 1.5, "constrain": {"masks": 64}}
    summary = train(load(TrainRL, write(tmp_path, steps=2, algorithm=algorithm, rollout=rollout)))
    assert summary["speed/compiles"] == 0
    for row in rows(tmp_path):
        assert row["kl/sampler_max_gap"] < 1e-4 and row["constrain/refused"] == 0
        assert 2 < row["constrain/masks"] <= 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh": {"fsdp": 2}}, "mesh data=1 x fsdp=2 x tensor=1 needs 2 devices; 8 are attached"),
        ({"mesh": {"tensor": 3}}, "mesh.tensor is 3, into which this model cannot be cut evenly; 1, 2, 4 would do"),
        ({"model": {"path": "no/such/model"}}, "no/such/model: no such directory"),
        ({"data": {"path": "no/such/data"}}, "no/such/data"),
        ({"algorithm": {"group_size": 1}}, "algorithm.group_size is 1"),
        ({"algorithm": {"surrogate": {"clip": {"hihg": 1}}}}, "did you mean high"),
        ({"batch": 6}, "batch is 6 prompts"),
        ({"rollout": {"temperature": 0}}, "rollout.temperature is 0"),
        (
            {"data": {"tasks": {"count": 50}, "prompt_buckets": [8], "completion_length": 48}},
            "none of the first 50 examples fits",
        ),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_written(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(load(TrainRL, write(tmp_path, **changes)))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_folder_that_holds_another_run_is_left_alone(tmp_path):
    train(load(TrainRL, write(tmp_path, steps=1)))
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"other settings \(.*seed: 0 there, seed: 1 here"):
        train(load(TrainRL, write(tmp_path, steps=1, seed=1)))
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_script_says_what_is_wrong_without_a_traceback(tmp_path):
    process = start(write(tmp_path, algorithm={"surrogat": {"gspo": {}}}))
    _, errors = process.communicate()
    assert process.returncode == 2
    assert len(errors.strip().splitlines()) == 1
    assert "config.yaml: unknown key algorithm.surrogat; did you mean surrogate?" in errors
