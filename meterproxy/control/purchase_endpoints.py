"""Purchases: credit that those who pay order, and operators confirm when it was paid."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from pydantic import Field

from meterproxy.control import answers, queries
from meterproxy.control.access import Permission
from meterproxy.control.answers import Answer, Nanos, OrganizationName, Usd, money
from meterproxy.control.bodies import AmountAboveZero, Body, Name, Text
from meterproxy.control.call import Call, Services
from meterproxy.control.principal import User
from meterproxy.control.route import Route
from meterproxy.core.purchase import PurchaseState
from meterproxy.errors import Case
from meterproxy.store.purchases import PurchaseRow

Reference = Annotated[str, Field(max_length=100), Text]
Reason = Annotated[str, Field(max_length=500), Text]


class NewPurchase(Body):
    """What is ordered; `reference` is what the buyer calls it, such as the number of his own order."""

    amount: AmountAboveZero
    reference: Reference = ""
    idempotency_key: Name | None = None


class Confirmation(Body):
    """That a purchase was paid; `amount` where another one arrived than was ordered."""

    amount: AmountAboveZero | None = None


class Refusal(Body):
    """That a purchase was not paid."""

    reason: Reason = ""


class PurchasePage(queries.Page):
    """One page of purchases, the latest first; `code` finds one as it stands on a transfer."""

    state: Literal["pending", "confirmed", "declined", "cancelled"] | None = None
    code: Annotated[str, Field(min_length=1, max_length=40)] | None = None

    @property
    def wanted(self) -> PurchaseState | None:
        """The state that is looked for."""
        return PurchaseState(self.state) if self.state else None


class EveryPurchasePage(PurchasePage):
    """The same of all accounts, or of one."""

    account_id: UUID | None = None


class Purchase(Answer):
    """A purchase; `code` belongs on the transfer. `booked` is what was confirmed, in the ledger as `entry_no`.

    `automatic`: nobody has ordered it but the organization's own mark.
    """

    id: UUID
    account_id: UUID
    method: str
    code: str
    amount: Usd
    amount_nanos: Nanos
    reference: str
    state: PurchaseState
    instructions: str | None
    ordered_by: str | None
    automatic: bool
    reason: str
    booked: Usd | None
    booked_nanos: Nanos | None
    entry_no: int | None
    created_at: datetime
    ended_at: datetime | None

    @classmethod
    def of(cls, row: PurchaseRow, instructions: str) -> Self:
        return cls(**_told(row, instructions))


class OrderedPurchase(Purchase):
    """A purchase as operators see it."""

    organization: OrganizationName

    @classmethod
    def of(cls, row: PurchaseRow, instructions: str) -> Self:
        organization = OrganizationName(id=row.organization_id, name=row.organization)
        return cls(organization=organization, **_told(row, instructions))


async def ordered(on: Services, call: Call) -> Purchase:
    """Order credit."""
    new, principal = call.body_as(NewPurchase), call.acting.principal
    row = await on.purchases.order(
        call.account_id,
        new.amount,
        new.reference,
        new.idempotency_key,
        principal.id if isinstance(principal, User) else None,
    )
    return Purchase.of(row, on.purchases.terms.instructions)


async def listed(on: Services, call: Call) -> answers.Page[Purchase]:
    """One page of the organization's purchases."""
    page = call.query_as(PurchasePage)
    rows = await on.purchases.list(call.account_id, page.wanted, page.code, page.cursor, page.limit + 1)
    told = [Purchase.of(row, on.purchases.terms.instructions) for row in rows]
    return answers.Page[Purchase].of(told, page.limit)


async def cancelled(on: Services, call: Call) -> Purchase:
    """Take an order back."""
    return Purchase.of(await on.purchases.cancel(call.account_id, call.id()), on.purchases.terms.instructions)


async def all_listed(on: Services, call: Call) -> answers.Page[OrderedPurchase]:
    """One page of everybody's purchases."""
    page = call.query_as(EveryPurchasePage)
    rows = await on.purchases.list(page.account_id, page.wanted, page.code, page.cursor, page.limit + 1)
    told = [OrderedPurchase.of(row, on.purchases.terms.instructions) for row in rows]
    return answers.Page[OrderedPurchase].of(told, page.limit)


async def confirmed(on: Services, call: Call) -> OrderedPurchase:
    """Book what arrived."""
    row = await on.purchases.confirm(call.id(), call.body_as(Confirmation).amount)
    return OrderedPurchase.of(row, on.purchases.terms.instructions)


async def declined(on: Services, call: Call) -> OrderedPurchase:
    """Say that nothing arrived."""
    row = await on.purchases.decline(call.id(), call.body_as(Refusal).reason)
    return OrderedPurchase.of(row, on.purchases.terms.instructions)


def _told(row: PurchaseRow, instructions: str) -> dict[str, Any]:
    booked = {"booked": None, "booked_nanos": None} if row.booked_nanos is None else money(booked=row.booked_nanos)
    state = PurchaseState(row.state)
    return {
        "id": row.id,
        "account_id": row.account_id,
        "method": row.method,
        "code": row.code,
        **money(amount=row.amount_nanos),
        "reference": row.reference,
        "state": state,
        "instructions": instructions if state is PurchaseState.PENDING else None,
        "ordered_by": row.ordered_by,
        "automatic": row.automatic,
        "reason": row.reason,
        **booked,
        "entry_no": row.entry_no,
        "created_at": row.created_at,
        "ended_at": row.ended_at,
    }


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="POST",
        path="/api/credits/purchase",
        permission=Permission.BILL,
        endpoint=ordered,
        summary="Order credit: it is there when an operator has confirmed that it was paid",
        body=NewPurchase,
        answer=Purchase,
        status=201,
        refusals=(Case.CONFLICT,),
    ),
    Route(
        method="GET",
        path="/api/credits/purchases",
        permission=Permission.READ_BILLING,
        endpoint=listed,
        summary="Purchases, the latest first",
        query=PurchasePage,
        answer=answers.Page[Purchase],
    ),
    Route(
        method="POST",
        path="/api/credits/purchases/{id}/cancel",
        permission=Permission.BILL,
        endpoint=cancelled,
        summary="Take back an order that is pending",
        answer=Purchase,
        refusals=(Case.CONFLICT,),
    ),
    Route(
        method="GET",
        path="/api/admin/purchases",
        permission=Permission.OPERATE,
        endpoint=all_listed,
        summary="Everybody's purchases, the latest first",
        query=EveryPurchasePage,
        answer=answers.Page[OrderedPurchase],
    ),
    Route(
        method="POST",
        path="/api/admin/purchases/{id}/confirm",
        permission=Permission.OPERATE,
        endpoint=confirmed,
        summary="Book what arrived of a purchase, once",
        body=Confirmation,
        answer=OrderedPurchase,
        refusals=(Case.CONFLICT,),
    ),
    Route(
        method="POST",
        path="/api/admin/purchases/{id}/decline",
        permission=Permission.OPERATE,
        endpoint=declined,
        summary="Say that a purchase was not paid",
        body=Refusal,
        answer=OrderedPurchase,
        refusals=(Case.CONFLICT,),
    ),
)
