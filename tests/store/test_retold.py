"""Told again: whatever journals say, in whatever order and however often, while months, leases and hosts go.

A model of a few lines says what each request is charged; the whole audit runs after every step. The seed is in the test's
name, and every step is printed.
"""

import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

import asyncpg
import pytest
from msgspec.structs import replace

from meterproxy.config.schema import LEAST_RETENTION_DAYS
from meterproxy.core.lending import Batch, Borrow, LeaseKey, Noted, Settling
from meterproxy.core.money import NANOS_PER_USD
from meterproxy.core.record import DeferRecord, EndRecord
from meterproxy.core.resource import Resource
from meterproxy.errors import Unbookable
from meterproxy.service.invention import DAY_US, Spender, invented
from meterproxy.store.accounts import Accounts
from meterproxy.store.audit import audit
from meterproxy.store.keys import Keys
from meterproxy.store.lost import LostSessions
from meterproxy.store.rejected import RejectedRecords
from meterproxy.store.retention import drop_old_usage, kept_by, retained_from
from meterproxy.store.sessions import Sessions
from meterproxy.store.settle import Settlement
from meterproxy.store.upkeep import fold_leases
from tests.control.history import PRICES, spender_of
from tests.ledger.bank import pool_of

Telling = EndRecord | DeferRecord

SEEDS: Final = range(2)
STEPS: Final = 30
HOSTS: Final = 5
REQUESTS: Final = 14
"""Of each host."""
DAYS: Final = 150
CREDITS: Final = 100 * NANOS_PER_USD
DOCUMENTS: Final = {price.id: price.document() for price in PRICES}
WAITS: Final = "no_record_waits_for_a_person"


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


class Request:
    """One request: all that journals may say of it, and what the books must have after what they were told."""

    def __init__(self, chance: random.Random, record: EndRecord) -> None:
        subject = record.subject
        self.id, self.account_id, self.occurred_us = subject.request_id, subject.account_id, subject.occurred_us
        self.charged = 0
        self.has_row = False
        self.durable: str | None = None
        self.tellings: Sequence[Telling] = _tellings(chance, record)

    def told(self, telling: Telling, *, is_over: bool) -> bool:
        """What was told first stands; answers whether it is kept for a person."""
        if telling.__class__ is DeferRecord or telling.resource is not None:
            self._defer()
        if isinstance(telling, DeferRecord):
            return False
        unaware = telling.how == "recovered" and telling.resource is None
        if self.durable == "ended" or (self.durable is not None and unaware) or self._is_known:
            return False
        if is_over and not telling.amount_nanos and self.durable is None:
            return False
        self.charged, self.has_row = telling.amount_nanos, not is_over
        self.durable = self.durable and "ended"
        return is_over or "\0" in telling.subject.model

    def _defer(self) -> None:
        if self.durable is None and not self._is_known:
            self.durable = "open"

    @property
    def _is_known(self) -> bool:
        """By its row, or by what was charged."""
        return self.has_row or self.charged > 0


def _tellings(chance: random.Random, record: EndRecord) -> Sequence[Telling]:
    """One or two endings of an exchange, perhaps of one that went on at its provider, as several journals have them."""
    held = record.subject.hold_nanos
    released = replace(record, how="released", cost_nanos=0, amount_nanos=0)
    recovered = replace(record, how="recovered", cost_nanos=0, amount_nanos=chance.randint(0, held))
    beyond = chance.choice([0, 0, 1, 10**6])
    captured = replace(
        record, how="captured", cost_nanos=held, amount_nanos=held + beyond, overrun_nanos=beyond
    )  # fmt: skip
    if chance.random() < 0.1:
        captured = replace(captured, subject=replace(captured.subject, model="a\0b"))
    elif chance.random() < 0.4:
        resource = Resource(record.subject.account_id, "response", f"resp_{record.subject.request_id}", "openai")
        endings = [replace(ending, resource=resource) for ending in (captured, released, recovered)]
        known = chance.sample(endings, chance.choice([1, 1, 2]))
        return [DeferRecord(record.subject, resource), *known, *([recovered] if chance.random() < 0.7 else [])]
    return chance.sample([captured, released, recovered], chance.choice([1, 1, 2]))


class Books:
    """A database, what it was told so far, and what must be in it."""

    def __init__(self, pool: asyncpg.Pool, seed: int) -> None:
        self.pool = pool
        self.chance = random.Random(seed)
        self.requests: dict[UUID, Request] = {}
        self.sessions: list[UUID] = []
        self.waiting: set[UUID] = set()
        self.mark: datetime | None = None
        self.kept_days = DAYS

    async def begin(self) -> None:
        """Hosts with exchanges of half a year behind them, to which some of what these held was lent."""
        await self.pool.execute("SELECT make_usage_partitions(now() - make_interval(days => $1), 6)", DAYS - 45)
        spenders = [await self._spender(name) for name in ("Acme", "Umbrella")]
        now_us = time.time_ns() // 1000
        for host in range(HOSTS):
            seed = self.chance.getrandbits(32)
            records = list(invented(spenders, PRICES, now_us - DAYS * DAY_US, now_us, REQUESTS, seed))
            (session_id,) = {draw.session_id for record in records for draw in record.subject.draws}
            await Sessions(self.pool).open_session(session_id, uuid4(), f"host-{host}", 0, 60)
            held = sum(record.subject.hold_nanos for record in records)
            wanted = [LeaseKey(spender.account_id, spender.credit_limit_id, 0) for spender in spenders]
            borrows = [Borrow(uuid4(), key, 1, max(int(held * self.chance.random()), 1)) for key in wanted]
            await Sessions(self.pool).lend(session_id, borrows)
            self.sessions.append(session_id)
            self.requests |= {record.subject.request_id: Request(self.chance, record) for record in records}

    async def _spender(self, name: str) -> Spender:
        account = await Accounts(self.pool).create(name)
        await Accounts(self.pool).credit(account.id, CREDITS, "grant", "", "first")
        return await spender_of(self.pool, (await Keys(self.pool).create(account.id, "k")).row.id)

    # ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def tell(self) -> None:
        """A new journal has something to say of some requests, be it new or not, often of months that are gone."""
        late = [request for request in self.requests.values() if self.is_over(request)]
        among = late if late and self.chance.random() < 0.5 else list(self.requests.values())
        some = self.chance.sample(among, min(self.chance.randint(1, 12), len(among)))
        await self._tell([(request, self.chance.choice(request.tellings)) for request in some])

    async def end(self) -> None:
        """Providers are asked about all durable holds that are open."""
        waiting = [request for request in self.requests.values() if request.durable == "open"]
        await self._tell([(request, request.tellings[1]) for request in waiting])

    async def _tell(self, told: Sequence[tuple[Request, Telling]]) -> None:
        journal_id, own = uuid4(), self.chance.choice([None, *self.sessions])
        await Settlement(self.pool).progress(journal_id)
        await self._book(journal_id, own, 0, [telling for _, telling in told])
        for request, telling in told:
            if request.told(telling, is_over=self.is_over(request)):
                self.waiting.add(request.id)

    async def _book(self, journal_id: UUID, own: UUID | None, start: int, tellings: Sequence[Telling]) -> None:
        placed = list(enumerate(tellings, start=start + 1))
        batch = Batch(
            journal_id, start, start + len(placed), start + len(placed),
            [Settling(place, told) for place, told in placed if isinstance(told, EndRecord)], DOCUMENTS, own,
            [Noted(place, told) for place, told in placed if isinstance(told, DeferRecord)],
        )  # fmt: skip
        try:
            await Settlement(self.pool).book(batch)
        except Unbookable as error:
            if len(placed) == 1:
                await Settlement(self.pool).reject(batch, str(error))
                return
            middle = len(placed) // 2
            await self._book(journal_id, own, start, tellings[:middle])
            await self._book(journal_id, own, start + middle, tellings[middle:])

    async def drop(self) -> None:
        """Months that are old enough go, but for what keeps them; each time more are."""
        self.kept_days = max(self.kept_days - self.chance.randint(0, 40), LEAST_RETENTION_DAYS)
        await self._drop(self.kept_days)

    async def drop_most(self) -> None:
        """All that may ever go, but for what keeps it."""
        await self._drop(LEAST_RETENTION_DAYS)

    async def _drop(self, days: int) -> None:
        await drop_old_usage(self.pool, days)
        self.mark = await retained_from(self.pool)
        for request in self.requests.values():
            request.has_row = request.has_row and not self.is_over(request)
        _say(f"  retained from {self.mark}, kept by {await kept_by(self.pool, days)}")

    def is_over(self, request: Request) -> bool:
        """Whether the month of a request was dropped."""
        return self.mark is not None and _instant(request) < self.mark

    async def fold(self) -> None:
        """Leases of sessions that have ended become a number."""
        await fold_leases(self.pool, 0)

    async def abandon(self) -> None:
        """A host is given up."""
        rows = await self.pool.fetch("SELECT id FROM worker_sessions WHERE state = 'live' ORDER BY host")
        if rows:
            lost = self.chance.choice(rows)["id"]
            await self.pool.execute(
                "UPDATE worker_sessions SET expires_at = now() - interval '1 s' WHERE id = $1", lost
            )
            await LostSessions(self.pool).abandon(lost)

    async def see(self) -> None:
        """A person looks at what waits for one."""
        for request_id in self.waiting:
            await RejectedRecords(self.pool).see(request_id, "")
        self.waiting.clear()

    # ── what must be ────────────────────────────────────────────────────────────────────────────────────────────────

    async def check(self) -> None:
        failed = [f"{result.name}: {result.detail}" for result in await audit(self.pool) if not result.ok]
        assert [told for told in failed if not told.startswith(WAITS)] == []
        assert bool(failed) == bool(self.waiting)
        charged = await self.pool.fetch(
            "SELECT request_id, -sum(amount_nanos) AS nanos FROM ledger_entries WHERE request_id IS NOT NULL GROUP BY 1"
        )
        assert {row["request_id"]: row["nanos"] for row in charged} == self._of(lambda request: request.charged)
        rows = await self.pool.fetch("SELECT id FROM usage_events")
        assert {row["id"] for row in rows} == self._of(lambda request: request.has_row).keys()
        holds = await self.pool.fetch("SELECT request_id FROM durable_holds WHERE state = 'open'")
        assert {row["request_id"] for row in holds} == self._of(lambda request: request.durable == "open").keys()
        unseen = await self.pool.fetch("SELECT request_id FROM settle_rejected WHERE seen_at IS NULL")
        assert {row["request_id"] for row in unseen} == self.waiting

    def _of(self, what: Callable[[Request], int]) -> dict[UUID, int]:
        """What is so of each request of which anything is."""
        return {request.id: value for request in self.requests.values() if (value := what(request))}


def _say(words: str) -> None:
    sys.stdout.write(words + "\n")


def _instant(request: Request) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=request.occurred_us)


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_books_are_right_whatever_is_told_in_whatever_order(pool: asyncpg.Pool, seed: int) -> None:
    """Each request is charged what was told of it first, once, and every invariant holds after every step."""
    books = Books(pool, seed)
    await books.begin()
    steps = (books.tell, books.end, books.drop, books.fold, books.abandon, books.see)
    for number in range(STEPS):
        (step,) = books.chance.choices(steps, (12, 2, 3, 1, 1, 1))
        _say(f"seed {seed}, step {number}: {step.__name__}")
        await step()
        await books.check()
    for step in (books.see, books.end, books.drop_most, *[books.tell] * 8, books.end, books.see):
        await step()
        await books.check()
    assert [result for result in await audit(pool) if not result.ok] == []
    assert any(request.charged and books.is_over(request) for request in books.requests.values()), (
        "else it shows little"
    )
