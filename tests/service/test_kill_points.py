"""`kill -9` of the worker at every named point of an exchange's life: nothing received is missing, nothing booked twice."""

from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from tests.service.load import Whole, ask, check_books, customer
from tests.service.mortal import DEATHS
from tests.service.running import Service, until

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Death(NamedTuple):
    """Where the worker dies while it serves one request, and what must come of that request.

    `whole`: whether its client may have all of the answer (None: a race with the socket); `called`: whether the
    provider has got the request; `again`: where the successor dies while it recovers.
    """

    point: str
    stream: bool
    whole: bool | None
    called: bool
    ending: str
    again: tuple[str, ...] = ()


DEATHS_AND_ENDINGS = [
    Death("hold_placed", False, False, False, "recovered"),
    Death("hold_placed", True, False, False, "recovered"),
    Death("first_byte_received", False, False, True, "recovered"),
    Death("first_byte_forwarded", True, False, True, "recovered"),
    Death("before_ending", False, False, True, "recovered"),
    Death("before_ending", True, False, True, "recovered"),
    Death("after_ending", False, False, True, "captured"),
    Death("after_ending", True, False, True, "captured"),
    Death("before_terminal_event", True, False, True, "captured"),
    Death("terminal_event", True, True, True, "captured"),
    Death("last_byte", False, True, True, "captured"),
    Death("before_commit", False, True, True, "captured"),
    Death("after_commit", True, True, True, "captured"),
    Death("hold_placed", False, False, False, "recovered", ("recovery_replayed",)),
    Death("before_ending", True, False, True, "recovered", ("recovery_before_ending", "recovery_after_ending")),
    Death("last_byte", False, True, True, "captured", ("recovery_before_commit", "recovery_after_commit")),
    Death("terminal_event", True, True, True, "captured", ("recovery_before_proof", "recovery_after_proof")),
]


@pytest.mark.parametrize(
    "death",
    DEATHS_AND_ENDINGS,
    ids=lambda death: "-".join([death.point, *death.again]) + ("-stream" if death.stream else ""),
)
async def test_a_worker_that_dies_loses_nothing_and_books_nothing_twice(mortal: Service, death: Death) -> None:
    """One answer before, the fatal request, one answer after."""
    who = await customer(mortal)
    deaths = Path(mortal.environment[DEATHS])
    called = await mortal.provider_calls()
    async with aiohttp.ClientSession() as session:
        before = await ask(session, mortal, who, stream=False)
        assert isinstance(before, Whole)
        await mortal.balance_nanos(who.account_id)
        worker = mortal.worker()
        for point in (death.point, *death.again):
            (deaths / point).touch()
        fatal = await _attempted(session, mortal, who, death)
        await until(lambda: not any(deaths.iterdir()), "the last death")
        await mortal.replaced(worker)
        after = await ask(session, mortal, who, stream=death.stream)
    assert isinstance(after, Whole)
    assert (fatal is not None) is death.whole
    endings = await check_books(mortal, [who], [answer for answer in (before, fatal, after) if answer])
    assert endings == ({"captured": 3} if death.ending == "captured" else {"captured": 2, death.ending: 1})
    assert await mortal.provider_calls() - called == 2 + death.called


async def _attempted(session, mortal, who, death) -> Whole | None:
    try:
        answer = await ask(session, mortal, who, stream=death.stream)
    except aiohttp.ClientError:
        return None
    assert isinstance(answer, Whole)
    return answer
