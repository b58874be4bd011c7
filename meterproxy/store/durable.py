"""Durable holds in PostgreSQL: their part in settle's transaction, and who asks the provider about which.

Rules
-----
- A deferral and an ending may be settled in any order, by any journal, any number of times. Either brings the row
  about, and with it what leases pay; the ending that found its usage row's key free ends it. Each happens once.
- All of it runs with the accounts, windows and leases concerned locked, so that nothing comes in between.
- A worker has the right to ask about a hold until the instant to which it has moved `next_poll_at`.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from meterproxy.core.draw import deferred
from meterproxy.core.hold import DueHold, DurableHold
from meterproxy.core.lending import Batch, Settling
from meterproxy.core.limit import Measure
from meterproxy.core.price import Price
from meterproxy.core.record import DeferRecord, EndRecord, Subject, decode_subject, encode_subject
from meterproxy.core.resource import Resource, ResourceKey
from meterproxy.store.instants import to_datetime
from meterproxy.store.pool import Connection, transaction
from meterproxy.store.sqlfiles import queries
from meterproxy.store.staging import DrawRow, taken_rows

_SQL: Final = queries("durable")

RECOVERED: Final = "recovered"
"""How a hold ended that recovery found open; only such an ending may not know of a deferral."""


class DurableRows:
    """Fulfils `ledger.ports.DurableStore`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def find_durable(self, key: ResourceKey) -> DurableHold | None:
        """The open durable hold of a resource. Raises StoreUnavailable."""
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_SQL["find_durable"], *key)
        return None if row is None else _hold(row)

    async def take_due(self, most: int, term_seconds: float) -> Sequence[DueHold]:
        """Take the right to ask about what is due, for so many seconds. Raises StoreUnavailable."""
        async with transaction(self._pool) as connection:
            rows = await connection.fetch(_SQL["take_due"], most, term_seconds)
        return [DueHold(_hold(row), row["age_seconds"]) for row in rows]

    async def put_off(self, hold: DurableHold, seconds: float) -> None:
        """Have it asked about again after so many seconds. Raises StoreUnavailable."""
        subject = hold.subject
        async with transaction(self._pool) as connection:
            await connection.execute(_SQL["put_off"], subject.account_id, subject.request_id, seconds)

    async def count(self) -> tuple[int, float]:
        """How many durable holds the fleet has, and the age of the oldest. Raises StoreUnavailable."""
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_SQL["count_durable"])
        assert row is not None
        return row["open"], row["oldest_seconds"]


def _hold(row: asyncpg.Record) -> DurableHold:
    resource = Resource(row["account_id"], row["resource_kind"], row["resource_id"], row["provider"])
    document = orjson.dumps(orjson.loads(row["price"]), option=orjson.OPT_SORT_KEYS)
    return DurableHold(decode_subject(row["subject"]), Price.from_document(document), resource, row["input_estimate"])


# ── part of settle's transaction ────────────────────────────────────────────────────────────────────────────────────


class Deferral(NamedTuple):
    """A hold that a batch knows to be durable."""

    subject: Subject
    resource: Resource
    input_estimate: int | None


def deferrals_of(batch: Batch) -> list[Deferral]:
    """Each durable hold of a batch once: those that became durable, and those whose ending may have come first."""
    once: dict[UUID, Deferral] = {}
    for noted in batch.notes:
        if isinstance(record := noted.record, DeferRecord):
            once[record.subject.request_id] = Deferral(record.subject, record.resource, record.input_estimate)
    for settling in batch.endings:
        if (resource := settling.record.resource) is not None:
            subject = settling.record.subject
            once.setdefault(subject.request_id, Deferral(subject, resource, None))
    return list(once.values())


def deferral_draw_rows(deferrals: Sequence[Deferral]) -> list[DrawRow]:
    """What deferrals draw from their leases: what was held and goes on."""
    return [
        DrawRow(subject.request_id, subject.account_id, draw.limit_id, draw.window_start_us, draw.session_id,
                deferred(draw), 0, 0)
        for subject, _, _ in deferrals
        for draw in subject.draws
        if not draw.counted and draw.measure != Measure.CONCURRENT
    ]  # fmt: skip


async def book_deferrals(connection: Connection, batch_id: UUID, deferrals: Sequence[Deferral]) -> None:
    """Make the rows of durable holds that have none yet, and have their leases pay; behind all locks."""
    if not deferrals:
        return
    rows = [
        (subject.account_id, subject.request_id, to_datetime(subject.occurred_us), resource.kind, resource.id,
         resource.provider, subject.operation, subject.model, subject.price_id, subject.hold_nanos,
         encode_subject(subject), input_estimate)
        for subject, resource, input_estimate in deferrals
    ]  # fmt: skip
    await connection.execute(_SQL["book_deferrals"], batch_id, *(list(column) for column in zip(*rows, strict=True)))
    request_ids = [deferral.subject.request_id for deferral in deferrals]
    await connection.execute(_SQL["clear_deferral_draws"], batch_id, request_ids)


async def drop_deferred(connection: Connection, batch_id: UUID, endings: Iterable[Settling]) -> None:
    """Take recoveries out of a batch whose holds have become durable; behind all locks, before the rows."""
    recovered = [settling.record.subject.request_id for settling in endings if is_unaware(settling.record)]
    if recovered:
        await connection.execute(_SQL["drop_deferred"], batch_id, recovered)


def is_unaware(record: EndRecord) -> bool:
    """Whether it is a recovery, which may not know that its hold had become durable."""
    return record.how == RECOVERED and record.resource is None


async def end_durable(connection: Connection, endings: Iterable[Settling]) -> None:
    """End the durable holds whose endings a batch has booked; behind the rows."""
    records = [settling.record for settling in endings if settling.record.resource is not None]
    if not records:
        return
    ended = [
        (record.subject.account_id, to_datetime(record.subject.occurred_us), record.subject.request_id)
        for record in records
    ]
    draws = [
        (row.request_id, row.account_id, row.limit_id, to_datetime(row.window_start_us), row.consumed, row.overrun)
        for record in records
        for row in taken_rows(record)
        if not row.counted
    ]
    columns = [list(column) for column in zip(*draws, strict=True)] or [[]] * 6
    await connection.execute(_SQL["end_durable"], *(list(column) for column in zip(*ended, strict=True)), *columns)
