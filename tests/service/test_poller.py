"""The poller on real PostgreSQL: every durable hold ends once, whoever asks, and whatever its provider does."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import msgspec
import pytest

from meterproxy.core.hold import DurableHold
from meterproxy.core.key import KeyEntry
from meterproxy.core.record import Ending
from meterproxy.core.resource import Resource
from meterproxy.errors import ApiError, Case, StoreUnavailable
from meterproxy.ledger import journal as journal_module
from meterproxy.ledger.recover import OpenHoldPolicy
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.service import poller as module
from meterproxy.service.poller import Ask, Poller, pause_seconds
from meterproxy.store.audit import audit
from meterproxy.store.durable import DurableRows
from tests.ledger.bank import REFUSED, balance, completed, customer, hold_request, ledger_of, pool_of
from tests.ledger.bank_faults import Faulty
from tests.ledger.test_journal import raiser

CREDIT = 10_000_000
HOLD = 500_000


class Provider:
    """A provider as far as a poller sees it: what runs there, how it ended, and how often it was asked."""

    def __init__(self) -> None:
        self.endings: dict[str, Ending | Exception] = {}
        self.asked: Counter[str] = Counter()

    async def ask(self, hold: DurableHold) -> Ending | None:
        self.asked[hold.resource.id] += 1
        await asyncio.sleep(0)
        ending = self.endings.get(hold.resource.id)
        if isinstance(ending, Exception):
            raise ending
        return ending


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


@pytest.fixture
async def key(pool: asyncpg.Pool) -> KeyEntry:
    return await customer(pool, CREDIT)


async def started(pool: asyncpg.Pool, directory: Path, key: KeyEntry, *names: str) -> WorkerLedger:
    """A worker with a durable hold for each of these responses, settled."""
    ledger = ledger_of(pool, directory)
    await ledger.start()
    for name in names:
        hold = await ledger.holds.place(hold_request(ledger, key, HOLD, input_estimate=20))
        ledger.durable.defer(hold, Resource(key.account_id, "response", name, "test"))
    await settle(ledger)
    return ledger


async def settle(ledger: WorkerLedger) -> None:
    while ledger.settler.queued:
        await ledger.settler.settle_batch()


def poller_of(ledger: WorkerLedger, pool: asyncpg.Pool, ask: Ask, policy: str = "charge_delivered") -> Poller:
    return Poller(DurableRows(pool), ledger.durable, ask, OpenHoldPolicy(policy))


async def make_due(pool: asyncpg.Pool) -> None:
    await pool.execute("UPDATE durable_holds SET next_poll_at = now() - interval '1 second' WHERE state = 'open'")


async def poll(pool: asyncpg.Pool, *pollers: Poller) -> int:
    """Everything is due; all pollers look once, at the same time."""
    await make_due(pool)
    begun = sum(await asyncio.gather(*(poller.begin() for poller in pollers)))
    await asyncio.gather(*(poller.finish() for poller in pollers))
    return begun


async def states(pool: asyncpg.Pool) -> dict[str, str]:
    return {row["resource_id"]: row["state"] for row in await pool.fetch("SELECT * FROM durable_holds")}


async def spent(pool: asyncpg.Pool, key: KeyEntry) -> int:
    assert [result for result in await audit(pool) if not result.ok] == []
    return CREDIT - await balance(pool, key.account_id)


async def test_each_hold_ends_as_its_provider_says(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path) -> None:
    """With usage it is captured, without any it is released, and what still runs is asked about again."""
    ledger = await started(pool, tmp_path, key, "done", "never", "runs")
    provider = Provider()
    poller = poller_of(ledger, pool, provider.ask)
    assert await poll(pool, poller) == 3
    assert await poll(pool, poller) == 3
    provider.endings = {"done": completed(70), "never": REFUSED}
    assert await poll(pool, poller) == 3
    await settle(ledger)
    assert await states(pool) == {"done": "captured", "never": "released", "runs": "open"}
    assert await spent(pool, key) == 70_000
    assert await pool.fetchval("SELECT drawn FROM limit_windows") >= 70_000 + HOLD
    assert await poll(pool, poller) == 1
    assert provider.asked == {"done": 3, "never": 3, "runs": 4}
    await ledger.stop()
    assert await pool.fetchval("SELECT drawn FROM limit_windows") == 70_000 + HOLD


async def test_two_workers_ask_about_each_hold_once(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path) -> None:
    """They share what is due, and end what the other has deferred."""
    names = [f"resp_{number}" for number in range(12)]
    one = await started(pool, tmp_path / "1", key, *names)
    two = await started(pool, tmp_path / "2", key)
    provider = Provider()
    provider.endings = {name: completed(10) for name in names}
    begun = await poll(pool, *(poller_of(ledger, pool, provider.ask) for ledger in (one, two)))
    assert begun == 12
    assert provider.asked == dict.fromkeys(names, 1)
    await two.stop()
    await one.stop()
    assert await spent(pool, key) == 120_000
    assert await pool.fetchval("SELECT drawn FROM limit_windows") == 120_000


async def test_what_is_due_is_asked_about_so_many_at_a_time(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look takes all of it, and never more at once than may be."""
    monkeypatch.setattr(module, "AT_ONCE", 2)
    names = [f"resp_{number}" for number in range(7)]
    ledger = await started(pool, tmp_path, key, *names)
    provider, most = Provider(), 0

    async def ask(hold: DurableHold) -> Ending | None:
        nonlocal most
        most = max(most, len(poller._asking))
        return await provider.ask(hold)

    poller = poller_of(ledger, pool, ask)
    await make_due(pool)
    await poller.begin_all()
    await poller.finish()
    assert provider.asked == dict.fromkeys(names, 1)
    assert most == 2
    await ledger.stop()


@pytest.mark.parametrize("trouble", [
    ApiError(Case.UPSTREAM_UNREACHABLE, "away"), OSError("reset"), ValueError("no JSON"), TimeoutError(),
])  # fmt: skip
async def test_a_provider_in_trouble_is_asked_again(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, trouble: Exception
) -> None:
    """Whatever it does, nothing is charged for it and nothing is lost."""
    ledger = await started(pool, tmp_path, key, "resp_1")
    provider = Provider()
    provider.endings = {"resp_1": trouble}
    poller = poller_of(ledger, pool, provider.ask)
    assert await poll(pool, poller) == 1
    assert await states(pool) == {"resp_1": "open"}
    assert await pool.fetchval("SELECT next_poll_at > now() FROM durable_holds")
    provider.endings = {"resp_1": completed(7)}
    assert await poll(pool, poller) == 1
    await ledger.stop()
    assert await spent(pool, key) == 7000


async def test_a_provider_that_does_not_answer_keeps_nobody(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many wait at a time, each for a while; the next look takes as many as there is room for."""
    monkeypatch.setattr(module, "AT_ONCE", 2)
    ledger = await started(pool, tmp_path, key, "a", "b", "c")
    waiting = asyncio.Event()

    async def never(_hold: DurableHold) -> None:
        waiting.set()
        await asyncio.Event().wait()

    poller = poller_of(ledger, pool, never)
    await make_due(pool)
    assert await poller.begin() == 2
    await waiting.wait()
    assert await poller.begin() == 0
    for task in poller._asking:
        task.cancel()
    await poller.finish()
    monkeypatch.setattr(module, "ASK_SECONDS", 0.0)
    assert await poll(pool, poller) == 2
    assert set((await states(pool)).values()) == {"open"}
    await ledger.stop()


@pytest.mark.parametrize(("policy", "paid"), [("charge_delivered", 20_000), ("release", 0), ("charge_hold", HOLD)])
async def test_none_is_left_for_ever(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, policy: str, paid: int) -> None:
    """Older than anything may run, it ends by policy, but for an end that its provider does tell."""
    ledger = await started(pool, tmp_path, key, "lost", "told")
    provider = Provider()
    provider.endings = {"lost": OSError("gone"), "told": completed(5)}
    poller = poller_of(ledger, pool, provider.ask, policy)
    for resource in ("lost", "told"):
        old = module.MOST_SECONDS + 60
        hold = await ledger.durable.find(Resource(key.account_id, "response", resource, "test"))
        assert hold is not None
        await poller.poll(module.DueHold(hold, old))
    await ledger.stop()
    assert await states(pool) == {"lost": "recovered", "told": "captured"}
    assert await spent(pool, key) == paid + 5000


async def test_an_end_that_cannot_be_written_is_seen_again(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full volume here, PostgreSQL away there: the hold comes due again."""
    ledger = await started(pool, tmp_path, key, "resp_1")
    provider = Provider()
    provider.endings = {"resp_1": completed(7)}
    rows = Faulty(DurableRows(pool))
    poller = Poller(rows, ledger.durable, provider.ask, OpenHoldPolicy.CHARGE_DELIVERED)  # type: ignore[arg-type]
    with monkeypatch.context() as broken:
        broken.setattr(journal_module.os, "pwrite", raiser(28))
        rows.lost.add("put_off")
        assert await poll(pool, poller) == 1
    rows.away = True
    with pytest.raises(StoreUnavailable):
        await poller.begin()
    rows.away = False
    assert await poll(pool, poller) == 1
    await ledger.stop()
    assert await spent(pool, key) == 7000


async def test_it_goes_on_by_itself(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a side task it takes what comes due, also after PostgreSQL was away, and leaves nothing behind when it ends."""
    monkeypatch.setattr(module, "POLL_SECONDS", 0.001)
    ledger = await started(pool, tmp_path, key, "resp_1", "resp_2")
    ended, waiting = asyncio.Event(), asyncio.Event()

    async def ask(hold: DurableHold) -> Ending | None:
        if hold.resource.id == "resp_1":
            ended.set()
            return completed(7)
        waiting.set()
        await asyncio.Event().wait()
        return None

    rows = Faulty(DurableRows(pool))
    rows.lost.add("take_due")
    poller = Poller(rows, ledger.durable, ask, OpenHoldPolicy.CHARGE_DELIVERED)  # type: ignore[arg-type]
    await make_due(pool)
    polling = asyncio.create_task(poller.keep_polled())
    while not rows.calls["take_due"]:
        await asyncio.sleep(0)
    await make_due(pool)
    await asyncio.gather(ended.wait(), waiting.wait())
    polling.cancel()
    await asyncio.wait((polling,))
    await poller.finish()
    await ledger.stop()
    assert await states(pool) == {"resp_1": "captured", "resp_2": "open"}


def test_the_older_a_hold_the_longer_it_is_left_alone() -> None:
    """From a second up to a minute."""
    assert [pause_seconds(age) for age in (0, 4, 40, 240, 86_400)] == [1, 1, 10, 60, 60]


async def test_a_single_404_is_not_believed(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response is gone when its provider has said so some times over a minute; one that turns up again counts."""
    now_us = 0
    monkeypatch.setattr(module, "elapsed_us", lambda: now_us)
    ledger = await started(pool, tmp_path, key, "gone", "back")
    provider = Provider()
    gone = msgspec.structs.replace(completed(3), flags=("vanished",))
    provider.endings = {"gone": gone, "back": gone}
    poller = poller_of(ledger, pool, provider.ask)
    for seconds in (0, 20, 59):
        now_us = seconds * 1_000_000
        assert await poll(pool, poller) == 2
    assert set((await states(pool)).values()) == {"open"}
    provider.endings["back"] = completed(5)
    now_us = 60_000_000
    assert await poll(pool, poller) == 2
    await ledger.stop()
    assert await states(pool) == {"gone": "captured", "back": "captured"}
    assert await spent(pool, key) == 3000 + 5000
