"""One HTTP/1.1 response as a function of bytes: feed what arrived, take the body out, ask what is known. No I/O.

llhttp reads heads and chunks; lengths and the end by closing are counted here, since it has no word for the end of
input and does not know that a request was HEAD. The usual head, plain HTTP/1.1 with one length and no chunks, arrives
in one piece and is read by two regular expressions that admit nothing that llhttp would refuse.

Rules:
- Any split of the same bytes gives the same answer; only `eof` or the framing itself ends one.
- `phase` is ENDED only at the proper end; an end of input anywhere else is a fault.
- 1xx answers are read over; 101 is a fault, we never ask for it. Heads together are at most 64 KiB.
- `reusable` is False after: HTTP/1.0, `Connection: close`, a body that closing ends, a length beside chunks, any byte
  after the end.
- Trailers are dropped. Folded lines, NUL, several lengths and unknown transfer codings are faults.
- What the quick way does not admit is no fault by that: llhttp is asked.
"""

import re
from collections.abc import Mapping
from enum import Enum, auto
from functools import lru_cache
from typing import Final

import httptools

HEAD_LIMIT_BYTES = 65536
CLOSED_BEFORE_ANSWER = "closed_before_answer"
_HEAD_END = b"\r\n\r\n"
_TAIL_BYTES = 5
_UNREADABLE = (httptools.HttpParserError, httptools.HttpParserUpgrade)  # neither is the other's kind


_USUAL_HEAD: Final = re.compile(
    rb"HTTP/1\.1 ([2-5]\d\d)(?: ([\t\x20-\x7e]*+))?+\r\n"
    rb"((?:[A-Za-z0-9_-]++:[ \t]*+[\t\x20-\x7e]*+(?<![ \t])\r\n)++)\r\n"
)
_FIELD: Final = re.compile(rb"([A-Za-z0-9_-]++):[ \t]*+([^\r\n]*+)\r\n")
_LENGTH: Final = re.compile(rb"\d{1,18}")
_NO_FIELDS: Final[Mapping[bytes, bytes]] = {}


class Phase(Enum):
    """How far the response has come."""

    HEAD = auto()
    COUNTED = auto()
    CHUNKED = auto()
    UNTIL_CLOSE = auto()
    ENDED = auto()
    BROKEN = auto()


_HEAD, _COUNTED, _CHUNKED, _UNTIL_CLOSE, _ENDED, _BROKEN = Phase


class _Heard:
    """What llhttp reports of one message."""

    __slots__ = ("ended", "headers", "on_body", "pieces", "reason")

    def __init__(self) -> None:
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.on_body = self.pieces.append
        self.ended = False

    def on_message_begin(self) -> None:
        if self.ended:
            raise ValueError("a second answer")  # stops the parser before that one's body mixes with ours

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_message_complete(self) -> None:
        self.ended = True


class AnswerDecoder:
    """Decodes one response.

    `status` is 0 until the whole head is known; what follows it may be broken all the same.

    Args:
        bodiless: the request was HEAD, so the answer has no body whatever its headers say.
    """

    __slots__ = (
        "_barren_bytes",
        "_bodiless",
        "_head_start",
        "_heads_bytes",
        "_heard",
        "_listening",
        "_parser",
        "_remaining",
        "_tail",
        "content_length",
        "content_type",
        "fault",
        "fields",
        "headers",
        "phase",
        "reason",
        "reusable",
        "status",
    )

    def __init__(self, *, bodiless: bool = False) -> None:
        self.phase = _HEAD
        self.status = 0
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.fields = _NO_FIELDS
        """The headers by their names in lower case; of one that is repeated, the last."""
        self.content_type = b""
        self.content_length: int | None = None
        self.reusable = True
        self.fault = ""
        self._bodiless = bodiless
        self._listening = False
        self._head_start = b""
        self._heads_bytes = 0
        self._remaining = 0
        self._barren_bytes = 0
        self._tail = b""

    def _listen(self) -> None:
        """Have llhttp read what comes."""
        self._listening = True
        self._heard = _Heard()
        self._parser = httptools.HttpResponseParser(self._heard)
        self._parser.set_dangerous_leniencies(lenient_chunked_length=True)

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; the body's bytes among it. Look at `phase` afterwards."""
        if self.phase is _HEAD:
            body = None if self._listening else self._take_usual_head(data)
            data = self._feed_head(data) if body is None else body
        if not data:
            return b""
        phase = self.phase
        if phase is _CHUNKED:
            return self._feed_chunked(data)
        if phase is _COUNTED:
            return self._feed_counted(data)
        if phase is _UNTIL_CLOSE:
            return data
        self.reusable = False  # a byte after the end
        return b""

    def eof(self) -> None:
        """The peer has properly closed its side: the end of a body that closing ends, a fault anywhere else."""
        if self.phase is _UNTIL_CLOSE:
            self.phase = _ENDED
        elif self.phase is not _ENDED:
            self.cut()

    def cut(self) -> None:
        """The connection was lost: a fault unless the response had ended."""
        self.reusable = False
        if self.phase is _HEAD:
            self._break("truncated_head" if self._head_start or self._heads_bytes else CLOSED_BEFORE_ANSWER)
        elif self.phase is not _ENDED:
            self._break("truncated_body")

    def _break(self, fault: str) -> None:
        if self.phase is not _BROKEN:
            self.phase = _BROKEN
            self.fault = fault
        self.reusable = False

    def _take_usual_head(self, data: bytes) -> bytes | None:
        """Read a head as nearly all are, if these bytes begin with the whole of one; what follows it, else None."""
        head = None if self._bodiless else _USUAL_HEAD.match(data)
        if head is None or head.end() > HEAD_LIMIT_BYTES:
            return None
        headers = _FIELD.findall(head[3])
        fields = {name.lower(): value for name, value in headers}
        length = fields.get(b"content-length", b"")
        status = int(head[1])
        if (
            len(fields) != len(headers)
            or _LENGTH.fullmatch(length) is None
            or b"transfer-encoding" in fields
            or status in {204, 304}
        ):
            return None
        self.status, self.reason = status, head[2] or b""
        self.headers, self.fields = headers, fields
        self.content_type = _media_type(fields.get(b"content-type", b""))
        self.content_length = self._remaining = int(length)
        self.phase = _COUNTED if self._remaining else _ENDED
        if b"connection" in fields and b"close" in fields[b"connection"].lower():
            self.reusable = False
        return data[head.end() :]

    def _feed_head(self, data: bytes) -> bytes:
        """Read up to the end of the final head; what follows it. 1xx heads are read over."""
        if not self._listening:
            self._listen()
        while data and self.phase is _HEAD:
            start = self._head_start
            whole = start + data if start else data
            end = whole.find(_HEAD_END, max(0, len(start) - 3))
            size = len(whole) if end < 0 else end + 4
            if self._heads_bytes + size > HEAD_LIMIT_BYTES:
                self._break("head_too_large")
                return b""
            cut = size - len(start)
            if not self._parse_head(data[:cut]):
                return b""
            if end < 0:
                self._head_start = whole
                return b""
            self._end_head(size)
            data = data[cut:]
        return data

    def _parse_head(self, data: bytes) -> bool:
        try:
            self._parser.feed_data(data)
        except _UNREADABLE:
            self._break("unexpected_upgrade" if self._parser.get_status_code() == 101 else "malformed_head")
            return False
        return True

    def _end_head(self, size: int) -> None:
        self._heads_bytes += size
        self._head_start = b""
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._listen()
        elif status < 100 or not self._parser.get_http_version().startswith("1."):
            self._break("malformed_head")
        else:
            self._begin(status)

    def _begin(self, status: int) -> None:
        """Take the facts out of the final head and choose how its body ends."""
        heard = self._heard
        self.reason = heard.reason
        self.headers = heard.headers
        heard.headers = []  # trailers go there, and no further
        codings = self._read_headers()
        if self._parser.get_http_version() != "1.1":
            self.reusable = False
        if self._bodiless or status in {204, 304}:
            self.phase = _ENDED
        elif codings:
            self._begin_coded(codings)
        elif self.content_length is None:
            self.reusable = False
            self.phase = _UNTIL_CLOSE
        else:
            self._remaining = self.content_length
            self.phase = _COUNTED if self._remaining else _ENDED
        if self.phase is not _BROKEN:
            self.status = status

    def _read_headers(self) -> list[bytes]:
        codings = []
        self.fields = {name.lower(): value for name, value in self.headers}
        for name, value in self.headers:
            lowered = name.lower()
            if lowered == b"content-type":
                self.content_type = _media_type(value)
            elif lowered == b"content-length":
                self.content_length = int(value)  # llhttp has checked digits, range and that there is but one
            elif lowered == b"transfer-encoding":
                codings.append(value.strip().lower())
            elif lowered == b"connection" and b"close" in value.lower():
                self.reusable = False
        return codings

    def _begin_coded(self, codings: list[bytes]) -> None:
        if codings != [b"chunked"]:
            self._break("unknown_transfer_coding")
            return
        if self.content_length is not None:
            self.content_length = None
            self.reusable = False
        self.phase = _CHUNKED

    def _feed_counted(self, data: bytes) -> bytes:
        remaining = self._remaining - len(data)
        if remaining > 0:
            self._remaining = remaining
            return data
        self.phase = _ENDED
        if remaining < 0:
            self.reusable = False
            return data[:remaining]
        return data

    def _feed_chunked(self, data: bytes) -> bytes:
        heard = self._heard
        try:
            self._parser.feed_data(data)
        except _UNREADABLE:
            self.reusable = False
            if not heard.ended:
                self._break("malformed_body")
        pieces = heard.pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._tail = data[-_TAIL_BYTES:] if len(data) >= _TAIL_BYTES else (self._tail + data)[-_TAIL_BYTES:]
        if heard.ended:
            self._end_chunks()
        elif body:
            self._barren_bytes = 0
        else:
            self._count_barren(len(data))
        return body

    def _end_chunks(self) -> None:
        """End, looking for line ends after the last one: llhttp reads over them without a word."""
        self.phase = _ENDED
        if not self._tail.endswith(_HEAD_END) or self._tail[:1] in {b"\r", b"\n"}:
            self.reusable = False

    def _count_barren(self, size: int) -> None:
        """Bound what a body may send without sending any body: endless trailers, chunk extensions."""
        self._barren_bytes += size
        if self._barren_bytes > HEAD_LIMIT_BYTES:
            self._break("trailers_too_large")


@lru_cache(maxsize=64)
def _media_type(value: bytes) -> bytes:
    """A content type in lower case and without parameters."""
    return value.partition(b";")[0].strip().lower()
