"""Credit: what an organization has, how it came to that, and statements of it."""

from datetime import datetime
from typing import Any, Final, Literal

from aiohttp import web

from meterproxy.control import answers, queries, statement
from meterproxy.control.access import Permission
from meterproxy.control.answers import Answer, Nanos, Usd, json_answer, money
from meterproxy.control.call import Call, Services
from meterproxy.control.principal import User
from meterproxy.control.route import Route
from meterproxy.control.spans import Span
from meterproxy.control.statement import Line, Statement
from meterproxy.errors import Case

_TRUNCATED_TO: Final = {"daily": "day", "weekly": "week", "monthly": "month"}

Period = Literal["daily", "weekly", "monthly"]


class Rate(Answer):
    """What was spent in the last hour and the last day; of their first, broken hour the part that lies within."""

    per_hour: Usd
    per_hour_nanos: Nanos
    per_day: Usd
    per_day_nanos: Nanos


class Balance(Answer):
    """What is left, what running requests hold of it, and what new ones may still take.

    `credits` is all that was ever credited. `rate` is of what the caller sees, and so is `session_total`: what was
    spent since he signed in; null where he did not.
    """

    balance: Usd
    balance_nanos: Nanos
    held: Usd
    held_nanos: Nanos
    available: Usd
    available_nanos: Nanos
    credits: Usd
    credits_nanos: Nanos
    currency: Literal["USD"]
    rate: Rate
    session_total: Usd | None
    session_total_nanos: Nanos | None
    as_of: datetime


class EntriesFile(queries.Kinds):
    """All of them as a file."""

    format: Literal["csv", "json"] = "csv"


class ReportQuery(Span):
    """A statement of some days, by period; a period is named by its first day."""

    period: Period = "daily"
    format: Literal["json", "csv", "pdf"] = "json"


async def balance(on: Services, call: Call) -> Balance:
    """The balance of the organization's account."""
    if call.query_as(queries.Fresh).fresh == "1":
        await on.machine.settle_now()
    row = await on.accounts.read(call.account_id)
    principal = call.acting.principal
    login_id = principal.login_id if isinstance(principal, User) else None
    began = None if login_id is None else await on.usage.login_began(login_id)
    running = await on.usage.running(call.whose())
    session: dict[str, Any] = {"session_total": None, "session_total_nanos": None}
    if began is not None:
        session = money(session_total=await on.spent_since.read(call.whose(), began))
    return Balance(
        **money(
            balance=row.balance_nanos,
            held=row.held_nanos,
            available=row.available_nanos,
            credits=row.credits_nanos,
        ),
        currency="USD",
        rate=Rate(**money(per_hour=running.per_hour_nanos, per_day=running.per_day_nanos)),
        **session,
        as_of=row.as_of,
    )


async def transactions(on: Services, call: Call) -> answers.Page[answers.Entry]:
    """One page of ledger entries."""
    page = call.query_as(queries.EntryPage)
    rows = await on.accounts.entries(call.account_id, page.cursor, page.limit + 1, page.kind)
    return answers.Page[answers.Entry].of([answers.Entry.of(row) for row in rows], page.limit, "entry_no")


async def exported(on: Services, call: Call) -> web.StreamResponse:
    """Ledger entries as a file that is sent while it is being read."""
    wanted = call.query_as(EntriesFile)
    pieces = on.accounts.exported_entries(call.account_id, wanted.kind, wanted.format)
    return await answers.file(call.request, pieces, "transactions", wanted.format)


async def statement_of(on: Services, call: Call) -> Statement:
    """A statement of some days."""
    query = call.query_as(ReportQuery)
    days = query.days()
    report = await on.usage.report(call.account_id, _TRUNCATED_TO[query.period], *days)
    return Statement.of(report, query.period, days, await answers.each(Line.of_line, report.lines))


async def summary_of(on: Services, call: Call) -> Statement:
    """The same without its lines."""
    query = call.query_as(ReportQuery)
    days = query.days()
    return Statement.of(await on.usage.report(call.account_id, None, *days), query.period, days, [])


async def report(on: Services, call: Call) -> web.Response:
    """The same in the format that is asked for."""
    told = await statement_of(on, call)
    match call.query_as(ReportQuery).format:
        case "json":
            return json_answer(told)
        case "csv":
            body, type_, ending = (await statement.as_csv(told)).encode(), "text/csv; charset=utf-8", "csv"
        case "pdf":
            body, type_, ending = await on.typesetter.set(call.account_id, told), "application/pdf", "pdf"
    name = f"statement-{told.first_day}-{told.last_day}.{ending}"
    return web.Response(
        body=body,
        headers={
            "Content-Type": type_,
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "no-store",
        },
    )


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/api/credits/balance",
        permission=Permission.READ_OWN,
        endpoint=balance,
        summary="The balance of the organization's account, and how fast it goes down",
        query=queries.Fresh,
        answer=Balance,
    ),
    Route(
        method="GET",
        path="/api/user/credits",
        permission=Permission.READ_OWN,
        endpoint=balance,
        summary="The same as /api/credits/balance",
        query=queries.Fresh,
        answer=Balance,
    ),
    Route(
        method="GET",
        path="/api/credits/transactions",
        permission=Permission.READ_USAGE,
        endpoint=transactions,
        summary="Ledger entries, the latest first",
        query=queries.EntryPage,
        answer=answers.Page[answers.Entry],
    ),
    Route(
        method="GET",
        path="/api/credits/transactions/export",
        permission=Permission.READ_USAGE,
        endpoint=exported,
        summary="Ledger entries as a file of any size, the latest first",
        query=EntriesFile,
        media=("text/csv", "application/json"),
    ),
    Route(
        method="GET",
        path="/api/credits/report",
        permission=Permission.READ_USAGE,
        endpoint=report,
        summary="A statement: what came in, what was used by period and model, and that it adds up",
        query=ReportQuery,
        answer=Statement,
        media=("text/csv", "application/pdf"),
        refusals=(Case.OVERLOADED,),
    ),
)
