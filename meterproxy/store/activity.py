"""Activity: usage rows by their filters, a page at a time, and whole as a file that nobody has to hold in memory."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg
import orjson

from meterproxy.store.export import FileFormat, exported
from meterproxy.store.pool import transaction
from meterproxy.store.retention import retained_from
from meterproxy.store.sqlfiles import queries
from meterproxy.store.whose import Whose

_SQL: Final = queries("activity")

BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
END: Final = datetime(9999, 1, 1, tzinfo=UTC)
_FIRST_ID: Final = UUID(int=0)

CSV_HEADER: Final = (
    "occurred_at,id,user_id,user_name,key_id,key_name,operation,provider,model,served_model,stream,outcome,status,"
    "usage_source,input_tokens,cached_tokens,output_tokens,reasoning_tokens,conversation,tags,tools,amount,latency_ms\r\n"
)


@dataclass(frozen=True, slots=True)
class ActivityRow:
    """One exchange as people read it; `input_tokens` are without those that were read from a cache."""

    id: UUID
    occurred_at: datetime
    user_id: UUID
    user_name: str | None
    key_id: UUID
    key_name: str | None
    operation: str
    provider: str
    model: str
    served_model: str | None
    is_stream: bool
    outcome: str
    status: int
    usage_source: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    conversation: str | None
    tags: dict[str, str]
    tools: Sequence[str]
    amount_nanos: int
    latency_us: int
    first_byte_us: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityFilter:
    """What is looked for; None: anything. `until` itself is not in it.

    Args:
        team: of the keys that are in this team today, or in none.
        tag, tag_value: of what names this tag, with this value or with any.
    """

    since: datetime | None = None
    until: datetime | None = None
    user_id: UUID | None = None
    key_id: UUID | None = None
    team: UUID | Literal["none"] | None = None
    model: str | None = None
    provider: str | None = None
    operation: str | None = None
    completed: bool | None = None
    status: int | None = None
    conversation: str | None = None
    tag: str | None = None
    tag_value: str | None = None
    tool: str | None = None


Place = tuple[datetime, UUID]
"""Where a page ended: the instant and id of its last row."""


class Activity:
    """Reads usage rows."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def list(
        self, whose: Whose, wanted: ActivityFilter, before: Place | None, limit: int
    ) -> Sequence[ActivityRow]:
        """One page, the latest first."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["list"], *_arguments(whose, wanted, before, limit))
        return [_row(row) for row in rows]

    async def retained_from(self) -> datetime | None:
        """The instant from which on rows are kept; None: all are."""
        return await retained_from(self._pool)

    def exported(self, whose: Whose, wanted: ActivityFilter, format_: FileFormat) -> AsyncIterator[bytes]:
        """All that is looked for, as the pieces of a file; raises as `export.exported`."""
        return exported(
            self._pool,
            _SQL[f"export_{format_}"],
            lambda before, limit: _arguments(whose, wanted, before, limit),
            _last_of,
            CSV_HEADER,
            format_,
        )


def _last_of(page: asyncpg.Record) -> Place:
    return page["last_at"], page["last_id"]


def _arguments(whose: Whose, wanted: ActivityFilter, before: Place | None, limit: int) -> tuple[Any, ...]:
    until = wanted.until or END
    place = (until, _FIRST_ID) if before is None else min(before, (until, _FIRST_ID))
    return (
        whose.account_id,
        wanted.since or BEGINNING,
        *place,
        limit,
        whose.user_id or wanted.user_id,
        whose.key_id or wanted.key_id,
        wanted.team is not None,
        None if wanted.team == "none" else wanted.team,
        wanted.model,
        wanted.provider,
        wanted.operation,
        wanted.completed,
        wanted.status,
        wanted.conversation,
        wanted.tag,
        wanted.tag_value,
        wanted.tool,
    )


def _row(row: asyncpg.Record) -> ActivityRow:
    tags = orjson.loads(row["tags"]) if row["tags"] else {}
    return ActivityRow(**{**row, "tags": tags, "tools": row["tools"] or []})
