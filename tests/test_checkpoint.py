import os
import resource
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.checkpoint import Checkpoints
from jaxfc.command import InputError
from jaxfc.config import Optimizer
from jaxfc.files import OutputError
from jaxfc.learner import make_optimizer, make_state
from jaxfc.models.decoder import Decoder
from jaxfc.models.network import DecoderConfig
from jaxfc.sharding import make_mesh, replicated, shardings
from jaxfc.types import TrainState

CONFIG = DecoderConfig(vocab_size=16, width=32, hidden_width=8, layers=2, heads=2, kv_heads=2, head_width=4)
META = {"model": "sha of the model", "config": "sha of the config"}
POSITION = {"data": {"epoch": 1, "next": [3, 5]}, "unfinished": ["a", None], "seconds": 1.5}


def simple_state(mesh, size: int = 4, value: float = 1.0) -> TrainState:
    """A state with one parameter and one moment."""
    everywhere = replicated(mesh)
    array = jax.device_put(np.full((size, 4), value, np.float32), everywhere)
    return TrainState(jax.device_put(np.int32(value), everywhere), {"w": array}, (array * 2, ()))


def whole_state(mesh, **settings) -> TrainState:
    """The state of a real decoder and its optimizer."""
    decoder, optimizer = Decoder(CONFIG), make_optimizer(Optimizer(learning_rate=1e-3, **settings))
    params = jax.device_put(decoder.init(jax.random.key(0)), shardings(mesh, decoder.axes))
    return make_state(decoder, params, optimizer, mesh)


@pytest.fixture
def mesh():
    return make_mesh((1, 1, 1), jax.devices()[:1])


@pytest.fixture
def open_folder(tmp_path):
    """Open the checkpoints of this test's folder; all that were opened are let go of at the end."""
    opened = []

    def open_checkpoints(*, keep: int = 2, meta=META) -> Checkpoints:
        opened.append(Checkpoints(tmp_path / "checkpoints", keep=keep, meta=meta))
        return opened[-1]

    yield open_checkpoints
    for checkpoints in opened:
        checkpoints.finish()


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_new_folder_has_no_checkpoint(open_folder):
    assert open_folder().latest() is None


def test_state_and_position_come_back_as_they_were(open_folder, mesh):
    state = whole_state(mesh)
    checkpoints = open_folder()
    checkpoints.save(7, state, POSITION)
    checkpoints.finish()
    again = open_folder()
    assert again.latest() == 7
    restored, position = again.restore(7, state)
    assert_same(restored, state)
    assert position == POSITION


@pytest.mark.parametrize(("moments", "dtype"), [("bfloat16", jnp.bfloat16), ("int8", jnp.int8)])
def test_moments_in_fewer_bits_come_back_as_they_were_on_any_mesh(open_folder, mesh, moments, dtype):
    state, small = (whole_state(mesh, moments=moments) for mesh in (make_mesh((2, 2, 2)), mesh))
    assert any(leaf.dtype == dtype for leaf in jax.tree.leaves(state.opt_state))
    checkpoints = open_folder()
    checkpoints.save(1, state, {})
    for like in (small, state):
        restored, _ = checkpoints.restore(checkpoints.latest(), like)
        assert_same(restored, state)


def test_a_checkpoint_of_2x2x2_is_restored_to_one_device_and_back(open_folder, mesh):
    state, small = whole_state(make_mesh((2, 2, 2))), whole_state(mesh)
    checkpoints = open_folder()
    checkpoints.save(1, state, {})
    for like in (small, state):
        restored, _ = checkpoints.restore(checkpoints.latest(), like)
        assert_same(restored, state)
        assert [a.sharding for a in jax.tree.leaves(restored)] == [a.sharding for a in jax.tree.leaves(like)]


def test_the_state_may_be_donated_as_soon_as_save_returns(open_folder, mesh):
    checkpoints, state = open_folder(), simple_state(mesh, size=100_000)
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)
    step = jax.jit(lambda state: jax.tree.map(lambda a: a + 1, state), donate_argnums=0)
    checkpoints.save(1, state, {})
    for _ in range(3):
        state = step(state)
    restored, _ = checkpoints.restore(checkpoints.latest(), like)
    assert_same(restored, simple_state(mesh, size=100_000))
    # What was restored may be donated too.
    assert_same(step(restored).params["w"], np.full((100_000, 4), 2, np.float32))


def test_only_the_latest_are_kept(open_folder, mesh, tmp_path):
    checkpoints = open_folder(keep=2)
    for step in (1, 2, 5, 9):
        checkpoints.save(step, simple_state(mesh, value=step), {})
    checkpoints.finish()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["5", "9"]


def test_a_step_that_is_there_stays_as_it_is(open_folder, mesh):
    checkpoints = open_folder()
    checkpoints.save(1, simple_state(mesh), {"first": True})
    checkpoints.save(1, simple_state(mesh, value=2.0), {"first": False})
    state, position = checkpoints.restore(checkpoints.latest(), simple_state(mesh))
    assert_same(state, simple_state(mesh))
    assert position == {"first": True}


def test_a_checkpoint_of_another_model_is_refused_when_the_folder_is_opened(open_folder, mesh, tmp_path):
    checkpoints = open_folder()
    checkpoints.save(3, simple_state(mesh), {})
    checkpoints.finish()
    with pytest.raises(InputError) as caught:
        open_folder(meta=META | {"model": "sha of another"})
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'checkpoints'}: the checkpoint of step 3 is not of this run:",
        "  its model is sha of the model, this run's is sha of another.",
        "  Give the run a folder of its own, or what the checkpoint was made with.",
    ]


def test_a_checkpoint_of_another_architecture_or_optimizer_is_refused_by_name(open_folder, mesh, tmp_path):
    checkpoints = open_folder()
    checkpoints.save(3, simple_state(mesh), {})
    other = simple_state(mesh, size=6)._replace(opt_state=())
    with pytest.raises(InputError) as caught:
        checkpoints.restore(checkpoints.latest(), other)
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'checkpoints'}: the checkpoint of step 3 is of another architecture or optimizer:",
        "  opt_state.0: found float32[4, 4]; this run has nothing.",
        "  params.w: found float32[4, 4]; this run has float32[6, 4].",
    ]


def test_a_save_that_fails_leaves_the_one_before(open_folder, mesh):
    checkpoints = open_folder()
    checkpoints.save(1, simple_state(mesh), {"step": 1})
    assert checkpoints.latest() == 1
    noise = jax.random.normal(jax.random.key(0), (100_000, 4))
    large = simple_state(mesh)._replace(params={"w": jax.device_put(noise, replicated(mesh))})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow past 200 kB: as a full disk, the system refuses in the middle of the arrays.
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OutputError, match=r"a checkpoint could not be written .*File too large"):
            checkpoints.save(2, large, {"step": 2})
            checkpoints.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = open_folder()
    assert again.latest() == 1
    assert again.restore(1, simple_state(mesh))[1] == {"step": 1}


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import jax, numpy as np
    from jaxfc.checkpoint import Checkpoints
    from jaxfc.sharding import make_mesh, replicated
    from jaxfc.types import TrainState

    def state(step):
        everywhere = replicated(make_mesh((1, 1, 1), jax.devices()[:1]))
        noise = np.random.default_rng(step).normal(size=(50, 10_000)).astype(np.float32)
        return TrainState(*jax.device_put((np.int32(step), {"w": noise}, ()), everywhere))

    checkpoints = Checkpoints(Path(sys.argv[1]), keep=1, meta={})
    checkpoints.save(1, state(1), {"step": 1})
    checkpoints.latest()
    rename = os.rename

    def die_before_it_counts(source, target, **options):
        # The last moment at which step 2 is not yet there: all of it is written, under another name.
        if Path(target).name == "2":
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target, **options)

    os.rename = os.replace = die_before_it_counts
    checkpoints.save(2, state(2), {"step": 2})
    checkpoints.finish()
"""


def test_a_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(tmp_path, mesh):
    folder = tmp_path / "checkpoints"
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), folder], env=os.environ, timeout=300)
    assert done.returncode == -signal.SIGKILL
    left = {path.name for path in folder.iterdir()}
    assert "1" in left and "2" not in left and len(left) == 2, left

    checkpoints = Checkpoints(folder, keep=1, meta={})
    assert checkpoints.latest() == 1
    noise = np.random.default_rng(1).normal(size=(50, 10_000)).astype(np.float32)
    state = TrainState(*jax.device_put((np.int32(1), {"w": noise}, ()), replicated(mesh)))
    restored, position = checkpoints.restore(1, state)
    assert_same(restored, state)
    assert position == {"step": 1}
    # What the killed save left behind is in nobody's way.
    checkpoints.save(2, state, {"step": 2})
    checkpoints.finish()
    assert [path.name for path in folder.iterdir()] == ["2"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/checkpoints"):
        Checkpoints(tmp_path / "file" / "checkpoints", keep=1, meta={})


def test_without_a_distributed_service_nothing_is_about_to_be_taken(open_folder):
    assert open_folder().reached_preemption(1) is False
