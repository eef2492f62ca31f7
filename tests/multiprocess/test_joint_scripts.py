"""The scripts beside RL, on 1 and on 2 processes."""

import json
import time
from pathlib import Path

import pytest
import yaml
from launch import ROOT, Ended, Processes

from jaxfc.data.dataset import open_split
from jaxfc.data.shards import write_dataset
from jaxfc.data.tasks import generate

SEED_MODEL = ROOT / "jaxfc" / "assets" / "seed"
TASKS = {"tasks": {"count": 200}, "prompt_buckets": [144], "completion_length": 96}
SFT = {
    "name": "run",
    "output": "runs",
    "steps": 3,
    "batch": 4,
    "save_every": 2,
    "model": {"create": {"vocabulary": 512, "width": 32, "hidden_width": 64, "layers": 2, "heads": 4, "kv_heads": 2}},
    "prompt": {"system": "{tools}", "tools": "signatures"},
    "data": TASKS,
    "mesh": {"data": 2},
    "evaluation": {
        "data": {"tasks": {"count": 6, "split": "held_out"}, "prompt_buckets": [144], "completion_length": 16},
        "count": 6,
        "curve_count": 3,
        "every": 2,
        "batch": 4,
    },
}


def on_one_and_two(folder: Path, script: str, *arguments: str) -> list[list[Ended]]:
    """What became of a script's processes: of one, in folder/1, and of two, in folder/2."""
    ended = []
    for count in (1, 2):
        (folder / str(count)).mkdir(exist_ok=True)
        command = [str(ROOT / "scripts" / script), *arguments]
        with Processes(command, count, devices=2, folder=folder / str(count)) as processes:
            ended.append(processes.succeeded())
    return ended


def test_an_evaluation_has_the_same_outputs_and_scores(tmp_path):
    arguments = ["--benchmark", "tasks", "--output", "scores", "count=10", "batch=4", "mesh.data=2"]
    limits = ["prompt_buckets=[144]", "completion_length=48"]
    on_one_and_two(tmp_path, "evaluate.py", "--model", str(SEED_MODEL), *arguments, *limits)
    for name in ("outputs.jsonl", "scores.json"):
        assert (tmp_path / "1/scores" / name).read_bytes() == (tmp_path / "2/scores" / name).read_bytes()
    assert len((tmp_path / "2/scores/outputs.jsonl").read_text().splitlines()) == 10
    assert sorted(path.name for path in (tmp_path / "2/scores").iterdir()) == ["outputs.jsonl", "scores.json"]


@pytest.mark.slow
def test_conversations_are_those_of_one_process_and_the_first_runs_their_calls(tmp_path):
    for count in (1, 2):
        command = [str(Path(__file__).with_name("talking.py")), str(tmp_path / str(count))]
        with Processes(command, count, devices=2) as processes:
            assert [each.out.splitlines()[-1] for each in processes.succeeded()] == ["(2, 5)", "None"][:count]
    assert (tmp_path / "1/outputs.jsonl").read_bytes() == (tmp_path / "2/outputs.jsonl").read_bytes()


@pytest.mark.parametrize("to", ["huggingface", "orbax"])
def test_a_conversion_keeps_all_numbers(tmp_path, to):
    arguments = ["--source", str(SEED_MODEL), "--output", "model", f"to={to}", "mesh.fsdp=2", "--json"]
    one, two = on_one_and_two(tmp_path, "convert.py", *arguments)
    said = [json.loads(each.out.splitlines()[-1]) for each in (one[0], two[0])]
    assert said[0] == said[1] and "digest" not in two[1].out
    assert {path.name for path in (tmp_path / "1/model").iterdir()} == {
        path.name for path in (tmp_path / "2/model").iterdir()
    }


def test_supervised_training_from_nothing_is_the_same(tmp_path):
    config = tmp_path / "sft.yaml"
    config.write_text(yaml.safe_dump(SFT))
    on_one_and_two(tmp_path, "train_sft.py", "--config", str(config))
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "runs/run/metrics.jsonl").read_text().splitlines()]
        for name in "12"
    )
    assert len(one) == len(two) == SFT["steps"]
    for row, other in zip(one, two, strict=True):
        assert row["loss/total"] == pytest.approx(other["loss/total"], rel=1e-5)
        assert row.keys() == other.keys() and row["data/dropped"] == other["data/dropped"]
    assert "eval/overall" in one[2] and "eval/overall" not in one[1]
    assert (tmp_path / "1/runs/run/start/model.safetensors").read_bytes() == (
        tmp_path / "2/runs/run/start/model.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_pass_rates_are_the_same_and_go_on_after_a_kill(tmp_path):
    examples = [generate(3, "train", index) for index in range(24)]
    write_dataset(tmp_path / "set", {"train": examples}, {}, {})
    arguments = ["--data", str(tmp_path / "set"), "--model", str(SEED_MODEL), "--output", "rated", "samples=4"]
    limits = ["batch=4", "mesh.data=2", "prompt_buckets=[144]", "completion_length=48"]
    on_one_and_two(tmp_path, "measure_difficulty.py", *arguments, *limits)
    (tmp_path / "killed").mkdir()
    command, partial = [str(ROOT / "scripts/measure_difficulty.py"), *arguments, *limits], "rated.partial.jsonl"
    with Processes(command, 2, devices=2, folder=tmp_path / "killed") as processes:
        while processes.is_running() and not (tmp_path / "killed" / partial).is_file():
            time.sleep(0.05)
        while processes.is_running() and (tmp_path / "killed" / partial).read_bytes().count(b"\n") < 9:
            time.sleep(0.05)
        assert processes.is_running(), "it ended before it could be killed"
    with Processes(command, 1, devices=2, folder=tmp_path / "killed") as processes:
        assert "24 of 24 measured" in processes.succeeded()[0].errors
    names = sorted(path.name for path in (tmp_path / "1/rated").iterdir())
    for other in ("2", "killed"):
        assert [path.name for path in sorted((tmp_path / other).iterdir())] == ["rated"]
        assert sorted(path.name for path in (tmp_path / other / "rated").iterdir()) == names
        for name in names:
            assert (tmp_path / other / "rated" / name).read_bytes() == (tmp_path / "1/rated" / name).read_bytes(), name
    rates = {open_split(tmp_path / "1/rated", "train")[index].pass_rate for index in range(24)}
    assert rates <= {0.0, 0.25, 0.5, 0.75, 1.0, None} and len(rates) > 2
