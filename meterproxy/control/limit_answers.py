"""Limits and their status as the JSON that the operator's API promises: money as text and in nanodollars."""

from typing import Any

from meterproxy.core.money import format_usd
from meterproxy.store.limits import Crossing, LimitRow, LimitStatus

AMOUNT = "amount"


def limit(row: LimitRow) -> dict[str, Any]:
    """A limit."""
    return {
        "id": row.id,
        "account_id": row.account_id,
        "scope": row.scope,
        "scope_id": row.scope_id,
        "name": row.name,
        "measure": row.measure,
        "operation": row.operation,
        "model": row.model_pattern,
        "window": None if row.window_kind == "none" else row.window_kind,
        "time_zone": row.time_zone,
        **_quantities(row.measure, cap=row.cap, grace=row.grace),
        "enforcement": row.enforcement,
        "marks": row.marks,
        "created_at": row.created_at,
        "retired_at": row.retired_at,
    }


def status(of: LimitStatus) -> dict[str, Any]:
    """How far a limit's current window has been used."""
    row = of.limit
    return {
        "id": row.id,
        "name": row.name,
        "measure": row.measure,
        "enforcement": row.enforcement,
        "window": None if row.window_kind == "none" else row.window_kind,
        "window_start": of.window_start,
        "window_end": of.window_end,
        **_quantities(row.measure, cap=row.cap, used=of.used, held=of.held, remaining=of.remaining),
        "crossings": [_crossing(row.measure, crossing) for crossing in of.crossings],
        "as_of": of.as_of,
    }


def _crossing(measure: str, crossing: Crossing) -> dict[str, Any]:
    return {
        "mark": crossing.mark,
        **_quantities(measure, used=crossing.used, cap=crossing.cap),
        "crossed_at": crossing.crossed_at,
    }


def _quantities(measure: str, **quantities: int | None) -> dict[str, Any]:
    if measure != AMOUNT:
        return dict(quantities)
    told: dict[str, Any] = {}
    for name, nanos in quantities.items():
        told[name] = None if nanos is None else format_usd(nanos)
        told[f"{name}_nanos"] = nanos
    return told
