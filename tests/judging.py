"""A scripted judge, whose opinion of a row depends on the row alone, and the stages around the judge as a program.

`python judging.py SETTINGS`: reads rows, judges, validates, judges again, writes what became of each; for tests that
kill it. SETTINGS is a JSON object: url, rows, count, cache, output, replay, concurrency, timeout.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import sys
from pathlib import Path

from jaxfc.data.example import example_to_json
from jaxfc.data.judging.endpoint import Endpoint, Prices
from jaxfc.data.judging.judge import JudgeSettings, open_judge
from jaxfc.data.sources.source import read_rows
from jaxfc.data.validate import Dropped, validate
from jaxfc.files import write_atomically


def row_in(messages):
    """The row that a judge is shown, and what comes after it."""
    text = messages[-1]["content"]
    return json.loads(text[len("<row>\n") : text.index("\n</row>")]), text.partition("</row>")[2]


def opinion(correct, reason="Because."):
    return json.dumps({"reason": reason, "correct": correct})


def calls(*answer):
    return json.dumps({"calls": list(answer)})


UNREADABLE = ["", "Yes.", "[" * 1500, opinion(True) * 2, '{"correct": NaN, "reason": ""}']


def by_content(messages):
    """Of 100 rows it finds 80 right, and cannot make up its mind on 3; on 5 others it needs a reminder."""
    row, again = row_in(messages)
    number = int.from_bytes(hashlib.sha256(json.dumps(row, sort_keys=True).encode()).digest()[:4])
    if number % 100 < 3 or (number % 100 < 8 and not again):
        return UNREADABLE[number // 100 % len(UNREADABLE)]
    if "answer" in row:
        return f"```json\n{opinion(number % 100 < 88, f'Number {number}.')}\n```"
    answer = row["rejected"][0]["answer"]
    return calls(*answer[: max(0, len(answer) - len(row["rejected"]))]) if isinstance(answer, list) else calls()


def stages(judge, rows):
    """Judge, AST, judge."""
    judged = judge.first(rows)
    return judge.final(row if isinstance(row, Dropped) else validate(row) for row in judged)


def line_of(result):
    if isinstance(result, Dropped):
        return json.dumps(dataclasses.asdict(result))
    return json.dumps([result.where, result.repairs]) + example_to_json(result.example)


def run(url, rows, count, cache, output, replay=False, concurrency=16, timeout=20.0):
    """All stages; returns the lines, what the report would say, and the effort."""
    endpoint = Endpoint(
        base_url=f"{url}/v1",
        model="scripted",
        concurrency=concurrency,
        timeout=timeout,
        first_wait=0.02,
        retries=8,
        most_tokens=100_000,
        prices=Prices(prompt=1.0, completion=2.0),
    )
    with open_judge(JudgeSettings(endpoint=endpoint), Path(cache), replay=replay) as judge:
        with contextlib.closing(stages(judge, itertools.islice(read_rows(Path(rows)), count))) as results:
            lines = [line_of(result) for result in results]
        report, effort = judge.totals(), judge.effort()
    write_atomically(output, "".join(f"{line}\n" for line in [*lines, json.dumps(report)]))
    return effort


if __name__ == "__main__":
    print(json.dumps(run(**json.loads(sys.argv[1]))._asdict()))
