"""Leases, seen from the worker: borrow what requests need, give back what they do not.

Rules
-----
- At most one borrow per limit window is under way; everybody who needs the same window waits for its answer.
- What PostgreSQL says was granted *in total* is the truth: an answer that got lost is made up for by the next one.
- A borrow whose answer got lost is repeated under its own id before anything else is borrowed.
- After "nothing left" nobody asks again for `DENIAL_SECONDS`, unless the limit changes: an empty account in a retry
  loop does not reach PostgreSQL.
- What is given back is out of the book at once; the report is cumulative and may be repeated.
- A lease stays in the book while its session lives, since PostgreSQL's totals of it go on; what is done in the
  background walks only those that have something to tell or to give back.
- Other workers are asked for their free leases only as long as somebody here waits in line for them.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar
from uuid import UUID, uuid4

from meterproxy.core.lending import LeaseKey, News, Rest, Totals
from meterproxy.errors import StoreUnavailable
from meterproxy.ledger.book import Book
from meterproxy.ledger.clock import elapsed_us
from meterproxy.ledger.ports import SessionStore
from meterproxy.ledger.session import Session
from meterproxy.runtime.tasks import at_most

T = TypeVar("T")

ANSWER_SECONDS: Final = 5.0
"""How long a request waits for PostgreSQL at most, however that is stuck."""
DENIAL_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 10.0
QUICK_SECONDS: Final = 2.0
"""A borrow sooner than this after the last one doubles what is asked for; one later than IDLE_SECONDS halves it."""
QUICK_US: Final = int(QUICK_SECONDS * 1_000_000)
MOST_DOUBLINGS: Final = 14
FIRST_DOUBLINGS: Final = 4
ASKED_SECONDS: Final = 4.0
"""How long it is taken for granted that others have heard; PostgreSQL shows them a request for ten seconds."""
NEVER_US: Final = -(2**62)
MOST_BORROWED: Final = 2**62
"""No limit has this much, so that whoever needs it is told that it is spent."""


class Verdict(Enum):
    """What came of a borrow."""

    GRANTED = "granted"
    HELD = "held"
    SPENT = "spent"


@dataclass(slots=True)
class View:
    """What this worker knows of one limit window beyond its own lease."""

    rest: int = 0
    outstanding: int = 0
    consumed: int = 0
    denied_until_us: int = 0
    last_borrow_us: int = 0
    doublings: int = FIRST_DOUBLINGS
    unit: int = 0
    want: int = 0
    repeat: tuple[UUID, int, int] | None = None
    used_us: int = 0
    reported: int | None = 0


class Borrower:
    """Borrows for one session into one book."""

    def __init__(self, store: SessionStore, session: Session, book: Book) -> None:
        self._store = store
        self._session = session
        self._book = book
        self._views: dict[LeaseKey, View] = {}
        self._under_way: dict[LeaseKey, asyncio.Task[Verdict]] = {}
        self._waiting: dict[LeaseKey, int] = {}
        self._unreported: set[LeaseKey] = set()
        self._changed: dict[LeaseKey, asyncio.Event] = {}
        self._reporting = asyncio.Lock()
        self._active: set[LeaseKey] = set()
        self._of_limit: dict[UUID, list[LeaseKey]] = {}
        self._in_line: Counter[LeaseKey] = Counter()
        self._asked: dict[LeaseKey, int] = {}
        self._unasked: set[LeaseKey] = set()
        self.forgotten = False
        """PostgreSQL has said that it lent less than it did: somebody should present it again."""

    # ── asked synchronously, on the way of a request ────────────────────────────────────────────────────────────────

    def touch(self, key: LeaseKey, now_us: int) -> None:
        """A hold was placed from this lease; where it is in steady use and runs low, borrow ahead.

        Ahead goes no further than a usual hold needs, so that the last of an account is not taken for nobody.
        """
        view = self._views.get(key)
        if view is None:
            return
        self._active.add(key)
        before, view.used_us = view.used_us, now_us
        if now_us - before >= QUICK_US or self._book.leases[key].free >= view.want // 4:
            return
        if view.rest >= view.unit > 0 and key not in self._under_way:
            self._begin(key, view.unit)

    def potential(self, key: LeaseKey) -> int | None:
        """What could be held if every hold ended, as last heard; None if never heard.

        What was captured here and PostgreSQL had not booked when it answered is not coming back; telling the two apart
        by what is unsettled *now* would count it twice while a settle's answer is on its way. What became durable here
        may come back.
        """
        view = self._views.get(key)
        lease = self._book.leases.get(key)
        if view is None:
            return None
        captured = lease.consumed + lease.unsettled - lease.deferred if lease else 0
        return view.rest + view.outstanding - max(captured - view.consumed, 0)

    def denied(self, key: LeaseKey, amount: int) -> bool:
        """Whether it is known, freshly, that `amount` would not fit even if every hold ended."""
        view = self._views.get(key)
        potential = self.potential(key)
        return view is not None and potential is not None and view.denied_until_us > elapsed_us() and amount > potential

    def rest(self, key: LeaseKey) -> int | None:
        """What is left fleet-wide for new holds as far as this worker knows: free here and not lent to anybody."""
        view = self._views.get(key)
        if view is None:
            return None
        lease = self._book.leases.get(key)
        return view.rest if lease is None else view.rest + lease.free

    def freed(self, key: LeaseKey) -> None:
        """A hold of this lease has ended: wake whoever waits for room."""
        if self._changed and (event := self._changed.pop(key, None)) is not None:
            event.set()

    # ── asked by requests that must wait ────────────────────────────────────────────────────────────────────────────

    async def fetch_rest(self, key: LeaseKey) -> int:
        """As `rest`, asked of PostgreSQL now. Raises StoreUnavailable."""
        self._note_rest(key, await _answered(self._store.read_rest(self._session.session_id, key)))
        return self._view(key).rest + self._book.free(key)

    async def borrow(self, key: LeaseKey, amount: int) -> Verdict:
        """Get this lease large enough for a hold of `amount`, or learn why not.

        Raises:
            StoreUnavailable: PostgreSQL is away.
            SessionOver: this worker may not borrow any more.
        """
        missing = amount - self._book.free(key)
        if missing <= 0:
            return Verdict.GRANTED
        self._waiting[key] = self._waiting.get(key, 0) + missing
        try:
            verdict = await _answered(self._under_way.get(key) or self._begin(key, missing))
        finally:
            self._waiting[key] -= missing
            if not self._waiting[key]:
                del self._waiting[key]
        if verdict is Verdict.GRANTED or self._book.free(key) >= amount:
            return Verdict.GRANTED
        potential = self.potential(key)
        return Verdict.SPENT if potential is not None and amount > potential else Verdict.HELD

    async def room(self, key: LeaseKey, timeout_seconds: float) -> None:
        """Wait until a hold of this lease ends, somebody returns money, or the time is over."""
        event = self._changed.setdefault(key, asyncio.Event())
        with suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), timeout_seconds)

    @contextmanager
    def in_line(self, key: LeaseKey) -> Iterator[None]:
        """Wait for this lease; when the last one in line has left, others need not give back any more."""
        self._in_line[key] += 1
        try:
            yield
        finally:
            self._in_line[key] -= 1
            if not self._in_line[key]:
                del self._in_line[key]
                if key in self._asked:
                    self._unasked.add(key)

    async def ask_reclaim(self, key: LeaseKey, amount: int) -> None:
        """Ask other workers for what they do not use, unless they were just asked. Raises StoreUnavailable."""
        lease = self._book.leases.get(key)
        asked_us = self._asked.get(key)
        if asked_us is not None and elapsed_us() - asked_us < ASKED_SECONDS * 1e6:
            return
        if self._view(key).outstanding > (lease.outstanding if lease else 0):
            self._asked[key] = elapsed_us()
            try:
                await _answered(self._store.ask_reclaim(self._session.session_id, key, amount))
            except StoreUnavailable:
                self._asked[key] = NEVER_US  # others may have heard all the same
                raise

    def _begin(self, key: LeaseKey, missing: int) -> "asyncio.Task[Verdict]":
        task = asyncio.ensure_future(self._lend(key, missing))
        self._under_way[key] = task
        task.add_done_callback(lambda done: self._finished(key, done))
        return task

    def _finished(self, key: LeaseKey, task: "asyncio.Task[Verdict]") -> None:
        del self._under_way[key]
        if not task.cancelled() and task.exception() is None and task.result() is Verdict.GRANTED:
            self.freed(key)

    async def _lend(self, key: LeaseKey, missing: int) -> Verdict:
        view = self._view(key)
        self._active.add(key)
        need, want = self._size(key, view, min(missing, MOST_BORROWED))
        borrow_id, need, want = view.repeat = view.repeat or (uuid4(), need, want)
        life = self._session.life
        try:
            lent = await self._store.lend(self._session.session_id, borrow_id, key, need, want)
        except StoreUnavailable:
            raise  # it may have been lent all the same, so the next borrow is this one again
        except BaseException:
            view.repeat = None
            raise
        view.repeat = None
        view.last_borrow_us = elapsed_us()
        lease = self._book.leases.get(key)
        news = lent.total_granted - (lease.granted if lease else 0)
        self.forgotten = self.forgotten or (news < 0 and life == self._session.life)
        if news > 0:
            self._book.grant(key, news)
        self._note_rest(key, Rest(lent.rest, lent.outstanding, lent.consumed))
        if lent.granted:
            self._asked.pop(key, None)  # PostgreSQL has struck this worker off its list; who still waits asks again
        if news > 0:
            view.denied_until_us = 0
            return Verdict.GRANTED
        view.denied_until_us = elapsed_us() + int(DENIAL_SECONDS * 1e6)
        view.doublings = 0
        return Verdict.HELD

    def _size(self, key: LeaseKey, view: View, missing: int) -> tuple[int, int]:
        since = (elapsed_us() - view.last_borrow_us) / 1e6
        if view.last_borrow_us and since < QUICK_SECONDS:
            view.doublings = min(view.doublings + 1, MOST_DOUBLINGS)
        elif since > IDLE_SECONDS:
            view.doublings = max(view.doublings - 1, FIRST_DOUBLINGS)
        waiting = self._waiting.get(key, 0)
        view.unit = missing if waiting else view.unit
        view.want = min(max(waiting, missing, view.unit << view.doublings), MOST_BORROWED)
        return missing, view.want

    def _note_rest(self, key: LeaseKey, rest: Rest) -> None:
        view = self._view(key)
        view.rest, view.outstanding, view.consumed = rest

    def _view(self, key: LeaseKey) -> View:
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = View()
            self._of_limit.setdefault(key.limit_id, []).append(key)
        return view

    # ── done in the background ──────────────────────────────────────────────────────────────────────────────────────

    async def heard(self, news: News) -> None:
        """Take note of changed limits, and give back at once what is free here and others wait for.

        Raises:
            StoreUnavailable: what was not told is told with the next report.
        """
        for change in news.changes:
            if change.kind == "limit" and change.subject_id is not None:
                for key in self._of_limit.get(change.subject_id, ()):
                    self._views[key].denied_until_us = 0
                    self.freed(key)
        await self._make_up(news.reclaims)
        for key in news.reclaims:
            if self._book.give_back(key):
                self._unreported.add(key)
        await self._report_returned()
        await self._stop_asking()

    async def report(self) -> None:
        """Give back idle leases and tell what is held. Raises StoreUnavailable; what was not told is told next time."""
        await self._make_up(self._active)
        idle_before = elapsed_us() - int(IDLE_SECONDS * 1e6)
        for key in self._active:
            view = self._views[key]
            if view.used_us < idle_before and view.last_borrow_us < idle_before and self._book.give_back(key):
                self._unreported.add(key)
        await self._report_returned()
        async with self._reporting:
            await self._report_held()
        self._active = {key for key in self._active if not self._at_rest(key)}

    async def hand_back(self) -> None:
        """Give back all that is free, for a host that is to serve nothing more. Raises StoreUnavailable."""
        await self._make_up(list(self._views))
        self._unreported.update([key for key in self._book.leases if self._book.give_back(key)])
        await self._report_returned()

    def _at_rest(self, key: LeaseKey) -> bool:
        """Whether there is nothing to give back, to hear or to tell of this lease until it is used again."""
        view, lease = self._views[key], self._book.leases.get(key)
        if view.repeat is not None or view.reported != 0 or key in self._under_way:
            return False
        return lease is None or not (lease.free or lease.held)

    def presented(self, *, give_back: bool) -> dict[LeaseKey, Totals]:
        """What this session was lent and has returned, in all; what is free is given back first where that is asked.

        What PostgreSQL shows as held is told again with the next report.
        """
        self.forgotten = False
        totals = {}
        for key, lease in self._book.leases.items():
            if give_back:
                self._book.give_back(key)
            if lease.granted:
                totals[key] = Totals(lease.granted, lease.returned)
                self._view(key).reported = None
                self._active.add(key)
        return totals

    async def _make_up(self, keys: Iterable[LeaseKey]) -> None:
        """Hear what became of borrows whose answers got lost: what was lent unheard is out of everybody's reach."""
        for key in list(keys):
            view = self._views.get(key)
            if view is not None and view.repeat is not None and key not in self._under_way:
                await _answered(self._begin(key, view.repeat[1]))

    async def _report_held(self) -> None:
        held = {
            key: lease.held
            for key in self._active
            if (lease := self._book.leases.get(key)) is not None and lease.held != self._views[key].reported
        }
        if held:
            for key in held:
                self._views[key].reported = None  # until the answer is here nobody knows what PostgreSQL shows
            await self._store.report_held(self._session.session_id, held)
            for key, amount in held.items():
                self._views[key].reported = amount

    async def _report_returned(self) -> None:
        returned = {key: self._book.leases[key].returned for key in self._unreported}
        if returned:
            await self._store.give_back(self._session.session_id, returned)
            self._unreported -= {key for key, total in returned.items() if self._book.leases[key].returned == total}

    async def _stop_asking(self) -> None:
        for key in list(self._unasked):
            if key in self._asked and key not in self._in_line:
                await self._store.end_reclaim(self._session.session_id, key)
                self._asked.pop(key, None)  # who came meanwhile asks again
            self._unasked.discard(key)

    async def settle_down(self) -> None:
        """Wait for borrows under way, so that nothing is lent after the session ends."""
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)


async def _answered(asked: Awaitable[T]) -> T:
    """What PostgreSQL says, within the time that a request may wait for it; a borrow goes on by itself beyond that."""
    try:
        return await at_most(ANSWER_SECONDS, asked)
    except TimeoutError:
        raise StoreUnavailable("PostgreSQL does not answer") from None
