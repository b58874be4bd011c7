"""Routes: a plan's path as one worker goes it, through its own leases and what it knows of each limit.

Rules
-----
- A route is made once for each plan and session. It is *whole* when PostgreSQL has told of every limit on it and there
  is a lease of each; until then it is made anew for each request.
- Leases of windows that have ended may be let go of, and borrowed anew for whoever comes late. So once any was, a
  route into windows that had ended by then is made anew for each request, too.
- What is left of a limit for new holds is what is free here and what is lent to nobody, as last heard.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple
from uuid import UUID

from meterproxy.core.hold import Rest
from meterproxy.core.lending import LeaseKey
from meterproxy.core.limit import Measure
from meterproxy.core.path import Path, Source
from meterproxy.core.plan import Plan, Planned
from meterproxy.core.window import ENDLESS
from meterproxy.ledger.book import Lease, Leases
from meterproxy.ledger.view import MOST_BORROWED, View

_UNHEARD: Final = View(None, ENDLESS, rest=MOST_BORROWED)
"""Stands for a limit of which PostgreSQL has told nothing yet: as far as anybody here knows, nothing of it is used."""

Known = tuple[View, Lease]
"""What this worker knows of one limit window, and its own part of it."""

RatedHere = tuple[int, int, View, Lease]
"""A limit of requests or tokens: how much it lets through, when that ends, and what is known of it."""


class Step(NamedTuple):
    """A lease on a route from which something can be drawn."""

    key: LeaseKey
    view: View
    lease: Lease


class Route:
    """The leases that a plan's requests draw from.

    `leases` has them by measure, `steps` in the plan's order as far as there is anything in them; `path` is how records
    name them, `owner` whose they are. `touched_us` is when they were last noted to be in use.
    """

    __slots__ = (
        "_amounts", "_heard", "_tokens", "keys", "leases", "owner", "path", "requests", "steps", "tokens", "touched_us",
        "whole",
    )  # fmt: skip

    def __init__(
        self,
        plan: Plan,
        owner: object,
        session_id: UUID,
        views: Mapping[LeaseKey, View],
        leases: Mapping[LeaseKey, Lease],
    ) -> None:
        self.owner = owner
        self.keys = plan.keys
        self.touched_us = 0
        known = {key: (_heard(views.get(key)), leases.get(key) or Lease()) for key in plan.keys}
        self.leases = _by_measure([(planned.measure, known[planned.key][1]) for planned in plan.leased])
        self.steps = tuple(Step(key, views[key], leases[key]) for key in plan.keys if key in views and key in leases)
        self.path = path_of(plan.counted, plan.leased, session_id)
        self.requests = _rated(plan, Measure.REQUESTS, known)
        self.tokens = _rated(plan, Measure.TOKENS, known)
        self._amounts = _known(plan, Measure.AMOUNT, known)
        self._tokens = _known(plan, Measure.TOKENS, known)
        self._heard = all(view is not _UNHEARD for view, _ in (*self._amounts, *self._tokens))
        self.whole = len(self.steps) == len(plan.keys) and all(view is not _UNHEARD for view, _ in known.values())

    def rest(self) -> Rest | None:
        """The least that is left of limits on money and tokens, None where one of them was never heard of."""
        return Rest(least(self._amounts), least(self._tokens) if self._tokens else None) if self._heard else None


def path_of(counted: tuple[Planned, ...], leased: tuple[Planned, ...], session_id: UUID) -> Path:
    """The path through limits of which some are only counted; credit comes last."""
    return Path(
        [
            Source(planned.key.limit_id, planned.key.window_start_us, session_id, int(planned.measure), is_counted)
            for limits, is_counted in ((counted, True), (leased, False))
            for planned in limits
        ]
    )


def least(known: tuple[Known, ...]) -> int:
    """The least that is left of these limits."""
    rest = MOST_BORROWED
    for view, lease in known:
        left = view.rest + lease.free
        rest = min(rest, left)
    return rest


def _heard(view: View | None) -> View:
    return view if view is not None and view.heard else _UNHEARD


def _by_measure(drawn: list[tuple[Measure, Lease]]) -> Leases:
    measures = dict.fromkeys(int(measure) for measure, _ in drawn)
    return tuple((measure, tuple(lease for other, lease in drawn if other == measure)) for measure in measures)


def _known(plan: Plan, measure: Measure, known: Mapping[LeaseKey, Known]) -> tuple[Known, ...]:
    return tuple(known[planned.key] for planned in plan.leased if planned.measure is measure)


def _rated(plan: Plan, measure: Measure, known: Mapping[LeaseKey, Known]) -> tuple[RatedHere, ...]:
    return tuple((rated.most, rated.end_us, *known[rated.key]) for rated in plan.rated if rated.measure is measure)
