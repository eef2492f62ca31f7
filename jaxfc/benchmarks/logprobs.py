"""Log-probabilities from hidden states, forward and backward, against the form that holds all logits."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfc.benchmarks.limits import measure_limits
from jaxfc.benchmarks.measure import alternate, figures, report
from jaxfc.benchmarks.peers import NO_TOKEN
from jaxfc.benchmarks.settings import LogprobsBenchmark, check_peers
from jaxfc.draws import make_sampling
from jaxfc.logprobs import head_logits, token_scores
from jaxfc.workspace import compute_dtype

TEMPERATURE = 0.7


def benchmark_logprobs(settings: LogprobsBenchmark, peers: Sequence[str] = ()) -> dict[str, Any]:
    """Run it; the loss is a weighted sum of the log-probabilities, differentiated in hidden states and head."""
    check_peers(settings, peers)
    dtype = compute_dtype(settings.compute)
    arguments = make_arguments(settings, dtype)
    compiled = {
        name: jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arguments).compile()
        for name, loss in (("jaxfc", tiled_loss), ("dense", dense_loss))
    }
    ours, dense = (each(*arguments) for each in compiled.values())
    gaps = [relative_gap(a, b) for a, b in zip(ours, dense, strict=True)]
    del ours, dense
    laps = alternate({name: lambda _, run=run: run(*arguments) for name, run in compiled.items()}, settings.runs)
    results = {name: figures(each, tokens=settings.tokens) for name, each in laps.items()}
    for name, each in compiled.items():
        results[name]["extra_bytes"] = each.memory_analysis().temp_size_in_bytes
    # The product, and its two in the backward pass.
    flops = 3 * 2 * settings.tokens * settings.width * settings.vocabulary
    rate = measure_limits(dtype).matmul_flops_per_s
    seconds = results["jaxfc"]["wall_s"]["median"]
    results["jaxfc"] |= {
        "model_flops": flops,
        "matmul_flops_per_s": rate,
        "fraction_of_limit": flops / rate / seconds,
        "gradient_gap": {"hidden": gaps[0], "head": gaps[1]},
    }
    outcome = report(settings, results)
    outcome["ratios"]["dense"]["extra_bytes"] = results["dense"]["extra_bytes"] / results["jaxfc"]["extra_bytes"]
    return outcome


def make_arguments(settings: LogprobsBenchmark, dtype: Any) -> tuple[jax.Array, ...]:
    """Hidden states [1, N, D], head [V, D] (float32), tokens [1, N] and the weight of each log-probability [1, N]."""
    keys = jax.random.split(jax.random.key(settings.seed), 4)
    rows = (1, settings.tokens)
    return (
        jax.random.normal(keys[0], (*rows, settings.width)).astype(dtype),
        0.05 * jax.random.normal(keys[1], (settings.vocabulary, settings.width)),
        jax.random.randint(keys[2], rows, 0, settings.vocabulary),
        jax.random.normal(keys[3], rows) / settings.tokens,
    )


def tiled_loss(hidden: jax.Array, head: jax.Array, tokens: jax.Array, weights: jax.Array) -> jax.Array:
    """As the learner does it."""
    sampling = make_sampling(temperature=TEMPERATURE, stop_tokens=(NO_TOKEN,), max_tokens=1)
    return (weights * token_scores(hidden, head, tokens, sampling, vocabulary=len(head)).logprobs).sum()


def dense_loss(hidden: jax.Array, head: jax.Array, tokens: jax.Array, weights: jax.Array) -> jax.Array:
    """With all logits at once."""
    logits = head_logits(hidden[0], head) / TEMPERATURE
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[0][:, None], axis=1)
    return (weights[0] * chosen[:, 0]).sum()


def relative_gap(one: jax.Array, other: jax.Array) -> float:
    """Largest difference, as a part of the largest number."""
    one, other = (np.asarray(each, np.float32) for each in (one, other))
    return float(np.abs(one - other).max() / np.abs(other).max())
