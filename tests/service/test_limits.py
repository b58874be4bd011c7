"""Limits on a running service, as OpenAI's SDK and an operator see them: named refusals, true headers, live changes."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest

from tests.service.running import Service, until_asked

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO: Any = [{"role": "user", "content": "Say hello."}]
MODEL = "gpt-4o-mini"


@asynccontextmanager
async def sdk(service: Service, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=service.base_url, api_key=key, max_retries=0) as client:
        yield client


async def limit(service: Service, account: str, **members: Any) -> Any:
    """Make a limit of an account."""
    body = {"scope": "account", "scope_id": account, "window": "day", **members}
    return await service.admin("POST", "/admin/limits", body, status=201)


async def chat(client: openai.AsyncOpenAI, tokens: int = 5) -> Any:
    return await client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=tokens)


async def in_force(client: openai.AsyncOpenAI, **told: str) -> None:
    """Ask until an answer tells of the limit."""

    async def heard() -> bool:
        try:
            headers = (await chat(client)).headers
        except openai.RateLimitError as error:
            headers = error.response.headers
        return all(headers.get(f"x-ratelimit-{name.replace('_', '-')}") == value for name, value in told.items())

    await until_asked(heard, f"a limit that says {told}")


async def test_a_rate_limit_is_told_and_refuses(shared: Service) -> None:
    """Its headers count down; the one request too many hears which limit it was and when to come back."""
    account, key = await shared.customer("5.00")
    async with sdk(shared, key) as client:
        made = await limit(shared, account, measure="requests", cap=1000, name="slow start")
        await in_force(client, limit_requests="1000")
        headers = (await chat(client)).headers
        assert int(headers["x-ratelimit-remaining-requests"]) < 1000
        assert headers["x-ratelimit-reset-requests"].endswith("s")
        assert "x-ratelimit-limit-tokens" not in headers
        await shared.admin("PATCH", f"/admin/limits/{made['id']}", {"cap": 1}, status=200)
        refused = await refusal(client, openai.RateLimitError)
        assert refused.body["code"] == "rate_limit_exceeded"
        assert refused.body["type"] == "requests"
        assert '"slow start"' in refused.message
        headers = refused.response.headers
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert 0 < int(headers["retry-after"]) <= 86_400
        assert int(headers["retry-after-ms"]) <= 1000 * int(headers["retry-after"])
        await shared.admin("PATCH", f"/admin/limits/{made['id']}", {"cap": 50}, status=200)
        await in_force(client, limit_requests="50")


async def refusal(client: openai.AsyncOpenAI, kind: type[openai.APIStatusError]) -> Any:
    """Ask until a request is refused."""
    found: list[openai.APIStatusError] = []

    async def refused() -> bool:
        try:
            await chat(client)
        except kind as error:
            found.append(error)
        return bool(found)

    await until_asked(refused, "a refusal")
    return found[0]


async def test_a_budget_that_is_spent_is_final(shared: Service) -> None:
    """The SDK does not try again, whoever shares the account goes on, and a higher cap lets it pass within a moment."""
    account, key = await shared.customer("5.00")
    keys = (await shared.admin("GET", f"/admin/keys?account_id={account}"))["data"]
    async with sdk(shared, key) as client:
        await chat(client)
        made = await limit(
            shared, account, scope="key", scope_id=keys[0]["id"], measure="amount", window="month", cap="0.000000001"
        )
        refused = await refusal(client, openai.RateLimitError)
        assert (refused.body["code"], refused.body["type"]) == ("budget_exceeded", "insufficient_quota")
        assert refused.response.headers["x-should-retry"] == "false"
        assert 0 < int(refused.response.headers["retry-after"]) <= 31 * 86400
        other = await shared.admin("POST", "/admin/keys", {"account_id": account, "name": "other"}, status=201)
        async with sdk(shared, other["key"]) as colleague:
            await chat(colleague)
        await shared.admin("PATCH", f"/admin/limits/{made['id']}", {"cap": "1.00"}, status=200)
        await until_asked(lambda: passes(client), "an answer under the new cap")


async def passes(client: openai.AsyncOpenAI) -> bool:
    try:
        await chat(client)
    except openai.RateLimitError:
        return False
    return True


async def test_used_is_exact_and_crossings_are_recorded(shared: Service) -> None:
    """What a budget says is what the ledger says, seeded with what the day has cost already; a soft one never refuses."""
    account, key = await shared.customer("1.00")
    async with sdk(shared, key) as client:
        await chat(client, 40)
        await shared.balance_nanos(account)
        made = await limit(shared, account, measure="amount", cap="0.000030000", enforcement="soft", marks=[50, 100])
        assert (await status(shared, made))["used_nanos"] == 10**9 - await shared.balance_nanos(account)
        hard = await limit(shared, account, measure="tokens", cap=100_000)
        await in_force(client, limit_tokens="100000")
        balance, before = await shared.balance_nanos(account), [await status(shared, each) for each in (made, hard)]
        for _ in range(3):
            await chat(client, 40)
        spent = balance - await shared.balance_nanos(account)
        after = [await status(shared, each) for each in (made, hard)]
        assert after[0]["used_nanos"] - before[0]["used_nanos"] == spent
        assert after[0]["remaining_nanos"] == 30_000 - after[0]["used_nanos"] < 0

        async def crossed() -> bool:
            return [crossing["mark"] for crossing in (await status(shared, made))["crossings"]] == [50, 100]

        await until_asked(crossed, "the crossings")
        (row,) = await shared.rows(
            "SELECT sum(input_tokens + output_tokens) AS tokens FROM (SELECT * FROM usage_events WHERE account_id = $1"
            " ORDER BY occurred_at DESC LIMIT 3) last",
            account,
        )
        assert after[1]["used"] - before[1]["used"] == row["tokens"]
        assert (after[1]["held"], after[1]["remaining"]) == (0, 100_000 - after[1]["used"])
    await shared.invariants()


async def status(service: Service, made: Any) -> Any:
    return await service.admin("GET", f"/admin/limits/{made['id']}/status?fresh=1", status=200)


async def test_in_shadow_mode_nothing_is_refused(shared: Service) -> None:
    """What would have been is served, counted in the books and in the metrics."""
    account, key = await shared.customer("0")
    async with sdk(shared, key) as client:
        with pytest.raises(openai.RateLimitError):
            await chat(client)
        try:
            await shared.admin("PATCH", "/admin/fleet", {"shadow": True}, status=200)
            await until_asked(lambda: passes(client), "an answer without credit")
        finally:
            await shared.admin("PATCH", "/admin/fleet", {"shadow": False}, status=200)
        assert await shared.balance_nanos(account) < 0
        async with aiohttp.ClientSession() as session, session.get(f"{shared.origin}/metrics") as answer:
            assert re.search(r"^meterproxy_shadowed_total [1-9]", await answer.text(), re.MULTILINE)
        await refusal(client, openai.RateLimitError)
    await shared.invariants()


async def test_while_lending_is_stopped_a_new_account_gets_nothing(shared: Service) -> None:
    """503 with a time to come back, and everything as before once it is allowed again."""
    _, key = await shared.customer("5.00")
    async with sdk(shared, key) as client:
        try:
            await shared.admin("PATCH", "/admin/fleet", {"lending": False}, status=200)
            refused = await refusal(client, openai.InternalServerError)
            assert (refused.status_code, refused.response.headers["retry-after"]) == (503, "1")
        finally:
            await shared.admin("PATCH", "/admin/fleet", {"lending": True}, status=200)
        await until_asked(lambda: served(client), "an answer")


async def served(client: openai.AsyncOpenAI) -> bool:
    try:
        await chat(client)
    except openai.InternalServerError:
        return False
    return True
