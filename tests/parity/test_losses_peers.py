"""Advantages, losses and gradients against what TRL, verl and Tunix compute on the same inputs.

Where a library departs from the paper or from the others, the case says what jaxfc does instead:

- TRL's mean over completions counts empty ones, verl's and Tunix's do not; ours takes the count from the caller.
- TRL's CISPO clips at `epsilon_high` itself and has no lower bound; ours at 1 + clip_high and 1 - clip_low, as verl and
  the paper do.
- TRL's `delta` bounds the ratio at either sign of the advantage; above 1 + clip_high that is the dual clip.
- TRL's high-entropy tokens reach an interpolated quantile, 1 + floor(fraction (N - 1)) of them; ours are
  floor(fraction N). 0.4 of 53 tokens is 21 either way.
- TRL's entropy bonus is a mean over tokens whatever the policy's mean is; ours takes the weights of the loss.
- verl and Tunix clamp log-ratios to +-20, and so do we; verl also clamps the k3 of a token to 10, and we do not.
- verl's Clip-Cov and KL-Cov rank by the log-probabilities of the update, Clip-Cov leaves out tokens that PPO's clip
  already holds; ours is given the tokens, and here it is given those.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.advantages import centred_advantages, group_advantages, leave_one_out_advantages, overlong_penalty
from jaxfc.aggregation import constant_weights, sequence_mean_weights, token_mean_weights
from jaxfc.importance import masked, sequence_ratios, token_ratios, truncated
from jaxfc.kl import k1_kl, k2_kl, k3_kl
from jaxfc.losses import (
    cispo_terms,
    clip_cov_terms,
    clipped_policy_terms,
    gspo_terms,
    gspo_token_terms,
    kl_cov_terms,
    policy_loss,
    reinforce_terms,
    weighted_loss,
)
from jaxfc.selection import covariances, random_between, top_fraction

FILE = np.load(Path(__file__).parent.parent / "golden" / "peer_losses.npz")
IN = {name.removeprefix("in/"): jnp.asarray(FILE[name]) for name in FILE if name.startswith("in/")}
MASK = IN["mask"] > 0
OLD, REFERENCE, PER_TOKEN = IN["old"], IN["reference"], IN["token_advantages"]
PER_ROW = jnp.broadcast_to(IN["advantages"][:, None], MASK.shape)
TOKENS, ROWS, SEQUENCES = MASK.sum(), len(MASK), MASK.any(axis=1).sum()
TOKEN_MEAN = token_mean_weights(MASK, tokens=TOKENS)
SEQUENCE_MEAN = sequence_mean_weights(MASK, sequences=SEQUENCES)
SEQUENCE_MEAN_OF_ALL = sequence_mean_weights(MASK, sequences=ROWS)

CLIP = {"clip_low": 0.2, "clip_high": 0.28}
NARROW = {"clip_low": 0.05, "clip_high": 0.08}


def clipped(new, advantages=PER_TOKEN, **changed):
    return clipped_policy_terms(new, OLD, advantages, MASK, **CLIP | changed)


def verls_clip_cov(new):
    _, parts = clipped(new)
    values = covariances(new, PER_TOKEN, MASK)
    chosen = random_between(jax.random.key(0), values, MASK, fraction=1.0, low=0.3, high=1.5)
    return clip_cov_terms(new, OLD, PER_TOKEN, MASK, chosen & (parts["loss/clip_fraction"] == 0), **CLIP)


def verls_kl_cov(new):
    chosen = top_fraction(covariances(new, PER_TOKEN, MASK), MASK, fraction=0.2)
    return kl_cov_terms(new, OLD, PER_TOKEN, MASK, chosen, coefficient=0.7)


def loss_of(terms, weights, new, *, kl_coefficient=0.0):
    return weighted_loss(terms, weights, MASK, kl=k3_kl(new, REFERENCE, MASK), kl_coefficient=kl_coefficient)[0]


def high_entropy(new):
    terms, _ = clipped(new)
    terms *= top_fraction(IN["entropies"], MASK, fraction=0.4)
    return loss_of(terms, TOKEN_MEAN, new, kl_coefficient=0.1)


def truncated_importance(new):
    terms, _ = clipped(new)
    terms *= truncated(token_ratios(OLD, IN["sampler"], MASK), cap=1.3)
    return loss_of(terms, TOKEN_MEAN, new, kl_coefficient=0.1)


def grpo_by_policy_loss(new):
    settings = {**CLIP, "kl_coefficient": 0.1, "normalizer": TOKENS}
    return policy_loss(new, OLD, REFERENCE, IN["advantages"], MASK, **settings)[0]


CONSTANT = constant_weights(MASK, constant=MASK.size)
# verl and Tunix divide by the completions that have a token, TRL by all.
CONSTANT_OF_SEQUENCES = constant_weights(MASK, constant=SEQUENCES * MASK.shape[1])

LOSSES = {
    "verl/dual_token_mean": lambda new: loss_of(clipped(new, dual_clip=1.5)[0], TOKEN_MEAN, new),
    "verl/clipped_sequence_mean": lambda new: loss_of(clipped(new)[0], SEQUENCE_MEAN, new),
    "verl/clipped_constant": lambda new: loss_of(clipped(new)[0], CONSTANT_OF_SEQUENCES, new),
    "verl/gspo_token": lambda new: loss_of(gspo_token_terms(new, OLD, PER_ROW, MASK, **NARROW)[0], SEQUENCE_MEAN, new),
    "verl/cispo": lambda new: loss_of(cispo_terms(new, OLD, PER_TOKEN, MASK, **CLIP)[0], TOKEN_MEAN, new),
    "verl/reinforce": lambda new: loss_of(
        reinforce_terms(new, PER_TOKEN, MASK)[0], constant_weights(MASK, constant=SEQUENCES), new
    ),
    "verl/clip_cov": lambda new: loss_of(verls_clip_cov(new)[0], TOKEN_MEAN, new),
    "verl/kl_cov": lambda new: loss_of(verls_kl_cov(new)[0], TOKEN_MEAN, new),
    "trl/grpo_kl": lambda new: loss_of(clipped(new, PER_ROW)[0], SEQUENCE_MEAN_OF_ALL, new, kl_coefficient=0.1),
    "trl/dapo_dual": lambda new: loss_of(clipped(new, dual_clip=1.5)[0], TOKEN_MEAN, new),
    "trl/dr_grpo": lambda new: loss_of(clipped(new)[0], CONSTANT, new),
    "trl/gspo": lambda new: loss_of(gspo_terms(new, OLD, PER_ROW, MASK, **NARROW)[0], SEQUENCE_MEAN_OF_ALL, new),
    "trl/cispo_without_lower_bound": lambda new: loss_of(
        cispo_terms(new, OLD, PER_TOKEN, MASK, clip_low=1.0, clip_high=0.28)[0], TOKEN_MEAN, new
    ),
    "trl/high_entropy_tokens": high_entropy,
    "trl/truncated_importance": truncated_importance,
    "tunix/kl_token_mean": grpo_by_policy_loss,
    "tunix/dual_kl_token_mean": lambda new: loss_of(
        clipped(new, dual_clip=1.5)[0], TOKEN_MEAN, new, kl_coefficient=0.1
    ),
    "tunix/clipped_sequence_mean": lambda new: loss_of(clipped(new, PER_ROW)[0], SEQUENCE_MEAN, new),
    "tunix/clipped_constant": lambda new: loss_of(clipped(new)[0], CONSTANT_OF_SEQUENCES, new),
    "tunix/gspo_token": lambda new: loss_of(
        gspo_token_terms(new, OLD, PER_TOKEN, MASK, **NARROW)[0], SEQUENCE_MEAN, new
    ),
}
KLS = {"k1": k1_kl, "k2": k2_kl, "k3": k3_kl}
ADVANTAGES = {
    "group_ddof1": group_advantages,
    "centred": centred_advantages,
    "leave_one_out": leave_one_out_advantages,
}
RATIOS = {"token": token_ratios, "sequence": sequence_ratios}
COMPARED_APART = {"trl/entropy_bonus", "trl/overlong"}


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_agree(name):
    loss, gradient = jax.jit(jax.value_and_grad(LOSSES[name]))(IN["new"])
    close(loss, FILE[name])
    close(gradient, FILE[f"{name}/gradient"])


@pytest.mark.parametrize("peer", ["verl", "tunix"])
@pytest.mark.parametrize("name", KLS)
def test_kl_estimates_and_their_gradients_agree(peer, name):
    close(KLS[name](IN["new"], REFERENCE, MASK), FILE[f"{peer}/{name}"])
    gradient = jax.grad(lambda new: KLS[name](new, REFERENCE, MASK).sum())(IN["new"])
    close(gradient, FILE[f"{peer}/{name}/gradient"])


@pytest.mark.parametrize("peer", ["verl", "tunix"])
@pytest.mark.parametrize("name", ADVANTAGES)
def test_advantages_agree(peer, name):
    close(ADVANTAGES[name](IN["rewards"]), FILE[f"{peer}/{name}"])


@pytest.mark.parametrize("level", RATIOS)
def test_importance_weights_agree(level):
    ratios = RATIOS[level](OLD, IN["sampler"], MASK)
    close(truncated(ratios, cap=1.3), FILE[f"verl/{level}_truncated"])
    close(masked(ratios, low=0.7, high=1.4), FILE[f"verl/{level}_masked"])


def test_entropy_bonus_agrees():
    def loss(new, entropies):
        return weighted_loss(clipped(new)[0], TOKEN_MEAN, MASK, entropies=entropies, entropy_coefficient=0.3)[0]

    value, (gradient, entropy_gradient) = jax.value_and_grad(loss, (0, 1))(IN["new"], IN["entropies"])
    close(value, FILE["trl/entropy_bonus"])
    close(gradient, FILE["trl/entropy_bonus/gradient"])
    close(entropy_gradient, FILE["trl/entropy_bonus/entropy_gradient"])


def test_overlong_penalty_agrees():
    close(overlong_penalty(IN["overlong_lengths"], max_tokens=100, buffer=20), FILE["trl/overlong"])


def test_every_stored_case_is_compared():
    stored = {name for name in FILE if not name.startswith("in/") and not name.endswith("gradient")} - {"versions"}
    by_peer = {f"{peer}/{name}" for peer in ("verl", "tunix") for name in (*KLS, *ADVANTAGES)}
    weights = {f"verl/{level}_{kind}" for level in RATIOS for kind in ("truncated", "masked")}
    assert stored == set(LOSSES) | by_peer | weights | COMPARED_APART
