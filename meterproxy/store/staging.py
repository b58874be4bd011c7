"""Staging: a batch of endings as the bytes of two COPYs, from which one statement books them."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple
from uuid import UUID
from weakref import WeakKeyDictionary

import msgspec
import orjson

from meterproxy.core.draw import measured, taken, taken_together
from meterproxy.core.lending import Settling
from meterproxy.core.path import MEASURES, Draws, Path, Pieces
from meterproxy.core.record import EndRecord
from meterproxy.core.usage import KINDS, Usage
from meterproxy.store.copy_format import HEADER, TRAILER, bigint, binary, instant, jsonb, text, text_array, uuid, word
from meterproxy.store.pool import Connection

COLUMN_KINDS: Final = ("input", "cache_read", "cache_write", "output", "reasoning")
"""Kinds with a column of their own; the rest go into `other_usage`."""

ROWS_AT_ONCE: Final = 32
"""Rows that are encoded in one step: a quarter of a millisecond."""

_FIXED: Final = (
    "batch_id account_id id user_id key_id price_id journal_id "
    "occurred_at input_tokens cache_read_tokens cache_write_tokens output_tokens reasoning_tokens markup_ppm "
    "bound_input_tokens bound_output_tokens hold_nanos cost_nanos amount_nanos overrun_nanos latency_us "
    "journal_position status is_stream"
).split()
_VARIABLE: Final = (
    "session_id operation provider model ending outcome usage_source served_model service_tier provider_request_id "
    "other_usage raw_usage flags tools conversation tags first_byte_us packed_draws"
).split()
_COLUMNS: Final = [*_FIXED, *_VARIABLE]
_DRAW_COLUMNS: Final = (
    "batch_id request_id account_id limit_id window_start session_id consumed overrun counted"
).split()

_row: Final = struct.Struct(">h" + "i16s" * 7 + "iq" * 15 + "ih" + "i?").pack
_draw: Final = struct.Struct(">h" + "i16s" * 4 + "iq" + "i16s" + "iq" * 3).pack
_pack: Final = msgspec.msgpack.Encoder().encode
_OTHER_KINDS: Final = tuple((index, kind) for index, kind in enumerate(KINDS) if kind not in COLUMN_KINDS)


class DrawRow(NamedTuple):
    """What a record consumed of one lease, what overran it, and what a limit without leases counts.

    Where all records of a batch are new, one row says it of all of them, with the batch's id for a request's.
    """

    request_id: UUID
    account_id: UUID
    limit_id: UUID
    window_start_us: int
    session_id: UUID
    consumed: int
    overrun: int
    counted: int


async def stage(
    connection: Connection, batch_id: UUID, journal_id: UUID, endings: Iterable[Settling], draws: Iterable[DrawRow]
) -> None:
    """Copy a batch to where `book_batch` finds it.

    Raises:
        struct.error, OverflowError, UnicodeError: a record that no row can hold; PostgreSQL's own errors.
    """
    batch, journal = batch_id.bytes, journal_id.bytes
    rows = (_usage_row(batch, journal, settling) for settling in endings)
    await connection.copy_to_table("usage_staging", source=_pieces(rows), columns=_COLUMNS, format="binary")
    drawn = (_draw_row(batch, row) for row in draws)
    await connection.copy_to_table("draw_staging", source=_pieces(drawn), columns=_DRAW_COLUMNS, format="binary")


async def _pieces(rows: Iterator[bytes]) -> AsyncIterator[bytes]:
    """A COPY in pieces, with a turn of the loop between them: requests do not wait for a whole batch to be encoded."""
    yield HEADER
    while piece := b"".join(islice(rows, ROWS_AT_ONCE)):
        yield piece
        await asyncio.sleep(0)
    yield TRAILER


def draw_rows(record: EndRecord) -> Sequence[DrawRow]:
    """What an ending draws from its limits. The leases of a durable hold have paid when it became durable."""
    rows = taken_rows(record)
    return rows if record.resource is None else [row for row in rows if row.counted]


def summed_rows(batch_id: UUID, endings: Iterable[Settling]) -> Sequence[DrawRow]:
    """What the endings of a batch draw together, by lease; none of them is of a durable hold."""
    sums = taken_together(settling.record for settling in endings)
    return [DrawRow(batch_id, *lease, *total) for lease, total in sums.items() if any(total)]


def taken_rows(record: EndRecord) -> Sequence[DrawRow]:
    """What an ending takes of each of its draws, where that is anything."""
    subject = record.subject
    return [
        DrawRow(subject.request_id, subject.account_id, draw.limit_id, draw.window_start_us, draw.session_id, *amounts)
        for draw, amounts in zip(subject.draws, taken(record), strict=True)
        if any(amounts)
    ]


def _usage_row(batch: bytes, journal: bytes, settling: Settling) -> bytes:
    record = settling.record
    subject, ending, usage = record.subject, record.ending, record.ending.usage
    fixed = _row(
        len(_COLUMNS),
        16, batch, 16, subject.account_id.bytes, 16, subject.request_id.bytes, 16, subject.user_id.bytes,
        16, subject.key_id.bytes, 16, subject.price_id.bytes, 16, journal,
        8, instant(subject.occurred_us), 8, usage.input, 8, usage.cache_read, 8, usage.cache_write, 8, usage.output,
        8, usage.reasoning, 8, subject.markup_ppm, 8, subject.bound_input_tokens, 8, subject.bound_output_tokens,
        8, subject.hold_nanos, 8, record.cost_nanos, 8, record.amount_nanos, 8, record.overrun_nanos,
        8, ending.latency_us, 8, settling.position, 2, ending.status, 1, subject.stream,
    )  # fmt: skip
    return b"".join((
        fixed, uuid(_session_of(subject.draws)),
        word(subject.operation), word(subject.provider), word(subject.model),
        word(record.how), word(ending.outcome), word(ending.usage_source),
        word(ending.served_model), word(ending.service_tier), text(ending.provider_request_id),
        jsonb(_other_usage(usage)), jsonb(ending.raw_usage or None), text_array(ending.flags), text_array(ending.tools),
        text(subject.conversation), jsonb(orjson.dumps(dict(subject.tags)) if subject.tags else None),
        bigint(ending.first_byte_us), binary(packed(record)),
    ))  # fmt: skip


def _draw_row(batch: bytes, row: DrawRow) -> bytes:
    return _draw(
        len(_DRAW_COLUMNS), 16, batch, 16, row.request_id.bytes, 16, row.account_id.bytes, 16, row.limit_id.bytes,
        8, instant(row.window_start_us), 16, row.session_id.bytes, 8, row.consumed, 8, row.overrun,
        8, row.counted,
    )  # fmt: skip


def _session_of(draws: Draws) -> bytes | None:
    """The session that pays first, nearly always for all of it."""
    sources = draws.path.sources
    return sources[0].session_id.bytes if sources else None


def packed(record: EndRecord) -> bytes | None:
    """What was drawn from which limits, where it is more than the account's credit; see the column's comment."""
    draws = record.subject.draws
    path = draws.path
    if path.credit_alone or not path.sources:
        return None
    pieces = _PACKED.get(path)
    if pieces is None:
        pieces = _PACKED[path] = _pieces_of(path)
    told = [b""] * 2 * MEASURES
    amounts = measured(record.how, record.ending, record.amount_nanos)
    for measure in path.measures:
        amount, held = amounts[measure], draws.amounts[measure]
        used = min(held, amount)
        told[measure] = _pack((held, used, amount - used, 0))[1:]
        told[measure + MEASURES] = _pack((held, 0, 0, amount))[1:]
    return pieces.filled(told)


_PACKED: Final["WeakKeyDictionary[Path, Pieces]"] = WeakKeyDictionary()


def _pieces_of(path: Path) -> Pieces:
    """What of the column is the same for all that was drawn by one path: which window, and whose lease."""
    first = path.sources[0].session_id
    items = []
    for limit_id, start_us, session_id, measure, counted in path.sources:
        before = _pack((limit_id.bytes, start_us, None if session_id == first else session_id.bytes, *[None] * 4))[:-4]
        items.append((before, measure + MEASURES * counted, b""))
    return Pieces(items)


def _other_usage(usage: Usage) -> bytes | None:
    other = {kind: usage[index] for index, kind in _OTHER_KINDS if usage[index]}
    return orjson.dumps(other) if other else None
