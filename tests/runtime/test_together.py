"""Work that is shared by who asks at the same time."""

import asyncio

import pytest

from meterproxy.runtime.together import Together


class Work:
    """Counts how often it began, and ends when it is told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.may_end = asyncio.Event()

    async def __call__(self) -> None:
        self.begun += 1
        await self.may_end.wait()


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_who_asks_while_it_runs_shares_the_next_one() -> None:
    """What a running one has looked at already may be older than the question."""
    work = Work()
    together = Together(work)
    first = [asyncio.create_task(together()) for _ in range(3)]
    await settled()
    assert work.begun == 1
    later = [asyncio.create_task(together()) for _ in range(50)]
    await settled()
    assert work.begun == 1
    work.may_end.set()
    await asyncio.gather(*first, *later)
    assert work.begun == 2


async def test_one_who_leaves_keeps_no_other_from_his_answer() -> None:
    """A client that disconnects cancels its own waiting only."""
    work = Work()
    together = Together(work)
    leaves, stays = asyncio.create_task(together()), asyncio.create_task(together())
    await settled()
    leaves.cancel()
    await settled()
    assert leaves.cancelled()
    work.may_end.set()
    await stays


async def test_all_who_shared_hear_of_a_failure_and_the_next_one_tries_again() -> None:
    """One failure is not remembered."""
    outcomes = [ValueError("away"), None]

    async def work() -> None:
        await asyncio.sleep(0)
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    together = Together(work)
    heard = await asyncio.gather(together(), together(), return_exceptions=True)
    assert [str(one) for one in heard] == ["away", "away"]
    await together()
    with pytest.raises(IndexError):
        await together()
