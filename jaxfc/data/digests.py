"""Digests in little memory: which were seen, and what was noted of them."""

import hashlib
from array import array
from collections.abc import Iterator

_SIZE = 16


def digest_of(text: str) -> bytes:
    """16 bytes that tell texts apart: two of a billion agree with a chance of 1 in 10^20."""
    return hashlib.blake2b(text.encode(), digest_size=_SIZE).digest()


class Digests:
    """A hash table of 16-byte digests, each with a number from 1; about 30 bytes an entry, where a set takes 90."""

    def __init__(self):
        self._digests, self._values = bytearray(), array("I")
        self._slots = array("I", bytes(4 * 1024))
        """Place of a digest among all, from 1; 0 where the slot is free."""

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._digests), _SIZE):
            yield bytes(self._digests[start : start + _SIZE])

    def __contains__(self, digest: bytes) -> bool:
        return self._slots[self._slot(digest)] > 0

    def get(self, digest: bytes) -> int:
        """The number of a digest; 0 when it is not there."""
        place = self._slots[self._slot(digest)]
        return self._values[place - 1] if place else 0

    def add(self, digest: bytes) -> bool:
        """Note a digest; whether it is new."""
        slot = self._slot(digest)
        if self._slots[slot]:
            return False
        self._append(slot, digest, 1)
        return True

    def put(self, digest: bytes, value: int):
        """Note a digest with a number from 1 to 2^32 - 1, which replaces the one that it had."""
        slot = self._slot(digest)
        place = self._slots[slot]
        if place:
            self._values[place - 1] = value
        else:
            self._append(slot, digest, value)

    def _slot(self, digest: bytes) -> int:
        """The slot of a digest, or the free one where it would be."""
        digests, slots = self._digests, self._slots
        mask = len(slots) - 1
        slot = int.from_bytes(digest[:8], "little") & mask
        while place := slots[slot]:
            end = place * _SIZE
            if digests[end - _SIZE : end] == digest:
                break
            slot = (slot + 1) & mask
        return slot

    def _append(self, slot: int, digest: bytes, value: int):
        self._digests += digest
        self._values.append(value)
        self._slots[slot] = len(self._values)
        if 3 * len(self._values) > 2 * len(self._slots):
            self._slots = array("I", bytes(8 * len(self._slots)))
            for place, known in enumerate(self, start=1):
                self._slots[self._slot(known)] = place
