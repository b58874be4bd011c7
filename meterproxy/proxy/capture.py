"""Capture: the one ending of a hold.

Rules
-----
- A hold is ended by `capture` or by `release`, whichever comes first, and never again.
- Both are synchronous. `capture` returns before any terminal piece of the answer may be written.
- Usage that the provider did not tell is counted, never zero.
- A hold whose work goes on at the provider is deferred: from then on it is no longer this exchange's to end, unless the
  exchange is the first to see the end.
"""

from collections.abc import Mapping
from contextlib import suppress

import msgspec

from meterproxy.core.bound import Bound
from meterproxy.core.hold import Receipt
from meterproxy.core.record import Ending, bookable_text
from meterproxy.core.resource import Resource
from meterproxy.core.usage import Outcome, Usage, UsageSource
from meterproxy.errors import JournalFailed
from meterproxy.proxy.meter import Reading
from meterproxy.proxy.ports import Clock, DurableHolds, Hold, Ledger


class Measured(msgspec.Struct, frozen=True, gc=False):
    """What an answer used, and whose word that is."""

    usage: Usage
    source: UsageSource
    flags: tuple[str, ...] = ()


class OpenHold:
    """A placed hold until it ends, with what is learnt of its exchange on the way.

    Args:
        begun_us: when the exchange was accepted, on the steady clock.
    """

    __slots__ = (
        "_begun_us",
        "_clock",
        "_durable",
        "_hold",
        "_ledger",
        "bound",
        "confirmed",
        "ending",
        "first_byte_us",
        "provider_request_id",
        "receipt",
        "released",
    )

    def __init__(self, hold: Hold, bound: Bound, ledger: Ledger, clock: Clock, begun_us: int) -> None:
        self._hold = hold
        self._ledger = ledger
        self._clock = clock
        self._begun_us = begun_us
        self._durable: DurableHolds | None = None
        self.bound = bound
        self.confirmed = False
        self.ending: Ending | None = None
        self.receipt: Receipt | None = None
        self.released = False
        self.first_byte_us: int | None = None
        self.provider_request_id: str | None = None

    @property
    def open(self) -> bool:
        """Whether this exchange must end the hold."""
        return self.ending is None and self._durable is None

    @property
    def deferred(self) -> bool:
        """Whether the hold outlives this exchange, and its end has not been seen."""
        return self.ending is None and self._durable is not None

    def defer(self, durable: DurableHolds, resource: Resource) -> None:
        """Let the hold outlive this exchange; written to the journal when this returns. Raises JournalFailed."""
        assert self.open, "only an open hold can be deferred"
        durable.defer(self._hold, resource)
        self._durable = durable

    def confirm(self) -> None:
        """Ask, in the step that sends the first byte, whether this worker may still spend. Raises ApiError."""
        self._ledger.confirm(self._hold)
        self.confirmed = True

    def answered(self, fields: Mapping[bytes, bytes]) -> None:
        """The head of the provider's answer is here, its headers by their names in lower case."""
        self.first_byte_us = self._elapsed_us()
        provider_request_id = fields.get(b"x-request-id")
        if provider_request_id is not None:
            self.provider_request_id = bookable_text(provider_request_id.decode("latin-1"))

    def progress(self, usage: Usage) -> None:
        """Journal what a stream has delivered so far."""
        if self.open:
            self._ledger.progress(self._hold, usage)

    def capture(
        self,
        outcome: Outcome,
        status: int,
        reading: Reading,
        measured: Measured,
        status_unwritten: int | None = None,
    ) -> Receipt:
        """End the hold with what was used; `status_unwritten` is what the client gets where that cannot be written.

        Raises:
            JournalFailed: the ending is in memory only; the client must hear of an error before the terminal piece.
        """
        assert self.ending is None, "a hold ends once"
        ending = self._ending(outcome, status, reading, measured)
        try:
            if self._durable is not None:
                self.receipt = self._durable.capture(self._hold, ending)
            else:
                self.receipt = self._ledger.capture(self._hold, ending, status_unwritten)
        except JournalFailed:
            self.ending = ending
            raise
        self.ending = ending  # not before: after any other failure the hold is still to be ended
        return self.receipt

    def release(self, outcome: Outcome, status: int, consumed: Usage | None = None) -> None:
        """End the hold with nothing charged; `consumed` is what the provider may charge us all the same."""
        assert self.ending is None, "a hold ends once"
        source = UsageSource.PROVIDER if consumed is None else UsageSource.ESTIMATED
        ending = self._ending(outcome, status, Reading(), Measured(consumed or Usage(), source))
        with suppress(JournalFailed):  # the ledger keeps the ending in memory, and no terminal piece depends on it
            self._ledger.release(self._hold, ending)
        self.ending = ending
        self.released = True

    def _elapsed_us(self) -> int:
        return self._clock.elapsed_us() - self._begun_us

    def _ending(self, outcome: Outcome, status: int, reading: Reading, measured: Measured) -> Ending:
        return Ending(
            outcome,
            status,
            measured.source,
            measured.usage,
            reading.served_model,
            reading.service_tier,
            self.provider_request_id or reading.provider_id,
            self._elapsed_us(),
            self.first_byte_us,
            reading.tools,
            measured.flags,
            reading.raw_usage,
        )
