"""Since: what was spent since an instant, exactly, though rollups know whole hours only.

Rules
-----
- Hours come from rollups. Of the first, broken hour the shorter part is read from its rows, before the instant or
  after it. A sum that was remembered at the instant would be wrong: what was used before it is settled after it.
- That part is kept in memory with the number of requests that its hour had. Rows are never changed, so it holds until
  there are more: an hour that is over is read once, and again where something is booked late.
- Where the rows of that hour are not kept any more, all of it counts.
"""

from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from meterproxy.store.pool import Connection, Pool, transaction
from meterproxy.store.sqlfiles import queries
from meterproxy.store.whose import Whose

_SQL: Final = queries("usage")
_HOUR: Final = timedelta(hours=1)

PARTS_KEPT: Final = 1000
"""Broken hours that a worker remembers; of more, those that were asked for last."""


class _Part(NamedTuple):
    """What was spent in an hour before an instant, when the hour had so many requests."""

    of_requests: int
    before_nanos: int


class SpentSince:
    """Reads what was spent since instants."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._parts: OrderedDict[tuple[Whose, datetime], _Part] = OrderedDict()

    async def read(self, whose: Whose, instant: datetime) -> int:
        """Nanodollars of what was asked at an instant or later."""
        hour = instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        subject = whose.account_id, whose.user_id, whose.key_id
        async with transaction(self._pool, isolation="repeatable_read", readonly=True) as connection:
            row = await connection.fetchrow(_SQL["since_hour"], *subject, hour)
            assert row is not None
            part = self._parts.get((whose, instant))
            if part is None or part.of_requests != row["of_hour_requests"]:
                before = await _before(connection, whose, hour, instant, row["of_hour_nanos"])
                part = _Part(row["of_hour_requests"], before)
        self._keep((whose, instant), part)
        return int(row["amount_nanos"]) - part.before_nanos

    def _keep(self, of: tuple[Whose, datetime], part: _Part) -> None:
        self._parts[of] = part
        self._parts.move_to_end(of)
        if len(self._parts) > PARTS_KEPT:
            self._parts.popitem(last=False)


async def _before(connection: Connection, whose: Whose, hour: datetime, instant: datetime, of_hour_nanos: int) -> int:
    """What was spent in an hour before an instant; nothing where nobody knows any more."""
    is_early = instant - hour < _HOUR / 2
    span = (hour, instant) if is_early else (instant, hour + _HOUR)
    part: int | None = await connection.fetchval(
        _SQL["part_of_hour"], whose.account_id, whose.user_id, whose.key_id, *span
    )
    if part is None:
        return 0
    return part if is_early else of_hour_nanos - part
