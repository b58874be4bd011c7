"""Plain answers: read whole, captured, then written at once.

Rules
-----
- The ending is written before the client gets the last byte. An answer too large to be read whole is passed on piece
  by piece, one piece behind, and its usage is looked for in its tail.
- A client that has left does not stop the call: the provider bills all of it.
- An answer that brings ids which must be written down is read whole, or not passed on at all. If they cannot be written
  down it is charged all the same, as a stream is: the provider has done the work, and bills it.
"""

from collections.abc import Callable
from typing import Final

from meterproxy.core.hold import Receipt
from meterproxy.core.money import format_usd
from meterproxy.core.usage import Outcome
from meterproxy.errors import ApiError, JournalFailed
from meterproxy.proxy.abridged import Abridged
from meterproxy.proxy.claims import Claims
from meterproxy.proxy.counting import AnswerTexts
from meterproxy.proxy.delivery import Delivery, not_recorded
from meterproxy.proxy.forward import ANSWER_BYTES, failed, unreadable
from meterproxy.proxy.large_body import DIRECT_BYTES, abridged
from meterproxy.proxy.meter import Reading
from meterproxy.proxy.meters import plain_reader
from meterproxy.proxy.token_counts import BYTES_PER_TOKEN
from meterproxy.proxy.upstream import UpstreamError

TAIL_BYTES: Final = 65536
"""How much of a large answer's end is looked through for its usage."""
COST: Final = b"x-meterproxy-cost"
BALANCE: Final = b"x-meterproxy-balance"

NOT_RECORDED: Final = not_recorded().status
_USAGE: Final = b'"usage"'


async def relay_plain(delivery: Delivery, began: "Callable[[LargeRelay], None]") -> None:
    """Pass on an answer that is no stream; `began` is told of one that reaches the client before it has ended.

    Raises:
        Failed: the answer broke off before the client got any of it.
        ApiError: the ending could not be written, and the client has got nothing.
    """
    answer = delivery.forwarded.answer
    limit = delivery.settings.buffered_bytes if delivery.claims is None else ANSWER_BYTES
    try:
        body, whole = await answer.read_up_to(limit)
    except UpstreamError as error:
        raise failed(error) from None
    if not whole and delivery.claims is not None:
        answer.abort()
        raise unreadable("The provider's answer is too long to be read.")
    if whole:
        await _answer_whole(delivery, body)
    else:
        relay = LargeRelay(delivery, body)
        began(relay)
        await relay.run()


async def _answer_whole(delivery: Delivery, body: bytes) -> None:
    text = body if delivery.decoder is None else delivery.decoder.feed(body)
    reader = plain_reader(delivery.operation)
    large = None if len(text) <= DIRECT_BYTES else await abridged(text, delivery.turns)
    document = text if large is None else large.document
    reading = reader.reading(delivery.operation, document, delivery.ceiling)
    recorded = delivery.claims is None or _written_down(delivery, delivery.claims, reading, document)
    headers = delivery.headers
    if delivery.hold.deferred:
        pass  # its end is seen later
    elif reading.failed and reading.usage is None:
        delivery.hold.release(Outcome.PROVIDER_ERROR, delivery.status)
    else:
        measured = delivery.counting.told(reading)
        if measured is None:
            measured = await delivery.counting.measure(reading, lambda: _texts(delivery, reading, text, large))
        status = delivery.status if recorded else NOT_RECORDED
        try:
            receipt = delivery.hold.capture(_outcome(delivery), status, reading, measured, NOT_RECORDED)
        except JournalFailed:
            raise not_recorded() from None
        headers = [*headers, *charged(receipt)]
    if not recorded:
        raise not_recorded()
    delivery.client.answer(delivery.status, headers, body)


def _written_down(delivery: Delivery, claims: Claims, reading: Reading, text: bytes) -> bool:
    """Claim what the answer brings, and defer its hold if the work is still going on; False where that failed."""
    if delivery.decoder is not None and (not delivery.decoder.known or delivery.decoder.unread_bytes):
        raise unreadable("The provider's answer is in a coding that nobody asked for.")
    try:
        claims.take_answer(text)
        if reading.running and reading.provider_id is not None:
            delivery.defer(reading.provider_id)
    except JournalFailed:
        return False
    return True


def _outcome(delivery: Delivery) -> Outcome:
    return Outcome.CLIENT_LEFT if delivery.client.left else Outcome.COMPLETED


def charged(receipt: Receipt) -> list[tuple[bytes, bytes]]:
    """The headers that tell what an answer cost and what is left."""
    headers = [(COST, format_usd(receipt.amount_nanos).encode())]
    if receipt.available_nanos is not None:
        headers.append((BALANCE, format_usd(receipt.available_nanos).encode()))
    return headers


def _texts(delivery: Delivery, reading: Reading, text: bytes, large: Abridged | None) -> AnswerTexts:
    """What the answer said; bytes that no one can read as an answer count as such."""
    unread = 0 if delivery.decoder is None else delivery.decoder.unread_bytes
    if reading.served_model is None and reading.provider_id is None:
        unread += len(text)
    texts = plain_reader(delivery.operation).texts(text if large is None else large.document)
    return AnswerTexts(texts, unread if delivery.hold.bound.output_tokens else 0, large)


class LargeRelay:
    """An answer too large to be read whole, passed on piece by piece; what the client has got is charged."""

    __slots__ = ("_delivery", "_held", "_tail")

    def __init__(self, delivery: Delivery, held: bytes) -> None:
        self._delivery = delivery
        self._held = held
        self._tail = _Tail(delivery)

    async def run(self) -> None:
        """Pass the answer on to its end, whatever that is."""
        client = self._delivery.client
        client.begin(self._delivery.status, self._delivery.headers)
        self._tail.feed(self._held)
        outcome = Outcome.STREAM_BROKEN
        try:
            await self._copy()
            outcome = _outcome(self._delivery)
        except UpstreamError:
            pass  # what was delivered is booked below, and the client's connection is cut
        whole = await self._captured(outcome) and outcome is not Outcome.STREAM_BROKEN
        if whole:
            client.end(self._held)
        else:
            client.abort()

    async def _copy(self) -> None:
        client, answer = self._delivery.client, self._delivery.forwarded.answer
        while piece := await answer.read():
            client.send(self._held)
            if client.congested:
                await client.drain()
            self._held = piece
            self._tail.feed(piece)

    async def _captured(self, outcome: Outcome) -> bool:
        reading = self._tail.reading()
        measured = await self._delivery.counting.measure(reading, self._tail.texts)
        try:
            self._delivery.hold.capture(outcome, self._delivery.status, reading, measured)
        except JournalFailed:
            return False
        return True

    async def break_off(self, error: ApiError) -> None:
        """End it here: the client's connection is cut, since no error fits into the middle of an answer."""
        del error
        self._delivery.forwarded.answer.abort()
        if self._delivery.hold.open:
            await self._captured(Outcome.STREAM_BROKEN)
        self._delivery.client.abort()

    def resolve(self) -> None:
        """The last resort, synchronous: capture what was delivered by what is known without asking anybody."""
        if self._delivery.hold.open:
            reading = self._tail.reading()
            measured = self._delivery.counting.known(reading, self._tail.texts().unread_bytes // BYTES_PER_TOKEN)
            self._delivery.hold.capture(Outcome.STREAM_BROKEN, self._delivery.status, reading, measured)

    def notice_absence(self) -> None:
        """Nothing to do: a large answer comes on, and writing to the client tells."""

    def tell_progress(self, elapsed_us: int) -> None:
        """Nothing to tell: how far an answer of one piece has come says nothing of what it used."""

    def close(self) -> None:
        """Let go of the provider's connection."""
        self._delivery.forwarded.answer.abort()


class _Tail:
    """The end of an answer too large to be kept."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._decoder = delivery.decoder
        self._bytes = b""
        self._seen_bytes = 0

    def feed(self, piece: bytes) -> None:
        text = piece if self._decoder is None else self._decoder.feed(piece)
        self._seen_bytes += len(text)
        self._bytes = (self._bytes + text[-TAIL_BYTES:])[-TAIL_BYTES:]

    def reading(self) -> Reading:
        """What the members from `usage` to the end say."""
        start = self._bytes.rfind(_USAGE)
        if start < 0:
            return Reading()
        operation = self._delivery.operation
        return plain_reader(operation).reading(operation, b"{" + self._bytes[start:], self._delivery.ceiling)

    def texts(self) -> AnswerTexts:
        unread = self._seen_bytes + (0 if self._decoder is None else self._decoder.unread_bytes)
        return AnswerTexts([], unread if self._delivery.hold.bound.output_tokens else 0)
