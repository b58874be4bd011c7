"""Settle's transaction: a batch of endings becomes usage rows, ledger entries, balances, leases and rollups.

Rules
-----
- The queries run in the order of `sql/queries/settle.sql`, in one transaction; progress is advanced first, so a batch
  that somebody else has booked is noticed before anything is written.
- Lock order: worker session, account, limit window, lease, rollup.
- Nearly always every record of a batch is new. So its draws go in as sums, one row a lease; where a record turns out
  not to be new all of it is undone, and done again with the draws of each record by themselves.
"""

import dataclasses
import struct
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
import orjson

from meterproxy.core.lending import Batch, Noted, Settling
from meterproxy.core.money import MAX_NANOS
from meterproxy.core.record import DeferRecord, Ending, EndRecord, Subject, bookable_text, encode_payload
from meterproxy.core.usage import MAX_COUNT, Usage
from meterproxy.errors import Forgotten, ProgressMoved, Unbookable
from meterproxy.store.durable import (
    Deferral,
    book_deferrals,
    deferral_draw_rows,
    deferrals_of,
    drop_deferred,
    end_durable,
    is_unaware,
)
from meterproxy.store.instants import to_datetime, to_us
from meterproxy.store.owners import book_owners
from meterproxy.store.pool import Connection, retried, transaction
from meterproxy.store.sqlfiles import queries
from meterproxy.store.staging import DrawRow, draw_rows, stage, summed_rows

_SQL: Final = queries("settle")

LAST_US: Final = to_us(datetime.max.replace(tzinfo=UTC))
LATENCY_THRESHOLDS_MS: Final = [2**power for power in range(23)]
"""Upper ends of the latency buckets: 1 ms … 70 minutes."""

_UNBOOKABLE: Final = (asyncpg.PostgresError, asyncpg.DataError, struct.error, OverflowError, ValueError, TypeError)


class _NotAllNew(Exception):
    """A record of the batch was booked before, so the sums of what the batch draws are too much."""


class Settlement:
    """Fulfils `ledger.ports.SettleStore`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def progress(self, journal_id: UUID) -> tuple[int, int]:
        """Where a journal stands: (settled up to, replay from)."""
        async with transaction(self._pool) as connection:
            await connection.execute(_SQL["add_journal"], journal_id)
            row = await connection.fetchrow(_SQL["read_progress"], journal_id)
        assert row is not None
        return row["position"], row["open_from"]

    async def book(self, batch: Batch) -> int:
        """Book a batch; answers how many rows were new.

        Raises:
            ProgressMoved: the journal stands elsewhere; nothing was written.
            Forgotten: PostgreSQL is in another life than the batch says; nothing was written.
            Unbookable: PostgreSQL refuses a record of the batch; nothing was written.
            StoreUnavailable: PostgreSQL is away; the batch may or may not have been booked.
        """
        try:
            try:
                return await retried(lambda: self._book_once(batch, summed=True))
            except _NotAllNew:
                return await retried(lambda: self._book_once(batch, summed=False))
        except _UNBOOKABLE as error:
            raise Unbookable(f"{type(error).__name__}: {error}") from error

    async def _book_once(self, batch: Batch, *, summed: bool) -> int:
        async with transaction(self._pool) as connection:
            return await _book(connection, batch, summed=summed)

    async def reject(self, batch: Batch, error: str) -> bool:
        """Book the one record of `batch` with as much as PostgreSQL takes, and keep it whole for a person.

        First as a row with minimal columns, if need be without the price it names; where even that has no place (its
        partition is missing), its money alone; and where not even that can be booked, the record is kept. Answers
        whether it was kept: not where the books had it already.
        """
        bare = dataclasses.replace(batch, prices={})
        of_an_ending = (
            lambda: self._book_minimal(batch, error),
            lambda: self._book_minimal(bare, error),
            lambda: self._book_money(bare, error),
        )
        of_a_note = (lambda: self._book_note_minimal(batch, error),)
        attempts = of_an_ending if batch.endings else of_a_note
        for attempt in attempts:
            try:
                return await retried(attempt)
            except (Unbookable, *_UNBOOKABLE) as failed:
                error = f"{error}; then {type(failed).__name__}: {failed}"
        return await retried(lambda: self._keep(bare, error) if batch.endings else self._keep_note(batch, error))

    async def _book_minimal(self, batch: Batch, error: str) -> bool:
        (settling,) = batch.endings
        minimal = Settling(settling.position, minimal_record(settling.record))
        async with transaction(self._pool) as connection:
            if not await _book(connection, dataclasses.replace(batch, endings=[minimal])):
                return False  # a row that is there wins, and so does a durable hold
            await connection.execute(_SQL["note_rejected"], *_rejected(batch, minimal.record, settling, error))
        return True

    async def _book_money(self, batch: Batch, error: str) -> bool:
        (settling,) = batch.endings
        record = minimal_record(settling.record)
        subject = record.subject
        minimal = dataclasses.replace(batch, endings=[Settling(settling.position, record)])
        async with transaction(self._pool) as connection:
            await _advance(connection, batch)
            await _book_deferrals_alone(connection, minimal)
            for draw in subject.draws:
                await connection.execute(_SQL["lock_session"], draw.session_id)
            if await connection.fetchval(_SQL["lock_account"], subject.account_id) is None:
                raise Unbookable("there is no such account to be charged")
            new = await connection.fetchval(
                _SQL["add_rejected"], *_rejected(batch, record, settling, error), _placed(subject), is_unaware(record)
            )
            if new is None:
                return False
            deduction = record.amount_nanos - record.overrun_nanos
            for kind, amount in (("deduction", deduction), ("overrun", record.overrun_nanos)):
                if amount:
                    await connection.execute(
                        _SQL["charge_rejected"], subject.account_id, subject.request_id, amount, kind
                    )
            await end_durable(connection, minimal.endings)
            for row in sorted(draw_rows(record), key=lambda row: (row.limit_id, row.window_start_us)):
                window = (row.account_id, row.limit_id, to_datetime(row.window_start_us))
                await connection.execute(_SQL["add_window"], *window)
                await connection.execute(_SQL["lock_window"], *window)
                await connection.execute(_SQL["lock_lease"], *window, row.session_id)
                await connection.execute(
                    _SQL["draw_rejected"], *window, row.session_id, row.consumed, row.overrun, row.counted
                )
        return True

    async def _keep(self, batch: Batch, error: str) -> bool:
        (settling,) = batch.endings
        async with transaction(self._pool) as connection:
            await _advance(connection, batch)
            record = minimal_record(settling.record)
            kept = await connection.fetchval(_SQL["keep_rejected"], *_rejected(batch, record, settling, error))
        return kept is not None

    async def _book_note_minimal(self, batch: Batch, error: str) -> bool:
        (noted,) = batch.notes
        if not isinstance(noted.record, DeferRecord):
            raise Unbookable("a note of an owner has nothing to spare")
        record = msgspec.structs.replace(noted.record, subject=minimal_subject(noted.record.subject))
        async with transaction(self._pool) as connection:
            await _book(connection, dataclasses.replace(batch, notes=[Noted(noted.position, record)]))
            return await self._keep_note_of(connection, batch, error)

    async def _keep_note(self, batch: Batch, error: str) -> bool:
        async with transaction(self._pool) as connection:
            await _advance(connection, batch)
            return await self._keep_note_of(connection, batch, error)

    async def _keep_note_of(self, connection: Connection, batch: Batch, error: str) -> bool:
        """Keep a note for a person, under an id of its own: that of its request is an ending's."""
        (noted,) = batch.notes
        record = encode_payload(noted.record)
        kept = await connection.fetchval(
            _SQL["keep_rejected"], uuid.uuid5(batch.journal_id, record.hex()), noted.record.resource.account_id, 0, 0,
            batch.journal_id, noted.position, bookable_text(error, 2000), record,
        )  # fmt: skip
        return kept is not None


async def known_progress(pool: asyncpg.Pool, journal_ids: Sequence[UUID]) -> Mapping[UUID, tuple[int, int]]:
    """Where journals stand that PostgreSQL knows: (settled up to, replay from). Raises StoreUnavailable."""
    async with transaction(pool) as connection:
        rows = await connection.fetch(_SQL["known_progress"], journal_ids)
    return {row["journal_id"]: (row["position"], row["open_from"]) for row in rows}


async def _book(connection: Connection, batch: Batch, *, summed: bool = False) -> int:
    """Book a batch; `summed`: with what its endings draw as sums. Raises _NotAllNew where these are too much."""
    await _advance(connection, batch)
    await book_owners(connection, batch.notes)
    deferrals = deferrals_of(batch)
    if not batch.endings and not deferrals:
        return 0
    batch_id = uuid.uuid4()
    await _add_prices(connection, batch)
    once = _once(batch)
    summed = summed and not deferrals
    draws = summed_rows(batch_id, once) if summed else _rows_of_each(once, deferrals)
    await stage(connection, batch_id, batch.journal_id, once, draws)
    await _lock(connection, batch_id, batch, draws)
    await book_deferrals(connection, batch_id, deferrals)
    await drop_deferred(connection, batch_id, once)
    booked = await connection.fetchrow(_SQL["book_batch"], batch_id, LATENCY_THRESHOLDS_MS)
    assert booked is not None
    if summed and booked["booked"] < len(once):
        raise _NotAllNew
    await end_durable(connection, once)
    await connection.execute(_SQL["clear_staging"], batch_id)
    return int(booked["booked"])


def _rows_of_each(endings: Iterable[Settling], deferrals: Sequence[Deferral]) -> Sequence[DrawRow]:
    """What each record of a batch draws."""
    return [row for settling in endings for row in draw_rows(settling.record)] + deferral_draw_rows(deferrals)


def _once(batch: Batch) -> Collection[Settling]:
    """Each request's first ending; that of a durable hold before one that does not know of it."""
    once = {settling.record.subject.request_id: settling for settling in reversed(batch.endings)}
    for settling in batch.endings:
        if settling.record.resource is not None and once[settling.record.subject.request_id].record.resource is None:
            once[settling.record.subject.request_id] = settling
    return once.values()


async def _lock(connection: Connection, batch_id: UUID, batch: Batch, draws: Sequence[DrawRow]) -> None:
    """Lock what the staged rows touch. Raises Unbookable where an account does not exist."""
    await connection.fetch(_SQL["lock_sessions"], batch_id)
    accounts = await connection.fetch(_SQL["lock_accounts"], batch_id)
    if len(accounts) < len({record.subject.account_id for record in _charging(batch)}):
        raise Unbookable("an account of the batch does not exist")
    ends_durable = any(settling.record.resource is not None for settling in batch.endings)
    if ends_durable or any(row.overrun or row.counted or row.session_id != batch.own_session for row in draws):
        await connection.execute(_SQL["add_windows"], batch_id, batch.own_session)
        await connection.fetch(_SQL["lock_windows"], batch_id, batch.own_session, ends_durable)
    await connection.fetch(_SQL["lock_leases"], batch_id)


async def _book_deferrals_alone(connection: Connection, batch: Batch) -> None:
    """The part of a batch that makes holds durable, where its endings have no row."""
    if deferrals := deferrals_of(batch):
        batch_id = uuid.uuid4()
        draws = deferral_draw_rows(deferrals)
        await stage(connection, batch_id, batch.journal_id, (), draws)
        await _lock(connection, batch_id, batch, draws)
        await book_deferrals(connection, batch_id, deferrals)


async def _advance(connection: Connection, batch: Batch) -> None:
    done = await connection.execute(
        _SQL["advance_progress"], batch.journal_id, batch.start, batch.end, batch.open_from, batch.life
    )
    if done == "INSERT 0 0":
        if batch.life is not None and not await connection.fetchval(_SQL["life_is"], batch.life):
            raise Forgotten("the database is another than the one that leases are known to")
        row = await connection.fetchrow(_SQL["read_progress"], batch.journal_id)
        raise ProgressMoved(row["position"] if row else 0, row["open_from"] if row else 0)


async def _add_prices(connection: Connection, batch: Batch) -> None:
    if not batch.prices:
        return
    documents = {price_id: orjson.loads(document) for price_id, document in sorted(batch.prices.items())}
    await connection.execute(
        _SQL["add_prices"],
        list(documents),
        [document["provider"] for document in documents.values()],
        [document["model"] for document in documents.values()],
        [batch.prices[price_id].decode() for price_id in documents],
    )


def _charging(batch: Batch) -> Iterator[EndRecord | DeferRecord]:
    """The records of a batch that are about money."""
    for settling in batch.endings:
        yield settling.record
    for noted in batch.notes:
        if isinstance(noted.record, DeferRecord):
            yield noted.record


def minimal_record(record: EndRecord) -> EndRecord:
    """The record cut down to what any row can hold: counts and amounts clamped, no text from outside."""
    subject, ending = record.subject, record.ending
    amount = _clamped(record.amount_nanos, MAX_NANOS // 2)
    return EndRecord(
        record.how,
        minimal_subject(subject),
        Ending(
            bookable_text(ending.outcome),
            _clamped(ending.status, 999),
            bookable_text(ending.usage_source),
            Usage(*(_clamped(count, MAX_COUNT) for count in ending.usage)),
            latency_us=_clamped(ending.latency_us, MAX_COUNT),
            flags=("settled_with_minimal_columns",),
        ),
        _clamped(record.cost_nanos, MAX_NANOS // 2),
        amount,
        _clamped(record.overrun_nanos, amount),
        record.resource,
    )


def minimal_subject(subject: Subject) -> Subject:
    """The subject cut down to what any row can hold."""
    return msgspec.structs.replace(
        subject,
        conversation=None,
        tags=(),
        operation=bookable_text(subject.operation),
        model=bookable_text(subject.model),
        provider=bookable_text(subject.provider),
        markup_ppm=_clamped(subject.markup_ppm, MAX_COUNT),
        hold_nanos=_clamped(subject.hold_nanos, MAX_NANOS // 2),
        bound_input_tokens=_clamped(subject.bound_input_tokens, MAX_COUNT),
        bound_output_tokens=_clamped(subject.bound_output_tokens, MAX_COUNT),
    )


def _placed(subject: Subject) -> datetime:
    """When its request was placed, as any query takes it."""
    return to_datetime(_clamped(subject.occurred_us, LAST_US))


def _clamped(value: int, highest: int) -> int:
    return min(max(value, 0), highest)


def _rejected(batch: Batch, record: EndRecord, settling: Settling, error: str) -> tuple[Any, ...]:
    subject = record.subject
    return (
        subject.request_id, subject.account_id, record.amount_nanos, record.overrun_nanos, batch.journal_id,
        settling.position, bookable_text(error, 2000), _kept(settling.record, record),
    )  # fmt: skip


def _kept(whole: EndRecord, minimal: EndRecord) -> bytes:
    """The record for a person: the whole of it, unless it can be written nowhere."""
    try:
        return encode_payload(whole)
    except (UnicodeError, OverflowError, TypeError, ValueError):
        return encode_payload(minimal)
