"""Large bodies: read in steps, each of a few milliseconds at most.

Rules
-----
- Bodies of at most `DIRECT_BYTES` are read at once: nothing here is on their way.
- What is left of a body without its long strings is read in pieces (see `pieces`): its members, how many values they
  hold and whether they have what their readers look for are known before a reader asks.
- What a reader says of a large body is what it says of the whole: it reads the short document (see `abridged`), and
  where lengths matter it is told those of the whole.
- Members of few bytes are read from the body itself, whatever strings they have; so nothing is ever written into a
  request that was cut.
- No copy of the body is made: it is sent in the pieces between its changes.
"""

import os
import re
from binascii import hexlify
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Mapping
from operator import add, attrgetter
from typing import Final

import msgspec

from meterproxy.proxy.abridged import NONCE_BYTES, Abridged, abridging
from meterproxy.proxy.body import TEXT_MAXIMUM, Body, Malformed, Member, Members, Spans, spans_between, spliced
from meterproxy.proxy.outline import Counts, counts
from meterproxy.proxy.pieces import Piece, walking
from meterproxy.proxy.turns import Turns

DIRECT_BYTES: Final = 1 << 18
"""The longest body, or answer, that is read in one step."""
SMALL_BYTES: Final = 1 << 16
"""The longest member that is read from the body itself."""
LEFT_MAXIMUM: Final = 8 << 20
"""What may be left of a body without its long strings: 100 000 parts of a message, or a million ids of tokens."""

_QUOTE: Final = ord('"')
_end: Final = attrgetter("end")


class LargeMembers(Members):
    """The members of a large body; see `Members`."""

    __slots__ = ("_found_in", "_pieces", "_short", "abridged")

    def __init__(self, abridged: Abridged, spans: Spans, wanted: frozenset[str], pieces: list[Piece]) -> None:
        whole, document = abridged.whole, abridged.document
        origin = abridged.origin
        of = {name: Member(*map(origin, span)) for name, span in spans.of.items()}
        values = {
            name: whole[here.start : here.end]
            if here.end - here.start <= SMALL_BYTES
            else document[span.start : span.end]
            for (name, span), here in zip(spans.of.items(), of.values(), strict=True)
        }
        super().__init__(whole, values, wanted, None)
        self.document = document
        self.abridged = abridged
        self._pieces = pieces
        self._short = spans.of
        self._found_in: dict[tuple[re.Pattern[bytes], str], bool] = {}
        self._spans = Spans(of, origin(spans.tail), spans.empty)

    def size(self, name: str) -> int:
        span = self.spans.get(name)
        return 0 if span is None else span.end - span.start

    def length(self, raw: msgspec.Raw | bytes) -> int:  # type: ignore[override]
        return self.abridged.length(raw)

    def searching(self, patterns: Iterable[re.Pattern[bytes]]) -> Generator[None, None, None]:
        """Look for these in all members, in steps."""
        patterns = tuple(patterns)
        for name, span in self._short.items():
            if span.end - span.start > SMALL_BYTES and self.document[span.start] != _QUOTE:
                for pattern in patterns:
                    yield from self._search(pattern, name, span)

    def _search(self, pattern: re.Pattern[bytes], name: str, span: Member) -> Generator[None, None, None]:
        found = False
        for start, end, _ in self._pieces_of(span):
            found = pattern.search(self.document, start, end) is not None
            yield
            if found:
                break
        self._found_in[pattern, name] = found

    def _pieces_of(self, span: Member) -> Iterator[tuple[int, int, Counts | None]]:
        """The pieces of a value: from where to where, and what those hold that are not cut at its ends."""
        for piece in self._pieces[bisect_right(self._pieces, span.start, key=_end) :]:
            if piece.start >= span.end:
                break
            whole = span.start <= piece.start and piece.end <= span.end
            yield max(piece.start, span.start), min(piece.end, span.end), piece.counts if whole else None

    def finds(self, pattern: re.Pattern[bytes], name: str, raw: bytes) -> bool:
        found = self._found_in.get((pattern, name))
        return super().finds(pattern, name, raw) if found is None else found

    def counts(self, name: str, raw: bytes, most_strings: int) -> Counts:
        if len(raw) <= SMALL_BYTES:
            return super().counts(name, raw, most_strings)
        total = Counts(0)
        for start, end, held in self._pieces_of(self._short[name]):
            more = held or counts(self.document[start:end], end - start)
            total = Counts(*map(add, total, more))
        return total

    def dense(self, name: str, raw: bytes, most_commas: int) -> bool:
        held = self.counts(name, raw, 2 * most_commas)
        return held.strings > 2 * most_commas or held.commas > most_commas

    def written(self, name: str) -> str:
        span = self.spans.get(name)
        return "" if span is None else self.abridged.written(span.start, span.end)

    def string(self, name: str) -> str | None:
        if self.size(name) > TEXT_MAXIMUM and (self.raw(name) or b"").startswith(b'"'):
            raise Malformed(f"'{name}' is too long.", param=name)
        return super().string(name)

    def members(self, name: str, wanted: frozenset[str]) -> Members | None:
        if self.size(name) > SMALL_BYTES:
            raise Malformed(f"'{name}' is too long.", param=name)
        return super().members(name, wanted)

    def to_send(self, values: Mapping[str, bytes]) -> Body:
        return spliced(memoryview(self.body), self._edits(values)) if values else self.body


def new_nonce() -> bytes:
    """What no client can have written into its body."""
    return hexlify(os.urandom(NONCE_BYTES // 2))


def scanning(
    body: bytes, wanted: frozenset[str], nonce: bytes, patterns: Iterable[re.Pattern[bytes]] = ()
) -> Generator[None, None, LargeMembers]:
    """As `body.scan`, in steps; `patterns` are what its readers will look for. Raises Malformed."""
    abridged = yield from abridging(body, nonce, LEFT_MAXIMUM)
    yield
    walked = yield from walking(abridged.document, abridged.rests)
    spans = spans_between(abridged.document, walked.lengths, wanted, None)
    members = LargeMembers(abridged, spans, wanted, walked.pieces)
    yield
    yield from members.searching(patterns)
    return members


def expanding(members: Members, texts: list[str]) -> Generator[None, None, list[str]]:
    """Texts that were read from a body, in full."""
    if isinstance(members, LargeMembers):
        texts = yield from members.abridged.expanding(texts)
    return texts


async def abridged(text: bytes, turns: Turns) -> Abridged:
    """An answer to be read: what is left of a large one, nothing of one that is no JSON; a small one as it is."""
    if len(text) <= DIRECT_BYTES:
        return Abridged(text, text)
    try:
        return await turns.take(abridging(text, new_nonce()))
    except Malformed:
        return Abridged(text, b"")
