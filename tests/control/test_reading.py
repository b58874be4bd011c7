"""What people read of their usage equals the books, for everybody who may see it and nobody else."""

import asyncio
import csv
import io
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pytest
from msgspec.structs import replace

from meterproxy.control.answers import ANSWERS_A_TURN, each
from meterproxy.control.typesetter import BREAK, _breakable
from meterproxy.core.lending import Batch, Settling
from meterproxy.core.money import MAX_NANOS, NANOS_PER_USD, format_usd
from meterproxy.core.record import EndRecord
from meterproxy.errors import Case
from meterproxy.service.invention import book_invented
from meterproxy.store.accounts import Accounts
from meterproxy.store.audit import audit
from meterproxy.store.settle import Settlement
from tests.control.asking import ADMIN_TOKEN
from tests.control.history import PRICES
from tests.control.past import Past, amount, past_of
from tests.dashboard.visitor import Visitor


@pytest.fixture
async def past(database: str) -> AsyncIterator[Past]:
    async with past_of(database, Past()) as past:
        yield past


async def test_invented_books_balance(past: Past) -> None:
    """What was made up is booked like everything else: no invariant fails."""
    assert [result for result in await audit(past.asking.pool) if not result.ok] == []


async def test_statistics_are_the_sum_of_their_rows(past: Past) -> None:
    """Totals, each group and the ledger say the same."""
    told = await past.get("/api/usage/stats?days=60")
    total = amount(past.records)
    assert told["totals"]["requests"] == len(past.records)
    assert told["totals"]["amount_nanos"] == total
    for name in ("day", "model", "provider", "operation", "key", "user"):
        groups = told[f"by_{name}"]
        assert sum(group["amount_nanos"] for group in groups) == total, name
        assert sum(group["requests"] for group in groups) == len(past.records), name
    assert sum(row["amount_nanos"] for row in told["by_day_and_model"]) == total
    assert sum(row["requests"] for row in told["peak_hours"]) == len(past.records)
    assert told["latency_ms"]["p50"] <= told["latency_ms"]["p90"] <= told["latency_ms"]["p99"]
    assert {group["name"] for group in told["by_key"]} == {"=SUM(A1)", 'a "key", of mine'}
    balance = await past.get("/api/credits/balance")
    assert balance["balance_nanos"] == 50 * NANOS_PER_USD - total


async def test_a_member_sees_what_is_his(past: Past) -> None:
    """His own rows and figures; by nobody's id anything of others."""
    own = [record for record in past.records if record.subject.user_id == past.member.id]
    about = f"organization_id={past.owner.organization_id}"
    told = await past.get(f"/api/usage/stats?days=60&{about}", past.member.token)
    assert told["totals"]["amount_nanos"] == amount(own)
    assert told["by_tool"] == []
    page = await past.get(f"/api/user/activity?limit=500&{about}", past.member.token)
    assert {row["id"] for row in page["data"]} == {str(record.subject.request_id) for record in own}
    other = next(record for record in past.records if record.subject.user_id != past.member.id)
    for path in (
        f"/api/usage/requests/{other.subject.request_id}?{about}",
        f"/api/user/activity?user_id={past.owner.id}&{about}",
        f"/api/usage/stats?userId={past.owner.id}&{about}",
    ):
        assert (await past.asking("GET", path, token=past.member.token)).case is Case.NOT_FOUND, path
    assert (await past.get(f"/api/user/activity?key_id={past.keys[0]}&{about}", past.member.token))["data"] == []
    refused = await past.asking("GET", f"/api/credits/usage?group_by=tag&{about}", token=past.member.token)
    assert refused.case is Case.PERMISSION_DENIED


async def test_a_key_sees_what_it_has_used(past: Past) -> None:
    """And only that, unless its policy lets it read everybody's usage."""
    own = [record for record in past.records if record.subject.key_id == past.keys[1]]
    told = await past.get("/api/usage/stats?days=60", past.secrets[1])
    assert told["totals"]["amount_nanos"] == amount(own)
    assert (await past.asking("GET", "/v1/organization/costs?start_time=0", token=past.secrets[1])).case is (
        Case.PERMISSION_DENIED
    )
    made = await past.asking("POST", "/api/keys", {"name": "reader", "reads_usage": True}, token=past.owner.token)
    told = await past.get("/api/usage/stats?days=60", made.body["key"])
    assert told["totals"]["amount_nanos"] == amount(past.records)
    about = f"?organization_id={past.owner.organization_id}"
    refused = await past.asking(
        "POST", f"/api/keys{about}", {"name": "reader", "reads_usage": True}, token=past.member.token
    )
    assert (refused.case, refused.param) == (Case.PERMISSION_DENIED, "reads_usage")


async def exported(past: Past, format_: str) -> bytes:
    from meterproxy.store.activity import Activity, ActivityFilter
    from meterproxy.store.whose import Whose

    pieces = Activity(past.asking.pool).exported(Whose(past.owner.account_id), ActivityFilter(), format_)  # type: ignore[arg-type]
    return b"".join([piece async for piece in pieces])


async def test_an_export_has_every_row_and_no_formula(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """In CSV and JSON, over as many pages as it takes; cells that a spreadsheet would run are text."""
    monkeypatch.setattr("meterproxy.store.export.EXPORTED_AT_ONCE", 61)
    rows = list(csv.DictReader(io.StringIO((await exported(past, "csv")).decode(), newline="")))
    expected = [str(record.subject.request_id) for record in reversed(past.records)]
    assert [row["id"] for row in rows] == expected
    assert {row["key_name"] for row in rows} == {"'=SUM(A1)", 'a "key", of mine'}
    spent = sum(round(float(row["amount"]) * NANOS_PER_USD) for row in rows)
    assert spent == amount(past.records)
    told = orjson.loads(await exported(past, "json"))
    assert [row["id"] for row in told] == expected
    assert sum(row["amount_nanos"] for row in told) == amount(past.records)
    written = [format_usd(row["amount_nanos"]) for row in told]
    assert [row["amount"] for row in told] == [row["amount"] for row in rows] == written


async def test_postgresql_writes_amounts_as_the_api_does(past: Past) -> None:
    """Two decimals at least, nine at most, to either end of what a column holds."""
    amounts = [0, 1, 10, 9_999_999, 10_000_000, 123_456_789, 500_000_000, 999_999_999, 1_000_000_000, 5_050_000_000,
               10_000_000_001, MAX_NANOS]  # fmt: skip
    amounts += [-nanos for nanos in amounts] + [-MAX_NANOS - 1]
    written = await past.asking.pool.fetch("SELECT usd(nanos) FROM unnest($1::bigint[]) AS nanos", amounts)
    assert [row["usd"] for row in written] == [format_usd(nanos) for nanos in amounts]


async def test_an_export_of_nothing_is_a_file(past: Past) -> None:
    """With its header, and as a list that is empty."""
    past.owner = past.member
    assert (await exported(past, "csv")).decode().startswith("occurred_at,id,")
    assert orjson.loads(await exported(past, "json")) == []


async def test_what_came_in_is_found_among_what_was_used(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """By kind, page by page and as files; on the page, too, and each entry has the balance that it has in the ledger."""
    path = f"/admin/accounts/{past.owner.account_id}/credits"
    for number in range(3):
        body = {"amount": "1.00", "kind": "refund", "description": f"=refund {number}"}
        await past.asking("POST", path, body, token=ADMIN_TOKEN)
    whole = [row async for row in entries(past, "")]
    assert len(whole) == 4 + sum(record.amount_nanos > 0 for record in past.records)
    for kinds in (["refund"], ["grant", "refund"], ["deduction"], ["overrun"], ["deduction", "grant"]):
        query = "&".join(f"kind={kind}" for kind in kinds)
        assert [row async for row in entries(past, query)] == [row for row in whole if row["kind"] in kinds], kinds
    assert (await past.asking("GET", "/api/credits/transactions?kind=gift", token=past.owner.token)).param == "kind.0"
    monkeypatch.setattr("meterproxy.store.export.EXPORTED_AT_ONCE", 2)
    pieces = [Accounts(past.asking.pool).exported_entries(past.owner.account_id, ["grant", "refund"], format_)
              for format_ in ("csv", "json")]  # type: ignore[arg-type]  # fmt: skip
    as_csv, as_json = [b"".join([piece async for piece in one]).decode() for one in pieces]
    rows = list(csv.DictReader(io.StringIO(as_csv, newline="")))
    assert [row["description"] for row in rows] == ["'=refund 2", "'=refund 1", "'=refund 0", ""]
    assert [row["amount"] for row in rows] == ["1.00", "1.00", "1.00", "50.00"]
    assert [row["entry_no"] for row in orjson.loads(as_json)] == [int(row["entry_no"]) for row in rows]
    visitor = await Visitor.of(past.asking, past.owner)
    page = (await visitor.get("/credits?kind=grant&kind=refund")).body.decode()
    assert page.count("<td>refund</td>") == 3
    assert "<td>deduction</td>" not in page


async def entries(past: Past, query: str) -> AsyncIterator[dict[str, Any]]:
    """All ledger entries that a query finds, three pages or more."""
    cursor = ""
    while True:
        page = await past.get(f"/api/credits/transactions?{query}&limit=150{cursor}")
        for row in page["data"]:
            yield row
        if page["next_cursor"] is None:
            return
        cursor = f"&cursor={page['next_cursor']}"


@pytest.mark.parametrize("period", ["daily", "weekly", "monthly"])
async def test_a_statement_adds_up(past: Past, period: str) -> None:
    """What was there, what came in, what went out and what is left; line by line."""
    told = await past.get(f"/api/credits/report?period={period}&from=2020-01-01&to=2029-01-01")
    assert told["closing_nanos"] == 50 * NANOS_PER_USD - amount(past.records)
    assert told["opening_nanos"] == told["other_nanos"] == 0
    assert sum(line["amount_nanos"] for line in told["lines"]) == told["used_nanos"] == amount(past.records)
    today = datetime.now(UTC).date()
    middle = today - timedelta(days=15)
    early = await past.get(f"/api/credits/report?from={today - timedelta(days=60)}&to={middle}")
    late = await past.get(f"/api/credits/report?from={middle + timedelta(days=1)}&to={today}")
    assert early["closing_nanos"] == late["opening_nanos"]
    assert late["closing_nanos"] == told["closing_nanos"]


async def test_a_statement_is_set_as_pdf_and_csv(past: Past) -> None:
    """Both are files by their name; a name that is markup is text."""
    await past.asking.pool.execute("UPDATE organizations SET name = '#panic() *a* =b= \\ <x>'")
    heard = await past.asking("GET", "/api/credits/report?format=pdf&period=monthly", token=past.owner.token)
    assert heard.status == 200
    assert heard.body.startswith(b"%PDF-")
    heard = await past.asking("GET", "/api/credits/report?format=csv", token=past.owner.token)
    assert heard.headers["Content-Disposition"].startswith('attachment; filename="statement-')
    rows = list(csv.DictReader(io.StringIO(heard.body.decode(), newline="")))
    assert {row["model"] for row in rows} <= {"big", "small", "embed"}


def test_long_words_are_broken_where_they_are_set() -> None:
    """A model's name of two hundred letters would lie over the numbers beside it; others stay as they are."""
    assert _breakable("gpt-4o", 12) == "gpt-4o"
    assert _breakable("some words that fit", 12) == "some words that fit"
    assert _breakable(f"a {'m' * 13}", 12) == f"a {BREAK.join('m' * 13)}"


async def test_credit_runs_out_by_what_everybody_spends(past: Past) -> None:
    """Whoever sees only his own usage is told the same days, of his own expectation."""
    about = f"?organization_id={past.owner.organization_id}"
    left, spent = (await past.get("/api/credits/balance"))["available_nanos"], amount(past.records)
    taken = {"amount": f"-{format_usd(left - spent)}", "kind": "adjustment"}
    await past.asking("POST", f"/admin/accounts/{past.owner.account_id}/credits", taken, token=ADMIN_TOKEN)
    all_of_it = (await past.get("/api/usage/forecast"))["forecast"]
    own = (await past.get(f"/api/usage/forecast{about}", past.member.token))["forecast"]
    key = (await past.get("/api/usage/forecast", past.secrets[1]))["forecast"]
    ends = ("runs_out", "runs_out_earliest", "runs_out_latest")
    assert [own[end] for end in ends] == [key[end] for end in ends] == [all_of_it[end] for end in ends]
    assert all_of_it["runs_out"] is not None
    assert own["expected_nanos"] < all_of_it["expected_nanos"]


async def test_a_session_is_what_was_spent_since_signing_in(past: Past) -> None:
    """Of what each may see where he looks, to the instant; keys and the admin token have not signed in."""
    began = datetime.fromtimestamp(past.records[200].subject.occurred_us / 1e6, UTC)
    await past.asking.pool.execute("UPDATE logins SET created_at = $1", began)
    about = f"?organization_id={past.owner.organization_id}"
    since = [one for one in past.records if one.subject.occurred_us >= past.records[200].subject.occurred_us]
    own = [one for one in since if one.subject.user_id == past.member.id]
    operator = await past.asking.person("operator")
    await past.asking.pool.execute("UPDATE users SET is_operator = true WHERE id = $1", operator.id)
    await past.asking.pool.execute("UPDATE logins SET created_at = $1 WHERE user_id = $2",
                                   began + timedelta(microseconds=1), operator.id)  # fmt: skip
    assert 0 < amount(own) < amount(since)
    for token, query, nanos in (
        (past.owner.token, "", amount(since)), (past.member.token, about, amount(own)),
        (past.member.token, f"?organization_id={past.member.organization_id}", 0),
        (operator.token, about, amount(since[1:])), (operator.token, "", 0),
        (past.secrets[1], "", None), (ADMIN_TOKEN, about, None),
    ):  # fmt: skip
        told = await past.get(f"/api/credits/balance{query}", token)
        assert told["session_total_nanos"] == nanos, (query, nanos)
        assert told["session_total"] == (None if nanos is None else format_usd(nanos))


async def test_running_totals_are_sums_of_what_was_booked_lately(past: Past) -> None:
    """To the nanodollar for today and this month; of the hour in which the last day begins, a part."""
    about = f"?organization_id={past.owner.organization_id}"
    for token, query, records in (
        (past.owner.token, "", past.records),
        (past.member.token, about, [one for one in past.records if one.subject.user_id == past.member.id]),
        (past.secrets[0], "", [one for one in past.records if one.subject.key_id == past.keys[0]]),
    ):
        hour, told, rate = await _in_one_hour(past, query, token)
        midnight = hour.replace(hour=0)
        assert told["today_nanos"] == amount(_since(records, midnight))
        assert told["month_nanos"] == amount(_since(records, midnight.replace(day=1)))
        for name, hours in (("per_hour_nanos", 1), ("per_day_nanos", 24)):
            whole, broken = (amount(_since(records, hour - timedelta(hours=back))) for back in (hours - 1, hours))
            assert whole <= rate[name] <= broken


async def _in_one_hour(past: Past, query: str, token: str) -> tuple[datetime, Any, Any]:
    """The hour, the outlook and the rate, asked again where another hour has begun meanwhile."""
    while True:
        hour = _hour_of(datetime.now(UTC))
        told = await past.get(f"/api/usage/forecast{query}", token)
        rate = (await past.get(f"/api/credits/balance{query}", token))["rate"]
        if hour == _hour_of(datetime.now(UTC)):
            return hour, told, rate


def _hour_of(instant: datetime) -> datetime:
    return instant.replace(minute=0, second=0, microsecond=0)


def _since(records: list[EndRecord], instant: datetime) -> list[EndRecord]:
    return [one for one in records if one.subject.occurred_us >= instant.timestamp() * 1e6]


async def test_spans_that_make_no_sense_are_refused(past: Past) -> None:
    """Backwards, endless, or not of this age."""
    for query in (
        "from=2026-02-01&to=2026-01-01",
        "from=0001-01-01",
        "to=9999-12-31",
        "from=1990-01-01",
        "to=nonsense",
    ):
        heard = await past.asking("GET", f"/api/credits/usage?{query}", token=past.owner.token)
        assert heard.case is Case.MALFORMED, query
    owner = await Visitor.of(past.asking, past.owner)
    for query in ("period=yearly", "group_by=colour", "from=2026-02-01&to=2026-01-01", "to=nonsense"):
        assert (await owner.get(f"/reports?{query}")).status == 400, query
    assert (await past.asking("GET", "/api/usage/stats?days=0", token=past.owner.token)).case is Case.MALFORMED
    both = "/api/usage/stats?days=3&startDate=2026-01-01"
    assert (await past.asking("GET", both, token=past.owner.token)).case is Case.MALFORMED


@pytest.mark.parametrize("by", ["day", "model", "operation", "provider", "key", "user", "team"])
async def test_groups_add_up(past: Past, by: str) -> None:
    """Whatever usage is grouped by, nothing is lost; a key without a team counts under none."""
    team = await past.asking("POST", "/admin/teams", {"account_id": str(past.owner.account_id), "name": "ants"},
                             token=ADMIN_TOKEN)  # fmt: skip
    body = {"team_id": team.body["id"]}
    assert (await past.asking("PATCH", f"/api/keys/{past.keys[0]}", body, token=past.owner.token)).status == 200
    told = await past.get(f"/api/credits/usage?group_by={by}&from={datetime.now(UTC).date() - timedelta(days=60)}")
    assert sum(group["amount_nanos"] for group in told["groups"]) == amount(past.records)
    if by == "team":
        assert {group["name"] for group in told["groups"]} == {"ants", None}


async def test_of_many_models_the_dearest_are_told_by_name(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients could name any number of them; whatever is told together, nothing is lost, and it leads nowhere."""
    whole = await past.get("/api/usage/stats?days=60")
    named = {group["value"]: group for group in whole["by_model"]}
    monkeypatch.setattr("meterproxy.store.usage.MOST_TOLD", 20)
    monkeypatch.setattr("meterproxy.store.usage.MODELS_TOLD", 1)
    told = await past.get("/api/usage/stats?days=60")
    dearest = max(named.values(), key=lambda group: group["amount_nanos"])
    first, second = told["by_model"]
    assert (first, second["value"]) == (dearest, "(other)")
    assert second["requests"] == sum(group["requests"] for group in named.values()) - dearest["requests"]
    assert second["amount_nanos"] == amount(past.records) - dearest["amount_nanos"]
    assert {row["model"] for row in told["by_day_and_model"]} == {dearest["value"], "(other)"}
    assert sum(row["amount_nanos"] for row in told["by_day_and_model"]) == amount(past.records)
    same = ("totals", "by_day", "by_provider", "by_operation", "by_key", "by_user")
    assert [told[name] for name in same] == [whole[name] for name in same]
    owner = await Visitor.of(past.asking, past.owner)
    assert "<td>(other)</td>" in (await owner.get("/reports?group_by=model")).body.decode()
    assert "<td>(other)</td>" in (await owner.get(f"/keys/{past.keys[0]}")).body.decode()


async def test_many_answers_leave_others_their_turn() -> None:
    """Whoever asks for much does not stop the worker for everybody."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    assert await each(str, range(4 * ANSWERS_A_TURN)) == [str(number) for number in range(4 * ANSWERS_A_TURN)]
    assert turns >= 4
    task.cancel()


async def test_what_clients_name_is_counted(past: Past) -> None:
    """Conversations, tags and tools."""
    since = f"from={datetime.now(UTC).date() - timedelta(days=60)}"
    told = await past.get(f"/api/credits/usage?group_by=conversation&{since}")
    named = [record for record in past.records if record.subject.conversation]
    assert sum(row["amount_nanos"] for row in told["conversations"]) == amount(named)
    told = await past.get(f"/api/credits/usage?group_by=tag&{since}")
    assert sum(row["requests"] for row in told["tags"]) == sum(bool(record.subject.tags) for record in past.records)
    told = await past.get(f"/api/credits/usage?group_by=tool&{since}")
    assert sum(row["requests"] for row in told["tools"]) == sum(len(record.ending.tools) for record in past.records)


async def test_an_exchange_is_explained_without_what_it_cost_the_operator(past: Past) -> None:
    """Its price as it is charged; journal and cost are the operator's."""
    record = next(record for record in past.records if record.amount_nanos)
    path = f"/api/usage/requests/{record.subject.request_id}"
    told = await past.get(path)
    assert told["amount"]
    assert "cost" not in told
    assert "journal" not in told
    assert "markup_ppm" not in told["price"]
    assert "cost" in await past.get(f"{path}?organization_id={past.owner.organization_id}", ADMIN_TOKEN)


async def test_prices_are_told_as_they_are_charged(past: Past) -> None:
    """With the markup in them; a usage is compared over all models, the cheapest first."""
    told = await past.get("/api/prices")
    rates = {(model["id"], rate["kind"]): rate["usd"] for model in told["data"] for rate in model["cards"][0]["rates"]}
    assert rates["cheap", "output"] == "0.80"
    costs = await past.get("/api/admin/prices", ADMIN_TOKEN)
    paid = {(model["id"], rate["kind"]): rate["usd"] for model in costs["data"] for rate in model["cards"][0]["rates"]}
    assert Decimal(paid["cheap", "output"]) * Decimal(costs["markup"]) == Decimal("0.80")
    told = await past.get("/api/prices/compare?input_tokens=1000000&output_tokens=500000")
    assert [(one["model"], one["amount"]) for one in told["data"]] == [("cheap", "0.60"), ("dear", "25.00")]


async def test_costs_and_usage_in_openais_shape_equal_the_books(past: Past) -> None:
    """Page by page, day by day, also for those days on which nothing was used."""
    start = int((datetime.now(UTC) - timedelta(days=60)).timestamp())
    spent, page, buckets = 0, "", 0
    while True:
        told = await past.get(f"/v1/organization/costs?start_time={start}&limit=20&group_by[]=line_item{page}")
        buckets += len(told["data"])
        results = [result for bucket in told["data"] for result in bucket["results"]]
        spent += sum(round(result["amount"]["value"] * NANOS_PER_USD) for result in results)
        if not told["has_more"]:
            break
        page = f"&page={told['next_page']}"
    assert spent == amount(past.records)
    assert buckets == 61
    told = await past.get(f"/v1/organization/costs?start_time={start}&limit=61&line_items[]=big")
    of_big = sum(result["amount"]["value"] for bucket in told["data"] for result in bucket["results"])
    assert round(of_big * NANOS_PER_USD) == amount([one for one in past.records if one.subject.model == "big"])
    chats = [record for record in past.records if record.subject.operation == "chat"]
    told = await past.get(f"/v1/organization/usage/completions?start_time={start}&limit=31&group_by=model")
    more = await past.get(
        f"/v1/organization/usage/completions?start_time={start}&limit=31&group_by=model&page={told['next_page']}"
    )
    results = [result for bucket in told["data"] + more["data"] for result in bucket["results"]]
    assert sum(result["num_model_requests"] for result in results) == len(chats)
    assert sum(result["output_tokens"] for result in results) == sum(one.ending.usage.output for one in chats)
    assert {result["model"] for result in results} == {"big", "small"}


async def test_minutes_add_up_to_their_hours(past: Past) -> None:
    """Minutes come from rows and hours from rollups: both say the same of a day, told apart by key and model."""
    start = int((datetime.now(UTC) - timedelta(days=2)).timestamp()) // 3600 * 3600
    base = f"/v1/organization/usage/completions?start_time={start}&end_time={start + 86_400}&group_by=model&group_by=api_key_id"
    sums = []
    for width, buckets in (("1m", 1440), ("1h", 24)):
        told = await past.get(f"{base}&bucket_width={width}&limit={buckets}")
        assert (len(told["data"]), told["has_more"]) == (buckets, False)
        hours: Counter[tuple[Any, ...]] = Counter()
        for bucket in told["data"]:
            for result in bucket["results"]:
                of = bucket["start_time"] // 3600, result["model"], result["api_key_id"]
                for name in ("num_model_requests", "input_tokens", "input_cached_tokens", "output_tokens"):
                    hours[(*of, name)] += result[name]
        sums.append(hours)
    assert sums[0] == sums[1]
    assert sums[0].total() > 0


@pytest.mark.parametrize(
    ("asked", "any_there"), [("project_ids=proj_1", False), ("batch=true", False), ("batch=false", True)]
)
async def test_what_does_not_exist_here_has_used_nothing(past: Past, asked: str, any_there: bool) -> None:
    """A tool that sums over projects or batches would count everything twice otherwise."""
    start = int((datetime.now(UTC) - timedelta(days=31)).timestamp())
    told = await past.get(f"/v1/organization/usage/completions?start_time={start}&limit=31&{asked}")
    assert any(bucket["results"] for bucket in told["data"]) is any_there


async def test_searches_are_told_by_hours_and_models(past: Past) -> None:
    """As many as rows say that providers ran, to which no key or model that had none is added; OpenAI's names for them."""
    await past.asking.pool.execute(
        "UPDATE usage_events SET other_usage = jsonb_build_object('web_searches', 3, 'file_searches', 1) "
        "WHERE id IN (SELECT id FROM usage_events WHERE operation = 'chat' ORDER BY occurred_at DESC LIMIT 20)"
    )
    start = int((datetime.now(UTC) - timedelta(days=30)).timestamp())
    base = f"/v1/organization/usage/web_search_calls?start_time={start}&limit=31"
    for asked in ("", "&group_by=model&group_by=api_key_id", "&bucket_width=1h&limit=168&models=big"):
        told = await past.get(base.replace("&limit=31", "") + asked if "limit" in asked else base + asked)
        results = [result for bucket in told["data"] for result in bucket["results"]]
        if "1h" not in asked:
            assert sum(result["num_requests"] for result in results) == 60
            assert sum(result["num_model_requests"] for result in results) == 20
        assert {result["object"] for result in results} <= {"organization.usage.web_searches.result"}
        assert all((result["model"] is not None) == ("group_by" in asked) for result in results)
    files = await past.get(f"/v1/organization/usage/file_search_calls?start_time={start}&limit=31")
    results = [result for bucket in files["data"] for result in bucket["results"]]
    assert sum(result["num_requests"] for result in results) == 20
    assert {result["object"] for result in results} == {"organization.usage.file_searches.result"}
    for asked in ("web_search_calls?context_levels=low&", "file_search_calls?vector_store_ids=vs_1&", "decisions?",
                  "vector_stores?", "code_interpreter_sessions?", "audio_speeches?", "audio_transcriptions?",
                  "images?sizes=256x256&sources=image.edit&group_by=size&group_by=source&"):  # fmt: skip
        told = await past.get(f"/v1/organization/usage/{asked}start_time={start}&limit=31")
        assert (told["object"], len(told["data"])) == ("page", 31)
        assert all(bucket["results"] == [] for bucket in told["data"]), asked


async def test_a_budget_is_the_organizations_unless_the_operator_set_it(past: Past) -> None:
    """Its people make, change and end their own; they see the operator's and cannot change it."""
    made = await past.asking(
        "POST", "/api/budgets", {"measure": "amount", "window": "month", "cap": "100.00"}, token=past.owner.token
    )
    assert made.status == 201, made
    status = await past.get(f"/api/budgets/{made.body['id']}/status")
    assert status["used_nanos"] > 0
    assert status["forecast"]["expected_nanos"] >= status["used_nanos"]
    path = f"/api/budgets/{made.body['id']}"
    assert (await past.asking("PATCH", path, {"cap": "50.00"}, token=past.owner.token)).body["cap"] == "50.00"
    assert (await past.asking("PATCH", path, {"cap": "50.00"}, token=past.member.token)).case is Case.PERMISSION_DENIED
    assert (await past.asking("DELETE", path, token=past.owner.token)).body["retired_at"] is not None
    terms = {"scope": "account", "scope_id": str(past.owner.account_id), "measure": "requests", "window": "minute"}
    theirs = await past.asking("POST", "/admin/limits", {**terms, "cap": 5}, token=ADMIN_TOKEN)
    path = f"/api/budgets/{theirs.body['id']}"
    for method, body in (("PATCH", {"cap": 6}), ("DELETE", None)):
        assert (await past.asking(method, path, body, token=past.owner.token)).case is Case.PERMISSION_DENIED
    listed = await past.get("/api/budgets")
    assert [row["is_own"] for row in listed["data"]] == [False]


async def test_a_budget_of_a_key_foresees_by_those_it_was_rotated_to(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it counts them: a new secret is no new budget."""
    first = datetime.now(UTC).date().replace(day=1)  # as on a day that has some to come
    monkeypatch.setattr("meterproxy.control.budget_endpoints.today", lambda: first)
    terms = {"measure": "amount", "window": "month", "cap": "100.00", "scope": "key", "scope_id": str(past.keys[0])}
    made = await past.asking("POST", "/api/budgets", terms, token=past.owner.token)
    before = (await past.get(f"/api/budgets/{made.body['id']}/status"))["forecast"]
    await past.asking.pool.execute("UPDATE keys SET origin_id = $1 WHERE id = $2", *past.keys)
    after = (await past.get(f"/api/budgets/{made.body['id']}/status"))["forecast"]
    assert after["expected_nanos"] > before["expected_nanos"]


async def test_a_budget_for_a_member_from_elsewhere(past: Past) -> None:
    """Somebody who was made in another organization can be limited in this one; a stranger cannot."""
    terms = {"measure": "amount", "window": "month", "cap": "1.00", "scope": "user"}
    made = await past.asking("POST", "/api/budgets", {**terms, "scope_id": str(past.member.id)}, token=past.owner.token)
    assert made.status == 201, made
    assert made.body["account_id"] == str(past.owner.account_id)
    stranger = await past.asking.person("stranger")
    heard = await past.asking("POST", "/api/budgets", {**terms, "scope_id": str(stranger.id)}, token=past.owner.token)
    assert heard.case is Case.NOT_FOUND
    theirs = {**terms, "scope": "account", "scope_id": str(stranger.account_id)}
    assert (await past.asking("POST", "/api/budgets", theirs, token=past.owner.token)).case is Case.NOT_FOUND


async def test_figures_equal_the_books_whatever_has_become_of_a_record(past: Past) -> None:
    """Sent again, given back, booked with few columns, or with its money alone: everything still adds up."""
    pool, charged = past.asking.pool, [record for record in past.records if record.how == "captured"]
    settlement = Settlement(pool)
    assert await book_invented(settlement, past.records, PRICES) == 0
    first, second = charged[:2]
    await pool.execute(
        "INSERT INTO replaced_requests (account_id, request_id, occurred_at, session_id, replaced_by, "
        "replaced_by_occurred_at, replaced_by_session_id) SELECT $1, a.id, a.occurred_at, $4, b.id, b.occurred_at, $4 "
        "FROM usage_events a, usage_events b WHERE a.id = $2 AND b.id = $3",
        past.owner.account_id, first.subject.request_id, second.subject.request_id, UUID(int=7),
    )  # fmt: skip
    decided = await pool.fetchval(
        "SELECT decide_replaced($1, $2, $3)", past.owner.account_id, first.subject.request_id, second.subject.request_id
    )
    assert decided == "reversed"
    rejected = [replace(charged[number], subject=replace(charged[number].subject, request_id=UUID(int=number + 1)))
                for number in (2, 3)]  # fmt: skip
    rejected[1] = replace(rejected[1], subject=replace(rejected[1].subject, occurred_us=10**15))
    await pool.execute("ALTER TABLE usage_events ADD CHECK (occurred_at > '2005-01-01')")
    journal_id = UUID(int=8)
    for number, record in enumerate(rejected):
        await settlement.progress(journal_id)
        prices = {price.id: price.document() for price in PRICES}
        ending = Settling(number + 1, record)
        await settlement.reject(Batch(journal_id, number, number + 1, number + 1, [ending], prices, None), "a test")
    assert [
        result for result in await audit(pool) if result.name != "no_record_waits_for_a_person" and not result.ok
    ] == []
    rowless = sum(record.amount_nanos for record in rejected) - await pool.fetchval(
        "SELECT COALESCE(sum(amount_nanos), 0)::bigint FROM usage_events WHERE id = ANY ($1::uuid[])",
        [record.subject.request_id for record in rejected],
    )
    assert rowless == rejected[1].amount_nanos
    total = amount(past.records) + amount(rejected) - rowless
    told = await past.get("/api/usage/stats?days=60")
    assert told["totals"]["amount_nanos"] == total
    rows = list(csv.DictReader(io.StringIO((await exported(past, "csv")).decode(), newline="")))
    assert sum(round(float(row["amount"]) * NANOS_PER_USD) for row in rows) == total
    balance = (await past.get("/api/credits/balance"))["balance_nanos"]
    told = await past.get("/api/credits/report?from=2020-01-01&to=2029-01-01")
    assert told["closing_nanos"] == balance
    assert (told["used_nanos"], told["other_nanos"]) == (total, rowless)
    assert told["credited_nanos"] == 50 * NANOS_PER_USD + first.amount_nanos
    day = await pool.fetchval(
        "SELECT (rejected_at AT TIME ZONE 'UTC')::date FROM settle_rejected WHERE booked = 'money'"
    )
    for _ in range(2):  # also when a person has seen to it, it counts once, on the day on which it was booked
        spans = ((date(2020, 1, 1), day - timedelta(days=1)), (day, day), (day + timedelta(days=1), date(2029, 1, 1)))
        told = [await past.get(f"/api/credits/report?from={first_day}&to={last_day}") for first_day, last_day in spans]
        assert [one["other_nanos"] for one in told] == [0, rowless, 0]
        assert [one["closing_nanos"] for one in told[:2]] == [one["opening_nanos"] for one in told[1:]]
        assert told[2]["closing_nanos"] == balance
        await pool.execute("UPDATE settle_rejected SET seen_at = now()")
    entries = await pool.fetchval("SELECT sum(amount_nanos)::bigint FROM ledger_entries WHERE account_id = $1",
                                  past.owner.account_id)  # fmt: skip
    assert entries == balance


async def test_a_page_of_keys_says_what_each_has_used(past: Past) -> None:
    """And leads to the rows behind it, where keys and people can be chosen; a member sees his own."""
    owner, member = [await Visitor.of(past.asking, person) for person in (past.owner, past.member)]
    first = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=29)
    lately = [record for record in past.records if record.subject.occurred_us >= first.timestamp() * 1e6]
    used = [amount([record for record in lately if record.subject.key_id == key_id]) for key_id in past.keys]
    about = f"?organization_id={past.owner.organization_id}"
    assert min(used) > 0
    told = (await owner.get("/keys")).body.decode()
    for key_id, nanos in zip(past.keys, used, strict=True):
        assert f'<a href="/activity?key_id={key_id}"><span class="usd">${format_usd(nanos)}</span></a>' in told
    his = (await member.get(f"/keys{about}")).body.decode()
    assert (str(past.keys[0]) in his, format_usd(used[1]) in his) == (False, True)

    rows = (await owner.get(f"/activity?key_id={past.keys[1]}")).body.decode()
    assert f'<option value="{past.keys[1]}" selected>' in rows
    assert f'<option value="{past.member.id}">' in rows
    assert 'name="user_id"' not in (await member.get(f"/activity{about}")).body.decode()
