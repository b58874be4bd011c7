"""The book: what one worker has leased, holds and has captured but not yet settled. Pure and synchronous.

Rules
-----
- Per lease, always: `outstanding = free + held + unsettled`, none of them negative, and
  `granted = consumed + returned + outstanding`.
- A hold draws from every limit on its path or from none, in the order given; the first that is short is the one named.
- An open hold may be extended: by all that is asked for, from each of its leases, or not at all.
- A hold ends once, and remembers how. The same ending again is ALREADY, a different one DIFFERS; neither changes
  anything.
- What is captured above what was held is overrun: it never touches the lease.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from meterproxy.core.lending import LeaseKey, Lent


@dataclass(slots=True)
class Lease:
    """The worker's part of one limit window, in the limit's own measure."""

    granted: int = 0
    consumed: int = 0
    returned: int = 0
    free: int = 0
    held: int = 0
    unsettled: int = 0
    deferred: int = 0
    """What of `unsettled` and `consumed` became durable holds, in all; it may come back, though not to this lease."""

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


class Captured(NamedTuple):
    """How a capture split over the draws: per draw what the lease pays, and what overran the hold."""

    end: End
    amounts: tuple[int, ...] = ()
    consumed: tuple[int, ...] = ()

    @property
    def overrun(self) -> tuple[int, ...]:
        """What was measured above what was held."""
        return tuple([amount - used for amount, used in zip(self.amounts, self.consumed, strict=True)])


Draws = tuple[tuple[LeaseKey, int], ...]


class Placed:
    """What a hold has drawn from which leases, and how it ended: amounts of a capture, or None for a release."""

    __slots__ = ("draws", "ending", "open")

    def __init__(self, draws: tuple[tuple[Lease, int], ...]) -> None:
        self.draws = draws
        self.open = True
        self.ending: tuple[int, ...] | None = None

    def end(self, ending: tuple[int, ...] | None) -> End:
        """Note how it ended; what came of that."""
        if self.open:
            self.open = False
            self.ending = ending
            return End.ENDED
        return End.ALREADY if self.ending == ending else End.DIFFERS


_ALREADY: Final = Captured(End.ALREADY)
_DIFFERS: Final = Captured(End.DIFFERS)


class Book:
    """Leases and open holds of one worker session."""

    __slots__ = ("leases", "open")

    def __init__(self) -> None:
        self.leases: dict[LeaseKey, Lease] = {}
        self.open = 0
        """How many holds are open."""

    def grant(self, key: LeaseKey, amount: int) -> None:
        """Add what PostgreSQL has lent."""
        assert amount >= 0
        lease = self.leases.setdefault(key, Lease())
        lease.granted += amount
        lease.free += amount

    def take_up(self, key: LeaseKey, lent: Lent) -> int:
        """Add what PostgreSQL has lent as it tells it: by totals, so that an answer that got lost is made up for.

        A lease that is not here (any more) had nothing left but what was granted now. Answers what is new.
        """
        lease = self.leases.get(key)
        if lease is not None and lease.granted:
            news = lent.total_granted - lease.granted
            if news > 0:
                self.grant(key, news)
            return news
        if lent.granted > 0:
            lease = self.leases.setdefault(key, Lease())
            lease.granted, lease.returned = lent.total_granted, lent.total_returned
            lease.consumed = lent.total_granted - lent.total_returned - lent.granted
            lease.deferred = lease.consumed - lent.consumed
            lease.free += lent.granted
        return lent.granted

    def forget(self, key: LeaseKey) -> None:
        """Let go of a lease of which nothing is left."""
        lease = self.leases.pop(key, None)
        assert lease is None or lease.outstanding == 0, lease

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

    def place(self, draws: Draws) -> Placed | Short:
        """Hold an amount of every lease named, or of none."""
        drawn: list[tuple[Lease, int]] = []
        for key, amount in draws:
            lease = self.leases.get(key) or (Lease() if amount == 0 else None)  # of no use to anybody else
            if lease is None or lease.free < amount:
                short = Short(key, amount - (lease.free if lease else 0))
                _undraw(drawn)
                return short
            lease.free -= amount
            lease.held += amount
            drawn.append((lease, amount))
        self.open += 1
        return Placed(tuple(drawn))

    def extend(self, placed: Placed, more: Sequence[int]) -> bool:
        """Hold so much more of each draw, less where negative; where one of them is short nothing changes."""
        assert placed.open, "only an open hold can be extended"
        if any(lease.free < change for (lease, _), change in zip(placed.draws, more, strict=True)):
            return False
        for (lease, _), change in zip(placed.draws, more, strict=True):
            lease.free -= change
            lease.held += change
        held = zip(placed.draws, more, strict=True)
        placed.draws = tuple([(lease, amount + change) for (lease, amount), change in held])
        return True

    def capture(self, placed: Placed, amounts: Sequence[int]) -> Captured:
        """End a hold with what was measured, one amount per draw in the order of the place."""
        amounts = tuple(amounts)
        end = placed.end(amounts)
        if end is not End.ENDED:
            return _ALREADY if end is End.ALREADY else _DIFFERS
        self.open -= 1
        consumed = []
        for amount, (lease, held) in zip(amounts, placed.draws, strict=True):
            used = min(amount, held)
            lease.held -= held
            lease.unsettled += used
            if used < held:
                lease.free += held - used
            consumed.append(used)
        return Captured(end, amounts, tuple(consumed))

    def defer(self, placed: Placed, amounts: Sequence[int]) -> End:
        """End a hold here with `amounts` of it captured, which go on as a durable one."""
        end = self.capture(placed, amounts).end
        if end is End.ENDED:
            for (lease, _), amount in zip(placed.draws, amounts, strict=True):
                lease.deferred += amount
        return end

    def release(self, placed: Placed, kept: Sequence[int] = ()) -> End:
        """End a hold with nothing charged; `kept` is what each draw consumes all the same, nothing where not given."""
        end = placed.end(None)
        if end is End.ENDED:
            self.open -= 1
            for (lease, held), used in zip(placed.draws, kept or (0,) * len(placed.draws), strict=True):
                lease.held -= held
                lease.unsettled += used
                lease.free += held - used
        return end

    def settled(self, key: LeaseKey, amount: int) -> None:
        """PostgreSQL has booked `amount` of what this lease had captured."""
        lease = self.leases[key]
        assert lease.unsettled >= amount, (key, amount, lease)
        lease.unsettled -= amount
        lease.consumed += amount


def _undraw(draws: Sequence[tuple[Lease, int]]) -> None:
    for lease, held in draws:
        lease.held -= held
        lease.free += held
