"""The supervisor: starts a host's parts in stages, keeps them running, and ends them in the opposite order.

Rules
-----
- A stage is started when the one before it serves; at the end the last stage goes first, and each is gone before the
  next one is told to.
- A part that ends by itself is started again, at once and then ever less eagerly, until it has lived for a while.
- The first SIGTERM, SIGINT or SIGHUP ends everything in order, each further one hastens what is ending right now;
  when `run` returns, nothing is left.
- The death of the supervisor itself is noticed by its children (`parent`); PostgreSQL is ended by the next start.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from meterproxy.errors import StartFailed
from meterproxy.runtime.part import ChildPart, ChildSpec, Part

FIRST_DELAY_SECONDS: Final = 0.1
LONGEST_DELAY_SECONDS: Final = 10.0
STABLE_SECONDS: Final = 30.0

_log = logging.getLogger(__name__)


class ParentPipe:
    """A pipe whose end to write nobody but this process holds: children see it end when this process does."""

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe()

    def close(self) -> None:
        """Let it end on purpose."""
        os.close(self.read_end)
        os.close(self._write_end)


class Backoff:
    """How long to wait before a part is started again: doubling, and forgotten once a part has lived long enough."""

    def __init__(self) -> None:
        self._delay_seconds = 0.0

    def next_delay_seconds(self, lived_seconds: float) -> float:
        """The wait after a life of that length."""
        if lived_seconds >= STABLE_SECONDS:
            self._delay_seconds = 0.0
        self._delay_seconds = min(max(FIRST_DELAY_SECONDS, self._delay_seconds * 2), LONGEST_DELAY_SECONDS)
        return self._delay_seconds


class Supervisor:
    """Runs stages of parts until a signal or `stop`.

    Args:
        stages: what to start, in order; the parts of one stage start and end together. A stage may be a function that
            makes its parts when its turn comes, knowing what earlier stages have found out (a database's URL).
        on_ready: called when everything serves for the first time.
        on_stopping: called when the end begins, before any part is told (closes the listening sockets).
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Part | ChildSpec] | Callable[[], Sequence[Part | ChildSpec]]],
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_stopping: Callable[[], None] = lambda: None,
    ) -> None:
        self._stages = stages
        self._on_ready = on_ready
        self._on_stopping = on_stopping
        self._pipe = ParentPipe()
        self._started: list[list[Part]] = []
        self._ending: list[Part] = []
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin the end, or hasten what is ending; what a signal does."""
        if not self._stopping.is_set():
            self._stopping.set()
            return
        for part in self._ending:
            part.hasten()

    async def run(self) -> None:
        """Start everything, keep it running, and end it; returns when nothing is left.

        Raises:
            StartFailed: a part did not start the first time; everything was ended again.
        """
        with self._signals():
            keepers: list[asyncio.Task[None]] = []
            try:
                if await self._unless_stopped(self._start_all()):
                    keepers = [asyncio.create_task(self._keep(part)) for stage in self._started for part in stage]
                    self._on_ready()
                    await self._stopping.wait()
            finally:
                self._stopping.set()
                self._on_stopping()
                await _cancelled(keepers)
                await self._end_all()
                self._pipe.close()

    async def _start_all(self) -> None:
        for stage in self._stages:
            made = stage() if callable(stage) else stage
            parts = [ChildPart(part, self._pipe.read_end) if isinstance(part, ChildSpec) else part for part in made]
            self._started.append(parts)
            starts = [asyncio.create_task(part.start()) for part in parts]
            try:
                await asyncio.gather(*starts)
            finally:
                await _cancelled(starts)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do the work; False if the end began before it was done."""
        doing, stopping = asyncio.create_task(work), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                doing.result()
                return not self._stopping.is_set()
            return False
        finally:
            await _cancelled([doing, stopping])

    async def _keep(self, part: Part) -> None:
        """Start a part again whenever it has ended."""
        backoff, clock = Backoff(), asyncio.get_running_loop()
        began = clock.time()
        what = f"{part.name} {await part.ended()}"
        while True:
            delay_seconds = backoff.next_delay_seconds(clock.time() - began)
            _log.error("%s; starting it again in %g s", what, delay_seconds)
            await asyncio.sleep(delay_seconds)
            began = clock.time()
            try:
                await part.start()
                _log.info("%s is running again", part.name)
                what = f"{part.name} {await part.ended()}"
            except StartFailed as error:
                what = str(error)
            except Exception as error:  # noqa: BLE001 - whatever keeps a part from starting, it is tried again
                what = f"{part.name} could not be started: {error!r}"

    async def _end_all(self) -> None:
        for stage in reversed(self._started):
            self._ending = stage
            ends = await asyncio.gather(*(part.stop() for part in stage), return_exceptions=True)
            for part, failure in zip(stage, ends, strict=True):
                if isinstance(failure, BaseException):
                    _log.error("%s could not be ended: %r", part.name, failure)
        self._ending = []

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # not under nohup
            numbers.append(signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


async def _cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
