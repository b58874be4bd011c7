"""How an input is cut: its first bytes say where, the rest is what is cut."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

CUTS_MAXIMUM = 7
SINGLE_BYTES = 150
"""The longest input that is also given byte by byte."""


def taken_apart(data: bytes) -> tuple[list[int], bytes]:
    """Where to cut, and what."""
    count = data[0] % (CUTS_MAXIMUM + 1) if data else 0
    places, rest = data[1 : 1 + 2 * count], data[1 + 2 * count :]
    size = len(rest) + 1
    return [int.from_bytes(places[at : at + 2], "big") % size for at in range(0, len(places), 2)], rest


def put_together(rest: bytes, cuts: Sequence[int] = ()) -> bytes:
    """The input for these bytes and cuts."""
    return bytes([len(cuts)]) + b"".join(cut.to_bytes(2, "big") for cut in cuts) + rest


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The pieces of what is cut at these places."""
    edges = sorted({0, len(data), *places})
    return [data[start:end] for start, end in pairwise(edges)]


def ways(data: bytes, places: Sequence[int]) -> Iterator[list[bytes]]:
    """In these pieces, and in single bytes if there are not too many."""
    yield cut(data, places)
    if len(data) <= SINGLE_BYTES:
        yield [data[at : at + 1] for at in range(len(data))]
