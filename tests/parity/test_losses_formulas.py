"""Advantages, losses and their gradients against the published formulas, computed in float64 by another program."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.advantages import (
    centred_advantages,
    group_advantages,
    leave_one_out_advantages,
    overlong_penalty,
    token_entropy_advantages,
    whitened_advantages,
)
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
    reinforce_terms,
)
from jaxfc.selection import covariances, random_between, top_fraction

GOLDEN = Path(__file__).parent.parent / "golden"
FILE = np.load(GOLDEN / "losses.npz")
IN = {name.removeprefix("in/"): jnp.asarray(FILE[name]) for name in FILE if name.startswith("in/")}
OUT = {name.removeprefix("out/"): FILE[name] for name in FILE if name.startswith("out/")}
MASK = jnp.arange(IN["old"].shape[1]) < IN["lengths"][:, None]
PER_ROW = jnp.broadcast_to(IN["advantages"][:, None], MASK.shape)
SELECTED = jnp.asarray(OUT["selected"])

CLIP = {"clip_low": 0.2, "clip_high": 0.28}
SEQUENCE_CLIP = {"clip_low": 0.05, "clip_high": 0.08}

SURROGATES = {
    "clipped": lambda new: clipped_policy_terms(new, IN["old"], IN["token_advantages"], MASK, **CLIP)[0],
    "dual": lambda new: clipped_policy_terms(new, IN["old"], IN["token_advantages"], MASK, **CLIP, dual_clip=1.5)[0],
    "gspo": lambda new: gspo_terms(new, IN["old"], PER_ROW, MASK, **SEQUENCE_CLIP)[0],
    "gspo_token": lambda new: gspo_token_terms(new, IN["old"], IN["token_advantages"], MASK, **SEQUENCE_CLIP)[0],
    "cispo": lambda new: cispo_terms(new, IN["old"], IN["token_advantages"], MASK, **CLIP)[0],
    "reinforce": lambda new: reinforce_terms(new, IN["token_advantages"], MASK)[0],
    "clip_cov": lambda new: clip_cov_terms(new, IN["old"], IN["token_advantages"], MASK, SELECTED, **CLIP)[0],
    "kl_cov": lambda new: kl_cov_terms(new, IN["old"], IN["token_advantages"], MASK, SELECTED, coefficient=0.7)[0],
    "k1": lambda new: k1_kl(new, IN["reference"], MASK),
    "k2": lambda new: k2_kl(new, IN["reference"], MASK),
    "k3": lambda new: k3_kl(new, IN["reference"], MASK),
}

VALUES = {
    "group_ddof1": lambda: group_advantages(IN["rewards"], ddof=1),
    "group_ddof0": lambda: group_advantages(IN["rewards"], ddof=0),
    "centred": lambda: centred_advantages(IN["rewards"]),
    "leave_one_out": lambda: leave_one_out_advantages(IN["rewards"]),
    "whitened": lambda: whitened_advantages(
        leave_one_out_advantages(IN["rewards"]), jnp.ones_like(IN["rewards"], bool)
    ),
    "overlong": lambda: overlong_penalty(IN["overlong_lengths"], max_tokens=100, buffer=20),
    "token_entropy": lambda: token_entropy_advantages(
        IN["token_advantages"], IN["entropies"], MASK, scale=0.4, cap=2.0
    ),
    "token_mean": lambda: token_mean_weights(MASK, tokens=MASK.sum()),
    "sequence_mean": lambda: sequence_mean_weights(MASK, sequences=MASK.any(axis=1).sum()),
    "constant": lambda: constant_weights(MASK, constant=MASK.size),
    "token_ratios": lambda: token_ratios(IN["old"], IN["sampler"], MASK),
    "sequence_ratios": lambda: sequence_ratios(IN["old"], IN["sampler"], MASK),
    "token_truncated": lambda: truncated(token_ratios(IN["old"], IN["sampler"], MASK), cap=1.3),
    "sequence_truncated": lambda: truncated(sequence_ratios(IN["old"], IN["sampler"], MASK), cap=1.3),
    "token_masked": lambda: masked(token_ratios(IN["old"], IN["sampler"], MASK), low=0.7, high=1.4),
    "sequence_masked": lambda: masked(sequence_ratios(IN["old"], IN["sampler"], MASK), low=0.7, high=1.4),
    "covariances": lambda: covariances(IN["old"], IN["token_advantages"], MASK),
    "selected": lambda: top_fraction(covariances(IN["old"], IN["token_advantages"], MASK), MASK, fraction=0.2),
    "high_entropy": lambda: top_fraction(IN["entropies"], MASK, fraction=0.2),
    "between": lambda: random_between(
        jax.random.key(0),
        covariances(IN["old"], IN["token_advantages"], MASK),
        MASK,
        fraction=1.0,
        low=0.3,
        high=1.5,
    ),
}


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", VALUES)
def test_value_is_that_of_the_formula(name):
    close(VALUES[name](), OUT[name])
    close(jax.jit(VALUES[name])(), OUT[name])


@pytest.mark.parametrize("name", SURROGATES)
def test_terms_and_their_gradient_are_those_of_the_formula(name):
    close(SURROGATES[name](IN["new"]), OUT[name])
    close(jax.jit(jax.grad(lambda new: SURROGATES[name](new).sum()))(IN["new"]), OUT[f"{name}/gradient"])


def test_every_stored_value_is_compared():
    gradients = {f"{name}/gradient" for name in SURROGATES}
    assert set(OUT) == set(VALUES) | set(SURROGATES) | gradients


def test_the_stored_values_are_what_the_script_makes():
    script = runpy.run_path(str(GOLDEN / "make_losses.py"))
    inputs = script["make_inputs"]()
    for name, value in inputs.items():
        np.testing.assert_array_equal(value, FILE[f"in/{name}"], err_msg=name)
    for name, value in script["make_outputs"](inputs).items():
        np.testing.assert_allclose(value, OUT[name], rtol=1e-12, atol=1e-9, err_msg=name)
