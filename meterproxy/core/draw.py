"""Draws: what the ending of an exchange takes for good from each limit that its hold has drawn from.

Rules
-----
- It follows from the ending alone, by one function: the book, settle, recovery and audit cannot differ.
- Requests come back where nothing can have reached the provider; they are kept where it refused, answered or nobody
  knows. Concurrency and exposure always come back. Tokens and amounts are what was measured, none where nothing is
  charged.
- What is beyond the hold is overrun. A draw that was only counted was never lent: all of it is added at the end.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple
from uuid import UUID

from meterproxy.core.limit import Measure
from meterproxy.core.record import Draw, Ending, EndRecord
from meterproxy.core.usage import Outcome

_OVER: Final = (Measure.CONCURRENT, Measure.EXPOSURE)
"""Measures of what runs: nothing of them is left when an exchange has ended."""
RELEASED: Final = "released"
"""How a hold ended for which nothing is charged."""


class Taken(NamedTuple):
    """What one draw comes to: paid by its lease, above what was held, and counted without a lease."""

    consumed: int
    overrun: int
    counted: int


def measured(how: str, ending: Ending, amount_nanos: int) -> tuple[int, int, int, int, int]:
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


def taken_together(records: Iterable[EndRecord]) -> dict[Lease, list[int]]:
    """What the endings of records take of each lease in all: consumed, overrun and counted."""
    sums: dict[Lease, list[int]] = {}
    for record in records:
        account_id = record.subject.account_id
        for draw, (consumed, overrun, counted) in zip(record.subject.draws, taken(record), strict=True):
            lease = (account_id, draw.limit_id, draw.window_start_us, draw.session_id)
            total = sums.get(lease)
            if total is None:
                sums[lease] = [consumed, overrun, counted]
            else:
                total[0] += consumed
                if overrun or counted:
                    total[1] += overrun
                    total[2] += counted
    return sums


def _taken(draw: Draw, amount: int) -> Taken:
    if draw.counted:
        return Taken(0, 0, amount)
    return Taken(amount, 0, 0) if amount <= draw.amount else Taken(draw.amount, amount - draw.amount, 0)


def deferred(draw: Draw) -> int:
    """What a draw's lease pays when its hold becomes durable: all that was held, but for what is over by then."""
    return 0 if draw.counted or draw.measure in _OVER else draw.amount
