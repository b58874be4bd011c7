"""Limits and their status as the API promises them: money as text, with its nanodollars beside it."""

from datetime import datetime
from typing import Any, Final, Self
from uuid import UUID

from meterproxy.control.answers import Answer, Nanos
from meterproxy.core.money import format_usd
from meterproxy.store.limits import Crossing as CrossingRow
from meterproxy.store.limits import LimitRow
from meterproxy.store.limits import LimitStatus as StatusRow

AMOUNT = "amount"
Quantity = int | str
"""A decimal string in USD for amounts, else a whole number."""
COUNTED: Final = {
    AMOUNT: "US dollars",
    "tokens": "tokens",
    "requests": "requests",
    "concurrent": "requests at the same time",
}
"""What people call what limits count, by measure."""


class Limit(Answer):
    """A limit; the members in nanodollars are there for amounts only."""

    id: UUID
    account_id: UUID
    scope: str
    scope_id: UUID
    name: str
    measure: str
    operation: str | None
    model: str | None
    window: str | None
    time_zone: str
    cap: Quantity | None
    cap_nanos: Nanos | None = None
    grace: Quantity
    grace_nanos: Nanos | None = None
    enforcement: str
    marks: list[int]
    is_own: bool
    created_at: datetime
    retired_at: datetime | None

    @classmethod
    def of(cls, row: LimitRow) -> Self:
        return cls(
            id=row.id,
            account_id=row.account_id,
            scope=row.scope,
            scope_id=row.scope_id,
            name=row.name,
            measure=row.measure,
            operation=row.operation,
            model=row.model_pattern,
            window=_window(row),
            time_zone=row.time_zone,
            **quantities(row.measure, cap=row.cap, grace=row.grace),
            enforcement=row.enforcement,
            marks=list(row.marks),
            is_own=row.is_own,
            created_at=row.created_at,
            retired_at=row.retired_at,
        )


class Crossing(Answer):
    """A mark that the current window has passed."""

    mark: int
    used: Quantity
    used_nanos: Nanos | None = None
    cap: Quantity
    cap_nanos: Nanos | None = None
    crossed_at: datetime

    @classmethod
    def of(cls, measure: str, row: CrossingRow) -> Self:
        return cls(mark=row.mark, **quantities(measure, used=row.used, cap=row.cap), crossed_at=row.crossed_at)


class LimitStatus(Answer):
    """How far a limit's current window has been used."""

    id: UUID
    name: str
    measure: str
    enforcement: str
    window: str | None
    window_start: datetime | None
    window_end: datetime | None
    cap: Quantity | None
    cap_nanos: Nanos | None = None
    used: Quantity
    used_nanos: Nanos | None = None
    held: Quantity
    held_nanos: Nanos | None = None
    remaining: Quantity | None
    remaining_nanos: Nanos | None = None
    crossings: list[Crossing]
    as_of: datetime

    @classmethod
    def of(cls, of: StatusRow) -> Self:
        row = of.limit
        return cls(
            id=row.id,
            name=row.name,
            measure=row.measure,
            enforcement=row.enforcement,
            window=_window(row),
            window_start=of.window_start,
            window_end=of.window_end,
            **quantities(row.measure, cap=row.cap, used=of.used, held=of.held, remaining=of.remaining),
            crossings=[Crossing.of(row.measure, crossing) for crossing in of.crossings],
            as_of=of.as_of,
        )


def _window(row: LimitRow) -> str | None:
    return None if row.window_kind == "none" else row.window_kind


def quantities(measure: str, **given: int | None) -> dict[str, Any]:
    """Quantities of a measure by their names: as they are, or as money with its nanodollars beside it."""
    if measure != AMOUNT:
        return dict(given)
    told: dict[str, Any] = {}
    for name, nanos in given.items():
        told[name] = None if nanos is None else format_usd(nanos)
        told[f"{name}_nanos"] = nanos
    return told
