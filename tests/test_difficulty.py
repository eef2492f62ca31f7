import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from scripted import Busy, Scripted, running
from tiny import weather_example

from jaxfc.command import InputError
from jaxfc.config import Data, Model, PassRate, Prompt
from jaxfc.data.dataset import open_split, read_manifest
from jaxfc.data.judging.endpoint import Endpoint
from jaxfc.data.pipeline import open_examples
from jaxfc.data.shards import write_dataset
from jaxfc.difficulty.completing import by_batches, endpoint_completer
from jaxfc.difficulty.measure import judge_of, measure
from jaxfc.difficulty.settings import Difficulty
from jaxfc.server.app import make_app
from jaxfc.server.settings import Limits

ROOT = Path(__file__).parents[1]
CITIES = [f"city{number}" for number in range(7)]
PROMPT = Prompt(system="{tools}", tools="signatures")


def right(city: str) -> str:
    return f"<think>w</think><answer>[weather(city='{city}', days=3)]</answer>"


@pytest.fixture
def data(tmp_path):
    examples = [weather_example(city) for city in CITIES]
    beside = {"report.json": "{}\n", "README.md": "A card.\n", "notes.txt": "Not carried over."}
    write_dataset(tmp_path / "set", {"train": examples, "held_out": examples[:2]}, {"counts": {"kept": 9}}, beside)
    return tmp_path / "set"


class Sampler:
    """City number n is right n of 4 times, and the last cannot be asked; may be interrupted at a given call."""

    def __init__(self, stop_at=None):
        self.parts, self.stop_at = [], stop_at

    def __call__(self, examples, part):
        if len(self.parts) == self.stop_at:
            raise KeyboardInterrupt
        self.parts.append(part)
        numbers = [CITIES.index(example.id) for example in examples]
        wrong = "<think>w</think><answer>[weather(city='x')]</answer>"
        texts = [[right(CITIES[n])] * min(n, 4) + [wrong] * max(4 - n, 0) for n in numbers]
        return [None if n == 6 else rows for n, rows in zip(numbers, texts, strict=True)]


def run(data, output, sampler, batch=2, **changed):
    settings = {"model": "abc"} | changed
    return measure(data, output, ["train"], by_batches(sampler, batch), judge_of("reward", PROMPT), settings=settings)


def rates(folder, split="train"):
    opened = open_split(folder, split)
    return [opened[index].pass_rate for index in range(len(opened))]


def test_the_pass_rate_is_the_part_of_the_completions_that_is_right(data, tmp_path):
    report = run(data, tmp_path / "out", Sampler())
    assert rates(tmp_path / "out") == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, None]
    assert rates(tmp_path / "out", "held_out") == [None, None], "not asked for"
    split = report["splits"]["train"]
    assert (split["examples"], split["not_asked"], split["mean"]) == (7, 1, 3.5 / 6)
    assert split["right"] == {0: 1, 1: 1, 2: 1, 3: 1, 4: 2} and split["reasons"]["ok"] == 14
    before, after = (open_split(folder, "train") for folder in (data, tmp_path / "out"))
    assert dataclasses.replace(after[3], pass_rate=None) == before[3]
    assert json.loads((tmp_path / "out" / "difficulty.json").read_text())["splits"]["train"]["mean"] == 3.5 / 6
    manifest = read_manifest(tmp_path / "out")
    assert (manifest["counts"], manifest["difficulty"]) == ({"kept": 9}, {"model": "abc"})
    assert (tmp_path / "out" / "README.md").read_text() == "A card.\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]


@pytest.mark.parametrize("torn", [False, True])
def test_an_interrupted_run_goes_on_with_the_part_that_it_was_at(data, tmp_path, torn):
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "out", Sampler(stop_at=2))
    assert not (tmp_path / "out").exists()
    partial = tmp_path / "out.partial.jsonl"
    if torn:
        partial.write_bytes(partial.read_bytes()[:-9])
    sampler = Sampler()
    run(data, tmp_path / "out", sampler)
    assert sampler.parts == ([1, 2, 3] if torn else [2, 3])
    run(data, tmp_path / "whole", Sampler())
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert all((tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)


def test_progress_of_another_model_and_a_folder_that_is_there_are_refused(data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "out", Sampler(stop_at=1))
    with pytest.raises(InputError, match="another model or other settings"):
        run(data, tmp_path / "out", Sampler(), model="def")
    (tmp_path / "out.partial.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match=r"another model|not the progress"):
        run(data, tmp_path / "out", Sampler())
    with pytest.raises(InputError, match="is there already"):
        run(data, data, Sampler())
    with pytest.raises(InputError, match="no split tune"):
        measure(data, tmp_path / "x", ["tune"], by_batches(Sampler(), 2), judge_of("reward", PROMPT), settings={})


@pytest.mark.parametrize(("verdict", "ok"), [("reward", False), ("evaluation", True)])
def test_the_form_counts_where_it_is_rewarded(verdict, ok):
    text = "I think so: [weather(city='Paris', days=3)]".partition(": ")[2]
    judge = judge_of(verdict, PROMPT)
    assert judge(text, weather_example()).ok == ok
    assert judge(right("Paris"), weather_example()).ok and not judge(right("Rome"), weather_example()).ok


# Through an endpoint


class Alternating:
    """Every other reply about a city is right."""

    def __init__(self):
        self.asked = {}

    def __call__(self, messages):
        city = messages[-1]["content"].removesuffix("?").rpartition(" ")[2]
        self.asked[city] = self.asked.get(city, 0) + 1
        return right(city) if self.asked[city] % 2 else "I do not know."


def by_endpoint(url, data, output, samples=4, **changed):
    given = {"base_url": f"{url}/v1", "model": "scripted", "retries": 2, "first_wait": 0.01, "concurrency": 4} | changed
    with endpoint_completer(Endpoint(**given), PROMPT, samples) as complete:
        return measure(data, output, ["train"], complete, judge_of("evaluation", PROMPT), settings={"endpoint": "x"})


def test_an_endpoint_is_asked_for_each_completion_and_shown_the_same_prompt(data, tmp_path):
    model = Scripted(Alternating())
    with running(make_app(model, Limits())) as url:
        model.problems += [Busy("later")] * 2
        by_endpoint(url, data, tmp_path / "out")
    assert model.script.asked == dict.fromkeys(CITIES, 4)
    assert rates(tmp_path / "out") == [0.5] * 7
    messages = json.loads(bytes(model.orders[0].prompt))["messages"]
    assert messages[0]["role"] == "system" and "weather(city: str" in messages[0]["content"]


def test_an_endpoint_that_goes_down_ends_the_run_measures_nothing_and_is_gone_on_with(data, tmp_path):
    model = Scripted(Alternating())
    with running(make_app(model, Limits())) as url:
        script = model.script

        def falling(messages):
            if sum(script.asked.values()) >= 14:
                model.ready = False
            return script(messages)

        model.script = falling
        with pytest.raises(InputError, match="no answer to city"):
            by_endpoint(url, data, tmp_path / "out", concurrency=1)
        measured = [json.loads(line) for line in (tmp_path / "out.partial.jsonl").read_text().splitlines()[1:]]
        assert 0 < len(measured) < 7 and all(row["right"] == 2 and row["samples"] == 4 for row in measured)
        assert not (tmp_path / "out").exists()
        model.ready, model.script, before = True, Alternating(), len(measured)
        by_endpoint(url, data, tmp_path / "out")
    assert len(model.script.asked) == 7 - before and rates(tmp_path / "out") == [0.5] * 7


def test_an_endpoint_that_is_not_there_is_a_message_and_no_pass_rate(data, tmp_path):
    with pytest.raises(InputError, match="Is it up"):
        by_endpoint("http://127.0.0.1:9", data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The script


def script(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "measure_difficulty.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_the_script_measures_through_an_endpoint_and_training_can_choose_by_what_it_wrote(data, tmp_path):
    model = Scripted(Alternating())
    with running(make_app(model, Limits())) as url:
        given = ("--data", data, "--endpoint", f"{url}/v1", "endpoint.model=scripted", "samples=2")
        done = script(*given, "--output", tmp_path / "out", "splits=[train, held_out]", "--json")
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["splits"]["held_out"]["mean"] == 0.5
    assert rates(tmp_path / "out") == [0.5] * 7 and rates(tmp_path / "out", "held_out") == [0.5] * 2
    assert model.orders[0].draw.temperature == 0.7
    chosen = Data(path=str(tmp_path / "out"), pass_rate=PassRate(at_least=0.1, at_most=0.9))
    assert len(open_examples(chosen)) == 7


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({}, "either --model"),
        ({"model": Model(path="m"), "endpoint": Endpoint(base_url="http://x", model="m")}, "and not both"),
        ({"endpoint": Endpoint(base_url="http://x", model="m"), "verdict": "reward"}, "not seen through an endpoint"),
        ({"endpoint": Endpoint(base_url="http://x", model="m", response_format="json_object")}, "replies are no JSON"),
        ({"endpoint": Endpoint(base_url="http://x", model="m"), "prompt": Prompt(opens_think=True)}, "opens_think"),
        ({"model": Model(path="m"), "samples": 0}, "samples is 0"),
        ({"model": Model(path="m"), "temperature": 0.0}, "above 0"),
        ({"model": Model(path="m"), "splits": ()}, "at least one"),
        ({"model": Model(path="m"), "prompt_buckets": (64, 32)}, "rising lengths"),
    ],
)
def test_a_wrong_setting_is_refused(wrong, problem):
    with pytest.raises(ValueError, match=problem):
        Difficulty(data="d", output="o", **wrong)
