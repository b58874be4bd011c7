"""Lending and settling: the words that `ledger` and `store` exchange, which do not see each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from meterproxy.core.record import EndRecord, NoteRecord
from meterproxy.core.resource import Resource, ResourceKey

UNWRITTEN = -1


class LeaseKey(NamedTuple):
    """Which limit window a lease was lent from; `window_start_us` is 0 where the limit has no window."""

    account_id: UUID
    limit_id: UUID
    window_start_us: int


class Lent(NamedTuple):
    """PostgreSQL's answer to a borrow.

    `granted` is what this borrow added, `consumed` what was settled of this lease in all; `rest` is left in the pool;
    `outstanding` is lent to anybody and not consumed.
    """

    granted: int
    total_granted: int
    consumed: int
    rest: int
    outstanding: int


class Rest(NamedTuple):
    """What is left of a limit window, what of it is lent out and not consumed, and what was consumed by the asker."""

    rest: int
    outstanding: int
    consumed: int


class Change(NamedTuple):
    """One step of the fleet's change counter."""

    version: int
    kind: str
    subject_id: UUID | None


class News(NamedTuple):
    """What a worker must hear of: changes, leases that others wait for, and where the change counter stands."""

    changes: tuple[Change, ...]
    reclaims: tuple[LeaseKey, ...]
    version: int | None = None


class Ownership(NamedTuple):
    """Which of the resources that were asked for exist; `alone`: no other worker may be about to settle one."""

    found: Mapping[ResourceKey, Resource]
    alone: bool


class Settling(NamedTuple):
    """An ending on its way to PostgreSQL, with the position behind its record in the journal."""

    position: int
    record: EndRecord

    @property
    def written(self) -> bool:
        """Whether the journal has it; if not, this memory is the only place where it is."""
        return self.position != UNWRITTEN


@dataclass(slots=True, eq=False)
class Noted:
    """A record on its way to PostgreSQL that is no ending: whose a resource is, or that a hold has become durable.

    `position` is the one behind it in the journal; `accounted` whether those who wait for it have been told.
    """

    position: int
    record: NoteRecord
    accounted: bool = False

    @property
    def written(self) -> bool:
        """Always: what the journal has not taken was never promised to anybody."""
        return True


@dataclass(frozen=True, slots=True)
class Batch:
    """A stretch of a journal to be booked in one transaction: what was written in (`start`, `end`], and its prices.

    `own_session` is the settler's living session; draws of any other may turn out late.
    """

    journal_id: UUID
    start: int
    end: int
    open_from: int
    endings: Sequence[Settling]
    prices: Mapping[UUID, bytes]
    own_session: UUID | None
    notes: Sequence[Noted] = ()
