"""Idempotency in PostgreSQL: one request answers, what it answered is kept sealed, and no key is charged twice."""

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterproxy.core.hold import Hold
from meterproxy.core.idempotency import (
    ClaimEnd,
    ClaimRequest,
    EndedClaim,
    Found,
    KeptAnswer,
    Verdict,
    digest_of_key,
    digest_of_request,
)
from meterproxy.core.key import KeyEntry
from meterproxy.core.resource import Resource
from meterproxy.core.seal import Seal
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.store.audit import audit
from meterproxy.store.explain import explain
from meterproxy.store.idempotency import PURPOSE, IdempotencyRows, delete_expired, reverse_replaced
from tests.ledger.bank import REFUSED, balance, completed, customer, hold_request, ledger_of, pool_of
from tests.ledger.prices import NANOS_PER_TOKEN

MASTER_KEY = bytes(range(32))
ANSWER = KeptAnswer(200, [(b"content-type", b"application/json")], False, b'{"secret":"pineapple"}')
CREDIT = 10_000_000


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


class World:
    """Workers with sessions of their own, and the requests that they answer under one key."""

    def __init__(self, pool: asyncpg.Pool, key: KeyEntry, directory: Path) -> None:
        self.pool = pool
        self.key = key
        self.directory = directory
        self.workers: list[WorkerLedger] = []
        self.open: list[WorkerLedger] = []

    async def worker(self, number: int | None = None) -> WorkerLedger:
        """A worker with a journal of its own, or the one that takes over that of an earlier one."""
        place = len(self.workers) if number is None else number
        ledger = ledger_of(self.pool, self.directory / str(place), segment_bytes=1 << 20)
        await ledger.start()
        self.workers[place : place + 1] = [ledger]
        self.open.append(ledger)
        return ledger

    async def stop(self, worker: WorkerLedger) -> None:
        self.open.remove(worker)
        await worker.stop()

    def close(self, worker: WorkerLedger) -> None:
        self.open.remove(worker)
        worker.journal.close()

    def rows(self, worker: WorkerLedger, **members: object) -> IdempotencyRows:
        seal = members.pop("seal", Seal(MASTER_KEY, PURPOSE))
        return IdempotencyRows(self.pool, seal, worker.session.session_id, 3600.0, **members)  # type: ignore[arg-type]

    def request(self, worker: WorkerLedger, key: bytes = b"k", body: bytes = b"{}") -> ClaimRequest:
        made = hold_request(worker, self.key, 50_000)
        return ClaimRequest(
            self.key.account_id, digest_of_key(key), digest_of_request("/v1/x", body), made.request_id, made.occurred_us
        )

    async def place(self, worker: WorkerLedger, request: ClaimRequest) -> Hold:
        told = hold_request(
            worker, self.key, 50_000, request_id=request.request_id, occurred_us=request.occurred_us, input_estimate=40
        )
        return await worker.holds.place(told)

    async def die(self, worker: WorkerLedger) -> None:
        """As by `kill -9`: its journal stays, and its session until somebody has proved it."""
        self.close(worker)
        await self.pool.execute(
            "UPDATE worker_sessions SET expires_at = now() WHERE id = $1", worker.session.session_id
        )

    async def due(self) -> int:
        """Look again at everything that waits, as if its time had come."""
        await self.pool.execute("UPDATE replaced_requests SET next_look_at = now() WHERE state = 'pending'")
        return await reverse_replaced(self.pool)

    async def entries(self) -> list[tuple[str, int]]:
        rows = await self.pool.fetch("SELECT kind, amount_nanos FROM ledger_entries ORDER BY entry_no")
        return [(row["kind"], row["amount_nanos"]) for row in rows][1:]

    async def check(self) -> None:
        wrong = [result for result in await audit(self.pool) if not result.ok]
        assert wrong == []


@pytest.fixture
async def world(pool: asyncpg.Pool, tmp_path: Path) -> AsyncIterator[World]:
    made = World(pool, await customer(pool, CREDIT), tmp_path)
    yield made
    for worker in list(made.open):
        made.close(worker)


async def test_one_request_gets_the_key_and_others_its_answer(world: World) -> None:
    """Claimed once; running until it ends; then whoever asks gets the answer, on every worker."""
    worker, other = await world.worker(), await world.worker()
    first, second = world.request(worker), world.request(other)
    assert await world.rows(worker).claim(first) == Found(Verdict.CLAIMED)
    assert await world.rows(worker).claim(first) == Found(Verdict.CLAIMED), "its own claim, asked for again"
    assert await world.rows(other).claim(second) == Found(Verdict.RUNNING)
    assert await world.rows(other).claim(world.request(other, body=b"[]")) == Found(Verdict.DIFFERS)
    for _ in range(2):
        await world.rows(worker).end([EndedClaim(first, ClaimEnd.ANSWERED, ANSWER)])
    assert await world.rows(other).claim(second) == Found(Verdict.ANSWERED, ANSWER)
    assert await world.rows(other).claim(world.request(other, body=b"[]")) == Found(Verdict.DIFFERS)
    await world.check()


async def test_keys_of_different_accounts_do_not_meet(world: World, pool: asyncpg.Pool) -> None:
    """The same key of another account is another key."""
    worker = await world.worker()
    await world.rows(worker).claim(world.request(worker))
    stranger = await customer(pool, CREDIT)
    request = world.request(worker)._replace(account_id=stranger.account_id)
    assert await world.rows(worker).claim(request) == Found(Verdict.CLAIMED)


@pytest.mark.parametrize("end", [ClaimEnd.UNKEPT, ClaimEnd.RELEASED, ClaimEnd.FORFEITED])
async def test_how_a_claim_without_an_answer_ends(world: World, end: ClaimEnd) -> None:
    """What was charged is not tried again; what cost nothing, or failed by our fault, is."""
    worker = await world.worker()
    first, second = world.request(worker), world.request(worker)
    await world.rows(worker).claim(first)
    await world.rows(worker).end([EndedClaim(first, end)])
    expected = Verdict.UNKEPT if end is ClaimEnd.UNKEPT else Verdict.CLAIMED
    assert (await world.rows(worker).claim(second)).verdict is expected
    assert await world.pool.fetchval("SELECT count(*) FROM replaced_requests") == (end is ClaimEnd.FORFEITED)


async def test_what_is_kept_is_sealed(world: World) -> None:
    """Nobody who reads the database reads the answer; one that cannot be opened is as one that was not kept."""
    worker = await world.worker()
    first, second = world.request(worker), world.request(worker, b"k2")
    for request in (first, second):
        await world.rows(worker).claim(request)
        await world.rows(worker).end([EndedClaim(request, ClaimEnd.ANSWERED, ANSWER)])
    again = world.request(worker)
    assert not any(
        b"pineapple" in row["answer"] for row in await world.pool.fetch("SELECT answer FROM idempotent_requests")
    )
    other_key = world.rows(worker, seal=Seal(bytes(32), PURPOSE))
    assert await other_key.claim(again) == Found(Verdict.UNKEPT)
    await world.pool.execute(
        "UPDATE idempotent_requests i SET answer = o.answer FROM idempotent_requests o WHERE o.request_id <> i.request_id"
    )
    assert await world.rows(worker).claim(again) == Found(Verdict.UNKEPT), "moved to another row"


async def test_what_is_kept_of_an_account_is_bounded(world: World) -> None:
    """The oldest answers go first; their keys stay used, so nobody is charged again."""
    worker = await world.worker()
    requests = [world.request(worker, bytes([65 + number])) for number in range(4)]
    rows = world.rows(worker, most_bytes=250)
    for request in requests:
        await rows.claim(request)
        await rows.end([EndedClaim(request, ClaimEnd.ANSWERED, ANSWER)])
    verdicts = [(await rows.claim(request._replace(request_id=UUID(int=1)))).verdict for request in requests]
    assert verdicts == [Verdict.UNKEPT, Verdict.UNKEPT, Verdict.ANSWERED, Verdict.ANSWERED]
    assert 0 < await world.pool.fetchval("SELECT bytes FROM kept_answers") <= 250
    await world.check()


async def test_a_key_is_forgotten_after_a_day(world: World) -> None:
    """An old key is a new one, whether or not upkeep has come by; what was kept for it goes."""
    worker = await world.worker()
    first, second = world.request(worker), world.request(worker, b"k2")
    for request in (first, second):
        await world.rows(worker).claim(request)
        await world.rows(worker).end([EndedClaim(request, ClaimEnd.ANSWERED, ANSWER)])
    assert await delete_expired(world.pool) == 0
    await world.pool.execute("UPDATE idempotent_requests SET expires_at = now()")
    assert (await world.rows(worker).claim(world.request(worker, body=b"[]"))).verdict is Verdict.CLAIMED
    await world.check()
    assert await delete_expired(world.pool) == 1
    assert await world.pool.fetchval("SELECT bytes FROM kept_answers") == 0
    await world.check()


@pytest.mark.parametrize("how", ["expired", "proved", "too old"])
async def test_a_claim_whose_worker_is_gone_is_taken_over(world: World, how: str) -> None:
    """Only then; whoever comes too late with his answer keeps nothing."""
    worker, other = await world.worker(), await world.worker()
    first, second = world.request(worker), world.request(other)
    await world.rows(worker).claim(first)
    assert (await world.rows(other).claim(second)).verdict is Verdict.RUNNING
    if how == "expired":
        await world.die(worker)
    elif how == "proved":
        await world.pool.fetchval("SELECT end_session($1, 'proved')", worker.session.session_id)
    else:
        await world.pool.execute("UPDATE idempotent_requests SET claimed_at = now() - interval '61 minutes'")
    assert (await world.rows(other).claim(second)).verdict is Verdict.CLAIMED
    await world.rows(worker).end([EndedClaim(first, ClaimEnd.ANSWERED, ANSWER)])
    assert (await world.rows(worker).claim(world.request(worker))).verdict is Verdict.RUNNING


@pytest.mark.parametrize("late", [False, True])
async def test_a_lost_charge_is_given_back_when_the_other_is_captured(world: World, late: bool) -> None:
    """Whichever of the two is booked first, the account pays once, and the refund says for what."""
    lost, other = await world.worker(), await world.worker()
    first, second = world.request(lost), world.request(other)
    await world.rows(lost).claim(first)
    lost.holds.capture(await world.place(lost, first), completed(30))
    if not late:
        await lost.settler.settle_batch()
    await world.die(lost)
    await world.rows(other).claim(second)
    hold = await world.place(other, second)
    assert await world.due() == 0
    other.holds.capture(hold, completed(7))
    await other.settler.settle_batch()
    if late:
        assert await world.due() == 0
        await world.worker(0)
    assert await world.due() == 1
    assert await world.due() == 0
    charged, paid = 30 * NANOS_PER_TOKEN, 7 * NANOS_PER_TOKEN
    assert sorted(await world.entries()) == sorted([("deduction", -charged), ("deduction", -paid), ("refund", charged)])
    assert await balance(world.pool, world.key.account_id) == CREDIT - paid
    entry = await world.pool.fetchrow("SELECT description, reverses FROM ledger_entries WHERE kind = 'refund'")
    assert entry["reverses"] == first.request_id
    assert str(second.request_id) in entry["description"]
    told = await explain(world.pool, first.request_id)
    assert [shown["kind"] for shown in told["entries"]] == ["deduction", "refund"]
    await world.check()


async def test_a_lost_charge_stays_where_the_other_is_not_captured(world: World) -> None:
    """One charge for one try: nothing is given back for a retry that cost nothing."""
    lost, other = await world.worker(), await world.worker()
    first, second = world.request(lost), world.request(other)
    await world.rows(lost).claim(first)
    lost.holds.capture(await world.place(lost, first), completed(30))
    await lost.settler.settle_batch()
    await world.die(lost)
    await world.rows(other).claim(second)
    other.holds.release(await world.place(other, second), REFUSED)
    await other.settler.settle_batch()
    assert await world.due() == 1
    assert [kind for kind, _ in await world.entries()] == ["deduction"]
    await world.check()


async def test_a_charge_is_remembered_through_tries_that_cost_nothing(world: World) -> None:
    """Lost, then refused, then answered: the lost one is still given back, once."""
    lost, other = await world.worker(), await world.worker()
    first, second, third = world.request(lost), world.request(other), world.request(other)
    await world.rows(lost).claim(first)
    lost.holds.capture(await world.place(lost, first), completed(30))
    await lost.settler.settle_batch()
    await world.die(lost)
    await world.rows(other).claim(second)
    await world.rows(other).end([EndedClaim(second, ClaimEnd.RELEASED)])
    assert (await world.rows(other).claim(third)).verdict is Verdict.CLAIMED
    other.holds.capture(await world.place(other, third), completed(7))
    await other.settler.settle_batch()
    await world.due()
    assert await balance(world.pool, world.key.account_id) == CREDIT - 7 * NANOS_PER_TOKEN
    await world.check()


async def test_a_durable_hold_of_a_lost_request_is_waited_for(world: World) -> None:
    """Its session is long settled, its end comes much later, and is given back then."""
    lost, other = await world.worker(), await world.worker()
    first, second = world.request(lost), world.request(other)
    await world.rows(lost).claim(first)
    hold = await world.place(lost, first)
    lost.durable.defer(hold, Resource(world.key.account_id, "response", "resp_1", "test"))
    await world.stop(lost)
    await world.rows(other).claim(second)
    other.holds.capture(await world.place(other, second), completed(7))
    await other.settler.settle_batch()
    assert await world.due() == 0
    durable = await other.durable.find(Resource(world.key.account_id, "response", "resp_1", "test"))
    assert durable is not None
    other.durable.capture(durable, completed(30))
    await other.settler.settle_batch()
    assert await world.due() == 1
    assert await balance(world.pool, world.key.account_id) == CREDIT - 7 * NANOS_PER_TOKEN
    await world.check()


async def test_a_request_that_never_was_is_not_waited_for(world: World) -> None:
    """Killed between its claim and its hold: once its journal is settled nothing can come any more."""
    lost, other = await world.worker(), await world.worker()
    await world.rows(lost).claim(world.request(lost))
    await world.die(lost)
    second = world.request(other)
    await world.rows(other).claim(second)
    assert await world.due() == 0
    await world.pool.fetchval("SELECT end_session($1, 'proved')", lost.session.session_id)
    assert await world.due() == 1
    await world.check()


FATES = ("lost before", "lost open", "lost charged", "lost late", "released", "forfeited", "captured", "broken")
ENDS = {
    "released": ClaimEnd.RELEASED,
    "forfeited": ClaimEnd.FORFEITED,
    "captured": ClaimEnd.ANSWERED,
    "broken": ClaimEnd.UNKEPT,
}


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=5), seed=st.integers(0, 2**16))
async def test_whatever_becomes_of_its_tries_a_key_is_charged_once(
    pool: asyncpg.Pool, tmp_path: Path, fates: list[str], seed: int
) -> None:
    """An independent count: of all tries under one key, at most the last one that was charged stays charged."""
    world = World(pool, await customer(pool, CREDIT), tmp_path / os.urandom(4).hex())
    look, tries = random.Random(seed), []
    for number, fate in enumerate(fates):
        worker = await world.worker()
        request = world.request(worker)
        if (await world.rows(worker).claim(request)).verdict is not Verdict.CLAIMED:
            break
        tries.append(request.request_id)
        await _meet(world, worker, request, fate, tokens=10 + number)
        if look.random() < 0.5:
            await world.due()
    for number, fate in list(enumerate(fates))[: len(tries)]:
        if fate in {"lost late", "lost open"}:
            await world.worker(number)
    await world.due()
    await world.due()
    rows = await pool.fetch("SELECT id, amount_nanos FROM usage_events WHERE id = ANY ($1)", tries)
    amounts = {row["id"]: row["amount_nanos"] for row in rows}
    charged = [amounts[id_] for id_ in tries if amounts.get(id_)]
    assert await balance(pool, world.key.account_id) == CREDIT - sum(charged[-1:])
    refunds = await pool.fetchval(
        "SELECT count(*) FROM ledger_entries WHERE kind = 'refund' AND account_id = $1", world.key.account_id
    )
    assert refunds == max(len(charged) - 1, 0)
    await world.check()
    for worker in list(world.open):
        world.close(worker)


async def _meet(world: World, worker: WorkerLedger, request: ClaimRequest, fate: str, tokens: int) -> None:
    """Let this become of a request that has claimed its key."""
    if fate != "lost before":
        hold = await world.place(worker, request)
        if fate == "released":
            worker.holds.release(hold, REFUSED)
        elif fate != "lost open":
            worker.holds.capture(hold, completed(tokens))
    if fate in ENDS:
        end = ENDS[fate]
        await world.rows(worker).end([EndedClaim(request, end, ANSWER if end is ClaimEnd.ANSWERED else None)])
        await world.stop(worker)
        return
    while fate == "lost charged" and worker.settler.queued:
        await worker.settler.settle_batch()
    await world.die(worker)
