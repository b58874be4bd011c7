"""Rates: what clients are told of the limits of requests and tokens on their path.

Rules
-----
- Read from memory only: what was last heard of each window, and all of it where nothing was heard yet.
- Of several limits of one measure the one that leaves the least is told, of equal ones the one that begins anew last.
"""

from collections.abc import Callable

from meterproxy.core.hold import Rate, Rates
from meterproxy.core.lending import LeaseKey
from meterproxy.core.limit import Measure
from meterproxy.core.plan import Plan, Planned

RestOf = Callable[[LeaseKey], int | None]


def rates_of(plan: Plan, now_us: int, rest_of: RestOf) -> Rates | None:
    """The tightest limits of a plan; `rest_of` tells what is left of a window, None where nobody knows."""
    requests = tokens = None
    for planned in plan.leased:
        measure = planned.measure
        if measure is Measure.REQUESTS:
            requests = _tighter(requests, planned, now_us, rest_of)
        elif measure is Measure.TOKENS:
            tokens = _tighter(tokens, planned, now_us, rest_of)
    return Rates(requests, tokens) if requests or tokens else None


def _tighter(known: Rate | None, planned: Planned, now_us: int, rest_of: RestOf) -> Rate:
    limit = planned.limit
    assert limit is not None, "credit is no rate"
    most = (limit.cap or 0) + limit.grace
    rest = rest_of(planned.key)
    remaining = most if rest is None else min(max(rest, 0), most)
    reset_us = max(planned.window.end_us - now_us, 0)
    if known is not None and (known.remaining, -known.reset_us) <= (remaining, -reset_us):
        return known
    return Rate(most, remaining, reset_us)
