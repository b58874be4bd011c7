"""Virtual time: the event loops of many processes on one clock, run a step at a time in an order that a seed decides.

Rules
-----
- Nothing waits. Time stands still while anything can run, and then jumps to the next instant at which something can.
- Which of the loops that can run goes next is drawn from the seed, so that every order of two processes occurs.
- A loop that is stalled does not run; its clocks go on. One that is dead never runs again.
"""

import asyncio
import heapq
from asyncio import events
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any


class Loop(asyncio.BaseEventLoop):
    """The event loop of one simulated process: without sockets, threads and waiting."""

    def __init__(self, timeline: "Timeline", name: str, drift_ppm: int = 0, boot_us: int = 0, wall_us: int = 0) -> None:
        super().__init__()
        self._selector: Any = self
        self._clock_resolution = 2e-6
        self._timeline = timeline
        self.name = name
        self.dead = False
        self.stalled_until_us = 0
        self._drift_ppm = drift_ppm
        self._boot_us = boot_us
        self._wall_us = wall_us
        self.errors: list[str] = []

    def time(self) -> float:
        return self._timeline.now_us / 1e6

    def elapsed_us(self) -> int:
        """This machine's steady clock, which began at some instant and goes a little wrong."""
        now_us = self._timeline.now_us
        return self._boot_us + now_us + now_us * self._drift_ppm // 1_000_000

    def wall_us(self) -> int:
        """What this machine believes the time of day to be."""
        return self._timeline.epoch_us + self._timeline.now_us + self._wall_us

    def select(self, _timeout: float | None) -> list[Any]:
        return []

    def _process_events(self, _events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead:
            self.errors.append(f"{context['message']}: {context.get('exception')!r}")

    def due_us(self) -> int | None:
        """From when on there is something to run, None if there is nothing."""
        if self._ready:  # type: ignore[attr-defined]
            return self.stalled_until_us
        if self._scheduled:  # type: ignore[attr-defined]
            when: float = self._scheduled[0]._when  # type: ignore[attr-defined]
            return max(int(when * 1e6), self.stalled_until_us)
        return None

    def step(self) -> None:
        """Run what is due."""
        events._set_running_loop(self)
        try:
            self._run_once()  # type: ignore[attr-defined]
        finally:
            events._set_running_loop(None)


class Timeline:
    """The clock and everything that happens on it; `outside` is what happens to processes: network, faults, operators."""

    def __init__(self, random: Random, epoch_us: int = 1_700_000_000_000_000) -> None:
        self.now_us = 0
        self.epoch_us = epoch_us
        self.random = random
        self.loops: list[Loop] = []
        self.steps = 0
        self._outside: list[tuple[int, int, Callable[[], None]]] = []
        self._number = count()

    def after(self, delay_us: int, what: Callable[[], None]) -> None:
        """Have something happen from outside all processes."""
        heapq.heappush(self._outside, (self.now_us + delay_us, next(self._number), what))

    def clear(self) -> None:
        """Let go of everything."""
        self.loops.clear()
        self._outside.clear()

    def run(self, until_us: int, done: Callable[[], bool] = lambda: False) -> bool:
        """Let things happen until an instant, or until `done`; answers whether it was done."""
        while not done():
            if self._outside and self._outside[0][0] <= self.now_us:
                heapq.heappop(self._outside)[2]()
                self.steps += 1
            elif able := self._able():
                self.steps += 1
                able[0 if len(able) == 1 else self.random.randrange(len(able))].step()
            elif not self._advance(until_us):
                return False
        return True

    def _able(self) -> list[Loop]:
        now_us = self.now_us
        return [loop for loop in self.loops if (due := loop.due_us()) is not None and due <= now_us]

    def _advance(self, until_us: int) -> bool:
        instants = [due for loop in self.loops if (due := loop.due_us()) is not None]
        if self._outside:
            instants.append(self._outside[0][0])
        following = min(instants, default=until_us)
        self.now_us = max(self.now_us, min(following, until_us))
        return following < until_us
