"""Decode: reads a copy of an answer that its provider compressed although nobody had asked for it.

Rules
-----
- The client gets the bytes as they came, with their header; only the meter reads what is decoded.
- What is decoded is capped, per piece and altogether. Beyond the cap, after a fault, or with a coding that we do not
  know, nothing more is read and the answer is estimated.
"""

import zlib
from collections.abc import Mapping
from typing import Final

PIECE_BYTES: Final = 16 << 20
TOTAL_BYTES: Final = 256 << 20

_GZIP_OR_ZLIB: Final = zlib.MAX_WBITS | 32
_RAW_DEFLATE: Final = -zlib.MAX_WBITS


class Decoder:
    """One answer's content coding undone, piece by piece; never raises."""

    __slots__ = ("_inflate", "_left_bytes", "_may_be_raw", "known", "unread_bytes")

    def __init__(self, coding: bytes) -> None:
        self.known = coding in {b"gzip", b"x-gzip", b"deflate"}
        """Whether the coding is one that we read."""
        self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB) if self.known else None
        self._left_bytes = TOTAL_BYTES
        self._may_be_raw = coding == b"deflate"
        """Some servers send `deflate` without zlib's frame; the very first piece tells."""
        self.unread_bytes = 0
        """Compressed bytes that could not be read."""

    def feed(self, piece: bytes) -> bytes:
        """What the piece decodes to, empty where it cannot be read."""
        text = self._inflated(piece)
        if text is None and self._may_be_raw:
            self._inflate = zlib.decompressobj(_RAW_DEFLATE)
            text = self._inflated(piece)
        self._may_be_raw = False
        if text is None:
            self._inflate = None
            self.unread_bytes += len(piece)
            return b""
        return text

    def _inflated(self, piece: bytes) -> bytes | None:
        """The piece decoded, None where it cannot be; gives up for good beyond the cap."""
        inflate = self._inflate
        if inflate is None:
            return None
        try:
            text = inflate.decompress(piece, PIECE_BYTES)
        except zlib.error:
            return None
        self._left_bytes -= len(text)
        if inflate.unconsumed_tail or self._left_bytes < 0:
            self._inflate = None
        return text


def decoder_for(fields: Mapping[bytes, bytes]) -> Decoder | None:
    """The decoder that headers, named in lower case, call for; None where an answer's bytes are its text."""
    coding = fields.get(b"content-encoding", b"identity").strip().lower()
    return None if coding == b"identity" else Decoder(coding)
