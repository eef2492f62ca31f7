"""Variants of the algorithm, each a record of its settings: baselines, surrogates, aggregations, importance weights."""

import dataclasses
from typing import Any, ClassVar, Literal


class Alternatives:
    """A record of alternatives: the one field that is set is the variant, and holds its settings."""

    key: ClassVar[str]
    """Its setting, for messages."""

    def __post_init__(self):
        names = [field.name for field in dataclasses.fields(self)]
        chosen = [name for name in names if getattr(self, name) is not None]
        if len(chosen) != 1:
            found = " and ".join(chosen) or "none of its variants"
            raise ValueError(
                f"{self.key} has {found}; set one of {', '.join(names)}, such as {self.key}.{names[0]}={{}}."
            )

    @property
    def chosen(self) -> Any:
        """The settings of the variant."""
        return next(value for value in vars(self).values() if value is not None)


def require(key: str, **limits: tuple[Any, bool, str]):
    """Refuse the settings of `key` that are not right: name -> (value, whether it is right, what would be)."""
    for name, (value, right, limit) in limits.items():
        if not right:
            raise ValueError(f"{key}.{name} is {value}; right is {limit}.")


# Baselines


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupDeviation:
    """GRPO: the distance from the group's mean in standard deviations of the group."""

    ddof: Literal[0, 1] = 1
    """1 is the deviation of a sample; 0 that of the group, as papers write it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Centred:
    """Dr.GRPO: the distance from the group's mean, in units of reward."""

    whitened: bool = False
    """Then bring the batch to mean 0 and deviation 1, with one deviation for all groups."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """RLOO: the distance from the mean of the others of the group."""

    whitened: bool = False
    """Then bring the batch to mean 0 and deviation 1, with one deviation for all groups."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline(Alternatives):
    """What a reward is measured against."""

    key: ClassVar[str] = "algorithm.baseline"

    group: GroupDeviation | None = None
    """GRPO."""
    centred: Centred | None = None
    """Dr.GRPO."""
    leave_one_out: LeaveOneOut | None = None
    """RLOO."""


# Surrogates


def _require_clip(key: str, low: float, high: float):
    require(key, low=(low, 0 <= low <= 1, "between 0 and 1"), high=(high, high >= 0, "at least 0"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """PPO's clipped ratio of each token."""

    low: float = 0.2
    """How far the ratio may fall below 1."""
    high: float = 0.2
    """How far it may rise above 1; DAPO's clip-higher is 0.28."""
    dual: float | None = None
    """How large the ratio may become at a negative advantage, such as 3; null is no bound."""

    def __post_init__(self):
        _require_clip("algorithm.surrogate.clip", self.low, self.high)
        if self.dual is not None:
            require("algorithm.surrogate.clip", dual=(self.dual, self.dual > 1, "above 1, or null"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gspo:
    """GSPO: the clipped ratio of each completion, the geometric mean of its tokens'."""

    low: float = 3e-4
    """How far the ratio may fall below 1."""
    high: float = 4e-4
    """How far it may rise above 1."""

    def __post_init__(self):
        _require_clip("algorithm.surrogate.gspo", self.low, self.high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GspoToken:
    """GSPO-token: the ratio of the completion, with the gradient of each token, for advantages of tokens."""

    low: float = 3e-4
    """How far the ratio may fall below 1."""
    high: float = 4e-4
    """How far it may rise above 1."""

    def __post_init__(self):
        _require_clip("algorithm.surrogate.gspo_token", self.low, self.high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cispo:
    """CISPO: REINFORCE under a clipped importance weight, so that no token loses its gradient."""

    low: float = 1.0
    """How far the weight may fall below 1; 1 is no lower bound."""
    high: float = 0.2
    """How far it may rise above 1."""

    def __post_init__(self):
        _require_clip("algorithm.surrogate.cispo", self.low, self.high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipCov:
    """PPO's clip, and no loss for a few tokens drawn among those of high covariance."""

    low: float = 0.2
    """How far the ratio may fall below 1."""
    high: float = 0.2
    """How far it may rise above 1."""
    fraction: float = 2e-4
    """Part of the tokens of a rollout batch to leave out."""
    covariance_low: float = 1.0
    """The smallest covariance of a candidate."""
    covariance_high: float = 5.0
    """The largest."""

    def __post_init__(self):
        key = "algorithm.surrogate.clip_cov"
        _require_clip(key, self.low, self.high)
        require(
            key,
            fraction=(self.fraction, 0 < self.fraction <= 1, "above 0 and at most 1"),
            covariance_high=(
                self.covariance_high,
                self.covariance_high >= self.covariance_low,
                f"at least covariance_low, {self.covariance_low}",
            ),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class KlCov:
    """The ratio without a clip, and a penalty on the change of the tokens of highest covariance."""

    fraction: float = 2e-4
    """Part of the tokens of a rollout batch to hold back."""
    coefficient: float = 1.0
    """What a nat of their change costs."""

    def __post_init__(self):
        require(
            "algorithm.surrogate.kl_cov",
            fraction=(self.fraction, 0 < self.fraction <= 1, "above 0 and at most 1"),
            coefficient=(self.coefficient, self.coefficient >= 0, "at least 0"),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reinforce:
    """REINFORCE: no ratio at all, so one update a batch is on-policy and more are not."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surrogate(Alternatives):
    """What is made of the ratio between the policy being trained and the one before the update."""

    key: ClassVar[str] = "algorithm.surrogate"

    clip: Clip | None = None
    """PPO, GRPO, DAPO (arXiv 1707.06347, 2503.14476)."""
    gspo: Gspo | None = None
    """arXiv 2507.18071; with aggregation.sequence_mean."""
    gspo_token: GspoToken | None = None
    """arXiv 2507.18071, eq. 13; with aggregation.sequence_mean."""
    cispo: Cispo | None = None
    """arXiv 2506.13585."""
    clip_cov: ClipCov | None = None
    """arXiv 2505.22617."""
    kl_cov: KlCov | None = None
    """arXiv 2505.22617."""
    reinforce: Reinforce | None = None
    """RLOO, with baseline.leave_one_out (arXiv 2402.14740)."""


# Aggregations


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenMean:
    """A mean over tokens: a long completion weighs more than a short one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceMean:
    """A mean over completions of the mean over the tokens of each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
    """A mean over completions of the sum over the tokens of each, divided by a constant."""

    tokens: float = 1.0
    """The constant: the token limit is Dr.GRPO, 1 is RLOO."""

    def __post_init__(self):
        require("algorithm.aggregation.constant", tokens=(self.tokens, self.tokens > 0, "above 0"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aggregation(Alternatives):
    """What each token weighs in the loss."""

    key: ClassVar[str] = "algorithm.aggregation"

    token_mean: TokenMean | None = None
    """DAPO, FunRL."""
    sequence_mean: SequenceMean | None = None
    """GRPO as it was published, GSPO."""
    constant: Constant | None = None
    """Dr.GRPO, RLOO."""


# Importance weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truncated:
    """min(w, cap)."""

    of: Literal["token", "sequence"] = "token"
    """w of each token, of low variance; or of the whole completion, unbiased."""
    cap: float = 2.0
    """The largest weight."""

    def __post_init__(self):
        require("algorithm.importance.truncated", cap=(self.cap, self.cap > 0, "above 0"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masked:
    """w where it is within the bounds, else 0."""

    of: Literal["token", "sequence"] = "token"
    """w of each token, of low variance; or of the whole completion, unbiased."""
    low: float = 0.5
    """The smallest weight that is kept."""
    high: float = 2.0
    """The largest."""

    def __post_init__(self):
        right = 0 <= self.low <= self.high
        require("algorithm.importance.masked", low=(self.low, right, f"between 0 and high, {self.high}"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Importance(Alternatives):
    """Weigh the surrogate of a token by w, how much likelier it is to the trainer than to the sampler."""

    key: ClassVar[str] = "algorithm.importance"

    truncated: Truncated | None = None
    """Outliers count less."""
    masked: Masked | None = None
    """Outliers are left out."""
