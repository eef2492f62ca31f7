import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfc.command import InputError, digest, dump, load, run_command
from jaxfc.files import OutputError, write_atomically
from jaxfc.settings import describe

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bonus:
    """What is added."""

    scale: float = 0.4
    """How much of it."""
    cap: float = 2.0
    """At most this."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm:
    """How it is done."""

    group_size: int = 8
    """Completions per prompt."""
    clip_high: float = 0.2
    bonus: Bonus | None = dataclasses.field(default_factory=lambda: Bonus(scale=0.5))
    """null adds nothing."""

    def __post_init__(self):
        if self.group_size < 2:
            raise ValueError(f"algorithm.group_size is {self.group_size}; at least 2 are needed.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """What every run has."""

    name: str
    """Of the run,
    on two lines."""
    note: str | None = None
    buckets: tuple[int, ...] = (4, 8)
    """Lengths."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Base):
    """A run."""

    split: Literal["train", "off"] = "train"
    rate: float = 1e-6
    shuffle: bool = True
    algorithm: Algorithm = dataclasses.field(default_factory=Algorithm)
    """Of the run."""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text):
        Path("run.yaml").write_text(text)
        return "run.yaml"

    return write


def refusal(path, *overrides):
    with pytest.raises(InputError) as caught:
        load(Config, path, overrides)
    return str(caught.value)


# Laws

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBER = st.floats(allow_nan=False)
CONFIGS = st.builds(
    Config,
    name=TEXT,
    note=st.none() | TEXT,
    buckets=st.lists(st.integers()).map(tuple),
    split=st.sampled_from(["train", "off"]),
    rate=NUMBER,
    shuffle=st.booleans(),
    algorithm=st.builds(
        Algorithm,
        group_size=st.integers(2),
        clip_high=NUMBER,
        bonus=st.none() | st.builds(Bonus, scale=NUMBER, cap=NUMBER),
    ),
)


@given(CONFIGS)
def test_what_is_dumped_loads_back_equal_with_the_same_digest(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_bytes(dump(config).encode())
    assert load(Config, path) == config
    assert digest(load(Config, path)) == digest(config)


@given(CONFIGS, CONFIGS)
def test_digests_are_equal_exactly_when_configs_are(one, other):
    # Through repr, -0.0 and 0.0 differ, though they compare equal.
    assert (digest(one) == digest(other)) == (repr(one) == repr(other))


def test_a_whole_number_for_a_float_is_the_same_config():
    assert digest(Config(name="x", rate=1)) == digest(Config(name="x", rate=1.0))
    assert digest(Config(name="x", rate=1)) != digest(Config(name="x", rate=2.0))


# Right input


def test_what_the_file_leaves_out_keeps_its_declared_default(write):
    path = write("name: x\nalgorithm:\n  clip_high: 0.3\n  bonus:\n    cap: 3\n")
    # scale is 0.5 as Algorithm declares it, not 0.4 as Bonus does alone.
    expected = Algorithm(clip_high=0.3, bonus=Bonus(scale=0.5, cap=3.0))
    assert load(Config, path) == Config(name="x", algorithm=expected)


def test_overrides_beat_the_file_and_later_ones_beat_earlier(write):
    path = write("name: x\nrate: 0.5\nalgorithm: {group_size: 4}\n")
    config = load(Config, path, ["rate=0.1", "rate=0.2", "algorithm.clip_high=1", "buckets=[1, 2, 3]"])
    assert config == Config(name="x", rate=0.2, buckets=(1, 2, 3), algorithm=Algorithm(group_size=4, clip_high=1.0))


def test_a_record_is_switched_off_by_null_and_on_by_one_of_its_keys(write):
    path = write("name: x\nalgorithm: {bonus: null}\n")
    assert load(Config, path).algorithm.bonus is None
    assert load(Config, path, ["algorithm.bonus.cap=3"]).algorithm.bonus == Bonus(scale=0.5, cap=3.0)
    assert load(Config, None, ["name=x", "algorithm.bonus=null"]).algorithm.bonus is None


def test_a_record_given_whole_on_the_command_line_can_be_refined_there():
    config = load(Config, None, ["name=x", "algorithm={group_size: 4}", "algorithm.clip_high=0.5"])
    assert config.algorithm == Algorithm(group_size=4, clip_high=0.5)


def test_a_float_may_be_written_as_yaml_1_1_does_not_know_it(write):
    assert load(Config, write("name: x\nrate: 1e-6\n")).rate == 1e-6
    assert load(Config, write("name: x\nrate: 2\n")).rate == 2.0
    assert isinstance(load(Config, write("name: x\nrate: 2\n")).rate, float)


def test_text_on_the_command_line_is_taken_as_it_stands():
    for text in ["0123", "1e-6", "yes", "a: b", "[x", "{tools} and more", "a=b"]:
        assert load(Config, None, [f"name={text}"]).name == text
    assert load(Config, None, ["name='quoted'"]).name == "quoted"
    assert load(Config, None, ["name=x", "note=null"]).note is None
    # YAML reads `off` as false.
    assert load(Config, None, ["name=x", "split=off"]).split == "off"


def test_records_that_share_an_alias_are_overridden_apart(write):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Pair:
        left: Bonus
        right: Bonus

    path = write("left: &same {scale: 1}\nright: *same\n")
    assert load(Pair, path, ["left.scale=2"]) == Pair(left=Bonus(scale=2.0), right=Bonus(scale=1.0))
    path = write("left: &same {scale: 1, cap: 5}\nright:\n  <<: *same\n  scale: 3\n")
    assert load(Pair, path).right == Bonus(scale=3.0, cap=5.0)


# Wrong input


WRONG = [
    ("algorithm: {clip_hi: 1}", "run.yaml: unknown key algorithm.clip_hi; did you mean clip_high?"),
    ("group_size: 4", "run.yaml: unknown key group_size; did you mean algorithm.group_size?"),
    ("zz: 4", "run.yaml: unknown key zz; known here: name, note, buckets, split, rate, shuffle, algorithm."),
    ("rate: fast", "run.yaml: rate is the text fast, but should be a number."),
    ("rate: true", "run.yaml: rate is true, but should be a number."),
    ("rate: .nan", "run.yaml: rate is .nan, but should be a number."),
    ("note: 12", "run.yaml: note is 12, but should be text or null; put it in quotes."),
    ("note: 2024-01-01", "run.yaml: note is 2024-01-01, but should be text or null; put it in quotes."),
    ("shuffle: 1", "run.yaml: shuffle is 1, but should be true | false."),
    ("buckets: 4", "run.yaml: buckets is 4, but should be a list, each item a whole number."),
    ("buckets: [1, 2.5]", "run.yaml: buckets[1] is 2.5, but should be a whole number."),
    ("split: trian", "run.yaml: split is the text trian, but should be train | off; did you mean train?"),
    ("split: off", "run.yaml: split is false, but should be train | off."),
    ("algorithm: null", "run.yaml: algorithm is null, but should be settings (key: value)."),
    ("algorithm: {bonus: [1]}", "run.yaml: algorithm.bonus is a list, but should be settings (key: value) or null."),
    ("algorithm: {group_size: 2.0}", "run.yaml: algorithm.group_size is 2.0, but should be a whole number."),
    ("algorithm: {group_size: 1}", "run.yaml: algorithm.group_size is 1; at least 2 are needed."),
    (
        "buckets: [1,\nrate: 1\n",
        "run.yaml:4: expected ',' or ']', but got '<stream end>', while parsing a flow sequence that begins on line 2.",
    ),
    ("rate: 1\nname: y\n", "run.yaml:3: the key name stands twice."),
    (
        "rate: !!python/name:os.system",
        "run.yaml:2: could not determine a constructor for the tag 'tag:yaml.org,2002:python/name:os.system'.",
    ),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_wrong_setting_is_refused_by_file_and_key(write, text, message):
    assert refusal(write(f"name: x\n{text}")) == message


WRONG_OVERRIDES = [
    (["algorithm.clip_hi=1"], "command line: unknown key algorithm.clip_hi; did you mean clip_high?"),
    (["algoritm.clip_high=1"], "command line: unknown key algoritm; did you mean algorithm?"),
    (["seed"], "command line: 'seed' is no setting; give key=value, such as seed=1."),
    (["buckets=[1"], "command line: buckets:1: expected ',' or ']', but got '<stream end>', "
     "while parsing a flow sequence that begins on line 1."),
    (["rate=3", "rate.low=1"], "command line: rate.low cannot be set, because rate is 3, not settings."),
    (["shuffle.low=1"], "command line: shuffle.low cannot be set, because shuffle is true, not settings."),
    (["algorithm.group_size=1", "rate=1"], "run.yaml with algorithm.group_size=1: algorithm.group_size is 1; "
     "at least 2 are needed."),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), WRONG_OVERRIDES)
def test_a_wrong_override_is_refused_as_of_the_command_line(write, overrides, message):
    assert refusal(write("name: x\nshuffle: true"), *overrides) == message


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal("no.yaml") == "no.yaml: cannot read this: No such file or directory. Give a YAML file of settings."
    Path("list").write_text("- a")
    assert refusal("list") == "list: should hold settings, as `key: value` lines, but holds a list."
    Path("binary").write_bytes(b"name: \xff")
    assert refusal("binary") == "binary: not UTF-8 text (byte 6); give a YAML file of settings."
    Path("control").write_bytes(b"name: \x00")
    assert refusal("control").startswith("control: not YAML: unacceptable character #x0000")


def test_a_missing_key_is_named_with_its_explanation(write):
    assert refusal(write("rate: 1.0")) == "run.yaml: missing name: Of the run, on two lines."
    assert refusal(None) == "command line: missing name: Of the run, on two lines."


# Explanations


def test_every_setting_is_described_with_type_default_and_explanation():
    assert (
        describe(Config)
        == """\
  name: text, required
      Of the run, on two lines.
  note: text or null = null
  buckets: a list, each item a whole number = [4, 8]
      Lengths.
  split: train | off = train
  rate: a number = 1.0e-06
  shuffle: true | false = true
  algorithm: settings (key: value)
      Of the run.
  algorithm.group_size: a whole number = 8
      Completions per prompt.
  algorithm.clip_high: a number = 0.2
  algorithm.bonus: settings (key: value) or null
      null adds nothing.
  algorithm.bonus.scale: a number = 0.5
      How much of it.
  algorithm.bonus.cap: a number = 2.0
      At most this."""
    )


# Scripts


def add_arguments(parser):
    parser.add_argument("--high", dest="algorithm.clip_high", type=float)
    parser.add_argument("--name", dest="name")
    parser.add_argument("--input", nargs="+", type=Path)


def outcome(capsys, argv, main=lambda config, arguments: None):
    """Exit code, standard output and standard error of a script."""
    code = 0
    try:
        run_command(main, Config, "Does a thing.", argv, add_arguments)
    except SystemExit as stop:
        code = stop.code
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_a_script_gets_its_config_and_its_own_arguments(write, capsys):
    path, seen = write("name: file\nrate: 0.5\nalgorithm: {clip_high: 0.1}\n"), []
    argv = ["rate=1", "--config", path, "--high", "0.7", "--input", "a", "b", "--dry-run", "--name", "0123"]
    outcome(capsys, argv, lambda *given: seen.append(given))
    ((config, arguments),) = seen
    assert config == Config(name="0123", rate=1.0, algorithm=Algorithm(clip_high=0.7))
    assert (arguments.dry_run, arguments.json, arguments.input) == (True, False, [Path("a"), Path("b")])


def test_overrides_beat_a_scripts_own_arguments_and_may_stand_anywhere(write, capsys):
    seen = []
    argv = ["algorithm.clip_high=0.9", "--high", "0.7", "--config", write("name: x"), "rate=1"]
    outcome(capsys, argv, lambda config, arguments: seen.append(config))
    assert seen == [Config(name="x", rate=1.0, algorithm=Algorithm(clip_high=0.9))]


def test_json_is_one_object_on_standard_output_and_only_when_asked_for(capsys):
    def main(config, arguments):
        return {"name": config.name, "nan": float("nan")}

    assert outcome(capsys, ["name=x"], main) == (0, "", "")
    code, out, err = outcome(capsys, ["name=x", "--json"], main)
    assert (code, json.loads(out), err) == (0, {"name": "x", "nan": None}, "")


MISTAKES = [
    (["rte=1"], "command line: unknown key rte; did you mean rate?\n"),
    (["--config"], "command line: argument --config: expected one argument. See script.py --help.\n"),
    (["--hgh", "1"], "command line: unrecognized arguments: --hgh 1. See script.py --help.\n"),
    (["--high", "no"], "command line: argument --high: invalid float value: 'no'. See script.py --help.\n"),
]


@pytest.mark.parametrize(("argv", "message"), MISTAKES)
def test_a_mistake_on_the_command_line_is_one_message_and_exit_code_2(capsys, monkeypatch, argv, message):
    monkeypatch.setattr(sys, "argv", ["script.py"])
    assert outcome(capsys, ["name=x", *argv]) == (2, "", message)


def test_wrong_input_and_unwritable_output_found_later_are_one_message_too(capsys, tmp_path):
    def refuse(config, arguments):
        raise InputError("data.jsonl:3: not JSON.")

    def write(config, arguments):
        write_atomically(tmp_path, "x")

    assert outcome(capsys, ["name=x"], refuse) == (2, "", "data.jsonl:3: not JSON.\n")
    assert outcome(capsys, ["name=x"], write)[0] == 2


def test_a_bug_is_not_dressed_up_as_a_mistake_of_the_user():
    def main(config, arguments):
        raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        run_command(main, Config, "Does a thing.", ["name=x"])
    with pytest.raises(OSError) as caught:
        run_command(lambda *_: Path("/nowhere/at/all").read_text(), Config, "Does a thing.", ["name=x"])
    assert not isinstance(caught.value, OutputError)


def test_help_shows_every_setting(capsys):
    code, out, _ = outcome(capsys, ["--help"])
    assert code == 0
    assert out.startswith("usage: ")
    assert "Does a thing." in out
    assert "--config FILE" in out
    assert describe(Config) in out


SCRIPT = """
import dataclasses, signal, time
from jaxfc.command import run_command

@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    pass

# A job of a shell that runs in the background is born deaf to it.
signal.signal(signal.SIGINT, signal.default_int_handler)

def main(config, arguments):
    print("started", flush=True)
    time.sleep(60)

run_command(main, Config, "Waits.", [])
"""


def test_an_interrupted_script_says_that_it_can_be_resumed_and_exits_130(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "Interrupted; the same command resumes from what was saved.\n")
