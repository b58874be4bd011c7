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
from meterproxy.core.plan import Plan, Rated

RestOf = Callable[[LeaseKey], int | None]


def rates_of(plan: Plan, now_us: int, rest_of: RestOf) -> Rates | None:
    """The tightest limits of a plan; `rest_of` tells what is left of a window, None where nobody knows."""
    if not plan.rated:
        return None
    requests: _Told | None = None
    tokens: _Told | None = None
    for rated in plan.rated:
        rest = rest_of(rated.key)
        remaining = rated.most if rest is None or rest > rated.most else max(rest, 0)
        if rated.measure is Measure.REQUESTS:
            if requests is None or _tighter(remaining, rated, requests):
                requests = remaining, rated
        elif tokens is None or _tighter(remaining, rated, tokens):
            tokens = remaining, rated
    return Rates(_rate(requests, now_us), _rate(tokens, now_us))


_Told = tuple[int, Rated]
"""What is left of a limit."""


def _tighter(remaining: int, rated: Rated, known: _Told) -> bool:
    return remaining < known[0] or (remaining == known[0] and rated.end_us > known[1].end_us)


def _rate(told: _Told | None, now_us: int) -> Rate | None:
    if told is None:
        return None
    remaining, rated = told
    return Rate(rated.most, remaining, max(rated.end_us - now_us, 0))
