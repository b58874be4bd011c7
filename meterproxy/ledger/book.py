"""The book: what one worker has leased, holds and has captured but not yet settled. Pure and synchronous.

Rules
-----
- Per lease, always: `outstanding = free + held + unsettled`, none of them negative, and
  `granted = consumed + returned + outstanding`.
- A hold draws from every limit on its path or from none, in the order given; the first that is short is the one named.
- A hold ends once. The same ending again is ALREADY, a different one DIFFERS; neither changes anything.
- What is captured above what was held is overrun: it never touches the lease.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple
from uuid import UUID

from meterproxy.core.lending import LeaseKey

ENDINGS_REMEMBERED: Final = 10_000


@dataclass(slots=True)
class Lease:
    """The worker's part of one limit window, in the limit's own measure."""

    granted: int = 0
    consumed: int = 0
    returned: int = 0
    free: int = 0
    held: int = 0
    unsettled: int = 0

    @property
    def outstanding(self) -> int:
        """What was lent and is neither settled nor given back."""
        return self.granted - self.consumed - self.returned

    def check(self) -> None:
        """Assert the invariant that ties the numbers together."""
        assert self.outstanding == self.free + self.held + self.unsettled, self
        assert min(self.free, self.held, self.unsettled, self.consumed, self.returned) >= 0, self


class Short(NamedTuple):
    """Nothing was placed: the lease named lacks `missing`."""

    key: LeaseKey
    missing: int


class End(Enum):
    """What came of an attempt to end a hold."""

    ENDED = "ended"
    ALREADY = "already"
    DIFFERS = "differs"
    UNKNOWN = "unknown"


class Captured(NamedTuple):
    """How a capture split over the draws: per draw what the lease pays, and what overran the hold."""

    end: End
    consumed: tuple[int, ...] = ()
    overrun: tuple[int, ...] = ()


Draws = tuple[tuple[LeaseKey, int], ...]


class Book:
    """Leases and open holds of one worker session."""

    def __init__(self) -> None:
        self.leases: dict[LeaseKey, Lease] = {}
        self.holds: dict[UUID, Draws] = {}
        self._endings: OrderedDict[UUID, tuple[int, ...] | None] = OrderedDict()

    def grant(self, key: LeaseKey, amount: int) -> None:
        """Add what PostgreSQL has lent."""
        assert amount >= 0
        lease = self.leases.setdefault(key, Lease())
        lease.granted += amount
        lease.free += amount

    def free(self, key: LeaseKey) -> int:
        """What could be held right now."""
        lease = self.leases.get(key)
        return lease.free if lease else 0

    def give_back(self, key: LeaseKey, keep: int = 0) -> int:
        """Take what is free above `keep` out of the lease; answers the amount, to be reported as returned."""
        lease = self.leases.get(key)
        amount = max(lease.free - keep, 0) if lease else 0
        if lease and amount:
            lease.free -= amount
            lease.returned += amount
        return amount

    def place(self, hold_id: UUID, draws: Draws) -> Short | None:
        """Hold an amount of every lease named, or of none."""
        assert hold_id not in self.holds, "a hold is placed once"
        for index, (key, amount) in enumerate(draws):
            lease = self.leases.get(key) or (self.leases.setdefault(key, Lease()) if amount == 0 else None)
            if lease is None or lease.free < amount:
                short = Short(key, amount - (lease.free if lease else 0))
                self._undraw(draws[:index])
                return short
            lease.free -= amount
            lease.held += amount
        self.holds[hold_id] = draws
        return None

    def capture(self, hold_id: UUID, amounts: Sequence[int]) -> Captured:
        """End a hold with what was measured, one amount per draw in the order of the place."""
        ending = tuple(amounts)
        draws = self.holds.pop(hold_id, None)
        if draws is None:
            return Captured(self._repeated(hold_id, ending))
        consumed = tuple(min(amount, held) for amount, (_, held) in zip(ending, draws, strict=True))
        for (key, held), used in zip(draws, consumed, strict=True):
            lease = self.leases[key]
            lease.held -= held
            lease.unsettled += used
            lease.free += held - used
        self._remember(hold_id, ending)
        return Captured(End.ENDED, consumed, tuple(a - c for a, c in zip(ending, consumed, strict=True)))

    def release(self, hold_id: UUID) -> End:
        """End a hold with nothing consumed."""
        draws = self.holds.pop(hold_id, None)
        if draws is None:
            return self._repeated(hold_id, None)
        self._undraw(draws)
        self._remember(hold_id, None)
        return End.ENDED

    def settled(self, key: LeaseKey, amount: int) -> None:
        """PostgreSQL has booked `amount` of what this lease had captured."""
        lease = self.leases[key]
        assert lease.unsettled >= amount, (key, amount, lease)
        lease.unsettled -= amount
        lease.consumed += amount

    def _undraw(self, draws: Draws) -> None:
        for key, held in draws:
            lease = self.leases[key]
            lease.held -= held
            lease.free += held

    def _repeated(self, hold_id: UUID, ending: tuple[int, ...] | None) -> End:
        if hold_id not in self._endings:
            return End.UNKNOWN
        return End.ALREADY if self._endings[hold_id] == ending else End.DIFFERS

    def _remember(self, hold_id: UUID, ending: tuple[int, ...] | None) -> None:
        self._endings[hold_id] = ending
        if len(self._endings) > ENDINGS_REMEMBERED:
            self._endings.popitem(last=False)
