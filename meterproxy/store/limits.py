"""Limits beyond credit: made, listed, changed, retired, and how far each has been used.

Rules
-----
- A limit belongs to the one account that its scope belongs to. One of a key counts its whole chain of rotations.
- What it counts, for whom, and its window are for ever; cap, grace, marks, name and enforcement may change.
- A new limit counts what its current window has seen already, unless it is told to begin at nothing: looked up with the
  account locked, so that what is being settled is counted by the rollups or by the limit, never by both.
- Every change takes a number of the change counter that names the account, so that workers read its limits again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from meterproxy.core.lending import LeaseKey
from meterproxy.core.limit import Limit, Measure, Scope
from meterproxy.core.limit_terms import LimitTerms, changeable_fault
from meterproxy.core.window import FOREVER_US, US, Window, WindowKind
from meterproxy.errors import ApiError, Case
from meterproxy.store.actor import acting
from meterproxy.store.crossings import mark_crossings
from meterproxy.store.ids import new_id
from meterproxy.store.instants import to_datetime, to_us
from meterproxy.store.pool import Connection, retried, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("limits")
_ACCOUNTS: Final = queries("accounts")
_TEAMS: Final = queries("teams")

MOST_LIMITS: Final = 10_000
"""No account may have more limits that concern anybody: each worker that serves it keeps them all in memory."""
HOUR_US: Final = 3600 * US


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A limit as people read it."""

    id: UUID
    account_id: UUID
    scope: str
    scope_id: UUID
    name: str
    measure: str
    operation: str | None
    model_pattern: str | None
    window_kind: str
    time_zone: str
    cap: int | None
    grace: int
    enforcement: str
    marks: tuple[int, ...]
    is_own: bool
    created_at: datetime
    retired_at: datetime | None

    @property
    def limit(self) -> Limit:
        """The same as workers keep it."""
        return limit_of(self.id, {name: getattr(self, name) for name in self.__slots__})


@dataclass(frozen=True, slots=True)
class Crossing:
    """A mark that a window has passed."""

    mark: int
    used: int
    cap: int
    crossed_at: datetime


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """How far the current window of a limit has been used; `remaining` is None without a cap and may be negative."""

    limit: LimitRow
    window_start: datetime | None
    window_end: datetime | None
    used: int
    held: int
    remaining: int | None
    crossings: tuple[Crossing, ...]
    as_of: datetime


class Limits:
    """What is done with limits, by people; each call is one transaction and leaves a line in the audit log."""

    def __init__(self, pool: asyncpg.Pool, actor: str = "operator") -> None:
        self._pool = pool
        self._actor = actor

    async def create(
        self,
        scope: Scope,
        scope_id: UUID,
        terms: LimitTerms,
        *,
        seed: bool = True,
        account_id: UUID | None = None,
        is_own: bool = False,
    ) -> LimitRow:
        """Make a limit; `seed` has its current window begin with what was used of it before.

        Args:
            account_id: the account that it must belong to; None: whichever the scope belongs to.
            is_own: the organization's people made it, and may change it.

        Raises:
            ApiError: MALFORMED (senseless terms, too many limits), NOT_FOUND (scope).
        """
        fault = terms.fault()
        if fault is not None:
            raise ApiError(Case.MALFORMED, f"{fault.member}: {fault.text}.", param=fault.member)

        async def attempt() -> LimitRow:
            async with transaction(self._pool) as connection:
                whose = await connection.fetchrow(_SQL["account_of_scope"], scope.value, scope_id, account_id)
                if whose is None or (scope is Scope.TEAM and not await _hold_team(connection, whose)):
                    raise ApiError(Case.NOT_FOUND, f"There is no {scope.value} {scope_id}.", param="scope_id")
                return await make_limit(
                    connection, acting(self._actor), whose["account_id"], scope, whose["scope_id"], terms, seed=seed,
                    is_own=is_own,
                )  # fmt: skip

        return await retried(attempt)

    async def read(self, limit_id: UUID) -> LimitRow:
        """One limit. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            return await _read(connection, limit_id)

    async def list(
        self,
        account_id: UUID | None = None,
        scope_id: UUID | None = None,
        after: UUID | None = None,
        limit: int = 50,
        *,
        retired: bool = False,
    ) -> Sequence[LimitRow]:
        """Limits in the order they were made, after a cursor; `retired` shows those too that have ended."""
        async with transaction(self._pool) as connection:
            rows = await connection.fetch(_SQL["list_limits"], account_id, scope_id, retired, after, limit)
            return [_row(row) for row in rows]

    async def change(self, limit_id: UUID, changes: Mapping[str, Any]) -> LimitRow:
        """Change a limit's `cap`, `grace`, `enforcement`, `name` or `marks`; a lower cap only stops lending.

        Raises:
            ApiError: NOT_FOUND, MALFORMED where the change makes no sense, CONFLICT where the limit is retired.
        """

        async def attempt() -> LimitRow:
            async with transaction(self._pool) as connection:
                now = await lock_account(connection, (await _read(connection, limit_id)).account_id)
                old = await _read(connection, limit_id)
                new = replace(old, **changes)
                _check(new)
                row = await connection.fetchrow(
                    _SQL["change_limit"], limit_id, new.cap, new.grace, new.enforcement, new.name, list(new.marks)
                )
                start = to_datetime(new.limit.window_at(to_us(now)).start_us)
                await connection.execute(_SQL["move_caps"], new.account_id, limit_id, start, lendable(new))
                await mark_crossings(connection, (LeaseKey(new.account_id, limit_id, to_us(start)),))
                before = {f"{name}_before": getattr(old, name) for name in changes}
                await _note(connection, acting(self._actor), "limit.change", new, {**changes, **before})
                assert row is not None
                return _row(row)

        return await retried(attempt)

    async def retire(self, limit_id: UUID) -> LimitRow:
        """End a limit; what it has counted is kept. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            return await retire_limit(connection, acting(self._actor), limit_id)

    async def status(self, limit_id: UUID) -> LimitStatus:
        """How far the current window has been used. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool, isolation="repeatable_read", readonly=True) as connection:
            row = await _read(connection, limit_id)
            now = await connection.fetchval(_SQL["now"])
            window = row.limit.window_at(to_us(now))
            at = row.account_id, limit_id, to_datetime(window.start_us)
            counted = await connection.fetchrow(_SQL["read_window"], *at)
            crossings = await connection.fetch(_SQL["read_crossings"], *at)
        used, held = (counted["used"], counted["held"]) if counted else (0, 0)
        return LimitStatus(
            row,
            *_bounds(window),
            used,
            held,
            None if row.cap is None else row.cap - used - held,
            tuple(Crossing(**crossing) for crossing in crossings),
            now,
        )


async def make_limit(
    connection: Connection,
    actor: str,
    account_id: UUID,
    scope: Scope,
    scope_id: UUID,
    terms: LimitTerms,
    *,
    seed: bool,
    is_own: bool = False,
) -> LimitRow:
    """Make a limit within a transaction. Raises ApiError MALFORMED where the account has too many."""
    now = await lock_account(connection, account_id)
    if await connection.fetchval(_SQL["count_limits"], account_id) >= MOST_LIMITS:
        raise ApiError(Case.MALFORMED, f"An account may have {MOST_LIMITS} limits at most.")
    row = await connection.fetchrow(
        _SQL["create_limit"], new_id(), account_id, terms.kind, scope.value, scope_id, terms.measure.name.lower(),
        terms.operation, terms.model_pattern, terms.window.value, terms.time_zone, terms.cap,
        "hard" if terms.hard else "soft", terms.name, terms.grace, list(terms.marks),
        is_own,
    )  # fmt: skip
    assert row is not None
    made = _row(row)
    if seed and terms.seedable:
        await _seed(connection, made, to_us(now))
    told = {"name": made.name, "scope": scope.value, "scope_id": str(scope_id), "measure": made.measure,
            "window": made.window_kind, "cap": made.cap, "enforcement": made.enforcement}  # fmt: skip
    await _note(connection, actor, "limit.create", made, told)
    return made


async def retire_limit(connection: Connection, actor: str, limit_id: UUID) -> LimitRow:
    """End a limit within a transaction. Raises ApiError NOT_FOUND."""
    before = await _read(connection, limit_id)
    row = await connection.fetchrow(_SQL["retire_limit"], limit_id)
    assert row is not None
    retired = _row(row)
    if before.retired_at is None:
        await _note(connection, actor, "limit.retire", retired, {})
    return retired


async def lock_account(connection: Connection, account_id: UUID) -> datetime:
    """Have an account to oneself until the transaction ends; answers what time it is."""
    now: datetime = await connection.fetchval(_SQL["lock_account"], account_id)
    return now


async def _hold_team(connection: Connection, whose: asyncpg.Record) -> bool:
    """Whether a team is still there: whoever removes it waits, and ends what is being made too."""
    return await connection.fetchval(_TEAMS["hold_team"], whose["scope_id"], whose["account_id"]) is not None


async def _seed(connection: Connection, row: LimitRow, now_us: int) -> None:
    """Begin the current window with what was booked in it before."""
    limit = row.limit
    window = limit.window_at(now_us)
    whose = row.account_id, row.scope, row.scope_id
    if window.end_us == FOREVER_US:
        used = await connection.fetch(_SQL["used_ever"], *whose)
    else:
        whole_hours_us = -(-window.start_us // HOUR_US) * HOUR_US
        bounds = [to_datetime(us) for us in (window.start_us, whole_hours_us, window.end_us)]
        used = await connection.fetch(_SQL["used_in_window"], *whose, *bounds)
    total = sum(each[row.measure] for each in used if limit.applies(each["operation"], each["model"]))
    if total:
        start = to_datetime(window.start_us)
        await connection.execute(_SQL["seed_window"], row.account_id, row.id, start, lendable(row), total)
        await mark_crossings(connection, (LeaseKey(row.account_id, row.id, window.start_us),))


async def set_exposure(pool: asyncpg.Pool, nanos: int | None) -> None:
    """Have adaptive holds of every account leave so much unheld at most; None: all is held. Raises StoreUnavailable."""

    async def attempt() -> None:
        async with transaction(pool) as connection:
            if nanos is None:
                await connection.execute(_SQL["retire_exposures"])
            else:
                await connection.execute(_SQL["expose_accounts"], nanos)

    await retried(attempt)


async def expose(connection: Connection, account_id: UUID, nanos: int) -> None:
    """The same for an account that is being made."""
    await connection.execute(_SQL["expose_account"], new_id(), account_id, nanos)


class AccountState(NamedTuple):
    """What workers keep of an account besides its credit."""

    limits: list[Limit]
    frozen: bool


async def read_accounts(connection: Connection, account_ids: Sequence[UUID]) -> dict[UUID, AccountState]:
    """What PostgreSQL says now of some accounts."""
    states: dict[UUID, AccountState] = {}
    for row in await connection.fetch(_SQL["limits_of_accounts"], list(account_ids)):
        state = states.setdefault(row["account_id"], AccountState([], row["frozen"]))
        if row["id"] is not None:
            state.limits.append(limit_of(row["id"], dict(row)))
    return states


def lendable(row: LimitRow) -> int | None:
    """How far a limit's windows are lent, as `lends_to` says it: a hard one goes on beyond its cap by its grace."""
    return row.cap if row.cap is None or row.enforcement == "soft" else row.cap + row.grace


def limit_of(limit_id: UUID, row: Mapping[str, Any]) -> Limit:
    """A limit as workers keep it, from a row's columns."""
    return Limit(
        limit_id,
        Scope(row["scope"]),
        row["scope_id"],
        Measure[row["measure"].upper()],
        WindowKind(row["window_kind"]),
        row["cap"],
        row["time_zone"],
        row["enforcement"] == "hard",
        row["grace"],
        row["operation"],
        row["model_pattern"],
        row["name"],
    )


def _check(row: LimitRow) -> None:
    if row.retired_at is not None:
        raise ApiError(Case.CONFLICT, "This limit is retired; make a new one.")
    fault = changeable_fault(row.cap, row.grace, row.name, row.marks)
    if fault is not None:
        raise ApiError(Case.MALFORMED, f"{fault.member}: {fault.text}.", param=fault.member)


def _bounds(window: Window) -> tuple[datetime | None, datetime | None]:
    """When a window begins and ends, None where it does not."""
    if window.end_us == FOREVER_US:
        return None, None
    return to_datetime(window.start_us), to_datetime(window.end_us)


async def _read(connection: Connection, limit_id: UUID) -> LimitRow:
    row = await connection.fetchrow(_SQL["read_limit"], limit_id)
    if row is None:
        raise ApiError(Case.NOT_FOUND, f"There is no limit {limit_id}.")
    return _row(row)


def _row(row: asyncpg.Record) -> LimitRow:
    return LimitRow(**{**row, "marks": tuple(row["marks"])})


async def _note(connection: Connection, actor: str, action: str, row: LimitRow, detail: Mapping[str, Any]) -> None:
    await connection.execute(
        _ACCOUNTS["add_audit"], actor, action, "limit", row.id, orjson.dumps(dict(detail)).decode()
    )
    await connection.execute(_ACCOUNTS["record_account_change"], "limit", row.id, row.account_id)
