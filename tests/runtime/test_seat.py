"""A seat with real processes: who dies is followed, who is replaced leaves when its successor serves."""

import asyncio
import os
import signal
import sys

import pytest

from meterproxy.errors import StartFailed
from meterproxy.runtime.part import ChildPart, ChildSpec
from meterproxy.runtime.seat import Seat
from meterproxy.runtime.supervisor import ParentPipe

SERVES = "import signal; from meterproxy.runtime import parent; parent.say_ready(); signal.pause()"
REFUSES = "from meterproxy.runtime import parent; parent.say_failed('no room')"


class House:
    """Makes children of one program after the other, and remembers who was released."""

    def __init__(self, *programs: str) -> None:
        self.programs = list(programs)
        self.pipe = ParentPipe()
        self.made: list[ChildPart] = []
        self.released: list[ChildPart] = []
        self.seat = Seat("a seat", self._make, self.released.append)

    def _make(self) -> ChildPart:
        spec = ChildSpec("child", (sys.executable, "-c", self.programs.pop(0)), leave_signal=signal.SIGUSR1)
        self.made.append(ChildPart(spec, self.pipe.read_end))
        return self.made[-1]


async def test_who_dies_is_started_again() -> None:
    """The seat says how its child ended, and the next start runs the same one."""
    house = House(SERVES)
    await house.seat.start()
    first = house.made[0].pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert await house.seat.ended() == "was ended by SIGKILL"
    await house.seat.start()
    assert house.made[0].pid != first
    await house.seat.start()
    await house.seat.stop()
    assert set(house.released) == {house.made[0]}


async def test_a_successor_serves_before_the_old_one_leaves() -> None:
    """Being replaced is no end of the seat; the end of the new one is, though the old one may still be there."""
    house = House(SERVES, SERVES)
    await house.seat.start()
    ended = asyncio.create_task(house.seat.ended())
    await asyncio.sleep(0)
    await house.seat.replace()
    old, new = house.made
    assert await old.ended() == "was ended by SIGUSR1"
    assert new.running
    assert new.pid is not None
    os.kill(new.pid, signal.SIGKILL)
    assert await ended == "was ended by SIGKILL"
    await house.seat.stop()
    assert house.released.count(old) == 1
    assert not any(child.running for child in house.made)


async def test_whoever_waits_for_a_seats_end_may_be_cancelled_while_it_is_changed() -> None:
    """In whatever turn of the loop that falls; else the end of the service would wait for that wait for ever."""
    house = House(SERVES)
    await house.seat.start()
    for turns in range(8):
        ended = asyncio.create_task(house.seat.ended())
        await asyncio.sleep(0)
        house.seat._changed.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        ended.cancel()
        done, _ = await asyncio.wait((ended,), timeout=10)
        assert done, f"cancelled after {turns} turns, it waits on"
        assert ended.cancelled()
    await house.seat.stop()


async def test_a_successor_that_cannot_start_changes_nothing() -> None:
    """It is told why, the old one goes on, and what was kept for the new one is free again."""
    house = House(SERVES, REFUSES)
    await house.seat.start()
    with pytest.raises(StartFailed, match="no room"):
        await house.seat.replace()
    assert house.released == [house.made[1]]
    assert house.made[0].running
    await house.seat.leave()
    assert set(house.released) == set(house.made)
    assert not house.made[0].running
