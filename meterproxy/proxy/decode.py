"""Decode: reads a copy of an answer that its provider compressed although nobody had asked for it.

Rules
-----
- The client gets the bytes as they came, with their header; only the meter reads what is decoded.
- What is decoded is capped, per piece and altogether. Beyond the cap, after a fault, or with a coding that we do not
  know, nothing more is read and the answer is estimated.
"""

import zlib
from collections.abc import Iterable
from typing import Final

PIECE_BYTES: Final = 16 << 20
TOTAL_BYTES: Final = 256 << 20

_GZIP_OR_ZLIB: Final = zlib.MAX_WBITS | 32
_RAW_DEFLATE: Final = -zlib.MAX_WBITS


class Decoder:
    """One answer's content coding undone, piece by piece; never raises."""

    __slots__ = ("_inflate", "_left_bytes", "unread_bytes")

    def __init__(self, coding: bytes) -> None:
        self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB) if coding in {b"gzip", b"x-gzip", b"deflate"} else None
        self._left_bytes = TOTAL_BYTES
        self.unread_bytes = 0
        """Compressed bytes that could not be read."""

    def feed(self, piece: bytes) -> bytes:
        """What the piece decodes to, empty where it cannot be read."""
        if self._inflate is None:
            self.unread_bytes += len(piece)
            return b""
        try:
            text = self._inflate.decompress(piece, PIECE_BYTES)
        except zlib.error:
            return self._start_raw(piece)
        self._left_bytes -= len(text)
        if self._inflate.unconsumed_tail or self._left_bytes < 0:
            self._inflate = None
        return text

    def _start_raw(self, piece: bytes) -> bytes:
        """Some servers send `deflate` without zlib's frame; only the very first piece can tell."""
        first, self._inflate = self._left_bytes == TOTAL_BYTES, None
        try:
            raw = zlib.decompressobj(_RAW_DEFLATE)
            text = raw.decompress(piece, PIECE_BYTES) if first else b""
        except zlib.error:
            text = b""
        if text:
            self._inflate = raw
            self._left_bytes -= len(text)
        else:
            self.unread_bytes += len(piece)
        return text


def decoder_for(headers: Iterable[tuple[bytes, bytes]]) -> Decoder | None:
    """The decoder that an answer's headers call for, None where its bytes are its text."""
    for name, value in headers:
        if len(name) == 16 and name.lower() == b"content-encoding" and value.lower() != b"identity":
            return Decoder(value.strip().lower())
    return None
