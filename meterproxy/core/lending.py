"""Lending and settling: the words that `ledger` and `store` exchange, which do not see each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self
from uuid import UUID
from weakref import WeakValueDictionary

import msgspec

from meterproxy.core.record import EndRecord, NoteRecord
from meterproxy.core.resource import Resource, ResourceKey

UNWRITTEN = -1


_KEYS: Final["WeakValueDictionary[tuple[UUID, UUID, int], Any]"] = WeakValueDictionary()


class LeaseKey:
    """Which limit window a lease was lent from; `window_start_us` is 0 where the limit has no window.

    There is one object for each key, so that keys compare and hash by identity: hashing two UUIDs each time that a
    lease is looked up would cost a request more than placing its hold.
    """

    __slots__ = ("__weakref__", "account_id", "limit_id", "window_start_us")

    account_id: UUID
    limit_id: UUID
    window_start_us: int

    def __new__(cls, account_id: UUID, limit_id: UUID, window_start_us: int) -> Self:
        """The one key of these parts."""
        parts = (account_id, limit_id, window_start_us)
        key: Self | None = _KEYS.get(parts)
        if key is None:
            key = _KEYS[parts] = super().__new__(cls)
            key.account_id, key.limit_id, key.window_start_us = parts
        return key

    def __repr__(self) -> str:
        return f"LeaseKey({self.account_id!r}, {self.limit_id!r}, {self.window_start_us})"


class Borrow(NamedTuple):
    """One wish to be lent between `need` and `want` of a limit window, or nothing; repeated under its own id."""

    borrow_id: UUID
    key: LeaseKey
    need: int
    want: int


class Lent(NamedTuple):
    """PostgreSQL's answer to a borrow.

    `granted` is what this borrow added; `total_granted` and `total_returned` are the session's totals of this lease;
    `consumed` is what was settled of it in all and does not come back; `rest` is left in the pool; `outstanding` is
    lent to anybody and not consumed, or held durably.
    """

    granted: int
    total_granted: int
    total_returned: int
    consumed: int
    rest: int
    outstanding: int


class Rest(NamedTuple):
    """What is left of a limit window, what of it may come back, and what the asker has consumed for good."""

    rest: int
    outstanding: int
    consumed: int


class Change(NamedTuple):
    """One step of the fleet's change counter; `account_id` names whose limits are to be read again, if any are."""

    version: int
    kind: str
    subject_id: UUID | None
    account_id: UUID | None = None


class News(NamedTuple):
    """What a worker must hear of: changes, leases that others wait for, where the change counter stands, in which life.

    `served` is what it waits for itself and may borrow now.

    `life` is None where the database is another than the one that wrote its life down: it must be met first.
    """

    changes: tuple[Change, ...]
    reclaims: tuple[LeaseKey, ...]
    version: int | None = None
    life: UUID | None = None
    served: tuple[LeaseKey, ...] = ()


class Met(NamedTuple):
    """Which life of the database this is, and whether lending pauses in it."""

    life: UUID
    paused: bool


class SessionFacts(NamedTuple):
    """What PostgreSQL knows a worker session by."""

    session_id: UUID
    journal_id: UUID
    host: str
    slot: int


class Totals(NamedTuple):
    """What a session was lent of a limit window and has returned, in all."""

    granted: int
    returned: int


class Ownership(NamedTuple):
    """Which of the resources that were asked for exist; `alone`: no other worker may be about to settle one."""

    found: Mapping[ResourceKey, Resource]
    alone: bool


class Settling(msgspec.Struct, eq=False):
    """An ending on its way to PostgreSQL.

    `position` is the one behind its record in the journal, `placed_at` where the journal has its hold's place record
    (UNWRITTEN for one that was read back), `accounted` whether the book has been told that it was settled.
    """

    position: int
    record: EndRecord
    placed_at: int = UNWRITTEN
    accounted: bool = False

    @property
    def written(self) -> bool:
        """Whether the journal has it; if not, this memory is the only place where it is."""
        return self.position != UNWRITTEN


class Noted(msgspec.Struct, eq=False):
    """A record on its way to PostgreSQL that is no ending: whose a resource is, or that a hold has become durable.

    Its members are those of `Settling`; only a hold that became durable was placed.
    """

    position: int
    record: NoteRecord
    placed_at: int = UNWRITTEN
    accounted: bool = False

    @property
    def written(self) -> bool:
        """Always: what the journal has not taken was never promised to anybody."""
        return True


@dataclass(frozen=True, slots=True)
class Batch:
    """A stretch of a journal to be booked in one transaction: what was written in (`start`, `end`], and its prices.

    `own_session` is the settler's living session; draws of any other may turn out late. `life` is the life of the
    database in which its leases are known; None where that does not matter.
    """

    journal_id: UUID
    start: int
    end: int
    open_from: int
    endings: Sequence[Settling]
    prices: Mapping[UUID, bytes]
    own_session: UUID | None
    notes: Sequence[Noted] = ()
    life: UUID | None = None
