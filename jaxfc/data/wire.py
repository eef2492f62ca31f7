"""Records of shards: the `tf.train.Example` messages of TFDS with one feature, without protobuf and without TFDS.

They nest as Example > Features > map entry (name, Feature) > BytesList > value; each field is a tag byte, a length and
that many bytes.
"""

FEATURE = "json"
"""The name of the only feature."""


def to_record(value: bytes) -> bytes:
    """The serialised message whose only feature has the value, as TFDS writes it."""
    feature = _field(1, _field(1, value))
    entry = _field(1, FEATURE.encode()) + _field(2, feature)
    return _field(1, _field(1, entry))


def from_record(record: bytes) -> bytes:
    """The value of the only feature: what the last field of each level holds."""
    for _ in ("features", "entry", "feature", "bytes_list", "value"):
        record = _last_field(record)
    return record


def _field(number: int, value: bytes) -> bytes:
    length, written = len(value), bytearray([number << 3 | 2])
    while length > 0x7F:
        written.append(length & 0x7F | 0x80)
        length >>= 7
    written.append(length)
    return bytes(written) + value


def _last_field(message: bytes) -> bytes:
    position, value = 0, b""
    while position < len(message):
        position += 1
        length, shift = 0, 0
        while True:
            byte = message[position]
            length |= (byte & 0x7F) << shift
            position, shift = position + 1, shift + 7
            if byte < 0x80:
                break
        value = message[position : position + length]
        position += length
    return value
