from pathlib import Path

import numpy as np
import pytest
from launch import Processes
from step import MESHES, REWARDS

STEP = str(Path(__file__).with_name("step.py"))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Number of processes -> what their step made, by mesh and name."""
    folder, found = tmp_path_factory.mktemp("steps"), {}
    for count, meshes in ((1, MESHES), (2, MESHES), (4, ["2x2x2"])):
        with Processes([STEP, str(folder / f"{count}.npz"), *meshes], count) as processes:
            processes.succeeded()
        found[count] = dict(np.load(folder / f"{count}.npz"))
    return found


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_make_the_update_of_one(results, count):
    for name, value in results[count].items():
        if "kl/sampler" not in name:  # Rounding itself.
            np.testing.assert_allclose(value, results[1][name], rtol=1e-5, atol=1e-5, err_msg=name)
        if name.endswith("/tokens"):
            np.testing.assert_array_equal(value, results[1][name])


def test_the_step_has_something_to_learn_and_each_mesh_learns_the_same(results):
    one, other = ({key.split("/", 1)[1]: a for key, a in results[1].items() if key.startswith(mesh)} for mesh in MESHES)
    assert (REWARDS.max(axis=1) != REWARDS.min(axis=1)).sum() > 2 and one["optim/grad_norm"] > 0.01
    assert len(set(one["lengths"].tolist())) > 2
    for name in one.keys() - {"kl/sampler", "kl/sampler_max_gap"}:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5, err_msg=name)
