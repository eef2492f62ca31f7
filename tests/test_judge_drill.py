"""The judge stage under fire: faults of the endpoint, a kill half way, a resumed run, a replay."""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from faults import Faults
from judging import by_content
from scripted import Scripted, running, wait_until

from jaxfc.data.judging.endpoint import Endpoint
from jaxfc.data.judging.judge import JudgeSettings, open_judge
from jaxfc.data.judging.replies import Replies, key_of
from jaxfc.data.sources.source import Source, read_rows
from jaxfc.prepare.run import prepare
from jaxfc.prepare.settings import Prepare
from jaxfc.server.app import make_app
from jaxfc.server.settings import Limits

ROOT = Path(__file__).parents[1]
FEW_ROWS = ROOT / "jaxfc" / "assets" / "real_rows.jsonl"
FAULTS = ["429:0.1", "500", "hang up", "cut JSON", "503", "empty", "slow", "web page"]
CONCURRENCY = 16


class Drill(NamedTuple):
    """What is to be said of a drill."""

    rows: int
    requests_undisturbed: int
    faults: int
    requests_until_killed: int
    requests_after: int
    answered_but_lost: int
    """Replies on their way when the process was killed."""
    asked_again_though_cached: int
    answered_twice: int
    """Questions; those whose reply was lost included."""
    outputs_equal: bool
    """Byte for byte: of the undisturbed run, of the one that was killed and resumed, of the replay."""
    outcomes: dict
    """How rows ended, by stage."""


@contextlib.contextmanager
def serving(choose):
    faults = Faults(make_app(Scripted(by_content), Limits()), choose)
    with running(faults, backlog=512) as url:
        yield faults, url


def start(folder, name, url, rows, count, cache, **settings):
    given = {"url": url, "rows": str(rows), "count": count, "cache": str(cache), "output": str(folder / name)}
    given |= {"concurrency": CONCURRENCY, "timeout": 5.0} | settings
    command = [sys.executable, str(ROOT / "tests" / "judging.py"), json.dumps(given)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process):
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return json.loads(output)


def key_asked(asked):
    body = json.loads(asked.body)
    again = re.search(r"not usable: (\d+)\.", body["messages"][-1]["content"].partition("</row>")[2])
    return key_of(body, int(again.group(1)) if again else 0)


def drill(folder, rows, count):
    """Judge undisturbed; then with faults in 5 % of requests, killed half way and resumed; then replay."""
    with serving(lambda number, body: "") as (faults, url):
        finish(start(folder, "undisturbed", url, rows, count, folder / "calm.sqlite"))
        undisturbed = len(faults.asked)
    cache, kinds = folder / "replies.sqlite", itertools.cycle(FAULTS)
    with serving(lambda number, body: next(kinds) if number % 20 == 10 else "") as (faults, url):
        killed = start(folder, "killed", url, rows, count, cache)
        wait_until(lambda: sum(asked.answered for asked in faults.asked) >= undisturbed // 2, 300)
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate()
        assert killed.returncode == -signal.SIGKILL and not (folder / "killed").exists()
        wait_until(lambda: all(asked.answered or asked.fault or asked.gone for asked in faults.asked))
        before = list(faults.asked)
        replies = Replies(cache)
        cached = {key for key in map(key_asked, before) if replies.get(key)}
        replies.close()
        effort = finish(start(folder, "resumed", url, rows, count, cache))
        after = faults.asked[len(before) :]
    finish(start(folder, "replayed", "http://127.0.0.1:9", rows, count, cache, replay=True))
    outputs = {(folder / name).read_bytes() for name in ("undisturbed", "resumed", "replayed")}
    assert effort["requests"] == len(after)
    answered = [key_asked(asked) for asked in faults.asked if asked.answered]
    return Drill(
        rows=count,
        requests_undisturbed=undisturbed,
        faults=sum(bool(asked.fault) for asked in faults.asked),
        requests_until_killed=len(before),
        requests_after=len(after),
        answered_but_lost=len({key_asked(asked) for asked in before if asked.answered} - cached),
        asked_again_though_cached=len(cached & set(map(key_asked, after))),
        answered_twice=len(answered) - len(set(answered)),
        outputs_equal=len(outputs) == 1,
        outcomes=json.loads((folder / "resumed").read_text().splitlines()[-1])["outcomes"],
    )


def check(found, folder, rows):
    assert found.outputs_equal
    assert found.asked_again_though_cached == 0
    assert found.answered_twice <= found.answered_but_lost <= CONCURRENCY
    assert found.faults >= (found.requests_until_killed + found.requests_after) // 20 - 1
    *lines, _ = (folder / "resumed").read_text().splitlines()
    places = [
        json.loads(line)["where"] if line[0] == "{" else json.JSONDecoder().raw_decode(line)[0][0] for line in lines
    ]
    assert places == [row.where for row in itertools.islice(read_rows(rows), found.rows)]
    assert len(places) == found.rows


def test_a_replay_makes_the_same_dataset_and_names_no_key(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    with serving(lambda number, body: "500" if number % 7 == 3 else "") as (faults, url):
        endpoint = Endpoint(base_url=f"{url}/v1", model="scripted", key_variable="JUDGE_KEY", first_wait=0.02)
        config = Prepare(sources=(Source(path=str(FEW_ROWS)),), judge=JudgeSettings(endpoint=endpoint))
        with open_judge(config.judge, tmp_path / "replies.sqlite") as judge:
            report = prepare(config, tmp_path / "fresh", judge)
        assert all(asked.key == "Bearer sk-very-secret" for asked in faults.asked)
    monkeypatch.delenv("JUDGE_KEY")
    with open_judge(config.judge, tmp_path / "replies.sqlite", replay=True) as judge:
        prepare(config, tmp_path / "replayed", judge)
        assert judge.effort().requests == 0
    assert report["kept"] + report["repaired"] + report["dropped"] == report["input_rows"] == 41
    assert report["judge"]["outcomes"]["first"]["right"] > 20
    assert any(reason.startswith("judge: ") for reason in report["reasons"])
    fresh, replayed = (contents(tmp_path / name) for name in ("fresh", "replayed"))
    assert fresh == replayed and len(fresh) >= 4
    assert not any(b"very-secret" in data for data in [*fresh.values(), (tmp_path / "replies.sqlite").read_bytes()])


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_killed_run_judges_no_row_twice(tmp_path):
    rows = tmp_path / "rows.jsonl"
    given = [json.loads(line) for line in FEW_ROWS.read_text().splitlines()]
    varied = ({**row, "query": f"{row.get('query')} ({n})"} for n in range(3) for row in given)
    rows.write_text("".join(f"{json.dumps(row)}\n" for row in itertools.islice(varied, 100)))
    check(drill(tmp_path, rows, 100), tmp_path, rows)


@pytest.mark.slow
def test_a_killed_run_of_a_thousand_rows_judges_no_row_twice(tmp_path, shared):
    rows = shared / "data" / "train_raw.jsonl.gz"
    found = drill(tmp_path, rows, 1000)
    assert {"right", "corrected", "judge: no verdict", "judge: no correction"} <= set(found.outcomes["first"])
    assert {"right", "judge: wrong at the end"} <= set(found.outcomes["final"])
    print("\n" + "\n".join(f"{name}: {value}" for name, value in found._asdict().items()))
    check(found, tmp_path, rows)
