"""A small world of workers and accounts, moved by operations that are data, and watched by an auditor of its own.

An operation is a tuple whose first word names a method of `World`; the same list may be run on any store.
"""

import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from meterproxy.core.bound import Bound
from meterproxy.core.hold import DurableHold
from meterproxy.core.key import KeyEntry
from meterproxy.core.lending import LeaseKey
from meterproxy.core.limit import Limit, Measure
from meterproxy.core.record import Ending
from meterproxy.core.resource import Resource, key_of
from meterproxy.core.usage import Outcome, Usage, UsageSource
from meterproxy.errors import ApiError, NoExposure, StoreUnavailable
from meterproxy.ledger.holds import Hold
from meterproxy.ledger.journal import SLACK_BYTES
from meterproxy.ledger.worker import WorkerLedger
from tests.environment import VOLUME
from tests.ledger.bank import NANOS_PER_TOKEN, REFUSED, completed, hold_request
from tests.ledger.bank_faults import Faulty
from tests.ledger.test_journal import kill

UNREACHED = Ending(Outcome.UNREACHABLE, 502, UsageSource.PROVIDER, Usage())

Operation = tuple[Any, ...]
Credit = Callable[[KeyEntry, int], Awaitable[None]]


class Place:
    """Where a worker lives: its ledger, if it is up, and the holds it has open."""

    def __init__(self, directory: Path, store: Any) -> None:
        self.directory = directory
        self.store = Faulty(store)
        self.ledger: WorkerLedger | None = None
        self.up = False
        self.open: list[Hold] = []


def exposed_of(hold: Hold) -> int:
    """What a hold leaves unheld."""
    return sum(draw.amount for draw in hold.subject.draws if draw.measure == Measure.EXPOSURE)


class World:
    """Workers over one store; `expected` is what the auditor says each request must come to.

    `said` is what recovery takes a request to have come to, should its worker die, as far as its hold goes.
    `drawn` is what each request has taken of limits beside credit, or may yet take, as the auditor reckons; time passes
    only where an operation says so.

    `forgetful`: PostgreSQL may lose what it has confirmed, leases too, so that money may be lent twice.

    A durable hold may be ended by several workers: `ends` are the amounts of which one must count, `unsure` what they
    may not have given back yet.
    """

    def __init__(
        self, store: Any, keys: Sequence[KeyEntry], credit: Credit, workers: int = 2, *, forgetful: bool = False
    ) -> None:
        root = Path(tempfile.mkdtemp(prefix="mp-world-", dir=VOLUME))
        self.root = root
        self.keys = keys
        self.places = [Place(root / str(number), store) for number in range(workers)]
        self.expected: dict[UUID, int] = {}
        self.within: dict[UUID, int] = {}
        self.said: dict[UUID, int] = {}
        self.account_of: dict[UUID, int] = {}
        self.drawn: dict[LeaseKey, dict[UUID, int]] = {}
        self.caps: dict[LeaseKey, int] = {}
        self.now_us = 1_700_000_000_000_000
        self.durable: list[DurableHold] = []
        self.ends: dict[UUID, set[int]] = {}
        self.unsure: dict[UUID, int] = {}
        self.owned: dict[tuple[int, str], bool] = {}
        self.highest_cap = [0] * len(keys)
        self.cap = [0] * len(keys)
        self._credit = credit
        self._store = store
        self._forgetful = forgetful

    def key(self, account: int) -> LeaseKey:
        return LeaseKey(self.keys[account].account_id, self.keys[account].credit.limit_id, 0)

    async def do(self, operation: Operation) -> str:
        """Run one operation; answers what came of it in a word."""
        name, *arguments = operation
        answer: str = await getattr(self, name)(*arguments)
        for place in self.places:
            if place.ledger and place.up and place.ledger.journal.dirty:
                place.ledger.journal.sync_now()  # so that the backlog lets go of what it need not have in memory
        for place in self.places:
            if place.ledger and place.up:
                await place.ledger.borrower.settle_down()
                for lease in place.ledger.book.leases.values():
                    assert place.ledger.book.adds_up(lease), lease
        if not self._forgetful:
            self.check_holds()
        return answer

    def check_holds(self) -> None:
        """What is held and what was charged within holds never passes the highest cap that ever was."""
        for account, highest in enumerate(self.highest_cap):
            used = sum(amount for request, amount in self.within.items() if self.account_of[request] == account)
            assert used <= highest
        for key, requests in self.drawn.items():
            assert sum(requests.values()) <= self.caps[key], "no window is ever held or used above its cap"

    def note_draws(self, hold: Any, tokens: int | None, *, kept: bool = True) -> None:
        """What a request takes of each limit from now on; `tokens` is None while it runs, as it does after a kill."""
        subject = hold.subject
        for draw in [*subject.draws][:-1]:
            if draw.counted:
                continue
            key = LeaseKey(subject.account_id, draw.limit_id, draw.window_start_us)
            amount = draw.amount
            if tokens is not None:
                measured = (tokens * NANOS_PER_TOKEN, int(kept), tokens, 0, 0)[draw.measure]
                amount = min(measured, draw.amount)
            self.drawn.setdefault(key, {})[subject.request_id] = amount
            limit = self.limit_of(key)
            assert limit.cap is not None
            self.caps[key] = limit.cap + limit.grace

    def limit_of(self, key: LeaseKey) -> Limit:
        account = next(entry.account for entry in self.keys if entry.account_id == key.account_id)
        limits = (*account.limits, account.exposure)
        return next(limit for limit in limits if limit is not None and limit.limit_id == key.limit_id)

    # ── operations ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def credit(self, account: int, amount: int) -> str:
        await self._credit(self.keys[account], amount)
        self.cap[account] += amount
        self.highest_cap[account] = max(self.highest_cap[account], self.cap[account])
        return "credited"

    async def start(self, worker: int) -> str:
        place = self.places[worker]
        if place.up:
            return "up"
        if place.ledger is None:
            place.ledger = WorkerLedger(
                place.store,
                place.store,
                place.directory,
                owner_rows=place.store,
                durable_rows=place.store,
                wait_ms=0,
                ttl_seconds=1e6,
                segment_bytes=2 * SLACK_BYTES,
            )
        try:
            await place.ledger.start()
        except StoreUnavailable:
            return "away"
        place.ledger.clock.now_us = lambda: self.now_us  # type: ignore[method-assign]
        place.up = True
        return "up"

    async def place(self, worker: int, account: int, tokens: int) -> str:
        place = self.places[worker]
        await self.start(worker)
        if not place.up or place.ledger is None:
            return "down"
        nanos, now_us = tokens * NANOS_PER_TOKEN, self.now_us
        request = hold_request(place.ledger, self.keys[account], nanos, occurred_us=now_us)
        try:
            hold = await place.ledger.holds.place(request)
        except ApiError as error:
            return error.reason
        place.open.append(hold)
        self.note_draws(hold, None)
        self.account_of[request.request_id] = account
        self.expected[request.request_id] = self.within[request.request_id] = request.hold_nanos
        return "placed"

    async def expose(self, worker: int, tokens: int, exposed: int) -> str:
        """Place a hold of the account with limits that leaves a part of its bound unheld."""
        place = self.places[worker]
        await self.start(worker)
        if not place.up or place.ledger is None:
            return "down"
        nanos, unheld = tokens * NANOS_PER_TOKEN, exposed * NANOS_PER_TOKEN
        request = hold_request(
            place.ledger, self.keys[0], nanos, occurred_us=self.now_us, exposed_nanos=unheld,
            bound=Bound(input_tokens=tokens, output_tokens=exposed),
        )  # fmt: skip
        try:
            hold = await place.ledger.holds.place(request)
        except NoExposure:
            return "no exposure"
        except ApiError as error:
            return error.reason
        place.open.append(hold)
        self.note_draws(hold, None)
        self.account_of[request.request_id] = 0
        self.expected[request.request_id] = self.within[request.request_id] = request.hold_nanos
        return "placed"

    async def extend(self, worker: int, which: int, tokens: int, ask: bool) -> str:
        """Hold more of what was exposed, having asked for room or not; all of it or nothing, and never more than that."""
        place = self.places[worker]
        open_holds = [hold for hold in place.open if len(hold.subject.draws) > 1 and exposed_of(hold)]
        if not place.up or place.ledger is None or not open_holds:
            return "none"
        hold = open_holds[which % len(open_holds)]
        request_id, before = hold.subject.request_id, hold.subject.hold_nanos
        nanos, exposed = min(tokens * NANOS_PER_TOKEN, exposed_of(hold)), exposed_of(hold)
        if ask and not await place.ledger.holds.make_room(hold, nanos):
            return "no room"
        if not place.ledger.holds.extend(hold, nanos):
            assert (hold.subject.hold_nanos, exposed_of(hold)) == (before, exposed)
            return "refused"
        assert (hold.subject.hold_nanos, exposed_of(hold)) == (before + nanos, exposed - nanos)
        self.within[request_id] = hold.subject.hold_nanos
        self.expected[request_id] = min(self.said.get(request_id, before), hold.subject.hold_nanos)
        self.said.setdefault(request_id, before)
        self.note_draws(hold, None)
        return "extended"

    async def contend(self, worker: int, account: int, tokens: int) -> str:
        """Place; where others have too much, ask them for it, let them look, and place again.

        What no hold takes must then be there: whoever can be reached has given back what it did not use, what was lent
        to it unheard included.
        """
        answer = await self.place(worker, account, tokens)
        place, key, amount = self.places[worker], self.key(account), tokens * NANOS_PER_TOKEN
        if answer != "credit_held" or place.ledger is None or self.keys[account].account.limits:
            return answer
        ledger = place.ledger
        with ledger.borrower.line.waiting(key):
            try:
                await ledger.borrower.ask_reclaim(key, amount - ledger.book.free(key))
            except StoreUnavailable:
                return "away"
            others = [other for other in range(len(self.places)) if other != worker]
            looked = [await self.background(other, "look") for other in (*others, worker)]
            answer = await self.place(worker, account, tokens)
        first = not any(
            other.ledger and key in other.ledger.borrower.line._asked for other in self.places if other != place
        )
        if answer == "credit_held" and set(looked) == {"done"} and first:
            used = sum(
                amount
                for told in (self.within, self.unsure)
                for request, amount in told.items()
                if self.account_of[request] == account
            )
            assert self.cap[account] - used < amount, "nothing that could be had is kept from who asks"
        return answer

    def _one(self, worker: int, which: int) -> tuple[Place, Hold] | None:
        place = self.places[worker]
        if not place.open or not place.up:
            return None
        return place, place.open.pop(which % len(place.open))

    async def capture(self, worker: int, which: int, share: int) -> str:
        one = self._one(worker, which)
        if one is None:
            return "none"
        place, hold = one
        tokens = hold.subject.hold_nanos // NANOS_PER_TOKEN * share // 100
        assert place.ledger is not None
        receipt = place.ledger.holds.capture(hold, completed(tokens))
        self.expected[hold.subject.request_id] = receipt.amount_nanos
        self.within[hold.subject.request_id] = min(tokens * NANOS_PER_TOKEN, hold.subject.hold_nanos)
        self.note_draws(hold, tokens)
        assert receipt.amount_nanos == tokens * NANOS_PER_TOKEN
        return "captured"

    async def release(self, worker: int, which: int, reached: bool = True) -> str:
        one = self._one(worker, which)
        if one is None:
            return "none"
        place, hold = one
        assert place.ledger is not None
        place.ledger.holds.release(hold, REFUSED if reached else UNREACHED)
        self.note_draws(hold, 0, kept=reached)
        self.expected[hold.subject.request_id] = self.within[hold.subject.request_id] = 0
        return "released"

    async def progress(self, worker: int, tokens: int) -> str:
        place = self.places[worker]
        if not place.up or not place.open or place.ledger is None:
            return "none"
        hold = place.open[-1]
        place.ledger.holds.progress(hold, Usage(output=tokens))
        self.said[hold.subject.request_id] = tokens * NANOS_PER_TOKEN
        self.expected[hold.subject.request_id] = min(tokens * NANOS_PER_TOKEN, hold.subject.hold_nanos)
        return "noted"

    async def defer(self, worker: int, which: int) -> str:
        """A hold outlives its exchange: whoever deferred it finds it at once."""
        one = self._one(worker, which)
        if one is None:
            return "none"
        place, hold = one
        assert place.ledger is not None
        request_id = hold.subject.request_id
        resource = Resource(hold.subject.account_id, "response", f"of_{request_id}", "test")
        place.ledger.durable.defer(hold, resource)
        durable = await place.ledger.durable.find(resource)
        assert durable is not None
        assert durable.subject == hold.subject
        for key, requests in self.drawn.items():
            if self.limit_of(key).measure in {Measure.CONCURRENT, Measure.EXPOSURE}:
                requests.pop(request_id, None)
        self.durable.append(durable)
        self.ends[request_id] = set()
        del self.expected[request_id]
        return "deferred"

    async def end_durable(self, worker: int, which: int, share: int | None) -> str:
        """A worker sees the end of a durable hold, the first to do so or not; None: it was never run."""
        place = self.places[worker]
        if not place.up or place.ledger is None or not self.durable:
            return "none"
        hold = self.durable[which % len(self.durable)]
        request_id, held = hold.subject.request_id, hold.subject.hold_nanos
        if share is None:
            place.ledger.durable.release(hold, REFUSED)
            amount = 0
        else:
            amount = place.ledger.durable.capture(hold, completed(held // NANOS_PER_TOKEN * share // 100)).amount_nanos
        self.ends[request_id].add(amount)
        self.within[request_id] = min(self.within[request_id], amount)
        for key, requests in self.drawn.items():
            measure = self.limit_of(key).measure
            if request_id in requests and measure in {Measure.AMOUNT, Measure.TOKENS}:
                unit = NANOS_PER_TOKEN if measure is Measure.AMOUNT else 1
                requests[request_id] = min(requests[request_id], amount // NANOS_PER_TOKEN * unit)
        self.unsure[request_id] = held - self.within[request_id]
        with suppress(StoreUnavailable):
            assert await place.ledger.durable.find(hold.resource) is None
        return "ended"

    async def find_durable(self, worker: int, which: int) -> str:
        """A durable hold that is found is one that has not ended here."""
        place = self.places[worker]
        if not place.up or place.ledger is None or not self.durable:
            return "none"
        hold = self.durable[which % len(self.durable)]
        try:
            found = await place.ledger.durable.find(hold.resource)
        except StoreUnavailable:
            return "away"
        assert found is None or found.subject == hold.subject
        return "none" if found is None else "found"

    def resource(self, account: int, name: str) -> Resource:
        return Resource(self.keys[account].account_id, "response", name, "test")

    async def claim(self, worker: int, account: int, name: str) -> str:
        """An account makes a resource; whoever made it knows it at once, unless it heard of its end."""
        place = self.places[worker]
        if not place.up or place.ledger is None:
            return "down"
        resource = self.resource(account, name)
        place.ledger.owners.claim(resource, place.ledger.clock.now_us())
        alive = self.owned.setdefault((account, name), True)
        if alive:
            assert place.ledger.owners.known(*key_of(resource)) == resource
        return "claimed"

    async def forget(self, worker: int, account: int, name: str) -> str:
        """It is deleted, which nothing undoes."""
        place = self.places[worker]
        if not place.up or place.ledger is None:
            return "down"
        resource = self.resource(account, name)
        place.ledger.owners.forget(resource, place.ledger.clock.now_us())
        self.owned[account, name] = False
        assert not isinstance(place.ledger.owners.known(*key_of(resource)), Resource)
        return "forgotten"

    async def background(self, worker: int, what: str) -> str:
        """One turn of a side task: settle, report, look, hear or sync."""
        place = self.places[worker]
        if not place.up or place.ledger is None:
            return "down"
        ledger = place.ledger
        try:
            match what:
                case "settle":
                    while ledger.settler.queued:
                        await ledger.settler.settle_batch()
                    assert all(lease.unsettled == 0 for lease in ledger.book.leases.values())
                case "report":
                    await ledger.borrower.report()
                case "look":
                    await ledger.look()
                case "hear":
                    await ledger.owners.hear()
                case "sync":
                    ledger.journal.sync_now()
                    ledger.journal.prepare()
        except StoreUnavailable:
            return "away"
        return "done"

    async def lose(self, worker: int, call: str) -> str:
        """The next answer to this call gets lost."""
        self.places[worker].store.lost.add(call)
        return "will be lost"

    async def away(self, worker: int, away: bool) -> str:
        self.places[worker].store.away = away
        return "away" if away else "back"

    async def kill(self, worker: int) -> str:
        """End the process; its open holds are left to whoever starts next."""
        place = self.places[worker]
        if place.ledger is None:
            return "down"
        await place.ledger.borrower.settle_down()
        kill(place.ledger.journal)
        for hold in place.open:
            self.within[hold.subject.request_id] = self.expected[hold.subject.request_id]
            self.note_draws(hold, self.expected[hold.subject.request_id] // NANOS_PER_TOKEN)
        place.ledger, place.up, place.open = None, False, []
        return "killed"

    async def stop(self, worker: int) -> str:
        """An orderly end: what is open is captured as broken first."""
        place = self.places[worker]
        if not place.up or place.ledger is None:
            return "down"
        while place.open:
            await self.capture(worker, 0, 50)
        try:
            await place.ledger.stop()
            assert all(lease.unsettled == lease.held == 0 for lease in place.ledger.book.leases.values())
        except StoreUnavailable:
            return "away"
        finally:
            place.ledger, place.up = None, False
        return "stopped"

    async def passes(self, seconds: int) -> str:
        """Time, and with it windows."""
        self.now_us += seconds * 1_000_000
        return "later"

    async def remember(self) -> str:
        """A standby has everything up to here."""
        self._store.remember()
        return "remembered"

    async def fail_over(self) -> str:
        """PostgreSQL goes on from what the standby has."""
        self._store.fail_over()
        return "failed over"

    async def fold(self) -> str:
        """Upkeep comes by, long after the sessions ended that have."""
        await self._store.fold()
        return "folded"

    async def resume(self) -> str:
        """The ttl is over for which nobody was lent to: whoever is up has looked by now, or is not trusted any more."""
        for worker in range(len(self.places)):
            while await self.background(worker, "look") == "away":
                pass
        self._store.paused_until_us = 0
        return "resumed"

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def finish(self) -> None:
        """All faults are over; every worker comes up once more, somebody sees all ends, and all end in order."""
        for worker, place in enumerate(self.places):
            place.store.away = False
            place.store.lost.clear()
            await self.start(worker)
        for which, hold in enumerate(self.durable):
            if not self.ends[hold.subject.request_id]:
                await self.end_durable(which % len(self.places), which, 50)
        for worker in range(len(self.places)):
            await self.stop(worker)

    def books(self) -> list[tuple[int, ...]]:
        """What the workers believe, to be compared between two worlds."""
        return sorted(
            (number, *self.place_of(key), lease.granted, lease.consumed, lease.returned, lease.free, lease.held,
             lease.unsettled)
            for number, place in enumerate(self.places)
            if place.ledger is not None
            for key, lease in place.ledger.book.leases.items()
        )  # fmt: skip

    def place_of(self, key: LeaseKey) -> tuple[int, int, int]:
        """A limit window by what it is in both of two worlds: whose, the how manieth limit, and from when."""
        account = next(number for number, entry in enumerate(self.keys) if entry.account_id == key.account_id)
        entry = self.keys[account].account
        limits = [limit.limit_id for limit in (*entry.limits, *filter(None, [entry.exposure]))]
        return account, limits.index(key.limit_id) if key.limit_id in limits else -1, key.window_start_us


def tidy(root: Path) -> None:
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    root.rmdir()
