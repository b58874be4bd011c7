"""Usage that did not pass here, on a running service whose workers are killed while they book it."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from tests.service.load import INPUT_NANOS, MODEL, OUTPUT_NANOS, Customer, check_books, customer
from tests.service.mortal import DEATHS
from tests.service.running import Service, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

AMOUNT = 1000 * INPUT_NANOS + 10 * OUTPUT_NANOS
AGAIN_SECONDS = 0.2
"""How long somebody waits who is told to come again; the claim of a dead worker ends after a minute, or at once below."""


async def told(running: Service, who: Customer, event_id: str, **members: Any) -> tuple[int, Any]:
    """One call, with the answer; raises aiohttp.ClientError where there is none."""
    event = {"event_id": event_id, "model": MODEL, "input_tokens": 1000, "output_tokens": 10, **members}
    headers = {"Authorization": f"Bearer {who.secret}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{running.origin}/api/usage/log", json=event, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


async def told_in_the_end(running: Service, who: Customer, event_id: str) -> Any:
    """As somebody does it who wants an answer: again and again, for as long as he is told to."""
    while True:
        try:
            status, answer = await told(running, who, event_id)
        except aiohttp.ClientError:
            status, answer = 503, None
        if status == 200:
            return answer
        assert status in {409, 503}, answer
        await running.rows("UPDATE logged_events SET claimed_until = now() WHERE account_id = $1::uuid", who.account_id)
        await asyncio.sleep(AGAIN_SECONDS)


@pytest.mark.parametrize("death", ["hold_placed", "before_ending", "after_ending", "before_commit", "after_commit"])
async def test_a_worker_that_is_killed_has_logged_it_once_or_not_at_all(mortal: Service, death: str) -> None:
    """Whoever tells it until he is answered finds it charged once; whoever does not is never charged by recovery."""
    who, event_id = await customer(mortal), uuid4().hex
    status, first = await told(mortal, who, "before")
    assert (status, first["amount_nanos"]) == (200, AMOUNT)
    worker, armed = mortal.worker(), Path(mortal.environment[DEATHS]) / death
    armed.touch()
    with pytest.raises(aiohttp.ClientError):
        await told(mortal, who, event_id)
    await until(lambda: not armed.exists(), "the death")
    await mortal.replaced(worker)
    logged = await told_in_the_end(mortal, who, event_id)
    assert await told(mortal, who, event_id) == (200, logged)
    assert await told(mortal, who, "before") == (200, first)
    assert (await told(mortal, who, event_id, output_tokens=11))[0] == 409
    assert await check_books(mortal, [who], []) == {"captured": 2}
    assert await mortal.balance_nanos(who.account_id) == who.credit_nanos - 2 * AMOUNT
