"""Side tasks: restarted, and ended in order."""

import asyncio
import logging

import pytest

from meterproxy.runtime.tasks import SideTasks, at_most, set_within


async def test_failing_task_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    """An exception is logged under the task's name, and the task goes on until it returns."""
    runs, done = 0, asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise ValueError("not yet")
        done.set()

    tasks = SideTasks(first_delay_seconds=0)
    with caplog.at_level(logging.ERROR):
        tasks.start("settle", work)
        await done.wait()
    assert [entry.getMessage() for entry in caplog.records] == ["side task settle failed; again in 0 s"] * 2
    await tasks.stop()


async def test_the_last_ends_first() -> None:
    """Tasks end in the opposite order of their start, each before the next is told."""
    ended: list[str] = []
    running = [asyncio.Event(), asyncio.Event()]

    def work(name: str, started: asyncio.Event):
        async def run() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append(name)

        return run

    tasks = SideTasks()
    tasks.start("first", work("first", running[0]))
    tasks.start("second", work("second", running[1]))
    await asyncio.gather(*(event.wait() for event in running))
    await tasks.stop()
    assert ended == ["second", "first"]


async def test_a_name_runs_once() -> None:
    """Two side tasks of one name would be a mistake of ours."""
    tasks = SideTasks()
    tasks.start("settle", asyncio.Event().wait)
    with pytest.raises(RuntimeError, match="'settle' is running"):
        tasks.start("settle", asyncio.Event().wait)
    await tasks.stop()


async def test_stopping_twice_and_failing_last() -> None:
    """A task that fails while it is ended keeps neither the others nor the caller from ending."""
    running = asyncio.Event()

    async def stubborn() -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("at the very end")

    tasks = SideTasks(first_delay_seconds=1000)
    tasks.start("stubborn", stubborn)
    await running.wait()
    async with asyncio.timeout(20):
        await tasks.stop()
        await tasks.stop()


async def test_waiting_ends_in_time_and_the_work_goes_on() -> None:
    """What is late ends by itself; what it comes to, even an error, is nobody's concern."""
    go_on, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go_on.wait()
        done.set()
        raise ValueError

    with pytest.raises(TimeoutError):
        await at_most(0.0, work())
    go_on.set()
    await done.wait()


async def test_waiting_for_an_event_says_whether_it_came() -> None:
    """In time, too late, or before."""
    event = asyncio.Event()
    assert not await set_within(event, 0.0)
    asyncio.get_running_loop().call_soon(event.set)
    assert await set_within(event, 60.0)
    assert await set_within(event, 0.0)


async def test_who_is_cancelled_as_the_event_comes_is_cancelled() -> None:
    """Else what stops a task would wait for it for ever."""
    event = asyncio.Event()
    waiting = asyncio.create_task(set_within(event, 60.0))
    await asyncio.sleep(0)
    event.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_work_that_is_in_time_answers_as_it_would_by_itself() -> None:
    """Its result and its errors arrive."""

    async def work(divisor: int) -> int:
        return 6 // divisor

    assert await at_most(60.0, work(2)) == 3
    with pytest.raises(ZeroDivisionError):
        await at_most(60.0, work(0))
