"""Settle: the background writer that moves endings from the journal into PostgreSQL in batches.

Rules
-----
- One batch is under way at a time; a batch is booked whole or not at all.
- An ending leaves the queue only when PostgreSQL has confirmed it. The journal is the queue's copy on disk.
- Progress in PostgreSQL ahead of ours means that the answer to a commit got lost: what it covers is confirmed. Progress
  behind ours means that PostgreSQL has lost confirmed rows (a failover): the journal is read again from there.
- A batch that PostgreSQL refuses is halved until the bad record is alone; that one is booked with minimal columns.
  Nothing waits for it, nothing is dropped.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

from meterproxy.core.lending import Batch, LeaseKey, Settling
from meterproxy.core.record import EndRecord, PriceRecord
from meterproxy.errors import ProgressMoved, StoreUnavailable, Unbookable
from meterproxy.ledger.book import Book
from meterproxy.ledger.journal import Journal
from meterproxy.ledger.ports import SettleStore

BATCH_ENDINGS: Final = 256
RETRY_SECONDS: Final = 0.5

_log: Final = logging.getLogger(__name__)

Observer = Callable[[Sequence[Settling], float], None]


class Settler:
    """Settles one journal for one worker session.

    Args:
        position: where PostgreSQL says the journal stands.
        session_id: the living session; draws of earlier ones are not in this book.
    """

    def __init__(
        self, store: SettleStore, journal: Journal, book: Book, position: int, session_id: UUID, interval_ms: int = 200
    ) -> None:
        self._store = store
        self._journal = journal
        self._book = book
        self._session_id = session_id
        self._interval_seconds = interval_ms / 1000
        self._position = position
        self._queue: deque[Settling] = deque()
        self._documents: dict[UUID, bytes] = {}
        self._stored: set[UUID] = set()
        self._full = asyncio.Event()
        self._progress = asyncio.Event()
        self.rejected = 0
        self.observe: Observer = lambda _endings, _seconds: None

    @property
    def queued(self) -> int:
        """Endings that PostgreSQL does not have yet."""
        return len(self._queue)

    @property
    def oldest_us(self) -> int | None:
        """Accept time of the oldest ending that waits."""
        return self._queue[0].record.subject.occurred_us if self._queue else None

    def know_price(self, price_id: UUID, document: bytes) -> None:
        """Remember a price's document, to be stored with the first row that names it."""
        self._documents[price_id] = document

    def add(self, settling: Settling) -> None:
        """Queue an ending."""
        self._queue.append(settling)
        if len(self._queue) >= BATCH_ENDINGS:
            self._full.set()

    async def catch_up(self) -> None:
        """Wait until everything that is queued now is in PostgreSQL; needs `run` to be running."""
        wanted = [settling for settling in self._queue if not settling.accounted]
        self._full.set()
        while not all(settling.accounted for settling in wanted):
            self._progress.clear()
            await self._progress.wait()

    async def run(self) -> None:
        """Settle for ever: every interval, or sooner when a batch is full."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), self._interval_seconds)
            self._full.clear()
            await self.drain()

    async def drain(self) -> None:
        """Settle until nothing is queued or PostgreSQL is away; then wait a moment before returning."""
        while self._queue:
            try:
                await self.settle_batch()
            except StoreUnavailable as error:
                _log.warning("settling waits for PostgreSQL", extra={"queued": len(self._queue), "error": str(error)})
                await asyncio.sleep(RETRY_SECONDS)
                return
            await asyncio.sleep(0)

    async def settle_batch(self) -> None:
        """Book the next endings in line. Raises StoreUnavailable."""
        endings = [self._queue[index] for index in range(min(BATCH_ENDINGS, len(self._queue)))]
        await self._settle(endings)

    async def _settle(self, endings: Sequence[Settling]) -> None:
        batch = self._batch(endings)
        begun = time.perf_counter()
        try:
            await self._store.book(batch)
        except ProgressMoved as moved:
            self._follow(moved)
        except Unbookable as error:
            await self._divide(batch, error)
        else:
            self._stored.update(batch.prices)
            self._confirmed(batch, time.perf_counter() - begun)

    async def _divide(self, batch: Batch, error: Unbookable) -> None:
        if len(batch.endings) > 1:
            middle = len(batch.endings) // 2
            first, second = batch.endings[:middle], batch.endings[middle:]
            await self._settle(first)
            if self._queue and self._queue[0] is second[0]:
                await self._settle(second)
            return
        self.rejected += 1
        _log.error(
            "a record could not be booked as it is",
            extra={"request_id": batch.endings[0].record.subject.request_id, "error": str(error)},
        )
        try:
            await self._store.reject(batch, str(error))
        except ProgressMoved as moved:
            self._follow(moved)
        else:
            self._confirmed(batch, 0.0)

    def _batch(self, endings: Sequence[Settling]) -> Batch:
        end = max(self._position, *(settling.position for settling in endings))
        named = {settling.record.subject.price_id for settling in endings} - self._stored
        return Batch(
            journal_id=self._journal.journal_id,
            start=self._position,
            end=end,
            open_from=min(self._journal.open_from, end),
            endings=endings,
            prices={price_id: self._documents[price_id] for price_id in named if price_id in self._documents},
            own_session=self._session_id,
        )

    def _confirmed(self, batch: Batch, seconds: float) -> None:
        for settling in batch.endings:
            confirmed = self._queue.popleft()
            assert confirmed is settling, "endings are settled in the order in which they were queued"
        self._account(batch.endings, batch.end)
        self.observe(batch.endings, seconds)

    def _account(self, endings: Sequence[Settling], position: int) -> None:
        """Tell the book that PostgreSQL has counted what leases had captured, once per ending, and the journal."""
        for settling in endings:
            if settling.accounted:
                continue
            settling.accounted = True
            subject, amount = settling.record.subject, settling.record.amount_nanos
            for draw in subject.draws:
                if draw.session_id == self._session_id:
                    key = LeaseKey(subject.account_id, draw.limit_id, draw.window_start_us)
                    self._book.settled(key, min(amount, draw.amount))
        self._position = position
        self._journal.confirm(position, [settling.placed_at for settling in endings])
        self._progress.set()

    def _follow(self, moved: ProgressMoved) -> None:
        if moved.position > self._position:
            self._skip(moved.position)
        else:
            self._rewind(moved)

    def _skip(self, position: int) -> None:
        booked = [settling for settling in self._queue if settling.written and settling.position <= position]
        self._queue = deque(
            settling for settling in self._queue if not (settling.written and settling.position <= position)
        )
        self._account(booked, position)

    def _rewind(self, moved: ProgressMoved) -> None:
        """Queue what the journal has behind `moved`, each ending once; what it has not, only this memory has."""
        _log.warning("PostgreSQL lost confirmed rows; they are sent again", extra={"from": moved.position})
        queued = {settling.record.subject.request_id: settling for settling in self._queue}
        again: dict[UUID, Settling] = {}
        for entry in self._journal.read(moved.open_from):
            if isinstance(entry.record, PriceRecord):
                self.know_price(entry.record.price_id, entry.record.document)
            elif isinstance(entry.record, EndRecord) and entry.end > moved.position:
                request_id = entry.record.subject.request_id
                settled = Settling(entry.end, entry.record, accounted=True)
                again.setdefault(request_id, queued.get(request_id, settled))
        for request_id, settling in queued.items():
            again.setdefault(request_id, settling)
        self._queue = deque(again.values())
        self._stored.clear()
        self._position = moved.position
        self._journal.rewind(moved.position)
