"""Replay: the stream of a response that was made before, passed on to a client.

Rules
-----
- Events go whole, as `response_meter` lets them go: what they bring is written down first.
- The terminal event goes on when the end that it shows is booked.
"""

import msgspec

from meterproxy.core.resource import RESPONSE, Resource
from meterproxy.errors import ApiError, Case, JournalFailed
from meterproxy.proxy.abridged import Abridged
from meterproxy.proxy.background import Background
from meterproxy.proxy.claims import Claims
from meterproxy.proxy.client import Client
from meterproxy.proxy.delivery import not_recorded
from meterproxy.proxy.forward import unreadable
from meterproxy.proxy.headers import Header
from meterproxy.proxy.keepalive import KEEPALIVE, next_piece
from meterproxy.proxy.response_meter import ResponseMeter
from meterproxy.proxy.texts import TextPool
from meterproxy.proxy.upstream import ReadInterrupted, UpstreamAnswer, UpstreamError


class Replay(msgspec.Struct, eq=False):
    """What a replay works with: the provider's answer, what its client gets of its head, and the response it shows."""

    client: Client
    answer: UpstreamAnswer
    headers: list[Header]
    resource: Resource
    claims: Claims
    background: Background
    pool: TextPool
    keepalive_seconds: float


class ReplayRelay:
    """The stream of a response that was made before, on its way to a client."""

    __slots__ = ("_meter", "_replay", "_seen")

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._meter = ResponseMeter(RESPONSE, replay.pool)
        self._seen = False

    async def run(self) -> None:
        """Pass the stream on to its end, whatever that is."""
        replay, client = self._replay, self._replay.client
        client.begin(replay.answer.status, replay.headers)
        try:
            while piece := await next_piece(replay.answer, replay.keepalive_seconds, self._keep_alive):
                if client.gone:
                    break
                if not await self._send(self._meter.feed(piece)):
                    return
                if client.congested:
                    await client.drain()
            if await self._send(self._meter.finish()):
                client.end()
        except ReadInterrupted:
            client.end()
        except UpstreamError:
            await self.break_off(ApiError(Case.UPSTREAM_UNREACHABLE, "The provider's answer broke off."))

    async def _send(self, events: bytes) -> bool:
        """Pass events on once what they bring is written down; False where that failed."""
        try:
            self._replay.claims.take(self._meter.new_ids())
            if self._meter.overlong:
                raise unreadable("The provider's answer has an event that is too long to be read.")
            if self._meter.done and not self._seen:
                if self._meter.terminal:
                    self._replay.client.send(events)
                    events = self._meter.terminal
                await self._see()
        except JournalFailed:
            await self.break_off(not_recorded())
            return False
        except ApiError as error:
            await self.break_off(error)
            return False
        self._replay.client.send(events)
        return True

    async def _see(self) -> None:
        """The terminal event is here: book the end before it is passed on."""
        self._seen = True
        output = self._meter.output()
        await self._replay.background.see(self._replay.resource, self._meter.reading(), Abridged(output, output))

    async def break_off(self, error: ApiError) -> None:
        """End the stream here and tell the client; events go whole, so this stands between two of them."""
        self._replay.answer.abort()
        if not self._replay.client.ended:
            self._replay.client.end(b"data: " + error.body() + b"\n\n")

    def notice_absence(self) -> None:
        """Once a second: see a client that left while its provider is silent; as in `StreamRelay`."""
        if self._replay.client.gone:
            self._replay.answer.interrupt()
        elif self._replay.client.left:
            self._keep_alive()

    def _keep_alive(self) -> None:
        if not self._seen:
            self._replay.client.send(KEEPALIVE)

    def tell_progress(self, elapsed_us: int) -> None:
        """Nothing to tell: a replay uses nothing."""

    def resolve(self) -> None:
        """Nothing to end: a replay holds nothing."""

    def close(self) -> None:
        """Let go of the provider's connection and of the memory."""
        self._replay.answer.abort()
        self._meter.close()
