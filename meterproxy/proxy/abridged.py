r"""Abridged: a large JSON document with its long strings cut short, found in steps.

A document of many megabytes is a few long strings (texts, pictures, files) and little else. What is left when those are
cut short is read like any small document, by the same code.

Rules
-----
- A step looks at `STEP_BYTES`, or a little more; then the generator hands control back.
- What is cut away was validated: what no reader may accept is refused here, and what some readers refuse (bytes that
  are not UTF-8, lone surrogates) shows in what is left. So a reader's verdict is that on the whole document.
- A string that was cut ends in a ticket: a number behind a nonce that no client can know. By it one learns how long the
  string was (`length`) and gets all of it (`expanding`). Two long strings are never taken for the same.
- Structure is not touched: a place in the short document is one in the whole (`origin`).
"""

import codecs
import re
from bisect import bisect_right
from collections.abc import Generator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

import msgspec

from meterproxy.proxy.body import refuse, without_surrogates

STEP_BYTES: Final = 1 << 17
"""Bytes of one step: about a millisecond, whatever they are."""
STRING_COST_BYTES: Final = 1 << 10
"""What a string that is looked at by itself counts for, beyond its length."""
LONGEST_BYTES: Final = 768
"""Strings of more bytes are cut."""
HEAD_BYTES: Final = 536
"""What stays of a string that is cut: more than an id may have, or what is shown of one, or the head of a sound."""
NONCE_BYTES: Final = 12
SEARCHED: Final = 4096
"""Characters at the end of a piece of text in which a place is sought where no token can reach across."""

Steps = Generator[None, None, None]

_SKIPPED: Final = re.compile(rb'(?:[^"]++|"[^"\\]{0,256}+(?:\\.[^"\\]{0,64}+){0,8}+")*+', re.DOTALL)
"""Everything outside of strings, and short strings."""
_UNITS: Final = re.compile(rb'[^"\\]*+(?:\\(?:[^u]|u[0-9A-Fa-f]{4})[^"\\]*+)*+', re.DOTALL)
"""A string's contents, up to its quote or what is no escape."""
_HIGH: Final = re.compile(rb"\\u[dD][89abAB][0-9A-Fa-f]{2}")
_UNIT_BYTES: Final = 6
_QUOTE: Final = ord('"')
_LONE: Final = b"\\ud800"
_NOT_UTF_8: Final = b"\xff"
_STRING: Final = msgspec.json.Decoder(str)
_RAW: Final = msgspec.json.Decoder(msgspec.Raw)
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError)


class Span(NamedTuple):
    """Bytes of the whole document: the contents of a string, or (`written`) any value as it stands there."""

    start: int
    end: int
    written: bool = False


class Abridged:
    """A document with its long strings cut short, and the way back."""

    __slots__ = ("_lengths", "_nonce", "_places", "_removed", "_spans", "_ticket", "document", "whole")

    def __init__(self, whole: bytes, document: bytes, nonce: bytes = b"-", cuts: "Sequence[_Cut]" = ()) -> None:
        self.whole = whole
        self.document = document
        self._nonce = nonce
        self._ticket = re.compile(nonce + rb"(\d{8})")
        self._spans = [Span(cut.start + 1, cut.end - 1) for cut in cuts]
        self._lengths = [cut.end - cut.start - len(cut.left) for cut in cuts]
        self._removed = [0, *accumulate(self._lengths)]
        self._places = [cut.end - removed for cut, removed in zip(cuts, self._removed[1:], strict=True)]

    def length(self, raw: msgspec.Raw | bytes) -> int:
        """How many bytes a value has in the whole document."""
        return len(raw) + sum(self._lengths[int(number)] for number in self._ticket.findall(raw))

    def origin(self, position: int) -> int:
        """Where a place outside of strings is in the whole document."""
        return position + self._removed[bisect_right(self._places, position)]

    def written(self, start: int, end: int) -> str:
        """A ticket that stands for these bytes of the whole document, as they are written there."""
        self._spans.append(Span(start, end, written=True))
        return f"{self._nonce.decode()}{len(self._spans) - 1:08d}"

    def expanding(self, texts: list[str]) -> Generator[None, None, list[str]]:
        """The texts in full, long ones in pieces across whose ends no token reaches."""
        found: list[str] = []
        ticket = re.compile(self._ticket.pattern.decode())
        for text in texts:
            told = ticket.search(text)
            if told is None:
                found.append(text)
            else:
                yield from self._expand(self._spans[int(told[1])], found)
        return found

    def _expand(self, span: Span, found: list[str]) -> Steps:
        rest, position = "", span.start
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while position < span.end:
            end = min(position + STEP_BYTES, span.end)
            if not span.written:
                end = max(_unit_end(self.whole, position, end), position + 1)
            piece = self.whole[position:end]
            text = rest + (decoder.decode(piece, end == span.end) if span.written else _text(piece))
            cut = _boundary(text)
            found.append(text[:cut])
            rest, position = text[cut:], end
            yield
        found.append(rest)


class _Cut(NamedTuple):
    """A string of the whole document with its quotes, and what is left of it."""

    start: int
    end: int
    left: bytes


def abridging(body: bytes, nonce: bytes) -> Generator[None, None, Abridged]:
    """Cut the long strings of a document.

    Args:
        nonce: letters and digits that are in no document but by chance.

    Raises:
        Malformed: a string is none, or does not end.
    """
    pieces: list[bytes] = []
    cuts: list[_Cut] = []
    position = kept = spent = 0
    while position < len(body):
        skipped = _SKIPPED.match(body, position, position + STEP_BYTES)
        assert skipped is not None, "it may match nothing"
        start = end = skipped.end()
        if start < len(body) and body[start] == _QUOTE:
            end, flaws = yield from _string(body, start)
            if end - start > LONGEST_BYTES:
                head = body[start : _unit_end(body, start + 1, start + HEAD_BYTES)]
                cut = _Cut(start, end, b'%b%b%b%08d"' % (head, flaws, nonce, len(cuts)))
                cuts.append(cut)
                pieces += (body[kept:start], cut.left)
                kept = end
        spent += end - position + STRING_COST_BYTES
        position = end
        if spent > STEP_BYTES:
            spent = 0
            yield
    pieces.append(body[kept:])
    return Abridged(body, b"".join(pieces), nonce, cuts)


def _string(body: bytes, start: int) -> Generator[None, None, tuple[int, bytes]]:
    """Where the string ends that begins there, and what some readers would refuse of it."""
    position = start + 1
    lone = odd = False
    while True:
        end = _unit_end(body, position, position + STEP_BYTES)
        if end > position:
            found = _flaws(body[position:end])
            lone, odd = lone or _LONE in found, odd or _NOT_UTF_8 in found
        if body[end : end + 1] == b'"':
            return end + 1, _LONE * lone + _NOT_UTF_8 * odd
        if end <= position:
            refuse()
        position = end
        yield


def _unit_end(body: bytes, start: int, limit: int) -> int:
    """Where contents of a string end, before its quote and not behind `limit`: in no escape, pair or character."""
    units = _UNITS.match(body, start, limit)
    assert units is not None, "it may match nothing"
    end = units.end()
    if end < limit - _UNIT_BYTES or end >= len(body) or body[end] == _QUOTE:
        return end
    if _HIGH.match(body, end - _UNIT_BYTES, end) and end - _UNIT_BYTES > start:
        before = body[start : end - _UNIT_BYTES + 1]
        if (len(before) - len(before.rstrip(b"\\"))) % 2:
            return end - _UNIT_BYTES
    shortest = max(start, end - 3)
    while end > shortest and body[end] & 0xC0 == 0x80 and body[end - 1] >= 0x80:
        end -= 1
    return end


def _flaws(contents: bytes) -> bytes:
    """What of a string's contents some readers refuse. Raises Malformed for what all of them do."""
    quoted = b'"%b"' % contents
    try:
        _STRING.decode(quoted)
    except _UNREADABLE:
        pass
    else:
        return b""
    whole = without_surrogates(quoted)
    if not _accepts(_RAW, whole):
        refuse()
    return _LONE * (not _accepts(_RAW, quoted)) + _NOT_UTF_8 * (not _accepts(_STRING, whole))


def _accepts(decoder: "msgspec.json.Decoder[str] | msgspec.json.Decoder[msgspec.Raw]", quoted: bytes) -> bool:
    try:
        decoder.decode(quoted)
    except _UNREADABLE:
        return False
    return True


def _text(contents: bytes) -> str:
    """A string's contents as text; as they are written where they cannot be read."""
    for readable in (contents, without_surrogates(contents)):
        try:
            return _STRING.decode(b'"%b"' % readable)
        except _UNREADABLE:
            continue
    return contents.decode("utf-8", "replace")


def _boundary(text: str) -> int:
    """Where a text is cut that goes on: before a space that follows something else, at its end if there is none."""
    space = len(text)
    while (space := text.rfind(" ", max(1, len(text) - SEARCHED), space)) > 0:
        if not text[space - 1].isspace():
            return space
    return len(text)
