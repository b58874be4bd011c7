"""Side tasks: named, restarted when they fail, ended in the opposite order.

Rules
-----
- An exception of a side task is logged and the task starts again, ever less eagerly; it never ends the process.
- A side task that returns is done.
- `stop` waits until every task has really ended.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS: Final = 0.1
LONGEST_DELAY_SECONDS: Final = 10.0
_STABLE_SECONDS: Final = 30.0


class SideTasks:
    """The side tasks of one process."""

    def __init__(self, first_delay_seconds: float = FIRST_DELAY_SECONDS) -> None:
        self._first_delay_seconds = first_delay_seconds
        self._stopping = False
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work()` beside everything else, again and again until it returns."""
        self._stopping = False
        if name in self._tasks and not self._tasks[name].done():
            raise RuntimeError(f"a side task {name!r} is running already")
        self._tasks.pop(name, None)
        self._tasks[name] = asyncio.create_task(self._keep(name, work), name=name)

    async def stop(self) -> None:
        """Cancel all, the last one first, and wait for each."""
        self._stopping = True
        while self._tasks:
            _, task = self._tasks.popitem()
            task.cancel()
            await asyncio.wait((task,))

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        clock = asyncio.get_running_loop()
        delay_seconds = self._first_delay_seconds
        while True:
            began = clock.time()
            try:
                await work()
            except Exception:  # noqa: BLE001 - whatever a side task dies of, it is told and tried again
                if clock.time() - began >= _STABLE_SECONDS:
                    delay_seconds = self._first_delay_seconds
                _log.exception("side task %s failed; again in %g s", name, delay_seconds)
            else:
                return
            if self._stopping:
                return
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(delay_seconds * 2, LONGEST_DELAY_SECONDS)


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, so long at most; whether it came.

    Not by `asyncio.wait_for`, which in Python 3.11 takes being cancelled for an event that comes in the same moment.
    """
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def at_most(seconds: float, work: Awaitable[T]) -> T:
    """Wait for work so long and no longer: what is not done by then is left to end by itself, however late that is.

    Raises:
        TimeoutError: it was not done in time; what comes of it is nobody's concern.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(_heard)
    done, _ = await asyncio.wait((task,), timeout=seconds)
    if not done:
        raise TimeoutError
    return task.result()


def _heard(task: "asyncio.Future[T]") -> None:
    if not task.cancelled():
        task.exception()
