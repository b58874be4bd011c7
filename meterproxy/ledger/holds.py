"""Holds: the one place where a request's money is placed and ended, in memory and in the journal at once.

Rules
-----
- Placing and ending are synchronous: between the book's decision and the journal's record nothing else runs.
- A hold may leave a part of the bound unheld, if the account's *exposure* has room for that part. It is extended while
  the answer comes: what it holds then is no longer exposed. An extension is all or nothing, and journaled.
- The journal's record of an ending is written before the caller may forward the terminal piece of an answer.
- An ending is never refused. Where the journal's volume fails, the ending stays in memory for settle and the caller is
  told, so that the client is told.
"""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final
from uuid import UUID

import msgspec

from meterproxy.core.draw import CAPTURED, RELEASED, measured
from meterproxy.core.hold import DurableHold, Hold, HoldRequest, Rates, Receipt, Rest
from meterproxy.core.key import KeyEntry
from meterproxy.core.lending import UNWRITTEN, LeaseKey, Settling
from meterproxy.core.limit import Measure
from meterproxy.core.money import MAX_NANOS
from meterproxy.core.path import ByMeasure, Draws
from meterproxy.core.plan import Plan, Planned, exposed, plan_for
from meterproxy.core.price import Amounts, Price
from meterproxy.core.record import (
    Ending,
    EndRecord,
    ExtendRecord,
    PlaceRecord,
    PriceRecord,
    ProgressRecord,
    Subject,
    bookable_name,
    fit,
)
from meterproxy.core.usage import Usage
from meterproxy.errors import ApiError, Case, JournalFailed, JournalFull, NoExposure, SessionOver, StoreUnavailable
from meterproxy.ledger.book import Book, End, Placed
from meterproxy.ledger.clock import elapsed_us
from meterproxy.ledger.draws import MEASURED, Lacking, drawn_by, extension, opposite
from meterproxy.ledger.journal import Journal
from meterproxy.ledger.lease import Borrower
from meterproxy.ledger.rates import rates_of
from meterproxy.ledger.refusal import refusal, unavailable
from meterproxy.ledger.route import path_of
from meterproxy.ledger.session import Session
from meterproxy.ledger.settle import Settler

_log: Final = logging.getLogger(__name__)

RETRY_SECONDS: Final = 0.25
"""How often a waiting request looks again, should it have missed what others gave back."""
SHORTEST_SECONDS: Final = 0.001
"""Nobody waits for less."""
GROWTH_BYTES: Final = 8
"""By how many bytes a number may be longer in a record of the journal than another."""
BOUNDLESS: Final = Rest(MAX_NANOS, None)
"""What is left of limits that refuse nothing."""


class PlacedHold(Hold, eq=False):
    """A hold of this worker: where its parts are in book and journal, and its receipt once it was captured.

    `keys` are the leases that it draws from, credit last; `plan` says so of one that may be extended. `durable` is what
    it goes on as once it has become durable.
    """

    keys: tuple[LeaseKey, ...]
    credit: LeaseKey
    placed: Placed
    placed_us: int
    input_estimate: int | None = None
    plan: Plan | None = None
    placed_at: int = UNWRITTEN
    receipt: Receipt | None = None
    durable: DurableHold | None = None


class Holds:
    """Fulfils `proxy.ports.Ledger` for one worker session; `shadow`: what would be refused is placed and counted."""

    def __init__(
        self, book: Book, journal: Journal, session: Session, borrower: Borrower, settler: Settler, wait_ms: int
    ) -> None:
        self._book = book
        self._journal = journal
        self._session = session
        self._borrower = borrower
        self._settler = settler
        self._wait_us = wait_ms * 1000
        self._prices_written: set[UUID] = set()
        self.open: dict[Hold, PlacedHold] = {}
        """Holds that have not ended, the oldest first."""
        self.anomalies: Counter[str] = Counter()
        self.shadow = False
        self.shadowed = 0
        """How many holds were placed in shadow mode that would have been refused."""
        self.on_refused: Callable[[Planned, HoldRequest, int], None] = lambda _planned, _request, _amount: None
        """Told of each request that is refused: by which limit, and how much of it was asked for."""

    # ── place ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def try_place(self, request: HoldRequest) -> Hold | None:
        """See `proxy.ports.Ledger.try_place`."""
        now_us = self._check_trust()
        if request.exposed_nanos and self.shadow:
            raise NoExposure
        plan = _plan_of(request)
        route = self._borrower.route(plan)
        amounts = drawn_by(request)
        placed = self._book.place(route.leases, amounts)
        if placed is None:
            return self._short(request, plan, amounts)
        hold = self._held(request, Draws(route.path, amounts), plan.keys, placed, now_us)
        if request.exposed_nanos:
            hold.plan = plan
        self._write_place(hold)
        self.open[hold] = hold
        self._borrower.touch(route, placed, now_us)
        return hold

    async def place(self, request: HoldRequest) -> Hold:
        """See `proxy.ports.Ledger.place`."""
        deadline_us = elapsed_us() + self._wait_us
        with ExitStack() as line:
            waited_for: set[LeaseKey] = set()
            while (hold := self.try_place(request)) is None:
                plan = _plan_of(request)
                short = await self._borrow(plan, drawn_by(request))
                if short is None:
                    continue
                if short.planned.measure is Measure.EXPOSURE:
                    raise NoExposure
                seconds = (deadline_us - elapsed_us()) / 1e6
                if short.spent or self.shadow or seconds < SHORTEST_SECONDS:
                    return self._refuse(request, plan, short)
                if short.planned.key not in waited_for:
                    waited_for.add(short.planned.key)
                    line.enter_context(self._borrower.line.waiting(short.planned.key))
                await self._wait(short, seconds)
            return hold

    def _short(self, request: HoldRequest, plan: Plan, amounts: ByMeasure) -> Hold | None:
        """What does not fit here: refused where that is known to be the last word, else to be borrowed for."""
        for planned in plan.leased:
            amount = amounts[planned.measure]
            if self._borrower.denied(planned.key, amount):
                if planned.measure is Measure.EXPOSURE:
                    raise NoExposure
                return self._refuse(request, plan, Lacking(planned, amount, spent=True))
        return None

    def _refuse(self, request: HoldRequest, plan: Plan, short: Lacking) -> Hold:
        """Raise what the client is told; in shadow mode only count that, and all that the request takes."""
        if not self.shadow:
            self.on_refused(short.planned, request, short.amount)
            raise refusal(short.planned, short.amount, self._session.now_us(), spent=short.spent)
        self.shadowed += 1
        amounts = drawn_by(request)
        path = path_of((*plan.counted, *plan.leased), (), self._session.session_id)
        placed = self._book.place((), amounts)
        assert placed is not None, "what draws from nothing is never short"
        hold = self._held(request, Draws(path, amounts), (), placed, elapsed_us())
        self._write_place(hold)
        self.open[hold] = hold
        return hold

    async def _wait(self, short: Lacking, seconds: float) -> None:
        """Wait for what is held by others to come back, a moment only: then PostgreSQL is to be asked again."""
        with suppress(StoreUnavailable):
            await self._borrower.ask_reclaim(short.planned.key, short.amount - self._book.free(short.planned.key))
        await self._borrower.room(short.planned.key, min(seconds, RETRY_SECONDS))

    # ── what is left ────────────────────────────────────────────────────────────────────────────────────────────────

    def rest(self, request: HoldRequest) -> Rest | None:
        """See `proxy.ports.Ledger.rest`; in shadow mode nothing is cut down to what is left."""
        if self.shadow:
            return BOUNDLESS
        plan = plan_for(request.key, request.operation, request.model, request.occurred_us)
        return self._borrower.route(plan).rest()

    async def fetch_rest(self, request: HoldRequest) -> Rest:
        """See `proxy.ports.Ledger.fetch_rest`."""
        if self.shadow:
            return BOUNDLESS
        plan = plan_for(request.key, request.operation, request.model, request.occurred_us)
        try:
            await self._borrower.fetch_rests([planned for planned in plan.leased if planned.measure in MEASURED])
        except StoreUnavailable as error:
            raise unavailable() from error
        rest = self._borrower.route(plan).rest()
        assert rest is not None, "all of it was just asked for"
        return rest

    def rates(self, key: KeyEntry, operation: str, model: str, at_us: int) -> Rates | None:
        """See `proxy.ports.Ledger.rates`."""
        return rates_of(self._borrower.route(plan_for(key, operation, model, at_us)), at_us)

    def confirm(self, hold: Hold) -> None:
        """See `proxy.ports.Ledger.confirm`."""
        assert hold in self.open, "only an open hold may be spent"
        self._check_trust()

    def _check_trust(self) -> int:
        """Whether this worker may spend right now; answers what time it is."""
        now_us = self._session.trusted_us()
        if not now_us:
            raise unavailable()
        return now_us

    async def _borrow(self, plan: Plan, amounts: ByMeasure) -> Lacking | None:
        try:
            return await self._borrower.borrow(plan, amounts)
        except (StoreUnavailable, SessionOver) as error:
            raise unavailable() from error

    def _write_place(self, hold: PlacedHold) -> None:
        try:
            self._journal.make_room()  # may begin a segment, which must be readable by itself
            self.write_price(hold.price)
            growth = 0 if hold.plan is None else GROWTH_BYTES * (len(hold.subject.draws) + 1)
            hold.placed_at = self._journal.place(PlaceRecord(hold.subject, hold.input_estimate), growth)
        except (JournalFull, JournalFailed) as error:
            self._book.release(hold.placed)
            raise ApiError(Case.OVERLOADED, "The service cannot take requests right now.") from error
        except BaseException:
            self._book.release(hold.placed)  # whatever it was, nobody knows of this hold and nobody would end it
            raise

    def write_price(self, price: Price) -> None:
        """Write a price's document before the first record of a segment that names it. Raises as `Journal.describe`."""
        if price.id in self._prices_written:
            return
        document = price.document()
        self._settler.know_price(price.id, document)
        self._journal.describe(PriceRecord(price.id, document))
        self._prices_written.add(price.id)

    def segment_began(self) -> None:
        """A new segment of the journal knows no prices yet."""
        self._prices_written.clear()

    def _held(
        self, request: HoldRequest, draws: Draws, keys: tuple[LeaseKey, ...], placed: Placed, now_us: int
    ) -> PlacedHold:
        key, bound = request.key, request.bound
        subject = Subject(
            request.request_id, request.occurred_us, key.account_id, key.user_id, key.key_id, request.operation,
            request.provider, bookable_name(request.model), request.price.id, request.markup_ppm, request.hold_nanos,
            bound.input_tokens, bound.output_tokens, request.stream, draws, request.conversation, request.tags,
        )  # fmt: skip
        return PlacedHold(subject, request.price, keys, key.credit, placed, now_us, request.input_estimate)

    # ── while it runs ───────────────────────────────────────────────────────────────────────────────────────────────

    def progress(self, hold: Hold, usage: Usage) -> None:
        """See `proxy.ports.Ledger.progress`."""
        try:
            self._journal.progress(ProgressRecord(hold.subject.request_id, usage))
        except JournalFailed:
            _log.warning("a stream's progress could not be written", extra={"request_id": hold.subject.request_id})

    def extend(self, hold: Hold, more_nanos: int) -> bool:
        """See `proxy.ports.Ledger.extend`."""
        assert isinstance(hold, PlacedHold)
        more = extension(hold.placed.amounts, more_nanos)
        if not self._session.trusted_us() or not self._book.extend(hold.placed, more):
            return False
        draws = Draws(hold.subject.draws.path, hold.placed.amounts)
        record = ExtendRecord(hold.subject.request_id, hold.subject.hold_nanos + more_nanos, draws.each)
        try:
            self._journal.describe(record)
        except (JournalFull, JournalFailed):
            undone = self._book.extend(hold.placed, opposite(more))
            assert undone, "what was just held is there to be given back"
            return False
        hold.subject = msgspec.structs.replace(hold.subject, hold_nanos=record.hold_nanos, draws=draws)
        self._borrower.freed(hold.keys)
        return True

    async def make_room(self, hold: Hold, more_nanos: int) -> bool:
        """See `proxy.ports.Ledger.make_room`."""
        assert isinstance(hold, PlacedHold)
        assert hold.plan is not None, "what is held whole is never extended"
        wanted = (more_nanos, 0, 0, 0, 0)
        deadline_us = elapsed_us() + self._wait_us
        try:
            while (short := await self._borrower.borrow(hold.plan, wanted)) is not None:
                seconds = (deadline_us - elapsed_us()) / 1e6
                if short.spent or seconds < SHORTEST_SECONDS:
                    return False
                with self._borrower.line.waiting(short.planned.key):
                    await self._wait(short, seconds)
        except (StoreUnavailable, SessionOver):
            return False
        return True

    # ── end ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def capture(self, hold: Hold, ending: Ending, status_unwritten: int | None = None) -> Receipt:
        """See `proxy.ports.Ledger.capture`."""
        assert isinstance(hold, PlacedHold)
        subject = hold.subject
        cost, amount, flags = priced(hold.price, ending.usage, ending.service_tier, subject.markup_ppm)
        end = self._book.capture(hold.placed, measured(CAPTURED, ending, amount))
        if end is not End.ENDED:
            return self._repeated(hold, end)
        receipt = hold.receipt = Receipt(cost, amount, self._borrower.rest(hold.credit))
        if flags:
            ending = msgspec.structs.replace(ending, flags=(*ending.flags, *flags))
        overrun = max(amount - subject.hold_nanos, 0)
        self._write_end(hold, EndRecord(CAPTURED, subject, fit(ending), cost, amount, overrun), status_unwritten)
        return receipt

    def release(self, hold: Hold, ending: Ending) -> None:
        """See `proxy.ports.Ledger.release`; usage in the ending is what the provider may charge us all the same."""
        assert isinstance(hold, PlacedHold)
        end = self._book.release(hold.placed, measured(RELEASED, ending, 0))
        if end is not End.ENDED:
            self._repeated(hold, end)
            return
        cost = 0
        if any(ending.usage):
            cost, _, _ = priced(hold.price, ending.usage, ending.service_tier, hold.subject.markup_ppm)
        self._write_end(hold, EndRecord(RELEASED, hold.subject, fit(ending), cost, 0, 0))

    def _write_end(self, hold: PlacedHold, record: EndRecord, status_unwritten: int | None = None) -> None:
        del self.open[hold]
        try:
            self._settler.add(Settling(self._journal.end(record, hold.placed_at), record, hold.placed_at))
        except JournalFailed:
            record = _with_status(record, status_unwritten)
            self._settler.add(Settling(UNWRITTEN, record, hold.placed_at))
            raise
        finally:
            self._borrower.freed(hold.keys)

    def _repeated(self, hold: PlacedHold, end: End) -> Receipt:
        """A hold that has ended keeps its first ending; a second, different one is a bug that must be seen."""
        if end is not End.ALREADY:
            self.anomalies[end.value] += 1
            _log.error("a hold was ended twice", extra={"request_id": hold.subject.request_id, "second": end.value})
        return hold.receipt or Receipt(0, 0, None)


def _plan_of(request: HoldRequest) -> Plan:
    """What a request draws from."""
    key = request.key
    plan = plan_for(key, request.operation, request.model, request.accepted_us or request.occurred_us)
    if not request.exposed_nanos:
        return plan
    exposure = key.account.exposure
    if exposure is None:
        raise NoExposure
    return exposed(plan, key.account_id, exposure)


def priced(price: Price, usage: Usage, service_tier: str | None, markup_ppm: int) -> tuple[int, int, tuple[str, ...]]:
    """What usage costs us and what is charged, both within what a ledger can hold, and what to flag about it."""
    amounts = price.amounts(usage, service_tier, markup_ppm)
    flags = price.flags(usage, service_tier)
    if max(amounts.cost_nanos, amounts.amount_nanos) > MAX_NANOS // 4:
        amounts = Amounts(min(amounts.cost_nanos, MAX_NANOS // 4), min(amounts.amount_nanos, MAX_NANOS // 4))
        flags = (*flags, "amount_clamped")
    return amounts.cost_nanos, amounts.amount_nanos, flags


def _with_status(record: EndRecord, status: int | None) -> EndRecord:
    """The record of an ending whose client was sent another status."""
    if status is None:
        return record
    return msgspec.structs.replace(record, ending=msgspec.structs.replace(record.ending, status=status))
