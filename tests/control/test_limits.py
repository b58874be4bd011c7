"""Budgets and rate limits over the operator's API: strict bodies, exact amounts, and what cannot change."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from meterproxy.control.api import Api
from meterproxy.control.identity import Identity
from meterproxy.control.routes import ROUTES
from meterproxy.errors import ApiError, Case
from meterproxy.store.accounts import Accounts
from meterproxy.store.audit_log import AuditLog
from meterproxy.store.fleet import Fleet
from meterproxy.store.keys import Keys
from meterproxy.store.limits import Limits
from meterproxy.store.teams import Teams
from tests.control.asking import services_of
from tests.ledger.bank import pool_of


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


class Operator:
    """Somebody with the admin token."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        none: Any = None
        self.api = Api(
            services_of(
                none,
                accounts=Accounts(pool),
                keys=Keys(pool),
                limits=Limits(pool),
                teams=Teams(pool),
                fleet=Fleet(pool),
                audit_log=AuditLog(pool),
            ),
            Identity("hush", none, none, none),
            ROUTES,
            open_metrics=True,
        )

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        request = make_mocked_request(method, path, headers={"Authorization": "Bearer hush"})
        request._read_bytes = b"" if body is None else orjson.dumps(body)
        answer = await self.api.answer(request)
        assert isinstance(answer, web.Response)
        assert isinstance(answer.body, bytes)
        return orjson.loads(answer.body)

    async def refused(self, method: str, path: str, body: Any = None) -> tuple[Case, str | None, str]:
        with pytest.raises(ApiError) as error:
            await self.ask(method, path, body)
        return error.value.case, error.value.param, error.value.message


async def test_a_limit_from_its_making_to_its_end(pool: asyncpg.Pool) -> None:
    """Amounts are decimal strings with their nanodollars beside them."""
    operator = Operator(pool)
    account = await operator.ask("POST", "/admin/accounts", {"name": "Acme"})
    made = await operator.ask(
        "POST",
        "/admin/limits",
        {
            "scope": "account", "scope_id": account["id"], "measure": "amount", "window": "month", "cap": "5.000000001",
            "model": "gpt-*", "name": "May not run away", "grace": "0.50",
        },
    )  # fmt: skip
    assert (made["cap"], made["cap_nanos"], made["grace"], made["window"]) == (
        "5.000000001",
        5_000_000_001,
        "0.50",
        "month",
    )
    assert (made["enforcement"], made["marks"], made["time_zone"], made["model"]) == (
        "hard",
        [75, 90, 100],
        "UTC",
        "gpt-*",
    )
    path = f"/admin/limits/{made['id']}"
    assert await operator.ask("GET", path) == made
    assert await operator.ask("GET", f"/admin/limits?account_id={account['id']}") == {
        "data": [made],
        "next_cursor": None,
    }
    status = await operator.ask("GET", f"{path}/status")
    assert (status["used"], status["held_nanos"], status["remaining_nanos"]) == ("0.00", 0, 5_000_000_001)
    assert status["window_start"] < status["as_of"] < status["window_end"]
    changed = await operator.ask("PATCH", path, {"cap": "7.00", "marks": [50], "enforcement": "soft"})
    assert (changed["cap"], changed["marks"], changed["enforcement"], changed["grace"]) == (
        "7.00",
        [50],
        "soft",
        "0.50",
    )
    assert (await operator.ask("DELETE", path))["retired_at"] is not None
    assert (await operator.ask("GET", "/admin/limits"))["data"] == []
    assert len((await operator.ask("GET", "/admin/limits?retired=1"))["data"]) == 1


async def test_rates_are_whole_numbers(pool: asyncpg.Pool) -> None:
    """Of requests, tokens, and requests at once; the last has no window."""
    operator = Operator(pool)
    account = await operator.ask("POST", "/admin/accounts", {"name": "Acme"})
    whose = {"scope": "organization", "scope_id": account["organization"]["id"]}
    rate = await operator.ask("POST", "/admin/limits", {**whose, "measure": "requests", "window": "minute", "cap": 60})
    assert (rate["cap"], "cap_nanos" in rate) == (60, False)
    at_once = await operator.ask("POST", "/admin/limits", {**whose, "measure": "concurrent", "cap": 4})
    assert at_once["window"] is None
    status = await operator.ask("GET", f"/admin/limits/{at_once['id']}/status")
    assert (status["window_start"], status["window_end"], status["remaining"]) == (None, None, 4)
    uncapped = await operator.ask("PATCH", f"/admin/limits/{rate['id']}", {"cap": None})
    assert uncapped["cap"] is None


BASE = {"scope": "account", "measure": "amount", "window": "day", "cap": "1"}


SENSELESS: list[tuple[dict[str, Any], str]] = [
    ({"cap": 5}, "cap"),
    ({"cap": "five"}, "cap"),
    ({"cap": "-1"}, "cap"),
    ({"cap": "0.0000000001"}, "cap"),
    ({"measure": "requests", "cap": "5"}, "cap"),
    ({"measure": "requests", "cap": 5.5}, "cap"),
    ({"measure": "requests", "cap": True}, "cap"),
    ({"measure": "money"}, "measure"),
    ({"window": "fortnight"}, "window"),
    ({"window": None}, "window"),
    ({"measure": "concurrent", "cap": 1}, "window"),
    ({"scope": "planet"}, "scope"),
    ({"scope_id": "x"}, "scope_id"),
    ({"scope_id": "0199e0a0-0000-7000-8000-000000000000"}, "scope_id"),
    ({"time_zone": "Mars/Olympus"}, "time_zone"),
    ({"operation": "cooking"}, "operation"),
    ({"marks": [0]}, "marks"),
    ({"marks": ["75"]}, "marks.0"),
    ({"surprise": 1}, "surprise"),
]


async def test_senseless_limits_are_refused(pool: asyncpg.Pool) -> None:
    """With the member named; never a limit that nobody meant."""
    operator = Operator(pool)
    account = await operator.ask("POST", "/admin/accounts", {"name": "Acme"})
    for changes, param in SENSELESS:
        _, told, _ = await operator.refused("POST", "/admin/limits", {**BASE, "scope_id": account["id"], **changes})
        assert told == param


async def test_what_a_limit_is_cannot_change(pool: asyncpg.Pool) -> None:
    """Another window is another limit, and the refusal says so."""
    operator = Operator(pool)
    account = await operator.ask("POST", "/admin/accounts", {"name": "Acme"})
    made = await operator.ask("POST", "/admin/limits", {**BASE, "scope_id": account["id"]})
    path = f"/admin/limits/{made['id']}"
    for name in ("window", "time_zone", "scope", "scope_id", "measure", "operation", "model"):
        case, param, message = await operator.refused("PATCH", path, {name: "week"})
        assert (case, param) == (Case.MALFORMED, name)
        assert "make a new one" in message
    assert (await operator.refused("PATCH", path, {"cap": 1}))[1] == "cap"
    assert (await operator.refused("PATCH", path, {"other": 1}))[1] == "other"
    assert (await operator.refused("GET", "/admin/limits/x"))[0] is Case.NOT_FOUND
    assert await operator.ask("PATCH", path, {}) == made


async def test_what_a_key_may_do_changes(pool: asyncpg.Pool) -> None:
    """Named members change, `null` takes a restriction away, the rest stays."""
    operator = Operator(pool)
    account = await operator.ask("POST", "/admin/accounts", {"name": "Acme"})
    team = await operator.ask("POST", "/admin/teams", {"account_id": account["id"], "name": "research"})
    assert (await operator.ask("GET", "/admin/teams"))["data"] == [team]
    key = await operator.ask("POST", "/admin/keys", {"account_id": account["id"], "name": "k", "models": ["o?"]})
    path = f"/admin/keys/{key['id']}"
    changed = await operator.ask(
        "PATCH", path,
        {"models": None, "networks": ["10.0.0.0/8"], "highest_request": "0.10", "operations": ["chat"], "team_id": team["id"],
         "expires_at": "2030-01-01T00:00:00Z"},
    )  # fmt: skip
    assert (changed["models"], changed["networks"], changed["highest_request"]) == (None, ["10.0.0.0/8"], "0.10")
    assert (changed["operations"], changed["team_id"], changed["name"]) == (["chat"], team["id"], "k")
    assert (await operator.ask("PATCH", path, {"expires_at": None}))["networks"] == ["10.0.0.0/8"]
    for body, param in (
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"operations": ["x"]}, "operations.0"),
        ({"id": 1}, "id"),
    ):
        assert (await operator.refused("PATCH", path, body))[1] == param
