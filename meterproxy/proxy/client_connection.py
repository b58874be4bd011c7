"""One connection of a client: its requests one after the other, and when it ends.

Rules
-----
- One request is answered at a time, in the order they came; a task runs its handler, which is never cancelled because
  the client left. What comes meanwhile is held back, up to a bound, then not read.
- No timer of its own: the server's sweep calls `overdue` when `deadline` has passed.
- A fault in framing is answered in its turn, in OpenAI's shape, over HTTP/1.1; it ends the connection, and none of the
  request's bytes is echoed or logged.
- Where bytes may still come that nobody will read, our half is closed first and they are dropped for a while: a reset
  would overtake the answer.
- A client that has closed its sending half still gets the answers to what it asked.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Final, Protocol

from meterproxy.errors import ApiError, Case
from meterproxy.proxy.client import Client, closing_refusal, new_ids
from meterproxy.proxy.client_transport import ClientTransport
from meterproxy.proxy.incoming_body import IncomingBody
from meterproxy.proxy.request_framing import Chunked, Counted
from meterproxy.proxy.request_head import NO_LENGTH, malformed
from meterproxy.proxy.request_reader import HeadReader
from meterproxy.proxy.server_limits import ServerLimits

HELD_BYTES: Final = 65536
"""How much of the next requests, or of a body that nobody reads, may have come before reading pauses."""
NEVER: Final = float("inf")

_log: Final = logging.getLogger(__name__)


class Serving(Protocol):
    """Whoever has the connections."""

    limits: ServerLimits
    draining: bool

    def handle(self, client: Client) -> Awaitable[None]:
        """Answer one request."""
        ...

    def opened(self, connection: "ClientConnection") -> None:
        """The connection begins."""
        ...

    def over(self, connection: "ClientConnection") -> None:
        """The connection is closed and nothing is running for it."""
        ...


class Receiver(Protocol):
    """Whoever takes all further bytes of a connection that is no longer HTTP."""

    def feed_data(self, data: bytes) -> object:
        """These bytes came."""
        ...

    def feed_eof(self) -> None:
        """No more will come."""
        ...


class ClientConnection(ClientTransport):
    """A connection that a listening socket has accepted.

    Attributes:
        deadline: the loop's time after which `overdue` is to be called.
        idle: whether no request is being read, waiting or answered.
        task: what answers the running request, None while there is none.
    """

    __slots__ = (
        "_body",
        "_client",
        "_ending",
        "_faulted",
        "_heads",
        "_held",
        "_receiver",
        "_server",
        "_unwritten_bytes",
        "deadline",
        "idle",
        "task",
    )

    def __init__(self, server: Serving) -> None:
        super().__init__()
        self._server = server
        self._heads = HeadReader(server.limits.head)
        self._held = b""
        self._client: Client | None = None
        self.task: asyncio.Task[None] | None = None
        self._body: IncomingBody | None = None
        self._receiver: Receiver | None = None
        self._ending = False
        self._faulted = False
        self._unwritten_bytes = 0
        self.deadline = NEVER
        self.idle = False

    # What the loop reports.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.opened(self)
        self._rest()

    def data_received(self, data: bytes) -> None:
        if self.idle:  # the usual case: a whole request, its head the same as the last one's
            start = self._heads.again(data)
            if start:
                self._begin(data[start:])
                return
        self._receive(data)

    def eof_received(self) -> bool:
        """Keep the sending half open while somebody still waits for an answer."""
        super().eof_received()
        if self._body is not None:
            self._body.fail(_broken_off())
        if self._receiver is not None:
            self._receiver.feed_eof()
        return self._client is not None and not self._ending

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.idle = False
        if self._body is not None:
            self._body.fail(_broken_off())
        if self._receiver is not None:
            self._receiver.feed_eof()
        if self._client is None:
            self._server.over(self)

    # Reading requests.

    def _receive(self, data: bytes) -> None:
        if self._ending or self._faulted:
            return
        if self._receiver is not None:
            self._receiver.feed_data(data)
            return
        if self._body is not None and not self._body.ended:
            data = self._receive_body(self._body, data)
        if not data:
            return
        if self._client is not None:
            self._held += data
            if len(self._held) > HELD_BYTES:
                self.pause_reading()
        else:
            self._read_head(data)

    def _receive_body(self, body: IncomingBody, data: bytes) -> bytes:
        """Take what belongs to the body; what is behind it."""
        if self._held:
            data, self._held = self._held + data, b""
        rest = body.feed(data)
        if self.half_closed and not rest:
            body.fail(_broken_off())
        if body.fault is not None:
            self._faulted = True
            if self._client is None:
                self._end()
            return b""
        if body.ended:
            return rest if self._client is not None else self._discarded(rest)
        if rest:
            self._held = rest
            self.pause_reading()
            self._loop.call_soon(self._receive_held)
        elif body.waiting_bytes > HELD_BYTES:
            self.pause_reading()
        return b""

    def _discarded(self, rest: bytes) -> bytes:
        """The body that nobody wanted is over."""
        self._body = None
        self._held = rest
        self._go_on()
        return b""

    def _receive_held(self) -> None:
        """Go on in a body of which not all was read that had come."""
        held, self._held = self._held, b""
        if held and self.transport is not None:
            self.resume_reading()
            self._receive(held)

    def _read_head(self, data: bytes) -> None:
        self.idle = False
        begun = self._heads.begun
        try:
            rest = self._heads.feed(data)
        except ApiError as error:
            self._refuse(error)
            return
        if rest is not None:
            self._begin(rest)
        elif self.half_closed:
            self._end()
        elif not self._heads.begun:
            self._rest()
        elif not begun:
            self.deadline = self._loop.time() + self._server.limits.head_seconds

    def _begin(self, rest: bytes) -> None:
        """A head has come, and this behind it: have the request answered."""
        self.idle = False
        head, length = self._heads.head, self._heads.length
        assert head is not None
        if len(rest) == length:
            client = Client(self, head, length, rest)
        elif 0 <= length < len(rest):
            client = Client(self, head, length, rest[:length])
            self._held = rest[length:]
        else:
            self._body = IncomingBody(Chunked() if length == NO_LENGTH else Counted(length))
            client = Client(self, head, length, None, self._body)
        self._client = client
        self.deadline = NEVER
        if self._body is not None:
            self._receive(rest)
        self.task = asyncio.Task(self._answer(client), loop=self._loop)

    # Answering them.

    async def _answer(self, client: Client) -> None:
        """Have one request answered, then go on to the next."""
        try:
            await self._server.handle(client)
            if self.writing_paused:
                self.deadline = self._loop.time() + self._server.limits.linger_seconds
                await self.drained()
        except asyncio.CancelledError:
            client.abort()
            raise
        except Exception as error:  # noqa: BLE001  a bug must end as an answer too, and be seen
            _log.error("a request handler failed", exc_info=error)
            self._answer_failure(client)
        finally:
            self._finish(client)

    @staticmethod
    def _answer_failure(client: Client) -> None:
        if client.answered_status is None:
            client.closing = True
            error = ApiError(Case.INTERNAL, "The server had an error while processing your request.")
            client.refuse(error, new_ids())
        elif not client.ended:
            client.abort()

    def _finish(self, client: Client) -> None:
        self._client = self.task = None
        body = self._body
        if self.transport is None:
            self._server.over(self)
        elif not client.ended:
            client.abort()  # whatever its handler thought, there is no whole answer
        elif client.closing or self._faulted:
            self._end()
        elif body is None or body.ended:
            self._body = None
            self._go_on()
        else:
            body.discard()
            self.deadline = self._loop.time() + self._server.limits.linger_seconds
            self.resume_reading()

    def _go_on(self) -> None:
        """Read what was held back while the request before it was answered."""
        if self.reading_paused:
            self.resume_reading()
        if self._held:
            held, self._held = self._held, b""
            self._read_head(held)
        elif self.half_closed or self._server.draining:
            self._end()
        else:
            self._rest()

    def _rest(self) -> None:
        """Nothing is expected of the client but what it likes."""
        self.idle = True
        self.deadline = self._loop.time() + self._server.limits.keepalive_seconds

    def _refuse(self, error: ApiError) -> None:
        """Answer a request that did not become one."""
        assert self.transport is not None
        self.transport.write(closing_refusal(error))
        self._faulted = True
        self._end()

    # What a request's client asks for.

    @property
    def ending(self) -> bool:
        """Whether the connection closes after the running request for reasons of our own."""
        return self._server.draining or self._faulted or (self.half_closed and not self._held)

    async def next_piece(self, body: IncomingBody, begun: float, taken_bytes: int) -> bytes:
        """What has come of a body since the last time, empty at its end or fault; it has to come fast enough.

        Args:
            begun: when its reader began, by the loop's time.
            taken_bytes: how much the reader has taken.
        """
        limits = self._server.limits
        overdue = begun + limits.body_seconds + taken_bytes / limits.body_bytes_per_second
        self.deadline = min(self._loop.time() + limits.body_gap_seconds, overdue)
        try:
            await body.more()
        finally:
            self.deadline = NEVER
        piece = body.take()
        if self.reading_paused and len(self._held) <= HELD_BYTES:
            self.resume_reading()
        return piece

    def take_over(self, receiver: Receiver) -> None:
        """Hand all further bytes to somebody else, until the running request is answered; then the connection ends."""
        assert self._client is not None
        self._client.closing = True
        self._receiver = receiver
        held, self._held = self._held, b""
        if held:
            receiver.feed_data(held)

    # How it ends.

    def overdue(self, now: float) -> None:
        """The deadline has passed."""
        body = self._body
        if self.transport is None:
            self.deadline = NEVER
        elif self._client is not None and body is not None and body.awaited:
            self.deadline = NEVER
            body.fail(ApiError(Case.REQUEST_TIMEOUT, "The request body did not arrive in time."))
        elif self._client is not None or self._ending:
            self._check_taken(now, self.transport)
        elif self._heads.begun:
            self._refuse(ApiError(Case.REQUEST_TIMEOUT, "The request's headers did not arrive in time."))
        else:
            self._end()

    def _check_taken(self, now: float, transport: asyncio.Transport) -> None:
        """Cut the connection unless its client still takes, however slowly, what was written."""
        unwritten_bytes = transport.get_write_buffer_size()
        if unwritten_bytes and unwritten_bytes != self._unwritten_bytes:
            self._unwritten_bytes = unwritten_bytes
            self.deadline = now + self._server.limits.linger_seconds
        else:
            transport.abort()

    def drain(self) -> None:
        """End now, or after the running request."""
        if self._client is None:
            self._end()

    def cut(self) -> None:
        """End at once, and whatever is running."""
        if self.task is not None:
            self.task.cancel()
        if self.transport is not None:
            self.transport.abort()

    def _end(self) -> None:
        """Close, once what was written is on its way; drop what the client may still send."""
        transport = self.transport
        if self._ending or transport is None:
            return
        self.idle = False
        self._ending = True
        unread = self._faulted or bool(self._held) or (self._body is not None and not self._body.ended)
        self._held, self._body, self._receiver = b"", None, None
        self.deadline = self._loop.time() + self._server.limits.close_seconds
        if unread and not self.half_closed and not transport.is_closing() and transport.can_write_eof():
            transport.write_eof()
            self.resume_reading()
        else:
            transport.close()


def _broken_off() -> ApiError:
    return malformed("The request body broke off.")
