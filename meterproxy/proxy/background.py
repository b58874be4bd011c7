"""Background: responses that go on at the provider after their exchange, and the one time that their end is booked.

Rules
-----
- Whoever sees the end first captures the durable hold, before the bytes that show it go out: a client's look at the
  response, a stream of it, or the poller.
- The provider's usage counts. A response that failed without telling any has used nothing that we are charged for; one
  that is gone, or has ended without a word of usage, is estimated by what was asked and by the text that is there.
- One that was cancelled without a word of usage is estimated by the time it had, if that comes to more than its text
  does: what a model thought is billed and shows nowhere. Never more than the hold.
"""

from typing import Final

from msgspec.structs import replace

from meterproxy.core.hold import DurableHold
from meterproxy.core.record import Ending, Subject
from meterproxy.core.resource import RESPONSE, Resource
from meterproxy.core.usage import Outcome, Usage, UsageSource
from meterproxy.errors import ApiError, Case, StoreUnavailable
from meterproxy.proxy.abridged import Abridged
from meterproxy.proxy.forward import failed, nothing_held, read_whole, unreadable
from meterproxy.proxy.headers import to_provider
from meterproxy.proxy.large_body import abridged
from meterproxy.proxy.meter import Reading
from meterproxy.proxy.paths import provider_path
from meterproxy.proxy.ports import Clock, DurableHolds, Hold
from meterproxy.proxy.provider import Provider, account_refused
from meterproxy.proxy.response_meter import read_response
from meterproxy.proxy.response_texts import response_answer_texts
from meterproxy.proxy.token_counts import BYTES_PER_TOKEN
from meterproxy.proxy.turns import Turns
from meterproxy.proxy.upstream import UpstreamError

GONE = frozenset({404, 410})
PATH = "/responses/{response_id}"

CANCELLED_TOKENS_PER_SECOND: Final = 100
"""How fast a model is taken to have worked on what was cancelled: its answer need not show what it has generated."""
CANCELLED = ("cancelled",)
VANISHED = ("vanished",)
"""Flags of rows whose response was cancelled, or was gone when its end was looked for."""


async def ask_provider(provider: Provider, resource: Resource, hold: Hold, now_us: int, turns: Turns) -> Ending | None:
    """Ask a provider for a background response; its ending, or None while it is being worked on.

    Raises:
        ApiError: the provider cannot be reached, does not answer in time, or does not answer as it should.
    """
    try:
        answer = await provider.upstream.send(
            b"GET",
            provider_path(PATH, (resource.id,)),
            to_provider((), provider.own_headers),
            b"",
            before_first_byte=nothing_held,
        )
    except UpstreamError as error:
        raise failed(error) from None
    _, text = await read_whole(answer)
    if answer.status in GONE:
        return _estimated(hold, 0, now_us, Outcome.CLIENT_LEFT, Reading(flags=VANISHED))
    if answer.status != 200:
        raise account_refused()
    large = await abridged(text, turns)
    reading = read_response(RESPONSE, large.document)
    if reading.provider_id is None:
        raise unreadable("The provider's answer is no response.")
    return ending_of(reading, large, hold, now_us)


def ending_of(reading: Reading, answer: Abridged, hold: Hold, now_us: int) -> Ending | None:
    """What a response object makes of its hold, None while it is being worked on."""
    if reading.running:
        return None
    if reading.usage is not None:
        outcome = Outcome.PROVIDER_ERROR if reading.failed else Outcome.COMPLETED
        return _ending(hold, now_us, outcome, UsageSource.PROVIDER, reading.usage, reading)
    if reading.failed:
        return _ending(hold, now_us, Outcome.PROVIDER_ERROR, UsageSource.PROVIDER, Usage(), reading)
    texts = response_answer_texts(answer.document)
    written = sum(answer.length(text.encode("utf-8", "replace")) for text in texts)
    output_tokens = written // BYTES_PER_TOKEN
    if not reading.cancelled:
        return _estimated(hold, output_tokens, now_us, Outcome.COMPLETED, reading)
    output_tokens = max(output_tokens, _generated_since(hold, now_us))
    return _estimated(
        hold,
        output_tokens,
        now_us,
        Outcome.CLIENT_LEFT,
        replace(reading, flags=reading.flags + CANCELLED),
    )


def _generated_since(hold: Hold, now_us: int) -> int:
    """Tokens that a model may have generated, seen or not, since this hold was placed."""
    return max(now_us - hold.subject.occurred_us, 0) * CANCELLED_TOKENS_PER_SECOND // 1_000_000


def _estimated(hold: Hold, output_tokens: int, now_us: int, outcome: Outcome, reading: Reading) -> Ending:
    subject = hold.subject
    estimate = hold.input_estimate if isinstance(hold, DurableHold) else None
    usage = Usage(
        input=subject.bound_input_tokens // BYTES_PER_TOKEN if estimate is None else estimate,
        output=min(output_tokens, subject.bound_output_tokens),
        requests=1,
        web_searches=reading.web_searches,
        file_searches=reading.file_searches,
    )
    return _ending(hold, now_us, outcome, UsageSource.ESTIMATED, usage, reading)


def _ending(hold: Hold, now_us: int, outcome: Outcome, source: UsageSource, usage: Usage, reading: Reading) -> Ending:
    subject: Subject = hold.subject
    return Ending(
        outcome,
        200,
        source,
        usage,
        reading.served_model,
        reading.service_tier,
        reading.provider_id,
        max(now_us - subject.occurred_us, 0),
        None,
        reading.tools,
        reading.flags,
        reading.raw_usage,
    )


class Background:
    """Books the end of background responses that clients see."""

    __slots__ = ("_clock", "_durable", "_turns")

    def __init__(self, durable: DurableHolds, clock: Clock, turns: Turns) -> None:
        self._turns = turns
        self._durable = durable
        self._clock = clock

    async def see(self, resource: Resource, reading: Reading, answer: Abridged) -> None:
        """A client is about to see this response; if it has ended, and nobody has booked that, it is booked now.

        Raises:
            ApiError: UNAVAILABLE where PostgreSQL cannot be asked for the hold.
            JournalFailed: the ending could not be written, so the client must not see it.
        """
        if reading.running or reading.foreground or reading.provider_id is None:
            return
        hold = await self._find(resource)
        if hold is not None:
            ending = ending_of(reading, answer, hold, self._clock.now_us())
            if ending is not None:
                self._durable.end(hold, ending)

    async def before_deletion(self, resource: Resource, provider: Provider) -> None:
        """Book the end of what is to be deleted, for nobody could see it afterwards.

        Raises:
            ApiError: RESOURCE_BUSY while it is being worked on; UNAVAILABLE; as `ask_provider`.
            JournalFailed: the ending could not be written.
        """
        hold = await self._find(resource)
        if hold is None:
            return
        ending = await ask_provider(provider, resource, hold, self._clock.now_us(), self._turns)
        if ending is None:
            message = f"Response with id '{resource.id}' is still in progress. Cancel it before you delete it."
            raise ApiError(Case.RESOURCE_BUSY, message)
        if not set(VANISHED) & set(ending.flags):  # what seems to be gone already is left to the poller
            self._durable.end(hold, ending)

    async def _find(self, resource: Resource) -> Hold | None:
        try:
            return await self._durable.find(resource)
        except StoreUnavailable:
            message = "What the response has cost cannot be looked up right now. Please try again."
            raise ApiError(Case.UNAVAILABLE, message) from None
