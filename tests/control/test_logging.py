"""Usage that did not pass here: told once or often, charged or not, by a worker that may die."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from meterproxy.control.call import Machine
from meterproxy.core.logged import LoggedUsage
from meterproxy.core.price import Price, RateCard
from meterproxy.errors import ApiError, Case, JournalFailed, StoreUnavailable, Unbookable
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.proxy.brakes import Brakes
from meterproxy.proxy.direct import log_usage
from meterproxy.proxy.house import House, Ports
from meterproxy.proxy.settings import ExchangeSettings
from meterproxy.service.siblings import settle_now
from meterproxy.store.accounts import Accounts
from meterproxy.store.audit import audit
from meterproxy.store.directory import KeyDirectory
from meterproxy.store.logged import DAYS_KEPT, tidy_logged
from meterproxy.store.rejected import RejectedRecords
from meterproxy.store.settle import Settlement
from tests.control.asking import ADMIN_TOKEN, Asking, Heard, Person, machine_of
from tests.ledger.bank import ledger_of, pool_of
from tests.ledger.test_journal import kill

CREDIT = 1_000_000_000
CARD = RateCard.written([(-1, {"input": 2_000_000_000, "cache_read": 500_000_000, "output": 10_000_000_000})])
PRICE = Price("openai", "gpt", {"default": CARD})
EVENT = {"event_id": "e1", "model": "gpt", "input_tokens": 1000, "cached_tokens": 200, "output_tokens": 50}
COST = 800 * 2000 + 200 * 500 + 50 * 10_000
"""What the event costs, in nanodollars; the books charge twice as much, and so does `MARKUP`."""
MARKUP = 2_000_000
AMOUNT = 2 * COST
POINTS = ("before placing", "after placing", "before settling", "before answering")
"""Where a worker may die."""


class Prices:
    """A catalog of one model."""

    def price(self, prices_id: str, model: str, at_us: int, operation: str | None = None) -> Price | None:
        return PRICE if (prices_id, model) == ("openai", "gpt") else None


class Worker:
    """A worker that logs, and an API on it; `dies` names the step before which it is killed."""

    def __init__(self, pool: asyncpg.Pool, directory: Path) -> None:
        self.pool = pool
        self.ledger: WorkerLedger = ledger_of(pool, directory, settle_interval_ms=10)
        self.keys = KeyDirectory(pool)
        self.brakes = Brakes()
        self.dies: str | None = None
        self.asking = Asking(pool, machine=self.machine())

    def machine(self) -> Machine:
        return replace(machine_of(self.pool), log=self.log, settle_now=lambda: settle_now(self.ledger))

    async def start(self) -> None:
        await self.ledger.start()
        none: Any = None
        ports = Ports(
            self.ledger.clock, self.keys, self.ledger.holds, none, Prices(), none, none, none, none, self.brakes,
        )  # type: ignore[arg-type]  # fmt: skip
        settings = ExchangeSettings(markup_ppm=MARKUP)
        self.house = House.built(settings, ports, ())
        self.settling = asyncio.create_task(self.ledger.keep_settled())

    async def log(self, logged: LoggedUsage) -> None:
        if self.dies == "before placing":
            raise Died
        if self.dies == "after placing":
            self.ledger.holds.capture = self.killed  # type: ignore[method-assign]
            self.ledger.holds.release = self.killed  # type: ignore[method-assign]
        if self.dies == "before settling":
            await self.stop_settling()
        await log_usage(self.house, logged)
        if self.dies == "before settling":
            raise Died
        await settle_now(self.ledger)
        if self.dies == "before answering":
            raise Died

    def killed(self, *_arguments: Any) -> None:
        raise Died

    async def stop_settling(self) -> None:
        self.settling.cancel()
        await asyncio.wait([self.settling])

    async def die(self) -> None:
        await self.stop_settling()
        await self.ledger.borrower.settle_down()
        kill(self.ledger.journal)

    async def stop(self) -> None:
        await self.stop_settling()
        await self.ledger.stop()


class Died(BaseException):
    """Nothing that anybody catches."""


@asynccontextmanager
async def working(pool: asyncpg.Pool, directory: Path) -> AsyncIterator[Worker]:
    worker = Worker(pool, directory)
    await worker.start()
    yield worker
    await worker.stop()


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


@pytest.fixture
async def worker(pool: asyncpg.Pool, tmp_path: Path) -> AsyncIterator[Worker]:
    async with working(pool, tmp_path / "one") as worker:
        yield worker
    assert {result.name for result in await audit(pool) if not result.ok} == set()
    drawn = await pool.fetchval("SELECT sum(drawn)::bigint FROM limit_windows JOIN limits l ON l.id = limit_id "
                                "WHERE l.kind = 'credit'")  # fmt: skip
    assert drawn == await pool.fetchval("SELECT COALESCE(sum(amount_nanos), 0)::bigint FROM usage_events")


async def rich(asking: Asking, name: str = "ann", nanos: int = CREDIT) -> Person:
    person = await asking.person(name)
    if nanos:
        await Accounts(asking.pool).credit(person.account_id, nanos, "grant")
    return person


async def log(worker: Worker, token: str | None, **members: Any) -> Heard:
    return await worker.asking("POST", "/api/usage/log", {**EVENT, **members}, token=token)


async def balance(worker: Worker, person: Person) -> int:
    return (await Accounts(worker.pool).read(person.account_id)).balance_nanos


async def test_an_event_is_charged_once_however_often_it_is_told(worker: Worker) -> None:
    """By a user or with his key, the answer is the same; with other contents it is another event, which has no room."""
    ann = await rich(worker.asking)
    key = (await worker.asking("POST", "/api/keys", {"name": "k"}, token=ann.token)).body["key"]
    first = await log(worker, ann.token)
    assert (first.status, first.body["amount_nanos"], first.body["charged"]) == (200, AMOUNT, True)
    for token in (ann.token, key):
        assert (await log(worker, token)).body == first.body
    other = await log(worker, ann.token, output_tokens=51)
    assert (other.case, other.param) == (Case.CONFLICT, "event_id")
    assert (await log(worker, key, event_id="e2")).body["amount_nanos"] == AMOUNT
    assert await balance(worker, ann) == CREDIT - 2 * AMOUNT


async def test_it_is_in_activity_figures_and_limits_like_everything_else(worker: Worker) -> None:
    """At the instant that it names; a budget pays it from the window of now, and stops the next one."""
    ann = await rich(worker.asking)
    budget = {"measure": "amount", "window": "day", "cap": "0.005", "scope": "account"}
    made = await worker.asking("POST", "/api/budgets", budget, token=ann.token)
    assert made.status == 201, made
    at = datetime.now(UTC) - timedelta(days=20)
    told = await log(worker, ann.token, occurred_at=at.isoformat(), conversation_id="c", tags={"team": "tps"})
    assert told.status == 200, told
    (row,) = (await worker.asking("GET", "/api/user/activity", token=ann.token)).body["data"]
    assert (row["id"], row["operation"], row["usage_source"]) == (told.body["request_id"], "logged", "reported")
    assert (row["input_tokens"], row["cached_tokens"], row["output_tokens"]) == (800, 200, 50)
    assert datetime.fromisoformat(row["occurred_at"]) == at
    assert (row["conversation_id"], row["tags"], row["amount_nanos"]) == ("c", {"team": "tps"}, AMOUNT)
    day = await worker.pool.fetchrow("SELECT day, requests, amount_nanos FROM usage_by_day")
    assert tuple(day) == (at.date(), 1, AMOUNT)
    window = await worker.pool.fetchrow(
        "SELECT window_start FROM limit_windows JOIN limits l ON l.id = limit_id WHERE l.kind = 'budget'"
    )
    assert window["window_start"].date() == datetime.now(UTC).date()
    refused = await log(worker, ann.token, event_id="e2")
    assert refused.case is Case.BUDGET_SPENT
    assert await balance(worker, ann) == CREDIT - AMOUNT


async def test_what_is_not_charged_is_kept_and_costs_nothing(worker: Worker) -> None:
    """Also of an account that has nothing."""
    ann = await rich(worker.asking, nanos=0)
    assert (await log(worker, ann.token)).case is Case.CREDIT_SPENT
    told = await log(worker, ann.token, charge=False)
    assert (told.status, told.body["amount_nanos"]) == (200, 0), "what was refused may be told anew"
    assert (await log(worker, ann.token, charge=False)).body == told.body
    assert (await log(worker, ann.token)).case is Case.CONFLICT
    row = await worker.pool.fetchrow("SELECT cost_nanos, amount_nanos, outcome FROM usage_events")
    assert tuple(row) == (COST, 0, "completed")
    assert await balance(worker, ann) == 0


@pytest.mark.parametrize(("members", "case", "param"), [
    ({"model": "another"}, Case.MODEL_NOT_PRICED, "model"),
    ({"provider": "another"}, Case.MODEL_NOT_PRICED, "model"),
    ({"occurred_at": "2020-01-01T00:00:00Z"}, Case.MALFORMED, "occurred_at"),
    ({"occurred_at": "2120-01-01T00:00:00Z"}, Case.MALFORMED, "occurred_at"),
    ({"cached_tokens": 1001}, Case.MALFORMED, None),
    ({"reasoning_tokens": 51}, Case.MALFORMED, None),
    ({"input_tokens": -1}, Case.MALFORMED, "input_tokens"),
    ({"input_tokens": 2**60}, Case.MALFORMED, "input_tokens"),
    ({"input_tokens": 1.5}, Case.MALFORMED, "input_tokens"),
    ({"event_id": ""}, Case.MALFORMED, "event_id"),
    ({"event_id": "a\0b"}, Case.MALFORMED, "event_id"),
    ({"tags": {"a": "b\nc"}}, Case.MALFORMED, "tags.a"),
    ({"tags": {"a=b": "c"}}, Case.MALFORMED, "tags.a=b"),
    ({"tags": {str(number): "x" for number in range(11)}}, Case.MALFORMED, "tags"),
    ({"input_tokens": 10**8, "output_tokens": 10**8}, Case.CREDIT_SPENT, None),
])  # fmt: skip
async def test_what_cannot_be_booked_is_refused_and_forgotten(
    worker: Worker, members: dict[str, Any], case: Case, param: str | None
) -> None:
    """The event itself may be told right then."""
    ann = await rich(worker.asking)
    heard = await log(worker, ann.token, **members)
    assert (heard.case, heard.param) == (case, param), heard
    assert await worker.pool.fetchval("SELECT count(*) FROM logged_events") == 0
    assert (await log(worker, ann.token)).status == 200


async def test_what_stops_requests_stops_this(worker: Worker) -> None:
    """A frozen account, a fleet that is read-only, and the policy of a key."""
    ann = await rich(worker.asking)
    worker.brakes.read_only = True
    assert (await log(worker, ann.token)).case is Case.READ_ONLY
    worker.brakes.read_only = False
    for policy in ({"operations": ["chat"]}, {"models": ["o*"]}, {"highest_request": "0.001"}):
        made = await worker.asking("POST", "/api/keys", {"name": "k", **policy}, token=ann.token)
        assert (await log(worker, made.body["key"])).case in {Case.PERMISSION_DENIED, Case.MODEL_NOT_FOUND}, policy
    await Accounts(worker.pool).change(ann.account_id, frozen=True)
    worker.keys.account_changed(ann.account_id)
    await worker.keys.refresh()
    assert (await log(worker, ann.token)).case is Case.ACCOUNT_FROZEN
    assert await worker.pool.fetchval("SELECT count(*) FROM usage_events") == 0


async def test_events_are_each_accounts_own(worker: Worker) -> None:
    """The same id elsewhere is another event; an operator logs for whomever he names."""
    ann, bob = await rich(worker.asking), await rich(worker.asking, "bob")
    first, second = await log(worker, ann.token), await log(worker, bob.token)
    assert first.body["request_id"] != second.body["request_id"]
    path = f"/api/usage/log?organization_id={bob.organization_id}"
    assert (await worker.asking("POST", path, EVENT, token=ann.token)).case is Case.NOT_FOUND
    told = await worker.asking("POST", path, {**EVENT, "event_id": "e2"}, token=ADMIN_TOKEN)
    assert told.status == 200
    assert await balance(worker, bob) == CREDIT - 2 * AMOUNT


async def test_who_tells_at_the_same_time_is_told_to_come_again(worker: Worker) -> None:
    """One call books it, whatever the others do."""
    ann = await rich(worker.asking)
    await log(worker, ann.token, event_id="the first, which makes his key")
    heard = await asyncio.gather(*(log(worker, ann.token) for _ in range(6)))
    assert {one.case for one in heard} <= {None, Case.KEY_RUNNING}
    assert any(one.status == 200 for one in heard)
    assert (await log(worker, ann.token)).status == 200
    assert await balance(worker, ann) == CREDIT - 2 * AMOUNT


@pytest.mark.parametrize("charge", [True, False])
@pytest.mark.parametrize("dies", POINTS)
async def test_a_worker_that_dies_books_it_once(
    pool: asyncpg.Pool, worker: Worker, tmp_path: Path, dies: str, *, charge: bool
) -> None:
    """Whoever heard no answer tells it again: another worker books it, or the successor has, and never both."""
    ann = await rich(worker.asking)
    victim = Worker(pool, tmp_path / "victim")
    await victim.start()
    victim.dies = dies
    with pytest.raises(Died):
        await log(victim, ann.token, charge=charge)
    await victim.die()
    assert (await log(worker, ann.token, charge=charge)).case in {Case.KEY_RUNNING, None}
    await pool.execute("UPDATE logged_events SET claimed_until = now()")
    told = await log(worker, ann.token, charge=charge)
    assert told.status == 200, told
    async with working(pool, tmp_path / "victim") as successor:
        assert successor.ledger.recovered == 0
        assert (await log(successor, ann.token, charge=charge)).body == told.body
    assert await pool.fetchval("SELECT count(*) FROM usage_events") == 1
    assert await balance(worker, ann) == CREDIT - (AMOUNT if charge else 0)
    assert (await log(worker, ann.token, output_tokens=1)).case is Case.CONFLICT


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_each_event_is_booked_once_as_it_was_answered(
    pool: asyncpg.Pool, tmp_path: Path, seed: int
) -> None:
    """Two workers that are told the same things at random, die at random points and come back; claims end early."""
    chance = random.Random(seed)
    workers = [Worker(pool, tmp_path / str(number)) for number in range(2)]
    for worker in workers:
        await worker.start()
    ann = await rich(workers[0].asking)
    await log(workers[0], ann.token, event_id="first")
    answers: dict[str, Any] = {}
    for _ in range(25):
        number, event_id, charge = chance.randrange(2), chance.choice("abcdef"), chance.random() < 0.8
        worker = workers[number]
        worker.dies = chance.choice([*POINTS, None, None])
        try:
            heard = await log(worker, ann.token, event_id=event_id, charge=charge)
        except Died:
            await worker.die()
            workers[number] = Worker(pool, tmp_path / str(number))
            await workers[number].start()
            assert workers[number].ledger.recovered == 0
        else:
            assert heard.case in {None, Case.CONFLICT, Case.KEY_RUNNING}
            if heard.status == 200:
                assert answers.setdefault(event_id, heard.body) == heard.body
        if chance.random() < 0.7:
            await pool.execute("UPDATE logged_events SET claimed_until = now()")
    for worker in workers:
        worker.dies = None
        await worker.stop()
    assert {result.name for result in await audit(pool) if not result.ok} == set()
    amounts = dict(await pool.fetch("SELECT id::text, amount_nanos FROM usage_events"))
    assert {one["request_id"]: one["amount_nanos"] for one in answers.values()}.items() <= amounts.items()
    assert len(amounts) == await pool.fetchval("SELECT count(*) FROM usage_events")
    events = await pool.fetch("SELECT request_id::text FROM logged_events")
    assert amounts.keys() <= {row["request_id"] for row in events}
    assert await balance(worker, ann) == CREDIT - sum(amounts.values())


async def test_what_was_written_but_not_booked_is_no_answer(
    pool: asyncpg.Pool, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The volume fails, or PostgreSQL does: told again, it is there once."""
    ann = await rich(worker.asking)
    monkeypatch.setattr(worker.ledger.journal, "end", _failed)
    await worker.stop_settling()
    assert (await log(worker, ann.token)).case is Case.UNAVAILABLE
    assert (await log(worker, ann.token)).case is Case.KEY_RUNNING
    monkeypatch.undo()
    worker.settling = asyncio.create_task(worker.ledger.keep_settled())
    await worker.ledger.settler.catch_up()
    assert (await log(worker, ann.token)).body["amount_nanos"] == AMOUNT
    assert await balance(worker, ann) == CREDIT - AMOUNT


def _failed(*_arguments: Any) -> int:
    raise JournalFailed("the volume is away")


async def test_what_the_books_refused_is_never_answered_as_booked(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is told: nothing was charged, and that is said."""
    ann = await rich(worker.asking)
    with monkeypatch.context() as refusing:
        for name in ("_book_once", "_book_minimal", "_book_money"):
            refusing.setattr(Settlement, name, refuse)
        first = await log(worker, ann.token)
    again = await log(worker, ann.token)
    for heard in (first, again):
        assert (heard.case, "could not be booked" in heard.message) == (Case.CONFLICT, True)
    assert await balance(worker, ann) == CREDIT
    records = RejectedRecords(worker.pool)
    (record,) = await records.list(10)
    await records.see(record.request_id, "")


async def refuse(*_of_anything: Any, **_more: Any) -> int:
    raise Unbookable("refused")


async def test_a_directory_that_is_away_lets_it_be_told_again(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was booked, so nobody has to wait for a minute."""
    ann = await rich(worker.asking)

    async def away(_digest: bytes) -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(worker.keys, "find", away)
    assert (await log(worker, ann.token)).case is Case.UNAVAILABLE
    monkeypatch.undo()
    assert (await log(worker, ann.token)).status == 200


async def test_events_are_forgotten_when_they_may_not_be_told_any_more(worker: Worker) -> None:
    """Not before."""
    ann = await rich(worker.asking)
    await log(worker, ann.token)
    await tidy_logged(worker.pool)
    assert await worker.pool.fetchval("SELECT count(*) FROM logged_events") == 1
    await worker.pool.execute("UPDATE logged_events SET created_at = now() - make_interval(days => $1)", DAYS_KEPT + 1)
    await tidy_logged(worker.pool)
    assert await worker.pool.fetchval("SELECT count(*) FROM logged_events") == 0


async def test_a_key_that_is_none_logs_nothing(worker: Worker) -> None:
    """Nor does somebody who only reads, or whoever comes without anything."""
    await rich(worker.asking)
    assert (await log(worker, f"mp-{uuid4().hex}")).case is Case.KEY_INVALID
    assert (await log(worker, None)).case is Case.NOT_SIGNED_IN
    with pytest.raises(ApiError) as refused:
        await log_usage(worker.house, _usage())
    assert refused.value.case is Case.KEY_INVALID


def _usage() -> LoggedUsage:
    from meterproxy.core.usage import Usage

    return LoggedUsage(
        request_id=uuid4(), occurred_us=1, key_digest=b"x" * 32, provider="openai", model="gpt", usage=Usage(input=1)
    )
