"""Rates: what clients are told of the limits of requests and tokens on their path.

Rules
-----
- Read from memory only: what was last heard of each window, and all of it where nothing was heard yet.
- Of several limits of one measure the one that leaves the least is told, of equal ones the one that begins anew last.
"""

from meterproxy.core.hold import Rate, Rates
from meterproxy.core.plan import Rated
from meterproxy.ledger.book import Lease
from meterproxy.ledger.route import Route
from meterproxy.ledger.view import View


def rates_of(route: Route, now_us: int) -> Rates | None:
    """The tightest limits on a route."""
    if not (route.requests or route.tokens):
        return None
    return Rates(_tightest(route.requests, now_us), _tightest(route.tokens, now_us))


def _tightest(limits: tuple[tuple[Rated, View, Lease], ...], now_us: int) -> Rate | None:
    told: Rated | None = None
    least = 0
    for rated, view, lease in limits:
        remaining = view.rest + lease.free
        remaining = min(remaining, rated.most)
        if told is None or remaining < least or (remaining == least and rated.end_us > told.end_us):
            told, least = rated, remaining
    return None if told is None else Rate(told.most, max(least, 0), max(told.end_us - now_us, 0))
