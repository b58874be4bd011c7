"""The supervisor: starts a host's parts in stages, keeps them running, and ends them in the opposite order.

Rules
-----
- A stage is started when the one before it serves; at the end the last stage goes first, and each is gone before the
  next one is told to.
- A part that ends by itself is started again (`keeping`).
- The first SIGTERM or SIGINT ends everything in order, each further one hastens what is ending right now; when `run`
  returns, nothing is left. SIGHUP does what `on_hangup` says, else the same.
- The death of the supervisor itself is noticed by its children (`parent`); PostgreSQL is ended by the next start.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from meterproxy.runtime.keeping import cancelled, keep, start_together, stop_together
from meterproxy.runtime.part import ChildPart, ChildSpec, Part


class ParentPipe:
    """A pipe whose end to write nobody but this process holds: children see it end when this process does."""

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe()

    def close(self) -> None:
        """Let it end on purpose."""
        os.close(self.read_end)
        os.close(self._write_end)


class Supervisor:
    """Runs stages of parts until a signal or `stop`.

    Args:
        stages: what to start, in order; the parts of one stage start and end together. A stage may be a function that
            makes its parts when its turn comes, knowing what earlier stages have found out (a database's URL).
        on_ready: called when everything serves for the first time.
        on_stopping: called when the end begins, before any part is told (closes the listening sockets).
        on_hangup: called for each SIGHUP; without it one ends everything like SIGTERM.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Part | ChildSpec] | Callable[[], Sequence[Part | ChildSpec]]],
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_stopping: Callable[[], None] = lambda: None,
        on_hangup: Callable[[], None] | None = None,
    ) -> None:
        self._stages = stages
        self._on_ready = on_ready
        self._on_stopping = on_stopping
        self._on_hangup = on_hangup or self.stop
        self._pipe = ParentPipe()
        self._started: list[list[Part]] = []
        self._ending: list[Part] = []
        self._stopping = asyncio.Event()

    @property
    def parent_fd(self) -> int:
        """The end to read of a pipe that ends with this process, for parts that run children of their own."""
        return self._pipe.read_end

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
                    keepers = [asyncio.create_task(keep(part)) for stage in self._started for part in stage]
                    self._on_ready()
                    await self._stopping.wait()
            finally:
                self._stopping.set()
                self._on_stopping()
                await cancelled(keepers)
                await self._end_all()
                self._pipe.close()

    async def _start_all(self) -> None:
        for stage in self._stages:
            made = stage() if callable(stage) else stage
            parts = [ChildPart(part, self._pipe.read_end) if isinstance(part, ChildSpec) else part for part in made]
            self._started.append(parts)
            await start_together(parts)

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
            await cancelled([doing, stopping])

    async def _end_all(self) -> None:
        for stage in reversed(self._started):
            self._ending = stage
            await stop_together(stage)
        self._ending = []

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self.stop, signal.SIGINT: self.stop}
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # not under nohup
            handlers[signal.SIGHUP] = self._on_hangup
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)
