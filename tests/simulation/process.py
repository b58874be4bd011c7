"""A worker process as `service` composes it, with its clients: the real ledger on a simulated machine."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Protocol
from uuid import UUID

from meterproxy.core.bound import Bound
from meterproxy.core.hold import Hold, HoldRequest
from meterproxy.core.identifier import uuid7
from meterproxy.core.key import KeyEntry
from meterproxy.core.resource import Resource
from meterproxy.core.usage import Usage
from meterproxy.errors import ApiError, JournalFailed, NoExposure, SessionOver, StoreUnavailable
from meterproxy.ledger.inherit import inherit
from meterproxy.ledger.journal import Journal
from meterproxy.ledger.journal_files import JournalLocked
from meterproxy.ledger.recover import OpenHoldPolicy
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.runtime.tasks import SideTasks
from tests.ledger.bank import REFUSED, completed
from tests.ledger.prices import NANOS_PER_TOKEN, PRICE
from tests.simulation.auditor import Auditor
from tests.simulation.database import Link
from tests.simulation.disk import Owner
from tests.simulation.plan import Plan
from tests.simulation.timeline import Loop, Timeline
from tests.simulation.words import short

RETRY_SECONDS = 0.5


class Fleet(Protocol):
    """What a process knows of the world around it."""

    plan: Plan
    random: Random
    auditor: Auditor
    keys: list[KeyEntry]
    durable: list[Hold]
    timeline: Timeline

    def tell(self, who: str, what: str) -> None: ...

    def now_us(self) -> int: ...

    def pots_of(self, account: int, occurred_us: int) -> tuple[Any, ...]: ...

    def exposure_of(self, account: int) -> tuple[Any, ...]: ...


class Process:
    """One life of one worker slot. `traffic`: whether its clients go on asking."""

    def __init__(self, fleet: Fleet, loop: Loop, owner: Owner, link: Link, host: str, slot: int) -> None:
        self.fleet = fleet
        self.loop = loop
        self.owner = owner
        self.host = host
        self.name = loop.name
        self.ledger: WorkerLedger | None = None
        self.serving = False
        self.traffic = True
        self.open: set[UUID] = set()
        self.busy = 0
        self.failures: list[BaseException] = []
        self._link = link
        self._slot = slot
        self._stopping = asyncio.Event()
        self._main = loop.create_task(self._run())
        self._main.add_done_callback(self._noted)

    @property
    def over(self) -> bool:
        return self._main.done()

    @property
    def steady(self) -> bool:
        """Whether it serves, and goes on doing so."""
        return self.serving and not self._stopping.is_set()

    def stop(self) -> None:
        """As SIGTERM does."""
        self._stopping.set()

    def rest(self) -> None:
        """No more clients come; those that are there are answered."""
        self.traffic = False

    def spawn(self, work: Awaitable[Any]) -> "asyncio.Task[Any]":
        """Run something in this process; its failure is the simulation's."""
        task = asyncio.ensure_future(work, loop=self.loop)
        task.add_done_callback(self._noted)
        return task

    def _noted(self, task: "asyncio.Task[Any]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(error)
            self.fleet.timeline.wrong = True

    # ── the life of it ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        plan = self.fleet.plan
        ledger = await self._own_ledger()
        await self._until_available(ledger.start)
        if self._stopping.is_set():
            ledger.journal.close()
            return
        self.ledger = ledger
        tasks = SideTasks()
        for name, work in (
            ("session", self._keep_session), ("journal sync", ledger.keep_synced), ("settle", ledger.keep_settled),
            ("news", ledger.keep_informed), ("owners", ledger.owners.keep_heard), ("sweep", ledger.keep_swept),
        ):  # fmt: skip
            tasks.start(name, work)
        self.serving = True
        self.fleet.tell(self.name, "serves")
        clients = [self.spawn(self._client(Random(self.fleet.random.random()))) for _ in range(plan.clients)]
        await self._stopping.wait()
        self.serving = False
        for client in clients:
            await asyncio.wait((client,))
        while self.open:
            await asyncio.sleep(0.05)
        await tasks.stop()
        try:
            async with asyncio.timeout(plan.stop_seconds):
                await ledger.stop()
        except (StoreUnavailable, TimeoutError) as error:
            self.fleet.tell(self.name, f"leaves its journal to the next start: {error}")

    async def _own_ledger(self) -> WorkerLedger:
        plan = self.fleet.plan
        while True:
            try:
                return WorkerLedger(
                    self._link, self._link, self.owner.path(f"/{self._slot}"),  # type: ignore[arg-type]
                    owner_rows=self._link, durable_rows=self._link, host=self.host, slot=self._slot,
                    ttl_seconds=plan.ttl_seconds, wait_ms=plan.wait_ms, settle_interval_ms=plan.settle_ms,
                    fsync_ms=plan.fsync_ms, segment_bytes=plan.segment_bytes, retain_seconds=plan.retain_seconds,
                )  # fmt: skip
            except (JournalLocked, OSError):
                await asyncio.sleep(RETRY_SECONDS)

    async def _until_available(self, work: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping.is_set():
            try:
                await work()
            except (StoreUnavailable, JournalFailed) as error:
                self.fleet.tell(self.name, f"waits: {error}")
                await asyncio.sleep(RETRY_SECONDS)
            except SessionOver as error:
                self.fleet.tell(self.name, f"ends: {error}")
                self._stopping.set()
            else:
                return

    async def _keep_session(self) -> None:
        assert self.ledger is not None
        try:
            await self.ledger.keep_session()
        except SessionOver as error:
            self.fleet.tell(self.name, f"ends: {error}")
            self._stopping.set()

    def inherit(self, slot: int) -> None:
        """Settle the journal of another slot of this host, whose process is gone."""
        if not self.over and not self.loop.dead:
            self.spawn(self._inherit(slot))

    async def _inherit(self, slot: int) -> None:
        try:
            estate = await inherit(
                lambda: self._journal(slot),
                self._link,
                self._link,
                OpenHoldPolicy.CHARGE_DELIVERED,  # type: ignore[arg-type]
            )
        except (StoreUnavailable, JournalFailed, JournalLocked, OSError) as error:
            self.fleet.tell(self.name, f"does not inherit {self.host}{slot}: {error!r}")
        else:
            self.fleet.tell(self.name, f"inherits {self.host}{slot}: {estate}")
            self.fleet.auditor.counts["inherited"] += 1

    def _journal(self, slot: int) -> Journal:
        plan = self.fleet.plan
        directory: Any = self.owner.path(f"/{slot}")
        return Journal(directory, segment_bytes=plan.segment_bytes, retain_seconds=plan.retain_seconds)

    # ── clients ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _client(self, random: Random) -> None:
        plan = self.fleet.plan
        while self.serving and self.traffic:
            if random.random() < plan.bursts:
                await asyncio.gather(*(self._exchange(random) for _ in range(random.randint(2, 12))))
            await self._sleep(random.expovariate(1 / plan.think_seconds))
            if self.serving and self.traffic:
                await self._exchange(random)

    async def _sleep(self, seconds: float) -> None:
        while seconds > 0 and self.serving and self.traffic:
            await asyncio.sleep(min(seconds, 0.25))
            seconds -= 0.25

    def request(self, account: int, tokens: int, held: int) -> HoldRequest:
        assert self.ledger is not None
        now_us = self.ledger.clock.now_us()
        return HoldRequest(
            request_id=uuid7(now_us, self.fleet.random.randbytes(10)), occurred_us=now_us,
            key=self.fleet.keys[account], operation="chat", provider="test", model="test-model", price=PRICE,
            markup_ppm=1_000_000, bound=Bound(input_tokens=tokens, output_tokens=0), hold_nanos=held * NANOS_PER_TOKEN, stream=False,
            input_estimate=tokens // 2, exposed_nanos=(tokens - held) * NANOS_PER_TOKEN,
        )  # fmt: skip

    async def place(self, account: int, tokens: int, held: int | None = None) -> Hold | str:
        """Place a hold, of `held` only where that may be, and tell the auditor; answers why not, where it was refused."""
        assert self.ledger is not None
        in_part = held is not None and held < tokens
        request = self.request(account, tokens, held if held is not None else tokens)
        try:
            hold = self.ledger.holds.try_place(request) or await self.ledger.holds.place(request)
        except NoExposure:
            assert in_part, "what is held whole leaves nothing unheld"
            return await self.place(account, tokens)
        except ApiError as refused:
            self.fleet.tell(self.name, f"refuses {tokens} of {account}: {refused.reason}")
            self.fleet.auditor.counts[refused.reason] += 1
            if refused.reason == "credit_spent":
                self.fleet.auditor.refused_as_spent(account, request.hold_nanos, self.fleet.now_us())
            return refused.reason
        self.open.add(request.request_id)
        self.fleet.tell(self.name, f"places {tokens} of {account}: {short(request.request_id)}")
        self.fleet.auditor.placed(
            request.request_id, account, request.hold_nanos, tokens // 2 * NANOS_PER_TOKEN, self.name, self.host,
            self.fleet.now_us(),
            self.fleet.pots_of(account, request.occurred_us) + (self.fleet.exposure_of(account) if in_part else ()),
            exposed=request.exposed_nanos,
        )  # fmt: skip
        return hold

    async def grow(self, hold: Hold, tokens: int, random: Random) -> int:
        """Hold more and more of what a request may cost, for as long as its answer grows; answers how much is held."""
        assert self.ledger is not None
        holds, request_id = self.ledger.holds, hold.subject.request_id
        held = hold.subject.hold_nanos // NANOS_PER_TOKEN
        while held < tokens and random.random() < 0.8:
            more_nanos = random.randint(1, tokens - held) * NANOS_PER_TOKEN
            extended = holds.extend(hold, more_nanos)
            if not extended and await holds.make_room(hold, more_nanos):
                extended = holds.extend(hold, more_nanos)
            if not extended:
                break
            held = hold.subject.hold_nanos // NANOS_PER_TOKEN
            self.fleet.tell(self.name, f"extends {short(request_id)} to {held}")
            self.fleet.auditor.extended(request_id, hold.subject.hold_nanos, self.fleet.now_us())
            await self._sleep(random.expovariate(4 / self.fleet.plan.answer_seconds))
        return held

    async def _exchange(self, random: Random) -> None:
        self.busy += 1
        try:
            await self._exchange_one(random)
        finally:
            self.busy -= 1

    async def _exchange_one(self, random: Random) -> None:
        plan = self.fleet.plan
        account = random.randrange(len(self.fleet.keys))
        tokens = plan.tokens(random)
        grows = plan.grows > 0 and random.random() < plan.grows
        hold = await self.place(account, tokens, random.randint(0, tokens) if grows else None)
        if isinstance(hold, str):
            return
        assert self.ledger is not None
        try:
            self.ledger.holds.confirm(hold)
        except ApiError:
            self.release(hold)
            return
        await self._sleep(random.expovariate(1 / plan.answer_seconds))
        if grows:
            tokens = await self.grow(hold, tokens, random)
        fate = random.random()
        if fate < plan.progress:
            self.progress(hold, random.randint(0, tokens + tokens // 4))
            await self._sleep(random.expovariate(1 / plan.answer_seconds))
        self._check()
        fate = random.random()
        if fate < plan.releases:
            self.release(hold)
        elif fate < plan.releases + plan.defers and not grows and self.defer(hold):
            await self._sleep(random.expovariate(1 / plan.answer_seconds))
            await self.end_durable(random)
        else:
            overrun = tokens // 3 if random.random() < plan.overruns else 0
            self.capture(hold, random.randint(0, tokens) + overrun)
        self._check()

    def capture(self, hold: Hold, tokens: int) -> None:
        assert self.ledger is not None
        amount, written = tokens * NANOS_PER_TOKEN, True
        try:
            receipt = self.ledger.holds.capture(hold, completed(tokens))
            assert receipt.amount_nanos == amount
        except JournalFailed:
            written = False
        self._ended(hold, amount, written)

    def release(self, hold: Hold) -> None:
        assert self.ledger is not None
        written = True
        try:
            self.ledger.holds.release(hold, REFUSED)
        except JournalFailed:
            written = False
        self._ended(hold, 0, written)

    def _ended(self, hold: Hold, amount: int, written: bool) -> None:
        request_id = hold.subject.request_id
        self.fleet.tell(self.name, f"ends {short(request_id)} at {amount}{'' if written else ' unwritten'}")
        self.open.discard(request_id)
        self.fleet.auditor.ended(request_id, amount, self.fleet.now_us(), written=written)

    def progress(self, hold: Hold, tokens: int) -> None:
        assert self.ledger is not None
        before = self.ledger.journal.position
        self.ledger.holds.progress(hold, Usage(output=tokens))
        if self.ledger.journal.position == before:
            return  # there was no room for it; losing one is harmless
        self.fleet.tell(self.name, f"progress of {short(hold.subject.request_id)}: {tokens}")
        self.fleet.auditor.progressed(hold.subject.request_id, tokens * NANOS_PER_TOKEN, self.fleet.now_us())

    # ── durable holds ───────────────────────────────────────────────────────────────────────────────────────────────

    def defer(self, hold: Hold) -> bool:
        assert self.ledger is not None
        subject = hold.subject
        resource = Resource(subject.account_id, "response", f"of_{short(subject.request_id)}", "test")
        try:
            self.ledger.durable.defer(hold, resource)
        except JournalFailed:
            self.capture(hold, 0)
            return False
        self.open.discard(subject.request_id)
        self.fleet.tell(self.name, f"defers {short(subject.request_id)}")
        self.fleet.auditor.deferred(subject.request_id, self.fleet.now_us())
        self.fleet.durable.append(hold.durable)  # type: ignore[attr-defined]
        return True

    async def end_durable(self, random: Random) -> None:
        """See the end of some durable hold, of this worker or another, the first to do so or not."""
        assert self.ledger is not None
        if not self.fleet.durable:
            return
        hold = random.choice(self.fleet.durable)
        self.end_this(hold, random.randint(0, hold.subject.hold_nanos // NANOS_PER_TOKEN))

    def end_this(self, hold: Hold, tokens: int) -> bool:
        """End a durable hold; False where the journal has no room for that now."""
        assert self.ledger is not None
        try:
            receipt = self.ledger.durable.capture(hold, completed(tokens))
        except JournalFailed:
            return False
        self.fleet.tell(self.name, f"ends durable {short(hold.subject.request_id)} at {receipt.amount_nanos}")
        self.fleet.auditor.ended_durable(hold.subject.request_id, receipt.amount_nanos, self.host, self.fleet.now_us())
        return True

    def _check(self) -> None:
        assert self.ledger is not None
        for lease in self.ledger.book.leases.values():
            assert self.ledger.book.adds_up(lease), lease
        assert not self.ledger.holds.anomalies
