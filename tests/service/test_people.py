"""People on a running service: the first operator, and somebody who registers, makes a key and uses it."""

import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import openai
import pytest
import pytest_asyncio

from tests import postgres
from tests.service.running import Service, service, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "correct horse battery"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_service() -> AsyncIterator[Service]:
    """A service at which anybody may register."""
    with postgres.reachable_directory() as directory:
        async with service(directory, environment={"METERPROXY_REGISTRATION": "open"}) as running:
            yield running
            await running.audit()


async def ask(running: Service, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{running.origin}{path}", json=body, headers=headers) as answer,
    ):
        return answer.status, await answer.json() if answer.content_type == "application/json" else None


async def test_the_first_operator_signs_in_as_the_start_has_said(open_service: Service) -> None:
    """With a password that is kept for its owner's eyes; he reads who did what."""
    path = open_service.data_dir / "secrets" / "operator_password"
    assert path.stat().st_mode & 0o777 == 0o600
    password = path.read_text().strip()
    await until(lambda: f"operator@localhost, password {password}" in open_service.whole_log(), "what the start says")
    status, signed = await ask(
        open_service, "POST", "/api/auth/login", {"email": "operator@localhost", "password": password}
    )
    assert status == 200
    status, log = await ask(open_service, "GET", "/api/audit?action=user.operator", token=signed["access_token"])
    assert (status, len(log["data"])) == (200, 1)


async def test_from_registering_to_a_request_with_ones_own_key(open_service: Service) -> None:
    """What the request costs is what the balance goes down by, as its owner sees it."""
    person = {"username": "Ann", "email": "ann@example.com", "password": PASSWORD}
    assert (await ask(open_service, "POST", "/api/auth/register", person))[0] == 201
    _, signed = await ask(open_service, "POST", "/api/auth/login", {k: person[k] for k in ("email", "password")})
    token = signed["access_token"]
    _, me = await ask(open_service, "GET", "/api/auth/me", token=token)
    account = me["organizations"][0]["account_id"]
    await open_service.admin(
        "POST", f"/admin/accounts/{account}/credits", {"amount": "1.00", "kind": "grant"}, status=201
    )
    status, key = await ask(open_service, "POST", "/api/keys", {"name": "laptop"}, token)
    assert status == 201
    async with openai.AsyncOpenAI(base_url=open_service.base_url, api_key=key["key"]) as client:
        answer = await client.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "Say hello."}]
        )
    assert answer.usage is not None
    cost = answer.usage.prompt_tokens * 150 + answer.usage.completion_tokens * 600
    _, balance = await ask(open_service, "GET", "/api/credits/balance?fresh=1", token=token)
    assert balance["balance_nanos"] == 1_000_000_000 - cost
    _, entries = await ask(open_service, "GET", "/api/credits/transactions", token=token)
    assert [entry["kind"] for entry in entries["data"]] == ["deduction", "grant"]
    _, by_key = await ask(open_service, "GET", "/api/credits/balance", token=key["key"])
    assert by_key["balance_nanos"] == balance["balance_nanos"]


async def test_openais_sdk_reads_usage_and_costs(open_service: Service) -> None:
    """By a key that may: what the SDK understands equals the ledger."""
    account, secret = await open_service.customer()
    reader = await open_service.admin(
        "POST", "/admin/keys", {"account_id": account, "name": "reports", "reads_usage": True}, status=201
    )
    async with openai.AsyncOpenAI(base_url=open_service.base_url, api_key=secret) as client:
        answers = [
            await client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Say hello."}])
            for model in ("gpt-4o-mini", "gpt-4o", "gpt-4o-mini")
        ]
    spent = 5_000_000_000 - await open_service.balance_nanos(account)
    start = int(time.time()) - 86_400
    async with openai.AsyncOpenAI(base_url=open_service.base_url, admin_api_key=reader["key"]) as administrator:
        usage = administrator.admin.organization.usage
        told = await usage.completions(start_time=start, group_by=["model"], bucket_width="1d")
        costs = await usage.costs(start_time=start, group_by=["line_item"])
        others = [
            await ask(start_time=start)
            for ask in (
                usage.web_search_calls, usage.file_search_calls, usage.vector_stores, usage.code_interpreter_sessions,
                usage.decisions, usage.images, usage.audio_speeches, usage.audio_transcriptions,
            )
        ]  # fmt: skip
    assert not any(bucket.results for page in others for bucket in page.data)
    results: list[Any] = [result for bucket in told.data for result in bucket.results]
    counts = [answer.usage for answer in answers if answer.usage is not None]
    assert {result.model: result.num_model_requests for result in results} == {"gpt-4o-mini": 2, "gpt-4o": 1}
    assert sum(result.input_tokens for result in results) == sum(count.prompt_tokens for count in counts)
    assert sum(result.output_tokens for result in results) == sum(count.completion_tokens for count in counts)
    amounts: list[Any] = [result for bucket in costs.data for result in bucket.results]
    assert sum(round(float(result.amount.value) * 1_000_000_000) for result in amounts) == spent
    assert {result.amount.currency for result in amounts} == {"usd"}


async def test_openais_sdk_reads_searches_that_were_run(open_service: Service) -> None:
    """By their kind, as many as providers have told of, of the requests that had any; what was not asked of a model is not there."""
    account, secret = await open_service.customer("100.00")
    reader = await open_service.admin(
        "POST", "/admin/keys", {"account_id": account, "name": "reports", "reads_usage": True}, status=201
    )
    connection = await asyncpg.connect(open_service.dsn())
    await connection.execute(
        "INSERT INTO owners (account_id, kind, id, provider, created_at) VALUES ($1, 'vector_store', 'vs_1', 'openai', now())",
        UUID(account),
    )
    await connection.close()
    web: Any = [{"type": "web_search"}]
    files: Any = [{"type": "file_search", "vector_store_ids": ["vs_1"]}]
    async with openai.AsyncOpenAI(base_url=open_service.base_url, api_key=secret) as client:
        for model, tools, calls in (
            ("gpt-4o-mini", web, 3), ("gpt-4o-mini", web + files, 5), ("gpt-4o", web, 1), ("gpt-4o", files, 0), ("gpt-4o", [], 0),
        ):  # fmt: skip
            await client.responses.create(
                model=model, input="Look.", tools=tools, max_output_tokens=99,
                extra_headers={"X-Simulate": f"calls={calls}"},
            )  # fmt: skip
    await open_service.balance_nanos(account)
    start = int(time.time()) - 86_400
    async with openai.AsyncOpenAI(base_url=open_service.base_url, admin_api_key=reader["key"]) as administrator:
        usage = administrator.admin.organization.usage
        by_kind: list[Any] = [
            await usage.web_search_calls(start_time=start, group_by=["model"]),
            await usage.file_search_calls(start_time=start),
            await usage.web_search_calls(start_time=start, models=["gpt-4o"]),
        ]
    asked = ("model", "num_requests", "num_model_requests")
    told = [
        sorted(
            tuple(getattr(result, name, None) for name in asked) for bucket in page.data for result in bucket.results
        )
        for page in by_kind
    ]
    assert told == [[("gpt-4o", 1, 1), ("gpt-4o-mini", 6, 2)], [(None, 2, None)], [(None, 1, 1)]]
    rows = await open_service.rows("SELECT other_usage FROM usage_events WHERE account_id = $1", UUID(account))
    assert sum("searches" in row["other_usage"] for row in rows) == 3, "an index has just those that had any"


async def test_the_document_is_served(open_service: Service) -> None:
    """To anybody, and it names what is there."""
    status, document = await ask(open_service, "GET", "/openapi.json")
    assert (status, document["openapi"]) == (200, "3.1.0")
    assert "/api/auth/login" in document["paths"]
