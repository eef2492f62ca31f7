"""The settings of the algorithm: how rewards become a gradient."""

import dataclasses
from typing import Literal

from jaxfc.variants import (
    Aggregation,
    Baseline,
    Centred,
    Cispo,
    Clip,
    ClipCov,
    Constant,
    GroupDeviation,
    Gspo,
    GspoToken,
    Importance,
    KlCov,
    LeaveOneOut,
    Reinforce,
    SequenceMean,
    Surrogate,
    TokenMean,
    require,
)


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
class TokenEntropyBonus:
    """A'_t = A + min(scale * H_t, |A| / cap), H_t the entropy of each token (arXiv 2506.14758)."""

    scale: float = 0.4
    """What a nat of entropy is worth."""
    cap: float = 2.0
    """The bonus is at most this part of |A|."""

    def __post_init__(self):
        require(
            "algorithm.token_entropy",
            scale=(self.scale, self.scale >= 0, "at least 0"),
            cap=(self.cap, self.cap > 1, "above 1, which keeps the sign of an advantage"),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class HighEntropy:
    """80/20: only the tokens of highest entropy have a surrogate; the mean still counts all (arXiv 2506.01939)."""

    fraction: float = 0.2
    """Part of the tokens of a rollout batch."""

    def __post_init__(self):
        right = 0 < self.fraction <= 1
        require("algorithm.high_entropy", fraction=(self.fraction, right, "above 0 and at most 1"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overlong:
    """DAPO: up to 1 is taken off the reward of a completion that comes close to the token limit."""

    buffer: int = 32
    """Tokens before the limit over which the penalty grows."""

    def __post_init__(self):
        require("algorithm.overlong", buffer=(self.buffer, self.buffer >= 1, "at least 1"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicSampling:
    """DAPO: train only on groups whose rewards differ.

    The first `batch` such groups of those sampled; if there are fewer, the others weigh nothing, and the means are over
    those that there are.
    """

    oversample: int = 2
    """Prompts sampled for each that is trained on."""

    def __post_init__(self):
        require("algorithm.dynamic_sampling", oversample=(self.oversample, self.oversample >= 1, "at least 1"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm:
    """How rewards become a gradient."""

    group_size: int = 8
    """Completions sampled per prompt (G)."""
    baseline: Baseline | None = None
    """What a reward is measured against; null is baseline.group, GRPO's."""
    entropy: EntropyBonus | None = dataclasses.field(default_factory=EntropyBonus)
    """null is plain GRPO; set it and the run is EGPO."""
    token_entropy: TokenEntropyBonus | None = None
    """A bonus for the entropy of each token instead; needs entropy=null."""
    surrogate: Surrogate | None = None
    """What is made of the ratio to the policy before the update; null is surrogate.clip, PPO's."""
    aggregation: Aggregation | None = None
    """What each token weighs in the loss; null is aggregation.token_mean."""
    kl_coefficient: float = 0.001
    """beta: weight of the KL to the reference. 0 leaves out the reference's scores, and the metric `kl/reference`."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """How that KL is estimated from sampled tokens; as a loss, k1 has no gradient on average."""
    entropy_coefficient: float = 0.0
    """c: what a nat of the policy's entropy takes off the loss, differentiated."""
    high_entropy: HighEntropy | None = None
    """null trains on all tokens."""
    overlong: Overlong | None = None
    """null does not mind a completion's length."""
    dynamic_sampling: DynamicSampling | None = None
    """null trains on all groups."""
    old_logprobs: Literal["trainer", "sampler"] = "trainer"
    """Whose log-probabilities (and entropies, for a bonus) stand for those before the update. `sampler` saves a pass;
    the update then measures how far the two differ (`kl/sampler`), on its first mini-batch before it moves."""
    importance: Importance | None = None
    """Correct for the difference of sampler and trainer (int8 caches, bfloat16); needs old_logprobs=trainer."""
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
        require(
            "algorithm",
            kl_coefficient=(self.kl_coefficient, self.kl_coefficient >= 0, "at least 0"),
            entropy_coefficient=(self.entropy_coefficient, self.entropy_coefficient >= 0, "at least 0"),
            updates=(self.updates, self.updates >= 1, "at least 1"),
            micro_batches=(self.micro_batches, self.micro_batches >= 1, "at least 1"),
        )
        if self.entropy is not None and self.token_entropy is not None:
            raise ValueError(
                "algorithm.entropy and algorithm.token_entropy are both set, and would add two bonuses; "
                "set algorithm.entropy=null to have that of tokens."
            )
        if self.importance is not None and self.old_logprobs == "sampler":
            raise ValueError(
                "algorithm.importance weighs the trainer's log-probabilities against the sampler's, but with "
                "algorithm.old_logprobs=sampler the trainer's are not computed; leave one of the two out."
            )

    @property
    def oversample(self) -> int:
        """Prompts sampled for each that is trained on."""
        return 1 if self.dynamic_sampling is None else self.dynamic_sampling.oversample

    @property
    def chosen_baseline(self) -> GroupDeviation | Centred | LeaveOneOut:
        """The baseline's settings."""
        return GroupDeviation() if self.baseline is None else self.baseline.chosen

    @property
    def chosen_surrogate(self) -> Clip | Gspo | GspoToken | Cispo | ClipCov | KlCov | Reinforce:
        """The surrogate's settings."""
        return Clip() if self.surrogate is None else self.surrogate.chosen

    @property
    def chosen_aggregation(self) -> TokenMean | SequenceMean | Constant:
        """The aggregation's settings."""
        return TokenMean() if self.aggregation is None else self.aggregation.chosen
