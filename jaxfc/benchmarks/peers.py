"""Other stacks on the same weights and the same workload: google-tunix, and transformers on PyTorch.

None of them is a dependency; each is imported when it is asked for.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfc.command import InputError
from jaxfc.models.network import DecoderConfig

NO_TOKEN = -1
"""A token that is never drawn, for peers that must have one to stop at or to pad with."""

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""As many as XLA takes: one for each core that this process may use."""


@runtime_checkable
class Peer(Protocol):
    """A stack that samples from a model directory."""

    packages: tuple[str, ...]
    """Whose versions are reported."""
    options: dict[str, Any]
    """What was set, besides the workload."""

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Of every position, [N, S] -> [N, S, V] in float32."""

    def sample(
        self, prompts: np.ndarray, *, group_size: int, new_tokens: int, temperature: float, seed: int
    ) -> np.ndarray:
        """Completions [P * G, T] of prompts [P, S], prompt-major; all have T tokens."""


class PeerTraining(NamedTuple):
    """How a peer that trains does so."""

    temperature: float
    """At which log-probabilities are taken."""
    optimizer: optax.GradientTransformation
    remat: Literal["none", "block", "decoder"] = "none"
    """What is recomputed in the backward pass."""


NO_TRAINING = PeerTraining(1.0, optax.identity())
"""For peers that only sample."""


class GroupBatch(NamedTuple):
    """What an update needs where prompt and completion are one row, B = P * G of them."""

    prompts: np.ndarray
    """[B, S]"""
    completions: np.ndarray
    """[B, T]"""
    old_logprobs: Any
    """[B, T]"""
    reference_logprobs: Any
    """[B, T]"""
    advantages: np.ndarray
    """[B]"""


@runtime_checkable
class TrainingPeer(Peer, Protocol):
    """A stack that trains too."""

    def score(self, prompts: np.ndarray, completions: np.ndarray) -> jax.Array:
        """Log-probabilities [B, T] of completions under the weights as they were loaded."""

    def update(self, batch: GroupBatch) -> Any:
        """Change the policy; what it returns is ready when the policy is."""

    def policy_score(self, prompts: np.ndarray, completions: np.ndarray) -> jax.Array:
        """Log-probabilities [B, T] of completions under the policy as it is now."""


class Transformers:
    """`Qwen2ForCausalLM.generate` on PyTorch, with its key-value cache and its scaled-dot-product attention."""

    packages = ("transformers", "torch")

    def __init__(self, folder: Path, *, compute: str):
        """Load the model that is in `folder`; on a GPU where PyTorch has one."""
        import torch
        import transformers

        torch.set_num_threads(THREADS)
        self._torch, self._transformers = torch, transformers
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.options = {"attn_implementation": "sdpa", "dtype": compute, "threads": THREADS, "device": self._device}
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[compute]
        model = transformers.Qwen2ForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
        self._model = model.eval().to(self._device)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Of every position."""
        with self._torch.inference_mode():
            return self._model(self._place(tokens)).logits.float().cpu().numpy()

    def sample(
        self, prompts: np.ndarray, *, group_size: int, new_tokens: int, temperature: float, seed: int
    ) -> np.ndarray:
        """Completions; no token ends one."""
        torch = self._torch
        torch.manual_seed(seed)
        drawing = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        config = self._transformers.GenerationConfig(
            **(drawing if temperature else {"do_sample": False}),
            max_new_tokens=new_tokens,
            use_cache=True,
            eos_token_id=None,
            pad_token_id=0,
        )
        inputs = self._place(np.repeat(prompts, group_size, axis=0))
        with torch.inference_mode():
            rows = self._model.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=config)
        return rows[:, prompts.shape[1] :].cpu().numpy()

    def _place(self, tokens: np.ndarray):
        return self._torch.from_numpy(np.asarray(tokens, np.int64)).to(self._device)


class _Numbered:
    """A tokenizer whose texts are numbers of prompts: what the peer encodes costs nothing and is exactly the prompt."""

    def __init__(self, prompts: np.ndarray):
        self.prompts = prompts

    def encode(self, text: str, **_) -> list[int]:
        return self.prompts[int(text)].tolist()

    def decode(self, ids, **_) -> str:
        return ""

    def bos_id(self) -> None:
        return None

    def eos_id(self) -> int:
        return NO_TOKEN

    def pad_id(self) -> int:
        return NO_TOKEN


class Tunix:
    """google-tunix: its Qwen2, its Sampler, its GRPO loss and its trainer's compiled step, on one device."""

    packages = ("google-tunix", "qwix")

    def __init__(
        self,
        folder: Path,
        config: DecoderConfig,
        *,
        compute: str,
        training: PeerTraining,
    ):
        """Load the model that is in `folder` into a policy and a frozen reference."""
        from tunix.models.qwen2.model import ModelConfig, RematConfig
        from tunix.models.qwen2.params import create_model_from_safe_tensors
        from tunix.rl.grpo.grpo_learner import GRPOConfig

        self._config = ModelConfig(
            num_layers=config.layers,
            vocab_size=config.vocab_size,
            embed_dim=config.width,
            hidden_dim=config.hidden_width,
            num_heads=config.heads,
            head_dim=config.head_width,
            num_kv_heads=config.kv_heads,
            rope_theta=int(config.rope_theta),
            norm_eps=config.norm_epsilon,
            use_tied_embedding=config.tied,
            dtype=jnp.dtype(compute),
        )
        # Its sampler cannot run a model that recomputes.
        trained = dataclasses.replace(self._config, remat_config=RematConfig[training.remat.upper()])
        self._load = lambda config: create_model_from_safe_tensors(str(folder), config, dtype=jnp.float32)
        self._policy, self._optimizer = self._load(trained), training.optimizer
        self._grpo = GRPOConfig(kl_loss_mode="low_var_kl")
        # Its learner sets this from the rollout's settings.
        self._grpo.temperature = training.temperature
        self._reference = self._sampler = self._step = None
        self.options = {
            "remat": training.remat,
            "cache_size": "prompt + completion",
            "return_logprobs": False,
            "cache_nnx_graph": True,
            "beta": self._grpo.beta,
            "loss_agg_mode": self._grpo.loss_agg_mode,
        }

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Of every position."""
        length = tokens.shape[1]
        positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
        mask = jnp.broadcast_to(jnp.tri(length, dtype=bool), (len(tokens), length, length))
        return np.asarray(self._policy(jnp.asarray(tokens), positions, None, mask)[0], np.float32)

    def sample(
        self, prompts: np.ndarray, *, group_size: int, new_tokens: int, temperature: float, seed: int
    ) -> np.ndarray:
        """Completions, by the Sampler with a cache of exactly the room that is needed."""
        from flax import nnx

        room = prompts.shape[1] + new_tokens
        if self._sampler is None or self._sampler.cache_config.cache_size != room:
            self._sampler = self._make_sampler(prompts, room)
        self._sampler.transformer_state = nnx.variables(self._policy, nnx.Param)
        self._sampler.tokenizer._tokenizer.prompts = prompts
        out = self._sampler(
            [str(number) for number in np.repeat(np.arange(len(prompts)), group_size)],
            max_generation_steps=new_tokens,
            max_prompt_length=prompts.shape[1],
            temperature=temperature,
            top_p=1.0 if temperature else None,
            eos_tokens=[NO_TOKEN],
            seed=seed,
        )
        return np.stack(out.tokens)

    def score(self, prompts: np.ndarray, completions: np.ndarray) -> jax.Array:
        """Under the frozen reference."""
        if self._reference is None:
            self._reference = self._load(self._config)
        return self._score(self._reference, prompts, completions)

    def policy_score(self, prompts: np.ndarray, completions: np.ndarray) -> jax.Array:
        """Under the policy as it is now."""
        return self._score(self._policy, prompts, completions)

    def update(self, batch: GroupBatch) -> Any:
        """The trainer's compiled step: GRPO loss, gradient, optimizer."""
        from tunix.rl.grpo.grpo_learner import TrainExample

        if self._step is None:
            self._step = self._make_step()
        example = TrainExample(
            prompt_ids=jnp.asarray(batch.prompts),
            prompt_mask=jnp.ones(batch.prompts.shape, bool),
            completion_ids=jnp.asarray(batch.completions),
            completion_mask=jnp.ones(batch.completions.shape, bool),
            advantages=jnp.asarray(batch.advantages),
            ref_per_token_logps=jnp.asarray(batch.reference_logprobs),
            old_per_token_logps=jnp.asarray(batch.old_logprobs),
        )
        loss, _, norm = self._step(example)
        return loss, norm, jax.tree.leaves(self._policy_state())

    def _policy_state(self):
        from flax import nnx

        return nnx.state(self._policy, nnx.Param)

    def _make_sampler(self, prompts: np.ndarray, room: int):
        from tunix.generate.sampler import CacheConfig, Sampler

        c = self._config
        cache = CacheConfig(cache_size=room, num_layers=c.num_layers, num_kv_heads=c.num_kv_heads, head_dim=c.head_dim)
        return Sampler(self._load(c), _Numbered(prompts), cache)

    def _score(self, model, prompts: np.ndarray, completions: np.ndarray) -> jax.Array:
        from flax import nnx
        from tunix.rl.common import compute_per_token_logps

        return compute_per_token_logps(
            *nnx.split(model),
            prompt_tokens=jnp.asarray(prompts),
            completion_tokens=jnp.asarray(completions),
            pad_id=NO_TOKEN,
            eos_id=NO_TOKEN,
            temperature=self._grpo.temperature,
        )

    def _make_step(self) -> Callable[[Any], Any]:
        from tunix.rl.algo_core import grpo_loss_fn
        from tunix.sft.peft_trainer import PeftTrainer, TrainingConfig

        def loss_fn(model, train_example, algo_config):
            return grpo_loss_fn(model, train_example, algo_config, pad_id=NO_TOKEN, eos_id=NO_TOKEN)

        trainer = PeftTrainer(self._policy, self._optimizer, TrainingConfig(eval_every_n_steps=10**9))
        trainer.with_loss_fn(loss_fn, has_aux=True)
        trainer.with_gen_model_input_fn(lambda example: {"train_example": example, "algo_config": self._grpo})
        return trainer.jit_train_and_eval_step(cache_nnx_graph=True)[0]


def open_peers(
    names: Sequence[str],
    folder: Path,
    config: DecoderConfig,
    *,
    compute: str,
    training: PeerTraining,
) -> dict[str, Peer]:
    """The peers of these names, each with the weights that are in `folder`.

    Raises:
        InputError: a peer is not known, or is not installed.
    """
    peers: dict[str, Peer] = {}
    for name in names:
        match name:
            case "transformers":
                _require("torch", "transformers", "torch")
                peers[name] = Transformers(folder, compute=compute)
            case "tunix":
                _require("tunix", "tunix", "google-tunix")
                peers[name] = Tunix(folder, config, compute=compute, training=training)
    return peers


def _require(module: str, peer: str, package: str):
    if importlib.util.find_spec(module) is None:
        raise InputError(f"command line: --peer {peer} needs the package {package}, which is not installed here.")
