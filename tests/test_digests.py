import pickle
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfc.data.digests import Digests, digest_of


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 2**32 - 1))))
def test_it_answers_as_a_dict_does(entries):
    digests, known = Digests(), {}
    for number, value in entries:
        digest = digest_of(str(number))
        assert (digest in digests) == (digest in known) and digests.get(digest) == known.get(digest, 0)
        digests.put(digest, value)
        known[digest] = value
    assert len(digests) == len(known) and set(digests) == set(known)


def test_a_digest_is_new_once_however_large_the_table_grows():
    digests = Digests()
    wanted = [digest_of(str(number)) for number in range(50_000)]
    assert all(digests.add(digest) for digest in wanted)
    assert not any(digests.add(digest) for digest in wanted)
    assert len(digests) == 50_000 and digest_of("other") not in digests


def test_digests_that_begin_or_end_alike_are_told_apart():
    digests = Digests()
    same_half = [bytes(8) + bytes([number]) * 8 for number in range(1, 50)]
    same_half += [bytes([number]) * 8 + bytes(8) for number in range(1, 50)]
    assert all(digests.add(digest) for digest in [*same_half, bytes(16)])
    assert len(set(digests)) == 99


def test_an_entry_takes_less_than_40_per_cent_of_what_it_takes_in_a_set():
    digests = Digests()
    ours = set()
    for number in range(100_000):
        digests.add(digest_of(str(number)))
        ours.add(digest_of(str(number)))
    in_set = sys.getsizeof(ours) + sum(map(sys.getsizeof, ours))
    assert 2.5 * len(pickle.dumps(digests)) < in_set


def test_texts_that_differ_have_different_digests_and_equal_ones_the_same():
    assert digest_of("a") == digest_of("a") != digest_of("b")
    assert len(digest_of("")) == 16
    with pytest.raises(UnicodeEncodeError):
        digest_of("\ud800")
