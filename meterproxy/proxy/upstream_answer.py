"""A provider's answer as its consumer sees it: the head at once, the body piece by piece as it arrived.

Rules:
- Whoever gets an answer reads it to its end or aborts it; nothing else frees the connection early.
- `b""` means the proper end and nothing else; a body that was cut raises, after the pieces that did arrive.
- More than 256 KiB unread stops the reading from the provider until the consumer has caught up.
- Once ended, the answer has let go of its connection: `abort` cannot hurt whoever uses it next.
"""

import asyncio
import io
from typing import Protocol

from meterproxy.proxy.upstream_decoder import AnswerDecoder
from meterproxy.proxy.upstream_errors import ReadInterrupted, UpstreamBroken, UpstreamError

UNREAD_LIMIT_BYTES = 262144


class Source(Protocol):
    """The connection an answer comes from."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self, error: UpstreamError) -> None: ...


class UpstreamAnswer:
    """Status, headers and body of one answer.

    `headers` are raw and in the provider's order, `fields` the same by their names in lower case (of one that is
    repeated, the last); `content_type` is in lower case without parameters, empty if absent; `content_length` is None
    for bodies that chunks or closing end.
    """

    __slots__ = (
        "_ended",
        "_error",
        "_pieces",
        "_source",
        "_unread_bytes",
        "_waiter",
        "content_length",
        "content_type",
        "fields",
        "headers",
        "reason",
        "status",
    )

    def __init__(self, head: AnswerDecoder, source: Source) -> None:
        self.status = head.status
        self.reason = head.reason
        self.headers = head.headers
        self.fields = head.fields
        self.content_type = head.content_type
        self.content_length = head.content_length
        self._source: Source | None = source
        self._pieces: list[bytes] = []
        self._unread_bytes = 0
        self._ended = False
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def whole(self) -> bool:
        """Whether all of it has arrived, so that `read_up_to` need not wait."""
        return self._ended

    def read_nowait(self) -> bytes | None:
        """What has arrived since the last read, joined; `b""` at the proper end; None if one must wait.

        Raises:
            UpstreamBroken: the body was cut, is garbage, or stayed silent too long; or the answer was aborted.
        """
        if self._pieces:
            return self._take()
        if self._error is not None:
            raise self._error.again()
        return b"" if self._ended else None

    def _take(self) -> bytes:
        """All that is unread; more may come now."""
        pieces = self._pieces
        piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._unread_bytes >= UNREAD_LIMIT_BYTES and self._source is not None:
            self._source.resume()
        self._unread_bytes = 0
        return piece

    async def read(self) -> bytes:
        """The next piece of the body as it arrived, `b""` at the proper end. One reader at a time.

        Raises:
            UpstreamBroken: as `read_nowait`.
        """
        while not self._pieces:
            if self._ended or self._error is not None:
                return self.read_nowait() or b""
            assert self._waiter is None, "an answer has one reader"
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._take()

    def interrupt(self) -> None:
        """Have whoever waits in `read` right now leave it with `ReadInterrupted`; nothing is lost by that."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ReadInterrupted())

    async def read_up_to(self, limit: int) -> tuple[bytes, bool]:
        """Read to the end or until more than `limit` bytes are here; what was read, and whether that is all of it."""
        if self._ended and len(self._pieces) == 1 and self._unread_bytes <= limit:
            return self._take(), True
        gathered = io.BytesIO()  # it grows as they come: putting many pieces together at the end would take long
        while gathered.tell() <= limit:
            piece = self.read_nowait()
            if piece is None:
                piece = await self.read()
            if not piece:
                return gathered.getvalue(), True
            gathered.write(piece)
        return gathered.getvalue(), False

    async def read_all(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            UpstreamBroken: as `read_nowait`; and `body_too_large`, the answer being aborted, if it exceeds `limit`.
        """
        body, whole = await self.read_up_to(limit)
        if not whole:
            self.abort()
            raise UpstreamBroken("body_too_large", f"the provider's answer has more than {limit} bytes")
        return body

    def abort(self) -> None:
        """Stop the provider by closing the connection and forget what is unread; nothing once all has been read."""
        if self._source is None and not self._pieces:
            return
        self._pieces.clear()
        self._unread_bytes = 0
        aborted = UpstreamBroken("aborted", "the answer was aborted by us")
        if self._source is not None:
            self._source.close(aborted)
        elif self._error is None:
            self.fail(aborted)

    def receive(self, piece: bytes) -> None:
        """A piece has arrived (called by the connection)."""
        self._pieces.append(piece)
        self._unread_bytes += len(piece)
        self._wake()

    def throttle(self) -> None:
        """Stop reading from the provider if too much is unread (called by the connection while more may come)."""
        if self._unread_bytes >= UNREAD_LIMIT_BYTES and self._source is not None:
            self._source.pause()

    def end(self) -> None:
        """The proper end has come (called by the connection)."""
        self._ended = True
        self._source = None
        self._wake()

    def fail(self, error: UpstreamError) -> None:
        """The body will never be whole (called by the connection)."""
        self._error = error
        self._source = None
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
