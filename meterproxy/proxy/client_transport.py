"""A client's transport with its flow control, both ways. It knows nothing of HTTP.

Rules
-----
- Nothing is paused or resumed where nothing can come any more: event loops differ in what they make of that.
- Whoever waits until the client has taken what was written, waits no longer than the client is there.
"""

import asyncio
import socket
from typing import Any, cast


class ClientTransport(asyncio.Protocol):
    """What a connection does to its transport, and hears from it.

    Attributes:
        transport: None before the connection is made and after it was lost.
        half_closed: whether the client sends nothing any more.
        reading_paused: whether nothing is read for now.
        writing_paused: whether the client takes bytes slower than they come.
    """

    __slots__ = ("_drained", "_loop", "_peer", "half_closed", "reading_paused", "transport", "writing_paused")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._drained: asyncio.Future[None] | None = None
        self._peer: str | None = None
        self.transport: asyncio.Transport | None = None
        self.half_closed = False
        self.reading_paused = False
        self.writing_paused = False

    @property
    def peer(self) -> str:
        """The address that the connection comes from, empty where it has none."""
        if self._peer is None and self.transport is not None:
            name: Any = self.transport.get_extra_info("peername")
            self._peer = name[0] if isinstance(name, tuple) else ""
        return self._peer or ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; the kernel looks after clients that vanish without a word."""
        self.transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def eof_received(self) -> bool | None:
        """The client has closed its sending half."""
        self.half_closed = True
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, whoever made it."""
        del exc
        self.transport = None
        self.resume_writing()

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def drained(self) -> None:
        """Wait until the client has taken enough of what was written, or has left."""
        while self.writing_paused and self.transport is not None:
            self._drained = self._loop.create_future()
            await self._drained

    def pause_reading(self) -> None:
        """Read nothing for now."""
        if not self.reading_paused and self.transport is not None and self._may_read(self.transport):
            self.reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self.reading_paused and self.transport is not None and self._may_read(self.transport):
            self.reading_paused = False
            self.transport.resume_reading()

    def _may_read(self, transport: asyncio.Transport) -> bool:
        return not self.half_closed and not transport.is_closing()
