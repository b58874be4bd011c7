"""The book: what one worker has leased, holds and has captured but not yet settled. Pure and synchronous.

Rules
-----
- Per lease, always: `granted = consumed + returned + outstanding` and `outstanding = free + held + unsettled`, none of
  them negative. What is held is what is left when all others are known, so nothing needs to add it up.
- A hold draws from every lease on its route or from none; of all that have one measure it draws the same amount.
- An open hold may be extended: by all that is asked for, from each of its leases, or not at all.
- A hold ends once, and remembers how. The same ending again is ALREADY, a different one DIFFERS; neither changes
  anything.
- What is captured above what was held is overrun: it never touches the lease.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from meterproxy.core.lending import LeaseKey, Lent
from meterproxy.core.path import ByMeasure


@dataclass(slots=True)
class Lease:
    """The worker's part of one limit window, in the limit's own measure."""

    granted: int = 0
    consumed: int = 0
    returned: int = 0
    free: int = 0
    unsettled: int = 0
    deferred: int = 0
    """What of `unsettled` and `consumed` became durable holds, in all; it may come back, though not to this lease."""
    low: int = 0
    """With less than this free, it is time to borrow more."""

    @property
    def outstanding(self) -> int:
        """What was lent and is neither settled nor given back."""
        return self.granted - self.consumed - self.returned

    @property
    def held(self) -> int:
        """What open holds have drawn."""
        return self.granted - self.consumed - self.returned - self.free - self.unsettled

    @property
    def adds_up(self) -> bool:
        """Whether no part of it is negative."""
        return min(self.free, self.held, self.unsettled, self.consumed, self.returned) >= 0


Leases = tuple[tuple[int, tuple[Lease, ...]], ...]
"""What a hold draws from: by the number of the measure, the leases that have it. None is there twice."""


class End(Enum):
    """What came of an attempt to end a hold."""

    ENDED = "ended"
    ALREADY = "already"
    DIFFERS = "differs"


class Placed:
    """What a hold has drawn from which leases, and how it ended: amounts of a capture, or None for a release.

    `low`: in one of them so little is free now that more should be borrowed.
    """

    __slots__ = ("amounts", "ending", "leases", "low", "open")

    def __init__(self, leases: Leases, amounts: ByMeasure, low: bool = False) -> None:
        self.leases = leases
        self.amounts = amounts
        self.low = low
        self.open = True
        self.ending: ByMeasure | None = None

    def end(self, ending: ByMeasure | None) -> End:
        """Note how it ended; what came of that."""
        if self.open:
            self.open = False
            self.ending = ending
            return End.ENDED
        return End.ALREADY if self.ending == ending else End.DIFFERS


NOTHING: Final[ByMeasure] = (0, 0, 0, 0, 0)


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

    def adds_up(self, lease: Lease) -> bool:
        """Whether a lease can be as it is: nothing of it is negative, or held where no hold is open."""
        return lease.adds_up and not (self.open == 0 and lease.held)

    def place(self, leases: Leases, amounts: ByMeasure) -> Placed | None:
        """Hold an amount of each lease; None: one of them is short, and nothing was held."""
        low = False
        for measure, group in leases:
            amount = amounts[measure]
            for lease in group:
                lease.free = free = lease.free - amount
                if free < lease.low:
                    if free < 0:
                        _undo(leases, amounts, lease)
                        return None
                    low = True
        self.open += 1
        return Placed(leases, amounts, low)

    def extend(self, placed: Placed, more: ByMeasure) -> bool:
        """Hold so much more, less where negative; where a lease is short nothing changes."""
        assert placed.open, "only an open hold can be extended"
        if any(lease.free < more[measure] for measure, group in placed.leases for lease in group):
            return False
        for measure, group in placed.leases:
            for lease in group:
                lease.free -= more[measure]
        placed.amounts = _sum(placed.amounts, more)
        return True

    def capture(self, placed: Placed, amounts: ByMeasure) -> End:
        """End a hold with what was measured."""
        end = placed.end(amounts)
        if end is End.ENDED:
            self.open -= 1
            _consume(placed, amounts)
        return end

    def defer(self, placed: Placed, amounts: ByMeasure) -> End:
        """End a hold here with `amounts` of it captured, which go on as a durable one."""
        end = self.capture(placed, amounts)
        if end is End.ENDED:
            for measure, group in placed.leases:
                for lease in group:
                    lease.deferred += min(amounts[measure], placed.amounts[measure])
        return end

    def release(self, placed: Placed, kept: ByMeasure = NOTHING) -> End:
        """End a hold with nothing charged; `kept` is what its leases consume all the same."""
        end = placed.end(None)
        if end is End.ENDED:
            self.open -= 1
            _consume(placed, kept)
        return end

    def settled(self, key: LeaseKey, amount: int) -> None:
        """PostgreSQL has booked `amount` of what this lease had captured."""
        lease = self.leases[key]
        assert lease.unsettled >= amount, (key, amount, lease)
        lease.unsettled -= amount
        lease.consumed += amount


def _consume(placed: Placed, amounts: ByMeasure) -> None:
    """What was held and is not used is free again; what was used waits for being settled."""
    for measure, group in placed.leases:
        held, used = placed.amounts[measure], amounts[measure]
        if used >= held:
            for lease in group:
                lease.unsettled += held
        elif used:
            back = held - used
            for lease in group:
                lease.free += back
                lease.unsettled += used
        else:
            for lease in group:
                lease.free += held


def _undo(leases: Leases, amounts: ByMeasure, last: Lease) -> None:
    """Take back what was drawn, up to the lease that was short."""
    for measure, group in leases:
        for lease in group:
            lease.free += amounts[measure]
            if lease is last:
                return


def _sum(amounts: ByMeasure, more: ByMeasure) -> ByMeasure:
    a, b, c, d, e = (amount + change for amount, change in zip(amounts, more, strict=True))
    return a, b, c, d, e
