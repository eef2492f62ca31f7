"""What all tests have: eight CPU devices, no network, a cache of compiled programs, and slow tests only on request."""

import gc
import os
import sys
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

# Set before anything imports JAX, and inherited by the scripts that tests start.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "8",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    "HF_HUB_OFFLINE": "1",
}

# How long a test takes depends on who else is on the machine.
hypothesis.settings.register_profile("jaxfc", deadline=None)
hypothesis.settings.load_profile("jaxfc")


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config, items):
    """Leave slow tests out, unless they are asked for: --all, or a -m or a test id that says so."""
    if config.option.all or config.option.markexpr or any("::" in argument for argument in config.args):
        return
    slow = [item for item in items if "slow" in item.keywords]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


@pytest.fixture(scope="module", autouse=True)
def programs_are_let_go():
    """Forget the compiled programs of each module: a process has room for 65,530 maps of memory, and each takes some.

    Past that, what compiles next ends in a segmentation fault.
    """
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def shared():
    """The folder of data that is too large for the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not on this machine; it holds data too large for the repository")
    return SHARED


@pytest.fixture(scope="session")
def seed_tokenizer(tmp_path_factory):
    """A tokenizer made the way the seed model's is."""
    import tiny

    return tiny.seed_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def qwen(shared):
    """The Qwen2.5 tokenizer, to which <think> is three tokens."""
    from jaxfc.data.prompts import Tokenizer

    return Tokenizer(shared / "data" / "tokenizer" / "qwen")
