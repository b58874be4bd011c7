"""Plans: which limits the requests of a key draw from, in which order, in which windows.

Rules
-----
- An exchange belongs to the windows of the instant at which it was accepted.
- A plan is made once for each key, operation and model, and used until the account's limits change or the first of its
  windows ends. An account without limits has one plan for ever: its credit.
- The order is that of the limits (see `core.limit`); credit comes last.
"""

from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from meterproxy.core.lending import LeaseKey
from meterproxy.core.limit import Limit, Measure
from meterproxy.core.window import ENDLESS, FOREVER_US, Window

if TYPE_CHECKING:
    from meterproxy.core.key import KeyEntry

_RATES: Final = (Measure.REQUESTS, Measure.TOKENS)

PLANS_KEPT: Final = 64
"""How many pairs of operation and model are remembered for a key."""


class Planned(NamedTuple):
    """One limit on the path, with the window that requests draw from now; credit is no `Limit`."""

    key: LeaseKey
    measure: Measure
    window: Window = ENDLESS
    limit: Limit | None = None


class Rated(NamedTuple):
    """One limit of requests or tokens: how much it lets through in its window, and when that ends."""

    key: LeaseKey
    measure: Measure
    most: int
    end_us: int


class Plan:
    """What requests draw from: leases in order, and limits that are only counted."""

    __slots__ = ("counted", "exposed", "from_us", "keys", "leased", "rated", "route", "until_us", "version")

    def __init__(self, leased: tuple[Planned, ...], counted: tuple[Planned, ...] = (), version: int = 0) -> None:
        self.leased = leased
        self.keys = tuple(planned.key for planned in leased)
        self.rated = tuple(_rated(planned) for planned in leased if planned.measure in _RATES)
        """Limits of requests and tokens, as clients are told of them."""
        self.counted = counted
        self.version = version
        windows = [planned.window for planned in (*leased, *counted)]
        self.from_us = max((window.start_us for window in windows), default=0)
        self.until_us = min((window.end_us for window in windows), default=FOREVER_US)
        self.exposed: Plan | None = None
        """The plan of such a request that is not held whole; see `exposed`."""
        self.route: Any = None
        """What the ledger that works by this plan keeps of it."""


def plan_for(key: "KeyEntry", operation: str, model: str, at_us: int) -> Plan:
    """What a request of this key draws from that was accepted at an instant."""
    account = key.account
    if not account.limits:
        return account.plan
    plans = key.plans if key.plans is not None else _begun(key)
    plan = plans.get((operation, model))
    if plan is None or plan.version != account.version or not plan.from_us <= at_us < plan.until_us:
        plan = _made(key, operation, model, at_us)
        if len(plans) >= PLANS_KEPT:
            plans.clear()
        plans[operation, model] = plan
    return plan


def exposed(plan: Plan, account_id: UUID, exposure: Limit) -> Plan:
    """The plan of a request that is not held whole: it draws from the account's exposure too, before its credit."""
    known = plan.exposed
    if known is None or known.leased[-2].limit is not exposure:
        *leased, credit = plan.leased
        drawn = (*leased, _planned(account_id, exposure, 0), credit)
        known = plan.exposed = Plan(drawn, plan.counted, plan.version)
    return known


def _begun(key: "KeyEntry") -> dict[tuple[str, str], Plan]:
    """The place for a key's plans: most keys are under no limits and need none."""
    plans: dict[tuple[str, str], Plan] = {}
    object.__setattr__(key, "plans", plans)
    return plans


def _made(key: "KeyEntry", operation: str, model: str, at_us: int) -> Plan:
    account = key.account
    limits = [limit for limit in account.limits_on_path(key) if limit.applies(operation, model)]
    drawn = [_planned(account.account_id, limit, at_us) for limit in limits]
    leased = [planned for planned, limit in zip(drawn, limits, strict=True) if limit.leased]
    counted = [planned for planned, limit in zip(drawn, limits, strict=True) if not limit.leased]
    return Plan((*leased, Planned(account.credit, Measure.AMOUNT)), tuple(counted), account.version)


def _rated(planned: Planned) -> Rated:
    limit = planned.limit
    assert limit is not None, "credit is no rate"
    return Rated(planned.key, planned.measure, (limit.cap or 0) + limit.grace, planned.window.end_us)


def _planned(account_id: UUID, limit: Limit, at_us: int) -> Planned:
    window = limit.window_at(at_us)
    return Planned(LeaseKey(account_id, limit.limit_id, window.start_us), limit.measure, window, limit)
