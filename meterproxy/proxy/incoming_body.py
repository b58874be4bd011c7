"""A request's body on its way: what has come of it and waits for its reader.

Rules
-----
- A body is whole only when its framing says so; if anything else ends it, its reader is told.
- What nobody wants is not kept.
"""

import asyncio

from meterproxy.errors import ApiError
from meterproxy.proxy.request_framing import Framing


class IncomingBody:
    """The part of a body that has come and was not taken yet, and whoever waits for more.

    Attributes:
        waiting_bytes: how much has come that nobody took.
        fault: why the rest will not come, if so.
        touched: whether anything of it has come.
    """

    __slots__ = ("_framing", "_pieces", "_unwanted", "_waiter", "fault", "touched", "waiting_bytes")

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._pieces: list[bytes] = []
        self._unwanted = False
        self._waiter: asyncio.Future[None] | None = None
        self.waiting_bytes = 0
        self.fault: ApiError | None = None
        self.touched = False

    @property
    def ended(self) -> bool:
        """Whether all of it has come."""
        return self._framing.ended

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for more of it."""
        return self._waiter is not None

    def feed(self, data: bytes) -> bytes:
        """Take what came; what of it is left. Faults are kept for the reader."""
        try:
            piece, rest = self._framing.feed(data)
        except ApiError as error:
            self.fail(error)
            return b""
        self.touched = self.touched or bool(data)
        if piece and not self._unwanted:
            self._pieces.append(piece)
            self.waiting_bytes += len(piece)
        if piece or self.ended:
            self._wake()
        return rest

    def fail(self, error: ApiError) -> None:
        """The rest will not come."""
        if not self.ended and self.fault is None:
            self.fault = error
            self._wake()

    def discard(self) -> None:
        """Nobody wants it: keep nothing of what came and comes."""
        self._unwanted = True
        self.take()

    def take(self) -> bytes:
        """All that has come since the last time."""
        pieces = self._pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.waiting_bytes = 0
        return data

    async def more(self) -> None:
        """Wait until something has come, or nothing will."""
        if self._pieces or self.ended or self.fault is not None:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
