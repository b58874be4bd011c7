"""Explain: how one exchange came to its amount, from its bound to its entries."""

from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec
import orjson

from meterproxy.core.money import format_usd
from meterproxy.core.price import Price
from meterproxy.core.usage import KINDS, Usage
from meterproxy.errors import ApiError, Case
from meterproxy.store.instants import to_datetime
from meterproxy.store.pool import Connection, transaction
from meterproxy.store.retention import read_retained_from
from meterproxy.store.sqlfiles import queries
from meterproxy.store.staging import COLUMN_KINDS

_SQL: Final = queries("explain")


async def explain(pool: asyncpg.Pool, request_id: UUID) -> dict[str, Any]:
    """Everything the books say about a request, as JSON-able values.

    Raises:
        ApiError: NOT_FOUND where nothing was settled under this id.
    """
    async with transaction(pool, isolation="repeatable_read", readonly=True) as connection:
        row = await connection.fetchrow(_SQL["read_row"], request_id)
        rejected = await connection.fetchrow(_SQL["read_rejected"], request_id)
        durable = await connection.fetchrow(_SQL["read_durable"], request_id)
        found = row or rejected or durable
        if found is None:
            kept_from = await read_retained_from(connection)
            since = "" if kept_from is None else f" Rows of usage are kept from {kept_from:%Y-%m-%d} on."
            raise ApiError(Case.NOT_FOUND, f"Nothing is settled under request id {request_id}.{since}")
        entries = await connection.fetch(_SQL["read_entries"], found["account_id"], request_id)
        draws = await _limits_drawn(connection, row) if row else []
    answer: dict[str, Any] = {"request_id": request_id, "account_id": found["account_id"]}
    if row:
        answer |= _exchange(row) | {"limits_drawn": draws}
    if durable:
        answer["durable_hold"] = _durable_hold(durable)
    if rejected:
        answer["settled_with_minimal_columns"] = {
            "error": rejected["error"],
            "at": rejected["rejected_at"],
            "booked": rejected["booked"],
            "seen_at": rejected["seen_at"],
        }
    if row or rejected:
        answer["journal"] = {"id": found["journal_id"], "position": found["journal_position"]}
    answer["entries"] = [_entry(entry) for entry in entries]
    return answer


class _Draw(NamedTuple):
    """What the row drew from one limit window, in the limit's own measure."""

    limit_id: UUID
    window_start_us: int
    session_id: UUID | None
    held: int
    consumed: int
    overrun: int
    counted: int = 0


async def _limits_drawn(connection: Connection, row: asyncpg.Record) -> list[dict[str, Any]]:
    draws = _told_draws(row)
    named = [draw.limit_id for draw in draws] or None
    limits = {limit["id"]: limit for limit in await connection.fetch(_SQL["read_limits"], row["account_id"], named)}
    if named is None:
        within = row["amount_nanos"] - row["overrun_nanos"]
        draws = [
            _Draw(limit_id, 0, row["session_id"], row["hold_nanos"], within, row["overrun_nanos"])
            for limit_id in limits
        ]
    sessions = await connection.fetch(_SQL["read_sessions"], [draw.session_id for draw in draws if draw.session_id])
    states = {session["id"]: session["state"] for session in sessions}
    return [_drawn(draw, limits.get(draw.limit_id), states.get(draw.session_id)) for draw in draws]


def _told_draws(row: asyncpg.Record) -> list[_Draw]:
    """What the row itself says of its draws; nothing where that was credit alone."""
    if row["packed_draws"] is not None:
        told = [
            (UUID(bytes=limit), start, other and UUID(bytes=other), *rest)
            for limit, start, other, *rest in msgspec.msgpack.decode(row["packed_draws"])
        ]
    else:  # as earlier releases have written it
        told = [
            (UUID(limit), start, other and UUID(other), *rest)
            for limit, start, other, *rest in orjson.loads(row["draws"] or "[]")
        ]
    return [_Draw(limit, start, other or row["session_id"], *rest) for limit, start, other, *rest in told]


def _drawn(draw: _Draw, limit: asyncpg.Record | None, session_state: str | None) -> dict[str, Any]:
    measure = limit["measure"] if limit else None
    amounts = {"held": draw.held, "consumed": draw.consumed, "overrun": draw.overrun, "counted": draw.counted}
    return {
        "limit_id": draw.limit_id,
        "kind": limit["kind"] if limit else None,
        "name": limit["name"] if limit else None,
        "scope": limit["scope"] if limit else None,
        "measure": measure,
        "window_start": to_datetime(draw.window_start_us) if draw.window_start_us else None,
        "session_id": draw.session_id,
        "session_state": session_state,
        **{name: format_usd(amount) if measure == "amount" else amount for name, amount in amounts.items()},
    }


def _durable_hold(row: asyncpg.Record) -> dict[str, Any]:
    """A hold that outlived its exchange: what it waits for, or when it ended."""
    return {
        "state": row["state"],
        "provider": row["provider"],
        "resource_kind": row["resource_kind"],
        "resource_id": row["resource_id"],
        "model": row["model"],
        "hold": format_usd(row["hold_nanos"]),
        "placed_at": row["placed_at"],
        "next_poll_at": row["next_poll_at"] if row["state"] == "open" else None,
        "ended_at": row["ended_at"],
    }


def usage_of(row: asyncpg.Record) -> Usage:
    """The usage of a row, all kinds of it."""
    counts = {kind: row[f"{kind}_tokens"] for kind in COLUMN_KINDS}
    return Usage(**counts, **orjson.loads(row["other_usage"] or "{}"))


def _exchange(row: asyncpg.Record) -> dict[str, Any]:
    usage = usage_of(row)
    return {
        "occurred_at": row["occurred_at"],
        "user_id": row["user_id"],
        "key_id": row["key_id"],
        "operation": row["operation"],
        "provider": row["provider"],
        "model": row["model"],
        "served_model": row["served_model"],
        "service_tier": row["service_tier"],
        "provider_request_id": row["provider_request_id"],
        "stream": row["is_stream"],
        "ending": row["ending"],
        "outcome": row["outcome"],
        "status": row["status"],
        "usage_source": row["usage_source"],
        "flags": row["flags"] or [],
        "tools": row["tools"] or [],
        "conversation": row["conversation"],
        "tags": orjson.loads(row["tags"]) if row["tags"] else {},
        "latency_ms": row["latency_us"] / 1000,
        "first_byte_ms": row["first_byte_us"] / 1000 if row["first_byte_us"] is not None else None,
        "usage": {kind: count for kind, count in zip(KINDS, usage, strict=True) if count},
        "raw_usage": orjson.loads(row["raw_usage"]) if row["raw_usage"] else None,
        "bound": {
            "input_tokens": row["bound_input_tokens"],
            "output_tokens": row["bound_output_tokens"],
            "hold": format_usd(row["hold_nanos"]),
        },
        "price": _arithmetic(row, usage),
        "cost": format_usd(row["cost_nanos"]),
        "amount": format_usd(row["amount_nanos"]),
        "overrun": format_usd(row["overrun_nanos"]),
    }


def _arithmetic(row: asyncpg.Record, usage: Usage) -> dict[str, Any] | None:
    """The price that was frozen for this row, and each kind's part in the sum, before its one rounding."""
    if row["price"] is None:
        return None
    price = Price.from_document(orjson.dumps(orjson.loads(row["price"]), option=orjson.OPT_SORT_KEYS))
    rates = price.card_for(row["service_tier"]).rates_for(usage.input_tokens)
    return {
        "id": row["price_id"],
        "markup_ppm": row["markup_ppm"],
        "parts": [
            {"kind": kind, "count": count, "nanos_per_unit_size": rate}
            for kind, count, rate in zip(KINDS, usage, rates, strict=True)
            if count
        ],
    }


def _entry(entry: asyncpg.Record) -> dict[str, Any]:
    return {
        "entry_no": entry["entry_no"],
        "kind": entry["kind"],
        "amount": format_usd(entry["amount_nanos"]),
        "balance_after": format_usd(entry["balance_after_nanos"]),
        "created_at": entry["created_at"],
    }
