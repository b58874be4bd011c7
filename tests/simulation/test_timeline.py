"""Virtual time passes when nothing else can happen, and the same way every time."""

import asyncio
from random import Random

from tests.simulation.timeline import Loop, Timeline


def timeline_with(count: int) -> tuple[Timeline, list[Loop]]:
    timeline = Timeline(Random(1))
    loops = [Loop(timeline, str(number)) for number in range(count)]
    timeline.loops.extend(loops)
    return timeline, loops


def test_an_hour_takes_no_time() -> None:
    """Who sleeps for an hour wakes an hour later on the clock that counts, and at once on every other."""
    timeline, (loop,) = timeline_with(1)
    task = loop.create_task(asyncio.sleep(3600))
    assert timeline.run(7_200_000_000, task.done)
    assert timeline.now_us == 3_600_000_000


def test_a_stalled_process_goes_on_later() -> None:
    """What was due while a process stood still is done when it goes on; others are not held up."""
    timeline, (stalled, other) = timeline_with(2)
    first, second = stalled.create_task(asyncio.sleep(1)), other.create_task(asyncio.sleep(2))
    timeline.run(500_000)
    stalled.stall(5_000_000)
    assert timeline.run(10_000_000, second.done)
    assert timeline.now_us == 2_000_000
    assert timeline.run(10_000_000, first.done)
    assert timeline.now_us == 5_000_000


def test_what_happens_outside_happens_in_order() -> None:
    """Events of the world come at their instants, those of the same instant in the order in which they were made."""
    timeline, _ = timeline_with(0)
    happened: list[str] = []
    for delay_us, what in ((20, "c"), (10, "a"), (10, "b")):
        timeline.after(delay_us, lambda what=what: happened.append(what))  # type: ignore[misc]
    assert not timeline.run(100)
    assert happened == ["a", "b", "c"]
    assert timeline.now_us == 100


def test_an_error_that_nobody_awaits_ends_the_run() -> None:
    """Nothing goes wrong in silence."""
    timeline, (loop,) = timeline_with(1)
    loop.call_later(1, lambda: 1 // 0)
    assert not timeline.run(10_000_000)
    assert timeline.wrong
    assert "ZeroDivisionError" in loop.errors[0]
