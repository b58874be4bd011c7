"""PostgreSQL as the ledger sees it, in a few dozen lines of memory: an honest fake of what `sql/` does.

Every method is one transaction: it either happens altogether or raises before anything has changed.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from meterproxy.core.draw import Taken, deferred, taken
from meterproxy.core.hold import DueHold, DurableHold
from meterproxy.core.lending import (
    Batch,
    Borrow,
    Change,
    LeaseKey,
    Lent,
    Met,
    News,
    Ownership,
    Rest,
    SessionFacts,
    Totals,
)
from meterproxy.core.limit import Limit
from meterproxy.core.path import Draw
from meterproxy.core.record import DeferRecord, EndRecord, ForgetRecord, OwnerRecord, Subject
from meterproxy.core.resource import Resource, ResourceKey, key_of
from meterproxy.errors import Forgotten, LendingPaused, ProgressMoved, SessionOver, Unbookable
from tests.ledger.prices import PRICE

FORGOTTEN = ("sessions", "windows", "leases", "journals", "balances", "rows", "durable", "owners")


@dataclass
class Window:
    cap: int | None = 0
    drawn: int = 0
    overrun: int = 0
    late: int = 0
    counted: int = 0
    unspent: int = 0
    folded: int = 0


@dataclass
class DurableRow:
    """A hold that outlived its exchange; `amount` is there once it has ended."""

    subject: Subject
    resource: Resource
    amount: int | None = None

    @property
    def draws(self) -> list[tuple[LeaseKey, Draw]]:
        """What it has drawn for longer than its exchange."""
        return [
            (LeaseKey(self.subject.account_id, draw.limit_id, draw.window_start_us), draw)
            for draw in self.subject.draws
            if deferred(draw)
        ]


@dataclass
class LeaseRow:
    granted: int = 0
    consumed: int = 0
    returned: int = 0
    held: int = 0
    deferred: int = 0
    last: tuple[UUID | None, int] = (None, 0)

    @property
    def outstanding(self) -> int:
        return self.granted - self.consumed - self.returned


@dataclass
class SessionRow:
    journal_id: UUID
    state: str = "live"


@dataclass
class MemoryStore:
    """Fulfils all ports of `ledger.ports`; `credit` is what an operator does, and so is putting into `limits`."""

    limits: dict[UUID, Limit] = field(default_factory=dict)
    windows: dict[LeaseKey, Window] = field(default_factory=dict)
    leases: dict[tuple[LeaseKey, UUID], LeaseRow] = field(default_factory=dict)
    sessions: dict[UUID, SessionRow] = field(default_factory=dict)
    reclaims: dict[tuple[LeaseKey, UUID], int] = field(default_factory=dict)
    """Who waits for how much, the first in line first."""
    journals: dict[UUID, tuple[int, int]] = field(default_factory=dict)
    balances: dict[UUID, int] = field(default_factory=dict)
    rows: dict[UUID, EndRecord] = field(default_factory=dict)
    durable: dict[UUID, DurableRow] = field(default_factory=dict)
    owners: dict[ResourceKey, Resource | None] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)
    now_us: int = 1_700_000_000_000_000
    lives: int = 1
    moved: bool = False
    paused_until_us: int = 0
    """Where no time passes, somebody must set it back."""

    def credit(self, key: LeaseKey, amount: int) -> None:
        self.balances[key.account_id] = self.balances.get(key.account_id, 0) + amount
        window = self.windows.setdefault(key, Window())
        assert window.cap is not None
        window.cap += amount
        self.changes.append(Change(len(self.changes) + 1, "limit", key.limit_id))

    def remember(self) -> None:
        """Keep what there is now."""
        self.kept = {name: _copied(getattr(self, name)) for name in FORGOTTEN}

    def fail_over(self) -> None:
        """Go back to what was kept."""
        for name, rows in self.kept.items():
            setattr(self, name, _copied(rows))
        self.moved = True

    @property
    def known_life(self) -> UUID | None:
        """The life of this database, None where it is another than the one that wrote it down."""
        return None if self.moved else UUID(int=self.lives)

    @property
    def paused(self) -> bool:
        """Whether nobody is lent to."""
        return self.paused_until_us > self.now_us

    async def meet(self, missed: UUID | None, ttl_seconds: float) -> Met:
        if self.moved or missed == UUID(int=self.lives):
            self.lives, self.moved, self.paused_until_us = self.lives + 1, False, self.now_us + int(ttl_seconds * 1e6)
        return Met(UUID(int=self.lives), self.paused)

    async def present(
        self, session: SessionFacts, ttl_seconds: float, life: UUID, totals: Mapping[LeaseKey, Totals]
    ) -> int:
        row = self.sessions.get(session.session_id)
        if row is not None and row.state not in {"live", "lost"}:
            raise SessionOver(str(session.session_id))
        if life != self.known_life:
            raise Forgotten(str(life))
        self.sessions.setdefault(session.session_id, SessionRow(session.journal_id)).state = "live"
        return sum(self._present(key, session.session_id, told) for key, told in totals.items())

    def _present(self, key: LeaseKey, session_id: UUID, told: Totals) -> int:
        lease, window = self.leases.setdefault((key, session_id), LeaseRow()), self._window(key)
        granted = max(told.granted, lease.granted)
        returned = max(min(told.returned, granted - lease.consumed), lease.returned)
        forgotten = granted - lease.granted
        window.drawn += forgotten - (returned - lease.returned)
        lease.granted, lease.returned = granted, returned
        return forgotten

    # ── sessions ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _live(self, session_id: UUID) -> None:
        session = self.sessions.get(session_id)
        if session is None or session.state == "lost":
            raise Forgotten(str(session_id))
        if session.state != "live":
            raise SessionOver(str(session_id))

    async def open_session(self, session_id: UUID, journal_id: UUID, host: str, slot: int, ttl_seconds: float) -> int:
        session = self.sessions.setdefault(session_id, SessionRow(journal_id))
        if session.state not in {"live", "lost"}:
            raise SessionOver(str(session_id))
        session.state = "live"
        return self.now_us

    async def renew_session(self, session_id: UUID, ttl_seconds: float, life: UUID) -> int:
        session = self.sessions.get(session_id)
        if session is not None and session.state not in {"live", "lost"}:
            raise SessionOver(str(session_id))
        if session is None or life != self.known_life:
            raise Forgotten(str(session_id))
        session.state = "live"
        return self.now_us

    async def abandoned_sessions(self, journal_id: UUID) -> frozenset[UUID]:
        return frozenset(
            session_id
            for session_id, row in self.sessions.items()
            if (row.journal_id, row.state) == (journal_id, "abandoned")
        )

    async def earlier_sessions(self, journal_id: UUID, session_id: UUID) -> list[UUID]:
        return [
            other
            for other, row in self.sessions.items()
            if row.journal_id == journal_id and other != session_id and row.state in {"live", "lost"}
        ]

    async def end_session(self, session_id: UUID, state: str) -> int:
        session = self.sessions.get(session_id)
        if session is None or session.state not in {"live", "lost"}:
            return 0
        session.state = state
        self.reclaims = {asked: wanted for asked, wanted in self.reclaims.items() if asked[1] != session_id}
        total = 0
        for (key, owner), lease in self.leases.items():
            if owner == session_id:
                total += lease.outstanding
                self.windows[key].drawn -= lease.outstanding
                lease.returned = lease.granted - lease.consumed
                lease.held = 0
        return total

    async def fold(self) -> None:
        """Leases of ended sessions become a number of their windows."""
        ended = {session_id for session_id, row in self.sessions.items() if row.state not in {"live", "lost"}}
        for key, session_id in [lent for lent in self.leases if lent[1] in ended]:
            self.windows[key].folded += self.leases.pop((key, session_id)).consumed

    # ── lending ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _window(self, key: LeaseKey) -> Window:
        """A limit's window, made by the first who needs it."""
        if key not in self.windows:
            self.windows[key] = self._new_window(key)
        return self.windows[key]

    def _new_window(self, key: LeaseKey) -> Window:
        limit = self.limits[key.limit_id]
        return Window(limit.cap + limit.grace if limit.cap is not None and limit.hard else limit.cap)

    async def lend(self, session_id: UUID, borrows: Sequence[Borrow]) -> Sequence[Lent]:
        self._live(session_id)
        if (self.moved or self.paused) and any(self._fits(session_id, borrow) for borrow in borrows):
            raise LendingPaused("nobody is lent to right now")
        return [self._lend(session_id, borrow) for borrow in borrows]

    def _fits(self, session_id: UUID, borrow: Borrow) -> bool:
        """Whether this borrow would be granted anew."""
        lease = self.leases.get((borrow.key, session_id))
        repeated = lease is not None and lease.last[0] == borrow.borrow_id
        room = _room(self._window(borrow.key)) - self._set_aside(session_id, borrow.key)
        return not repeated and 0 < borrow.need <= room

    def _waits(self, key: LeaseKey, session_id: UUID) -> bool:
        """Whether somebody stands in line; here nobody's wish is ever too old."""
        return (key, session_id) in self.reclaims

    def _set_aside(self, session_id: UUID, key: LeaseKey) -> int:
        """What others want who have waited longer."""
        total = 0
        for (wanted_key, asker), wanted in self.reclaims.items():
            if (wanted_key, asker) == (key, session_id) and self._waits(key, session_id):
                break
            if wanted_key == key and asker != session_id and self._waits(key, asker):
                total += wanted
        return total

    def _lend(self, session_id: UUID, borrow: Borrow) -> Lent:
        key, window = borrow.key, self._window(borrow.key)
        lease = self.leases.get((key, session_id))
        room = _room(window) - self._set_aside(session_id, key)
        amount = 0
        if lease is not None and lease.last[0] == borrow.borrow_id:
            amount = lease.last[1]
        elif 0 < borrow.need <= room:
            amount = max(borrow.need, min(borrow.want, room // 4))
            window.drawn += amount
            lease = self.leases.setdefault((key, session_id), LeaseRow())
            lease.granted += amount
            lease.last = (borrow.borrow_id, amount)
            self.reclaims.pop((key, session_id), None)
            assert window.cap is None or window.drawn <= window.cap, "nothing is lent above the cap"
        rest = self._rest(session_id, key)
        totals = (lease.granted, lease.returned) if lease else (0, 0)
        return Lent(amount, *totals, rest.consumed, rest.rest, rest.outstanding)

    async def read_rests(self, session_id: UUID, keys: Sequence[LeaseKey]) -> Sequence[Rest]:
        return [self._rest(session_id, key) for key in keys]

    def _rest(self, session_id: UUID, key: LeaseKey) -> Rest:
        outstanding = sum(lease.outstanding for (lent, _), lease in self.leases.items() if lent == key)
        outstanding += sum(
            draw.amount
            for row in self.durable.values()
            if row.amount is None
            for drawn, draw in row.draws
            if drawn == key
        )
        own = self.leases.get((key, session_id))
        window = self.windows.get(key) or self._new_window(key)
        return Rest(_room(window), outstanding, own.consumed - own.deferred if own else 0)

    async def give_back(self, session_id: UUID, returned: Mapping[LeaseKey, int]) -> None:
        for key, total in returned.items():
            lease = self.leases.get((key, session_id))
            if lease is not None:
                amount = max(min(total, lease.granted - lease.consumed) - lease.returned, 0)
                lease.returned += amount
                self.windows[key].drawn -= amount

    async def report_held(self, session_id: UUID, held: Mapping[LeaseKey, int]) -> None:
        for key, amount in held.items():
            if (key, session_id) in self.leases and self.sessions[session_id].state == "live":
                self.leases[key, session_id].held = amount

    async def ask_reclaim(self, session_id: UUID, key: LeaseKey, wanted: int) -> None:
        self.reclaims[key, session_id] = wanted

    async def end_reclaim(self, session_id: UUID, key: LeaseKey) -> None:
        self.reclaims.pop((key, session_id), None)

    async def poll(self, session_id: UUID, version: int) -> News:
        changes = tuple(change for change in self.changes if change.version > version)
        return News(
            changes, self._wanted_of(session_id), len(self.changes), self.known_life, self._served_to(session_id)
        )

    def _wanted_of(self, session_id: UUID) -> tuple[LeaseKey, ...]:
        """What this session has leased and others wait for."""
        keys = {
            key: None
            for key, asker in self.reclaims
            if asker != session_id
            and self._waits(key, asker)
            and (lease := self.leases.get((key, session_id))) is not None
            and lease.outstanding
        }
        return tuple(keys)

    def _served_to(self, session_id: UUID) -> tuple[LeaseKey, ...]:
        """What this session waits for and could be lent."""
        return tuple(
            key
            for (key, asker), wanted in self.reclaims.items()
            if asker == session_id
            and key in self.windows
            and _room(self.windows[key]) - self._set_aside(session_id, key) >= wanted
        )

    async def change_version(self) -> int:
        return len(self.changes)

    # ── settling ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def progress(self, journal_id: UUID) -> tuple[int, int]:
        return self.journals.setdefault(journal_id, (0, 0))

    async def book(self, batch: Batch) -> int:
        position, open_from = self.journals.get(batch.journal_id, (0, 0))
        if batch.life is not None and batch.life != self.known_life:
            raise Forgotten(str(batch.life))
        if position != batch.start:
            raise ProgressMoved(position, open_from)
        if any(settling.record.subject.account_id not in self.balances for settling in batch.endings):
            raise Unbookable("an account of the batch does not exist")
        self.journals[batch.journal_id] = (batch.end, batch.open_from)
        before = len(self.rows)
        for record in (item.record for item in (*batch.notes, *batch.endings)):
            if isinstance(record, DeferRecord) or (isinstance(record, EndRecord) and record.resource is not None):
                self._defer(record.subject, record.resource)
        for settling in batch.endings:
            request_id, durable = settling.record.subject.request_id, settling.record.resource is not None
            if request_id not in self.rows and (durable or request_id not in self.durable):
                self.rows[request_id] = settling.record
                self._charge(settling.record)
        for noted in batch.notes:
            match noted.record:
                case OwnerRecord(resource):
                    self.owners.setdefault(key_of(resource), resource)
                case ForgetRecord(resource):
                    self.owners[key_of(resource)] = None
        return len(self.rows) - before

    async def reject(self, batch: Batch, error: str) -> bool:
        raise AssertionError(f"nothing here is ever rejected: {error}")

    def _defer(self, subject: Subject, resource: Resource | None) -> None:
        assert resource is not None
        if subject.request_id not in self.rows and subject.request_id not in self.durable:
            row = self.durable[subject.request_id] = DurableRow(subject, resource)
            for key, draw in row.draws:
                self._draw(key, draw.session_id, Taken(draw.amount, 0, 0), durable=True)

    def _charge(self, record: EndRecord) -> None:
        self.balances[record.subject.account_id] -= record.amount_nanos
        durable = record.resource is not None
        if durable:
            self.durable[record.subject.request_id].amount = record.amount_nanos
        for draw, amounts in zip(record.subject.draws, taken(record), strict=True):
            key = LeaseKey(record.subject.account_id, draw.limit_id, draw.window_start_us)
            if durable and deferred(draw):
                window = self._window(key)
                window.drawn += amounts.consumed + amounts.overrun - draw.amount
                window.overrun += amounts.overrun
                window.unspent += draw.amount - amounts.consumed
            elif any(amounts):
                self._draw(key, draw.session_id, amounts)

    def _draw(self, key: LeaseKey, session_id: UUID, amounts: Taken, *, durable: bool = False) -> None:
        lease, window = self.leases.get((key, session_id)), self._window(key)
        within = min(amounts.consumed, lease.outstanding) if lease else 0
        if lease:
            lease.consumed += within
            lease.deferred += within if durable else 0
        window.overrun += amounts.overrun
        window.late += amounts.consumed - within
        window.counted += amounts.counted
        window.drawn += sum(amounts) - within

    # ── owners ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def find_owners(self, session_id: UUID, keys: Sequence[ResourceKey]) -> Ownership:
        others = [other for other, row in self.sessions.items() if other != session_id and row.state == "live"]
        found = {key: resource for key in keys if (resource := self.owners.get(key)) is not None}
        return Ownership(found, alone=not others)

    async def forgotten_owners(self) -> Sequence[ResourceKey]:
        return [key for key, resource in self.owners.items() if resource is None]

    # ── durable holds ───────────────────────────────────────────────────────────────────────────────────────────────

    async def find_durable(self, key: ResourceKey) -> DurableHold | None:
        open_rows = (row for row in self.durable.values() if row.amount is None and key_of(row.resource) == key)
        return next((DurableHold(row.subject, PRICE, row.resource) for row in open_rows), None)

    async def take_due(self, most: int, term_seconds: float) -> Sequence[DueHold]:
        raise AssertionError("nobody polls here")

    async def put_off(self, hold: DurableHold, seconds: float) -> None:
        raise AssertionError("nobody polls here")


def _room(window: Window) -> int:
    return (2**62 if window.cap is None else window.cap) - window.drawn


def _copied(rows: dict[Any, Any]) -> dict[Any, Any]:
    """A table with rows of its own."""
    return {key: copy(row) for key, row in rows.items()}
