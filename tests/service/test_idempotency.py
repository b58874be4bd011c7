"""Idempotency-Key with OpenAI's own SDK against a whole meterproxy, whose worker dies at the worst moments."""

import asyncio
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import httpx2
import openai
import pytest

from meterproxy.store.idempotency import reverse_replaced
from meterproxy.store.pool import open_pool
from tests.service.load import Customer, amount_of, customer
from tests.service.mortal import DEATHS
from tests.service.running import POLL_SECONDS, Service, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

MODEL = "gpt-4o-mini"
HELLO = [{"role": "user", "content": "Say hello."}]


def sdk(mortal: Service, who: Customer, retries: int = 0) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=mortal.base_url, api_key=who.secret, max_retries=retries)


async def ask(client: openai.AsyncOpenAI, key: str, *, stream: bool = False, tokens: int = 12) -> tuple[str, int]:
    """The text of an answer, and what it must have cost."""
    headers = {"Idempotency-Key": key}
    if not stream:
        answer = await client.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=tokens, extra_headers=headers
        )
        assert answer.usage is not None
        return answer.id, amount_of(answer.usage.model_dump())
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            max_tokens=tokens,
            extra_headers=headers,
            stream=True,
            stream_options={"include_usage": True},
        )
    ]
    usage = chunks[-1].usage
    assert usage is not None
    return "".join(chunk.model_dump_json() for chunk in chunks), amount_of(usage.model_dump())


@pytest.mark.parametrize("stream", [False, True])
async def test_the_sdk_gets_the_same_answer_twice_and_pays_once(mortal: Service, stream: bool) -> None:
    """One after the other, and two at the same time."""
    who = await customer(mortal)
    async with sdk(mortal, who) as client:
        first = await ask(client, "one", stream=stream)
        assert await ask(client, "one", stream=stream) == first
        together = await asyncio.gather(*(ask(client, "two", stream=stream) for _ in range(2)))
    assert together[0] == together[1] != first
    assert await mortal.balance_nanos(who.account_id) == who.credit_nanos - first[1] - together[0][1]


async def test_the_blocking_client_and_default_headers(mortal: Service) -> None:
    """A client made for one task carries its key by itself."""
    who = await customer(mortal)

    def talk() -> list[str]:
        with openai.OpenAI(base_url=mortal.base_url, api_key=who.secret) as client:
            keyed = client.with_options(default_headers={"Idempotency-Key": "task-1"})
            return [
                keyed.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=9).id for _ in range(2)
            ]  # fmt: skip

    first, second = await asyncio.to_thread(talk)
    assert first == second


async def test_the_sdk_is_told_of_a_key_that_was_used_for_something_else(mortal: Service) -> None:
    """As the exception that it has for it, and at once: it does not try again."""
    who = await customer(mortal)
    async with sdk(mortal, who, retries=3) as client:
        await ask(client, "one")
        with pytest.raises(openai.ConflictError) as raised:
            await ask(client, "one", tokens=13)
    assert raised.value.code == "conflict"


async def test_another_account_does_not_see_what_is_kept(mortal: Service) -> None:
    """The same key and body of somebody else is another request."""
    answers = []
    for _ in range(2):
        async with sdk(mortal, await customer(mortal)) as client:
            answers.append((await ask(client, "one"))[0])
    assert answers[0] != answers[1]


class Death(NamedTuple):
    """Where the worker dies; whether the provider is then asked again, and whether a charge is to be given back."""

    point: str
    stream: bool
    again: bool
    reversed: bool


DEATHS_AND_RETRIES = [
    Death("key_claimed", False, True, False),
    Death("first_byte_forwarded", True, True, True),
    Death("last_byte", False, True, True),
    Death("before_answer_kept", True, True, True),
    Death("after_answer_kept", True, False, False),
]


@pytest.mark.parametrize("death", DEATHS_AND_RETRIES, ids=lambda death: f"{death.point}-{death.stream}")
async def test_a_retry_after_the_workers_death_is_charged_once(mortal: Service, death: Death) -> None:
    """`kill -9` between the first try and the next: one answer, one charge that stays, clean books."""
    who, key = await customer(mortal), uuid4().hex
    worker = mortal.worker()
    (Path(mortal.environment[DEATHS]) / death.point).touch()
    async with sdk(mortal, who) as client:
        first = await _attempted(client, key, stream=death.stream)
        await until(lambda: not any(Path(mortal.environment[DEATHS]).iterdir()), "the death")
        await mortal.replaced(worker)
        called = await mortal.provider_calls()
        answer, amount = await ask(client, key, stream=death.stream)
        assert await ask(client, key, stream=death.stream) == (answer, amount)
    assert await mortal.provider_calls() - called == death.again
    if not death.again:
        assert (answer, amount) == first
    await check_charged_once(mortal, who, amount, reversals=int(death.reversed))


async def test_the_sdks_own_retries_hide_the_workers_death(mortal: Service) -> None:
    """It keeps the key from one try to the next: its user sees one answer, and is soon charged for one."""
    who = await customer(mortal)
    worker = mortal.worker()
    (Path(mortal.environment[DEATHS]) / "after_ending").touch()
    async with sdk(mortal, who, retries=8) as client:
        _, amount = await ask(client, "one")
    await mortal.replaced(worker)
    while not await reversals_of(mortal, who):
        await asyncio.sleep(POLL_SECONDS)
    assert await mortal.balance_nanos(who.account_id) == who.credit_nanos - amount


async def _attempted(client: openai.AsyncOpenAI, key: str, *, stream: bool) -> tuple[str, int] | None:
    try:
        return await ask(client, key, stream=stream)
    except (openai.APIError, httpx2.HTTPError):
        return None


async def check_charged_once(mortal: Service, who: Customer, amount: int, reversals: int) -> None:
    """What stays charged is the answer that came; everything else was given back by an entry."""
    await mortal.balance_nanos(who.account_id)
    pool = await open_pool(mortal.dsn(), size=1)
    try:
        await pool.execute("UPDATE replaced_requests SET next_look_at = now() WHERE state = 'pending'")
        await reverse_replaced(pool)
    finally:
        await pool.close()
    assert await mortal.balance_nanos(who.account_id) == who.credit_nanos - amount
    assert await reversals_of(mortal, who) == ["refund"] * reversals
    await mortal.invariants()


async def reversals_of(mortal: Service, who: Customer) -> list[str]:
    entries = await mortal.rows(
        "SELECT kind FROM ledger_entries WHERE account_id = $1::uuid AND reverses IS NOT NULL", who.account_id
    )
    return [entry["kind"] for entry in entries]
