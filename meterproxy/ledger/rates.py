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
    requests = _tightest(plan, Measure.REQUESTS, now_us, rest_of)
    tokens = _tightest(plan, Measure.TOKENS, now_us, rest_of)
    return Rates(requests, tokens) if requests or tokens else None


def _tightest(plan: Plan, measure: Measure, now_us: int, rest_of: RestOf) -> Rate | None:
    rates = [_rate(planned, now_us, rest_of) for planned in plan.leased if planned.measure is measure]
    return min(rates, key=lambda rate: (rate.remaining, -rate.reset_us), default=None)


def _rate(planned: Planned, now_us: int, rest_of: RestOf) -> Rate:
    limit = planned.limit
    assert limit is not None, "credit is no rate"
    most = (limit.cap or 0) + limit.grace
    rest = rest_of(planned.key)
    return Rate(most, most if rest is None else min(max(rest, 0), most), max(planned.window.end_us - now_us, 0))
