import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxfc.command import InputError
from jaxfc.data.dataset import open_split, read_manifest
from jaxfc.data.validate import REASONS
from jaxfc.prepare import Generated, Prepare, prepare

ROOT = Path(__file__).parents[1]
REAL_ROWS = ROOT / "jaxfc" / "assets" / "real_rows.jsonl"
LARGE = ROOT.parent / "shared" / "data" / "train_raw.jsonl.gz"
CONFIG = Prepare(held_out=0.2, tasks=Generated(train=40, tune=10, held_out=20))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepare") / "set"
    return folder, prepare(CONFIG, [REAL_ROWS], folder)


def run(*arguments, **kwargs):
    command = [sys.executable, str(ROOT / "scripts" / "prepare_data.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, **kwargs)


def assert_adds_up(report):
    sources = report["sources"].values()
    for counts in sources:
        assert counts["rows"] == counts["kept"] + sum(counts["dropped"].values())
        assert counts["repaired"] <= counts["kept"]
    assert report["input_rows"] + report["generated_rows"] == sum(counts["rows"] for counts in sources)
    assert report["dropped"] == sum(reason["rows"] for reason in report["reasons"].values())
    assert report["kept"] == sum(split["examples"] for split in report["splits"].values())
    assert report["kept"] + report["dropped"] == report["input_rows"] + report["generated_rows"]
    assert set(report["reasons"]) <= set(REASONS)


def test_every_row_is_accounted_for(prepared):
    folder, report = prepared
    assert report["input_rows"] == len(REAL_ROWS.read_text().splitlines())
    assert report["generated_rows"] == 70
    assert_adds_up(report)
    assert json.loads((folder / "report.json").read_text()) == report
    manifest = read_manifest(folder)
    assert manifest["counts"]["input_rows"] == report["input_rows"]
    for name, split in report["splits"].items():
        assert manifest["splits"][name]["examples"] == split["examples"] == len(open_split(folder, name))


def test_the_faults_that_ship_with_the_real_rows_are_found(prepared):
    _, report = prepared
    expected = {"tools: duplicate name", "call: unknown tool", "call: missing required", "call: placeholder value"}
    expected |= {"call: wrong type", "exact repeat"}
    assert expected <= set(report["reasons"])
    assert {"value: number from text", "name: made an identifier"} <= set(report["repairs"])
    assert all(1 <= len(found["examples"]) <= 2 for found in report["reasons"].values())
    (first, *_) = report["reasons"]["call: unknown tool"]["examples"]
    assert "real_rows.jsonl:" in first


def offered(folder, split):
    source = open_split(folder, split)
    return {tool.name for index in range(len(source)) for tool in source[index].tools}


def test_no_tool_of_one_split_is_on_offer_in_another(prepared):
    folder, _ = prepared
    train, held_out, tune = (offered(folder, split) for split in ("train", "held_out", "tune"))
    assert train and held_out and tune
    assert not train & held_out and not train & tune


def test_a_real_row_follows_the_generated_tasks_that_use_its_tool(prepared, tmp_path):
    folder, _ = prepared
    name = sorted(offered(folder, "held_out"))[0]
    tool = {"name": name, "description": "", "parameters": {"type": "object", "properties": {}}}
    row = {"id": "r", "query": "q", "tools": [tool], "answers": [{"name": name, "arguments": {}}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    prepare(Prepare(held_out=0.0, tasks=CONFIG.tasks), [tmp_path / "rows.jsonl"], tmp_path / "set")
    source = open_split(tmp_path / "set", "held_out")
    assert "r" in {source[index].id for index in range(len(source))}


def test_another_seed_holds_out_other_tools():
    reports = [prepare(Prepare(held_out=0.3, seed=seed), [REAL_ROWS], None) for seed in (0, 1, 0)]
    assert reports[0] == reports[2] != reports[1]


def test_two_runs_write_the_same_bytes(prepared, tmp_path):
    folder, _ = prepared
    settings = ["held_out=0.2", "tasks.train=40", "tasks.tune=10", "tasks.held_out=20"]
    done = run("--input", REAL_ROWS, "--output", tmp_path / "again", *settings, "--json", check=True)
    names = sorted(path.name for path in folder.iterdir())
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == names
    assert all((folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)
    assert json.loads(done.stdout) == json.loads((folder / "report.json").read_text())


def test_a_dry_run_reports_and_writes_nothing(tmp_path):
    done = run("--input", REAL_ROWS, "--output", tmp_path / "set", "--dry-run", "--json", check=True)
    assert_adds_up(json.loads(done.stdout))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--dry-run"], []])
def test_a_broken_line_ends_the_script_with_code_2_before_anything_is_written(tmp_path, arguments):
    path = tmp_path / "bad.jsonl"
    path.write_text(REAL_ROWS.read_text() + '{"id": "x", "query"\n')
    done = run("--input", path, "--output", tmp_path / "set", *arguments)
    line = len(REAL_ROWS.read_text().splitlines()) + 1
    assert done.returncode == 2 and f"{path}:{line}: not JSON" in done.stderr and "Traceback" not in done.stderr
    assert [found.name for found in tmp_path.iterdir()] == ["bad.jsonl"]


def test_an_unknown_setting_ends_the_script_with_code_2(tmp_path):
    done = run("--input", REAL_ROWS, "--output", tmp_path / "set", "heldout=0.1")
    assert done.returncode == 2 and "did you mean held_out?" in done.stderr


def test_rows_of_which_none_is_fit_are_refused_with_the_reasons(tmp_path):
    row = {"id": "r", "query": "q", "tools": [], "answers": [{"name": "f", "arguments": {}}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match=r"none of the 1 rows is fit to keep: call: no tools offered \(1\)"):
        prepare(Prepare(), [tmp_path / "rows.jsonl"], tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("wrong", [{"held_out": 1.0}, {"held_out": -0.1}])
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(ValueError, match="held_out is"):
        Prepare(**wrong)
    with pytest.raises(ValueError, match=r"tasks\.train is -1"):
        Generated(train=-1)


def test_the_large_set_adds_up(tmp_path):
    if not LARGE.is_file():
        pytest.skip("the large data set ../shared/data is not here")
    done = run("--input", LARGE, "--output", tmp_path / "set", "--dry-run", "--json", check=True)
    report = json.loads(done.stdout)
    assert report["input_rows"] == 4708
    assert_adds_up(report)
    assert {name: counts["rows"] for name, counts in report["sources"].items()} == {
        "glaive": 249,
        "seal_tools": 1395,
        "sgd": 1785,
        "toolrl_sft": 396,
        "xlam60k": 883,
    }
