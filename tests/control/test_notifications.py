"""Notifications by the API: in words that say what it means, to those whom it concerns."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from meterproxy.control.notification_words import words_of
from meterproxy.core.lending import LeaseKey
from meterproxy.core.role import Role
from meterproxy.errors import Case
from meterproxy.store.crossings import mark_crossings
from meterproxy.store.pool import transaction
from tests.control.asking import ADMIN_TOKEN, Asking
from tests.ledger.bank import pool_of

BUDGET = {
    "name": "team", "scope": "account", "measure": "amount", "window": "month", "enforcement": "hard", "grace": 0,
    "mark": 75, "used": 7_500_000_000, "cap": 10_000_000_000,
}  # fmt: skip


@pytest.fixture
async def asking(database: str) -> AsyncIterator[Asking]:
    async with pool_of(database) as pool:
        yield Asking(pool)


@pytest.mark.parametrize(("changes", "title", "text"), [
    ({}, "The budget “team” has passed 75 %",
     "$7.50 of $10.00 a month were used. When all of it is used, requests that draw from it are refused."),
    ({"mark": 100, "used": 10_000_000_000}, "The budget “team” is used up",
     "$10.00 of $10.00 a month were used. Requests that draw from it are refused until the next month begins."),
    ({"mark": 100, "grace": 1_000_000_000}, "The budget “team” is used up",
     "$7.50 of $10.00 a month were used. When all of it and its grace of $1.00 is used, requests that draw from it are refused."),
    ({"mark": 100, "window": "total", "measure": "tokens", "used": 1234, "cap": 1000, "name": ""},
     "A limit of the organization is used up",
     "1,234 tokens of 1,000 tokens in all were used. Requests that draw from it are refused until its cap is raised."),
    ({"enforcement": "soft", "name": "", "scope": "key"}, "A budget of one key has passed 75 %",
     "$7.50 of $10.00 a month were used. It only counts: nothing is refused."),
])  # fmt: skip
def test_a_limit_in_words(changes: dict[str, Any], title: str, text: str) -> None:
    """What was used of what, and what happens next."""
    words = words_of("limit.passed", "x", {**BUDGET, **changes}, sees_budgets=True)
    assert (words.title, words.text, words.link) == (title, text, "/budgets?first=x")
    assert words_of("limit.passed", "x", BUDGET, sees_budgets=False).link == "/activity"


@pytest.mark.parametrize(("measure", "asked"), [
    ("requests", "1 request, more than was left of 60 requests a day."),
    ("concurrent", "1 request at the same time, more than was left of 60 requests at the same time."),
    ("tokens", "1 token, more than was left of 60 tokens a day."),
])  # fmt: skip
def test_what_a_limit_counts_has_words(measure: str, asked: str) -> None:
    """As forms have them, of one and of many."""
    told = {
        **BUDGET,
        "measure": measure,
        "amount": 1,
        "cap": 60,
        "window": None if measure == "concurrent" else "day",
        "key": "",
    }
    words = words_of("limit.refused", "x", told, sees_budgets=True)
    assert words.text == f"What was asked for may use up to {asked}"


@pytest.mark.parametrize(("earliest", "latest", "between"), [
    ("2026-05-16", "2026-05-20", ", between 2026-05-16 and 2026-05-20"), ("2026-05-16", None, ", 2026-05-16 at the earliest"),
    ("2026-05-18", "2026-05-18", ""),
])  # fmt: skip
def test_what_is_foreseen_in_words(earliest: str, latest: str | None, between: str) -> None:
    """The day that is expected, and how uncertain it is."""
    told = {
        "runs_out": "2026-05-18",
        "runs_out_earliest": earliest,
        "runs_out_latest": latest,
        "left_nanos": 7_500_000_000,
    }
    words = words_of("credit.runs_out", "x", told, sees_budgets=True)
    assert words.title == "Credit runs out around 2026-05-18"
    assert words.text == f"$7.50 was left. At the pace of the last weeks that lasts until 2026-05-18{between}."
    assert words.link == "/credits#add"


def test_what_a_later_release_tells_is_told_by_its_name() -> None:
    """While a fleet is upgraded, workers of the earlier release show what the later ones write."""
    assert words_of("card.expired", "x", {}, sees_budgets=True).title == "card.expired"


async def passed(pool: asyncpg.Pool, limit: dict[str, Any], used: int) -> None:
    """So much of a daily limit has been used, and somebody looks."""
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    account_id, limit_id = UUID(limit["account_id"]), UUID(limit["id"])
    await pool.execute(
        "INSERT INTO limit_windows (account_id, limit_id, window_start, cap, drawn, counted) VALUES ($1, $2, $3, 9, $4, $4)",
        account_id, limit_id, start, used,
    )  # fmt: skip
    async with transaction(pool) as connection:
        await mark_crossings(connection, (LeaseKey(account_id, limit_id, int(start.timestamp()) * 1_000_000),))


async def test_everybody_hears_what_concerns_him(asking: Asking) -> None:
    """A member of his own budget, those who read usage of all budgets, those who pay of purchases; each reads for himself."""
    owner, member, viewer = [await asking.person(name) for name in ("owner", "member", "viewer")]
    for person, role in ((member, Role.MEMBER), (viewer, Role.VIEWER)):
        await asking.joins(person, owner.organization_id, role)
    terms = {"measure": "requests", "window": "day", "cap": 10, "seed": False}
    for name, whose in (("all", {}), ("his", {"scope": "user", "scope_id": str(member.id)})):
        made = await asking("POST", "/api/budgets", {**terms, "name": name, **whose}, token=owner.token)
        await passed(asking.pool, made.body, 8)
    order = await asking("POST", "/api/credits/purchase", {"amount": "20"}, token=owner.token)
    await asking("POST", f"/api/admin/purchases/{order.body['id']}/confirm", {"amount": "19"}, token=ADMIN_TOKEN)

    of = f"?organization_id={owner.organization_id}"
    heard = {
        name: (await asking("GET", f"/api/notifications{of}", token=token)).body
        for name, token in (
            ("owner", owner.token), ("member", member.token), ("viewer", viewer.token), ("admin token", ADMIN_TOKEN),
        )
    }  # fmt: skip
    limits = ["The limit “his” has passed 75 %", "The limit “all” has passed 75 %"]
    titles = {name: [one["title"] for one in told["data"]] for name, told in heard.items()}
    assert titles["owner"] == titles["admin token"] == ["$19.00 of credit was added", *limits]
    assert (titles["viewer"], titles["member"]) == (limits, limits[:1])
    assert heard["owner"]["data"][0]["text"] == f"The purchase {order.body['code']} was paid. $20.00 had been ordered."
    assert (heard["member"]["data"][0]["link"], heard["member"]["unread"]) == ("/activity", 1)

    all_, his = (
        next(one["id"] for one in heard["owner"]["data"] if f"“{name}”" in one["title"]) for name in ("all", "his")
    )
    assert (await asking("POST", f"/api/notifications/{his}/read{of}", token=member.token)).status == 204
    assert (await asking("POST", f"/api/notifications/{all_}/read{of}", token=member.token)).case is Case.NOT_FOUND
    assert (await asking("GET", f"/api/notifications{of}&unread=1", token=member.token)).body["data"] == []
    first = (await asking("GET", f"/api/notifications{of}&limit=1", token=owner.token)).body
    assert (first["unread"], first["next_cursor"]) == (3, str(first["data"][0]["id"]))
    assert (await asking("POST", f"/api/notifications/read{of}", token=owner.token)).status == 204
    rest = (await asking("GET", f"/api/notifications{of}&cursor={first['next_cursor']}", token=owner.token)).body
    assert ([one["read_at"] is None for one in rest["data"]], rest["unread"]) == ([False, False], 0)
    assert (await asking("POST", f"/api/notifications/read{of}", token=ADMIN_TOKEN)).case is Case.CONFLICT
    for number in (uuid4(), "1" * 40):
        assert (await asking("POST", f"/api/notifications/{number}/read", token=owner.token)).case is Case.NOT_FOUND


async def test_the_mark_of_credit_is_the_organizations(asking: Asking) -> None:
    """A dollar until somebody who pays moves it or takes it away; who did is written down."""
    owner = await asking.person("owner")
    path = "/api/credits/mark"
    assert (await asking("GET", path, token=owner.token)).body == {
        "below": "1.00", "below_nanos": 1_000_000_000, "recharge": None, "recharge_nanos": None,
        "runs_out_days": 7,
    }  # fmt: skip
    for below in ("12.50", None):
        assert (await asking("PATCH", path, {"below": below}, token=owner.token)).body["below"] == below
        assert (await asking("GET", path, token=owner.token)).body["below"] == below
    for senseless in ({"below": "0"}, {"below": "-1"}, {}):
        assert (await asking("PATCH", path, senseless, token=owner.token)).case is Case.MALFORMED
    told = await asking("GET", "/api/audit?action=credit.mark", token=ADMIN_TOKEN)
    assert [one["detail"]["below_nanos"] for one in told.body["data"]] == [None, 12_500_000_000]


async def test_how_early_one_is_told_is_the_organizations(asking: Asking) -> None:
    """A week until somebody who pays says otherwise; kept where it is not mentioned."""
    owner, member = await asking.person("owner"), await asking.person("member")
    await asking.joins(member, owner.organization_id, Role.ADMIN)
    path = "/api/credits/mark"
    for wish, days in (
        ({"below": "5", "runs_out_days": 30}, 30), ({"below": None}, 30), ({"below": None, "runs_out_days": None}, None),
        ({"below": "5", "runs_out_days": 1}, 1), ({"below": "5", "recharge": "50"}, 1),
    ):  # fmt: skip
        assert (await asking("PATCH", path, wish, token=owner.token)).body["runs_out_days"] == days
        assert (await asking("GET", path, token=owner.token)).body["runs_out_days"] == days
    for senseless in (0, -1, 91, 1.5, "soon"):
        refused = await asking("PATCH", path, {"below": "5", "runs_out_days": senseless}, token=owner.token)
        assert (refused.case, refused.param) == (Case.MALFORMED, "runs_out_days")
    of = f"?organization_id={owner.organization_id}"
    refused = await asking("PATCH", path + of, {"below": "5", "runs_out_days": 3}, token=member.token)
    assert refused.case is Case.PERMISSION_DENIED
    told = await asking("GET", "/api/audit?action=credit.mark&limit=1", token=ADMIN_TOKEN)
    assert told.body["data"][0]["detail"]["runs_out_days"] == 1


async def test_what_is_ordered_by_itself_is_the_organizations_too(asking: Asking) -> None:
    """Within the bounds of purchases, kept where it is not mentioned, and gone with the mark."""
    owner = await asking.person("owner")
    path = "/api/credits/mark"
    for wish, recharge in (
        ({"below": "10", "recharge": "50"}, "50.00"), ({"below": "12"}, "50.00"),
        ({"below": "12", "recharge": None}, None), ({"below": "12", "recharge": "60"}, "60.00"), ({"below": None}, None),
    ):  # fmt: skip
        assert (await asking("PATCH", path, wish, token=owner.token)).body["recharge"] == recharge
        assert (await asking("GET", path, token=owner.token)).body["recharge"] == recharge
    for senseless in (
        {"below": "1", "recharge": "0.01"},
        {"below": "1", "recharge": "1000000"},
        {"below": None, "recharge": "50"},
    ):
        assert (await asking("PATCH", path, senseless, token=owner.token)).case is Case.MALFORMED
