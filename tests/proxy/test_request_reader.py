"""Heads: what is refused, what is understood, and that a remembered head reads the same as a parsed one."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproxy.errors import ApiError
from meterproxy.proxy.request_head import NO_LENGTH
from meterproxy.proxy.request_reader import HeadLimits, HeadReader

HOST = b"Host: a\r\n"
POST = b"POST /v1/x HTTP/1.1\r\n" + HOST

REFUSED = rb"""
GET /v1/x HTTP/1.1\r\n                                                             | no host
GET /v1/x HTTP/1.1\r\nHost: a\r\nHost: a\r\n                                       | two hosts
GET /v1/x HTTP/1.0\r\nHost: a\r\nHost: a\r\n                                       | two hosts, though none is needed
GET /v1/x HTTP/1.1\r\nHost: a b\r\n                                                | a host with a blank
GET /v1/x HTTP/1.1\r\nHost: a/b\r\n                                                | a host with a path
GET /v1/x HTTP/1.1\r\nHost: u@a\r\n                                                | a host with a user
GET /v1/x HTTP/1.1\r\nHost : a\r\n                                                 | a blank before the colon
GET /v1/x HTTP/1.1\r\n Host: a\r\n                                                 | a blank before the name
GET /v1/x HTTP/1.1\r\nHost: a\r\n: b\r\n                                           | no name
GET /v1/x HTTP/1.1\r\nHost: a\r\nX\r\n                                             | no colon
GET /v1/x HTTP/1.1\r\nHost: a\r\nX(: b\r\n                                         | a name that is no token
GET /v1/x HTTP/1.1\r\nHost: a\r\nX\x80: b\r\n                                      | a name beyond ASCII
GET /v1/x HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n                                    | a folded line
GET /v1/x HTTP/1.1\r\nHost: a\r\nX:\r\n\tc\r\n                                     | a folded line, by a tab
GET /v1/x HTTP/1.1\r\nHost: a\r\nX: b\x00c\r\n                                     | NUL
GET /v1/x HTTP/1.1\r\nHost: a\r\nX: b\x01c\r\n                                     | a control byte
GET /v1/x HTTP/1.1\r\nHost: a\r\nX: b\x7fc\r\n                                     | DEL
GET /v1/x HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n                                       | a bare CR
GET /v1/x HTTP/1.1\r\nHost: a\r\nX: b\r\rY: c\r\n                                  | CR for a line's end
GET /v1/x HTTP/1.1\r\nHost: a\nX: b\r\n                                            | LF for a line's end
GET /v1/x HTTP/1.1\nHost: a\r\n                                                    | LF behind the request line
\nGET /v1/x HTTP/1.1\r\nHost: a\r\n                                                | LF in front
\r\n\r\rGET /v1/x HTTP/1.1\r\nHost: a\r\n                                           | CR in front
 GET /v1/x HTTP/1.1\r\nHost: a\r\n                                                 | a blank in front
GET  /v1/x HTTP/1.1\r\nHost: a\r\n                                                 | two blanks
GET /v1/x  HTTP/1.1\r\nHost: a\r\n                                                 | two blanks
GET\t/v1/x HTTP/1.1\r\nHost: a\r\n                                                 | a tab
GET /v1/x HTTP/1.1 \r\nHost: a\r\n                                                 | a blank behind
GET /v1/a b HTTP/1.1\r\nHost: a\r\n                                                | a blank in the target
GET /v1/a\tb HTTP/1.1\r\nHost: a\r\n                                               | a tab in the target
GET /v1/a\x00 HTTP/1.1\r\nHost: a\r\n                                              | NUL in the target
GET /v1/\xc3\xa9 HTTP/1.1\r\nHost: a\r\n                                           | a target beyond ASCII
GET v1/x HTTP/1.1\r\nHost: a\r\n                                                   | a target that is none
GET * HTTP/1.1\r\nHost: a\r\n                                                      | the target of OPTIONS
GET ftp://a/x HTTP/1.1\r\nHost: a\r\n                                              | another scheme
GET http:///x HTTP/1.1\r\nHost: a\r\n                                              | no authority
GET /v1/x\r\n                                                                      | HTTP/0.9
GET /v1/x HTTP/0.9\r\nHost: a\r\n                                                  | HTTP/0.9, in words
GET /v1/x HTTP/1.2\r\nHost: a\r\n                                                  | a version that there is not
GET /v1/x HTTP/1.10\r\nHost: a\r\n                                                 | a version that there is not
GET /v1/x HTTP/2.0\r\nHost: a\r\n                                                  | HTTP/2
GET /v1/x http/1.1\r\nHost: a\r\n                                                  | another protocol
GET /v1/x RTSP/1.0\r\nHost: a\r\n                                                  | another protocol
OPTIONS * RTSP/1.0\r\nHost: a\r\n                                                  | another protocol, with a method of its own
SOURCE /v1/x ICE/1.0\r\nHost: a\r\n                                                | another protocol
PRI * HTTP/2.0\r\n                                                                 | the preface of HTTP/2
get /v1/x HTTP/1.1\r\nHost: a\r\n                                                  | a method in lower case
FROB /v1/x HTTP/1.1\r\nHost: a\r\n                                                 | an unknown method
CONNECT a:443 HTTP/1.1\r\nHost: a\r\n                                              | a tunnel
POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n                              | an empty length
POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n                           | a sign
POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n                           | a sign
POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n                          | hexadecimal
POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3_0\r\n                          | digits as in Python
POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3.0\r\n                          | a fraction
POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3 3\r\n                          | two numbers
POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n                         | a list
POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n       | two lengths, even equal ones
POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\ncontent-length: 4\r\n       | two lengths
POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1234567890123456\r\n             | more than there is
POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n | a length and chunks
POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n | chunks and a length
POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n                           | no coding
POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n                  | another coding
POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n                      | another coding
POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n             | two codings
POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n          | twice chunked
POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n | twice chunked
POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n                   | spelled as nobody does
POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n                  | nearly chunked
POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n               | chunked with a parameter
POST /v1/x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n                   | chunks over HTTP/1.0
\x16\x03\x01\x02\x00\r\n                                                           | TLS
"""

TOO_LARGE = [
    b"GET /v1/" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v1/" + b"a" * 9000,
    POST + b"X: " + b"a" * 17000 + b"\r\n\r\n",
    POST + b"X: " + b"a" * 17000,
    POST + b"".join(b"X%d: a\r\n" % n for n in range(128)) + b"\r\n",
    POST + (b"X: " + b"a" * 16000 + b"\r\n") * 5 + b"\r\n",
    POST + (b"X: " + b"a" * 16000 + b"\r\n") * 5,
]


def rows(table: bytes) -> list[tuple[bytes, str]]:
    split = [line.rsplit(b"|", 1) for line in table.strip(b"\n").split(b"\n")]
    return [(text.rstrip().decode("unicode_escape").encode("latin-1"), why.strip().decode()) for text, why in split]


def reader() -> HeadReader:
    return HeadReader(HeadLimits())


def told(heads: HeadReader, rest: bytes | None) -> object:
    """All that a reader says of a head."""
    head = heads.head
    if rest is None or head is None:
        return None
    return (
        (head.method, head.target, head.raw_headers, head.http_1_1, head.closes, head.chunked, head.expects_continue),
        heads.length,
        rest,
    )


def read(heads: HeadReader, data: bytes) -> object:
    """What a reader says of these bytes; a refusal by its status."""
    try:
        return told(heads, heads.feed(data))
    except ApiError as error:
        return error.status


@pytest.mark.parametrize(("head", "_why"), rows(REFUSED))
def test_refused(head: bytes, _why: str) -> None:
    """What two readers could understand differently is refused, in one piece and byte by byte."""
    status = 405 if head.startswith(b"CONNECT") else 400
    assert read(reader(), head + b"\r\nrest") == status
    heads = reader()
    answers = [read(heads, bytes([byte])) for byte in head + b"\r\n"]
    assert next(answer for answer in answers if answer is not None) == status


@pytest.mark.parametrize("head", TOO_LARGE)
def test_too_large(head: bytes) -> None:
    """A line, a header, their number and all of them together have limits, also before the head is whole."""
    assert read(reader(), head) == 431


def test_up_to_the_limits() -> None:
    """What just fits passes, in whatever pieces."""
    line = b"GET /" + b"a" * (8190 - 14) + b" HTTP/1.1\r\n"
    field = b"X: " + b"a" * (16384 - 3) + b"\r\n"
    more = b"".join(b"X%d: a\r\n" % n for n in range(126))
    assert len(line) == 8192
    data = line + HOST + field + more + b"\r\n"
    heads = reader()
    assert heads.feed(data) == b""
    heads = reader()
    pieces = [data[start : start + 997] for start in range(0, len(data), 997)]
    assert [heads.feed(piece) for piece in pieces] == [None] * (len(pieces) - 1) + [b""]


UNDERSTOOD = rb"""
POST /v1/x?a=%2F HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n           | /v1/x?a=%2F  12   -
POST /v1/x HTTP/1.1\r\nhost:a:8080\r\nCONTENT-LENGTH:  007 \r\n           | /v1/x        7    -
POST /v1/x HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: chunked\r\n   | /v1/x        -1   chunked
GET http://b/v1/x HTTP/1.1\r\nHost: a\r\n                                 | /v1/x        0    -
GET HTTPS://b:1 HTTP/1.1\r\nHost: a\r\n                                   | /            0    -
GET http://b?q HTTP/1.1\r\nHost: a\r\n                                    | /?q          0    -
OPTIONS * HTTP/1.1\r\nHost:\r\n                                           | *            0    -
\r\nGET / HTTP/1.1\r\nHost: a\r\n                                         | /            0    -
\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n                                 | /            0    -
GET / HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive, Close\r\n            | /            0    closes
GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n | /         0    closes
GET / HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n                       | /            0    -
GET / HTTP/1.0\r\n                                                        | /            0    closes
GET / HTTP/1.0\r\nConnection: keep-alive\r\n                              | /            0    closes
POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n | /          3    expects_continue
POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n | /          3    closes
POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 3\r\n        | /            3    -
GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n      | /            0    -
POST / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 3\r\n | / 3 -
M-SEARCH / HTTP/1.1\r\nHost: a\r\nX: \xff\tb\r\n                          | /            0    -
"""


@pytest.mark.parametrize(("text", "facts"), rows(UNDERSTOOD))
def test_understood(text: bytes, facts: str) -> None:
    """What a head says: target, length, and what it asks of the connection; the second time from memory."""
    target, length, flag = facts.split()
    heads = reader()
    for _ in range(2):
        assert heads.feed(text + b"\r\nrest") == b"rest"
        head = heads.head
        assert head is not None
        assert (head.target, heads.length) == (target, int(length))
        flags = {name for name in ("closes", "chunked", "expects_continue") if getattr(head, name)}
        assert flags == {flag} - {"-"}


def test_headers() -> None:
    """Headers are found in any case, keep their spelling and order, lose blanks around them and leave out the length."""
    heads = reader()
    heads.feed(b"POST / HTTP/1.1\r\nHost: a\r\nX-B: \t1 \t\r\nContent-Length: 5\r\nx-b:\r\nX-C: \xff\r\n\r\n")
    head = heads.head
    assert head is not None
    assert head.raw_headers == ((b"Host", b"a"), (b"X-B", b"1"), (b"x-b", b""), (b"X-C", b"\xff"))
    assert head.headers.getall("x-B") == ["1", ""]
    assert head.headers["X-C"].encode("utf-8", "surrogateescape") == b"\xff"
    assert head.headers is head.headers


def test_same_head_is_the_same_object() -> None:
    """A head that comes again with another length is the same object; another head is not, nor is one with chunks."""
    heads = reader()
    seen = []
    for data in (
        POST + b"Content-Length: 1\r\nX: y\r\n\r\n",
        POST + b"Content-Length: 123\r\nX: y\r\n\r\n",
        POST + b"Content-Length: 1\r\nX: z\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n",
        POST + b"\r\n",
        POST + b"\r\n",
    ):
        assert heads.feed(data) == b""
        seen.append((id(heads.head), heads.length, heads.head))
    assert seen[0][0] == seen[1][0] != seen[2][0]
    assert seen[3][0] != seen[4][0]
    assert seen[5][0] == seen[6][0]
    assert [length for _, length, _ in seen] == [1, 123, 1, NO_LENGTH, NO_LENGTH, 0, 0]


@pytest.mark.parametrize(
    "length",
    [
        *(b"0 00 7 123456789012345 1234567890123456 12345678901234567890 +3 -3 0x3 1_0 3,3 3.0 3a a".split()),
        *(b"", b" ", b" 3", b"3 ", b"3\t", b"3 3", b"\x003", b"3\x00", b"3\n", b"\xb2", b"\xd9\xa3", b"3\r", b"3\r\n"),
        *(b"3\r\nContent-Length: 3", b"3\r\nTransfer-Encoding: chunked", b"3\r\n 3", b"3\r\n\r\n", b"3\r\nX: y"),
    ],
)
@pytest.mark.parametrize("behind", [b"", b"\r\nX: y"])
def test_memory_and_parser_agree_on_lengths(length: bytes, behind: bytes) -> None:
    """Whatever stands where a remembered head had its length, memory and parser read the same."""
    remembering = reader()
    assert remembering.feed(POST + b"Content-Length: 5" + behind + b"\r\n\r\n") == b""
    data = POST + b"Content-Length: " + length + behind + b"\r\n\r\nbody"
    assert read(remembering, data) == read(reader(), data)


def test_an_empty_line_alone_is_no_head() -> None:
    """What some clients send behind a body does not begin a request."""
    heads = reader()
    assert heads.feed(b"\r\n") is None
    assert not heads.begun
    assert heads.feed(POST) is None
    assert heads.begun


LINES = [
    b"Content-Length: 3",
    b"content-length: 12",
    b"Content-Length: 012",
    b"CONTENT-LENGTH: 4",
    b"Content-Length:5",
    b"Content-Length: 6 ",
    b"Content-Length: 1234567890123456",
    b"Content-Length: +1",
    b"Content-Length: ",
    b"Content-Length: 3, 3",
    b"X: Content-Length: 3",
    b"Transfer-Encoding: chunked",
    b"Expect: 100-continue",
    b"Connection: close",
    b"Host: a",
    b" folded",
    b"X: y",
    b"",
]
STARTS = [
    b"POST /v1/x HTTP/1.1",
    b"GET /Content-Length: HTTP/1.1",
    b"POST /v1/x HTTP/1.0",
    b"\r\nPOST /v1/x HTTP/1.1",
    b"\r\n\r\nPOST /v1/x HTTP/1.1",
]
HEADS = st.builds(
    lambda start, lines, ending: ending.join([start, *lines]) + ending * 2,
    st.sampled_from(STARTS),
    st.lists(st.sampled_from(LINES), max_size=5),
    st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n"]),
)


def mutated(data: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    for at, size, instead in cuts:
        start = at % (len(data) + 1)
        data = data[:start] + instead + data[start + size :]
    return data


@settings(max_examples=500)
@given(
    first=HEADS,
    second=HEADS,
    again=st.booleans(),
    cuts=st.lists(
        st.tuples(
            st.integers(0, 300), st.integers(0, 3), st.sampled_from([b"", b"0", b"9", b"\r\n", b" ", b":", b"\n", b"A"])
        ),
        max_size=2,
    ),
)
def test_memory_and_parser_agree(first: bytes, second: bytes, again: bool, cuts: list[tuple[int, int, bytes]]) -> None:
    """Whatever was read before, a head reads as it would on a new connection: accepted alike, refused alike."""
    remembering = reader()
    read(remembering, first)
    if remembering.begun:
        return  # refused, or not whole: this connection would read nothing else
    data = mutated(first if again else second, cuts) + b"body"
    assert read(remembering, data) == read(reader(), data)


@settings(max_examples=200)
@given(head=HEADS, cuts=st.lists(st.integers(0, 200), max_size=5))
def test_any_split_reads_the_same(head: bytes, cuts: list[int]) -> None:
    """However a head's bytes arrive, the same is read of it."""
    data = head + b"GET"
    whole = read(reader(), data)
    heads, said = reader(), None
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    for start, end in pairwise(edges):
        said = read(heads, data[start:end])
        if said is not None:
            rest = data[end:]
            said = (*said[:2], said[2] + rest) if isinstance(said, tuple) else said
            break
    assert said == whole


@pytest.mark.parametrize("head", [b"CONNECT a.example\n\r\n", b"GET /v1/x\n\r\n"])
def test_an_end_that_only_llhttp_sees_is_refused_at_once(head: bytes) -> None:
    """A head that is over for one reader and not for the other is refused in any pieces, whatever comes behind."""
    for pieces in ([head], [head + b"more"], [head[at : at + 1] for at in range(len(head))]):
        with pytest.raises(ApiError):
            b"".join(filter(None, map(reader().feed, pieces)))
