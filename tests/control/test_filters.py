"""Activity by its filters: each row once and in order, as many as reports count, and nobody else's."""

import html
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace

from meterproxy.core.record import EndRecord
from meterproxy.errors import Case
from meterproxy.service.invention import DAY_US, book_invented
from meterproxy.store.audit import audit
from meterproxy.store.settle import Settlement
from tests.control.asking import ADMIN_TOKEN
from tests.control.history import PRICES
from tests.control.past import Past, past_of
from tests.dashboard.visitor import Visitor


class TeamPast(Past):
    """The same with a team, which has the owner's key."""

    team: str


@pytest.fixture
async def past(database: str) -> AsyncIterator[TeamPast]:
    async with past_of(database, TeamPast()) as past:
        new = {"account_id": str(past.owner.account_id), "name": "ants"}
        past.team = (await past.asking("POST", "/admin/teams", new, token=ADMIN_TOKEN)).body["id"]
        path, body = f"/api/keys/{past.keys[0]}", {"team_id": past.team}
        assert (await past.asking("PATCH", path, body, token=past.owner.token)).status == 200
        yield past


Fits = Callable[[TeamPast, EndRecord], bool]
FILTERS: dict[str, Fits] = {
    "model=small": lambda _, record: record.subject.model == "small",
    "model=big": lambda _, record: record.subject.model == "big",
    "operation=embedding": lambda _, record: record.subject.operation == "embedding",
    "provider=nobody": lambda *_: False,
    "status=failed": lambda _, record: record.ending.outcome != "completed",
    "status=completed": lambda _, record: record.ending.outcome == "completed",
    "status=504": lambda _, record: record.ending.status == 504,
    "conversation_id=conversation-3": lambda _, record: record.subject.conversation == "conversation-3",
    "key_id=owners": lambda past, record: record.subject.key_id == past.keys[0],
    "key_id=members": lambda past, record: record.subject.key_id == past.keys[1],
    "user_id=members": lambda past, record: record.subject.user_id == past.member.id,
    "from=ago": lambda past, record: record.subject.occurred_us >= ago(past),
    "to=ago": lambda past, record: record.subject.occurred_us < ago(past),
    "team_id=ants": lambda past, record: record.subject.key_id == past.keys[0],
    "team_id=none": lambda past, record: record.subject.key_id != past.keys[0],
    "team_id=nobodys": lambda *_: False,
    "tag=feature": lambda _, record: "feature" in dict(record.subject.tags),
    "tag=feature=search": lambda _, record: dict(record.subject.tags).get("feature") == "search",
    "tag=feature=nothing": lambda *_: False,
    "tag=search": lambda *_: False,
    "tool=search": lambda _, record: "search" in record.ending.tools,
    "tool=browser": lambda _, record: "browser" in record.ending.tools,
    "tool=hammer": lambda *_: False,
}
"""What a filter finds; what stands for an id or an instant is put in by `asked`."""


def ago(past: TeamPast) -> int:
    return past.records[150].subject.occurred_us


def asked(past: TeamPast, filters: str) -> str:
    """The filters as they stand in an address."""
    instant = datetime.fromtimestamp(ago(past) / 1e6, UTC).isoformat().replace("+00:00", "Z")
    meant = {
        "key_id=owners": past.keys[0], "key_id=members": past.keys[1], "user_id=members": past.member.id,
        "from=ago": instant, "to=ago": instant, "team_id=ants": past.team, "team_id=nobodys": uuid4(),
    }  # fmt: skip
    return "".join(
        f"&{one.partition('=')[0]}={meant.get(one, one.partition('=')[2])}" for one in filters.split("&") if one
    )


async def paged(past: Past, query: str, limit: int, token: str | None = None) -> list[str]:
    ids: list[str] = []
    cursor = ""
    while True:
        page = await past.get(f"/api/user/activity?limit={limit}{query}{cursor}", token)
        ids += [row["id"] for row in page["data"]]
        if page["next_cursor"] is None:
            return ids
        cursor = f"&cursor={page['next_cursor']}"


@pytest.mark.parametrize("filters", [
    "", *FILTERS, "model=big&status=failed", "from=ago&tag=feature", "to=ago&tool=search", "tag=feature=search&tool=search",
    "team_id=ants&key_id=owners", "team_id=ants&key_id=members", "team_id=none&tag=feature&model=small",
    "conversation_id=conversation-3&tag=feature", "conversation_id=conversation-3&team_id=ants",
])  # fmt: skip
async def test_pages_hold_each_row_once_and_in_order(past: TeamPast, filters: str) -> None:
    """By every filter, whatever the size of a page, the latest first."""
    tests = [FILTERS[one] for one in filters.split("&") if one]
    wanted = [record for record in reversed(past.records) if all(fits(past, record) for fits in tests)]
    expected = [str(record.subject.request_id) for record in wanted]
    assert await paged(past, asked(past, filters), 500) == expected
    assert await paged(past, asked(past, filters), 37) == expected


@pytest.mark.parametrize("by", ["model", "operation", "provider", "key", "user", "team", "tag", "tool"])
async def test_rows_of_reports_lead_to_as_many_requests_as_they_tell(past: TeamPast, by: str) -> None:
    """Whatever is grouped by, with the span that the report is of."""
    first, last = datetime.now(UTC).date() - timedelta(days=25), datetime.now(UTC).date() - timedelta(days=3)
    owner = await Visitor.of(past.asking, past.owner)
    page = (await owner.get(f"/reports?group_by={by}&from={first}&to={last}")).body.decode()
    rows = re.findall(r'<tr><td><a href="(/activity\?[^"]*)">[^<]*</a></td><td class="num">([\d,]+)</td>', page)
    assert len(rows) >= (1 if by == "provider" else 2)
    for address, requests in rows:
        query = dict(parse_qsl(urlsplit(html.unescape(address)).query))
        listed = (await owner.get(html.unescape(address))).body.decode()
        assert ("Nothing like this" in listed) is (requests == "0"), address
        query |= {name: f"{query[name]}T00:00:00Z" for name in ("from", "to")}
        assert len(await paged(past, f"&{urlencode(query)}", 500)) == int(requests), address


async def test_what_is_looked_for_stays_in_the_form(past: TeamPast) -> None:
    """And in the addresses of the files; a team that was removed, too."""
    owner = await Visitor.of(past.asking, past.owner)
    page = (await owner.get(f"/activity?team_id={past.team}&tag=feature%3Dsearch&tool=search")).body.decode()
    assert f'<option value="{past.team}" selected>ants' in page
    assert 'name="tag" value="feature=search"' in page
    assert 'name="tool" value="search"' in page
    none = (await owner.get("/activity?team_id=none")).body.decode()
    assert '<option value="none" selected>' in none
    assert none.count('name="team_id"') == 1
    path = f"/api/organizations/{past.owner.organization_id}/teams/{past.team}"
    assert (await past.asking("DELETE", path, token=past.owner.token)).status == 204
    page = (await owner.get(f"/activity?team_id={past.team}")).body.decode()
    assert f'<input type="hidden" name="team_id" value="{past.team}">' in page
    assert "Nothing like this" not in page, "what the keys of a removed team have used stays the team's"


async def test_a_tag_that_reports_do_not_tell_apart_is_found_all_the_same(past: TeamPast) -> None:
    """Where a day has too many tags they count as others, which lead nowhere; their rows still name them."""
    expected = await paged(past, "&tag=feature=search", 500)
    assert expected
    await past.asking.pool.execute("UPDATE tags_by_day SET value = '(other)' WHERE value = 'search'")
    assert await paged(past, "&tag=feature=search", 500) == expected
    owner = await Visitor.of(past.asking, past.owner)
    page = (await owner.get("/reports?group_by=tag")).body.decode()
    assert "<td>feature=(other)</td>" in page


async def test_of_many_tags_and_tools_the_first_are_told_by_name(
    past: TeamPast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is told together, nothing is lost, and it leads nowhere."""
    owner = await Visitor.of(past.asking, past.owner)
    for by, name in (("tag", "value"), ("tool", "tool")):
        path = f"/api/credits/usage?group_by={by}"
        monkeypatch.undo()
        first, *others = (await past.get(path))[f"{by}s"]
        assert others
        monkeypatch.setattr("meterproxy.store.usage.MOST_GROUPS", 1)
        told = {row[name]: row for row in (await past.get(path))[f"{by}s"]}
        assert told.pop(first[name]) == first
        assert list(told) == ["(other)"]
        for counted in ("requests", "amount_nanos"):
            if counted in first:
                assert told["(other)"][counted] == sum(row[counted] for row in others)
        page = (await owner.get(f"/reports?group_by={by}")).body.decode()
        assert f"<td>{'(other)=(other)' if by == 'tag' else '(other)'}</td>" in page


async def test_a_page_says_how_many_conversations_its_file_has(past: TeamPast) -> None:
    """The latest thousand, where there are more."""
    owner = await Visitor.of(past.asking, past.owner)
    add = """INSERT INTO conversations (account_id, conversation, first_at, last_at, requests, amount_nanos)
        SELECT $1, 'made up ' || n, now(), now(), 1, 0 FROM generate_series($2::int, $3::int) n"""
    for first, last, said in ((1, 200, "all of them are in the file"), (201, 1001, "the file has these 1,000")):
        await past.asking.pool.execute(add, past.owner.account_id, first, last)
        assert said in (await owner.get("/reports?group_by=conversation")).body.decode()


async def test_a_day_keeps_its_size_however_many_tags_are_made_up(past: TeamPast) -> None:
    """A thousand are told apart, of others the names that are known by then; all are found, and the audit finds nothing."""
    pool, last = past.asking.pool, past.records[-1]

    def tagged(number: int, *tags: tuple[str, str]) -> EndRecord:
        subject = replace(last.subject, request_id=UUID(int=number), conversation=None, tags=tags)
        return replace(last, subject=subject)

    batches = [
        [tagged(1000 + n, *((f"first-{n}-{m}", "v") for m in range(10))) for n in range(90)],
        [tagged(2000 + n, ("first-0-0", f"v{n}"), *((f"second-{n}-{m}", "v") for m in range(9))) for n in range(30)],
        [tagged(3000 + n, ("first-1-1", f"v{n}"), (f"third-{n}", "v"), ("(other)", f"v{n}")) for n in range(20)],
    ]
    for batch in batches:
        assert await book_invented(Settlement(pool), batch, PRICES) == len(batch)
    day = datetime.fromtimestamp(last.subject.occurred_us / 1e6, UTC).date()
    rows = await pool.fetch("SELECT tag, value, requests FROM tags_by_day WHERE day = $1", day)
    others = {row["tag"] for row in rows if row["value"] == "(other)"}
    apart = {row["tag"] for row in rows} - {"(other)"}
    assert len(rows) - len(others) == 1000
    assert others <= apart | {"(other)"}
    assert {"first-1-1", "(other)"} <= others
    assert not any(tag.startswith("third") for tag in apart)
    booked = [*past.records, *(record for batch in batches for record in batch)]
    of_day = [record for record in booked if record.subject.occurred_us // DAY_US == last.subject.occurred_us // DAY_US]
    assert sum(row["requests"] for row in rows) == sum(len(record.subject.tags) for record in of_day)
    assert [result for result in await audit(pool) if not result.ok] == []
    for query, number in (("first-89-9", 1089), ("second-29-8=v", 2029), ("first-0-0=v29", 2029), ("first-1-1=v7", 3007),
                          ("third-7", 3007), ("third-7=v", 3007), ("(other)=v7", 3007)):  # fmt: skip
        assert await paged(past, f"&tag={quote(query)}", 500) == [str(UUID(int=number))], query
    assert await paged(past, "&tag=third-7=w", 500) == []
    owner = await Visitor.of(past.asking, past.owner)
    page = (await owner.get("/reports?group_by=tag")).body.decode()
    assert "<td>(other)=(other)</td>" in page


async def test_filters_show_nobody_what_is_not_his(past: TeamPast) -> None:
    """A foreign team is nobody's; a member and a key see their own rows of a team, a tag and a tool."""
    stranger = await past.asking.person("stranger")
    about = f"&organization_id={past.owner.organization_id}"
    for query in (f"&team_id={past.team}", "&tag=feature", "&tool=search"):
        assert await paged(past, query, 500, stranger.token) == [], query
        refused = await past.asking("GET", f"/api/user/activity?limit=5{query}{about}", token=stranger.token)
        assert refused.case is Case.NOT_FOUND, query
    for query in ("team_id=ants", "team_id=none", "tag=feature=search", "tool=search"):
        fits = FILTERS[query]
        for token, own in (
            (past.member.token, lambda record: record.subject.user_id == past.member.id),
            (past.secrets[1], lambda record: record.subject.key_id == past.keys[1]),
        ):
            wanted = [record for record in reversed(past.records) if own(record) and fits(past, record)]
            told = await paged(past, asked(past, query) + about, 500, token)
            assert told == [str(record.subject.request_id) for record in wanted], query
    team = await past.asking.pool.fetchval(
        "INSERT INTO teams (id, organization_id, name) VALUES (gen_random_uuid(), $1, 'bees') RETURNING id",
        stranger.organization_id,
    )
    await past.asking.pool.execute("UPDATE keys SET team_id = $1 WHERE id = $2", team, past.keys[1])
    assert await paged(past, f"&team_id={team}", 500, stranger.token) == [], "a team has keys of its own account only"


@pytest.mark.parametrize(
    "query", ["tag=", "tag==x", "tag=a=", "tag=%00", "team_id=ants", "team_id=", "tool=", f"tool={'x' * 257}"]
)
async def test_filters_that_make_no_sense_are_refused(past: TeamPast, query: str) -> None:
    """By name; never answered with everything."""
    for path in ("/api/user/activity", "/api/user/activity/export"):
        heard = await past.asking("GET", f"{path}?{query}", token=past.owner.token)
        assert heard.case is Case.MALFORMED, path
        assert "%00" in query or (heard.param or "").startswith(query.partition("=")[0]), heard


async def test_a_file_has_what_is_looked_for(past: TeamPast) -> None:
    """By the same filters as the pages."""
    from meterproxy.control.activity_endpoints import ActivityFile
    from meterproxy.store.activity import Activity
    from meterproxy.store.whose import Whose

    asked_for = {"team_id": past.team, "tag": "feature=search"}
    wanted = ActivityFile.model_validate(asked_for).filter()
    pieces = Activity(past.asking.pool).exported(Whose(past.owner.account_id), wanted, "csv")
    _, *lines = b"".join([piece async for piece in pieces]).decode().splitlines()
    assert [line.split(",")[1] for line in lines] == await paged(past, f"&{urlencode(asked_for)}", 500)
    assert lines
    assert all(UUID(line.split(",")[4]) == past.keys[0] for line in lines)
