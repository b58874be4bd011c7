"""Whole ledgers of two workers under every fault at once, against an auditor; and the fake against PostgreSQL."""

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meterproxy.core.account import AccountEntry
from meterproxy.core.key import KeyEntry, KeyPolicy
from meterproxy.core.lending import LeaseKey
from meterproxy.core.limit import Limit, Measure, Scope
from meterproxy.core.resource import key_of
from meterproxy.core.usage import Outcome
from meterproxy.core.window import WindowKind
from meterproxy.ledger import backlog
from meterproxy.ledger import lease as lease_module
from meterproxy.store.accounts import Accounts
from meterproxy.store.audit import audit
from meterproxy.store.durable import DurableRows
from meterproxy.store.instants import to_us
from meterproxy.store.owners import OwnerRows
from meterproxy.store.sessions import Sessions
from meterproxy.store.settle import Settlement
from meterproxy.store.upkeep import fold_leases
from tests.ledger.bank import customer, pool_of
from tests.ledger.memory_store import MemoryStore, Window
from tests.ledger.test_limits import limited
from tests.ledger.world import Operation, World, tidy

CALLS = [
    "lend", "give_back", "report_held", "book", "poll", "end_session", "open_session", "ask_reclaim", "progress",
    "forgotten_owners", "find_durable",
]  # fmt: skip

workers = st.integers(0, 1)
accounts = st.integers(0, 1)
amounts = st.integers(1, 300) | st.sampled_from([0, 0, 500, 2**53, 2**60, 2**90])
"""Tokens of a hold; nothing at all and more than anybody can pay are among them."""
places = st.tuples(st.sampled_from(["place", "place", "contend"]), workers, accounts, amounts)
extensions = st.one_of(
    st.tuples(st.just("expose"), workers, st.integers(1, 200), st.integers(1, 60)),
    st.tuples(st.just("extend"), workers, st.integers(0, 9), st.integers(1, 60), st.booleans()),
    st.tuples(st.just("extend"), workers, st.just(-1), st.integers(1, 30), st.booleans()),
)
captures = st.tuples(st.just("capture"), workers, st.integers(0, 9), st.integers(0, 120))
backgrounds = st.tuples(st.just("background"), workers, st.sampled_from(["settle", "report", "look", "hear", "sync"]))
names = st.sampled_from(["resp_1", "resp_2", "resp_3"])
work = st.one_of(
    places,
    places,
    captures,
    extensions,
    st.tuples(st.just("release"), workers, st.integers(0, 9), st.booleans()),
    st.tuples(st.just("passes"), st.sampled_from([1, 29, 60, 86_400])),
    st.tuples(st.just("progress"), workers, st.integers(0, 400)),
    backgrounds,
    backgrounds,
    st.tuples(st.sampled_from(["claim", "claim", "forget"]), workers, accounts, names),
    st.tuples(st.just("defer"), workers, st.integers(0, 9)),
    st.tuples(st.just("end_durable"), workers, st.integers(0, 9), st.none() | st.integers(0, 120)),
    st.tuples(st.just("find_durable"), workers, st.integers(0, 9)),
    st.tuples(st.just("credit"), accounts, st.integers(-100_000, 300_000).filter(bool)),
)
faults = st.one_of(
    st.tuples(st.just("lose"), workers, st.sampled_from(CALLS)),
    st.tuples(st.just("away"), workers, st.just(False)),
    st.tuples(st.just("away"), workers, st.booleans()),
    st.tuples(st.just("kill"), workers),
    st.tuples(st.just("stop"), workers),
    st.tuples(st.just("start"), workers),
    st.just(("fold",)),
)
operations: st.SearchStrategy[Operation] = st.one_of(work, work, work, faults)
"""What happens, in about the measure in which it happens; a fault now and then."""


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly everything that waits for PostgreSQL is read back from the journal."""
    monkeypatch.setattr(backlog, "IN_MEMORY", 1)
    monkeypatch.setattr(backlog, "READ_AT_ONCE", 2)


def stranger(number: int) -> KeyEntry:
    account = AccountEntry(UUID(int=number + 10), UUID(int=3), UUID(int=number + 20))
    return KeyEntry(UUID(int=number), account, UUID(int=4), KeyPolicy())


def limits_for(key: KeyEntry) -> list[Limit]:
    """One limit of each kind: by minute, by day and without end, of the key and of its account, hard and soft."""
    mine, ours = (Scope.KEY, key.key_id), (Scope.ACCOUNT, key.account_id)
    return [
        Limit(uuid4(), *mine, Measure.REQUESTS, WindowKind.MINUTE, 6),
        Limit(uuid4(), *mine, Measure.CONCURRENT, WindowKind.NONE, 4),
        Limit(uuid4(), *mine, Measure.TOKENS, WindowKind.DAY, 900, grace=100),
        Limit(uuid4(), *mine, Measure.AMOUNT, WindowKind.TOTAL, None),
        Limit(uuid4(), *ours, Measure.REQUESTS, WindowKind.HOUR, 20),
        Limit(uuid4(), *ours, Measure.TOKENS, WindowKind.MINUTE, 100, hard=False),
        Limit(uuid4(), *ours, Measure.AMOUNT, WindowKind.DAY, 400_000),
        Limit(uuid4(), *ours, Measure.EXPOSURE, WindowKind.NONE, 50_000),
    ]


def memory_world(*, forgetful: bool = False) -> tuple[MemoryStore, World]:
    store = MemoryStore()

    async def credit(key: KeyEntry, amount: int) -> None:
        store.credit(LeaseKey(key.account_id, key.credit.limit_id, 0), amount)

    keys = [stranger(1), stranger(2)]
    limits = limits_for(keys[0])
    keys[0].account.change(limits, frozen=False)
    store.limits = {limit.limit_id: limit for limit in limits}
    for key in keys:
        store.credit(LeaseKey(key.account_id, key.credit.limit_id, 0), 0)
    return store, World(store, keys, credit, forgetful=forgetful)


def check(store: MemoryStore, world: World) -> None:
    """The invariants of the books as the auditor sees them."""
    for request_id, record in store.rows.items():
        assert record.amount_nanos in world.ends.get(request_id, {world.expected.get(request_id)})
    for request_id, durable in store.durable.items():
        row = store.rows.get(request_id)
        assert durable.amount == (None if row is None else row.amount_nanos)
    for key, window in store.windows.items():
        lent = [lease for (of, _), lease in store.leases.items() if of == key]
        beyond = window.folded + window.overrun + window.late + window.counted - window.unspent
        assert window.drawn == sum(lease.granted - lease.returned for lease in lent) + beyond
        assert all(min(lease.outstanding, lease.consumed, lease.returned) >= 0 for lease in lent)
    for account, entry in enumerate(world.keys):
        booked = sum(r.amount_nanos for r in store.rows.values() if r.subject.account_id == entry.account_id)
        assert store.balances[entry.account_id] == world.cap[account] - booked
        window = store.windows[world.key(account)]
        leases = [lease for (lent, _), lease in store.leases.items() if lent == world.key(account)]
        durable_nanos = sum(
            row.subject.hold_nanos
            for row in store.durable.values()
            if row.amount is None and row.subject.account_id == entry.account_id
        )
        beyond = window.folded + window.overrun + window.late - window.unspent
        assert booked == sum(lease.consumed for lease in leases) + beyond - durable_nanos


def check_end(store: MemoryStore, world: World) -> None:
    check(store, world)
    assert store.rows.keys() == world.expected.keys() | world.ends.keys(), "what was placed is booked exactly once"
    assert store.durable.keys() == world.ends.keys(), "what became durable is, and nothing else"
    assert all(lease.outstanding == 0 for lease in store.leases.values())
    assert {session.state for session in store.sessions.values()} <= {"closed", "proved"}
    owned = {key_of(world.resource(*told)): alive for told, alive in world.owned.items()}
    assert {key: resource is not None for key, resource in store.owners.items()} == owned
    drawn = {key: window.drawn for key, window in store.windows.items() if window.drawn}
    assert drawn == what_rows_drew(store, world)


def what_rows_drew(store: MemoryStore, world: World) -> dict[LeaseKey, int]:
    """By the auditor's own reckoning: each row in the window of its accept time of each limit of its account."""
    drawn: Counter[LeaseKey] = Counter()
    for record in store.rows.values():
        subject, usage = record.subject, record.ending.usage
        entry = next(key for key in world.keys if key.account_id == subject.account_id)
        drawn[entry.credit] += record.amount_nanos
        sent = record.how != "released" or record.ending.outcome == Outcome.PROVIDER_ERROR
        amounts = {
            Measure.AMOUNT: record.amount_nanos,
            Measure.REQUESTS: int(sent),
            Measure.TOKENS: 0 if record.how == "released" else usage.input + usage.output,
            Measure.CONCURRENT: 0,
        }
        for limit in entry.account.limits:
            start_us = limit.window_at(subject.occurred_us).start_us
            drawn[LeaseKey(entry.account_id, limit.limit_id, start_us)] += amounts[limit.measure]
    return {key: amount for key, amount in drawn.items() if amount}


class LedgerMachine(RuleBasedStateMachine):
    """Two workers, two accounts, lost answers, a database that is away, kills and restarts, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.store, self.world = memory_world()

    @initialize()
    def begin(self) -> None:
        for operation in (("credit", 0, 500_000), ("credit", 1, 90_000), ("start", 0), ("start", 1)):
            self.run(operation)

    @rule(some=st.lists(work, min_size=1, max_size=8))
    def operate(self, some: list[Operation]) -> None:
        for operation in some:
            self.run(operation)

    @rule(fault=faults)
    def fail(self, fault: Operation) -> None:
        self.run(fault)

    @rule(worker=workers, account=accounts, call=st.sampled_from(["lend", "ask_reclaim"]))
    def borrow_without_answer(self, worker: int, account: int, call: str) -> None:
        self.run(("lose", worker, call))
        self.run(("place", worker, account, 200))
        self.run(("place", worker, account, 200))

    @rule(worker=workers, account=accounts, tokens=st.sampled_from([50, 90, 400]))
    def borrow_without_answer_what_another_wants(self, worker: int, account: int, tokens: int) -> None:
        self.run(("lose", worker, "lend"))
        self.run(("place", worker, account, tokens))
        self.run(("contend", 1 - worker, account, tokens))

    @rule(worker=workers, call=st.sampled_from(["book", "give_back", "report_held", "poll"]))
    def tell_without_answer(self, worker: int, call: str) -> None:
        self.run(("lose", worker, call))
        for what in ("settle", "look", "report"):
            self.run(("background", worker, what))

    @rule(
        worker=workers,
        shares=st.tuples(*[st.none() | st.sampled_from([0, 50, 100, 120])] * 2),
        between=st.lists(st.tuples(workers, st.sampled_from(["settle", "kill", "stop", "start"])), max_size=4),
    )
    def outlive_an_exchange(self, worker: int, shares: tuple[int | None, ...], between: list[tuple[int, str]]) -> None:
        """Both workers see the end of a durable hold, perhaps before its own worker has settled it or is dead."""
        self.run(("place", worker, 0, 100))
        self.run(("defer", worker, -1))
        for step, share in enumerate(shares):
            for other, what in between[step * 2 : step * 2 + 2]:
                self.run((what, other) if what != "settle" else ("background", other, what))
            self.run(("end_durable", (worker + 1 + step) % 2, -1, share))

    @rule(worker=workers, call=st.none() | st.sampled_from(CALLS))
    def crash_and_come_back(self, worker: int, call: str | None) -> None:
        self.run(("kill", worker))
        if call:
            self.run(("lose", worker, call))
        self.run(("start", worker))
        self.run(("start", worker))

    def run(self, operation: Operation) -> None:
        answer = self.runner.run(self.world.do(operation))
        check(self.store, self.world)
        if (operation[0], operation[2:], answer) == ("background", ("report",), "done"):
            self.what_was_reported_is_known(operation[1])

    def what_was_reported_is_known(self, worker: int) -> None:
        ledger = self.world.places[worker].ledger
        assert ledger is not None
        for key, lease in ledger.book.leases.items():
            if not lease.granted:
                continue  # nothing was ever lent, only free requests were placed
            row = self.store.leases[key, ledger.session.session_id]
            assert (row.returned, row.held) == (lease.returned, lease.held)

    @invariant()
    def the_books_are_right(self) -> None:
        if self.store.windows:
            check(self.store, self.world)

    def teardown(self) -> None:
        try:
            if self.store.windows:
                self.runner.run(self.world.finish())
                check_end(self.store, self.world)
        finally:
            self.runner.close()
            tidy(self.world.root)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=40, stateful_step_count=25, suppress_health_check=list(HealthCheck))


# ── failovers ───────────────────────────────────────────────────────────────────────────────────────────────────────

forgetful_operations = st.one_of(
    st.tuples(st.just("place"), workers, accounts, st.integers(0, 100)),
    captures,
    st.tuples(st.just("defer"), workers, st.integers(0, 9)),
    st.tuples(st.just("end_durable"), workers, st.integers(0, 9), st.none() | st.integers(0, 120)),
    backgrounds,
    st.tuples(st.sampled_from(["claim", "claim", "forget"]), workers, accounts, names),
    st.tuples(st.just("lose"), workers, st.just("book")),
    st.tuples(st.sampled_from(["kill", "start", "start", "stop"]), workers),
    st.sampled_from([("remember",), ("fold",), ("fail_over",), ("fail_over",)]),
)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(script=st.lists(forgetful_operations, min_size=10, max_size=50))
def test_whatever_postgresql_forgets_it_is_told_again(script: list[Operation]) -> None:
    """Rows, durable holds and owners are in the end what the workers have written down, each once.

    Whose session was forgotten ends, and its successor proves what came back.
    """
    asyncio.run(fail_over_and_finish(script))


async def fail_over_and_finish(script: list[Operation]) -> None:
    store, world = memory_world(forgetful=True)
    begin: list[Operation] = [
        ("credit", 0, 5_000_000),
        ("credit", 1, 900_000),
        ("remember",),
        ("start", 0),
        ("start", 1),
    ]
    notice: list[Operation] = [("claim", worker, 0, f"noticed_by_{worker}") for worker in (0, 1)]
    settle: list[Operation] = [("background", worker, "settle") for worker in (0, 1)]
    restart: list[Operation] = [(what, worker) for what in ("kill", "start") for worker in (0, 1)]
    again: list[Operation] = [("start", 0), ("start", 1), *notice, *settle, *restart]
    try:
        for operation in [*begin, *script, *again]:
            await world.do(operation)
            check(store, world)
        await world.finish()
        check_end(store, world)
    finally:
        tidy(world.root)


survivors = st.one_of(
    st.tuples(st.just("place"), workers, accounts, st.integers(0, 100)),
    st.tuples(st.just("place"), workers, st.just(1), st.integers(0, 90)),
    captures,
    st.tuples(st.just("release"), workers, st.integers(0, 9)),
    st.tuples(st.just("defer"), workers, st.integers(0, 9)),
    st.tuples(st.just("end_durable"), workers, st.integers(0, 9), st.none() | st.integers(0, 100)),
    backgrounds,
    st.tuples(st.just("lose"), workers, st.sampled_from(["book", "lend", "give_back", "poll", "meet", "present"])),
    st.sampled_from([("remember",), ("fold",), ("fail_over",), ("resume",), ("resume",)]),
)


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(script=st.lists(survivors, min_size=10, max_size=50))
@example(script=[("place", 0, 0, 50), ("fail_over",), ("capture", 0, 0, 100), ("background", 0, "settle")])
@example(
    script=[
        *[("place", 0, 1, 1)] * 4,
        ("fail_over",),
        *[("place", 0, 1, 0)] * 2,
        ("defer", 0, 2),
        ("end_durable", 1, 0, None),
        ("background", 1, "settle"),
    ]
)
def test_what_postgresql_forgot_is_not_lent_twice_as_long_as_its_workers_live(script: list[Operation]) -> None:
    """However often it goes back, what runs and what was charged stays within the caps, and no request comes late.

    Only a durable hold may: where another worker tells of its end before the one that placed it has presented.
    """
    asyncio.run(fail_over_and_go_on(script))


async def fail_over_and_go_on(script: list[Operation]) -> None:
    store, world = memory_world()
    begin: list[Operation] = [
        ("credit", 0, 5_000_000),
        ("credit", 1, 90_000),
        ("remember",),
        ("start", 0),
        ("start", 1),
    ]
    settle: list[Operation] = [("background", worker, "settle") for worker in (0, 1)]
    try:
        for operation in [*begin, *script, ("resume",), ("resume",), *settle]:
            await world.do(operation)
            check(store, world)
        await world.finish()
        check_end(store, world)
        deferred = sum(draw.amount for row in store.durable.values() for _, draw in row.draws)
        assert sum(window.late for window in store.windows.values()) <= deferred
        assert all(w.cap is None or w.drawn - w.counted - w.overrun <= w.cap for w in store.windows.values())
    finally:
        tidy(world.root)


# ── the fake and PostgreSQL ─────────────────────────────────────────────────────────────────────────────────────────


class Both:
    """PostgreSQL's two ports in one object, as the world wants them."""

    def __init__(self, *ports: Any) -> None:
        self._ports = ports

    def __getattr__(self, name: str) -> Any:
        return next(getattr(port, name) for port in self._ports if hasattr(port, name))


class Folding:
    """What upkeep does to leases, at once."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def fold(self) -> None:
        await fold_leases(self._pool, after_seconds=0)


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Borrowing depends on how time passes; here it does not."""
    monkeypatch.setattr(lease_module, "elapsed_us", lambda: 10**12)


@pytest.mark.usefixtures("still")
@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(script=st.lists(operations, min_size=5, max_size=30))
def test_the_fake_does_what_postgresql_does(database: str, script: list[Operation]) -> None:
    """The same operations give the same answers, leases, balances and draws on both, and PostgreSQL audits clean."""
    asyncio.run(compare(database, script))


async def compare(database: str, script: list[Operation]) -> None:
    store, fake = memory_world()
    async with pool_of(database) as pool:
        keys = [await customer(pool, 0), await customer(pool, 0)]
        await limited(pool, keys[0], *limits_for(keys[0]))

        async def credit(key: KeyEntry, amount: int) -> None:
            await Accounts(pool, "test").credit(key.account_id, amount, "adjustment")

        real = World(
            Both(Sessions(pool), Settlement(pool), OwnerRows(pool), DurableRows(pool), Folding(pool)), keys, credit
        )
        begin: list[Operation] = [("credit", 0, 500_000), ("credit", 1, 90_000), ("start", 0), ("start", 1)]
        try:
            for operation in [*begin, *script]:
                assert await fake.do(operation) == await real.do(operation), operation
                assert fake.books() == real.books(), operation
            await fake.finish()
            await real.finish()
            assert await windows_of(pool, real) == {fake.place_of(key): one for key, one in store.windows.items()}
            for account, key in enumerate(keys):
                balance = await pool.fetchval("SELECT balance_nanos FROM accounts WHERE id = $1", key.account_id)
                assert balance == store.balances[fake.keys[account].account_id]
                owned = {name: alive for (owner, name), alive in real.owned.items() if owner == account}
                rows = await pool.fetch("SELECT * FROM owners WHERE account_id = $1", key.account_id)
                assert {row["id"]: row["forgotten_at"] is None for row in rows} == owned
            assert [result for result in await audit(pool) if not result.ok] == []
            check_end(store, fake)
        finally:
            tidy(fake.root)
            tidy(real.root)


async def windows_of(pool: asyncpg.Pool, world: World) -> dict[tuple[int, int, int], Window]:
    rows = await pool.fetch(
        "SELECT account_id, limit_id, window_start, cap, drawn, overrun, late, counted, unspent, folded FROM limit_windows"
        " WHERE account_id = ANY ($1::uuid[])",
        [key.account_id for key in world.keys],
    )
    return {
        world.place_of(LeaseKey(account_id, limit_id, to_us(start))): Window(*columns)
        for account_id, limit_id, start, *columns in rows
    }
