"""The simulated database is held to the real one: the same calls, in the same order, give the same answers on both.

Rules
-----
- A list of calls comes from a seed. It names everything by number; each side has its own accounts for these numbers.
- Answers, refusals and, at the end, every table that counts must be the same. Instants are not compared.
"""

import asyncio
from collections.abc import Callable
from itertools import chain
from random import Random
from typing import Any
from uuid import UUID

import asyncpg

from meterproxy.core.hold import DurableHold
from meterproxy.core.key import KeyEntry
from meterproxy.core.lending import Batch, Borrow, LeaseKey, Noted, SessionFacts, Settling, Totals
from meterproxy.core.limit import Limit, Measure, Scope
from meterproxy.core.path import Draw, Draws
from meterproxy.core.record import DeferRecord, EndRecord, ForgetRecord, OwnerRecord, Subject
from meterproxy.core.resource import Resource, ResourceKey
from meterproxy.core.window import WindowKind
from meterproxy.errors import Forgotten, LendingPaused, ProgressMoved, SessionOver
from meterproxy.store.accounts import Accounts
from meterproxy.store.durable import DurableRows
from meterproxy.store.instants import to_us
from meterproxy.store.owners import OwnerRows
from meterproxy.store.sessions import Sessions
from meterproxy.store.settle import Settlement
from meterproxy.store.upkeep import fold_leases
from tests.ledger.bank import PRICE, REFUSED, completed, customer, pool_of
from tests.simulation.database import Database
from tests.simulation.timeline import Timeline
from tests.simulation.world import stranger

ACCOUNTS = 2
SESSIONS = 3
JOURNALS = 2
REQUESTS = 14
BORROWS = 6
AMOUNT = 1000
LIMITS = (
    (Measure.REQUESTS, WindowKind.DAY, 6), (Measure.TOKENS, WindowKind.DAY, 40), (Measure.CONCURRENT, WindowKind.NONE, 3),
    (Measure.REQUESTS, WindowKind.DAY, None),
)  # fmt: skip
"""What each account has beside its credit; the last one only counts."""
LEASED = 4
"""Windows of an account that something may be lent from: its credit, and the limits with a cap."""
WINDOWS = [(account, number) for account in range(ACCOUNTS) for number in range(LEASED)]
OCCURRED_US = 1_790_000_000_000_000 // 86_400_000_000 * 86_400_000_000

Call = tuple[Any, ...]


def calls_of(seed: int, most: int = 60) -> list[Call]:
    """The list of calls that a seed stands for."""
    random = Random(f"calls {seed}")
    begin: list[Call] = [("credit", account, random.randint(5, 40) * AMOUNT) for account in range(ACCOUNTS)]
    begin += [("open_session", session, session % JOURNALS) for session in range(SESSIONS)]
    return begin + [_call(random) for _ in range(most)]


def _call(random: Random) -> Call:
    session, account = random.randrange(SESSIONS), random.randrange(ACCOUNTS)
    limit = random.choice((0, 0, *range(LEASED)))
    window, unit = (account, limit), AMOUNT if limit == 0 else 1
    amount = random.randint(0, 12) * unit
    kinds: tuple[tuple[int, Callable[[], Call]], ...] = (
        (4, lambda: ("open_session", session, random.randrange(JOURNALS))),
        (1, lambda: ("renew_session", session, random.random() < 0.3)),
        (1, lambda: ("meet", random.random() < 0.3, random.choice((0, 0, 1000)))),
        (3, lambda: ("present", session, window, amount * random.randint(1, 4), amount, random.random() < 0.2)),
        (1, lambda: ("lose", session)),
        (1, lambda: ("abandoned_sessions", random.randrange(JOURNALS))),
        (1, lambda: ("earlier_sessions", random.randrange(JOURNALS), session)),
        (1, lambda: ("end_session", session, random.choice(("closed", "proved", "abandoned")))),
        (8, lambda: ("lend", session, _borrows(random))),
        (2, lambda: ("read_rests", session, random.sample(WINDOWS, random.randint(1, 3)))),
        (4, lambda: ("give_back", session, window, amount)),
        (2, lambda: ("report_held", session, window, amount)),
        (2, lambda: ("ask_reclaim", session, window, amount)),
        (1, lambda: ("end_reclaim", session, window)),
        (3, lambda: ("poll", session, random.randint(0, 3))),
        (1, lambda: ("credit", account, random.randint(-9, 9) * AMOUNT)),
        (1, lambda: ("change_version",)),
        (1, lambda: ("progress", random.randrange(JOURNALS))),
        (10, lambda: _booking(random)),
        (1, lambda: ("find_durable", random.randrange(REQUESTS))),
        (1, lambda: ("find_owners", session, random.randrange(REQUESTS))),
        (1, lambda: ("forgotten_owners",)),
        (1, lambda: ("fold",)),
    )
    weights, makers = zip(*kinds, strict=True)
    call: Call = random.choices(makers, weights)[0]()
    return call


def _borrows(random: Random) -> list[tuple[tuple[int, int], int, int, int]]:
    """What one statement borrows: windows, each once, under an id that may have been used before."""
    windows = random.sample(WINDOWS, random.choice((1, 1, 2, 3)))
    wishes = [(window, random.randint(0, 9) * (AMOUNT if window[1] == 0 else 1)) for window in windows]
    return [(window, random.randrange(BORROWS), need, need * random.randint(1, 4)) for window, need in wishes]


def _booking(random: Random) -> Call:
    """A batch: how far its beginning is off, how long it is, and what is in it.

    Of a request that never became durable there may be any ending, of another one only a recovery that did not know. One
    journal never has both that and the deferral.
    """
    items: dict[int, tuple[str, int, int]] = {}
    for _ in range(random.randint(0, 4)):
        request = random.randrange(REQUESTS)
        ends = (
            ("recovered", "defer", "defer", "ended", "ended") if request % 2 else ("captured", "released", "recovered")
        )
        items[request] = (random.choice((*ends, *ends, "owner", "forget")), request, random.randint(0, 8) * AMOUNT)
    off = random.choice((0, 0, 0, 0, -5, 7))
    return "book", random.randrange(JOURNALS), off, random.randint(1, 50), tuple(items.values())


class Side:
    """One database and what the numbers mean there."""

    def __init__(self, keys: list[KeyEntry], ports: list[Any], salt: int) -> None:
        self.keys = keys
        self._ports = ports
        self._salt = salt
        self.limits = [[self._limit(account, number) for number in range(len(LIMITS))] for account in range(ACCOUNTS)]
        self.positions: dict[int, int] = {}
        self.base = 0
        self.life = UUID(int=0)

    def id(self, kind: int, number: int) -> UUID:
        return UUID(int=(self._salt << 40) + (kind << 20) + number + 1)

    def _limit(self, account: int, number: int) -> Limit:
        measure, window, cap = LIMITS[number]
        scope_id = self.keys[account].account_id
        return Limit(self.id(6, account * len(LIMITS) + number), Scope.ACCOUNT, scope_id, measure, window, cap)

    def window(self, account: int, number: int) -> LeaseKey:
        """The window of an account that a number means: that of its credit, or today's of one of its limits."""
        if number == 0:
            return self.keys[account].credit
        limit = self.limits[account][number - 1]
        return LeaseKey(self.keys[account].account_id, limit.limit_id, limit.window_at(OCCURRED_US).start_us)

    def number_of(self, key: LeaseKey) -> tuple[int, int]:
        """The other way round."""
        return next(
            (account, number)
            for account in range(ACCOUNTS)
            for number in range(len(LIMITS) + 1)
            if self.window(account, number) is key
        )

    def port(self, name: str) -> Any:
        return next(getattr(port, name) for port in self._ports if hasattr(port, name))

    def resource(self, number: int) -> Resource:
        key = self.keys[number // 2 % ACCOUNTS]
        return Resource(key.account_id, "response", f"resp_{number}", "test")

    def resource_key(self, number: int) -> ResourceKey:
        resource = self.resource(number)
        return resource.account_id, resource.kind, resource.id

    def subject(self, number: int) -> Subject:
        """Each request has drawn from a lease of its own account, by a session that may be over or unknown."""
        account = number // 2 % ACCOUNTS
        key = self.keys[account]
        hold = (number % 5 + 1) * AMOUNT
        drawn = [0] if number % 3 else [1, 3, 2, 4, 0]
        draws = Draws.of([self._draw(account, window, self.id(1, number % SESSIONS), hold) for window in drawn])
        return Subject(
            self.id(4, number), OCCURRED_US + number, key.account_id, key.user_id, key.key_id, "chat", "test",
            "test-model", PRICE.id, 1_000_000, hold, 1, 1, False, draws,
        )  # fmt: skip

    def _draw(self, account: int, window: int, session_id: UUID, hold: int) -> Draw:
        key = self.window(account, window)
        measure = LIMITS[window - 1][0] if window else Measure.AMOUNT
        amount = {Measure.AMOUNT: hold, Measure.TOKENS: hold // AMOUNT}.get(measure, 1)
        return Draw(key.limit_id, key.window_start_us, session_id, amount, measure, window == len(LIMITS))

    def item(self, position: int, what: str, number: int, amount: int) -> Settling | Noted:
        subject, resource = self.subject(number), self.resource(number)
        if what == "defer":
            return Noted(position, DeferRecord(subject, resource, 5))
        if what == "owner":
            return Noted(position, OwnerRecord(resource, OCCURRED_US))
        if what == "forget":
            return Noted(position, ForgetRecord(resource, OCCURRED_US))
        if what == "released":
            return Settling(position, EndRecord("released", subject, REFUSED, 0, 0, 0))
        if what == "recovered":
            amount = min(amount, subject.hold_nanos)
        overrun = max(amount - subject.hold_nanos, 0)
        how = "captured" if what == "ended" else what
        of = resource if what == "ended" else None
        return Settling(position, EndRecord(how, subject, completed(amount // AMOUNT), amount, amount, overrun, of))

    def batch(self, journal: int, off: int, length: int, items: tuple[tuple[str, int, int], ...]) -> Batch:
        start = max(self.positions.get(journal, 0) + off, 0)
        made = [self.item(start + 1 + index, *item) for index, item in enumerate(items)]
        return Batch(
            journal_id=self.id(2, journal), start=start, end=start + length, open_from=start,
            endings=[item for item in made if isinstance(item, Settling)], prices={PRICE.id: PRICE.document()},
            own_session=self.id(5, 0), notes=[item for item in made if isinstance(item, Noted)],
        )  # fmt: skip

    # ── calls ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def do(self, call: Call) -> Any:
        """Make a call; answers what both sides must agree upon."""
        name, *numbers = call
        try:
            return await getattr(self, f"_{name}")(*numbers)
        except (SessionOver, Forgotten, LendingPaused) as refused:
            return type(refused).__name__

    async def _open_session(self, session: int, journal: int) -> Any:
        await self.port("open_session")(self.id(1, session), self.id(2, journal), "host", journal, 30)
        return "open"

    async def _renew_session(self, session: int, in_another_life: bool) -> Any:
        await self.port("renew_session")(self.id(1, session), 30, self._life(in_another_life))
        return "renewed"

    def _life(self, another: bool) -> UUID:
        return UUID(int=4711) if another else self.life

    async def meet(self) -> None:
        """Learn in which life the database is."""
        self.life = (await self.port("meet")(None, 0)).life

    async def _meet(self, missed: bool, pause_seconds: float) -> Any:
        before = self.life
        self.life, paused = await self.port("meet")(before if missed else None, pause_seconds)
        return self.life != before, paused

    async def _present(
        self, session: int, window: tuple[int, int], granted: int, returned: int, in_another_life: bool
    ) -> Any:
        facts = SessionFacts(self.id(1, session), self.id(2, session % JOURNALS), "host", session % JOURNALS)
        totals = {self.window(*window): Totals(granted, min(returned, granted))} if granted else {}
        return await self.port("present")(facts, 30, self._life(in_another_life), totals)

    async def _lose(self, session: int) -> Any:
        await self.lose(self.id(1, session))

    async def lose(self, session_id: UUID) -> None:
        """A live session is found to be lost."""
        raise NotImplementedError

    async def _fold(self) -> Any:
        await self.fold()

    async def fold(self) -> None:
        """Leases of ended sessions become a number of their windows."""
        raise NotImplementedError

    async def _abandoned_sessions(self, journal: int) -> Any:
        found = await self.port("abandoned_sessions")(self.id(2, journal))
        return sorted(session_id.int & 0xFFFFF for session_id in found)

    async def _earlier_sessions(self, journal: int, session: int) -> Any:
        found = await self.port("earlier_sessions")(self.id(2, journal), self.id(1, session))
        return sorted(session_id.int & 0xFFFFF for session_id in found)

    async def _end_session(self, session: int, state: str) -> Any:
        return await self.port("end_session")(self.id(1, session), state)

    async def _lend(self, session: int, wishes: list[tuple[tuple[int, int], int, int, int]]) -> Any:
        borrows = [Borrow(self.id(3, borrow), self.window(*window), *sizes) for window, borrow, *sizes in wishes]
        return list(await self.port("lend")(self.id(1, session), borrows))

    async def _read_rests(self, session: int, windows: list[tuple[int, int]]) -> Any:
        return list(await self.port("read_rests")(self.id(1, session), [self.window(*window) for window in windows]))

    async def _give_back(self, session: int, window: tuple[int, int], total: int) -> Any:
        await self.port("give_back")(self.id(1, session), {self.window(*window): total})

    async def _report_held(self, session: int, window: tuple[int, int], held: int) -> Any:
        await self.port("report_held")(self.id(1, session), {self.window(*window): held})

    async def _ask_reclaim(self, session: int, window: tuple[int, int], wanted: int) -> Any:
        await self.port("ask_reclaim")(self.id(1, session), self.window(*window), wanted)

    async def _end_reclaim(self, session: int, window: tuple[int, int]) -> Any:
        await self.port("end_reclaim")(self.id(1, session), self.window(*window))

    async def _poll(self, session: int, version: int) -> Any:
        news = await self.port("poll")(self.id(1, session), self.base + version)
        wanted = [self.number_of(key) for key in news.reclaims]
        changes = [change.version - self.base for change in news.changes]
        served = sorted(self.number_of(key) for key in news.served)
        return changes, sorted(wanted), served, news.version - self.base, news.life == self.life

    async def _change_version(self) -> Any:
        return await self.port("change_version")() - self.base

    async def _progress(self, journal: int) -> Any:
        position, open_from = await self.port("progress")(self.id(2, journal))
        return position, open_from

    async def _book(self, journal: int, off: int, length: int, items: tuple[tuple[str, int, int], ...]) -> Any:
        batch = self.batch(journal, off, length, items)
        try:
            booked = await self.port("book")(batch)
        except ProgressMoved as moved:
            return "moved", moved.position, moved.open_from
        self.positions[journal] = batch.end
        return booked

    async def _find_durable(self, number: int) -> Any:
        found: DurableHold | None = await self.port("find_durable")(self.resource_key(number))
        return None if found is None else found.subject.request_id.int & 0xFFFFF

    async def _find_owners(self, session: int, number: int) -> Any:
        key = self.resource_key(number)
        return (await self.port("find_owners")(self.id(1, session), [key])).found.get(key) is not None

    async def _forgotten_owners(self) -> Any:
        mine = {self.resource_key(number): number for number in range(REQUESTS)}
        return sorted(mine[key] for key in await self.port("forgotten_owners")() if key in mine)

    async def _credit(self, account: int, amount: int) -> Any:
        if amount:
            await self.change_cap(self.keys[account], amount)

    async def change_cap(self, key: KeyEntry, amount: int) -> None:
        raise NotImplementedError

    async def tables(self) -> dict[str, Any]:
        raise NotImplementedError


class Simulated(Side):
    """The database of the simulation."""

    def __init__(self, salt: int) -> None:
        self.database = Database(Timeline(Random(0)))
        super().__init__([stranger(number) for number in range(ACCOUNTS)], [self.database], salt)
        for key in self.keys:
            self.database.credit(key.credit, 0)
        for limit in chain(*self.limits):
            self.database.limits[limit.limit_id] = limit
        self.base = len(self.database.changes)

    async def change_cap(self, key: KeyEntry, amount: int) -> None:
        self.database.change_cap(key.credit, amount)

    async def fold(self) -> None:
        await self.database.fold()

    async def lose(self, session_id: UUID) -> None:
        if self.database.sessions[session_id].state == "live":
            self.database.sessions[session_id].state = "lost"

    async def tables(self) -> dict[str, Any]:
        data = self.database
        return {
            "windows": sorted(
                (*self.number_of(key), window.cap or 0, window.drawn, window.overrun, window.late, window.counted,
                 window.unspent, window.folded)
                for key, window in data.windows.items()
                if window.drawn or window.overrun or window.counted or window.unspent
            ),
            "balances": [data.balances[key.account_id] for key in self.keys],
            "leases": sorted(
                (*self.number_of(key), session_id.int & 0xFFFFF, lease.granted, lease.consumed, lease.returned,
                 lease.held, lease.deferred)
                for (key, session_id), lease in data.leases.items()
            ),
            "sessions": sorted((session_id.int & 0xFFFFF, row.state) for session_id, row in data.sessions.items()),
            "rows": sorted(
                (request_id.int & 0xFFFFF, record.how, record.amount_nanos) for request_id, record in data.rows.items()
            ),
            "durable": sorted(
                (request_id.int & 0xFFFFF, row.amount is None, row.amount or 0)
                for request_id, row in data.durable.items()
            ),
            "owners": sorted((key[2], resource is not None) for key, resource in data.owners.items()),
        }  # fmt: skip


class Real(Side):
    """PostgreSQL, through `store`."""

    def __init__(self, pool: asyncpg.Pool, keys: list[KeyEntry], salt: int) -> None:
        self._pool = pool
        super().__init__(keys, [Sessions(pool), Settlement(pool), OwnerRows(pool), DurableRows(pool)], salt)

    async def change_cap(self, key: KeyEntry, amount: int) -> None:
        await Accounts(self._pool, "test").credit(key.account_id, amount, "adjustment")

    async def fold(self) -> None:
        await fold_leases(self._pool, after_seconds=0)

    async def lose(self, session_id: UUID) -> None:
        await self._pool.execute(
            "UPDATE worker_sessions SET state = 'lost' WHERE id = $1 AND state = 'live'", session_id
        )

    async def tables(self) -> dict[str, Any]:
        ids = [key.account_id for key in self.keys]
        salt = str(self.id(0, 0))[:26] + "%"

        async def rows(sql: str, *arguments: Any) -> list[asyncpg.Record]:
            return list(await self._pool.fetch(sql, *arguments))

        windows = await rows(
            "SELECT account_id, limit_id, window_start, COALESCE(cap, 0), drawn, overrun, late, counted, unspent,"
            " folded FROM limit_windows WHERE account_id = ANY ($1)"
            " AND (drawn <> 0 OR overrun <> 0 OR counted <> 0 OR unspent <> 0)", ids,
        )  # fmt: skip
        balances = {
            row["id"]: row["balance_nanos"]
            for row in await rows("SELECT id, balance_nanos FROM accounts WHERE id = ANY ($1)", ids)
        }
        leases = await rows(
            "SELECT account_id, limit_id, window_start, session_id, granted, consumed, returned, held, deferred FROM leases"
            " WHERE account_id = ANY ($1)", ids,
        )  # fmt: skip
        sessions = await rows("SELECT id, state FROM worker_sessions WHERE id::text LIKE $1", salt)
        usage = await rows("SELECT id, ending, amount_nanos FROM usage_events WHERE account_id = ANY ($1)", ids)
        durable = await rows(
            "SELECT request_id, state = 'open', COALESCE(amount_nanos, 0) FROM durable_holds WHERE account_id = ANY ($1)",
            ids,
        )
        owners = await rows("SELECT id, forgotten_at IS NULL FROM owners WHERE account_id = ANY ($1)", ids)
        return {
            "windows": sorted((*self._number_of(row), *tuple(row)[3:]) for row in windows),
            "balances": [balances[account_id] for account_id in ids],
            "leases": sorted((*self._number_of(row), row[3].int & 0xFFFFF, *tuple(row)[4:]) for row in leases),
            "sessions": sorted((row[0].int & 0xFFFFF, row[1]) for row in sessions),
            "rows": sorted((row[0].int & 0xFFFFF, row[1], row[2]) for row in usage),
            "durable": sorted((row[0].int & 0xFFFFF, row[1], row[2]) for row in durable),
            "owners": sorted(tuple(row) for row in owners),
        }

    def _number_of(self, row: asyncpg.Record) -> tuple[int, int]:
        return self.number_of(LeaseKey(row[0], row[1], to_us(row[2])))

    async def make_limits(self) -> None:
        """Give the accounts their limits."""
        for limit in chain(*self.limits):
            await self._pool.execute(
                "INSERT INTO limits (id, account_id, kind, scope, scope_id, measure, window_kind, cap)"
                " VALUES ($1, $2, 'rate', 'account', $2, $3, $4, $5)",
                limit.limit_id, limit.scope_id, limit.measure.name.lower(), limit.window, limit.cap,
            )  # fmt: skip


async def compare(pool: asyncpg.Pool, seed: int, most: int = 60) -> int:
    """Make the calls of a seed on both databases; answers how many. Raises AssertionError where they differ."""
    simulated = Simulated(seed)
    real = Real(pool, [await customer(pool, 0) for _ in range(ACCOUNTS)], seed)
    await real.make_limits()
    await pool.execute("UPDATE fleet_state SET paused_until = NULL")
    real.base = await real.port("change_version")()
    for side in (simulated, real):
        await side.meet()
    calls = calls_of(seed, most)
    for number, call in enumerate(calls):
        ours, theirs = await simulated.do(call), await real.do(call)
        assert ours == theirs, f"seed {seed}, call {number} {call}: simulated {ours}, PostgreSQL {theirs}"
    ours, theirs = await simulated.tables(), await real.tables()
    for table, content in ours.items():
        assert content == theirs[table], f"seed {seed}, {table}: simulated {content}, PostgreSQL {theirs[table]}"
    return len(calls)


def compared(dsn: str, seeds: range, most: int = 60) -> int:
    """The same for many seeds; answers how many calls that were."""

    async def all_of_them() -> int:
        async with pool_of(dsn) as pool:
            return sum([await compare(pool, seed, most) for seed in seeds])

    return asyncio.run(all_of_them())
