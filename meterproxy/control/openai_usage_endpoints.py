"""Usage and costs as OpenAI's administration API tells them, for tools that read those.

Source: OpenAI's API reference, "Usage" and "Costs". An organization is ours, an API key id is a key's id, projects do
not exist: asked for one's usage, there is none. Hours and days come from rollups, minutes and searches from the rows
themselves, as long as they are kept.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BeforeValidator, Field

from meterproxy.control.access import Permission
from meterproxy.control.answers import Answer
from meterproxy.control.call import Call, Services
from meterproxy.control.queries import Query, as_list
from meterproxy.control.route import Route
from meterproxy.core.money import NANOS_PER_USD
from meterproxy.errors import ApiError, Case
from meterproxy.store.usage import BucketQuery, BucketRow, SearchRow

OPERATIONS: Final[dict[str, tuple[str, ...]]] = {
    "completions": ("chat", "completion", "response"),
    "embeddings": ("embedding",),
    "moderations": ("moderation",),
}
"""Which of our operations each of theirs counts."""
SEARCHES: Final[dict[str, tuple[str, Literal["web_searches", "file_searches"]]]] = {
    "web_search_calls": ("web_searches", "web_searches"),
    "file_search_calls": ("file_searches", "file_searches"),
}
"""What results are called where searches are asked for, and which of our kinds they are."""
NOT_METERED: Final = (
    "audio_speeches", "audio_transcriptions", "code_interpreter_sessions", "decisions", "images", "vector_stores",
)  # fmt: skip
"""What cannot be used by way of this service: there is never any."""
_WIDTHS: Final = {"1m": timedelta(minutes=1), "1h": timedelta(hours=1), "1d": timedelta(days=1)}
_DEFAULT_BUCKETS: Final = {"1m": 60, "1h": 24, "1d": 7}
_MOST_BUCKETS: Final = {"1m": 1440, "1h": 168, "1d": 31}
MOST_COST_BUCKETS: Final = 180


Second = Annotated[int, Field(ge=0, lt=2**35)]
Many = Annotated[list[str] | None, BeforeValidator(as_list), Field(max_length=100)]
ManyIds = Annotated[list[UUID] | None, BeforeValidator(as_list), Field(max_length=100)]


class UsageQuery(Query):
    """Buckets of time from `start_time` on (seconds of Unix time)."""

    start_time: Second
    end_time: Second | None = None
    bucket_width: Literal["1m", "1h", "1d"] = "1d"
    project_ids: Many = None
    user_ids: ManyIds = None
    api_key_ids: ManyIds = None
    models: Many = None
    batch: bool | None = None
    group_by: Annotated[
        list[Literal["project_id", "user_id", "api_key_id", "model", "batch", "service_tier", "api_source"]],
        BeforeValidator(as_list),
        Field(default_factory=list),
    ]
    limit: Annotated[int | None, Field(ge=1, le=1440)] = None
    page: Annotated[str | None, Field(pattern=r"^page_[0-9]{1,11}$")] = None


class SearchQuery(UsageQuery):
    """The same of searches; which files they went through and how large their context was is not known here."""

    context_levels: Many = None
    vector_store_ids: Many = None
    group_by: Annotated[  # type: ignore[assignment]  # more than the others
        list[
            Literal[
                "project_id", "user_id", "api_key_id", "model", "batch", "service_tier", "api_source", "context_level",
                "vector_store_id",
            ]
        ],
        BeforeValidator(as_list),
        Field(default_factory=list),
    ]  # fmt: skip


class ImageQuery(UsageQuery):
    """The same of images."""

    sizes: Many = None
    sources: Many = None
    group_by: Annotated[  # type: ignore[assignment]  # others than of text
        list[Literal["project_id", "user_id", "api_key_id", "model", "size", "source"]],
        BeforeValidator(as_list),
        Field(default_factory=list),
    ]


class CostQuery(Query):
    """Days from `start_time` on (seconds of Unix time)."""

    start_time: Second
    end_time: Second | None = None
    bucket_width: Literal["1d"] = "1d"
    project_ids: Many = None
    api_key_ids: ManyIds = None
    line_items: Many = None
    group_by: Annotated[
        list[Literal["project_id", "user_id", "line_item", "api_key_id", "api_source"]],
        BeforeValidator(as_list),
        Field(default_factory=list),
    ]
    limit: Annotated[int, Field(ge=1, le=MOST_COST_BUCKETS)] = 7
    page: Annotated[str | None, Field(pattern=r"^page_[0-9]{1,11}$")] = None


class Bucket(Answer):
    """What was used or spent in a bucket of time; its results are of the kind that the path names."""

    object: Literal["bucket"]
    start_time: int
    end_time: int
    results: list[dict[str, Any]]


class Buckets(Answer):
    """A page of buckets, also those without results."""

    object: Literal["page"]
    data: list[Bucket]
    has_more: bool
    next_page: str | None


_GROUPED: Final = {"model": "model", "line_item": "model", "api_key_id": "key", "user_id": "user"}


async def _page(
    on: Services, call: Call, query: UsageQuery | CostQuery, most: int, operations: Sequence[str] | None, kind: str
) -> Buckets:
    width = _WIDTHS[query.bucket_width]
    start = _floor(_instant(query.start_time), width)
    end = _instant(query.end_time) if query.end_time is not None else datetime.now(UTC)
    if end <= start:
        raise ApiError(Case.MALFORMED, "end_time must be after start_time.", param="end_time")
    begin = max(start, _instant(int(query.page.removeprefix("page_")))) if query.page else start
    stop = min(begin + most * width, _ceiling(end, width))
    wanted = BucketQuery(
        since=begin,
        until=stop,
        width=width,
        by=frozenset(_GROUPED[name] for name in query.group_by if name in _GROUPED),
        operations=operations,
        models=query.line_items if isinstance(query, CostQuery) else query.models,
        key_ids=query.api_key_ids,
        user_ids=getattr(query, "user_ids", None),
    )
    told_apart = ("project_ids", "batch", "context_levels", "vector_store_ids")  # by what does not exist here
    exists_here = kind not in NOT_METERED and not any(getattr(query, name, None) for name in told_apart)
    results = await _results(on, call, wanted, kind, frozenset(query.group_by)) if exists_here else {}
    more = stop < end
    return Buckets(
        object="page",
        data=[
            Bucket(
                object="bucket",
                start_time=int(at.timestamp()),
                end_time=int((at + width).timestamp()),
                results=results.get(at, []),
            )
            for at in _steps(begin, stop, width)
        ],
        has_more=more,
        next_page=f"page_{int(stop.timestamp())}" if more else None,
    )


async def _results(
    on: Services, call: Call, wanted: BucketQuery, kind: str, by: frozenset[str]
) -> dict[datetime, list[dict[str, Any]]]:
    told: dict[datetime, list[dict[str, Any]]] = {}
    if kind in SEARCHES:
        for search in await on.usage.searches(call.account_id, wanted, SEARCHES[kind][1]):
            told.setdefault(search.start, []).append(_search(search, kind))
        return told
    for row in await on.usage.buckets(call.account_id, wanted):
        result = _cost(row, by) if kind == "costs" else _usage(row, kind)
        told.setdefault(row.start, []).append(result)
    return told


def _search(row: SearchRow, kind: str) -> dict[str, Any]:
    result: dict[str, Any] = {
        "object": f"organization.usage.{SEARCHES[kind][0]}.result",
        "num_requests": row.searches,
        "project_id": None,
        "user_id": row.user_id,
        "api_key_id": row.key_id,
    }
    if kind == "web_search_calls":
        return {**result, "num_model_requests": row.requests, "model": row.model, "context_level": None}
    return {**result, "vector_store_id": None}


def _usage(row: BucketRow, kind: str) -> dict[str, Any]:
    result: dict[str, Any] = {
        "object": f"organization.usage.{kind}.result",
        "num_model_requests": row.requests,
        "project_id": None,
        "user_id": row.user_id,
        "api_key_id": row.key_id,
        "model": row.model,
    }
    if kind in {"completions", "embeddings", "moderations"}:
        result["input_tokens"] = row.input_tokens + row.cached_tokens
    if kind == "completions":
        result |= {
            "output_tokens": row.output_tokens,
            "input_cached_tokens": row.cached_tokens,
            "batch": None,
            "service_tier": None,
        }
    return result


def _cost(row: BucketRow, by: frozenset[str]) -> dict[str, Any]:
    return {
        "object": "organization.costs.result",
        "amount": {"value": row.amount_nanos / NANOS_PER_USD, "currency": "usd"},
        "line_item": row.model if "line_item" in by else None,
        "project_id": None,
        "user_id": row.user_id,
        "api_key_id": row.key_id,
    }


def _instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _floor(at: datetime, width: timedelta) -> datetime:
    seconds = int(at.timestamp())
    return _instant(seconds - seconds % int(width.total_seconds()))


def _ceiling(at: datetime, width: timedelta) -> datetime:
    floor = _floor(at, width)
    return floor if floor == at else floor + width


def _steps(begin: datetime, stop: datetime, width: timedelta) -> Iterator[datetime]:
    while begin < stop:
        yield begin
        begin += width


def _usage_route(kind: str, operations: tuple[str, ...] = (), query_of: type[UsageQuery] = UsageQuery) -> Route:
    async def endpoint(on: Services, call: Call) -> Buckets:
        query = call.query_as(query_of)
        most = _MOST_BUCKETS[query.bucket_width]
        if query.limit is not None and query.limit > most:
            raise ApiError(Case.MALFORMED, f"limit: at most {most} buckets of this width.", param="limit")
        return await _page(on, call, query, query.limit or _DEFAULT_BUCKETS[query.bucket_width], operations, kind)

    return Route(
        method="GET",
        path=f"/v1/organization/usage/{kind}",
        permission=Permission.READ_USAGE,
        endpoint=endpoint,
        summary=f"Usage of {kind.replace('_', ' ')} in OpenAI's shape",
        query=query_of,
        answer=Buckets,
    )


async def _costs(on: Services, call: Call) -> Buckets:
    query = call.query_as(CostQuery)
    return await _page(on, call, query, query.limit, None, "costs")


ROUTES: Final[tuple[Route, ...]] = (
    *(_usage_route(kind, operations) for kind, operations in OPERATIONS.items()),
    *(_usage_route(kind, query_of=SearchQuery) for kind in SEARCHES),
    *(_usage_route(kind, query_of=ImageQuery if kind == "images" else UsageQuery) for kind in NOT_METERED),
    Route(
        method="GET",
        path="/v1/organization/costs",
        permission=Permission.READ_USAGE,
        endpoint=_costs,
        summary="Costs by day in OpenAI's shape",
        query=CostQuery,
        answer=Buckets,
    ),
)
