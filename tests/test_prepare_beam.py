import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("apache_beam", reason="the extra beam is not installed")

from jaxfc.command import InputError
from jaxfc.data.dataset import open_split, read_manifest
from jaxfc.data.example import example_to_json
from jaxfc.data.judging.endpoint import Endpoint
from jaxfc.data.judging.judge import JudgeSettings
from jaxfc.data.overlap import Overlap
from jaxfc.data.repeats import Repeats
from jaxfc.data.sources.source import Source
from jaxfc.prepare.beam import prepare_with_beam
from jaxfc.prepare.run import prepare
from jaxfc.prepare.settings import Beam, Generated, Prepare

ROOT = Path(__file__).parents[1]
REAL_ROWS = ROOT / "jaxfc" / "assets" / "real_rows.jsonl"
SHARED = ROOT.parent / "shared" / "data"


def records(folder):
    """Split -> the JSON of its examples, sorted."""
    sources = {split: open_split(folder, split) for split in read_manifest(folder)["splits"]}
    return {split: sorted(example_to_json(source[i]) for i in range(len(source))) for split, source in sources.items()}


def assert_same(config, folder):
    """The local run and Beam's, in the folder, have one report and the same records."""
    here = prepare(config, folder / "here")
    beam = prepare_with_beam(
        dataclasses.replace(config, beam=Beam(options=("--direct_num_workers=1",))), folder / "beam"
    )
    assert beam == here and records(folder / "beam") == records(folder / "here")
    names = [
        sorted(path.name for path in (folder / name).iterdir() if path.suffix in (".json", ".md"))
        for name in ("here", "beam")
    ]
    assert names[0] == names[1]
    assert (folder / "here" / "report.json").read_text() == (folder / "beam" / "report.json").read_text()
    assert read_manifest(folder / "here")["config_sha256"] == read_manifest(folder / "beam")["config_sha256"]
    return here


def sources(*paths):
    return tuple(Source(path=str(path)) for path in paths)


def test_beam_and_the_local_run_give_one_report_and_the_same_records(tmp_path):
    rows = [json.loads(line) for line in REAL_ROWS.read_text().splitlines()]
    # Another file with the same ids: repeats, a row that only case tells from an earlier one, and rows of their own.
    shouted = rows[0] | {"query": rows[0]["query"].upper()}
    asked = [row | {"query": f"{row['query']} ({number})"} for number, row in enumerate(rows[:10])]
    more = tmp_path / "more.jsonl"
    more.write_text("".join(f"{json.dumps(row)}\n" for row in [*rows[5:15], shouted, *asked, *asked[:2]]))
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps(rows[2]) + "\n")
    config = Prepare(
        sources=(*sources(REAL_ROWS), Source(path=str(more), weight=2.0)),
        repeats=Repeats(normalised=True),
        overlap=Overlap(files=(str(test),)),
        held_out=0.2,
        tasks=Generated(train=10, tune=3, held_out=5),
        shard_megabytes=0.02,
    )
    report = assert_same(config, tmp_path)
    assert {"exact repeat", "normalised repeat", "overlap: same query"} <= set(report["reasons"])
    assert report["repairs"]["id: made unique"]["rows"] > 5
    assert len(read_manifest(tmp_path / "beam")["splits"]["train"]["shards"]) > 1


def test_a_dry_run_of_beams_writes_nothing(tmp_path):
    config = Prepare(sources=sources(REAL_ROWS), beam=Beam())
    assert prepare_with_beam(config, None) == prepare(dataclasses.replace(config, beam=None), None)
    assert list(tmp_path.iterdir()) == []


def test_bfcls_answers_travel_with_its_questions(tmp_path):
    tool = {"name": "f", "description": "", "parameters": {"type": "dict", "properties": {"a": {"type": "integer"}}}}
    question = {"id": "b", "question": [[{"role": "user", "content": "q"}]], "function": [tool]}
    (tmp_path / "possible_answer").mkdir()
    (tmp_path / "BFCL_v4_x.json").write_text(json.dumps(question))
    answer = {"id": "b", "ground_truth": [{"f": {"a": [1, 2]}}]}
    (tmp_path / "possible_answer" / "BFCL_v4_x.json").write_text(json.dumps(answer))
    report = assert_same(Prepare(sources=sources(tmp_path / "BFCL_v4_x.json")), tmp_path)
    assert report["repaired"] == 1  # its types are BFCL's


def test_the_staging_folder_is_used_and_gone_in_the_end(tmp_path):
    config = Prepare(sources=sources(REAL_ROWS), beam=Beam(staging=str(tmp_path / "staging")))
    (tmp_path / "staging").mkdir()
    prepare_with_beam(config, tmp_path / "set")
    assert list((tmp_path / "staging").iterdir()) == [] and (tmp_path / "set").is_dir()


def test_a_judge_under_beam_is_refused_before_any_work(tmp_path):
    judge = JudgeSettings(endpoint=Endpoint(base_url="http://localhost:1/v1", model="m"))
    with pytest.raises(InputError, match="judge and beam are set together"):
        prepare_with_beam(Prepare(sources=sources(REAL_ROWS), judge=judge, beam=Beam()), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_rows_of_which_none_is_fit_are_refused_with_the_reasons(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"id": "r", "query": "q", "tools": [], "answers": [{"name": "f", "arguments": {}}]}))
    with pytest.raises(InputError, match=r"none of the 1 rows is fit to keep: call: no tools offered \(1\)"):
        prepare_with_beam(Prepare(sources=sources(path), beam=Beam()), tmp_path / "set")
    assert [found.name for found in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.slow
def test_beam_and_the_local_run_agree_on_the_large_set(tmp_path):
    if not SHARED.is_dir():
        pytest.skip("the large data set ../shared/data is not here")
    files = [SHARED / "bfcl", *sorted((SHARED / "eval").iterdir())]
    settings = [f"overlap.files=[{', '.join(map(str, files))}]", "repeats.normalised=true", "shard_megabytes=2"]
    inputs = ["--input", SHARED / "train_raw.jsonl.gz", SHARED / "xlam_native.jsonl.gz"]
    # In processes of their own, where no signature is checked.
    for name, more in (("here", []), ("beam", ["beam.runner=DirectRunner"])):
        command = [sys.executable, "scripts/prepare_data.py", *inputs, "--output", tmp_path / name, *settings, *more]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "here" / "report.json").read_bytes() == (tmp_path / "beam" / "report.json").read_bytes()
    assert json.loads((tmp_path / "here" / "report.json").read_text())["input_rows"] == 4708 + 883
    assert records(tmp_path / "beam") == records(tmp_path / "here")
