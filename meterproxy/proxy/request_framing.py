"""Where a request's body ends: its framing as a function of bytes. No I/O.

Rules
-----
- Any split of the same bytes gives the same body, and the same bytes behind it.
- Chunks are read strictly: a line of hexadecimal digits, so many bytes, CRLF. Extensions and trailers are dropped, and
  bounded. (llhttp reads chunks too, but does not tell where the last one ended, and there the next request begins.)
"""

import re
from typing import Final, Protocol

from meterproxy.proxy.request_head import malformed

STEPS_AT_ONCE: Final = 3072
"""How many lines and pieces are read in one go: whoever sends tiny chunks must not keep everybody else waiting."""
LINE_BYTES: Final = 1024
BARREN_BYTES: Final = 65536
"""How much of extensions and trailers a body may carry."""

_CRLF: Final = b"\r\n"
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER_LINE: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")


class Framing(Protocol):
    """Knows where a body ends; `ended` says that it has."""

    ended: bool

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """The body's bytes among these, and what was not read: what is behind its end, or more than one go takes.

        Raises:
            ApiError: MALFORMED.
        """
        ...


class Counted:
    """A body of a length that is known."""

    __slots__ = ("_remaining", "ended")

    def __init__(self, length: int) -> None:
        self._remaining = length
        self.ended = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        remaining = self._remaining
        self._remaining = max(0, remaining - len(data))
        self.ended = not self._remaining
        return (data, b"") if len(data) <= remaining else (data[:remaining], data[remaining:])


class Chunked:
    """A body in chunks."""

    __slots__ = ("_barren_bytes", "_behind_data", "_partial", "_remaining", "_trailing", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._partial = b""
        self._remaining = 0
        self._behind_data = False
        self._trailing = False
        self._barren_bytes = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        data, self._partial = self._partial + data, b""
        pieces: list[bytes] = []
        at, size = 0, len(data)
        for _ in range(STEPS_AT_ONCE):
            if at == size or self.ended:
                break
            if self._remaining:
                at = self._read_data(data, at, pieces)
                continue
            end = data.find(_CRLF, at, at + LINE_BYTES)
            if end < 0:
                self._keep(data[at:])
                at = size
            else:
                self._read_line(data[at:end])
                at = end + 2
        return b"".join(pieces), data[at:]

    def _read_data(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        piece = data[at : at + self._remaining]
        pieces.append(piece)
        self._remaining -= len(piece)
        self._behind_data = not self._remaining
        return at + len(piece)

    def _keep(self, partial: bytes) -> None:
        """Keep a line that has not come whole."""
        if len(partial) >= LINE_BYTES or (self._behind_data and not _CRLF.startswith(partial)):
            raise malformed()
        self._partial = partial

    def _read_line(self, line: bytes) -> None:
        if self._behind_data:
            if line:
                raise malformed()
            self._behind_data = False
        elif self._trailing:
            self._read_trailer(line)
        else:
            self._read_size(line)

    def _read_size(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise malformed()
        self._remaining = int(match[1], 16)
        self._trailing = not self._remaining
        self._count_barren(len(line) - len(match[1]))

    def _read_trailer(self, line: bytes) -> None:
        if not line:
            self.ended = True
        elif _TRAILER_LINE.fullmatch(line) is None:
            raise malformed()
        self._count_barren(len(line))

    def _count_barren(self, size: int) -> None:
        self._barren_bytes += size
        if self._barren_bytes > BARREN_BYTES:
            raise malformed()
