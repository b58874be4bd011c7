"""Bodies: where they end, in whatever pieces they come."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproxy.errors import ApiError
from meterproxy.proxy.request_framing import BARREN_BYTES, LINE_BYTES, STEPS_AT_ONCE, Chunked, Counted, Framing

WHOLE = rb"""
0\r\n\r\n                                           |
3\r\nabc\r\n0\r\n\r\n                               | abc
03\r\nabc\r\n000\r\n\r\n                            | abc
2\r\nab\r\n1\r\nc\r\n0\r\n\r\n                      | abc
3;a=b\r\nabc\r\n0;c\r\n\r\n                         | abc
3;a="b;c"\r\nabc\r\n0\r\n\r\n                       | abc
a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n     | 01234567890123456789
3\r\nabc\r\n0\r\nX: y\r\nZ:\r\n\r\n                 | abc
4\r\n\r\n\r\n\r\n0\r\n\r\n                          | \r\n\r\n
5\r\n0\r\n\r\n\r\n0\r\n\r\n                         | 0\r\n\r\n
"""

FAULTY = rb"""
\r\n                             | no size
zz\r\n                           | no number
-3\r\n                           | a sign
+3\r\n                           | a sign
0x3\r\n                          | a prefix
3 \r\n                           | a blank behind
 3\r\n                           | a blank in front
3 ;a\r\n                         | a blank before the extension
3;a\x00\r\n                      | a control byte in an extension
3;a\nb\r\n                       | LF in an extension
3\n\r\n                          | LF
1234567890123456\r\n             | more than there is
3\r\nabcd\r\n                    | more than was said
3\r\nabc0\r\n\r\n                | no line's end behind the data
3\r\nabc\n0\r\n\r\n              | LF behind the data
3\r\nabc\r\n\r\n                 | an empty line
0\r\nX\r\n\r\n                   | a trailer without a colon
0\r\n X: y\r\n\r\n               | a folded trailer
0\r\nX : y\r\n\r\n               | a trailer with a blank
0\r\nX: \x01\r\n\r\n             | a control byte in a trailer
"""


def rows(table: bytes) -> list[tuple[bytes, bytes]]:
    split = [line.rsplit(b"|", 1) for line in table.strip(b"\n").split(b"\n")]
    return [(unescaped(text.rstrip()), unescaped(said.strip())) for text, said in split]


def unescaped(text: bytes) -> bytes:
    return text.decode("unicode_escape").encode("latin-1")


def feed_often(framing: Framing, data: bytes, times: int) -> None:
    for _ in range(times):
        framing.feed(data)


def fed(framing: Framing, data: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    """Feed these bytes in pieces, and what each go leaves again, until the end; the body and what is behind it."""
    body, left = b"", b""
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    for start, end in pairwise(edges):
        left += data[start:end]
        while left and not framing.ended:
            piece, left = framing.feed(left)
            body += piece
    return body, left


@pytest.mark.parametrize(("text", "body"), rows(WHOLE))
@given(cuts=st.lists(st.integers(0, 60), max_size=6))
@settings(max_examples=50)
def test_whole(text: bytes, body: bytes, cuts: list[int]) -> None:
    """A body is its chunks' bytes, however they arrive, and what is behind it is left alone."""
    framing = Chunked()
    assert fed(framing, text + b"GET /", cuts) == (body, b"GET /")
    assert framing.ended


@pytest.mark.parametrize(("text", "_why"), rows(FAULTY))
def test_faulty(text: bytes, _why: bytes) -> None:
    """What is not exactly as chunks are is refused, in one piece and byte by byte."""
    for cuts in ([], list(range(len(text)))):
        with pytest.raises(ApiError):
            fed(Chunked(), text, cuts)


@given(pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=8), cuts=st.lists(st.integers(0, 500), max_size=8))
@settings(max_examples=200)
def test_any_bytes(pieces: list[bytes], cuts: list[int]) -> None:
    """Any bytes pass in chunks, those that look like framing too."""
    data = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    assert fed(Chunked(), data + b"rest", cuts) == (b"".join(pieces), b"rest")


@given(length=st.integers(0, 30), cuts=st.lists(st.integers(0, 40), max_size=4))
def test_counted(length: int, cuts: list[int]) -> None:
    """A body of a known length ends with its last byte."""
    data = bytes(range(40))
    framing = Counted(length)
    assert fed(framing, data, cuts) == (data[:length], data[length:])
    assert framing.ended


def test_tiny_chunks_are_read_in_several_goes() -> None:
    """Many tiny chunks at once are not read at once."""
    framing = Chunked()
    data = b"1\r\nx\r\n" * STEPS_AT_ONCE
    piece, left = framing.feed(data)
    assert 0 < len(piece) < STEPS_AT_ONCE
    assert len(left) == len(data) - 6 * len(piece)


@pytest.mark.parametrize(
    "data",
    [
        b"3" + b";" + b"a" * LINE_BYTES,
        b"1;" + b"a" * (LINE_BYTES - 10),
        b"0\r\nX: " + b"a" * LINE_BYTES,
    ],
)
def test_long_lines(data: bytes) -> None:
    """Extensions and trailers do not go on forever, in a line or in many."""
    framing = Chunked()
    chunk = data + b"\r\nx\r\n"
    with pytest.raises(ApiError):
        feed_often(framing, chunk, BARREN_BYTES // LINE_BYTES + 2)


def test_many_trailers() -> None:
    """Trailers are bounded altogether."""
    framing = Chunked()
    framing.feed(b"0\r\n")
    with pytest.raises(ApiError):
        feed_often(framing, b"X: " + b"a" * 500 + b"\r\n", BARREN_BYTES // 500 + 1)
