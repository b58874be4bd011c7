"""Streams: every byte passes at once, a copy goes to the meter, and the ending is written before the last event.

Rules
-----
- Bytes pass as they came, in one write a piece. Only a stream into which we asked usage is edited.
- The piece that holds the terminal event is cut there: what is before it passes, the hold is captured, then it passes.
- A client that left does not end a stream whose answer will be billed: it is read on, for a bounded time and number.
  Aborting is right by itself only where no sign of the end was seen and nothing is produced unseen.
- A stream of which no more can be held ends with the events of an answer that has reached its maximum. What is charged
  is what was passed on. Of a compressed one, which cannot be cut off, all is held before it begins.
- A stream that breaks ends with an error event; what was delivered is captured first. An error's text is no output.
- What we write by ourselves (comments, errors) goes between events, never into one.
- Ids that the client may mention later are written down before the events that bring them go on. The hold of work that
  goes on in the background is deferred with the first of them: however the stream ends, it stays. A client that leaves
  before that changes nothing: it may find the work in its conversation.
- An answer that is kept for who asks again is whole or not kept; one whose client left is read on to its end.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from meterproxy.core.usage import Outcome, Usage
from meterproxy.errors import ApiError, Case, JournalFailed
from meterproxy.proxy.adaptive import Extension
from meterproxy.proxy.claims import Claims
from meterproxy.proxy.counting import AnswerTexts
from meterproxy.proxy.decode import Decoder
from meterproxy.proxy.delivery import Delivery, not_recorded
from meterproxy.proxy.forward import unreadable
from meterproxy.proxy.keepalive import KEEPALIVE, next_piece
from meterproxy.proxy.meters import meter_of
from meterproxy.proxy.new_ids import OWN
from meterproxy.proxy.upstream import ReadInterrupted, UpstreamError

PART_BYTES: Final = 1024
"""The most of a stream that is passed on at once while not all of its bound is held."""
_EVENT_ENDS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")


class Leavers:
    """How many streams are being read on for clients that left."""

    __slots__ = ("count", "maximum")

    def __init__(self, maximum: int) -> None:
        self.count = 0
        self.maximum = maximum


class StreamRelay:
    """One stream from a provider to a client.

    Raises:
        Failed: it would have to be read before it is passed on, and cannot be.
    """

    __slots__ = (
        "_answer",
        "_at_boundary",
        "_at_end",
        "_claims",
        "_client",
        "_decoder",
        "_delivery",
        "_extension",
        "_hold",
        "_keepalive_seconds",
        "_leavers",
        "_leaving",
        "_meter",
        "_parts",
        "_told_events",
        "_told_us",
    )

    def __init__(self, delivery: Delivery, leavers: Leavers, elapsed_us: int) -> None:
        if delivery.claims is not None and delivery.decoder is not None:
            delivery.forwarded.answer.abort()
            raise unreadable("The provider's answer is in a coding that nobody asked for.")
        self._delivery = delivery
        self._client = delivery.client
        self._answer = delivery.forwarded.answer
        self._hold = delivery.hold
        self._decoder = delivery.decoder
        editing = delivery.forwarded.usage_injected and delivery.decoder is None
        self._claims = delivery.claims
        if delivery.extension is not None and delivery.decoder is not None and not delivery.extension.holds_all():
            delivery.forwarded.answer.abort()
            raise unreadable("The provider's answer is in a coding in which it cannot be cut off.")
        self._extension = None if delivery.decoder is not None else delivery.extension
        holding = delivery.claims is not None or self._extension is not None
        self._meter = meter_of(delivery.operation, delivery.pool, editing=editing, holding=holding)
        self._keepalive_seconds = delivery.settings.keepalive_seconds
        self._leavers = leavers
        self._parts: deque[bytes] = deque()
        self._at_boundary = True
        self._at_end = False
        self._leaving = False
        self._told_events = 0
        self._told_us = elapsed_us

    async def run(self) -> None:
        """Pass the stream on to its end, whatever that is."""
        self._client.begin(self._delivery.status, self._delivery.headers)
        try:
            await self._copy()
        except ReadInterrupted:
            await self._leave(b"")
        except UpstreamError as error:
            timed_out = error.reason == "between_bytes"
            case = Case.UPSTREAM_TIMEOUT if timed_out else Case.UPSTREAM_UNREACHABLE
            await self.break_off(ApiError(case, "The provider's answer broke off."))

    async def _copy(self) -> None:
        client, meter, hold, extension = self._client, self._meter, self._hold, self._extension
        read = self._read_alive if self._keepalive_seconds else self._answer.read
        if extension is not None:
            read = partial(self._read_part, read)
        while piece := await read():
            if client.gone:
                await self._leave(piece)
                return
            if extension is not None and not extension.takes(piece) and not await extension.grown():
                await self._stop(extension)
                return
            forwarded = meter.feed(piece) if self._decoder is None else self._decoded(self._decoder, piece)
            if self._claims is not None and not await self._written_down(self._claims):
                return
            if meter.finished and meter.done and hold.ending is None:  # the cheaper question first
                self._send(forwarded)
                if not await self._captured(self._read_outcome()):
                    return
                forwarded = meter.terminal if self._decoder is None else piece
                self._is_whole()
            self._send(forwarded)
            if client.congested:
                await client.drain()
        await self._end()

    def _decoded(self, decoder: Decoder, piece: bytes) -> bytes:
        """What of a compressed piece goes on at once: all of it, but where it has the terminal event."""
        meter = self._meter
        meter.feed(decoder.feed(piece))
        return b"" if meter.done and self._hold.ending is None else piece

    async def _written_down(self, claims: Claims) -> bool:
        """Claim what the last piece brought; False where that could not be written, of which the client was told."""
        try:
            self._write_down(claims)
        except JournalFailed:
            await self.break_off(not_recorded())
            return False
        if self._meter.overlong:
            await self.break_off(unreadable("The provider's answer has an event that is too long to be read."))
            return False
        return True

    def _write_down(self, claims: Claims) -> None:
        found = self._meter.new_ids()
        claims.take(found)
        if self._delivery.background and self._hold.open and self._meter.running:
            own_id = next((id_ for kind, id_ in found if kind == OWN), None)
            if own_id is not None:
                self._delivery.defer(own_id)

    async def _read_alive(self) -> bytes:
        return await next_piece(self._answer, self._keepalive_seconds, self._keep_alive)

    async def _read_part(self, read: Callable[[], Awaitable[bytes]]) -> bytes:
        """A piece of a few events at most, so that a stream which is cut off is cut where nothing more is held."""
        if not self._parts:
            piece = await read()
            self._parts.extend([piece[at : at + PART_BYTES] for at in range(0, len(piece), PART_BYTES)])
        return self._parts.popleft() if self._parts else b""

    def _keep_alive(self) -> None:
        if self._at_boundary and self._hold.ending is None:
            self._client.send(KEEPALIVE)

    def _send(self, piece: bytes) -> None:
        if piece:
            self._client.send(piece)
            self._at_boundary = piece.endswith(_EVENT_ENDS)

    async def _end(self) -> None:
        """The provider has ended the stream properly."""
        rest = self._meter.finish()
        if self._claims is not None and not await self._written_down(self._claims):
            return
        if self._hold.deferred and self._meter.done and not await self._captured(self._read_outcome()):
            return
        outcome = self._natural_outcome()
        if not self._hold.open or await self._captured(outcome):
            if outcome is not Outcome.STREAM_BROKEN:
                self._is_whole()
            self._client.end(rest if self._decoder is None else b"")

    def _is_whole(self) -> None:
        """All of the answer is here, or has gone: what was kept of it may be given to others."""
        if self._client.recording is not None:
            self._client.recording.whole = True

    def _natural_outcome(self) -> Outcome:
        """What a stream is that ended without its terminal event; of one that nobody here can read, its end tells."""
        if self._meter.failed:
            return Outcome.PROVIDER_ERROR
        readable = self._decoder is None or self._decoder.known
        if readable and not self._meter.finished and not self._meter.has_usage:
            return Outcome.STREAM_BROKEN
        return self._read_outcome()

    def _read_outcome(self) -> Outcome:
        """How a stream ended that came to its proper end."""
        if self._meter.failed and self._delivery.operation == "response":
            return Outcome.PROVIDER_ERROR
        return Outcome.CLIENT_LEFT if self._client.gone else Outcome.COMPLETED

    async def _captured(self, outcome: Outcome) -> bool:
        """End the hold; False where the ending could not be written, of which the client has been told."""
        try:
            await self._capture(outcome)
        except JournalFailed:
            self._answer.abort()
            self._say(not_recorded())
            return False
        return True

    async def _capture(self, outcome: Outcome) -> None:
        reading = self._meter.reading(self._delivery.ceiling)
        measured = await self._delivery.counting.measure(reading, self._texts)
        self._hold.capture(outcome, self._delivery.status, reading, measured)

    def _texts(self) -> AnswerTexts:
        texts, dropped_bytes = self._meter.texts()
        unread = 0 if self._decoder is None else self._decoder.unread_bytes
        return AnswerTexts(texts, dropped_bytes + unread)

    # When it does not go as planned.

    async def break_off(self, error: ApiError) -> None:
        """End the stream here: capture what was delivered, then tell the client."""
        self._answer.abort()
        if self._hold.open:
            self._meter.finish()
            if not await self._captured(Outcome.CLIENT_LEFT if self._client.gone else Outcome.STREAM_BROKEN):
                return
            self._say(error)
        elif self._hold.deferred:
            self._say(error)
        elif not self._client.ended:
            self._client.end()

    async def _stop(self, extension: Extension) -> None:
        """No more can be held: end the stream here, as a provider does that has reached the maximum."""
        self._answer.abort()
        self._meter.finish()  # what it held back is a part of an event
        if await self._captured(Outcome.STOPPED_BY_LIMIT):
            ending = self._hold.ending
            assert ending is not None, "it was just captured"
            reading = self._meter.reading(self._delivery.ceiling)
            between = b"" if self._at_boundary else b"\n\n"
            self._client.end(between + extension.terminal_events(reading, ending.usage))

    def _say(self, error: ApiError) -> None:
        """Write an error event and the end; what an editor still held back is part of an event and is dropped."""
        if not self._at_boundary:
            self._client.send(b"\n\n")
        self._client.end(b"data: " + error.body() + b"\n\n")

    async def _leave(self, piece: bytes) -> None:
        """The client has left: read on or abort, then capture."""
        self._leaving = True
        if await self._read_held(piece) and self._wanted() and self._reads_on():
            await self._read_on()
        self._answer.abort()
        if self._meter.done or self._at_end:
            self._is_whole()
        rest = self._meter.finish()
        self._write_down_unseen()
        self._client.end(rest if self._decoder is None else b"")
        if self._hold.open or (self._hold.deferred and self._meter.done):
            await self._captured(Outcome.CLIENT_LEFT)

    async def _read_held(self, piece: bytes) -> bool:
        """Read what is here already, as far as it is held; whether that was all of it."""
        for part in (piece, *self._parts):
            if not await self._is_held(part):
                return False
            self._read(part)
        self._parts.clear()
        return True

    async def _is_held(self, piece: bytes) -> bool:
        extension = self._extension
        return extension is None or extension.takes(piece) or await extension.grown()

    def _wanted(self) -> bool:
        """Whether there is anything to read on for: the usage, or an answer that is kept, to its last byte."""
        return self._client.recording is not None or (self._hold.open and not self._meter.done)

    def _reads_on(self) -> bool:
        if self._delivery.background:
            return True  # for a moment only: with its first event the hold is deferred
        cancel = self._delivery.settings.on_disconnect == "cancel"
        if cancel and not self._meter.finished and not self._delivery.hidden_output:
            return False
        return self._leavers.count < self._leavers.maximum

    async def _read_on(self) -> None:
        self._leavers.count += 1
        read = self._answer.read if self._extension is None else partial(self._read_part, self._answer.read)
        try:
            async with asyncio.timeout(self._delivery.settings.leaver_seconds):
                while self._wanted():
                    piece = await read()
                    if not piece:
                        self._at_end = self._natural_outcome() is not Outcome.STREAM_BROKEN
                        return
                    if not await self._is_held(piece):
                        return
                    self._read(piece)
                    if self._meter.done and self._hold.ending is None:
                        await self._captured(Outcome.CLIENT_LEFT)
        except (TimeoutError, UpstreamError):
            return
        finally:
            self._leavers.count -= 1

    def _read(self, piece: bytes) -> None:
        """Read a piece that has nobody to go to, but for who keeps a copy."""
        meter, was_done = self._meter, self._meter.done
        forwarded = meter.feed(piece if self._decoder is None else self._decoder.feed(piece))
        self._write_down_unseen()
        if self._client.recording is not None:
            terminal = b"" if was_done else meter.terminal
            self._client.send(piece if self._decoder is not None else forwarded + terminal)

    def _write_down_unseen(self) -> None:
        """Claim what nobody has seen yet; where that fails nobody ever will, and an open hold is captured anyway."""
        written = not self._meter.overlong
        if self._claims is not None:
            try:
                self._write_down(self._claims)
            except JournalFailed:
                written = False
        if not written and self._client.recording is not None:
            self._client.recording.spoil()

    # What others ask.

    def notice_absence(self) -> None:
        """Once a second: see a client that left while its provider is silent.

        One that closed its sending half may still be listening; only writing to it can tell.
        """
        if self._client.gone and not self._leaving:
            self._answer.interrupt()
        elif self._client.left and not self._leaving:
            self._keep_alive()

    def tell_progress(self, elapsed_us: int) -> None:
        """Journal what was delivered, if it is time and there is news."""
        if self._meter.events == self._told_events or not self._hold.open:
            return
        if elapsed_us - self._told_us >= self._delivery.settings.progress_seconds * 1_000_000:
            self._told_us = elapsed_us
            self._told_events = self._meter.events
            self._hold.progress(self.delivered())

    def delivered(self) -> Usage:
        """What the client has got so far, about; providers send a token in each event, more or less."""
        return self._delivery.counting.estimate(self._meter.events)

    def resolve(self) -> None:
        """The last resort, synchronous: capture what was delivered by what is known without asking anybody."""
        if self._hold.open:
            reading = self._meter.reading(self._delivery.ceiling)
            measured = self._delivery.counting.known(reading, self._meter.events)
            self._hold.capture(Outcome.STREAM_BROKEN, self._delivery.status, reading, measured)

    def close(self) -> None:
        """Let go of the provider's connection and of the memory."""
        self._answer.abort()
        self._meter.close()
        if self._extension is not None:
            self._extension.close()
