"""Refusals: which limits of an organization have refused requests in the last day, its credit among them."""

from datetime import datetime
from typing import Final, Self
from uuid import UUID

from meterproxy.control.access import Permission
from meterproxy.control.answers import Answer, Nanos
from meterproxy.control.call import Call, Services
from meterproxy.control.limit_answers import Quantity, quantities
from meterproxy.control.route import Route
from meterproxy.store.refusals import RefusalRow

MOST_TOLD: Final = 50


class Refusal(Answer):
    """What one limit has refused in its latest window; `last_amount` is how much of it the last request asked for."""

    limit_id: UUID
    kind: str
    name: str
    measure: str
    scope: str
    refused: int
    last_at: datetime
    last_key_id: UUID
    last_key: str | None
    last_amount: Quantity
    last_amount_nanos: Nanos | None = None

    @classmethod
    def of(cls, row: RefusalRow) -> Self:
        return cls(
            limit_id=row.limit_id,
            kind=row.kind,
            name=row.name,
            measure=row.measure,
            scope=row.scope,
            refused=row.refused,
            last_at=row.last_at,
            last_key_id=row.last_key_id,
            last_key=row.last_key,
            **quantities(row.measure, last_amount=row.last_amount),
        )


class Refusals(Answer):
    """The limits that have refused something in the last day, the latest first; of many the latest fifty."""

    data: list[Refusal]


async def listed(on: Services, call: Call) -> Refusals:
    """What was refused in the last day, as workers have told some seconds ago."""
    rows = await on.refusals.list(call.account_id, MOST_TOLD)
    return Refusals(data=[Refusal.of(row) for row in rows])


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/api/refusals",
        permission=Permission.READ_ORGANIZATION,
        endpoint=listed,
        summary="Which limits have refused requests in the last day, and what the last one asked for",
        answer=Refusals,
    ),
)
