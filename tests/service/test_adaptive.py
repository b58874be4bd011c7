"""Adaptive holds on a running service, with OpenAI's SDK: small credits, long streams, many at once, a kill."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
import yaml

from tests import postgres
from tests.service.running import Service, kill, service, until, until_asked

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "gpt-4o-mini"
EXPOSURE_NANOS = 40_000_000
CREDIT = "0.002"
CREDIT_NANOS = 2_000_000
"""A sixth of what an answer of sixteen thousand tokens may cost."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def adaptive() -> AsyncIterator[Service]:
    """A service with two workers whose holds are adaptive."""
    with postgres.reachable_directory() as directory:
        config = directory / "config.yaml"
        settings = {"workers": 2, "hold": {"policy": "adaptive"}, "adaptive": {"exposure": "0.04"}}
        provider = {"openai": {"base_url": "${OPENAI_BASE_URL}", "api_key": "sk-provider"}}
        config.write_text(yaml.safe_dump({**settings, "providers": provider}))
        async with service(directory, environment={"METERPROXY_CONFIG": str(config)}) as running:
            yield running
            await running.audit()


async def streamed(running: Service, secret: str, simulate: str, **members: Any) -> tuple[str, str | None]:
    """Read a stream to its end: what it said, and why it ended."""
    body: Any = [{"role": "user", "content": f"Tell me. [[simulate: {simulate}]]"}]
    text, reason = "", None
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=secret, max_retries=0) as client:
        async for chunk in await client.chat.completions.create(
            model=MODEL, messages=body, stream=True, max_tokens=16000, **members
        ):
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reason = choice.finish_reason or reason
    return text, reason


async def exposed_nanos(running: Service, account_id: str) -> int:
    """What is lent of an account's exposure right now and not free: what running streams leave unheld."""
    (row,) = await running.rows(
        "SELECT COALESCE(sum(l.held), 0)::bigint AS held FROM leases l JOIN limits c ON c.id = l.limit_id "
        "WHERE c.kind = 'exposure' AND l.account_id = $1::uuid", account_id,
    )  # fmt: skip
    return int(row["held"])


async def test_a_small_credit_pays_for_an_answer_that_could_have_cost_more(adaptive: Service) -> None:
    """Under the other policy it would have been refused."""
    account, secret = await adaptive.customer(CREDIT)
    text, reason = await streamed(adaptive, secret, "tokens=1500")
    assert (len(text.split()) > 500, reason) == (True, "stop")
    left = await adaptive.balance_nanos(account)
    assert 0 < left < CREDIT_NANOS - 1500 * 600
    (row,) = await adaptive.rows(
        "SELECT hold_nanos, amount_nanos FROM usage_events WHERE account_id = $1::uuid", account
    )
    assert row["amount_nanos"] <= row["hold_nanos"] <= CREDIT_NANOS


async def test_a_stream_ends_where_the_credit_does(adaptive: Service) -> None:
    """As if its maximum had been reached; nothing is overspent, and what it had exposed is free again."""
    account, secret = await adaptive.customer(CREDIT)
    _, reason = await streamed(adaptive, secret, "tokens=9000", stream_options={"include_usage": True})
    assert reason == "length"
    assert 0 <= await adaptive.balance_nanos(account) < CREDIT_NANOS * 2 // 3, (
        "held by the dearest tier, charged by its own"
    )
    (row,) = await adaptive.rows("SELECT * FROM usage_events WHERE account_id = $1::uuid", account)
    assert (row["outcome"], row["overrun_nanos"]) == ("stopped_by_limit", 0)

    async def all_back() -> bool:
        return await exposed_nanos(adaptive, account) == 0

    await until_asked(all_back, "exposure that is back")


async def test_many_streams_share_a_credit_and_an_exposure(adaptive: Service) -> None:
    """Each gets what there is; together they never pass the credit."""
    account, secret = await adaptive.customer("0.01")

    async def one() -> str | None:
        try:
            return (await streamed(adaptive, secret, "tokens=4000"))[1]
        except openai.RateLimitError as error:
            return error.code

    reasons = await asyncio.gather(*(one() for _ in range(12)))
    assert set(reasons) <= {"stop", "length", "insufficient_quota", "rate_limit_exceeded"}
    assert await adaptive.balance_nanos(account) >= 0
    (row,) = await adaptive.rows(
        "SELECT sum(overrun_nanos)::bigint AS overrun FROM usage_events WHERE account_id = $1::uuid", account
    )
    assert row["overrun"] == 0


async def test_a_killed_worker_leaves_no_exposure_behind(adaptive: Service) -> None:
    """Its successor recovers the stream as it was last extended."""
    account, secret = await adaptive.customer("0.01")
    asking = asyncio.create_task(streamed(adaptive, secret, "tokens=4000,slow=0.002"))

    async def grown() -> bool:
        return await exposed_nanos(adaptive, account) > 0

    await until_asked(grown, "a stream that leaves something unheld")
    workers = adaptive.children()["mp worker"]
    for pid in workers:
        kill(pid)
    with pytest.raises(openai.APIError):
        await asking
    await until(lambda: not set(workers) & set(adaptive.children().get("mp worker", workers)), "new workers")
    await adaptive.ready()

    async def recovered() -> bool:
        return bool(await adaptive.rows("SELECT id FROM usage_events WHERE account_id = $1::uuid", account))

    await until_asked(recovered, "the row of the stream")
    (row,) = await adaptive.rows("SELECT * FROM usage_events WHERE account_id = $1::uuid", account)
    assert (row["outcome"], row["overrun_nanos"]) == ("recovered", 0)
    assert await exposed_nanos(adaptive, account) == 0
