"""One seed: a fleet, its faults, its end, and the audit of it.

Rules
-----
- All that happens is decided by the seed; the trace of two runs is the same, byte for byte.
- At the end all faults are over. Then whoever asks for what is left gets it within seconds, whoever asks for more is told
  the truth, every process stops in order, and the books must say what clients were told.
"""

import asyncio
import gc
import hashlib
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

from meterproxy.core.account import AccountEntry
from meterproxy.core.hold import Hold
from meterproxy.core.key import KeyEntry, KeyPolicy
from meterproxy.core.lending import LeaseKey
from meterproxy.core.limit import Limit, Measure, Scope
from meterproxy.core.record import EndRecord
from meterproxy.core.window import WindowKind
from tests.ledger.prices import NANOS_PER_TOKEN
from tests.simulation.auditor import Auditor, Pot
from tests.simulation.borders import simulated
from tests.simulation.database import Database, Link, Network, finished
from tests.simulation.disk import Disk, Os, Owner
from tests.simulation.plan import Fault, Plan, plan_of
from tests.simulation.process import Process
from tests.simulation.timeline import Loop, Timeline
from tests.simulation.words import short

RESTART_US = 300_000
SWEEP_US = 700_000
MINUTE_US = 60_000_000
SYNC_SLACK_US = 250_000
"""Beyond the interval of fsync: how long a sync may wait for its turn and take, here."""
CALM_US = 20_000_000
"""How long a fleet without faults may take for anything."""
HEARD_US = 1_100_000
"""How long it may take until everybody has heard of a change."""
AHEAD_US = 12_000_000
"""How near the end of a minute nobody asks for all that is left of it."""
LIVELY_US = 4_000_000
"""How long somebody may wait for credit that nobody uses."""


@dataclass
class Host:
    """A machine: its disk, its clock, and whether it is there."""

    name: str
    disk: Disk
    drift_ppm: int
    boot_us: int
    wall_us: int
    gone: bool = False


@dataclass
class Slot:
    """A worker's place on a host, and who fills it now."""

    host: Host
    number: int
    process: Process | None = None
    lives: int = 0
    unsafe_since_us: int | None = None
    """What was written since then nobody may have synced: its process was killed, and no other has started yet."""


@dataclass
class Result:
    """What came of a seed."""

    seed: int
    failure: str | None
    digest: str
    counts: dict[str, int]
    steps: int
    virtual_us: int
    trace: list[str] = field(repr=False)


class World:
    """Everything of one seed. Fulfils `process.Fleet`."""

    def __init__(self, seed: int) -> None:
        self.plan: Plan = plan_of(seed)
        self.random = Random(f"world {seed}")
        self.timeline = Timeline(self.random)
        self.auditor = Auditor()
        self.database = Database(self.timeline)
        self.network = Network(self.timeline, self.database, self.random)
        self.network.tell = self.tell
        self.network.lost = self.network.unheard = self.network.late = self.plan.lost
        self.durable: list[Hold] = []
        self.trace: list[str] = []
        self.calm = self.stopping = self.forgot = self.abandoned = self.judging = False
        self.keys = [stranger(number) for number in range(self.plan.accounts)]
        self.exposures: list[Limit] = []
        self.limits = [self._limits_of(account) for account in range(self.plan.accounts)]
        self.slots: list[Slot] = []
        self.processes: list[Process] = []
        self._remembered: dict[int, int] = {}
        self._remembered_us = 0
        for number in range(self.plan.hosts):
            self._add_host(number)
        for account in range(self.plan.accounts):
            self.change_cap(account, self.plan.credit_tokens * NANOS_PER_TOKEN)

    def _limits_of(self, account: int) -> list[Limit]:
        """Give an account what it has beside its credit, in PostgreSQL and in all workers."""
        key = self.keys[account]
        limits = []
        for number, terms in enumerate(self.plan.limits):
            scope, scope_id = (Scope.KEY, key.key_id) if terms.of_key else (Scope.ACCOUNT, key.account_id)
            window = WindowKind.MINUTE if terms.by_minute else WindowKind.TOTAL
            window = WindowKind.NONE if terms.measure == "concurrent" else window
            limit_id = UUID(int=1000 + account * 10 + number)
            limits.append(Limit(limit_id, scope, scope_id, Measure[terms.measure.upper()], window, terms.cap))
        exposures = self._exposures_of(account)
        self.exposures += exposures
        self.database.limits.update({limit.limit_id: limit for limit in (*limits, *exposures)})
        key.account.change((*limits, *exposures), frozen=False)
        return limits

    def _exposures_of(self, account: int) -> list[Limit]:
        """What an account's holds may leave unheld together, where any of them may leave something unheld."""
        if not self.plan.grows:
            return []
        cap = self.plan.exposure_tokens * NANOS_PER_TOKEN
        account_id = self.keys[account].account_id
        limit_id = UUID(int=5000 + account)
        return [Limit(limit_id, Scope.ACCOUNT, account_id, Measure.EXPOSURE, WindowKind.NONE, cap)]

    def exposure_of(self, account: int) -> tuple[Any, ...]:
        """Where a request counts that is held in part."""
        name = (account, "exposure", 0)
        self.auditor.pots.setdefault(name, Pot("exposure", self.plan.exposure_tokens * NANOS_PER_TOKEN))
        return (name,)

    def pots_of(self, account: int, occurred_us: int) -> tuple[Any, ...]:
        """Which windows of which limits a request counts in that was accepted at an instant."""
        names = []
        for number, terms in enumerate(self.plan.limits):
            start_us = occurred_us // MINUTE_US * MINUTE_US if terms.by_minute else 0
            name = (account, number, start_us)
            self.auditor.pots.setdefault(name, Pot(terms.measure, terms.cap))
            names.append(name)
        return tuple(names)

    def _add_host(self, number: int) -> None:
        name = "abc"[number]
        host = Host(
            name, Disk(self.random, lambda: self.timeline.epoch_us + self.timeline.now_us), self.random.randint(-20_000, 20_000),
            self.random.randint(1, 10**12), self.random.randint(-(10**9), 10**9),
        )  # fmt: skip
        self.slots.extend(Slot(host, slot) for slot in range(self.plan.slots))

    def now_us(self) -> int:
        return self.timeline.now_us

    def tell(self, who: str, what: str) -> None:
        self.trace.append(f"{self.timeline.now_us / 1e6:10.6f} {who:6} {what}")

    # ── the story ───────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Let it happen. Raises AssertionError where anything is wrong."""
        for slot in self.slots:
            self.start(slot)
        self._sweep()
        for fault in self.plan.faults:
            if fault.kind == "fail_over":
                self.timeline.after(fault.at_us - fault.lag_us, self._remember)
            self.timeline.after(fault.at_us, lambda fault=fault: self._fail(fault))  # type: ignore[misc]
        self.timeline.run(self.plan.run_us)
        self._check()
        self._heal()
        self._wait("every process serves", self._all_serve)
        self._wait("all exchanges end", lambda: not any(process.busy for process in self._alive()))
        self._end_durable()
        self._check_lively()
        self._stop()
        self._audit()

    def _sweep(self) -> None:
        """What workers do now and then, and an operator about what they have found."""
        if self.network.up and any(self._alive()):
            for session_id in self.database.mark_lost(self.plan.ttl_seconds):
                self.tell("world", f"{short(session_id)} is lost")
                self.auditor.counts["lost"] += 1
                if self.random.random() < self.plan.abandons:
                    self.timeline.after(self.random.randint(0, 2_000_000), lambda lost=session_id: self._abandon(lost))  # type: ignore[misc]
            finished(self.database.fold())
        if not self.stopping:
            self.timeline.after(SWEEP_US, self._sweep)

    def _abandon(self, session_id: UUID) -> None:
        """An operator gives up on a lost session; what its worker has spent of it and not settled may be spent again."""
        if not self.network.up or self.judging or self.database.sessions[session_id].state != "lost":
            return
        self.tell("world", f"{short(session_id)} is abandoned")
        self.auditor.counts["abandoned"] += 1
        self.abandoned = self.auditor.lenient = True
        for account, key in enumerate(self.keys):
            lease = self.database.leases.get((key.credit, session_id))
            self.auditor.excused[account] += lease.outstanding if lease else 0
        finished(self.database.end_session(session_id, "abandoned"))

    def _wait(self, what: str, done: Any) -> None:
        self.timeline.run(self.timeline.now_us + CALM_US, done)
        self._check()
        assert done(), f"it takes too long until {what}"

    def _alive(self) -> Iterator[Process]:
        return (slot.process for slot in self.slots if slot.process is not None and not slot.process.loop.dead)

    def _all_serve(self) -> bool:
        return all(slot.host.gone or self._goes_on(slot.process) for slot in self.slots)

    def _goes_on(self, process: Process | None) -> bool:
        """Whether it serves, and has not been given up without having heard of it yet."""
        if process is None or not process.steady or process.ledger is None:
            return False
        session = self.database.sessions.get(process.ledger.session.session_id)
        return session is not None and session.state == "live"

    def _check(self) -> None:
        for process in self.processes:
            assert not process.loop.errors, f"{process.name}: {process.loop.errors}"
            for failure in process.failures:
                raise AssertionError(f"{process.name}: {failure!r}") from failure

    # ── processes ───────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, slot: Slot) -> None:
        """What a supervisor does, again and again."""
        if slot.process is not None or slot.host.gone or self.stopping:
            return
        slot.lives += 1
        host = slot.host
        loop = Loop(self.timeline, f"{host.name}{slot.number}.{slot.lives}", host.drift_ppm, host.boot_us, host.wall_us)
        self.tell(loop.name, "starts")
        self.timeline.loops.append(loop)
        process = slot.process = Process(
            self, loop, Owner(host.disk), Link(self.network, host.name), host.name, slot.number
        )
        process.traffic = not self.calm
        self.processes.append(process)
        self._watch(slot, process)

    def _watch(self, slot: Slot, process: Process) -> None:
        """Start a successor when a process has ended by itself."""

        def look() -> None:
            if slot.process is not process:
                return
            if process.over:
                self._forget(slot)
                if not self.calm:
                    self.timeline.after(RESTART_US, lambda: self.start(slot))
            else:
                self.timeline.after(RESTART_US, look)

        look()

    def _forget(self, slot: Slot) -> None:
        """A process is no more: nothing of it runs, its locks are free."""
        process = slot.process
        if process is None:
            return
        slot.unsafe_since_us = self._safe_before_us(slot.host)
        slot.process = None
        process.loop.dead = True
        process.owner.die()
        self.timeline.loops.remove(process.loop)
        self.auditor.died(process.name)

    def tell_state(self) -> None:
        """What the tables say, for whoever reads the trace of a failure."""
        for (key, session_id), lease in self.database.leases.items():
            process = next(
                (p.name for p in self.processes if p.ledger and p.ledger.session.session_id == session_id), "?"
            )
            self.tell("state", f"{short(key)} {process} {short(session_id)} {lease}")
        for key, window in self.database.windows.items():
            self.tell("state", f"{short(key)} {window}")
        for process in self._alive():
            self.tell("state", f"{process.name} busy {process.busy} open {short(list(process.open))}")
            for key, lease in process.ledger.book.leases.items() if process.ledger else ():
                self.tell("state", f"{process.name} {short(key)} {lease}")

    def leave_all(self) -> None:
        """Let go of every process."""
        for process in self.processes:
            process.loop.dead = True
            process.owner.die()
        self.processes.clear()
        self.timeline.clear()
        Os.instance.clear()
        for slot in self.slots:
            slot.process = None

    # ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _fail(self, fault: Fault) -> None:
        if not self.calm:
            self.tell("fault", f"{fault.kind} {fault.which} {fault.for_us} {fault.amount}")
            self.auditor.counts[fault.kind] += 1
            getattr(self, fault.kind)(fault)

    def _slot(self, fault: Fault) -> Slot:
        return self.slots[fault.which % len(self.slots)]

    def kill(self, fault: Fault) -> None:
        slot = self._slot(fault)
        self._forget(slot)
        self.timeline.after(fault.for_us, lambda: self.start(slot))

    def bequeath(self, fault: Fault) -> None:
        """A process dies, and another of its host settles its journal."""
        slot = self._slot(fault)
        heirs = [s.process for s in self._of(slot.host) if s is not slot and s.process is not None and s.process.steady]
        if heirs:
            self._forget(slot)
            self.timeline.after(fault.for_us // 8, lambda: heirs[0].inherit(slot.number))
            self.timeline.after(fault.for_us, lambda: self.start(slot))

    def stop(self, fault: Fault) -> None:
        if (process := self._slot(fault).process) is not None:
            process.stop()

    def stall(self, fault: Fault) -> None:
        if (process := self._slot(fault).process) is not None:
            process.loop.stall(self.timeline.now_us + fault.for_us)

    def cut_power(self, fault: Fault) -> None:
        host = self._slot(fault).host
        safe_before_us = self._safe_before_us(host)
        for slot in self._of(host):
            self._forget(slot)
            self.timeline.after(fault.for_us, lambda slot=slot: self.start(slot))  # type: ignore[misc]
        host.disk.cut_power()
        self.auditor.lost_power(host.name, safe_before_us)

    def _safe_before_us(self, host: Host) -> int:
        """What was written down by then is on the disk: whoever was neither stalled nor killed has synced it since."""
        interval_us = self.plan.fsync_ms * 1000 + SYNC_SLACK_US
        instants = [self.timeline.now_us - interval_us]
        for slot in self._of(host):
            loop = slot.process.loop if slot.process is not None else None
            if loop is not None and loop.stalled_until_us > instants[0]:
                instants.append(loop.stalled_from_us - interval_us)
            if slot.unsafe_since_us is not None and (slot.process is None or not slot.process.serving):
                instants.append(slot.unsafe_since_us)
        return min(instants)

    def leave(self, fault: Fault) -> None:
        """A host is gone; unless `amount` is odd it is found again at the end."""
        host = self._slot(fault).host
        if all(other.host is host or other.host.gone for other in self.slots):
            return
        host.gone = True
        for slot in self._of(host):
            self._forget(slot)

    def _of(self, host: Host) -> list[Slot]:
        return [slot for slot in self.slots if slot.host is host]

    def refuse(self, fault: Fault) -> None:
        self._slot(fault).host.disk.refusals = 1 + fault.amount % 4

    def cut_off(self, fault: Fault) -> None:
        name = self._slot(fault).host.name
        self.network.unreachable.add(name)
        self.timeline.after(fault.for_us, lambda: self.network.unreachable.discard(name))

    def outage(self, fault: Fault) -> None:
        self.network.up = False
        self.network.incarnation += 1
        self.timeline.after(fault.for_us, lambda: None if self.network.up else self.network.restart())

    def slow(self, fault: Fault) -> None:
        self.network.delay_us = (1_000, 20_000 + fault.amount % 600_000)
        self.timeline.after(fault.for_us, lambda: setattr(self.network, "delay_us", (100, 2000)))

    def lossy(self, fault: Fault) -> None:
        share = 0.02 + fault.amount % 20 / 100
        self.network.lost = self.network.unheard = self.network.late = share
        self.timeline.after(fault.for_us, self._lose_as_planned)

    def _lose_as_planned(self) -> None:
        share = 0 if self.calm else self.plan.lost
        self.network.lost = self.network.unheard = self.network.late = share

    def grant(self, fault: Fault) -> None:
        self.change_cap(fault.which % len(self.keys), fault.amount * NANOS_PER_TOKEN)

    def lower(self, fault: Fault) -> None:
        self.change_cap(fault.which % len(self.keys), -fault.amount * NANOS_PER_TOKEN)

    def change_cap(self, account: int, by_nanos: int) -> None:
        if self.network.up:
            self.database.change_cap(self.keys[account].credit, by_nanos)
            self.auditor.cap(account, by_nanos, self.timeline.now_us)

    def _remember(self) -> None:
        if self.network.up and not self.calm:
            self.tell("fault", "the standby has everything up to here")
            self.database.remember()
            self._remembered = dict(self.auditor.caps)
            self._remembered_us = self.timeline.now_us

    def fail_over(self, fault: Fault) -> None:
        """The standby takes over, which lacks what was committed in the meantime."""
        if not self.network.up or not self.database.kept:
            return
        forgotten = self.database.forgotten([key.credit for key in self.keys])
        self.forgot = self.forgot or self._remembered_us < self.timeline.now_us
        self.auditor.lenient = self.auditor.lenient or self.forgot
        self.database.fail_over()
        for (account, session_id), amount in forgotten.items():
            self._excuse_unless_presented(account, session_id, amount)
        self.auditor.caps.clear()
        self.auditor.caps.update(self._remembered)
        self.network.incarnation += 1

    def _excuse_unless_presented(self, account: int, session_id: UUID, amount: int) -> None:
        """What was lent and is forgotten may be lent twice if its worker does not present it while lending pauses."""
        process = next(
            (p for p in self._alive() if p.ledger is not None and p.ledger.session.session_id == session_id), None
        )

        def look() -> None:
            if (
                process is None
                or process.loop.dead
                or self.database.lent_to(self.keys[account].credit, session_id) < amount
            ):
                self.auditor.excused[account] += amount
                self.auditor.counts["excused"] += 1

        if process is None:
            look()
        else:
            self.timeline.after(int(self.plan.ttl_seconds * 1e6), look)

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _heal(self) -> None:
        self.tell("world", "all faults are over")
        self.calm = True
        self.network.heal()
        for slot in self.slots:
            slot.host.disk.refusals = 0
            if slot.host.gone and slot.host.disk.locked is not None and self.random.random() < 0.5:
                slot.host.gone = False
        for process in self._alive():
            process.traffic = False
            process.loop.stalled_until_us = 0
        self._keep_started()

    def _keep_started(self) -> None:
        """Start whoever is not there, until all stop."""
        if not self.stopping:
            for slot in self.slots:
                if slot.process is not None and slot.process.over:
                    self._forget(slot)
                self.start(slot)
            self.timeline.after(RESTART_US, self._keep_started)

    def _end_durable(self) -> None:
        """Somebody sees the end of what runs on at providers."""
        process = next(self._alive())
        self._wait("durable holds end", process.spawn(self._end_all(process)).done)

    async def _end_all(self, process: Process) -> None:
        for hold in self.durable:
            if hold.subject.request_id not in self.database.rows:
                while not process.end_this(hold, hold.subject.hold_nanos // NANOS_PER_TOKEN // 2):
                    await asyncio.sleep(0.05)

    def _check_lively(self) -> None:
        """What is left is to be had by anybody; more than that is spent."""
        self._wait("everything is settled", self._all_settled)
        self.judging = True
        self._wait("everybody is lent to", lambda: not (self.database.paused or self.database.moved))
        self.timeline.run(self.timeline.now_us + HEARD_US)
        for account in range(len(self.keys)):
            process = self.random.choice(list(self._alive()))
            task = process.spawn(self._take_the_rest(process, account))
            self._wait(f"what is left of account {account} was asked for", task.done)

    def _all_settled(self) -> bool:
        return all(process.ledger is not None and not process.ledger.settler.queued for process in self._alive())

    async def _take_the_rest(self, process: Process, account: int) -> None:
        if self.limits[account]:
            await self._take_what_fits(process, account)
            return
        window = self.database.windows[self.keys[account].credit]
        lost = self.lost(self.keys[account].credit)
        rest = window.cap - self.auditor.spent(account, self.booked()) - lost
        self.tell("world", f"{rest} of account {account} are left for {process.name}, {lost} are lost")
        if window.drawn > window.cap:
            return  # a cap that was lowered stops lending; what is lent may be used
        if self.forgot and window.late:
            return  # a durable hold ended elsewhere before its worker had presented: that much stays lent until it ends
        tokens = rest // NANOS_PER_TOKEN
        if tokens > 0:
            hold = await self._until(process, account, tokens, "placed", never="credit_spent")
            assert not isinstance(hold, str)
            await self._until(process, account, 1, "credit_held", never="placed")
            process.capture(hold, tokens)
        await self._until(process, account, 1, "credit_held" if lost else "credit_spent", never="placed")

    async def _take_what_fits(self, process: Process, account: int) -> None:
        """A request that fits all of an account's limits is served."""
        now_us = self.timeline.epoch_us + self.timeline.now_us
        credit = self.database.windows[self.keys[account].credit]
        if self.auditor.lenient or credit.drawn > credit.cap or now_us % MINUTE_US > MINUTE_US - AHEAD_US:
            return
        lost = self.lost(self.keys[account].credit)
        tokens = (credit.cap - self.auditor.spent(account, self.booked()) - lost) // NANOS_PER_TOKEN
        for name, limit in zip(self.pots_of(account, now_us), self.limits[account], strict=True):
            key = LeaseKey(self.keys[account].account_id, limit.limit_id, name[2])
            left = self.auditor.pots[name].cap - self._used(account, limit)[name[2]] - self.lost(key)
            if limit.measure in {Measure.REQUESTS, Measure.CONCURRENT}:
                tokens = tokens if left > 0 else 0
            else:
                tokens = min(tokens, left // (NANOS_PER_TOKEN if limit.measure is Measure.AMOUNT else 1))
        if tokens > 0:
            self.tell("world", f"{tokens} tokens fit all limits of account {account} at {process.name}")
            hold = await self._until(process, account, tokens, "placed", never="credit_spent")
            assert not isinstance(hold, str)
            process.capture(hold, tokens)

    async def _until(self, process: Process, account: int, tokens: int, wanted: str, never: str) -> Hold | str:
        """Ask for a hold until that comes of it which must; it may take a moment, but the other never comes."""
        began_us = self.timeline.now_us
        while True:
            answer = await process.place(account, tokens)
            came = answer if isinstance(answer, str) else "placed"
            if came == wanted:
                return answer
            about = f"{tokens} tokens of account {account} are {came}, where they should be {wanted}"
            assert came != never, about
            assert self.timeline.now_us - began_us < LIVELY_US, f"{about}, and after {LIVELY_US} µs still are"
            await asyncio.sleep(0.02)

    def lost(self, key: LeaseKey) -> int:
        """What is lent to sessions whose hosts are gone."""
        living = {process.ledger.session.session_id for process in self._alive() if process.ledger is not None}
        return sum(
            lease.outstanding
            for (lent, session_id), lease in self.database.leases.items()
            if lent is key and session_id not in living
        )

    def booked(self) -> dict[UUID, int]:
        """All usage rows: what each request cost."""
        return {request_id: record.amount_nanos for request_id, record in self.database.rows.items()}

    def _stop(self) -> None:
        self.stopping = True
        for process in self._alive():
            process.stop()
        self._wait("all processes stop", lambda: all(process.over for process in self._alive()))

    def _audit(self) -> None:
        for host in {slot.host.name: slot.host for slot in self.slots}.values():
            if host.gone:
                self.auditor.lost_host(host.name)
        booked = self.booked()
        self.auditor.check_rows(booked)
        self._check_database(booked)

    def _check_database(self, booked: dict[UUID, int]) -> None:
        for account, key in enumerate(self.keys):
            spent = self.auditor.spent(account, booked)
            assert self.database.balances[key.account_id] == self.auditor.caps[account] - spent, "the balance is right"
            self._check_window(key.credit, spent)
            for limit in self.limits[account]:
                self._check_limit(account, limit)
        for limit in self.exposures:
            for lent in [lent for lent in self.database.windows if lent.limit_id == limit.limit_id]:
                self._check_window(lent, 0)

    def _check_limit(self, account: int, limit: Limit) -> None:
        """All windows of a limit hold what the rows come to that were accepted in them."""
        used = self._used(account, limit)
        for key in self.database.windows:
            if key.limit_id == limit.limit_id:
                self._check_window(key, used.pop(key.window_start_us, 0))
        assert not any(used.values()), f"{used} of account {account} are counted nowhere"

    def _used(self, account: int, limit: Limit) -> Counter[int]:
        """What the rows come to in a limit's measure, by window."""
        used: Counter[int] = Counter()
        number = self.limits[account].index(limit)
        for request_id, record in self.database.rows.items():
            for name in self.auditor.requests[request_id].pots:
                if name[:2] == (account, number):
                    used[name[2]] += _consumed(limit.measure, record)
        return used

    def _check_window(self, key: LeaseKey, used: int) -> None:
        window = self.database.windows[key]
        leases = [lease for (lent, _), lease in self.database.leases.items() if lent is key]
        lost = self.forgot or self.abandoned or self.auditor.counts["cut_power"]
        assert window.late == 0 or lost, "late without a reason"
        beyond = window.folded + window.overrun + window.late + window.counted - window.unspent
        assert window.drawn == sum(lease.granted - lease.returned for lease in leases) + beyond, "drawn adds up"
        if not any(slot.host.gone for slot in self.slots):
            outstanding = sum(lease.outstanding for lease in leases)
            assert outstanding == 0, f"{outstanding} of {short(key)} are lent to nobody"
            assert window.drawn == used, f"{window.drawn} of {short(key)} are drawn, {used} are used"


def _consumed(measure: Measure, record: EndRecord) -> int:
    """What a row comes to in a limit's measure. All releases here are requests that the provider refused."""
    if measure is Measure.AMOUNT:
        return record.amount_nanos
    if measure is Measure.TOKENS:
        return 0 if record.how == "released" else record.ending.usage.input + record.ending.usage.output
    return int(measure is Measure.REQUESTS)


def stranger(number: int) -> KeyEntry:
    account = AccountEntry(UUID(int=number + 101), UUID(int=3), UUID(int=number + 201))
    return KeyEntry(UUID(int=number + 1), account, UUID(int=4), KeyPolicy())


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the cycle collector, which would end coroutines of dead processes at any moment."""
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def _collect() -> None:
    """End the coroutines that dead processes left behind, while all they still touch is there."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _what: None
    try:
        with warnings.catch_warnings(action="ignore"):
            gc.collect()
    finally:
        sys.unraisablehook = hook


def run(seed: int) -> Result:
    """Run a seed; what is wrong is in the result."""
    told: list[Callable[[str, str], None]] = []
    with _uncollected(), simulated(Random(f"ids {seed}"), lambda *words: told[0](*words)):  # noqa: PLW0108  not yet there
        result = _run(seed, told)
        told.clear()
        _collect()
    return result


def _run(seed: int, told: list[Callable[[str, str], None]]) -> Result:
    world, failure = World(seed), None
    told.append(world.tell)
    try:
        world.run()
    except Exception as error:
        failure = repr(error) if not isinstance(error, AssertionError) else str(error) or "an assertion failed"
        world.tell_state()
    world.leave_all()
    counts, steps, now_us = dict(world.auditor.counts), world.timeline.steps, world.timeline.now_us
    digest = hashlib.sha256("\n".join(world.trace).encode()).hexdigest()
    return Result(seed, failure, digest, counts, steps, now_us, world.trace)
