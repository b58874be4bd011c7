r"""Pieces: a JSON document read from comma to comma, so that no list and no object in it is read in one step.

A piece ends before a comma, and the next begins with it. What is open there (`{[{`) is all that a reader has to know of
what came before. So a piece is valid where it stands if it is valid between brackets of our own, `{"":[{"":0` and
`,"":0}]}`; and a document is valid if all of its pieces are.

Rules
-----
- The decoder that reads small bodies reads the pieces: nothing is accepted that it would not accept.
- What has no comma for `GAP_MAXIMUM` bytes is a number, or space, without end, and is refused.
- How many values there are is counted on the way, piece by piece: nobody has to look through the whole for that.
"""

import re
from collections.abc import Generator, Iterator, Sequence
from typing import Final, NamedTuple

from meterproxy.proxy.body import MEMBERS_MAXIMUM, Malformed, refuse, too_many_members, value_lengths
from meterproxy.proxy.outline import Counts, counts_of, outline

GAP_MAXIMUM: Final = 1 << 18
"""The most bytes without a comma outside of strings."""
BRACKETS_STEP: Final = 1 << 14
"""Brackets that are looked at one by one in one step: about a millisecond."""

_TO_COMMA: Final = re.compile(rb'(?:[^",]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+(?=,)', re.DOTALL)
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_OPEN: Final = {ord("{"): b'{"":', ord("["): b"["}
_CLOSE: Final = {ord("{"): b"}", ord("["): b"]"}
_MORE: Final = {ord("{"): b',"":0', ord("["): b",0"}
_OPENS: Final = {ord("}"): ord("{"), ord("]"): ord("[")}
_FIRST: Final = len(_OPEN[ord("{")])
"""Where the first member's value begins in a piece between brackets of our own."""
_PAIRS_ROUNDS: Final = 3


class Piece(NamedTuple):
    """Bytes of a document, and what begins in them."""

    start: int
    end: int
    counts: Counts


class Walked(NamedTuple):
    """The lengths of a document's top-level values, and its pieces."""

    lengths: list[int]
    pieces: list[Piece]


def walking(document: bytes, rests: Sequence[int]) -> Generator[None, None, Walked]:
    """Read a document in pieces; `rests` are places in it that are in no string. Raises Malformed."""
    lengths: list[int] = []
    pieces: list[Piece] = []
    stack = b""
    for start, end in _cuts(document, rests):
        text = document[start:end]
        strings, outside = outline(text, len(text))
        around, stack = stack, (yield from _open_after(stack, outside.translate(None, _NO_BRACKETS)))
        _join(lengths, text, around, stack)
        pieces.append(Piece(start, end, counts_of(strings, outside)))
        yield
    if stack:
        refuse()
    return Walked(lengths, pieces)


def _cuts(document: bytes, rests: Sequence[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for rest in rests:
        if rest > start:
            found = _TO_COMMA.match(document, rest, start + GAP_MAXIMUM)
            if found is not None:
                yield start, found.end()
                start = found.end()
            elif rest - start >= GAP_MAXIMUM:
                raise Malformed(f"The JSON body has {GAP_MAXIMUM} bytes without a comma outside of its strings.")
    yield start, len(document)


def _open_after(stack: bytes, brackets: bytes) -> Generator[None, None, bytes]:
    """What is open after these brackets where that was open before. Raises Malformed where they do not match."""
    for _ in range(_PAIRS_ROUNDS):
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
    still_open = bytearray(stack)
    for start in range(0, len(brackets), BRACKETS_STEP):
        for bracket in brackets[start : start + BRACKETS_STEP]:
            if bracket in _OPEN:
                still_open.append(bracket)
            elif not still_open or still_open.pop() != _OPENS[bracket]:
                refuse()
        yield
    return bytes(still_open)


def _join(lengths: list[int], text: bytes, before: bytes, after: bytes) -> None:
    """Read one piece between what is open before and after it, and put its values to those that came before."""
    opening = b"".join(map(_OPEN.__getitem__, before)) + b"0" if before else b""
    closing = _MORE[after[-1]] + b"".join(map(_CLOSE.__getitem__, reversed(after))) if after else b""
    found = value_lengths(opening + text + closing, None, MEMBERS_MAXIMUM + 2)
    if len(after) == 1:
        found.pop()
    elif after:
        found[-1] -= len(closing) - 1
    if before:
        lengths[-1] += found[0] - (len(opening) - _FIRST)
        del found[0]
    lengths += found
    if len(lengths) > MEMBERS_MAXIMUM:
        too_many_members()
