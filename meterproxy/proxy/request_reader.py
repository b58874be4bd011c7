"""From the bytes of a connection to the heads of its requests. No I/O.

llhttp reads a head as it comes; when it is whole, it must also have the strict form below, which knows nothing of what
llhttp forgives: other protocols and versions, blanks where none belong, line ends in front. Empty lines in front of a
head are passed over, as the standard advises.

Rules
-----
- A head ends at its first empty line, for llhttp as for us; where the two do not agree, it is refused.
- A refusal names no byte of the request.
- A client says the same head again and again; only the length differs. So the last head is remembered in two parts,
  around the digits of its length, and `again` recognizes it without parsing anything. That is sound because what comes
  again are, but for those digits, the very bytes that were parsed: what begins with the first part and goes on with 1
  to 15 digits and the second part is the head that was accepted, with another value in its one `Content-Length`.
  Nothing else can have changed: not the number of lengths, a coding, a fold, the case of a name. The second part ends
  with the empty line, and there is none before it, so that the head ends there for every reader.
- A head with neither a length nor chunks is remembered whole. Chunked ones, and those in which the length is written in
  an unusual way, are parsed each time.
"""

import re
from dataclasses import dataclass
from typing import Final

import httptools

from meterproxy.errors import ApiError, Case
from meterproxy.proxy.headers import Header
from meterproxy.proxy.request_head import NO_LENGTH, RequestHead, malformed, understand

_END: Final = b"\r\n\r\n"
_REMEMBERED_BYTES: Final = 8192
"""The largest head that is remembered: connections are many."""
_DIGITS: Final = 15
_UNREADABLE: Final = httptools.HttpParserError
_FORM: Final = re.compile(
    rb"[A-Z]+(?:-[A-Z]+)* [\x21-\x7e]+ HTTP/1\.([01])\r\n"
    rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)*"
    rb"\r\n"
)
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)+")
_LENGTH_LINE: Final = re.compile(rb"\r\nContent-Length: ([0-9]{1,15})\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """How large a head may be: its request line, each header with its name, all of it, and how many headers."""

    line_bytes: int = 8190
    field_bytes: int = 16384
    head_bytes: int = 65536
    fields: int = 128


class _Heard:
    """What llhttp reports of one head."""

    __slots__ = ("fields", "target", "whole")

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[Header] = []
        self.whole = False

    def on_url(self, piece: bytes) -> None:
        self.target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.whole = True


class HeadReader:
    """Reads the heads of one connection, one after the other.

    `head` and `length` are those of the request last read; the length is NO_LENGTH where the body comes in chunks.
    """

    __slots__ = ("_before_length", "_behind_length", "_heard", "_limits", "_parser", "_partial", "head", "length")

    def __init__(self, limits: HeadLimits) -> None:
        self._limits = limits
        self._partial = bytearray()
        self._heard: _Heard | None = None
        self._parser: httptools.HttpRequestParser | None = None
        self._before_length = b""
        self._behind_length = b""
        self.head: RequestHead | None = None
        self.length = 0

    def again(self, data: bytes) -> int:
        """Where the body begins if these bytes begin with the remembered head, else 0."""
        before = self._before_length
        if not before or not data.startswith(before):
            return 0
        start = len(before)
        behind = self._behind_length
        if not behind:
            self.length = 0
            return start
        end = data.find(b"\r", start, start + _DIGITS + 1)
        digits = data[start:end]
        if end < 0 or not digits.isdigit() or not data.startswith(behind, end):
            return 0
        self.length = int(digits)
        return end + len(behind)

    def feed(self, data: bytes) -> bytes | None:
        """Read on; what is behind the head as soon as that is whole, else None.

        Raises:
            ApiError: MALFORMED, METHOD_NOT_ALLOWED; its status is 431 where a limit is passed.
        """
        if self._parser is None:
            data = self._without_empty_lines(data)
            if not data:
                return None
            start = self.again(data)
            if start:
                return data[start:]
            self._heard = _Heard()
            self._parser = httptools.HttpRequestParser(self._heard)
        seen = len(self._partial)
        self._partial += data
        end = self._partial.find(_END, max(0, seen - 3))
        if end < 0:
            self._check_partial()
            self._parse(data)
            if self._heard is not None and self._heard.whole:
                raise malformed()
            return None
        end += len(_END)
        head = bytes(self._partial[:end])
        _check_size(head, self._limits)
        self._parse(data[: end - seen])
        self._read(head)
        return data[end - seen :]

    @property
    def begun(self) -> bool:
        """Whether a head has come in part."""
        return self._parser is not None or bool(self._partial)

    def _without_empty_lines(self, data: bytes) -> bytes:
        """What is behind empty lines in front of a head, which some clients send behind a body."""
        data = bytes(self._partial) + data
        self._partial.clear()
        empty = _EMPTY_LINES.match(data)
        if empty is not None:
            data = data[empty.end() :]
        if data == b"\r":
            self._partial += data
            return b""
        return data

    def _check_partial(self) -> None:
        """Refuse at once what cannot become small enough."""
        partial, limits = self._partial, self._limits
        size = len(partial)
        if size > limits.head_bytes or size - partial.rfind(b"\r\n") - 2 > limits.field_bytes:
            raise _too_large()
        if size > limits.line_bytes and partial.find(b"\r\n", 0, limits.line_bytes + 2) < 0:
            raise _too_large()

    def _parse(self, data: bytes) -> None:
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # whatever it offers, it is read as the plain request that it also is
        except _UNREADABLE:
            raise malformed() from None

    def _read(self, data: bytes) -> None:
        heard, parser, form = self._heard, self._parser, _FORM.fullmatch(data)
        assert heard is not None
        assert parser is not None
        if form is None or not heard.whole:
            raise malformed()
        method = parser.get_method().decode("ascii")
        self._forget()
        self.head, self.length = understand(
            method, heard.target.decode("ascii"), heard.fields, http_1_1=form[1] == b"1"
        )
        self._remember(data)

    def _forget(self) -> None:
        self._before_length = self._behind_length = b""
        self._partial = bytearray()
        self._heard = self._parser = None

    def _remember(self, data: bytes) -> None:
        assert self.head is not None
        if len(data) > _REMEMBERED_BYTES or self.length == NO_LENGTH:
            return
        line = _LENGTH_LINE.search(data)
        if line is not None:
            self._before_length, self._behind_length = data[: line.start(1)], data[line.end(1) :]
        elif b"content-length" not in data.lower():
            self._before_length = data


def _check_size(head: bytes, limits: HeadLimits) -> None:
    size = len(head)
    if size > limits.head_bytes or head.count(b"\r\n") - 2 > limits.fields:
        raise _too_large()
    if size <= limits.line_bytes and size <= limits.field_bytes:
        return
    line, *fields = head[: -len(_END)].split(b"\r\n")
    if len(line) > limits.line_bytes or any(len(field) > limits.field_bytes for field in fields):
        raise _too_large()


def _too_large() -> ApiError:
    error = ApiError(Case.MALFORMED, "The HTTP request's line or headers are too large.")
    error.status = 431
    return error
