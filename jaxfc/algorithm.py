"""The settings of the algorithm: how rewards become a gradient."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class EntropyBonus:
    """EGPO: A' = A + min(scale * E, |A| / cap), E the mean entropy of the chain of thought."""

    scale: float = 0.4
    """lambda: what a nat of entropy is worth. 0 is GRPO, bit for bit."""
    cap: float = 2.0
    """alpha: the bonus is at most this part of |A|."""

    def __post_init__(self):
        if self.scale < 0 or self.cap <= 1:
            raise ValueError(
                f"algorithm.entropy has scale {self.scale} and cap {self.cap}; scale is at least 0, and only a cap "
                "above 1 keeps the sign of an advantage."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm:
    """How rewards become a gradient."""

    group_size: int = 8
    """Completions sampled per prompt (G)."""
    clip_low: float = 0.2
    """How far the ratio may fall below 1."""
    clip_high: float = 0.2
    """How far it may rise above 1."""
    kl_coefficient: float = 0.001
    """beta: weight of the KL to the reference."""
    entropy: EntropyBonus | None = dataclasses.field(default_factory=EntropyBonus)
    """null is plain GRPO; set it and the run is EGPO."""
    updates: int = 1
    """Updates per rollout batch: its prompts are dealt into this many mini-batches."""
    micro_batches: int = 1
    """Parts in which an update's gradient is added up; the result does not depend on it, memory does."""

    def __post_init__(self):
        if self.group_size < 2:
            raise ValueError(
                f"algorithm.group_size is {self.group_size}, but an advantage is a distance from the group's mean: "
                "below 2 completions per prompt every advantage is 0."
            )
