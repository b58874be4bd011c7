"""Every way an exchange can end, with the real ledger on real PostgreSQL: one row, one charge, nothing held, audit clean."""

from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from meterproxy.core.hold import Hold, HoldRequest
from meterproxy.core.record import EndRecord
from meterproxy.core.usage import Usage
from meterproxy.errors import JournalFailed
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.store.audit import audit
from meterproxy.store.explain import usage_of
from tests.ledger.bank import balance, customer, ledger_of, pool_of
from tests.proxy.endings import ENDINGS, Ending
from tests.proxy.fakes import Row
from tests.proxy.house import built
from tests.proxy.test_exchange_endings import check_booked, check_calls, check_heard

CREDIT_NANOS = 5_000_000_000


class Books:
    """The real ledger as a `House` sees one: what is placed is noted, and its faults can be switched on."""

    def __init__(self, worker: WorkerLedger) -> None:
        self._worker = worker
        self._holds = worker.holds
        self.placed: list[HoldRequest] = []
        self.confirm = self._holds.confirm
        self.progress = self._holds.progress
        self.capture = self._holds.capture
        self.release = self._holds.release
        self.rest = self._holds.rest
        self.fetch_rest = self._holds.fetch_rest
        self.rates = self._holds.rates

    def try_place(self, request: HoldRequest) -> Hold | None:
        hold = self._holds.try_place(request)
        if hold is not None:
            self.placed.append(request)
        return hold

    async def place(self, request: HoldRequest) -> Hold:
        hold = await self._holds.place(request)
        self.placed.append(request)
        return hold

    @property
    def open(self) -> dict[UUID, Hold]:
        return self._holds.open

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "journal_works":
            self._worker.journal.end = _refuse  # type: ignore[method-assign]
        elif name == "trusted":
            self._worker.session._trusted_until_us = 0
        else:
            object.__setattr__(self, name, value)


class LeapingClock:
    """The database's clock and the machine's, which a test may set forward together."""

    def __init__(self, worker: WorkerLedger) -> None:
        self._clock = worker.clock
        self._leapt_us = 0

    def now_us(self) -> int:
        return self._clock.now_us() + self._leapt_us

    def elapsed_us(self) -> int:
        return self._clock.elapsed_us() + self._leapt_us

    def advance(self, seconds: float) -> None:
        self._leapt_us += int(seconds * 1e6)


def _refuse(_record: EndRecord, _placed_at: int) -> int:
    raise JournalFailed("switched off by a test")


@pytest.mark.parametrize("case", ENDINGS, ids=lambda case: case.name)
async def test_ending_is_booked_once(case: Ending, database: str, tmp_path: Path) -> None:
    """What the client heard, what the row says and what the balance lost are one and the same."""
    async with pool_of(database) as pool:
        key = await customer(pool, CREDIT_NANOS)
        worker = ledger_of(pool, tmp_path)
        await worker.start()
        await worker.borrower.borrow(key.account.plan, [CREDIT_NANOS // 2])
        async with built(
            case.settings,
            ledger=Books(worker),
            key=key,
            clock=LeapingClock(worker),
            first_byte_seconds=case.first_byte_seconds,
            between_bytes_seconds=case.between_bytes_seconds,
            provider_url=case.provider_url,
        ) as house:
            heard = await case.play(house, case)
            await house.ended()
            check_heard(case, heard)
            await check_calls(case, house)
        assert not worker.holds.open
        assert not worker.holds.anomalies
        await worker.stop()
        row = await only_row(pool)
        check_booked(case, row)
        assert await balance(pool, key.account_id) == CREDIT_NANOS - row.amount_nanos
        assert await pool.fetchval("SELECT drawn FROM limit_windows") == row.amount_nanos
        assert [result.name for result in await audit(pool) if not result.ok] == []


async def only_row(pool: asyncpg.Pool) -> Row:
    """The one row of the one exchange, as the table of endings compares it."""
    [row] = await pool.fetch("SELECT * FROM usage_events")
    usage: Usage = usage_of(row)
    ending = _Tier(row["service_tier"])
    return Row(
        row["ending"],
        row["id"],
        row["outcome"],
        row["status"],
        row["usage_source"],
        usage,
        row["amount_nanos"],
        row["hold_nanos"],
        ending,  # type: ignore[arg-type]
    )


class _Tier:
    def __init__(self, service_tier: str | None) -> None:
        self.service_tier = service_tier
