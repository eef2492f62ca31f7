"""Make tests/golden/peer_losses.npz: what public implementations compute on the inputs of losses.npz.

python tests/golden/make_peer_losses.py     (needs torch, trl, verl and google-tunix, none of which jaxfc needs)

Each loss is run as its library defines it, in float32, and stored with its gradient for the log-probabilities. Where a
library's choice differs from the paper's, the name of the case says so, and the test says what jaxfc does instead.
"""

import collections
import functools
import importlib.metadata
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np

GOLDEN = Path(__file__).parent
FILE = GOLDEN / "peer_losses.npz"
PACKAGES = ("trl", "verl", "google-tunix", "torch", "jax")
VOCABULARY = 5


def make_inputs() -> dict[str, np.ndarray]:
    """Those of the formulas, and their mask as numbers."""
    inputs = runpy.run_path(str(GOLDEN / "make_losses.py"))["make_inputs"]()
    tokens = inputs["old"].shape[1]
    inputs["mask"] = (np.arange(tokens) < inputs["lengths"][:, None]).astype(np.float32)
    return inputs


def verl_cases(inputs: dict[str, np.ndarray]):
    import torch
    from verl.trainer.ppo import core_algos, rollout_corr_helper
    from verl.workers.config import ActorConfig, PolicyLossConfig

    data = {name: torch.tensor(value) for name, value in inputs.items()}
    mask, size = data["mask"], inputs["rewards"].shape[1]
    per_row = data["advantages"][:, None].expand_as(mask)
    groups = np.repeat(np.arange(len(inputs["rewards"])), size)
    rewards, ones = data["rewards"].reshape(-1, 1), torch.ones(inputs["rewards"].size, 1)

    def settings(mode, **changed):
        config = ActorConfig(
            strategy="fsdp",
            rollout_n=size,
            ppo_micro_batch_size_per_gpu=1,
            loss_agg_mode=mode,
            clip_ratio=0.2,
            **changed,
        )
        return {"loss_agg_mode": mode, "config": config}

    def with_gradient(function, advantages, mode, **changed):
        new = data["new"].clone().requires_grad_()
        loss, _ = function(data["old"], new, advantages, mask, **settings(mode, **changed))
        loss.backward()
        return loss.detach().numpy(), new.grad.numpy()

    estimators = {
        "group_ddof1": functools.partial(core_algos.compute_grpo_outcome_advantage, norm_adv_by_std_in_grpo=True),
        "centred": functools.partial(core_algos.compute_grpo_outcome_advantage, norm_adv_by_std_in_grpo=False),
        "leave_one_out": core_algos.compute_rloo_outcome_advantage,
    }
    for name, function in estimators.items():
        yield name, function(rewards.clone(), ones, groups)[0].reshape(inputs["rewards"].shape).numpy()

    clip = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28}
    narrow = {"clip_ratio_low": 0.05, "clip_ratio_high": 0.08}
    cov = PolicyLossConfig(clip_cov_ratio=1.0, clip_cov_lb=0.3, clip_cov_ub=1.5, kl_cov_ratio=0.2, ppo_kl_coef=0.7)
    per_token, vanilla = data["token_advantages"], core_algos.compute_policy_loss_vanilla
    sums = "seq-mean-token-sum"
    for name, given in {
        "dual_token_mean": (vanilla, per_token, "token-mean", {**clip, "clip_ratio_c": 1.5}),
        "clipped_sequence_mean": (vanilla, per_token, "seq-mean-token-mean", {**clip, "clip_ratio_c": 1e9}),
        "clipped_constant": (vanilla, per_token, "seq-mean-token-sum-norm", {**clip, "clip_ratio_c": 1e9}),
        "gspo_token": (core_algos.compute_policy_loss_gspo, per_row, "seq-mean-token-mean", narrow),
        "cispo": (core_algos.compute_policy_loss_cispo, per_token, "token-mean", clip),
        "reinforce": (core_algos.compute_policy_loss_reinforce, per_token, sums, {}),
        "clip_cov": (core_algos.compute_policy_loss_clip_cov, per_token, "token-mean", {**clip, "policy_loss": cov}),
        "kl_cov": (core_algos.compute_policy_loss_kl_cov, per_token, "token-mean", {"policy_loss": cov}),
    }.items():
        function, advantages, mode, changed = given
        yield name, *with_gradient(function, advantages, mode, **changed)

    for name in ("k1", "k2", "k3"):
        new = data["new"].clone().requires_grad_()
        kl = core_algos.kl_penalty(new, data["reference"], name) * mask
        kl.sum().backward()
        yield name, kl.detach().numpy(), new.grad.numpy()
    for name, threshold in (("truncated", "1.3"), ("masked", "0.7_1.4")):
        for level in ("token", "sequence"):
            weights, _ = rollout_corr_helper.compute_rollout_correction_weights(
                data["old"] - data["sampler"], mask, rollout_is=level, rollout_is_threshold=threshold
            )
            yield f"{level}_{name}", (weights * mask).numpy()


def trl_cases(inputs: dict[str, np.ndarray]):
    import torch
    from trl.rewards import get_soft_overlong_punishment
    from trl.trainer.grpo_trainer import GRPOTrainer

    data = {name: torch.tensor(value) for name, value in inputs.items()}
    rows, tokens = inputs["old"].shape
    ids = torch.zeros(rows, tokens, dtype=torch.long)

    def loss_of(name, advantages, **changed):
        new, entropies = (data[k].clone().requires_grad_() for k in ("new", "entropies"))
        same = SimpleNamespace(
            gather=lambda x: x,
            gather_for_metrics=lambda x: x,
            reduce=lambda x, **_: x,
            pad_across_processes=lambda x, **_: x,
            num_processes=1,
            sync_gradients=True,
        )
        options = {"delta": None, "use_bias_correction_kl": False, "steps_per_generation": 1} | changed.pop("args", {})
        trainer = SimpleNamespace(
            accelerator=same,
            args=SimpleNamespace(**options),
            model=SimpleNamespace(training=True),
            _metrics={"train": collections.defaultdict(list)},
            _get_per_token_logps_and_entropies=lambda *_, **__: (new, entropies, None),
            aux_loss_enabled=False,
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            importance_sampling_level="token",
            beta=0.0,
            loss_type=name,
            epsilon_low=0.2,
            epsilon_high=0.28,
            use_vllm=False,
            vllm_importance_sampling_correction=False,
            current_gradient_accumulation_steps=1,
            max_completion_length=tokens,
            _entropy_bonus_enabled=False,
            use_adaptive_entropy=False,
        )
        trainer.get_high_entropy_mask = functools.partial(GRPOTrainer.get_high_entropy_mask, trainer)
        vars(trainer).update(changed)
        batch = {
            "prompt_ids": ids[:, :0],
            "prompt_mask": ids[:, :0],
            "completion_ids": ids,
            "completion_mask": data["mask"].long(),
            "advantages": advantages,
            "old_per_token_logps": data["old"],
            "ref_per_token_logps": data["reference"],
            "num_items_in_batch": data["mask"].sum(),
            "importance_sampling_ratio": (data["old"] - data["sampler"]).exp().clamp(max=1.3),
        }
        loss = GRPOTrainer._compute_loss(trainer, None, batch)
        loss.backward()
        entropy = np.zeros_like(inputs["new"]) if entropies.grad is None else entropies.grad.numpy()
        return loss.detach().numpy(), new.grad.numpy(), entropy

    per_row, per_token = data["advantages"], data["token_advantages"]
    narrow = {"importance_sampling_level": "sequence", "epsilon_low": 0.05, "epsilon_high": 0.08}
    corrected = {"use_vllm": True, "vllm_importance_sampling_correction": True}
    for name, (kind, advantages, changed) in {
        "grpo_kl": ("grpo", per_row, {"beta": 0.1}),
        "dapo_dual": ("dapo", per_token, {"args": {"delta": 1.5}}),
        "dr_grpo": ("dr_grpo", per_token, {}),
        "gspo": ("grpo", per_row, narrow),
        "cispo_without_lower_bound": ("cispo", per_token, {"epsilon_high": 1.28}),
        "high_entropy_tokens": ("dapo", per_token, {"top_entropy_quantile": 0.4, "beta": 0.1}),
        "entropy_bonus": ("dapo", per_token, {"_entropy_bonus_enabled": True, "entropy_coef": 0.3}),
        "truncated_importance": ("dapo", per_token, {**corrected, "beta": 0.1}),
    }.items():
        yield name, *loss_of(kind, advantages, **changed)
    punish = get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
    lengths = inputs["overlong_lengths"]
    yield "overlong", np.array(punish([[0] * length for length in lengths]), np.float32)


def tunix_cases(inputs: dict[str, np.ndarray]):
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from tunix.rl import algo_core, common

    rewards, mask = inputs["rewards"], jnp.asarray(inputs["mask"])
    for name, function in {
        "group_ddof1": algo_core.compute_advantages,
        "centred": algo_core.compute_drgrpo_advantages,
        "leave_one_out": algo_core.compute_rloo_advantages,
    }.items():
        yield name, np.asarray(function(rewards.reshape(-1), rewards.shape[1])).reshape(rewards.shape)

    for name, method in (("k1", "kl"), ("k2", "mse_kl"), ("k3", "low_var_kl")):

        def kl(new, method=method):
            return common.compute_kl_divergence(new, inputs["reference"], method) * mask

        new = jnp.asarray(inputs["new"])
        yield name, np.asarray(kl(new)), np.asarray(jax.grad(lambda new, kl=kl: kl(new).sum())(new))

    def loss_of(advantages, **changed):
        settings = {"loss_algo": "grpo", "beta": 0.0, "epsilon": 0.2, "epsilon_high": 0.28, "epsilon_c": None}
        settings |= {"temperature": 1.0, "kl_loss_mode": "low_var_kl", "kl_clamp_value": None} | changed
        example = SimpleNamespace(
            completion_ids=jnp.zeros(mask.shape, jnp.int32),
            completion_mask=mask,
            prompt_ids=jnp.zeros((len(mask), 1), jnp.int32),
            advantages=advantages,
            old_per_token_logps=inputs["old"],
            ref_per_token_logps=inputs["reference"],
        )

        def loss(new):
            # The loss asks the model for log-probabilities; here they are the variable.
            common.compute_per_token_logps = lambda *_, **__: (new, jnp.zeros((*mask.shape, VOCABULARY)))
            return algo_core.grpo_loss_fn(nnx.Dict(), example, SimpleNamespace(**settings), 0, 0)[0]

        value, gradient = jax.value_and_grad(loss)(jnp.asarray(inputs["new"]))
        return np.asarray(value), np.asarray(gradient)

    narrow = {"loss_algo": "gspo-token", "epsilon": 0.05, "epsilon_high": 0.08}
    per_row, per_token = inputs["advantages"], inputs["token_advantages"]
    for name, (advantages, mode, changed) in {
        "kl_token_mean": (per_row, "token-mean", {"beta": 0.1}),
        "dual_kl_token_mean": (per_token, "token-mean", {"beta": 0.1, "epsilon_c": 1.5}),
        "clipped_sequence_mean": (per_row, "sequence-mean-token-mean", {}),
        "clipped_constant": (per_token, "sequence-mean-token-scale", {}),
        "gspo_token": (per_token, "sequence-mean-token-mean", narrow),
    }.items():
        yield name, *loss_of(advantages, loss_agg_mode=mode, **changed)


def main():
    """Write the file."""
    inputs = make_inputs()
    arrays = {f"in/{name}": value for name, value in inputs.items()}
    for peer, cases in (("verl", verl_cases), ("trl", trl_cases), ("tunix", tunix_cases)):
        for name, value, *gradients in cases(inputs):
            arrays[f"{peer}/{name}"] = value
            for wrt, gradient in zip(("gradient", "entropy_gradient"), gradients, strict=False):
                arrays[f"{peer}/{name}/{wrt}"] = gradient
    versions = [f"{package} {importlib.metadata.version(package)}" for package in PACKAGES]
    np.savez_compressed(FILE, versions=np.array(versions), **arrays)
    print("\n".join(versions), f"{len(arrays)} arrays", sep="\n")


if __name__ == "__main__":
    main()
