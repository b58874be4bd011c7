"""Rates: what clients are told of the limits of requests and tokens on their path.

Rules
-----
- Read from memory only: what was last heard of each window, and all of it where nothing was heard yet.
- Of several limits of one measure the one that leaves the least is told, of equal ones the one that begins anew last.
"""

from meterproxy.core.hold import Rate, Rates
from meterproxy.ledger.route import RatedHere, Route
from meterproxy.ledger.view import MOST_BORROWED


def rates_of(route: Route, now_us: int) -> Rates | None:
    """The tightest limits on a route."""
    if not (route.requests or route.tokens):
        return None
    return Rates(_tightest(route.requests, now_us), _tightest(route.tokens, now_us))


def _tightest(limits: tuple[RatedHere, ...], now_us: int) -> Rate | None:
    if not limits:
        return None
    told_most = told_end_us = 0
    least = MOST_BORROWED
    for most, end_us, view, lease in limits:
        remaining = view.rest + lease.free
        remaining = min(remaining, most)
        if remaining < least or (remaining == least and end_us > told_end_us):
            least, told_most, told_end_us = remaining, most, end_us
    return Rate(told_most, max(least, 0), max(told_end_us - now_us, 0))
