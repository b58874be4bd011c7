"""Draws: what the ending of an exchange takes for good from each limit that its hold has drawn from.

Rules
-----
- It follows from the ending alone, by one function: the book, settle, recovery and audit cannot differ.
- Requests come back where nothing can have reached the provider; they are kept where it refused, answered or nobody
  knows. Concurrency and exposure always come back. Tokens and amounts are what was measured, none where nothing is
  charged.
- What is beyond the hold is overrun. A draw that was only counted was never lent: all of it is added at the end.
- It is the same for all draws of a measure, so it is reckoned once for each measure, not for each limit.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple
from uuid import UUID

from meterproxy.core.limit import Measure
from meterproxy.core.path import MEASURES, ByMeasure, Draw, Path
from meterproxy.core.record import Ending, EndRecord
from meterproxy.core.usage import Outcome

_OVER: Final = (Measure.CONCURRENT, Measure.EXPOSURE)
"""Measures of what runs: nothing of them is left when an exchange has ended."""
CAPTURED: Final = "captured"
"""How a hold ended that was charged what was measured."""
RELEASED: Final = "released"
"""How a hold ended for which nothing is charged."""


class Taken(NamedTuple):
    """What one draw comes to: paid by its lease, above what was held, and counted without a lease."""

    consumed: int
    overrun: int
    counted: int


def measured(how: str, ending: Ending, amount_nanos: int) -> ByMeasure:
    """What an ending consumes, whatever was held: by measure, in the order of their numbers."""
    usage = ending.usage
    if how == RELEASED:
        return amount_nanos, int(ending.outcome == Outcome.PROVIDER_ERROR or any(usage)), 0, 0, 0
    return amount_nanos, 1, usage.input_tokens + usage.output_tokens, 0, 0


def taken(record: EndRecord) -> list[Taken]:
    """What a record's ending takes of each of its draws."""
    amounts = measured(record.how, record.ending, record.amount_nanos)
    return [_taken(draw, amounts[draw.measure]) for draw in record.subject.draws]


Lease = tuple[UUID, UUID, int, UUID]
"""A lease as draws name it: account, limit, start of the window, session."""


class _Sum:
    """What endings take by one path, by measure: what its leases pay, and all of it."""

    __slots__ = ("account_id", "all", "consumed", "path")

    def __init__(self, account_id: UUID, path: Path) -> None:
        self.account_id = account_id
        self.path = path
        self.consumed = [0] * MEASURES
        self.all = [0] * MEASURES


def taken_together(records: Iterable[EndRecord]) -> dict[Lease, list[int]]:
    """What the endings of records take of each lease in all: consumed, overrun and counted."""
    sums: dict[tuple[int, Path], _Sum] = {}
    for record in records:
        subject = record.subject
        path, held = subject.draws.path, subject.draws.amounts
        total = sums.get((subject.account_id.int, path))
        if total is None:
            total = sums[subject.account_id.int, path] = _Sum(subject.account_id, path)
        amounts = measured(record.how, record.ending, record.amount_nanos)
        consumed, everything = total.consumed, total.all
        for measure in path.measures:
            amount, most = amounts[measure], held[measure]
            everything[measure] += amount
            consumed[measure] += min(most, amount)
    return _by_lease(sums.values())


def _by_lease(sums: Iterable[_Sum]) -> dict[Lease, list[int]]:
    """The same for each lease, of which many paths may have drawn."""
    leases: dict[Lease, list[int]] = {}
    for total in sums:
        for limit_id, start_us, session_id, measure, is_counted in total.path.sources:
            taken = leases.setdefault((total.account_id, limit_id, start_us, session_id), [0, 0, 0])
            if is_counted:
                taken[2] += total.all[measure]
            else:
                taken[0] += total.consumed[measure]
                taken[1] += total.all[measure] - total.consumed[measure]
    return leases


def _taken(draw: Draw, amount: int) -> Taken:
    if draw.counted:
        return Taken(0, 0, amount)
    return Taken(amount, 0, 0) if amount <= draw.amount else Taken(draw.amount, amount - draw.amount, 0)


def deferred(draw: Draw) -> int:
    """What a draw's lease pays when its hold becomes durable: all that was held, but for what is over by then."""
    return 0 if draw.counted or draw.measure in _OVER else draw.amount


def lasting(amounts: ByMeasure) -> ByMeasure:
    """The same of all the draws of a hold, by measure."""
    a, b, c, d, e = (0 if measure in _OVER else amount for measure, amount in enumerate(amounts))
    return a, b, c, d, e
