"""Credit: what an organization has, and how it came to that."""

from datetime import datetime
from typing import Final, Literal

from meterproxy.control import answers, queries
from meterproxy.control.access import Permission
from meterproxy.control.answers import Answer, Nanos, Usd
from meterproxy.control.call import Call, Services
from meterproxy.control.route import Route
from meterproxy.core.money import format_usd


class Balance(Answer):
    """What is left, what running requests hold of it, and what new ones may still take."""

    balance: Usd
    balance_nanos: Nanos
    held: Usd
    held_nanos: Nanos
    available: Usd
    available_nanos: Nanos
    currency: Literal["USD"]
    as_of: datetime


async def _balance(on: Services, call: Call) -> Balance:
    if call.query_as(queries.Fresh).fresh == "1":
        await on.machine.settle_now()
    row = await on.accounts.read(call.account_id)
    return Balance(
        balance=format_usd(row.balance_nanos),
        balance_nanos=row.balance_nanos,
        held=format_usd(row.held_nanos),
        held_nanos=row.held_nanos,
        available=format_usd(row.available_nanos),
        available_nanos=row.available_nanos,
        currency="USD",
        as_of=row.as_of,
    )


async def _transactions(on: Services, call: Call) -> answers.Page[answers.Entry]:
    page = call.query_as(queries.NumberedPage)
    rows = await on.accounts.entries(call.account_id, page.cursor, page.limit + 1)
    return answers.Page[answers.Entry].of([answers.Entry.of(row) for row in rows], page.limit, "entry_no")


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/api/credits/balance",
        permission=Permission.READ_OWN,
        endpoint=_balance,
        summary="The balance of the organization's account",
        query=queries.Fresh,
        answer=Balance,
    ),
    Route(
        method="GET",
        path="/api/credits/transactions",
        permission=Permission.READ_USAGE,
        endpoint=_transactions,
        summary="Ledger entries, the latest first",
        query=queries.NumberedPage,
        answer=answers.Page[answers.Entry],
    ),
)
