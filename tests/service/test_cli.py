"""The command line beside a running service: same books, same policies, one helpful line where it cannot."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import openai
import pytest

from tests.service.running import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO: Any = [{"role": "user", "content": "Say hello."}]
REACHED_SECONDS = 20


async def run(service: Service, *words: str) -> Any:
    """The JSON that a command prints; it must succeed."""
    done = await asyncio.to_thread(service.command, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def failing(service: Service, *words: str) -> tuple[int, str]:
    """The status and the one line of a command that must not succeed."""
    done = await asyncio.to_thread(service.command, *words)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.returncode, done.stderr


async def test_an_account_from_the_command_line_is_served_at_once(shared: Service) -> None:
    """Account, user, credit and key made by commands; the request's row, entry and balance read by commands."""
    account = (await run(shared, "account", "create", "--name", "Initech"))["id"]
    user = await run(shared, "user", "create", "--account", account, "--name", "Peter")
    await run(shared, "credit", "grant", "--account", account, "--amount", "2.00", "--idempotency-key", "first")
    key = await run(shared, "key", "create", "--account", account, "--name", "laptop", "--user", user["id"])
    async with openai.AsyncOpenAI(base_url=shared.base_url, api_key=key["key"], max_retries=0) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="gpt-4o-mini", messages=HELLO, extra_headers={"X-Meterproxy-Tags": "team=tps"}
        )
    await shared.balance_nanos(account)
    cost = raw.headers["x-meterproxy-cost"]
    balance = await run(shared, "credit", "balance", "--account", account)
    assert (balance["balance"], balance["organization"]) == (raw.headers["x-meterproxy-balance"], "Initech")
    deduction, grant = await run(shared, "credit", "history", "--account", account)
    assert (deduction["amount"], grant["amount"], grant["idempotency_key"]) == (f"-{cost}", "2.00", "first")
    explained = await run(shared, "explain", deduction["request_id"])
    assert explained["request_id"] == raw.headers["x-meterproxy-request-id"]
    assert (explained["amount"], explained["user_id"], explained["tags"]) == (cost, user["id"], {"team": "tps"})
    told = await asyncio.to_thread(shared.command, "explain", deduction["request_id"])
    assert f"amount               {cost}\n" in told.stdout
    assert [row["id"] for row in await run(shared, "key", "list", "--account", account)] == [key["id"]]
    listed = await run(shared, "account", "list", "--limit", "1000")
    assert account in {row["id"] for row in listed}


async def test_policies_and_expiry_from_the_command_line_hold(shared: Service) -> None:
    """What a command put into a key's policy, the data plane refuses."""
    account, _ = await shared.customer()
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    words = ("--model", "gpt-4o*", "--operation", "chat", "--highest-request", "0.001", "--expires-at", until)
    key = await run(shared, "key", "create", "--account", account, "--name", "narrow", *words)
    async with openai.AsyncOpenAI(base_url=shared.base_url, api_key=key["key"], max_retries=0) as client:
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="gpt-4.1", messages=HELLO)
        with pytest.raises(openai.PermissionDeniedError):
            await client.embeddings.create(model="text-embedding-3-small", input="a")
        with pytest.raises(openai.PermissionDeniedError):
            await client.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=1000)
        assert (await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, max_tokens=10)).choices
    assert datetime.fromisoformat(key["expires_at"]) == datetime.fromisoformat(until)


async def test_rotating_and_revoking_reach_the_workers(shared: Service) -> None:
    """The old secret ends, its successor works until it is revoked."""
    account, _ = await shared.customer()
    old = await run(shared, "key", "create", "--account", account, "--name", "old")
    assert await served(shared, old["key"])
    new = await run(shared, "key", "rotate", old["id"])
    assert await served(shared, new["key"])
    await refused(shared, old["key"])
    await run(shared, "key", "revoke", new["id"])
    await refused(shared, new["key"])


async def served(shared: Service, key: str) -> bool:
    async with openai.AsyncOpenAI(base_url=shared.base_url, api_key=key, max_retries=0) as client:
        try:
            await client.models.list()
        except openai.AuthenticationError:
            return False
        return True


async def refused(shared: Service, key: str) -> None:
    """Wait until a key is refused."""
    async with asyncio.timeout(REACHED_SECONDS):
        while await served(shared, key):
            await asyncio.sleep(0.02)


async def test_audit_and_journals_are_read_right_under_traffic(shared: Service) -> None:
    """While a stream runs, every invariant holds, and its hold shows in the journal."""
    account, key = await shared.customer()
    async with openai.AsyncOpenAI(base_url=shared.base_url, api_key=key, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "[[simulate: slow=0.1, tokens=30]]"}],
            stream=True,
        )
        await anext(aiter(stream))
        results, journal = await asyncio.gather(run(shared, "audit"), run(shared, "journal", "inspect"))
        assert len(results) >= 10
        assert all(result["ok"] for result in results)
        assert [hold["account_id"] for hold in journal["open_holds"]].count(account) == 1
        await stream.close()
    assert await run(shared, "journal", "verify")
    records = await run(shared, "journal", "inspect", "--records")
    assert {"session", "price", "place", "end"} <= {record["record"] for record in records}


async def test_what_a_running_service_forbids_is_told(shared: Service) -> None:
    """A second service on the same data directory or the same port, each in one line."""
    status, line = await failing(shared, "serve", "--listen", "127.0.0.1:0")
    assert status == 1
    assert "is in use by process" in line
    assert (await run(shared, "check-config"))["admin_token"] == "**********"
    assert (await run(shared, "migrate")) == {"applied": []}
    assert (await run(shared, "version"))["version"]


async def test_errors_are_one_line_with_the_right_status(shared: Service) -> None:
    """1 where it failed, 2 where the command was wrong."""
    nobody = str(uuid4())
    for status, words in (
        (1, ("credit", "balance", "--account", nobody)),
        (1, ("credit", "grant", "--account", nobody, "--amount", "1")),
        (1, ("key", "create", "--account", nobody, "--name", "k")),
        (1, ("key", "revoke", nobody)),
        (1, ("key", "rotate", nobody)),
        (1, ("user", "create", "--account", nobody, "--name", "u")),
        (1, ("explain", nobody)),
        (1, ("price", "show", "sim-unpriced-1")),
        (2, ("explain", "nothing")),
        (2, ("credit", "grant", "--account", nobody, "--amount", "0")),
        (2, ("key", "create", "--account", nobody, "--name", "k", "--operation", "chatt")),
        (2, ("key", "create", "--account", nobody, "--name", "k", "--highest-request", "0")),
        (2, ("key", "create", "--account", nobody, "--name", "k", "--expires-at", "tomorrow")),
        (2, ("key", "create", "--account", nobody, "--name", "k", "--expires-at", "2030-01-01")),
    ):
        found, line = await failing(shared, *words)
        assert (found, line.startswith("meterproxy: ")) == (status, True), line
