"""Draws: what the ending of an exchange takes for good from each limit that its hold has drawn from.

Rules
-----
- It follows from the ending alone, by one function: the book, settle, recovery and audit cannot differ.
- Requests come back where nothing can have reached the provider; they are kept where it refused, answered or nobody
  knows. Concurrency always comes back. Tokens and amounts are what was measured, none where nothing is charged.
- What is beyond the hold is overrun. A draw that was only counted was never lent: all of it is added at the end.
"""

from typing import Final, NamedTuple

from meterproxy.core.limit import Measure
from meterproxy.core.record import Draw, Ending, EndRecord
from meterproxy.core.usage import Outcome

RELEASED: Final = "released"
"""How a hold ended for which nothing is charged."""


class Taken(NamedTuple):
    """What one draw comes to: paid by its lease, above what was held, and counted without a lease."""

    consumed: int
    overrun: int
    counted: int


def consumption(measure: int, how: str, ending: Ending, amount_nanos: int) -> int:
    """What an ending consumes in a limit's own measure, whatever was held."""
    if measure == Measure.AMOUNT:
        return amount_nanos
    if measure == Measure.TOKENS:
        return 0 if how == RELEASED else ending.usage.input_tokens + ending.usage.output_tokens
    if measure == Measure.REQUESTS:
        return int(how != RELEASED or ending.outcome == Outcome.PROVIDER_ERROR or any(ending.usage))
    return 0


def taken(record: EndRecord, draw: Draw) -> Taken:
    """What a record's ending takes of one of its draws."""
    amount = consumption(draw.measure, record.how, record.ending, record.amount_nanos)
    if draw.counted:
        return Taken(0, 0, amount)
    return Taken(min(amount, draw.amount), max(amount - draw.amount, 0), 0)


def deferred(draw: Draw) -> int:
    """What a draw's lease pays when its hold becomes durable: all that was held, but for concurrency, which is over."""
    return 0 if draw.counted or draw.measure == Measure.CONCURRENT else draw.amount
