"""Activity: the exchanges of an organization or of oneself, by filters, one by one, and as a file."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from aiohttp import web
from pydantic import AfterValidator, Field

from meterproxy.control import answers, queries
from meterproxy.control.access import Permission, is_operator
from meterproxy.control.answers import Answer, Nanos, Usd, json_answer, money
from meterproxy.control.call import Call, Services
from meterproxy.control.route import Route
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.headers import TAG_BYTES
from meterproxy.store.activity import ActivityFilter, ActivityRow, Place
from meterproxy.store.instants import to_datetime, to_us

_OPERATORS_ONLY: Final = ("journal", "cost")
"""What of an explanation is nobody's business but the operator's."""


def _place(text: str) -> Place:
    """Reads what `_cursor` wrote."""
    instant, _, id_ = text.partition("_")
    try:
        return to_datetime(int(instant)), UUID(id_)
    except (ValueError, OverflowError) as error:
        raise ValueError("is not a cursor of this list") from error


Word = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
Tag = Annotated[str, Field(max_length=2 * TAG_BYTES + 1, pattern=r"^[^\x00=]+(=[^\x00]+)?$")]
Cursor = Annotated[str, Field(max_length=80), AfterValidator(lambda text: _place(text) and text)]


class Wanted(queries.Query):
    """What is looked for; `to` itself is not in it.

    `status` is an HTTP status, or whether it was completed. `team_id` is of keys by the team that they are in today,
    `none` of those without one. `tag` is the name of a tag, or `name=value`.
    """

    from_: Annotated[queries.Instant | None, Field(alias="from")] = None
    to: queries.Instant | None = None
    model: Word | None = None
    provider: Word | None = None
    key_id: UUID | None = None
    user_id: UUID | None = None
    team_id: UUID | Literal["none"] | None = None
    operation: Word | None = None
    status: Annotated[str | None, Field(pattern=r"^(completed|failed|[1-5][0-9]{2})$")] = None
    conversation_id: Word | None = None
    tag: Tag | None = None
    tool: Word | None = None

    def filter(self) -> ActivityFilter:
        """The same as the store has it."""
        by_outcome = {"completed": True, "failed": False}
        tag, _, tag_value = (self.tag or "").partition("=")
        return ActivityFilter(
            since=self.from_,
            until=self.to,
            team=self.team_id,
            model=self.model,
            provider=self.provider,
            operation=self.operation,
            completed=by_outcome.get(self.status or ""),
            status=int(self.status) if self.status is not None and self.status not in by_outcome else None,
            conversation=self.conversation_id,
            tag=tag or None,
            tag_value=tag_value or None,
            tool=self.tool,
        )


class ActivityPage(Wanted):
    """One page of what is looked for."""

    cursor: Cursor | None = None
    limit: queries.Rows = queries.DEFAULT_ROWS


class ActivityFile(Wanted):
    """All of it as a file."""

    format: Literal["csv", "json"] = "csv"


class Latest(queries.Query):
    """How many of the latest."""

    limit: queries.Rows = queries.DEFAULT_ROWS


class Exchange(Answer):
    """One exchange; `input_tokens` are without those that were read from a cache."""

    id: UUID
    occurred_at: datetime
    user_id: UUID
    user_name: str | None
    key_id: UUID
    key_name: str | None
    operation: str
    provider: str
    model: str
    served_model: str | None
    stream: bool
    outcome: str
    status: int
    usage_source: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    conversation_id: str | None
    tags: dict[str, str]
    tools: list[str]
    amount: Usd
    amount_nanos: Nanos
    latency_ms: float
    first_byte_ms: float | None

    @classmethod
    def of(cls, row: ActivityRow) -> Self:
        return cls(
            id=row.id,
            occurred_at=row.occurred_at,
            user_id=row.user_id,
            user_name=row.user_name,
            key_id=row.key_id,
            key_name=row.key_name,
            operation=row.operation,
            provider=row.provider,
            model=row.model,
            served_model=row.served_model,
            stream=row.is_stream,
            outcome=row.outcome,
            status=row.status,
            usage_source=row.usage_source,
            input_tokens=row.input_tokens,
            cached_tokens=row.cached_tokens,
            output_tokens=row.output_tokens,
            reasoning_tokens=row.reasoning_tokens,
            conversation_id=row.conversation,
            tags=row.tags,
            tools=list(row.tools),
            **money(amount=row.amount_nanos),
            latency_ms=row.latency_us / 1000,
            first_byte_ms=None if row.first_byte_us is None else row.first_byte_us / 1000,
        )


async def listed(on: Services, call: Call) -> answers.Page[Exchange]:
    """One page of exchanges."""
    page = call.query_as(ActivityPage)
    before = None if page.cursor is None else _place(page.cursor)
    rows = await on.activity.list(call.whose(page.user_id, page.key_id), page.filter(), before, page.limit + 1)
    more = len(rows) > page.limit
    return answers.Page[Exchange](
        data=[Exchange.of(row) for row in rows[: page.limit]],
        next_cursor=_cursor(rows[page.limit - 1]) if more else None,
    )


async def _latest(on: Services, call: Call) -> answers.Page[Exchange]:
    limit = call.query_as(Latest).limit
    rows = await on.activity.list(call.whose(), ActivityFilter(), None, limit)
    return answers.Page[Exchange](data=[Exchange.of(row) for row in rows], next_cursor=None)


async def exported(on: Services, call: Call) -> web.StreamResponse:
    """Exchanges as a file that is sent while it is being read."""
    wanted = call.query_as(ActivityFile)
    pieces = on.activity.exported(call.whose(wanted.user_id, wanted.key_id), wanted.filter(), wanted.format)
    return await answers.file(call.request, pieces, "activity", wanted.format)


async def explained(on: Services, call: Call) -> dict[str, Any]:
    """What the books say about one exchange, as far as the caller may know it. Raises ApiError NOT_FOUND."""
    told = await on.machine.explain(call.id())
    acting = call.acting
    own = (("account_id", acting.account_id), ("user_id", acting.user_id), ("key_id", acting.key_id))
    if any(wanted is not None and told.get(name) != wanted for name, wanted in own):
        raise ApiError(Case.NOT_FOUND, f"Nothing is settled under request id {call.id()}.")
    if is_operator(acting.principal):
        return told
    shown = {name: value for name, value in told.items() if name not in _OPERATORS_ONLY}
    if shown.get("price"):
        shown["price"] = {"id": shown["price"]["id"], "parts": _charged(shown["price"], on.machine.markup_ppm)}
    return shown


def _charged(price: dict[str, Any], markup_ppm: int) -> list[dict[str, Any]]:
    """The parts of a price as this customer is charged them."""
    ppm = price.get("markup_ppm", markup_ppm)
    return [{**part, "nanos_per_unit_size": part["nanos_per_unit_size"] * ppm / 1_000_000} for part in price["parts"]]


async def _explain(on: Services, call: Call) -> web.Response:
    return json_answer(await explained(on, call))


def _cursor(row: ActivityRow) -> str:
    return f"{to_us(row.occurred_at)}_{row.id}"


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/api/user/activity",
        permission=Permission.READ_OWN,
        endpoint=listed,
        summary="Exchanges, the latest first",
        query=ActivityPage,
        answer=answers.Page[Exchange],
    ),
    Route(
        method="GET",
        path="/api/user/activity/export",
        permission=Permission.READ_OWN,
        endpoint=exported,
        summary="Exchanges as a file of any size, the latest first",
        query=ActivityFile,
        media=("text/csv", "application/json"),
    ),
    Route(
        method="GET",
        path="/api/usage/logs",
        permission=Permission.READ_OWN,
        endpoint=_latest,
        summary="The latest exchanges",
        query=Latest,
        answer=answers.Page[Exchange],
    ),
    Route(
        method="GET",
        path="/api/usage/requests/{id}",
        permission=Permission.READ_OWN,
        endpoint=_explain,
        summary="One exchange: its bound, the limits that it drew from, its price and its entries",
        media=("application/json",),
    ),
)
