"""Background responses that nobody looks at again: booked once by the poller, whatever dies on the way."""

from pathlib import Path
from typing import NamedTuple

import openai
import pytest

from tests.service.mortal import DEATHS
from tests.service.running import Service, until, until_asked

pytestmark = pytest.mark.asyncio(loop_scope="session")

MODEL = "gpt-4o-mini"


class Death(NamedTuple):
    """Where the worker dies, in turn, while a background response is made and polled; how its hold ends, and whether its
    client has got the response's id."""

    points: tuple[str, ...]
    ending: str
    known: bool


DEATHS_AND_ENDINGS = [
    Death((), "captured", True),
    Death(("before_deferral",), "recovered", False),
    Death(("after_deferral",), "captured", False),
    Death(("deferral_before_commit",), "captured", True),
    Death(("deferral_after_commit",), "captured", True),
    Death(("before_durable_ending",), "captured", True),
    Death(("after_durable_ending",), "captured", True),
    Death(("before_commit",), "captured", True),
    Death(("after_commit",), "captured", True),
    Death(("after_deferral", "before_durable_ending", "after_commit"), "captured", False),
]


@pytest.mark.parametrize("death", DEATHS_AND_ENDINGS, ids=lambda death: "-".join(death.points) or "nowhere")
async def test_what_nobody_looks_at_is_booked_once(mortal: Service, death: Death) -> None:
    """One row, what it cost off the balance, nothing held any more, and every invariant holds."""
    account, key = await mortal.customer("1.00")
    deaths = Path(mortal.environment[DEATHS])
    for point in death.points:
        (deaths / point).touch()
    async with openai.AsyncOpenAI(base_url=mortal.base_url, api_key=key, max_retries=0) as client:
        try:
            made = await client.responses.create(model=MODEL, input="Hi", background=True)
        except openai.APIConnectionError:
            made = None
    if death.known:
        assert made is not None
    rows = []

    async def booked() -> bool:
        rows[:] = await mortal.rows("SELECT * FROM usage_events WHERE account_id = $1", account)
        return bool(rows)

    await until_asked(booked, "the row")
    await until(lambda: not any(deaths.iterdir()), "the last death")
    await mortal.ready()
    assert [row["ending"] for row in rows] == [death.ending]
    assert (rows[0]["amount_nanos"] > 0, rows[0]["overrun_nanos"]) == (True, 0)
    shown = await mortal.admin("GET", f"/admin/accounts/{account}?fresh=1", status=200)
    assert (shown["balance_nanos"], shown["held_nanos"]) == (10**9 - rows[0]["amount_nanos"], 0)
    holds = await mortal.rows("SELECT state FROM durable_holds WHERE account_id = $1", account)
    assert [hold["state"] for hold in holds] == ([] if death.ending == "recovered" else ["captured"])
    assert len(await mortal.rows("SELECT FROM usage_events WHERE account_id = $1", account)) == 1
    await mortal.invariants()
