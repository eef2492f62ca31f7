"""Drafts of what comes next, copied from where the last tokens stood before: in the completion, else in the prompt."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

LONGEST = 4
"""Tokens that are compared: the more agree, the likelier is what followed them."""


def draft(
    prompt: Int[Array, " S"],
    prompt_length: Int[Array, ""],
    completion: Int[Array, " T"],
    length: Int[Array, ""],
    *,
    count: int,
    match: int,
) -> tuple[Int[Array, " count"], Bool[Array, " count"]]:
    """The `count` tokens that followed an earlier occurrence of the completion's last tokens.

    The occurrence is the one that agrees in most tokens, up to `LONGEST`; among equals the latest, the completion's
    before the prompt's. A draft decides only how fast a completion is sampled, never what: it is verified.

    Args:
        prompt: tokens of the prompt.
        prompt_length: how many of them count.
        completion: tokens of the completion.
        length: how many of them are there.
        count: tokens to draft.
        match: tokens that must agree at least.

    Returns:
        The drafted tokens, and which of them exist: a draft ends where what it copies ends.

    References: prompt lookup decoding, A. Saxena, 2023; speculative sampling, arXiv:2302.01318.
    """
    back = jnp.arange(max(LONGEST, match))
    suffix = completion[jnp.maximum(length - 1 - back, 0)]

    def find(tokens: Array, end: Array) -> tuple[Array, Array]:
        """How many tokens agree at the best occurrence, and the index after it."""
        after = jnp.arange(tokens.shape[0])
        at = after[:, None] - 1 - back
        agrees = (tokens[jnp.maximum(at, 0)] == suffix) & (at >= 0) & (back < length)
        agreeing = jnp.where(after < end, jnp.cumprod(agrees, axis=1).sum(axis=1), 0)
        best = jnp.argmax(agreeing * tokens.shape[0] + after)
        return agreeing[best], best

    def copied(tokens: Array, start: Array, end: Array) -> tuple[Array, Array]:
        at = start + jnp.arange(count)
        return tokens[jnp.minimum(at, tokens.shape[0] - 1)], at < end

    (own, inside), (other, before) = find(completion, length), find(prompt, prompt_length)
    from_completion = own >= other
    tokens, exist = (
        jnp.where(from_completion, a, b)
        for a, b in zip(copied(completion, inside, length), copied(prompt, before, prompt_length), strict=True)
    )
    return tokens, exist & (jnp.maximum(own, other) >= match)
