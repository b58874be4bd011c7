"""One connection to a provider: one request at a time, its answer, and whether the connection may serve another.

Rules:
- A request is written once; what comes back goes through one fresh `AnswerDecoder`.
- The connection is given back in the step in which its answer ends, before the consumer has read it, and only if the
  answer left it reusable and came after the request was written whole. Else it is closed.
- A byte while no request is under way closes it.
- No timer of its own: the pool's sweep calls `check`, which compares `quiet_since` with what the origin allows. A
  consumer that does not read is not the provider's silence.
- `close` is the only way out; it tells the keeper once and fails whoever waits.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from typing import Protocol, cast

from meterproxy.proxy.body import Body
from meterproxy.proxy.upstream_answer import UpstreamAnswer
from meterproxy.proxy.upstream_decoder import CLOSED_BEFORE_ANSWER, AnswerDecoder, Phase
from meterproxy.proxy.upstream_errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamSilent,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from meterproxy.proxy.upstream_origin import Origin

_ENDED, _BROKEN = Phase.ENDED, Phase.BROKEN
_SLICE_BYTES = 262144


class Keeper(Protocol):
    """Whoever lends connections out."""

    def freed(self, connection: "Connection") -> None:
        """The connection is fit for another request."""
        ...

    def gone(self, connection: "Connection") -> None:
        """The connection is closed and will serve nobody any more."""
        ...

    def opened(self, connection: "Connection") -> None:
        """The connection's transport exists."""
        ...

    def lost(self, connection: "Connection") -> None:
        """The connection's transport exists no longer."""
        ...


class Connection(asyncio.Protocol):
    """A connection made by `dial`; `exchange` sends one request over it.

    `reused` says that it was idle before, so that the provider may have closed it unnoticed.
    """

    __slots__ = (
        "_answer",
        "_behind",
        "_clock",
        "_decoder",
        "_early",
        "_keeper",
        "_loop",
        "_origin",
        "_reading_paused",
        "_transport",
        "_unsent",
        "_waiter",
        "_writing_paused",
        "born",
        "closed",
        "quiet_since",
        "reused",
    )

    def __init__(
        self, origin: Origin, keeper: Keeper, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]
    ) -> None:
        self._origin = origin
        self._keeper = keeper
        self._loop = loop
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._decoder: AnswerDecoder | None = None
        self._waiter: asyncio.Future[UpstreamAnswer] | None = None
        self._answer: UpstreamAnswer | None = None
        self._unsent = memoryview(b"")
        self._behind: Iterator[bytes | memoryview] = iter(())
        """The pieces of a large body behind the one that is being written."""
        self._early = False
        self._reading_paused = False
        self._writing_paused = False
        self.born = self.quiet_since = clock()
        self.closed = False
        self.reused = False

    # What a request does.

    async def exchange(
        self, head: bytes, body: Body, before_first_byte: Callable[[], None], *, bodiless: bool
    ) -> UpstreamAnswer:
        """Send one request, if `before_first_byte` agrees, and wait for its answer's head.

        What that raises, this raises, and the connection goes back as it was. Cancelling closes it.

        Raises:
            UpstreamSilent, UpstreamBroken, UpstreamTimeout: as their names say.
        """
        try:
            before_first_byte()
        except BaseException:
            self.return_unused()
            raise
        transport = self._transport
        assert transport is not None, "a connection is used after it was made"
        self._decoder = AnswerDecoder(bodiless=bodiless)
        waiter: asyncio.Future[UpstreamAnswer] = self._loop.create_future()
        self._waiter = waiter
        self.quiet_since = self._clock()
        if isinstance(body, bytes) and len(body) <= _SLICE_BYTES:
            transport.write(head + body if body else head)
        else:
            transport.write(head)
            self._behind = iter([body] if isinstance(body, bytes) else body)
            self._unsent = self._next_piece()
            self._pump()
        try:
            return await waiter
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise
        finally:
            del waiter  # it has the error, which has this frame, which has the body

    def _abandon(self, waiter: asyncio.Future[UpstreamAnswer]) -> None:
        """Stop what a cancelled request began. An answer may have come, even ended, in the same moment."""
        if not waiter.done() or waiter.cancelled():
            self.close(UpstreamBroken("cancelled", "the request was cancelled by us"))
        elif waiter.exception() is None:
            waiter.result().abort()

    def return_unused(self) -> None:
        """Give the connection back without having sent anything."""
        if not self.closed:
            self.quiet_since = self._clock()
            self.reused = True
            self._keeper.freed(self)

    def _pump(self) -> None:
        """Write the next slice of a large body, and come back in a later turn of the loop for more."""
        if self.closed or self._writing_paused or not self._unsent:
            return
        assert self._transport is not None
        piece, self._unsent = self._unsent[:_SLICE_BYTES], self._unsent[_SLICE_BYTES:] or self._next_piece()
        self.quiet_since = self._clock()
        self._transport.write(piece)
        if self._unsent and not self._writing_paused:
            self._loop.call_soon(self._pump)

    def _next_piece(self) -> memoryview:
        """The next piece of the body, empty behind the last one."""
        return memoryview(next((piece for piece in self._behind if piece), b""))

    # What the loop reports.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._keeper.opened(self)

    def data_received(self, data: bytes) -> None:
        decoder = self._decoder
        if decoder is None:
            self.close(UpstreamBroken("unasked_bytes"))
            return
        body = decoder.feed(data)
        if self._answer is None and not self._begin_answer(decoder):
            return
        answer = self._answer
        assert answer is not None
        self.quiet_since = self._clock()
        if body:
            answer.receive(body)
        if decoder.phase is _ENDED:
            self._end_answer(decoder, answer)
        elif decoder.phase is _BROKEN:
            self.close(UpstreamBroken(decoder.fault))
        elif body:
            answer.throttle()

    def _begin_answer(self, decoder: AnswerDecoder) -> bool:
        """Hand the answer to whoever waits for its head; whether there is one by now."""
        waiter = self._waiter
        if decoder.status == 0:
            if decoder.phase is _BROKEN:
                self.close(UpstreamBroken(decoder.fault))
            return False
        if waiter is None or waiter.done():
            self.close(UpstreamBroken("cancelled"))
            return False
        assert self._transport is not None
        self._waiter = None
        self._early = bool(self._unsent) or bool(self._transport.get_write_buffer_size())
        self._answer = UpstreamAnswer(decoder, self)
        waiter.set_result(self._answer)
        return True

    def _end_answer(self, decoder: AnswerDecoder, answer: UpstreamAnswer) -> None:
        self._decoder = None
        self._answer = None
        answer.end()
        if self._early or not decoder.reusable:
            self.close(UpstreamBroken("not_reusable"))
            return
        self.resume()
        self.reused = True
        self._keeper.freed(self)

    def eof_received(self) -> None:
        decoder = self._decoder
        if decoder is None:
            self.close(UpstreamBroken("closed_while_idle"))
            return
        if self._is_end_authentic():
            decoder.eof()
        if decoder.phase is _ENDED and self._answer is not None:
            self._end_answer(decoder, self._answer)
        else:
            self._close_cut(decoder)

    def _is_end_authentic(self) -> bool:
        """Whether the peer ended its side by its own word: over TLS, anybody on the way can end what lies below."""
        assert self._transport is not None
        session = self._transport.get_extra_info("ssl_object")
        if session is None:
            return True
        try:
            return not session.read(1)
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLError:
            return False

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self.closed:
            if self._decoder is None:
                self.close(UpstreamBroken("closed_while_idle"))
            else:
                self._close_cut(self._decoder)
        self._keeper.lost(self)

    def _close_cut(self, decoder: AnswerDecoder) -> None:
        decoder.cut()
        silent = decoder.fault == CLOSED_BEFORE_ANSWER
        self.close((UpstreamSilent if silent else UpstreamBroken)(decoder.fault))

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._pump()

    # What the answer and the pool ask for.

    def pause(self) -> None:
        """Stop reading: the consumer is behind."""
        if not self._reading_paused and not self.closed and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on: the consumer has caught up."""
        if self._reading_paused and not self.closed and self._transport is not None:
            self._reading_paused = False
            self.quiet_since = self._clock()
            self._transport.resume_reading()

    def check(self, now: float) -> None:
        """Close what has been idle, silent or alive too long."""
        origin = self._origin
        quiet = now - self.quiet_since
        if self._decoder is None:
            if quiet >= origin.idle_seconds or self.is_old(now):
                self.close(UpstreamUnreachable("expired"))
        elif self._answer is None:
            if quiet >= origin.first_byte_seconds:
                self.close(UpstreamTimeout("first_byte", f"no answer within {origin.first_byte_seconds} s"))
        elif quiet >= origin.between_bytes_seconds and not self._reading_paused:
            self.close(UpstreamBroken("between_bytes", f"silent for {origin.between_bytes_seconds} s"))

    def is_old(self, now: float) -> bool:
        """Whether the name it was dialed by may point elsewhere by now."""
        return now - self.born >= self._origin.age_seconds

    def close(self, error: UpstreamError) -> None:
        """Close at once; whoever waits for this connection's answer gets `error`."""
        if self.closed:
            return
        self.closed = True
        if self._transport is not None:
            self._transport.abort()
        waiter, answer = self._waiter, self._answer
        self._decoder = self._waiter = self._answer = None
        self._unsent, self._behind = memoryview(b""), iter(())
        self._keeper.gone(self)
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)
        if answer is not None:
            answer.fail(error)
