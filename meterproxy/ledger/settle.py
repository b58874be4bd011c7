"""Settle: the background writer that moves endings from the journal into PostgreSQL in batches.

Rules
-----
- One batch is under way at a time; a batch is booked whole or not at all.
- A batch is what came within the interval, or is full: what comes while one is under way waits for the next. Settling
  on until nothing waits would never end under load, with batches of the few that came within one round trip.
- An ending leaves the queue only when PostgreSQL has confirmed it. The journal is the queue; of a long one, `Backlog`
  has only the ends in memory.
- Progress in PostgreSQL ahead of ours means that the answer to a commit got lost: what it covers is confirmed. Progress
  behind ours means that PostgreSQL has lost confirmed rows (a failover): the journal is read again from there, after
  the session has presented its leases.
- In doubt (a new life of the database) its progress is asked for even where nothing waits; once all that was missing
  is settled, `on_told_again` is called, whatever has come meanwhile.
- `observe` is told once of each batch that PostgreSQL has, also where only its progress says so.
- A batch that PostgreSQL refuses is halved until the bad record is alone; that one is booked with minimal columns.
  Nothing waits for it, nothing is dropped.
- Notes (whose a resource is, that a hold became durable) are queued among the endings, in the order of the journal, and
  booked in the same batches.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, Protocol
from uuid import UUID

from meterproxy.core.draw import deferred, taken_together
from meterproxy.core.lending import Batch, LeaseKey, Noted, Settling
from meterproxy.core.path import Draw
from meterproxy.core.record import (
    DeferRecord,
    EndRecord,
    ForgetRecord,
    NoteRecord,
    OwnerRecord,
    PriceRecord,
    Subject,
    identity,
)
from meterproxy.errors import Forgotten, ProgressMoved, StoreUnavailable, Unbookable
from meterproxy.ledger.backlog import Backlog, Item, item_of
from meterproxy.ledger.book import Book
from meterproxy.ledger.journal import Journal
from meterproxy.ledger.ports import SettleStore
from meterproxy.runtime.tasks import set_within

BATCH_ENDINGS: Final = 512
"""So many that settling keeps up with a worker under full load: most of a batch's time is waiting for PostgreSQL."""
RETRY_SECONDS: Final = 0.5
HASTE_SECONDS: Final = 0.025
"""How long what is to be settled at once waits for others: many claims a second are no reason for as many batches."""

_log: Final = logging.getLogger(__name__)

Observer = Callable[[Sequence[Settling], float], None]


class NoteObserver(Protocol):
    """Told of each note when it is queued, and again when PostgreSQL has it."""

    def queued(self, record: NoteRecord) -> None: ...

    def settled(self, record: NoteRecord) -> None: ...


class Present(Protocol):
    """Has the session present its leases; `forgot`: because the settler found rows missing."""

    async def __call__(self, *, forgot: bool) -> None: ...


async def _cannot_present(*, forgot: bool) -> None:
    raise Forgotten(f"PostgreSQL is in another life than at this worker's start{', and behind' if forgot else ''}")


async def _nothing() -> None:
    pass


class Settler:
    """Settles one journal for one worker session.

    Args:
        position: where PostgreSQL says the journal stands.
        session_id: the living session; draws of earlier ones are not in this book.
        life: the life of the database in which PostgreSQL stands there; None: whichever it is.

    `present` is called before anything is sent again, and where the database is in another life.
    """

    def __init__(
        self,
        store: SettleStore,
        journal: Journal,
        book: Book,
        position: int,
        session_id: UUID,
        interval_ms: int = 200,
        life: UUID | None = None,
    ) -> None:
        self._store = store
        self._journal = journal
        self._book = book
        self._session_id = session_id
        self._interval_seconds = interval_ms / 1000
        self._position = position
        self._queue = Backlog(journal)
        self._documents: dict[UUID, bytes] = {}
        self._stored: set[UUID] = set()
        self._due = asyncio.Event()
        self._added = 0
        """Records that were ever queued; what is sent again was."""
        self._full_at = BATCH_ENDINGS
        """How many that are once what waits behind the batch under way is a full one."""
        self._missing_until = 0
        """How many were queued when it was last known what PostgreSQL misses."""
        self._progress = asyncio.Event()
        self._hastened = False
        self._life = life
        self._in_doubt = False
        self._telling_again = False
        self.rejected = 0
        """Records that wait for a person since."""
        self.present: Present = _cannot_present
        self.on_told_again: Callable[[], Awaitable[None]] = _nothing
        self.notes: list[NoteObserver] = []
        self.observe: Observer = lambda _endings, _seconds: None
        self.on_returned: Callable[[LeaseKey], None] = lambda _key: None
        """Told of each limit window to which the end of a durable hold may have returned something."""

    @property
    def queued(self) -> int:
        """Records that PostgreSQL does not have yet."""
        return len(self._queue)

    @property
    def oldest_us(self) -> int | None:
        """Accept time of the oldest record that waits."""
        oldest = self._queue.first(1)
        if not oldest:
            return None
        record = oldest[0].record
        return record.occurred_us if isinstance(record, OwnerRecord | ForgetRecord) else record.subject.occurred_us

    def know_price(self, price_id: UUID, document: bytes) -> None:
        """Remember a price's document, to be stored with the first row that names it."""
        self._documents[price_id] = document

    def add(self, item: Item) -> None:
        """Queue an ending or a note."""
        self._queue.append(item)
        if isinstance(item, Noted):
            self._tell_queued(item)
        self._added += 1
        if self._added >= self._full_at:
            self._due.set()

    def hasten(self) -> None:
        """Have what is queued settled at once, together with what else comes in a moment."""
        if not self._hastened:
            self._hastened = True
            asyncio.get_running_loop().call_later(HASTE_SECONDS, self._due.set)

    def doubt(self, life: UUID) -> None:
        """The database is in this life, to which the session has presented; its progress may stand anywhere."""
        self._life = life
        self._in_doubt = self._telling_again = True
        self._due.set()

    async def catch_up(self) -> None:
        """Wait until everything that is queued now is in PostgreSQL; needs `run` to be running."""
        position, unwritten = self._queue.last_position, self._queue.unwritten()
        self._due.set()
        while self._queue and not (self._position >= position and all(item.accounted for item in unwritten)):
            self._progress.clear()
            await self._progress.wait()

    async def run(self) -> None:
        """Settle for ever: every interval, or sooner when a batch is full."""
        while True:
            await set_within(self._due, self._interval_seconds)
            self._due.clear()
            self._hastened = False
            await self.drain()

    async def drain(self) -> None:
        """Settle what is queued now, and on as long as full batches wait, if need be until PostgreSQL is back."""
        end = self._added
        while self.behind and (self._done < end or self._added >= self._full_at or self._telling_again):
            try:
                await self.settle_batch()
            except StoreUnavailable as error:
                _log.warning("settling waits for PostgreSQL", extra={"queued": len(self._queue), "error": str(error)})
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(0)

    @property
    def _done(self) -> int:
        """How many of the records that were ever queued wait no more; less where some are sent again."""
        return self._added - len(self._queue)

    @property
    def behind(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._queue) or self._telling_again

    async def settle_batch(self) -> None:
        """Book the next records in line. Raises StoreUnavailable."""
        if self._in_doubt:
            await self._compare()
        elif self._telling_again and self._done >= self._missing_until:
            await self.on_told_again()
            self._telling_again = self._in_doubt
        elif items := self._queue.first(BATCH_ENDINGS):
            self._full_at = self._done + len(items) + BATCH_ENDINGS
            await self._settle(items)

    async def _compare(self) -> None:
        """See where PostgreSQL stands, having presented to it."""
        life = self._life
        position, open_from = await self._store.progress(self._journal.journal_id)
        if life == self._life:
            self._in_doubt = False
            if position != self._position:
                self._follow(ProgressMoved(position, open_from))
            self._missing_until = self._added

    async def _settle(self, items: Sequence[Item]) -> None:
        batch = self._batch(items)
        begun = time.perf_counter()
        try:
            await self._store.book(batch)
        except ProgressMoved as moved:
            await self._moved(moved)
        except Forgotten:
            await self.present(forgot=False)
        except Unbookable as error:
            await self._divide(items, batch, error)
        else:
            self._stored.update(batch.prices)
            self._confirmed(items, batch, time.perf_counter() - begun)

    async def _divide(self, items: Sequence[Item], batch: Batch, error: Unbookable) -> None:
        if len(items) > 1:
            middle = len(items) // 2
            first, second = items[:middle], items[middle:]
            await self._settle(first)
            if self._queue.first(1) == second[:1]:
                await self._settle(second)
            return
        _log.error(
            "a record could not be booked as it is",
            extra={"record": str(identity(items[0].record)), "position": items[0].position, "error": str(error)},
        )
        try:
            kept = await self._store.reject(batch, str(error))
        except ProgressMoved as moved:
            await self._moved(moved)
        else:
            self.rejected += kept
            self._confirmed(items, batch, 0.0)

    def _batch(self, items: Sequence[Item]) -> Batch:
        end = max(self._position, *(item.position for item in items))
        endings = [item for item in items if isinstance(item, Settling)]
        notes = [item for item in items if isinstance(item, Noted)]
        named = {settling.record.subject.price_id for settling in endings}
        named |= {noted.record.subject.price_id for noted in notes if isinstance(noted.record, DeferRecord)}
        named -= self._stored
        return Batch(
            journal_id=self._journal.journal_id,
            start=self._position,
            end=end,
            open_from=min(self._journal.open_from, end),
            endings=endings,
            prices={price_id: self._documents[price_id] for price_id in named if price_id in self._documents},
            own_session=self._session_id,
            notes=notes,
            life=self._life,
        )

    def _confirmed(self, items: Sequence[Item], batch: Batch, seconds: float) -> None:
        for item in items:
            confirmed = self._queue.pop_first()
            assert confirmed is item, "records are settled in the order in which they were queued"
        self._account(items, batch.end, seconds)

    def _account(self, items: Sequence[Item], position: int, seconds: float = 0.0) -> None:
        """Tell the book that PostgreSQL has counted what leases had captured, once per record, and the journal."""
        paid: list[EndRecord] = []
        for item in items:
            if isinstance(item, Noted):
                self._account_note(item)
            elif not item.accounted and item.record.resource is None:
                paid.append(item.record)
            elif not item.accounted and isinstance(item, Settling):
                for draw in item.record.subject.draws:
                    self.on_returned(_lease_of(item.record.subject, draw))
            item.accounted = True
        for (account_id, limit_id, start_us, session_id), (consumed, _, _) in taken_together(paid).items():
            if consumed and session_id == self._session_id:
                self._book.settled(LeaseKey(account_id, limit_id, start_us), consumed)
        self._position = position
        self._journal.confirm(position, [item.placed_at for item in items])
        self._progress.set()
        if endings := [item for item in items if isinstance(item, Settling)]:
            # Requests that came meanwhile go first; whatever ends this task, it is counted.
            asyncio.get_running_loop().call_soon(self.observe, endings, seconds)

    def _account_note(self, noted: Noted) -> None:
        """A lease has paid all that a hold had drawn which became durable."""
        if isinstance(noted.record, DeferRecord) and not noted.accounted:
            for draw in noted.record.subject.draws:
                if draw.session_id == self._session_id and (paid := deferred(draw)):
                    self._book.settled(_lease_of(noted.record.subject, draw), paid)
        for observer in self.notes:
            observer.settled(noted.record)

    def _tell_queued(self, noted: Noted) -> None:
        for observer in self.notes:
            observer.queued(noted.record)

    async def _moved(self, moved: ProgressMoved) -> None:
        """Follow where PostgreSQL stands; where it has forgotten rows, it may have forgotten leases too."""
        if moved.position < self._position:
            await self.present(forgot=True)
        self._follow(moved)

    def _follow(self, moved: ProgressMoved) -> None:
        if moved.position > self._position:
            self._skip(moved.position)
        else:
            self._rewind(moved)

    def _skip(self, position: int) -> None:
        booked: list[Item] = []
        unwritten: list[Item] = []
        while (first := self._queue.first(1)) and first[0].position <= position:
            (booked if first[0].written else unwritten).append(self._queue.pop_first())
        self._queue.put_back(unwritten)
        self._account(booked, position)

    def _rewind(self, moved: ProgressMoved) -> None:
        """Queue what the journal has behind `moved`, each ending once; what it has not, only this memory has."""
        _log.warning("PostgreSQL lost confirmed rows; they are sent again", extra={"from": moved.position})
        self._queue.send_again(self._found_behind(moved), self._tell_queued)
        self._stored.clear()
        self._position = moved.position
        self._journal.rewind(moved.position)

    def _found_behind(self, moved: ProgressMoved) -> Iterator[Item]:
        """What the journal has behind a position, and its prices on the way."""
        for entry in self._journal.read(moved.open_from):
            if isinstance(entry.record, PriceRecord):
                self.know_price(entry.record.price_id, entry.record.document)
            elif entry.end > moved.position and (item := item_of(entry.end, entry.record)) is not None:
                yield item


def _lease_of(subject: Subject, draw: Draw) -> LeaseKey:
    return LeaseKey(subject.account_id, draw.limit_id, draw.window_start_us)
