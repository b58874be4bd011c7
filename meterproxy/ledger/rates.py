"""Rates: what clients are told of the limits of requests and tokens on their path.

Rules
-----
- Read from memory only: what was last heard of each window, and the whole cap where nothing was heard yet.
- Of several limits of one measure the one that leaves the least is told, of equal ones the one that begins anew last.
"""

from collections.abc import Callable

from meterproxy.core.hold import Rate, Rates
from meterproxy.core.key import KeyEntry
from meterproxy.core.lending import LeaseKey
from meterproxy.core.limit import Measure
from meterproxy.core.plan import Planned, plan_for

Rest = Callable[[LeaseKey], int | None]


def rates_of(key: KeyEntry, operation: str, model: str, at_us: int, rest: Rest) -> Rates | None:
    """The tightest limits of a request; `rest` tells what is left of a limit window, None where nobody knows."""
    tightest: dict[Measure, Rate] = {}
    for planned in plan_for(key, operation, model, at_us).leased:
        if planned.limit is None:
            continue
        told = _rate(planned, at_us, rest)
        known = tightest.get(planned.measure)
        if known is None or (told.remaining, -told.reset_us) < (known.remaining, -known.reset_us):
            tightest[planned.measure] = told
    requests, tokens = tightest.get(Measure.REQUESTS), tightest.get(Measure.TOKENS)
    return Rates(requests, tokens) if requests or tokens else None


def _rate(planned: Planned, at_us: int, rest: Rest) -> Rate:
    cap = (planned.limit.cap if planned.limit else None) or 0
    left = rest(planned.key)
    return Rate(cap, cap if left is None else min(max(left, 0), cap), planned.window.end_us - at_us)
