"""Free: passes on what costs nothing, once what it brings or takes away is written down.

Rules
-----
- An answer is read whole before it is passed on: it may bring ids, or show the end of a response in the background.
- What was deleted at the provider is forgotten here before its client hears of it.
- A stream (the replay of a response) goes on by whole events, as `response_meter` lets them go.
"""

from typing import Final

import msgspec

from meterproxy.core.resource import RESPONSE, Resource
from meterproxy.errors import ApiError, Case, JournalFailed
from meterproxy.proxy.background import Background
from meterproxy.proxy.claims import Claims
from meterproxy.proxy.client import Client
from meterproxy.proxy.decode import Decoder, decoder_for
from meterproxy.proxy.delivery import not_recorded
from meterproxy.proxy.endpoints import Endpoint
from meterproxy.proxy.forward import failed, unreadable
from meterproxy.proxy.ports import Clock, Owners
from meterproxy.proxy.response_meter import ResponseMeter, read_response
from meterproxy.proxy.texts import TextPool
from meterproxy.proxy.upstream import ReadInterrupted, UpstreamAnswer, UpstreamError

FREE_BYTES: Final = 64 << 20
"""The longest answer that is passed on."""

Header = tuple[bytes, bytes]


class Passing(msgspec.Struct, eq=False):
    """One answer that costs nothing, on its way to the client.

    Args:
        resource: what the path names, if it names anything.
    """

    client: Client
    answer: UpstreamAnswer
    headers: list[Header]
    decoder: Decoder | None
    endpoint: Endpoint
    resource: Resource | None
    owners: Owners
    clock: Clock
    claims: Claims
    background: Background
    pool: TextPool

    @property
    def shows_response(self) -> Resource | None:
        """The response that the answer shows, if it shows one."""
        resource = self.resource
        return resource if resource is not None and resource.kind == RESPONSE and not self.endpoint.deletes else None


async def pass_plain(passing: Passing) -> None:
    """Pass on an answer that is no stream.

    Raises:
        ApiError: the answer broke off or cannot be read, or what it brings could not be written down.
    """
    body, text = await _read(passing.answer, passing.decoder)
    try:
        await _write_down(passing, text)
    except JournalFailed:
        raise not_recorded() from None
    passing.client.answer(passing.answer.status, passing.headers, body)


async def read_answer_whole(answer: UpstreamAnswer) -> bytes:
    """The text of an answer that is read here and not passed on as it is.

    Raises:
        ApiError: it broke off or cannot be read.
    """
    return (await _read(answer, decoder_for(answer.fields)))[1]


async def _read(answer: UpstreamAnswer, decoder: Decoder | None) -> tuple[bytes, bytes]:
    """An answer's body as it came, and its text."""
    try:
        body = await answer.read_all(FREE_BYTES)
    except UpstreamError as error:
        raise failed(error) from None
    if decoder is None:
        return body, body
    text = decoder.feed(body)
    if not decoder.known or decoder.unread_bytes:
        raise unreadable("The provider's answer is in a coding that nobody asked for.")
    return body, text


async def _write_down(passing: Passing, text: bytes) -> None:
    passing.claims.take_answer(text)
    if passing.endpoint.deletes and passing.resource is not None:
        passing.owners.forget(passing.resource, passing.clock.now_us())
    shown = passing.shows_response
    if shown is not None and passing.endpoint.items == "output":
        await passing.background.see(shown, read_response(RESPONSE, text), text)


class ReplayRelay:
    """The stream of a response that was made before, on its way to a client."""

    __slots__ = ("_meter", "_passing", "_seen")

    def __init__(self, passing: Passing) -> None:
        self._passing = passing
        self._meter = ResponseMeter(RESPONSE, passing.pool)
        self._seen = False

    async def run(self) -> None:
        """Pass the stream on to its end, whatever that is."""
        passing, client = self._passing, self._passing.client
        client.begin(passing.answer.status, passing.headers)
        try:
            while piece := await passing.answer.read():
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
            self._passing.claims.take(self._meter.new_ids())
            if self._meter.overlong:
                raise unreadable("The provider's answer has an event that is too long to be read.")
            if self._meter.done and not self._seen:
                if self._meter.terminal:
                    self._passing.client.send(events)
                    events = self._meter.terminal
                await self._see()
        except JournalFailed:
            await self.break_off(not_recorded())
            return False
        except ApiError as error:
            await self.break_off(error)
            return False
        self._passing.client.send(events)
        return True

    async def _see(self) -> None:
        """The terminal event is here: book the end before it is passed on."""
        shown = self._passing.shows_response
        self._seen = True
        if shown is not None:
            await self._passing.background.see(shown, self._meter.reading(), b"")

    async def break_off(self, error: ApiError) -> None:
        """End the stream here and tell the client; events go whole, so this stands between two of them."""
        self._passing.answer.abort()
        if not self._passing.client.ended:
            self._passing.client.end(b"data: " + error.body() + b"\n\n")

    def notice_absence(self) -> None:
        """Once a second: see a client that left while its provider is silent."""
        if self._passing.client.gone:
            self._passing.answer.interrupt()

    def tell_progress(self, elapsed_us: int) -> None:
        """Nothing to tell: a replay uses nothing."""

    def resolve(self) -> None:
        """Nothing to end: a replay holds nothing."""

    def close(self) -> None:
        """Let go of the provider's connection and of the memory."""
        self._passing.answer.abort()
        self._meter.close()
