"""The records that pass between stages. P prompts, S their length, B = P * G completions, T their length."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num, UInt32

Params = Any
"""A nested dict of arrays, as `Decoder.init` makes it."""
Metrics = dict[str, Any]


class Prompts(NamedTuple):
    """A batch of prompts, each held once and padded on the right."""

    tokens: Int[Array, "P S"]
    lengths: Int[Array, " P"]
    """Tokens that count. 0 marks a row that only fills the batch."""


class Prefix(NamedTuple):
    """What the completions of a prompt attend to: the keys and values of all its tokens but the last.

    The last token is the first input of each completion, so no prompt position needs logits.
    """

    keys: Float[Array, "L P S K Dh"]
    values: Float[Array, "L P S K Dh"]
    lengths: Int[Array, " P"]
    """Positions to attend to: the prompt's length less one."""
    last_tokens: Int[Array, " P"]


class Cache(NamedTuple):
    """Keys and values of one layer, kept for decoding in the order in which its products read them.

    N is prompts or slots. Layers stand apart, a tuple of caches, so that none of them is sliced out of a whole.
    """

    keys: Num[Array, "N K Dh U"]
    values: Num[Array, "N K U Dh"]
    key_scales: Float[Array, "N K U"] | None = None
    """Of int8 keys: what each vector is to be multiplied with."""
    value_scales: Float[Array, "N K U"] | None = None


class Lanes(NamedTuple):
    """Which slot reads which prompt. A prompt has C lanes, one for each completion that may read it at once.

    Indices count within a shard of the rows, n shards in all, so that no device looks anything up on another.
    """

    slot_of: Int[Array, "n M"]
    """Slot in each lane of the shard's prompts, lane = prompt * C + c. Empty lanes name any slot."""
    lane_of: Int[Array, "n m"]
    """Lane of each of the shard's slots. Idle slots name any lane."""


class Sampling(NamedTuple):
    """How tokens are drawn. All are arrays: a change takes effect without a compile.

    In serving, where each row is drawn in its own way, all but the stop tokens have one number for each row.
    """

    temperature: Float[Array, "*rows"]
    """0 is greedy; log-probabilities are then those at temperature 1."""
    top_k: Int[Array, "*rows"]
    """Draw among the k likeliest tokens; 0 is all."""
    top_p: Float[Array, "*rows"]
    """Draw among the likeliest tokens that together have this probability; 1 is all."""
    stop_tokens: Int[Array, " N"]
    """A completion ends with the first of these, which belongs to it."""
    max_tokens: Int[Array, "*rows"]
    """A completion is cut after this many tokens."""


class TokenScores(NamedTuple):
    """What a model says of each completion token, under the distribution that is sampled."""

    logprobs: Float[Array, "B T"]
    """Nats."""
    entropies: Float[Array, "B T"]
    """Of the whole distribution at that position, nats."""


class Allowed(NamedTuple):
    """Which tokens may be drawn at each position, where a grammar decides; the others have probability 0."""

    table: UInt32[Array, "P M W"]
    """M masks of each prompt: token v may be drawn where bit v % 32 of word v // 32 is set; W = ceil(V / 32)."""
    index: Int[Array, "B T"]
    """The mask of each completion token, among those of its prompt. Mask 0 allows all."""


class Rollouts(NamedTuple):
    """Sampled completions, row = p * G + g, with what the sampler knew of them."""

    prompts: Prompts
    tokens: Int[Array, "B T"]
    lengths: Int[Array, " B"]
    """Tokens sampled, the stop token included."""
    ended: Bool[Array, " B"]
    """False: cut at the token limit, or of a row that only fills the batch."""
    scores: TokenScores
    allowed: Allowed | None = None
    """None: everything."""

    def of_groups(self, groups: Int[Array | np.ndarray, " N"]) -> "Rollouts":
        """Those of some groups, in the order given."""
        size = self.tokens.shape[0] // self.prompts.lengths.shape[0]
        taken = (groups[:, None] * size + np.arange(size)).reshape(-1)
        prompts = Prompts(*(array[groups] for array in self.prompts))
        scores = TokenScores(*(array[taken] for array in self.scores))
        allowed = self.allowed and Allowed(self.allowed.table[groups], self.allowed.index[taken])
        return Rollouts(prompts, self.tokens[taken], self.lengths[taken], self.ended[taken], scores, allowed)


class Lesson(NamedTuple):
    """The rollouts that a step trains on, with what the host found in them."""

    rollouts: Rollouts
    rewards: Float[Array, "P G"]
    cot_mask: Bool[Array, "B T"]
    groups: Int[Array, " P"]
    """Which of the groups that were sampled each is."""


class Credit(NamedTuple):
    """What the completions and tokens of a rollout batch are credited with."""

    advantages: Float[Array, " B"]
    of_tokens: Float[Array, "B T"] | None
    """Advantages of tokens, where they are not those of their completion."""
    weights: Float[Array, "B T"] | None
    """What the surrogate of each token is multiplied with."""
    selected: Bool[Array, "B T"] | None
    """The tokens that Clip-Cov leaves out or KL-Cov holds back."""


class TrainBatch(NamedTuple):
    """What one policy update needs."""

    prompts: Prompts
    completions: Int[Array, "B T"]
    lengths: Int[Array, " B"]
    old_logprobs: Float[Array, "B T"]
    reference_logprobs: Float[Array, "B T"] | None
    """None where the loss has no KL."""
    advantages: Float[Array, " B"] | Float[Array, "B T"]
    weights: Float[Array, "B T"] | None = None
    """See `Credit`."""
    selected: Bool[Array, "B T"] | None = None
    """See `Credit`."""
    allowed: Allowed | None = None
    """See `Rollouts`."""


class SftBatch(NamedTuple):
    """Prompts with one known completion each (G = 1)."""

    prompts: Prompts
    completions: Int[Array, "B T"]
    lengths: Int[Array, " B"]


class TrainState(NamedTuple):
    """What an update changes."""

    step: Int[Array, ""]
    params: Params
    opt_state: Any
