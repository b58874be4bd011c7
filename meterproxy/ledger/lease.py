"""Leases, seen from the worker: borrow what requests need, give back what they do not.

Rules
-----
- At most one borrow per limit window is under way; everybody who needs the same window waits for its answer.
- What PostgreSQL says was granted *in total* is the truth: an answer that got lost is made up for by the next one.
- A borrow whose answer got lost is repeated under its own id before anything else is borrowed.
- After "nothing left" nobody asks again for as much for a second, unless the limit changes or it is this
  worker's turn in line: an empty account in a retry loop does not reach PostgreSQL.
- Who waits for what others hold stands in line for it (`line`).
- What is given back is out of the book at once; the report is cumulative and may be repeated.
- A lease stays in the book while its session lives, since PostgreSQL's totals of it go on; what is done in the
  background walks only those that have something to tell or to give back.
- Other workers are asked for their free leases only as long as somebody here waits in line for them.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Final, NamedTuple, TypeVar
from uuid import UUID, uuid4

from meterproxy.core.lending import Borrow, LeaseKey, Lent, News, Rest, Totals
from meterproxy.core.path import ByMeasure
from meterproxy.core.plan import Plan, Planned
from meterproxy.core.window import FOREVER_US
from meterproxy.errors import LendingPaused, StoreUnavailable
from meterproxy.ledger.asking import answered
from meterproxy.ledger.book import Book, Placed
from meterproxy.ledger.clock import elapsed_us
from meterproxy.ledger.draws import Lacking
from meterproxy.ledger.line import Line
from meterproxy.ledger.ports import SessionStore
from meterproxy.ledger.route import Route
from meterproxy.ledger.session import Session
from meterproxy.ledger.view import DENIAL_US, IDLE_SECONDS, MOST_BORROWED, QUICK_SECONDS, View
from meterproxy.runtime.tasks import set_within

T = TypeVar("T")

QUICK_US: Final = int(QUICK_SECONDS * 1_000_000)
TOUCH_US: Final = 100_000
"""How long a route need not be noted to be in use again, as long as nothing on it runs low."""
MOST_AT_ONCE: Final = 64
"""Windows that one statement lends from."""
WALKED_AT_ONCE: Final = 500
"""Leases that are looked at in one step of the background's work."""


Lending = asyncio.Task[frozenset[LeaseKey]]
"""A borrow under way; its result are the windows of which there is more here now."""


class Group(NamedTuple):
    """Windows that will be borrowed from together, in this turn of the loop."""

    missing: dict[LeaseKey, int]
    task: Lending


class Borrower:
    """Borrows for one session into one book."""

    def __init__(self, store: SessionStore, session: Session, book: Book) -> None:
        self._store = store
        self._session = session
        self._book = book
        self.line = Line(store, session)
        self._views: dict[LeaseKey, View] = {}
        self._under_way: dict[LeaseKey, Lending] = {}
        self._next: dict[UUID | None, Group] = {}
        self._waiting: dict[LeaseKey, int] = {}
        self._unreported: set[LeaseKey] = set()
        self._changed: dict[LeaseKey, asyncio.Event] = {}
        self._reporting = asyncio.Lock()
        self._active: dict[LeaseKey, None] = {}
        self._ending: list[tuple[int, int, LeaseKey]] = []
        self._of_limit: dict[UUID, list[LeaseKey]] = {}
        self._numbers = count()
        self._stopped_until_us = 0
        self._let_go_us = 0
        """What was let go of belongs to windows that had ended by then."""
        self.forgotten = False
        """PostgreSQL has said that it lent less than it did: somebody should present it again."""

    # ── asked synchronously, on the way of a request ────────────────────────────────────────────────────────────────

    def route(self, plan: Plan) -> Route:
        """The leases of a plan's requests, as they are here now."""
        route: Route | None = plan.route
        if route is None or route.owner is not self or not route.whole or plan.until_us <= self._let_go_us:
            session_id = self._session.session_id
            route = plan.route = Route(plan, self, session_id, self._views, self._book.leases)
        return route

    def touch(self, route: Route, placed: Placed, now_us: int) -> None:
        """A hold was placed by this route; where a lease is in steady use and runs low, borrow ahead.

        Ahead goes no further than a usual hold needs, so that the last of an account is not taken for nobody.
        """
        if not placed.low and now_us - route.touched_us < TOUCH_US:
            return
        route.touched_us = now_us
        for key, view, lease in route.steps:
            self._active[key] = None
            steady = now_us - view.used_us < QUICK_US
            view.used_us = now_us
            if steady and lease.free < lease.low:
                self._borrow_ahead(key, view, now_us)

    def _borrow_ahead(self, key: LeaseKey, view: View, now_us: int) -> None:
        if view.rest >= view.unit > 0 and key not in self._under_way and not view.refuses(view.unit, now_us):
            self._begin({key: view.unit}, key.account_id)

    def potential(self, key: LeaseKey) -> int | None:
        """What could be held if every hold ended, as last heard; None if never heard."""
        view = self._views.get(key)
        return None if view is None or not view.heard else view.potential(self._book.leases.get(key))

    def denied(self, key: LeaseKey, amount: int) -> bool:
        """Whether it is known, freshly, that `amount` would not fit even if every hold ended."""
        view = self._views.get(key)
        potential = self.potential(key)
        return view is not None and potential is not None and view.denied_until_us > elapsed_us() and amount > potential

    def rest(self, key: LeaseKey) -> int | None:
        """What is left fleet-wide for new holds as far as this worker knows: free here and not lent to anybody."""
        view = self._views.get(key)
        if view is None or not view.heard:
            return None
        lease = self._book.leases.get(key)
        return view.rest if lease is None else view.rest + lease.free

    def freed(self, keys: Iterable[LeaseKey]) -> None:
        """There is more in these leases, or may be: wake whoever waits for room."""
        if self._changed:
            for key in keys:
                if (event := self._changed.pop(key, None)) is not None:
                    event.set()

    def returned(self, key: LeaseKey) -> None:
        """There may be more to borrow of this limit than when it was refused: ask again, and wake whoever waits."""
        if (view := self._views.get(key)) is not None:
            view.denied_until_us = 0
            self.freed((key,))

    # ── asked by requests that must wait ────────────────────────────────────────────────────────────────────────────

    async def fetch_rests(self, wanted: Sequence[Planned]) -> None:
        """Ask PostgreSQL what is left of these limits. Raises StoreUnavailable."""
        keys = [self._know(planned) for planned in wanted]
        rests = await answered(self._store.read_rests(self._session.session_id, keys))
        for key, rest in zip(keys, rests, strict=True):
            self._note(key, rest)

    async def borrow(self, plan: Plan, amounts: ByMeasure) -> Lacking | None:
        """Get the leases of a plan large enough for a hold of these amounts, or learn of the first that cannot be.

        Raises:
            StoreUnavailable: PostgreSQL is away, or nothing is lent for now.
            SessionOver: this worker may not borrow any more.
        """
        now_us = elapsed_us()
        missing = {
            key: amount - free
            for planned in plan.leased
            if (amount := amounts[planned.measure]) > (free := self._book.free(planned.key))
            and not self._views[key := self._know(planned)].refuses(amount - free, now_us)
        }
        granted = await self._all_borrowed(missing) if missing else frozenset()
        for planned in plan.leased:
            amount = amounts[planned.measure]
            if amount > self._book.free(planned.key) and planned.key not in granted:
                potential = self.potential(planned.key)
                return Lacking(planned, amount, potential is not None and amount > potential)
        return None

    async def _all_borrowed(self, missing: dict[LeaseKey, int]) -> frozenset[LeaseKey]:
        """Wait for the answers about all that is missing, which others may have asked for already."""
        for key, amount in missing.items():
            self._waiting[key] = self._waiting.get(key, 0) + amount
        try:
            new = {key: amount for key, amount in missing.items() if key not in self._under_way}
            self._begin(new, next(iter(missing)).account_id)
            return await answered(_all({self._under_way[key]: None for key in missing}))
        finally:
            for key, amount in missing.items():
                self._waiting[key] -= amount
                if not self._waiting[key]:
                    del self._waiting[key]

    async def room(self, key: LeaseKey, timeout_seconds: float) -> None:
        """Wait until a hold of this lease ends, somebody returns money, or the time is over."""
        event = self._changed.setdefault(key, asyncio.Event())
        await set_within(event, timeout_seconds)

    async def ask_reclaim(self, key: LeaseKey, amount: int) -> None:
        """Stand in line for this much more, where anybody could give it back. Raises StoreUnavailable.

        Who is lent nothing though there is enough waits for somebody before him, who may leave the line.
        """
        view, lease = self._views.get(key), self._book.leases.get(key)
        if view is None:
            return  # its window ended while it was borrowed from, and was let go of
        set_aside = view.rest >= amount
        if set_aside or view.outstanding > (lease.outstanding if lease else 0):
            await self.line.ask(key, amount)

    # ── borrowing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, missing: Mapping[LeaseKey, int], together: UUID | None) -> None:
        """Have this borrowed in one statement with what else is wanted `together` in this turn of the loop."""
        for key, amount in missing.items():
            group = self._next.get(together)
            if group is None or len(group.missing) >= MOST_AT_ONCE:
                group = self._next[together] = self._group(together)
            group.missing[key] = amount
            self._under_way[key] = group.task

    def _group(self, together: UUID | None) -> Group:
        missing: dict[LeaseKey, int] = {}
        task = asyncio.ensure_future(self._lend(missing, together))
        task.add_done_callback(lambda done: self._finished(missing, done))
        return Group(missing, task)

    def _finished(self, keys: Iterable[LeaseKey], task: Lending) -> None:
        for key in keys:
            del self._under_way[key]
        if not task.cancelled() and task.exception() is None:
            self.freed(task.result())

    async def _lend(self, missing: dict[LeaseKey, int], together: UUID | None) -> frozenset[LeaseKey]:
        if (group := self._next.get(together)) is not None and group.missing is missing:
            del self._next[together]
        self._active.update(dict.fromkeys(missing))
        if self._stopped_until_us > elapsed_us():
            raise LendingPaused("nothing is lent for now")
        new = [key for key in missing if self._views[key].repeat is None]
        borrows = [self._borrow_of(key, min(amount, MOST_BORROWED)) for key, amount in missing.items()]
        life = self._session.life
        try:
            answers = await self._store.lend(self._session.session_id, borrows)
        except LendingPaused:
            self._stopped_until_us = elapsed_us() + DENIAL_US
            for key in new:
                self._views[key].repeat = None  # the answer is here: nothing was lent
            raise
        except StoreUnavailable:
            raise  # it may have been lent all the same, so the next borrow is this one again
        except BaseException:
            for borrow in borrows:
                self._views[borrow.key].repeat = None
            raise
        taken = zip(borrows, answers, strict=True)
        return frozenset([borrow.key for borrow, lent in taken if self._take(borrow.key, lent, life)])

    def _borrow_of(self, key: LeaseKey, missing: int) -> Borrow:
        view = self._views[key]
        need, want = view.size(elapsed_us(), missing, self._waiting.get(key, 0))
        view.repeat = view.repeat or Borrow(uuid4(), key, need, want)
        return view.repeat

    def _take(self, key: LeaseKey, lent: Lent, life: UUID) -> bool:
        """Take note of an answer; whether there is more here than before."""
        view = self._views[key]
        need = view.repeat.need if view.repeat else 0
        view.repeat = None
        view.last_borrow_us = elapsed_us()
        news = self._book.take_up(key, lent)
        self.forgotten = self.forgotten or (news < 0 and life == self._session.life)
        self._note(key, Rest(lent.rest, lent.outstanding, lent.consumed))
        if lent.granted:
            self.line.leave(key)
        if news > 0:
            view.denied_until_us = 0
            return True
        view.deny(need, elapsed_us())
        return False

    def _note(self, key: LeaseKey, rest: Rest) -> None:
        """PostgreSQL has told how things stand; where nothing is left, running low is no reason to look."""
        view = self._views[key]
        view.note(rest)
        if (lease := self._book.leases.get(key)) is not None:
            lease.low = view.want // 4 if view.rest >= view.unit else 0

    def _know(self, planned: Planned) -> LeaseKey:
        """Begin to keep an eye on a limit window."""
        key = planned.key
        if key not in self._views:
            self._views[key] = View(planned.limit, planned.window)
            self._of_limit.setdefault(key.limit_id, []).append(key)
            if planned.window.end_us < FOREVER_US:
                heapq.heappush(self._ending, (planned.window.end_us, next(self._numbers), key))
        return key

    # ── done in the background ──────────────────────────────────────────────────────────────────────────────────────

    async def heard(self, news: News) -> None:
        """Take note of changed limits, and give back at once what is free here and others wait for.

        What is free of a limit that people changed is given back too, so that a lower cap is in force at once.

        Raises:
            StoreUnavailable: what was not told is told with the next report.
        """
        for change in news.changes:
            if change.kind == "limit" and change.subject_id is not None:
                for key in self._of_limit.get(change.subject_id, ()):
                    if change.account_id is not None and self._book.give_back(key):
                        self._unreported.add(key)
                    self.returned(key)
        for key in news.served:
            self.returned(key)
        await self._make_up(news.reclaims)
        for key in news.reclaims:
            if self._book.give_back(key):
                self._unreported.add(key)
        await self._report_returned()
        await self.line.tell_over()

    async def report(self) -> None:
        """Give back idle leases, tell what is held, go on into new windows and let go of old ones.

        Raises:
            StoreUnavailable: what was not told is told next time.
        """
        async with self._reporting:
            now_us = self._session.now_us()
            self._active.update(dict.fromkeys(self._ended(now_us)))
            await self._make_up(self._active)
            idle_before = elapsed_us() - int(IDLE_SECONDS * 1e6)
            async for key in _in_steps(self._active):
                self._look_after(key, now_us, idle_before)
            await self._report_returned()
            await self._report_held()
            async for key in _in_steps(self._active):
                self._let_go(key, now_us)

    def _ended(self, now_us: int) -> Iterator[LeaseKey]:
        """Windows that have ended since the last time."""
        while self._ending and self._ending[0][0] <= now_us:
            yield heapq.heappop(self._ending)[2]

    def _look_after(self, key: LeaseKey, now_us: int, idle_before: int) -> None:
        """Give back what is idle or of no use any more; borrow ahead from the next window of what is in use."""
        view = self._views[key]
        idle = view.used_us < idle_before and view.last_borrow_us < idle_before
        if (idle or view.window.end_us <= now_us) and self._book.give_back(key):
            self._unreported.add(key)
        if not idle and view.used_us and (ahead := view.next_window(key, now_us)) is not None:
            view.continued = True
            self._continue(view, self._know(ahead))

    def _continue(self, view: View, ahead: LeaseKey) -> None:
        following = self._views[ahead]
        if following.heard or ahead in self._under_way or not view.unit:
            return
        following.unit, following.doublings = view.unit, view.doublings
        self._begin({ahead: view.unit}, None)

    def _let_go(self, key: LeaseKey, now_us: int) -> None:
        """Stop looking at what is at rest; forget it if its window has ended and PostgreSQL knows all of it."""
        if not self._at_rest(key):
            return
        view, lease = self._views[key], self._book.leases.get(key)
        if view.window.end_us > now_us:
            self._active.pop(key, None)
        elif not (lease and lease.outstanding) and key not in self._unreported and key not in self._waiting:
            self._let_go_us = max(now_us, self._let_go_us)
            self._active.pop(key, None)
            del self._views[key]
            self._book.forget(key)
            self.line.leave(key)
            self._changed.pop(key, None)
            self._of_limit[key.limit_id].remove(key)
            if not self._of_limit[key.limit_id]:
                del self._of_limit[key.limit_id]

    async def hand_back(self) -> None:
        """Give back all that is free, for a host that is to serve nothing more. Raises StoreUnavailable."""
        await self._make_up(list(self._views))
        self._unreported.update([key for key in self._book.leases if self._book.give_back(key)])
        await self._report_returned()

    def _at_rest(self, key: LeaseKey) -> bool:
        """Whether there is nothing to give back, to hear or to tell of this lease until it is used again."""
        view, lease = self._views[key], self._book.leases.get(key)
        if view.repeat is not None or view.reported != 0 or key in self._under_way or key in self.line:
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
                self._views[key].reported = None
                self._active[key] = None
        return totals

    async def _make_up(self, keys: Iterable[LeaseKey]) -> None:
        """Hear what became of borrows whose answers got lost: what was lent unheard is out of everybody's reach.

        While nothing is lent it stays so, and keeps nobody from giving back.
        """
        lost = {
            key: view.repeat.need
            for key in keys
            if (view := self._views.get(key)) is not None and view.repeat is not None
        }
        if lost:
            self._begin({key: need for key, need in lost.items() if key not in self._under_way}, None)
            with suppress(LendingPaused):
                await answered(_all({self._under_way[key]: None for key in lost}))

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
            leases = self._book.leases  # one may have been told by somebody else meanwhile, and let go of
            self._unreported -= {
                key for key, total in returned.items() if key not in leases or leases[key].returned == total
            }

    async def settle_down(self) -> None:
        """Wait for borrows under way, so that nothing is lent after the session ends."""
        while self._under_way:
            await asyncio.wait(set(self._under_way.values()))


async def _in_steps(keys: Iterable[LeaseKey]) -> AsyncIterator[LeaseKey]:
    """All of these keys, with a turn of the loop now and then: requests do not wait for many of them."""
    for number, key in enumerate(list(keys), 1):
        yield key
        if not number % WALKED_AT_ONCE:
            await asyncio.sleep(0)


async def _all(tasks: Iterable[Lending]) -> frozenset[LeaseKey]:
    """What all of them have brought; raises what the first failed of."""
    return frozenset[LeaseKey]().union(*await asyncio.gather(*(asyncio.shield(task) for task in tasks)))
