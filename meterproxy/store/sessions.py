"""Worker sessions, leases and news: what `ledger` asks of PostgreSQL between two settles."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NoReturn
from uuid import UUID

import asyncpg

from meterproxy.core.lending import Borrow, Change, LeaseKey, Lent, Met, News, Rest, SessionFacts, Totals
from meterproxy.errors import Forgotten, LendingPaused, SessionOver
from meterproxy.store.instants import to_datetime, to_us
from meterproxy.store.pool import Connection, retried, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("leases")
_SESSION_OVER: Final = "MP001"
_LENDING_PAUSED: Final = "MP003"

RETURNED_AT_ONCE: Final = 500
"""Leases that one transaction takes something back from."""


class Sessions:
    """Fulfils `ledger.ports.SessionStore`; every method is one transaction."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def open_session(self, session_id: UUID, journal_id: UUID, host: str, slot: int, ttl_seconds: float) -> int:
        """Begin a session, harmlessly repeated; answers the database's clock in microseconds. Raises SessionOver."""
        async with transaction(self._pool) as connection:
            now = await connection.fetchval(_SQL["open_session"], session_id, journal_id, host, slot, ttl_seconds)
        if now is None:
            raise SessionOver(f"worker session {session_id} is over")
        return to_us(now)

    async def renew_session(self, session_id: UUID, ttl_seconds: float, life: UUID) -> int:
        """Extend the trust in a session; answers the database's clock. Raises SessionOver, Forgotten."""
        async with transaction(self._pool) as connection:
            now = await connection.fetchval(_SQL["renew_session"], session_id, ttl_seconds, life)
            if now is None:
                await _refuse(connection, session_id)
        return to_us(now)

    async def meet(self, missed: UUID | None, ttl_seconds: float) -> Met:
        """Which life of the database this is; begins a new one where it is another database than it was.

        `missed`: the life in which the worker has found something missing, which ends it.
        """
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_SQL["meet_database"], missed, ttl_seconds)
        assert row is not None
        return Met(*row)

    async def present(
        self, session: SessionFacts, ttl_seconds: float, life: UUID, totals: Mapping[LeaseKey, Totals]
    ) -> int:
        """Tell again what a session was lent; answers how much of it was forgotten. Raises SessionOver, Forgotten."""
        keys = sorted(totals, key=_columns)

        async def attempt() -> int:
            async with transaction(self._pool) as connection:
                if await connection.fetchval(_SQL["present_session"], *session, ttl_seconds, life) is None:
                    await _refuse(connection, session.session_id)
                return int(
                    await connection.fetchval(
                        _SQL["present_leases"],
                        session.session_id,
                        *_arrays(keys),
                        [totals[key].granted for key in keys],
                        [totals[key].returned for key in keys],
                    )
                )

        return await retried(attempt)

    async def earlier_sessions(self, journal_id: UUID, session_id: UUID) -> list[UUID]:
        """Sessions that wrote the same journal and were never ended."""
        async with transaction(self._pool) as connection:
            return [row["id"] for row in await connection.fetch(_SQL["earlier_sessions"], journal_id, session_id)]

    async def abandoned_sessions(self, journal_id: UUID) -> frozenset[UUID]:
        """Sessions that wrote this journal and were given up by an operator."""
        async with transaction(self._pool) as connection:
            return frozenset(row["id"] for row in await connection.fetch(_SQL["abandoned_sessions"], journal_id))

    async def end_session(self, session_id: UUID, state: str) -> int:
        """End a session as `closed` or `proved`; answers what its leases gave back. Ending twice does nothing."""

        async def attempt() -> int:
            async with transaction(self._pool) as connection:
                return int(await connection.fetchval(_SQL["end_session"], session_id, state))

        return await retried(attempt)

    async def lend(self, session_id: UUID, borrows: Sequence[Borrow]) -> Sequence[Lent]:
        """Borrow between `need` and `want` of each limit window, or nothing; a `borrow_id` repeated gets its answer.

        Raises:
            SessionOver: this session was ended.
            LendingPaused: nobody is lent to right now.
        """
        columns = [list(column) for column in zip(*_wishes(borrows), strict=True)]

        async def attempt() -> Sequence[Lent]:
            async with transaction(self._pool) as connection:
                rows = await connection.fetch(_SQL["lend"], session_id, *columns)
            assert len(rows) == len(borrows), "each window is there or is made"
            return [Lent(*row) for row in rows]

        try:
            return await retried(attempt)
        except asyncpg.PostgresError as error:
            if error.sqlstate == _SESSION_OVER:
                async with transaction(self._pool) as connection:
                    await _refuse(connection, session_id)
            if error.sqlstate == _LENDING_PAUSED:
                raise LendingPaused(str(error)) from error
            raise

    async def read_rests(self, session_id: UUID, keys: Sequence[LeaseKey]) -> Sequence[Rest]:
        """What is left of limit windows right now."""
        async with transaction(self._pool) as connection:
            return [Rest(*row) for row in await connection.fetch(_SQL["read_rests"], *_arrays(keys), session_id)]

    async def give_back(self, session_id: UUID, returned: Mapping[LeaseKey, int]) -> None:
        """Report cumulative totals of what was returned."""
        keys = sorted(returned, key=_columns)
        for start in range(0, len(keys), RETURNED_AT_ONCE):
            await self._give_back(session_id, {key: returned[key] for key in keys[start : start + RETURNED_AT_ONCE]})

    async def _give_back(self, session_id: UUID, returned: Mapping[LeaseKey, int]) -> None:
        async def attempt() -> None:
            async with transaction(self._pool) as connection:
                arrays = _arrays(list(returned))
                await connection.execute(_SQL["give_back"], session_id, *arrays, list(returned.values()))

        await retried(attempt)

    async def report_held(self, session_id: UUID, held: Mapping[LeaseKey, int]) -> None:
        """Tell what is held, for people who read balances."""
        keys = sorted(held, key=_columns)
        amounts = [held[key] for key in keys]

        async def attempt() -> None:
            async with transaction(self._pool) as connection:
                await connection.execute(_SQL["report_held"], session_id, *_arrays(keys), amounts)

        await retried(attempt)

    async def ask_reclaim(self, session_id: UUID, key: LeaseKey, wanted: int) -> None:
        """Ask whoever holds free leases of this window to give them back."""
        async with transaction(self._pool) as connection:
            await connection.execute(_SQL["ask_reclaim"], *_columns(key), session_id, wanted)

    async def end_reclaim(self, session_id: UUID, key: LeaseKey) -> None:
        """No longer wait for it."""
        async with transaction(self._pool) as connection:
            await connection.execute(_SQL["end_reclaim"], *_columns(key), session_id)

    async def poll(self, session_id: UUID, version: int) -> News:
        """Changes since `version`, and which of this session's leases others wait for."""
        async with transaction(self._pool) as connection:
            rows = await connection.fetch(_SQL["poll"], session_id, version)
        return News(
            tuple(
                Change(row["version"], row["kind"], row["subject_id"], row["account_id"])
                for row in rows
                if row["topic"] == "change"
            ),
            _keys(rows, "reclaim"),
            *next((row["version"], _life(row["kind"])) for row in rows if row["topic"] == "version"),
            _keys(rows, "served"),
        )

    async def change_version(self) -> int:
        """Where the fleet's change counter stands."""
        async with transaction(self._pool) as connection:
            return int(await connection.fetchval(_SQL["change_version"]))


async def _refuse(connection: Connection, session_id: UUID) -> NoReturn:
    """Say why a session could not be renewed, presented or lent to. Raises SessionOver, Forgotten."""
    if await connection.fetchval(_SQL["session_is_over"], session_id):
        raise SessionOver(f"worker session {session_id} is over")
    raise Forgotten(f"worker session {session_id} is not known to this life of the database")


def _keys(rows: Sequence[asyncpg.Record], topic: str) -> tuple[LeaseKey, ...]:
    return tuple(
        LeaseKey(row["account_id"], row["subject_id"], to_us(row["window_start"]))
        for row in rows
        if row["topic"] == topic
    )


def _life(text: str) -> UUID | None:
    return UUID(text) if text else None


def _columns(key: LeaseKey) -> tuple[UUID, UUID, object]:
    return key.account_id, key.limit_id, to_datetime(key.window_start_us)


def _arrays(keys: Sequence[LeaseKey]) -> tuple[list[UUID], list[UUID], list[object]]:
    return (
        [key.account_id for key in keys],
        [key.limit_id for key in keys],
        [to_datetime(key.window_start_us) for key in keys],
    )


def _wishes(borrows: Sequence[Borrow]) -> Iterator[tuple[object, ...]]:
    for borrow_id, key, need, want in borrows:
        yield borrow_id, *_columns(key), need, want
