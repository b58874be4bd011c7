"""Recovery: what a worker does with the journal it finds.

Rules
-----
- Endings and notes behind what PostgreSQL has confirmed are settled. If PostgreSQL has a row for an id already, that
  row wins.
- A hold is what its last extension says. Holds without an ending are ended as `recovered`, by policy, and that ending
  is written to the journal before it is settled: a kill during recovery changes nothing.
- Usage that was being logged and has no ending was not answered: nothing of it is booked, and it may be told again.
  What it held returns with its session.
- A record that was written again after a failed fsync counts once: the first ending is the ending.
- When all of it is settled, the sessions that wrote this journal are `proved`: what they had leased returns at once.
"""

import logging
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec
from msgspec.structs import replace

from meterproxy.core.lending import Settling
from meterproxy.core.logged import LOGGED
from meterproxy.core.price import Price
from meterproxy.core.record import (
    Ending,
    EndRecord,
    ExtendRecord,
    PlaceRecord,
    PriceRecord,
    ProgressRecord,
    extended,
    identity,
)
from meterproxy.core.usage import Outcome, Usage, UsageSource
from meterproxy.ledger.backlog import Item, item_of
from meterproxy.ledger.holds import priced
from meterproxy.ledger.journal import Journal
from meterproxy.ledger.ports import SessionStore
from meterproxy.ledger.settle import Settler

_log: Final = logging.getLogger(__name__)

STATUS_NOT_SENT: Final = 0
"""The status of a row whose worker died: what the client saw, if anything, is not known."""


LATE: Final = "late"
"""The flag of a row whose lease was given up before its journal turned up."""


class OpenHoldPolicy(StrEnum):
    """What a hold comes to whose worker died: `recovery.open_hold`."""

    CHARGE_DELIVERED = "charge_delivered"
    RELEASE = "release"
    CHARGE_HOLD = "charge_hold"


@dataclass(slots=True)
class Replay:
    """What a journal says beyond what PostgreSQL has: records to settle, and holds that never ended."""

    items: list[Item] = field(default_factory=list)
    open: dict[UUID, PlaceRecord] = field(default_factory=dict)
    progress: dict[UUID, Usage] = field(default_factory=dict)
    prices: dict[UUID, bytes] = field(default_factory=dict)


def replay(journal: Journal, position: int, open_from: int, placed_from: int = 0) -> Replay:
    """Read a journal from where its oldest open hold was placed; holds before `placed_from` are known to have ended."""
    found = Replay()
    seen: set[Hashable] = set()
    for entry in journal.read(open_from):
        match entry.record:
            case PlaceRecord(subject) as record if subject.request_id not in seen:
                if entry.start >= placed_from:
                    found.open[subject.request_id] = record
            case ProgressRecord(request_id, usage) if request_id in found.open:
                found.progress[request_id] = usage
            case ExtendRecord(request_id) as record if request_id in found.open:
                place = found.open[request_id]
                found.open[request_id] = replace(place, subject=extended(place.subject, record))
            case PriceRecord(price_id, document):
                found.prices[price_id] = document
            case record:
                _settle_later(found, item_of(entry.end, record), position, seen)
    return found


def _settle_later(found: Replay, item: Item | None, position: int, seen: set[Hashable]) -> None:
    """Take note of what is settled by itself, unless it was read before; a hold that it ends is not open."""
    if item is None or (about := identity(item.record)) in seen:
        return
    seen.add(about)
    if isinstance(about, UUID):
        found.open.pop(about, None)
        found.progress.pop(about, None)
    if item.position > position:
        found.items.append(item)


def mark_late(items: Iterable[Item], abandoned: frozenset[UUID]) -> None:
    """Flag what draws from leases that were given up: it is booked all the same, even above the cap."""
    for item in items if abandoned else ():
        if isinstance(item, Settling) and not abandoned.isdisjoint(item.record.subject.draws.path.sessions):
            item.record = with_flag(item.record, LATE)


def with_flag(record: EndRecord, flag: str) -> EndRecord:
    """An ending with one thing more to be said of it."""
    ending = record.ending
    return msgspec.structs.replace(record, ending=msgspec.structs.replace(ending, flags=(*ending.flags, flag)))


def end_open_holds(journal: Journal, found: Replay, policy: OpenHoldPolicy) -> list[Settling]:
    """Write a `recovered` ending for each open hold; answers them with their positions."""
    named = {place.subject.price_id for place in found.open.values()} & found.prices.keys()
    for price_id in named:
        journal.append(PriceRecord(price_id, found.prices[price_id]))  # this segment must be readable by itself
    return [Settling(journal.append(record), record) for record in _recovered(found, policy)]


def recovered_ends(found: Replay, policy: OpenHoldPolicy, position: int) -> list[Settling]:
    """The same where nothing may be written: all of them at one position, behind everything that was read."""
    return [Settling(position, record) for record in _recovered(found, policy)]


def _recovered(found: Replay, policy: OpenHoldPolicy) -> Iterator[EndRecord]:
    for request_id, place in found.open.items():
        if place.subject.operation == LOGGED:
            continue
        document = found.prices.get(place.subject.price_id)
        price = Price.from_document(document) if document else None
        yield recovered_end(place, price, found.progress.get(request_id), policy)


def take_up(
    journal: Journal, found: Replay, settler: Settler, policy: OpenHoldPolicy, abandoned: frozenset[UUID]
) -> int:
    """End what is open and queue all that PostgreSQL lacks; answers how many holds were open. Raises JournalFailed.

    `abandoned`: sessions whose leases an operator has given up meanwhile.
    """
    recovered = end_open_holds(journal, found, policy)
    journal.sync_now()
    take_in(found, recovered, settler, abandoned)
    return len(recovered)


def take_in(found: Replay, recovered: Iterable[Settling], settler: Settler, abandoned: frozenset[UUID]) -> None:
    """Queue all that PostgreSQL lacks of a journal."""
    for price_id, document in found.prices.items():
        settler.know_price(price_id, document)
    items = (*found.items, *recovered)
    mark_late(items, abandoned)
    for item in items:
        settler.add(item)


async def prove(sessions: SessionStore, journal_id: UUID, own_session: UUID) -> int:
    """End the sessions that wrote a journal which is settled to its end; answers how many. Raises StoreUnavailable."""
    earlier = await sessions.earlier_sessions(journal_id, own_session)
    for session_id in earlier:
        returned = await sessions.end_session(session_id, "proved")
        _log.info("proved an earlier session", extra={"session_id": session_id, "returned": returned})
    return len(earlier)


def recovered_end(place: PlaceRecord, price: Price | None, progress: Usage | None, policy: OpenHoldPolicy) -> EndRecord:
    """How a hold ends whose worker died; never above the hold.

    `charge_delivered`: the input and what the last progress record says was delivered. A hold whose price is not in the
    journal was never sent and costs nothing.
    """
    subject = place.subject
    usage = Usage()
    cost = amount = 0
    if policy is not OpenHoldPolicy.RELEASE and price is not None:
        estimate = place.input_estimate
        usage = progress or Usage(input=subject.bound_input_tokens if estimate is None else estimate, requests=1)
        cost, amount, _ = priced(price, usage, None, subject.markup_ppm)
        if policy is OpenHoldPolicy.CHARGE_HOLD:
            amount = subject.hold_nanos
        amount = min(amount, subject.hold_nanos)
    ending = Ending(Outcome.RECOVERED, STATUS_NOT_SENT, UsageSource.RECOVERED, usage)
    return EndRecord("recovered", subject, ending, cost, amount, 0)
