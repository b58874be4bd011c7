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
from meterproxy.core.limit import Limit, Measure

Rest = Callable[[LeaseKey], int | None]


def rates_of(key: KeyEntry, operation: str, model: str, at_us: int, rest: Rest) -> Rates | None:
    """The tightest limits of a request; `rest` tells what is left of a limit window, None where nobody knows."""
    path = {key.origin_id or key.key_id, key.user_id, key.team_id, key.account.organization_id, key.account_id}
    tightest: dict[Measure, Rate] = {}
    for limit in key.account.limits:
        if limit.leased and limit.scope_id in path and limit.applies(operation, model):
            told = _rate(key, limit, at_us, rest)
            known = tightest.get(limit.measure)
            if known is None or (told.remaining, -told.reset_us) < (known.remaining, -known.reset_us):
                tightest[limit.measure] = told
    requests, tokens = tightest.get(Measure.REQUESTS), tightest.get(Measure.TOKENS)
    return Rates(requests, tokens) if requests or tokens else None


def _rate(key: KeyEntry, limit: Limit, at_us: int, rest: Rest) -> Rate:
    cap = limit.cap or 0
    window = limit.window_at(at_us)
    left = rest(LeaseKey(key.account_id, limit.limit_id, window.start_us))
    return Rate(cap, cap if left is None else min(max(left, 0), cap), window.end_us - at_us)
