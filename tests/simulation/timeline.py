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

NEVER_US = 2**62


class Loop(asyncio.BaseEventLoop):
    """The event loop of one simulated process: without sockets, threads and waiting."""

    def __init__(self, timeline: "Timeline", name: str, drift_ppm: int = 0, boot_us: int = 0, wall_us: int = 0) -> None:
        super().__init__()
        self._selector: Any = self
        self._clock_resolution = 2e-6
        self._timeline = timeline
        self.name = name
        self.dead = False
        self.stalled_from_us = self.stalled_until_us = 0
        self._drift_ppm = drift_ppm
        self._boot_us = boot_us
        self._wall_us = wall_us
        self.errors: list[str] = []

    def __del__(self) -> None:
        """There is nothing to close."""

    def stall(self, until_us: int) -> None:
        """Stand still until an instant; who stands still already does so for longer."""
        if self.stalled_until_us <= self._timeline.now_us:
            self.stalled_from_us = self._timeline.now_us
        self.stalled_until_us = max(self.stalled_until_us, until_us)

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
            self._timeline.wrong = True
            self.errors.append(f"{context['message']}: {context.get('exception')!r}")

    def due_us(self) -> int:
        """From when on there is something to run."""
        if self._ready:  # type: ignore[attr-defined]
            return self.stalled_until_us
        if self._scheduled:  # type: ignore[attr-defined]
            due_us = int(self._scheduled[0]._when * 1e6)  # type: ignore[attr-defined]
            return max(self.stalled_until_us, due_us)
        return NEVER_US

    def step(self) -> None:
        """Run what is due, and what that leads to: processes share nothing, so nobody can come in between."""
        events._set_running_loop(self)
        try:
            self._run_once()  # type: ignore[attr-defined]
            while self._ready and not self.dead:  # type: ignore[attr-defined]
                self._run_once()  # type: ignore[attr-defined]
        finally:
            events._set_running_loop(None)


class Timeline:
    """The clock and everything that happens on it; `outside` is what happens to processes: network, faults, operators.

    A minute ends one and a half seconds after its beginning.
    """

    def __init__(self, random: Random, epoch_us: int = 1_700_000_038_500_000) -> None:
        self.now_us = 0
        self.epoch_us = epoch_us
        self.random = random
        self.loops: list[Loop] = []
        self.steps = 0
        self.wrong = False
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
        """Let things happen until an instant, until it is `done`, or until anything is wrong; answers whether it was done."""
        while not self.wrong:
            if done():
                return True
            self.steps += 1
            due_us, loop = self._following()
            outside_us = self._outside[0][0] if self._outside else NEVER_US
            following_us = min(due_us, outside_us)
            if following_us > self.now_us:
                if following_us >= until_us:
                    self.now_us = max(self.now_us, until_us)
                    return False
                self.now_us = following_us
            if outside_us <= due_us or loop is None:
                heapq.heappop(self._outside)[2]()
            else:
                loop.step()
        return False

    def _following(self) -> tuple[int, Loop | None]:
        """Which loop has something to run next, and when; of several at the same instant any."""
        first_us, following = NEVER_US, None
        for loop in self.loops:
            due_us = max(loop.due_us(), self.now_us)
            if due_us < first_us or (due_us == first_us < NEVER_US and self.random.random() < 0.5):
                first_us, following = due_us, loop
        return first_us, following
