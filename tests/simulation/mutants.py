"""Mutants: the ledger and its database with one mistake each, all of them plausible. The simulation must find every one.

`python -m tests.simulation --mutant NAME` shows how.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from operator import add
from typing import Any
from unittest import mock
from uuid import UUID

from meterproxy.core.lending import Batch, Borrow, LeaseKey, Lent
from meterproxy.core.record import EndRecord, ExtendRecord, PlaceRecord
from meterproxy.ledger import recover
from meterproxy.ledger.book import Book
from meterproxy.ledger.journal import Journal, Sync
from meterproxy.ledger.lease import Borrower
from meterproxy.ledger.segment import FRAME_BYTES
from meterproxy.ledger.worker import WorkerLedger
from tests.ledger.memory_store import MemoryStore
from tests.simulation.disk import Os


def lends_without_condition() -> AbstractContextManager[Any]:
    """PostgreSQL lends whatever is asked for."""
    lend = MemoryStore._lend

    def unconditional(self: MemoryStore, session_id: UUID, borrow: Borrow) -> Lent:
        window = self._window(borrow.key)
        cap, window.cap = window.cap, 2**62
        try:
            return lend(self, session_id, borrow)
        finally:
            window.cap = cap

    return mock.patch.object(MemoryStore, "_lend", unconditional)


def hears_only_answers() -> AbstractContextManager[Any]:
    """What was lent by a borrow whose answer got lost is forgotten: only what an answer grants counts."""
    take_up = Book.take_up

    def forgetful(self: Book, key: LeaseKey, lent: Lent) -> int:
        news = take_up(self, key, lent)
        if news > lent.granted:
            self.leases[key].free -= news - lent.granted
        return news

    repeated = Borrower._borrow_of

    def anew(self: Borrower, key: LeaseKey, missing: int) -> Borrow:
        self._views[key].repeat = None
        return repeated(self, key, missing)

    stack = ExitStack()
    stack.enter_context(mock.patch.object(Book, "take_up", forgetful))
    stack.enter_context(mock.patch.object(Borrower, "_borrow_of", anew))
    return stack


def counts_unsettled_twice() -> AbstractContextManager[Any]:
    """What was captured and not booked when PostgreSQL answered is taken off again."""

    def potential(self: Borrower, key: LeaseKey) -> int | None:
        view, lease = self._views.get(key), self._book.leases.get(key)
        if view is None or not view.heard:
            return None
        return view.rest + view.outstanding - 2 * (lease.unsettled if lease else 0)

    return mock.patch.object(Borrower, "potential", potential)


def books_what_was_booked() -> AbstractContextManager[Any]:
    """A batch whose answer got lost is booked again: progress is not compared, rows are not looked at."""
    book = MemoryStore.book

    async def again(self: MemoryStore, batch: Batch) -> int:
        self.journals[batch.journal_id] = (batch.start, batch.open_from)
        for settling in batch.endings:
            self.rows.pop(settling.record.subject.request_id, None)
        return await book(self, batch)

    return mock.patch.object(MemoryStore, "book", again)


def writes_endings_late() -> AbstractContextManager[Any]:
    """An ending is only kept in memory until it is settled."""

    end = Journal.end

    def unwritten(self: Journal, record: EndRecord, placed_at: int) -> int:
        position = end(self, record, placed_at)
        segment = self._current
        size = len(self._unsynced[-1]) + FRAME_BYTES
        Os.instance.pwrite(segment.file, bytes(size), segment.used - size)
        return position

    return mock.patch.object(Journal, "end", unwritten)


def never_syncs() -> AbstractContextManager[Any]:
    """What was written is taken to be on the disk."""
    return mock.patch.object(Sync, "run", return_value=None)


def recovers_without_progress() -> AbstractContextManager[Any]:
    """A stream whose worker died is charged for its input only."""
    recovered_end = recover.recovered_end

    def forgetful(place: PlaceRecord, price: Any, _progress: Any, policy: Any) -> EndRecord:
        return recovered_end(place, price, None, policy)

    return mock.patch.object(recover, "recovered_end", forgetful)


def proves_before_it_settles() -> AbstractContextManager[Any]:
    """A dead worker's leases return before what it had written down was booked."""
    start = WorkerLedger.start

    async def hasty(self: WorkerLedger) -> None:
        await recover.prove(self._sessions, self.journal.journal_id, self.session.session_id)
        await start(self)

    return mock.patch.object(WorkerLedger, "start", hasty)


def closes_before_it_settles() -> AbstractContextManager[Any]:
    """A worker that stops in order gives everything back and then leaves."""

    async def stop(self: WorkerLedger) -> None:
        await self.owners.close()
        await self.borrower.settle_down()
        await self._sessions.end_session(self.session.session_id, "closed")
        self.journal.close()

    return mock.patch.object(WorkerLedger, "stop", stop)


def gives_back_by_difference() -> AbstractContextManager[Any]:
    """A report of what was returned counts again when it is repeated."""

    async def give_back(self: MemoryStore, session_id: UUID, returned: Mapping[LeaseKey, int]) -> None:
        for key, total in returned.items():
            if (lease := self.leases.get((key, session_id))) is not None:
                lease.returned += total
                self.windows[key].drawn -= total

    return mock.patch.object(MemoryStore, "give_back", give_back)


def keeps_what_others_want() -> AbstractContextManager[Any]:
    """A worker does not give back what it does not use while others wait for it."""
    return mock.patch.object(Book, "give_back", return_value=0)


def forgets_what_it_folds() -> AbstractContextManager[Any]:
    """What ended sessions have used is forgotten when their leases are folded."""

    async def fold(self: MemoryStore) -> None:
        ended = {session_id for session_id, row in self.sessions.items() if row.state not in {"live", "lost"}}
        for key, session_id in [lent for lent in self.leases if lent[1] in ended]:
            self.windows[key].drawn -= self.leases.pop((key, session_id)).consumed

    return mock.patch.object(MemoryStore, "fold", fold)


def captures_the_whole_hold() -> AbstractContextManager[Any]:
    """What a request did not use is not free again."""
    capture = Book.capture

    def whole(self: Book, placed: Any, amounts: Any) -> Any:
        return capture(self, placed, tuple(map(max, amounts, placed.amounts)))

    return mock.patch.object(Book, "capture", whole)


def extends_beyond_its_lease() -> AbstractContextManager[Any]:
    """A hold grows whether or not there is anything left to hold."""

    def greedy(self: Book, placed: Any, more: Any) -> bool:
        for measure, leases in placed.leases:
            for lease in leases:
                lease.free -= more[measure]
        placed.amounts = tuple(map(add, placed.amounts, more))
        return True

    return mock.patch.object(Book, "extend", greedy)


def forgets_extensions() -> AbstractContextManager[Any]:
    """What a hold came to in the end is not written down until its ending is."""
    describe = Journal.describe

    def silent(self: Journal, record: Any) -> Any:
        return None if isinstance(record, ExtendRecord) else describe(self, record)

    return mock.patch.object(Journal, "describe", silent)


MUTANTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    mutant.__name__: mutant
    for mutant in (
        lends_without_condition, hears_only_answers, counts_unsettled_twice, books_what_was_booked, writes_endings_late,
        never_syncs, recovers_without_progress, proves_before_it_settles, closes_before_it_settles,
        gives_back_by_difference, keeps_what_others_want, captures_the_whole_hold, forgets_what_it_folds,
        extends_beyond_its_lease, forgets_extensions,
    )
}  # fmt: skip
