"""A whole RL step, from prompts to parameters, on several meshes; process 0 writes what came out to a file."""

import sys

import jax
import numpy as np
import optax

from jaxfc.algorithm import Algorithm
from jaxfc.credit import make_credit
from jaxfc.decoding import make_steps
from jaxfc.draws import make_sampling
from jaxfc.learner import make_policy_step, make_score, make_state, train_batch
from jaxfc.models.decoder import Decoder
from jaxfc.processes import exchange, joined
from jaxfc.sampler import make_sampler
from jaxfc.sharding import fetch, make_mesh, place_held, place_key, place_replicated, shardings, share_of

P, G, S, T = 8, 2, 9, 7
LENGTHS = (9, 1, 4, 7, 2, 9, 5, 3)
REWARDS = np.arange(P * G, dtype=np.float32).reshape(P, G) ** 2 % 7 % 2
SGD = optax.sgd(0.5)
"""Its update is as exact as the gradient."""
MESHES = {"2x2x2": (2, 2, 2), "4x2x1": (4, 2, 1)}
"""On several processes the tensor axis of the first lies across them, and the rows of the second are not contiguous."""


def crossed_devices() -> list[jax.Device]:
    """All devices, in an order in which neighbours belong to different processes, wherever there are several."""
    half = len(jax.devices()) // 2
    return [jax.devices()[at // 2 + at % 2 * half] for at in range(2 * half)]


def placed(mesh, tree, axes):
    """Parameters that every process has, on the mesh."""

    def place(array, sharding):
        return jax.make_array_from_callback(array.shape, sharding, np.asarray(array).__getitem__)

    return jax.tree.map(place, tree, shardings(mesh, axes))


def step(mesh) -> dict[str, np.ndarray]:
    """The step as training makes it, with given rewards."""
    from tiny import DECODER, VOCABULARY, ragged_prompts, tiny_params  # Touches a device.

    decoder, algorithm = Decoder(DECODER.config, mesh=mesh), Algorithm(group_size=G, kl_coefficient=0.1)
    share, params = share_of(mesh, P), placed(mesh, tiny_params(), DECODER.axes)
    assert share.is_exclusive == (max(map(len, holders(share))) == 1)
    prompts = place_held(mesh, jax.tree.map(lambda a: np.asarray(a)[share.held], ragged_prompts(LENGTHS, S)))
    key = place_key(mesh, jax.random.key(4))
    sampling = make_sampling(temperature=0.7, stop_tokens=(0, 3, 5), max_tokens=T)
    sampling = place_replicated(mesh, sampling)
    sample = make_sampler(make_steps(decoder, mesh, group_size=G, length=T, vocabulary=VOCABULARY), mesh)
    handed = []
    rollouts, _ = sample(params, prompts, key, sampling, lambda rows, *_: handed.extend(rows.tolist()))
    assert sorted(handed) == list(range(len(share.held) * G))
    old = make_score(decoder, mesh, vocabulary=VOCABULARY)(params, rollouts, sampling)
    found = REWARDS[share.held], np.tile(np.arange(T) < 3, (len(share.held) * G, 1))
    rewards, cot = place_held(mesh, found)
    given = rewards, cot, rollouts.lengths, rollouts.scores, old, key
    credit, shaping = make_credit(algorithm, mesh)(*given)
    update = make_policy_step(decoder, SGD, algorithm, mesh, vocabulary=VOCABULARY)
    state, metrics = update(make_state(decoder, params, SGD, mesh), train_batch(rollouts, old, old, credit), sampling)
    seen = {"tokens": fetch(rollouts.tokens), "lengths": fetch(rollouts.lengths), "credit": fetch(credit.advantages)}
    whole = jax.jit(lambda tree: tree, out_shardings=jax.tree.map(lambda _: key.sharding, state.params))(state.params)
    weights = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(whole)}
    return seen | {name: np.asarray(value) for name, value in (shaping | metrics).items()} | weights


def holders(share) -> list[list[int]]:
    """For each row, the processes that hold it."""
    everywhere = exchange((share.held.tolist(), share.own.tolist()))
    own = [row for held, owns in everywhere for row, is_own in zip(held, owns, strict=True) if is_own]
    assert sorted(own) == list(range(P)), "each row is one process's own"
    return [[process for process, (held, _) in enumerate(everywhere) if row in held] for row in range(P)]


if __name__ == "__main__":
    with joined():
        results = {}
        for name in sys.argv[2:]:
            mesh = make_mesh(MESHES[name], crossed_devices())
            results |= {f"{name}/{key}": value for key, value in step(mesh).items()}
        if jax.process_index() == 0:
            np.savez(sys.argv[1], **results)
