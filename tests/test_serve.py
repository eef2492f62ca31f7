"""What scripts/serve.py refuses before it serves."""

import importlib.util
import socket
import sys
from pathlib import Path

import pytest

from jaxfc.command import run_command

ROOT = Path(__file__).parents[1]
SEED_MODEL = ROOT / "jaxfc" / "assets" / "seed"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("serve", ROOT / "scripts" / "serve.py")
    module = sys.modules["serve"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["serve"]


def start(script, *arguments):
    return run_command(script.main, script.Serve, script.__doc__, list(arguments), script.add_arguments)


@pytest.mark.parametrize(
    "setting, said",
    [
        ("mesh.data=2", "mesh.tensor"),
        ("mesh.fsdp=2", "mesh.tensor"),
        ("port=70000", "port is 70000"),
        ("grace_seconds=-1", "grace_seconds is -1"),
        ("sizes.slots=0", "sizes.slots is 0"),
        ("sizes.prefills=0", "sizes.prefills is 0"),
        ("sizes.ticks=33", "sizes.ticks is 33"),
        ("sizes.queue=-1", "sizes.queue is -1"),
        ("sizes.widths=[4,32]", "sizes.widths is (4, 32)"),
        ("sizes.prompt_buckets=[64,32]", "sizes.prompt_buckets is (64, 32)"),
        ("sizes.completion_length=1", "sizes.completion_length is 1"),
        ("limits.body_bytes=0", "limits.body_bytes is 0"),
        ("limits.requests=0", "limits.requests is 0"),
        ("limits.choices=0", "limits.choices is 0"),
        ("limits.tools=0", "limits.tools is 0"),
        ("limits.seconds=0", "limits.seconds is 0"),
        ("limits.api_key_variable=NO_SUCH_KEY", "$NO_SUCH_KEY should hold a key"),
        ("limit.seconds=1", "unknown key limit"),
    ],
)
def test_a_setting_that_cannot_be_served_is_refused(script, setting, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        start(script, "--model", str(SEED_MODEL), "--port", "0", setting)
    assert said in capsys.readouterr().err


def test_a_model_that_is_not_there_or_not_trained_is_refused(script, tmp_path, capsys):
    missing, untrained = ["--model", str(tmp_path / "no")], ["model.create={}"]
    for arguments, said in ((missing, "no such directory"), (untrained, "untrained")):
        with pytest.raises(SystemExit, match="2"):
            start(script, *arguments, "--port", "0")
        assert said in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused(script, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit, match="2"):
        start(script, "--model", str(SEED_MODEL), "--port", str(taken.getsockname()[1]))
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err


def test_several_processes_are_refused(script, monkeypatch, capsys):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(SystemExit, match="2"):
        start(script, "--model", str(SEED_MODEL))
    assert "one process" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["", "two words", "schlüssel", "line\nbreak"])
def test_a_key_that_could_not_stand_in_a_header_is_refused_and_not_shown(script, key, monkeypatch, capsys):
    monkeypatch.setenv("SERVE_KEY", key)
    with pytest.raises(SystemExit, match="2"):
        start(script, "--model", str(SEED_MODEL), "--port", "0", "limits.api_key_variable=SERVE_KEY")
    said = capsys.readouterr().err
    assert "$SERVE_KEY" in said and (not key or key not in said)


def test_missing_packages_are_named(script, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(SystemExit, match="2"):
        start(script, "--model", str(SEED_MODEL))
    assert "jaxfc[serve]" in capsys.readouterr().err
