"""Digests in little memory: which were seen, and what was noted of them."""

import hashlib
import struct
from array import array
from collections.abc import Iterator

_PAIR = struct.Struct("<QQ")


def digest_of(text: str) -> bytes:
    """16 bytes that tell texts apart: two of a billion agree with a chance of 1 in 10^20."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class Digests:
    """A hash table of 16-byte digests, each with a number from 1; 30 to 60 bytes an entry, half as much again as it
    grows. A set of Python's takes 110 and more."""

    def __init__(self):
        self._resize(1024)

    def _resize(self, slots: int):
        self._mask, self._count = slots - 1, 0
        self._high, self._low = array("Q", bytes(8 * slots)), array("Q", bytes(8 * slots))
        self._values = array("I", bytes(4 * slots))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        for high, low, value in zip(self._high, self._low, self._values, strict=True):
            if value:
                yield _PAIR.pack(high, low)

    def __contains__(self, digest: bytes) -> bool:
        return self._values[self._slot(*_PAIR.unpack(digest))] > 0

    def get(self, digest: bytes) -> int:
        """The number of a digest; 0 when it is not there."""
        return self._values[self._slot(*_PAIR.unpack(digest))]

    def add(self, digest: bytes) -> bool:
        """Note a digest; whether it is new."""
        slot = self._slot(*_PAIR.unpack(digest))
        if self._values[slot]:
            return False
        self._fill(slot, digest, 1)
        return True

    def put(self, digest: bytes, value: int):
        """Note a digest with a number from 1 to 2^32 - 1, which replaces the one that it had."""
        slot = self._slot(*_PAIR.unpack(digest))
        if self._values[slot]:
            self._values[slot] = value
        else:
            self._fill(slot, digest, value)

    def _slot(self, high: int, low: int) -> int:
        """Where the digest is, or the free place where it would be."""
        highs, lows, values, mask = self._high, self._low, self._values, self._mask
        slot = low & mask
        while values[slot] and (lows[slot] != low or highs[slot] != high):
            slot = (slot + 1) & mask
        return slot

    def _fill(self, slot: int, digest: bytes, value: int):
        self._high[slot], self._low[slot] = _PAIR.unpack(digest)
        self._values[slot] = value
        self._count += 1
        if 3 * self._count > 2 * (self._mask + 1):
            self._grow()

    def _grow(self):
        highs, lows, values = self._high, self._low, self._values
        self._resize(2 * len(values))
        for high, low, value in zip(highs, lows, values, strict=True):
            if value:
                slot = self._slot(high, low)
                self._high[slot], self._low[slot], self._values[slot] = high, low, value
                self._count += 1
