"""Draws of one request: how much of each limit on its path, as the book, the journal and headers need it. Pure."""

from collections.abc import Callable
from typing import Final, NamedTuple
from uuid import UUID

from meterproxy.core.draw import measured
from meterproxy.core.hold import HoldRequest, Rest
from meterproxy.core.lending import LeaseKey
from meterproxy.core.limit import Measure
from meterproxy.core.plan import Plan, Planned
from meterproxy.core.record import Draw, Ending, Subject
from meterproxy.ledger.book import Draws

MEASURED: Final = frozenset({Measure.AMOUNT, Measure.TOKENS})
"""Measures of which a request may need less than it asks for."""

RestOf = Callable[[LeaseKey], int | None]


class Lacking(NamedTuple):
    """The first limit of a request that has no room for it; `spent`: not even if every running request ended."""

    planned: Planned
    amount: int
    spent: bool


def drawn_by(plan: Plan, request: HoldRequest) -> Draws:
    """What a request holds of each lease of its plan."""
    leased = plan.leased
    if len(leased) == 1:
        return ((leased[0].key, request.hold_nanos),)
    amounts = _amounts(request)
    return tuple([(planned.key, amounts[planned.measure]) for planned in leased])


def _amounts(request: HoldRequest) -> tuple[int, int, int, int, int]:
    """What a request holds by measure, in the order of their numbers."""
    return request.hold_nanos, 1, request.bound.tokens, 1, request.exposed_nanos


def draws_of(plan: Plan, drawn: Draws, request: HoldRequest, session_id: UUID) -> tuple[Draw, ...]:
    """The same as the journal says it, behind what is only counted; credit comes last."""
    if len(drawn) == 1 and not plan.counted:
        key, amount = drawn[0]
        return (Draw(key.limit_id, key.window_start_us, session_id, amount, plan.leased[0].measure),)
    draws = tuple(
        [
            Draw(key.limit_id, key.window_start_us, session_id, amount, planned.measure)
            for planned, (key, amount) in zip(plan.leased, drawn, strict=True)
        ]
    )
    return _counted(plan.counted, request, session_id) + draws if plan.counted else draws


def counted_draws(plan: Plan, request: HoldRequest, session_id: UUID) -> tuple[Draw, ...]:
    """The draws of a request of which nothing is leased and everything is counted."""
    return _counted((*plan.counted, *plan.leased), request, session_id)


def _counted(limits: tuple[Planned, ...], request: HoldRequest, session_id: UUID) -> tuple[Draw, ...]:
    amounts = _amounts(request)
    return tuple(
        [
            Draw(planned.key.limit_id, planned.key.window_start_us, session_id, amounts[planned.measure],
                 planned.measure, counted=True)
            for planned in limits
        ]
    )  # fmt: skip


def extension(subject: Subject, more_nanos: int) -> list[int]:
    """How each draw of a hold changes that is to hold so much more: money is held that was only exposed before."""
    by_measure = {Measure.AMOUNT: more_nanos, Measure.EXPOSURE: -more_nanos}
    changes = [0 if draw.counted else by_measure.get(Measure(draw.measure), 0) for draw in subject.draws]
    return [max(change, -draw.amount) for draw, change in zip(subject.draws, changes, strict=True)]


def consumptions(subject: Subject, how: str, ending: Ending, amount_nanos: int) -> list[int]:
    """What an ending consumes of each lease that its hold had drawn from."""
    draws = subject.draws
    if len(draws) == 1 and not draws[0].counted:
        return [amount_nanos]
    amounts = measured(how, ending, amount_nanos)
    return [amounts[draw.measure] for draw in draws if not draw.counted]


def least_rest(plan: Plan, rest_of: RestOf) -> Rest | None:
    """The least that is left of the plan's limits, None where one of them was never heard of."""
    if len(plan.leased) == 1:  # credit alone
        nanos = rest_of(plan.leased[0].key)
        return None if nanos is None else Rest(nanos, None)
    return _least_of(plan, rest_of)


def _least_of(plan: Plan, rest_of: RestOf) -> Rest | None:
    nanos: int | None = None
    tokens: int | None = None
    for planned in plan.leased:
        if planned.measure not in MEASURED:
            continue
        rest = rest_of(planned.key)
        if rest is None:
            return None
        if planned.measure is Measure.AMOUNT:
            nanos = rest if nanos is None or rest < nanos else nanos
        else:
            tokens = rest if tokens is None or rest < tokens else tokens
    assert nanos is not None, "credit is on every path"
    return Rest(nanos, tokens)
