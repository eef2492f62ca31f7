"""The model, the prompts and our own programs of a benchmark."""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxfc.benchmarks.peers import NO_TOKEN, NO_TRAINING, Peer, PeerTraining, open_peers
from jaxfc.benchmarks.settings import ModelBenchmark
from jaxfc.config import Remat, Rollout
from jaxfc.decoding import make_steps
from jaxfc.draws import make_sampling
from jaxfc.engine import CACHE_TYPES
from jaxfc.logprobs import head_logits
from jaxfc.models.decoder import Decoder
from jaxfc.models.network import DecoderConfig
from jaxfc.models.presets import preset
from jaxfc.models.weights import save_model
from jaxfc.sampler import Effort, make_sampler
from jaxfc.sharding import make_mesh, place_rows, shardings
from jaxfc.types import Params, Prompts, Rollouts
from jaxfc.workspace import compute_dtype

PARITY = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest difference between two stacks' logits, as a part of the largest logit, at which they run the same model."""


class Subject(NamedTuple):
    """A model with random weights on its mesh."""

    config: DecoderConfig
    decoder: Decoder
    mesh: Mesh
    params: Params

    @property
    def compute(self) -> str:
        """Name of the type of matrix products."""
        return jnp.dtype(self.decoder.dtype).name


def decoder_config(settings: ModelBenchmark) -> DecoderConfig:
    """The architecture that the settings name or describe."""
    if settings.shape is None:
        return preset(settings.model)
    sizes = dataclasses.asdict(settings.shape)
    return DecoderConfig(vocab_size=sizes.pop("vocabulary"), **sizes)


def make_subject(settings: ModelBenchmark, *, weights: str = "float32", remat: Remat = "none") -> Subject:
    """Make random weights, each part on the device that keeps it."""
    config = decoder_config(settings)
    m = settings.mesh
    mesh = make_mesh((m.data, m.fsdp, m.tensor), jax.devices()[: m.data * m.fsdp * m.tensor])
    decoder = Decoder(config, dtype=compute_dtype(settings.compute), remat=remat, mesh=mesh)
    init = jax.jit(initial(decoder, weights), out_shardings=shardings(mesh, decoder.axes))
    return Subject(config, decoder, mesh, init(jax.random.key(settings.seed)))


def initial(decoder: Decoder, weights: str) -> Callable[[jax.Array], Params]:
    """Random parameters in the given type, biases and norms included: a slip in any of them shows in the logits."""

    def init(key: jax.Array) -> Params:
        leaves, tree = jax.tree.flatten(decoder.init(key))
        keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
        noisy = [leaf + 0.02 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
        return tree.unflatten([leaf.astype(weights) for leaf in noisy])

    return init


def random_tokens(settings: ModelBenchmark, rows: int, length: int, stream: int) -> np.ndarray:
    """[rows, length] tokens; another `stream` gives others."""
    vocabulary = decoder_config(settings).vocab_size
    return np.random.default_rng((settings.seed, stream)).integers(0, vocabulary, (rows, length)).astype(np.int32)


def full_prompts(subject: Subject, tokens: np.ndarray) -> Prompts:
    """Prompts without padding, on the mesh."""
    return place_rows(subject.mesh, Prompts(tokens, np.full(len(tokens), tokens.shape[1], np.int32)))


def make_rollout(
    subject: Subject, settings: Rollout, *, group_size: int, new_tokens: int
) -> Callable[[Params, Prompts, int, int], tuple[Rollouts, Effort]]:
    """Our sampler as `(params, prompts, run, limit) -> (Rollouts, Effort)` of exactly `limit` tokens each."""
    steps = make_steps(
        subject.decoder,
        subject.mesh,
        group_size=group_size,
        length=new_tokens,
        vocabulary=subject.config.vocab_size,
        slots=settings.slots,
        cache=CACHE_TYPES[settings.cache],
        drafts=settings.draft,
    )
    sample = make_sampler(steps, subject.mesh)
    cut = {"temperature": settings.temperature, "top_k": settings.top_k, "top_p": settings.top_p}

    def rollout(params: Params, prompts: Prompts, run: int, limit: int) -> tuple[Rollouts, Effort]:
        sampling = make_sampling(**cut, stop_tokens=(NO_TOKEN,), max_tokens=limit)
        return sample(params, prompts, jax.random.key(run), sampling)

    return rollout


@contextmanager
def peers_of(names: Sequence[str], subject: Subject, training: PeerTraining = NO_TRAINING) -> Iterator[dict[str, Peer]]:
    """The peers, with the subject's weights; each has been seen to compute the same logits."""
    if not names:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        model, nothing = Path(folder) / "model", Path(folder)
        save_model(model, subject.params, subject.config, nothing, subject.compute)
        peers = open_peers(names, model, subject.config, compute=subject.compute, training=training)
        for name, peer in peers.items():
            check_parity(name, peer, subject)
        yield peers


def check_parity(name: str, peer: Peer, subject: Subject):
    """Make sure that a peer runs the same model.

    Raises:
        RuntimeError: its logits of a few tokens are others than ours.
    """
    tokens = np.random.default_rng(0).integers(0, subject.config.vocab_size, (2, 24)).astype(np.int32)
    ours, theirs = own_logits(subject, tokens), peer.logits(tokens)[:, :-1]
    gap, size = np.abs(ours - theirs).max(), np.abs(ours).max()
    if not gap <= PARITY[subject.compute] * size:
        raise RuntimeError(f"{name} runs another model: its logits are up to {gap} off ours, which reach {size}.")


def own_logits(subject: Subject, tokens: np.ndarray) -> np.ndarray:
    """Logits that predict tokens[:, 1:], [N, S - 1, V] in float32."""

    @jax.jit
    def logits(params: Params, tokens: jax.Array):
        first = Prompts(tokens[:, :1], jnp.ones(len(tokens), jnp.int32))
        decoder = subject.decoder
        hidden = decoder.extend(params, tokens[:, 1:], decoder.encode(params, first))
        flat = head_logits(hidden.reshape(-1, hidden.shape[-1]), decoder.head(params))
        return flat.reshape(*hidden.shape[:2], -1)

    return np.asarray(logits(subject.params, jnp.asarray(tokens)))
