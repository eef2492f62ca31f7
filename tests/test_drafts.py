import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.drafts import draft


def drafted(prompt, completion, *, count=3, match=1, room=12):
    """The tokens that are drafted, those that do not exist left out."""
    pad = lambda tokens: jnp.asarray([*tokens, *[99] * (room - len(tokens))])  # noqa: E731
    tokens, exists = draft(
        pad(prompt), jnp.int32(len(prompt)), pad(completion), jnp.int32(len(completion)), count=count, match=match
    )
    assert exists.tolist() == sorted(exists.tolist(), reverse=True), "a draft has no holes"
    return np.asarray(tokens)[np.asarray(exists)].tolist()


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        ([1, 2, 3, 4, 5], [2], [3, 4, 5]),
        ([1, 2, 3, 4, 5], [9, 3], [4, 5]),  # It ends where the prompt ends.
        ([1, 2, 3, 4, 5], [5], []),  # Nothing follows the last token of the prompt.
        ([1, 2, 3], [7], []),
        ([1, 2, 3], [], []),  # Nothing has been said yet.
        ([1, 2, 8, 1, 2, 9], [1, 2], [9]),  # The latest of equals.
        ([1, 2, 8, 3, 2, 9], [1, 2], [8, 3, 2]),  # More tokens agree at the earlier one.
        ([2, 8], [2, 7, 5, 2], [7, 5, 2]),  # The completion before the prompt.
        ([4, 2, 8, 8], [2, 7, 5, 4, 2], [8, 8]),  # But not if more agree in the prompt.
        ([6, 6], [3, 3], [3]),  # What is copied may be the last token itself.
    ],
)
def test_a_draft_is_what_followed_where_most_tokens_agree(prompt, completion, expected):
    assert drafted(prompt, completion) == expected


def test_fewer_tokens_than_match_make_no_draft():
    prompt, completion = [1, 2, 3, 4], [7, 2, 3]
    assert drafted(prompt, completion, match=2) == [4]
    assert drafted(prompt, completion, match=3) == []
    assert drafted(prompt, [3], match=2) == []


def test_padding_is_never_copied_and_never_agrees():
    # 99 is what the arrays are padded with, and here also a token.
    assert drafted([1, 99], [99]) == []
    assert drafted([99, 1], [99], room=30) == [1]
