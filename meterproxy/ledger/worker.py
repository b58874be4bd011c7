"""The ledger of one worker: its parts put together, started, kept going and stopped in order.

Start: lock the journal, replay it, end what never ended, settle all of it, prove the sessions that wrote it, open a
session of our own. Stop: settle to the end, give everything back, close the session, let go of the journal; it is made
durable meanwhile as ever, for PostgreSQL may be away.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final
from uuid import uuid4

from meterproxy.core.lending import Change, SessionFacts
from meterproxy.core.record import SessionRecord
from meterproxy.errors import Forgotten, SessionOver, StoreUnavailable
from meterproxy.ledger.asking import answered
from meterproxy.ledger.book import Book
from meterproxy.ledger.clock import DatabaseClock, elapsed_us
from meterproxy.ledger.durable import DurableHolds
from meterproxy.ledger.holds import Holds
from meterproxy.ledger.journal import Journal
from meterproxy.ledger.lease import Borrower
from meterproxy.ledger.owners import Owners
from meterproxy.ledger.ports import DurableStore, OwnerStore, SessionStore, SettleStore
from meterproxy.ledger.presenter import Presenter
from meterproxy.ledger.recover import OpenHoldPolicy, prove, replay, take_up
from meterproxy.ledger.session import UNKNOWN_LIFE, Session
from meterproxy.ledger.settle import Observer, Settler
from meterproxy.runtime.tasks import SideTasks

POLL_SECONDS: Final = 0.25
REPORT_US: Final = 500_000
SWEEP_SECONDS: Final = 60.0

_log: Final = logging.getLogger(__name__)


class WorkerLedger:
    """Everything that handles money in one worker; `holds` is what the proxy gets to see.

    Args:
        sessions, settlement, owner_rows, durable_rows: PostgreSQL.
        directory: this worker slot's journal.
        on_change: called for every step of the fleet's change counter, and with None when steps may have been missed.
    """

    def __init__(
        self,
        sessions: SessionStore,
        settlement: SettleStore,
        directory: Path,
        *,
        owner_rows: OwnerStore,
        durable_rows: DurableStore,
        host: str = "",
        slot: int = 0,
        ttl_seconds: float = 30,
        wait_ms: int = 1000,
        settle_interval_ms: int = 200,
        fsync_ms: int = 50,
        segment_bytes: int = 64 << 20,
        max_bytes: int = 8 << 30,
        retain_seconds: float = 86400,
        open_hold: OpenHoldPolicy = OpenHoldPolicy.CHARGE_DELIVERED,
        on_change: Callable[[Change | None], None] = lambda _change: None,
    ) -> None:
        self.clock = DatabaseClock()
        self.book = Book()
        self.journal = Journal(
            directory, segment_bytes=segment_bytes, max_bytes=max_bytes, retain_seconds=retain_seconds
        )
        self._durable_rows = durable_rows
        self._sessions = sessions
        self._settlement = settlement
        self._wait_ms = wait_ms
        self._settle_interval_ms = settle_interval_ms
        self._fsync_seconds = fsync_ms / 1000
        self._open_hold = open_hold
        self._on_change = on_change
        self._version = 0
        self._version_life = UNKNOWN_LIFE
        self.session = Session(sessions, self.clock, uuid4(), self.journal.journal_id, ttl_seconds)
        self.borrower = Borrower(sessions, self.session, self.book)
        self.owners = Owners(owner_rows, self.journal, self.session.session_id)
        self._facts = SessionFacts(self.session.session_id, self.journal.journal_id, host, slot)
        self.recovered = 0
        self.database_up = False
        self.observe: Observer = lambda _endings, _seconds: None
        """Told of what is settled, at the start too."""
        self.pause: Callable[[float], Awaitable[None]] = asyncio.sleep
        """Waits so long between two looks at the news, less where somebody hears of news sooner."""

    # ── start and stop ──────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Recover, then open a session. Raises StoreUnavailable, JournalFailed; safe to call again after either."""
        journal_id = self.journal.journal_id
        self.session.life = (await self._sessions.meet(None, self.session.ttl_seconds)).life
        position, open_from = await self._settlement.progress(journal_id)
        found = await asyncio.to_thread(replay, self.journal, position, open_from)
        self.journal.start(position)
        self.settler = Settler(
            self._settlement,
            self.journal,
            self.book,
            position,
            self.session.session_id,
            self._settle_interval_ms,
            self.session.life,
        )
        self.settler.observe = self.observe
        self.settler.notes.append(self.owners)
        self.owners.settler = self.settler
        abandoned = await self._sessions.abandoned_sessions(journal_id)
        self.recovered += take_up(self.journal, found, self.settler, self._open_hold, abandoned)
        while self.settler.queued:
            await self.settler.settle_batch()
        self._version, self._version_life = await self._sessions.change_version(), self.session.life
        await self.session.open(self._facts.host, self._facts.slot)
        await self._prove()
        self._presenter = Presenter(
            self._sessions, self.session, self._facts, self.borrower, self.settler, lambda: self._on_change(None)
        )
        self.settler.present = self._present
        self.settler.on_told_again = self._prove
        self.settler.on_returned = self.borrower.returned
        self.holds = Holds(self.book, self.journal, self.session, self.borrower, self.settler, self._wait_ms)
        self.durable = DurableHolds(
            self._durable_rows, self.book, self.journal, self.holds, self.borrower, self.settler
        )
        self.settler.notes.append(self.durable)
        self.journal.on_segment = self._segment_began
        self._segment_began()

    async def _prove(self) -> None:
        """The journal is settled to its end: whatever earlier sessions of it have left of their leases returns."""
        await prove(self._sessions, self._facts.journal_id, self.session.session_id)

    def _segment_began(self) -> None:
        self.journal.append(SessionRecord(self.session.session_id, self.clock.now_us()))
        self.holds.segment_began()

    async def stop(self) -> None:
        """Settle to the end, give everything back, close the session.

        Raises:
            StoreUnavailable: the journal is left to a later start, which proves it.
        """
        beside = SideTasks()
        beside.start("journal sync", self.keep_synced)
        try:
            await self.owners.close()
            await self.borrower.settle_down()
            await self._present(forgot=False)  # a new life that has just begun may lack what is settled
            while self.settler.behind:
                await self.settler.settle_batch()
            if self.book.open:
                _log.error("holds are left open; the next start recovers them", extra={"holds": self.book.open})
            else:
                await self._sessions.end_session(self.session.session_id, "closed")
        finally:
            await beside.stop()
            self.journal.close()

    # ── side tasks: each runs for ever and is kept alive by whoever starts it ───────────────────────────────────────

    async def keep_session(self) -> None:
        """Renew the trust three times per ttl, and at once again after a failure."""
        while True:
            try:
                await self._renew()
            except StoreUnavailable:
                await asyncio.sleep(min(1.0, self.session.renewal_seconds))
            else:
                await asyncio.sleep(self.session.renewal_seconds)

    async def _renew(self) -> None:
        """Renew the trust; in a new life, present to it first. Raises StoreUnavailable, SessionOver."""
        try:
            await self.session.renew()
        except Forgotten:
            await self._presenter.present()
            await self.session.renew()

    async def _present(self, *, forgot: bool) -> None:
        """As the presenter does; that the session is over is for `keep_session` to find. Raises StoreUnavailable."""
        try:
            await self._presenter.present(forgot=forgot)
        except SessionOver as error:
            raise StoreUnavailable(str(error)) from error

    async def keep_synced(self) -> None:
        """Make the journal durable in groups, in a thread."""
        while True:
            if self.journal.dirty:
                await self._sync()
            await asyncio.sleep(self._fsync_seconds)

    async def _sync(self) -> None:
        sync = self.journal.begin_sync()
        running = asyncio.ensure_future(asyncio.to_thread(sync.run))
        try:
            await asyncio.wait((running,))
        finally:  # ended or not: until it is done the files are the thread's, and a failure has to be heard
            await asyncio.wait((running,))
            error = running.exception()
            assert error is None or isinstance(error, OSError), error
            self.journal.finish_sync(sync, error)
        if not self.journal.prepared:
            await asyncio.to_thread(self.journal.prepare)

    async def keep_settled(self) -> None:
        """Move endings into PostgreSQL."""
        await self.settler.run()

    async def keep_informed(self) -> None:
        """Look at the change counter and at what others wait for; tell what is held and give idle leases back."""
        reported_us = elapsed_us()
        missed = False
        while True:
            await self.pause(POLL_SECONDS)
            try:
                await self.look()
                self.database_up = True
                if missed:
                    self._on_change(None)
                    missed = False
                if elapsed_us() - reported_us >= REPORT_US:
                    reported_us = elapsed_us()
                    await self.borrower.report()
            except StoreUnavailable:
                self.database_up = False
                missed = True

    async def look(self) -> None:
        """One look at the news. Raises StoreUnavailable."""
        news = await answered(self._sessions.poll(self.session.session_id, self._version))
        lost_changes = news.version is not None and news.version < self._version
        if news.life != self.session.life:
            await self._present(forgot=False)
        elif self.borrower.forgotten or (lost_changes and news.life == self._version_life):
            await self._present(forgot=True)
        if news.version is not None and lost_changes:
            _log.warning("PostgreSQL has lost changes", extra={"known": self._version, "stands": news.version})
            self._version = news.version
        self._version_life = self.session.life
        for change in news.changes:
            self._version = max(self._version, change.version)
            self._on_change(change)
        await self.borrower.heard(news)

    async def keep_swept(self) -> None:
        """Delete segments that nobody can need any more."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await asyncio.to_thread(self.journal.sweep, self.journal.open_from)

    @property
    def ready(self) -> str | None:
        """Why this ledger cannot serve, or None if it can."""
        if self.session.over:
            return "the worker session was ended by somebody else"
        if not self.session.trusted:
            return "PostgreSQL has not renewed the worker session in time"
        if not self.journal.healthy:
            return "the journal cannot be written or synced"
        if not self.journal.has_room:
            return "the journal has no room for another hold: free space on its volume"
        return None
