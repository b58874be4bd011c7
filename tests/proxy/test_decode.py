"""Decoding a copy: what can be read is read, the rest is counted, nothing raises."""

import gzip
import zlib

import pytest

from meterproxy.proxy import decode
from meterproxy.proxy.decode import Decoder, decoder_for

TEXT = b"data: hello\n\n" * 1000


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        (b"gzip", gzip.compress(TEXT, mtime=0)),
        (b"x-gzip", gzip.compress(TEXT, mtime=0)),
        (b"deflate", zlib.compress(TEXT)),
        (b"deflate", raw_deflate(TEXT)),
    ],
)
@pytest.mark.parametrize("size", [20, 100_000])
def test_reads(coding: bytes, data: bytes, size: int) -> None:
    """Pieces of any size come out as the text."""
    decoder = Decoder(coding)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert b"".join(map(decoder.feed, pieces)) == TEXT
    assert decoder.unread_bytes == 0


def test_unknown_coding() -> None:
    """What cannot be read is counted."""
    decoder = Decoder(b"br")
    assert decoder.feed(b"12345") == b""
    assert decoder.unread_bytes == 5


def test_damage() -> None:
    """After a fault nothing more is read."""
    decoder = Decoder(b"gzip")
    decoder.feed(gzip.compress(TEXT, mtime=0)[:20])
    assert decoder.feed(b"\xff" * 100) == b""
    assert decoder.feed(gzip.compress(TEXT, mtime=0)) == b""
    assert decoder.unread_bytes > 0


def test_bombs_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small piece cannot become a large text."""
    monkeypatch.setattr(decode, "PIECE_BYTES", 1000)
    decoder = Decoder(b"gzip")
    assert len(decoder.feed(gzip.compress(b"0" * 1_000_000))) == 1000
    assert decoder.feed(b"more") == b""


def test_headers() -> None:
    """Only a coding calls for a decoder."""
    assert decoder_for({b"content-type": b"text/plain"}) is None
    assert decoder_for({b"content-encoding": b"identity"}) is None
    assert decoder_for({b"content-encoding": b"GZIP"}) is not None
