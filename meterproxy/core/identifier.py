"""Identifiers: UUIDs of version 7, so that rows made later sort later."""

from uuid import UUID, SafeUUID

_VERSION_7 = 0x7 << 76
_VARIANT = 0x2 << 62
_RANDOM_A = 0xFFF << 64
_RANDOM_B = (1 << 62) - 1
_NEW = object.__new__
_SET = object.__setattr__


def uuid7(unix_us: int, random: bytes) -> UUID:
    """Build a version 7 UUID.

    Args:
        unix_us: Unix time in microseconds; the first 48 bits hold its milliseconds.
        random: ten random bytes; 74 of their bits are used.

    Source: RFC 9562, section 5.7.
    """
    noise = int.from_bytes(random, "big")
    number = (unix_us // 1000 & 0xFFFFFFFFFFFF) << 80 | _VERSION_7 | noise & _RANDOM_A | _VARIANT | noise & _RANDOM_B
    identifier = _NEW(UUID)  # without its constructor, which looks for six other ways to be called
    _SET(identifier, "int", number)
    _SET(identifier, "is_safe", SafeUUID.unknown)
    return identifier
