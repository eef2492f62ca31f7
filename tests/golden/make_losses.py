"""Make tests/golden/losses.npz: advantages, losses and their gradients from the published formulas, in float64.

python tests/golden/make_losses.py

Written token by token from the papers, in plain Python over NumPy arrays. A gradient is a central difference; where a
paper stops a gradient, `frozen` stands for the log-probabilities that are not moved.
"""

import math
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "losses.npz"
PROMPTS, GROUP, TOKENS = 3, 4, 7
CLIP = {"low": 0.2, "high": 0.28}
SEQUENCE_CLIP = {"low": 0.05, "high": 0.08}
DUAL_CLIP = 1.5
SELECT = {"fraction": 0.2, "low": 0.3, "high": 1.5}
KL_COV = 0.7
TRUNCATE, KEEP = 1.3, {"low": 0.7, "high": 1.4}
OVERLONG = {"max_tokens": 100, "buffer": 20}
SHAPE = {"scale": 0.4, "cap": 2.0}


def make_inputs() -> dict[str, np.ndarray]:
    """Rewards of 3 groups of 4 (the second dead), completions of ragged lengths (one empty), four policies' numbers."""
    rng = np.random.default_rng(0)
    rows = PROMPTS * GROUP
    shape = (rows, TOKENS)
    lengths = np.array([7, 5, 1, 6, 3, 7, 4, 0, 2, 7, 6, 5])
    old = -rng.exponential(1.0, shape)
    inputs = {
        "rewards": np.array([[1.0, 0.0, 0.25, 1.0], [0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 1.0, 0.0]]),
        "lengths": lengths,
        "old": old,
        "new": old + rng.normal(0.0, 0.3, shape),
        "reference": old + rng.normal(0.0, 0.4, shape),
        "sampler": old + rng.normal(0.0, 0.25, shape),
        "entropies": rng.exponential(0.5, shape),
        "advantages": rng.normal(0.0, 1.0, rows),
        "token_advantages": rng.normal(0.0, 1.0, shape),
        "overlong_lengths": np.array([1, 79, 80, 81, 90, 99, 100, 101]),
    }
    # Both sides are to start from the same numbers.
    return {name: a.astype(np.float32) if a.dtype == np.float64 else a for name, a in inputs.items()}


def mean(values):
    return sum(values) / len(values)


def tokens_of(lengths):
    return [(i, t) for i, length in enumerate(lengths) for t in range(length)]


def advantages_of_group(rewards) -> dict[str, list[float]]:
    """The advantages of one group by each estimator."""
    size, middle = len(rewards), mean(rewards)
    squares = sum((r - middle) ** 2 for r in rewards)
    return {
        "group_ddof1": [(r - middle) / (math.sqrt(squares / (size - 1)) + 1e-6) for r in rewards],
        "group_ddof0": [(r - middle) / (math.sqrt(squares / size) + 1e-6) for r in rewards],
        "centred": [r - middle for r in rewards],
        "leave_one_out": [r - mean([rewards[j] for j in range(size) if j != i]) for i, r in enumerate(rewards)],
    }


def overlong(length: int, max_tokens: int, buffer: int) -> float:
    if length <= max_tokens - buffer:
        return 0.0
    return ((max_tokens - buffer) - length) / buffer if length <= max_tokens else -1.0


def clip(value: float, low: float, high: float) -> float:
    return 1 - low if value < 1 - low else 1 + high if value > 1 + high else value


def ppo(ratio: float, advantage: float, low: float, high: float) -> float:
    """The objective to maximise."""
    return min(ratio * advantage, clip(ratio, low, high) * advantage)


def surrogates(new, frozen, data) -> dict[str, np.ndarray]:
    """The loss of each token by each surrogate; 0 where there is no token."""
    old, selected, lengths = data["old"], data["selected"], data["lengths"]
    names = ("clipped", "dual", "gspo", "gspo_token", "cispo", "reinforce", "clip_cov", "kl_cov")
    out = {name: np.zeros(new.shape) for name in names}
    for i, length in enumerate(lengths):
        if not length:
            continue
        likelihood = math.exp(sum(new[i, t] - old[i, t] for t in range(length)))
        frozen_likelihood = math.exp(sum(frozen[i, t] - old[i, t] for t in range(length)))
        for t in range(length):
            a, r = data["token_advantages"][i, t], math.exp(new[i, t]) / math.exp(old[i, t])
            objective = ppo(r, a, **CLIP)
            out["clipped"][i, t] = -objective
            out["dual"][i, t] = -(max(objective, DUAL_CLIP * a) if a < 0 else objective)
            out["gspo"][i, t] = -ppo(likelihood ** (1 / length), data["advantages"][i], **SEQUENCE_CLIP)
            own = frozen_likelihood ** (1 / length) * math.exp(new[i, t]) / math.exp(frozen[i, t])
            out["gspo_token"][i, t] = -ppo(own, a, **SEQUENCE_CLIP)
            weight = clip(math.exp(frozen[i, t] - old[i, t]), **CLIP)
            out["cispo"][i, t] = -weight * a * new[i, t]
            out["reinforce"][i, t] = -a * new[i, t]
            out["clip_cov"][i, t] = 0.0 if selected[i, t] else -objective
            out["kl_cov"][i, t] = -r * a + (KL_COV * abs(new[i, t] - old[i, t]) if selected[i, t] else 0.0)
    return out


def kl_estimates(new, data) -> dict[str, np.ndarray]:
    out = {name: np.zeros(new.shape) for name in ("k1", "k2", "k3")}
    for i, t in tokens_of(data["lengths"]):
        ratio = math.exp(data["reference"][i, t]) / math.exp(new[i, t])
        out["k1"][i, t] = -math.log(ratio)
        out["k2"][i, t] = math.log(ratio) ** 2 / 2
        out["k3"][i, t] = (ratio - 1) - math.log(ratio)
    return out


def aggregations(lengths) -> dict[str, np.ndarray]:
    out = {name: np.zeros((len(lengths), TOKENS)) for name in ("token_mean", "sequence_mean", "constant")}
    for i, t in tokens_of(lengths):
        out["token_mean"][i, t] = 1 / sum(lengths)
        out["sequence_mean"][i, t] = 1 / sum(length > 0 for length in lengths) / lengths[i]
        out["constant"][i, t] = 1 / (len(lengths) * TOKENS)
    return out


def importance_weights(data) -> dict[str, np.ndarray]:
    names = ("token_ratios", "sequence_ratios", "token_truncated", "sequence_truncated", "token_masked")
    out = {name: np.zeros(data["old"].shape) for name in (*names, "sequence_masked")}
    for i, t in tokens_of(data["lengths"]):
        gaps = data["old"][i] - data["sampler"][i]
        for level, ratio in (("token", math.exp(gaps[t])), ("sequence", math.exp(sum(gaps[: data["lengths"][i]])))):
            out[f"{level}_ratios"][i, t] = ratio
            out[f"{level}_truncated"][i, t] = ratio if ratio < TRUNCATE else TRUNCATE
            out[f"{level}_masked"][i, t] = ratio if KEEP["low"] <= ratio <= KEEP["high"] else 0.0
    return out


def selections(data) -> dict[str, np.ndarray]:
    """Covariances of the old log-probabilities, and what is chosen by them and by entropy."""
    places = tokens_of(data["lengths"])
    middle_a = mean([data["token_advantages"][p] for p in places])
    middle_l = mean([data["old"][p] for p in places])
    count = math.floor(SELECT["fraction"] * len(places))
    shape = data["old"].shape
    out = {"covariances": np.zeros(shape)}
    out |= {name: np.zeros(shape, bool) for name in ("selected", "between", "high_entropy")}
    for p in places:
        covariance = (data["old"][p] - middle_l) * (data["token_advantages"][p] - middle_a)
        out["covariances"][p] = covariance
        out["between"][p] = SELECT["low"] <= covariance <= SELECT["high"]
    for name, values in (("selected", out["covariances"]), ("high_entropy", data["entropies"])):
        for p in sorted(places, key=lambda p: values[p], reverse=True)[:count]:
            out[name][p] = True
    return out


def shaped_advantages(data) -> np.ndarray:
    out = np.zeros(data["old"].shape)
    for i, t in tokens_of(data["lengths"]):
        a, h = data["token_advantages"][i, t], data["entropies"][i, t]
        out[i, t] = a + min(SHAPE["scale"] * h, abs(a) / SHAPE["cap"])
    return out


def whitened(advantages) -> np.ndarray:
    flat = [a for group in advantages for a in group]
    deviation = math.sqrt(sum((a - mean(flat)) ** 2 for a in flat) / (len(flat) - 1))
    return np.array([[(a - mean(flat)) / (deviation + 1e-6) for a in group] for group in advantages])


def gradients(function, new, lengths, step=1e-6) -> dict[str, np.ndarray]:
    """Of the sum of each array that `function(new)` returns, by central differences."""
    out = {name: np.zeros(new.shape) for name in function(new)}
    for p in tokens_of(lengths):
        ahead, behind = new.copy(), new.copy()
        ahead[p] += step
        behind[p] -= step
        after, before = function(ahead), function(behind)
        for name in out:
            out[name][p] = (after[name].sum() - before[name].sum()) / (2 * step)
    return out


def make_outputs(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    data = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in inputs.items()}
    new = data["new"]
    by_group = [advantages_of_group(list(group)) for group in data["rewards"]]
    out = {name: np.array([group[name] for group in by_group]) for name in by_group[0]}
    out["whitened"] = whitened(out["leave_one_out"])
    out["overlong"] = np.array([overlong(length, **OVERLONG) for length in data["overlong_lengths"]])
    out["token_entropy"] = shaped_advantages(data)
    out |= selections(data) | importance_weights(data) | aggregations(list(data["lengths"]))
    data |= {"selected": out["selected"]}
    losses = {"surrogate": lambda x: surrogates(x, new, data), "kl": lambda x: kl_estimates(x, data)}
    for function in losses.values():
        out |= function(new)
        out |= {f"{name}/gradient": g for name, g in gradients(function, new, data["lengths"]).items()}
    return out


def main():
    """Write the file."""
    inputs = make_inputs()
    outputs = make_outputs(inputs)
    np.savez_compressed(
        FILE, **{f"in/{k}": v for k, v in inputs.items()}, **{f"out/{k}": v for k, v in outputs.items()}
    )


if __name__ == "__main__":
    main()
