"""Durable holds: what one worker does with holds that outlive their exchange, and perhaps this worker.

Rules
-----
- A hold becomes durable in one synchronous step: journal first, then the book, where its whole amount counts as
  captured and not settled. From then on it is in no journal's open set, and no worker's end returns its money.
- Settle makes it a row that belongs to the account. Whoever sees the end captures it by a record of its own journal,
  which says everything: it may be settled before the deferral is, twice, or by several workers; the usage row's key
  decides which one counts.
- What cannot be written down has not happened: the hold stays open and ends with the next one who sees the end.
"""

from collections import OrderedDict
from typing import Final
from uuid import UUID

import msgspec

from meterproxy.core.draw import CAPTURED, RELEASED, lasting
from meterproxy.core.hold import DurableHold, Hold, Receipt
from meterproxy.core.lending import LeaseKey, Noted, Settling
from meterproxy.core.record import DeferRecord, Ending, EndRecord, NoteRecord, PlaceRecord, fit
from meterproxy.core.resource import Resource, ResourceKey, key_of
from meterproxy.errors import JournalFailed, JournalFull
from meterproxy.ledger.asking import answered
from meterproxy.ledger.book import Book
from meterproxy.ledger.holds import Holds, PlacedHold, priced
from meterproxy.ledger.journal import Journal
from meterproxy.ledger.lease import Borrower
from meterproxy.ledger.ports import DurableStore
from meterproxy.ledger.recover import OpenHoldPolicy, recovered_end
from meterproxy.ledger.settle import Settler

ENDINGS_REMEMBERED: Final = 10_000
"""Endings of this worker that a look-up may meet before they are settled."""


class DurableHolds:
    """Fulfils `proxy.ports.DurableHolds`."""

    def __init__(
        self, rows: DurableStore, book: Book, journal: Journal, holds: Holds, borrower: Borrower, settler: Settler
    ) -> None:
        self._rows = rows
        self._book = book
        self._journal = journal
        self._holds = holds
        self._borrower = borrower
        self._settler = settler
        self._deferred: dict[ResourceKey, DurableHold] = {}
        self._ended: OrderedDict[UUID, Receipt] = OrderedDict()

    def defer(self, hold: Hold, resource: Resource) -> None:
        """See `proxy.ports.DurableHolds.defer`."""
        assert isinstance(hold, PlacedHold)
        assert hold in self._holds.open, "only an open hold can become durable"
        record = DeferRecord(hold.subject, resource, hold.input_estimate)
        position = self._journal.defer(record, hold.placed_at)
        self._book.defer(hold.placed, lasting(hold.placed.amounts))
        del self._holds.open[hold]
        self._borrower.freed(hold.keys)  # what does not go on, like a place among concurrent requests
        hold.durable = DurableHold(hold.subject, hold.price, resource, hold.input_estimate)
        self._deferred[key_of(resource)] = hold.durable
        self._settler.add(Noted(position, record, hold.placed_at))
        self._settler.hasten()

    async def find(self, resource: Resource) -> DurableHold | None:
        """See `proxy.ports.DurableHolds.find`."""
        hold = self._deferred.get(key_of(resource))
        if hold is None:
            hold = await answered(self._rows.find_durable(key_of(resource)))
        return None if hold is None or hold.subject.request_id in self._ended else hold

    def capture(self, hold: Hold, ending: Ending) -> Receipt:
        """See `proxy.ports.DurableHolds.capture`."""
        durable = _durable(hold)
        subject = durable.subject
        cost, amount, flags = priced(durable.price, ending.usage, ending.service_tier, subject.markup_ppm)
        if flags:
            ending = msgspec.structs.replace(ending, flags=(*ending.flags, *flags))
        overrun = max(amount - subject.hold_nanos, 0)
        return self._end(durable, EndRecord(CAPTURED, subject, fit(ending), cost, amount, overrun, durable.resource))

    def release(self, hold: Hold, ending: Ending) -> None:
        """See `proxy.ports.DurableHolds.release`."""
        durable = _durable(hold)
        cost, _, _ = priced(durable.price, ending.usage, ending.service_tier, durable.subject.markup_ppm)
        self._end(durable, EndRecord(RELEASED, durable.subject, fit(ending), cost, 0, 0, durable.resource))

    def end(self, hold: Hold, ending: Ending) -> None:
        """See `proxy.ports.DurableHolds.end`."""
        if any(ending.usage):
            self.capture(hold, ending)
        else:
            self.release(hold, ending)

    def expire(self, hold: DurableHold, policy: OpenHoldPolicy) -> None:
        """End a durable hold of which nobody has seen the end, as one whose worker died. Raises JournalFailed."""
        place = PlaceRecord(hold.subject, hold.input_estimate)
        record = recovered_end(place, hold.price, None, policy)
        self._end(hold, msgspec.structs.replace(record, resource=hold.resource))

    def queued(self, record: NoteRecord) -> None:
        """See `settle.NoteObserver`."""

    def settled(self, record: NoteRecord) -> None:
        """See `settle.NoteObserver`: PostgreSQL has the row."""
        if isinstance(record, DeferRecord):
            self._deferred.pop(key_of(record.resource), None)

    def _end(self, hold: DurableHold, record: EndRecord) -> Receipt:
        """Write the ending where there is room; nothing was kept for it in this journal."""
        request_id = hold.subject.request_id
        if (earlier := self._ended.get(request_id)) is not None:
            return earlier
        try:
            self._holds.write_price(hold.price)
            position = self._journal.describe(record)
        except JournalFull as error:
            raise JournalFailed(str(error)) from error
        self._settler.add(Settling(position, record))
        self._settler.hasten()
        receipt = Receipt(record.cost_nanos, record.amount_nanos, self._rest(hold))
        self._ended[request_id] = receipt
        if len(self._ended) > ENDINGS_REMEMBERED:
            self._ended.popitem(last=False)
        return receipt

    def _rest(self, hold: DurableHold) -> int | None:
        """What is left of the account's credit, from which every hold draws last."""
        credit = hold.subject.draws.path.sources[-1]
        return self._borrower.rest(LeaseKey(hold.subject.account_id, credit.limit_id, credit.window_start_us))


def _durable(hold: Hold) -> DurableHold:
    """The durable hold that is meant, also by who still has the one it was placed as."""
    durable = hold.durable if isinstance(hold, PlacedHold) else hold
    assert isinstance(durable, DurableHold), "only a durable hold ends here"
    return durable
