"""Large bodies: read in steps, each of a few milliseconds at most.

Rules
-----
- Bodies of at most `DIRECT_BYTES` are read at once: nothing here is on their way.
- What a reader says of a large body is what it says of the whole: it reads the short document (see `abridged`), and
  where lengths matter it is told those of the whole.
- Members of few bytes are read from the body itself, whatever strings they have; so nothing is ever written into a
  request that was cut.
- No copy of the body is made: it is sent in the pieces between its changes.
"""

import os
from binascii import hexlify
from collections.abc import Generator, Mapping
from typing import Final

import msgspec

from meterproxy.proxy.abridged import NONCE_BYTES, Abridged, abridging
from meterproxy.proxy.body import TEXT_MAXIMUM, Body, Malformed, Member, Members, Spans, spliced, walk
from meterproxy.proxy.turns import Turns

DIRECT_BYTES: Final = 1 << 18
"""The longest body, or answer, that is read in one step."""
SMALL_BYTES: Final = 1 << 16
"""The longest member that is read from the body itself."""


class LargeMembers(Members):
    """The members of a large body; see `Members`."""

    __slots__ = ("abridged",)

    def __init__(self, abridged: Abridged, spans: Spans, wanted: frozenset[str]) -> None:
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
        self._spans = Spans(of, origin(spans.tail), spans.empty)

    def size(self, name: str) -> int:
        span = self.spans.get(name)
        return 0 if span is None else span.end - span.start

    def length(self, raw: msgspec.Raw | bytes) -> int:  # type: ignore[override]
        return self.abridged.length(raw)

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


def scanning(body: bytes, wanted: frozenset[str], nonce: bytes) -> Generator[None, None, LargeMembers]:
    """As `body.scan`, in steps. Raises Malformed."""
    abridged = yield from abridging(body, nonce)
    yield
    return LargeMembers(abridged, walk(abridged.document, wanted, None), wanted)


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
