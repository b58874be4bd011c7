"""Keeping: what ends by itself is started again, at once and then ever less eagerly, until it has lived for a while."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

from meterproxy.errors import StartFailed
from meterproxy.runtime.part import Part

FIRST_DELAY_SECONDS: Final = 0.1
LONGEST_DELAY_SECONDS: Final = 10.0
STABLE_SECONDS = 30.0

_log = logging.getLogger(__name__)


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


async def keep(part: Part) -> None:
    """Start a part again whenever it has ended; for ever."""
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


async def start_together(parts: Sequence[Part]) -> None:
    """Start parts at the same time; where one cannot, the others' starts are given up. Raises StartFailed."""
    starts = [asyncio.create_task(part.start()) for part in parts]
    try:
        await asyncio.gather(*starts)
    finally:
        await cancelled(starts)


async def stop_together(parts: Sequence[Part]) -> None:
    """End parts at the same time; one that cannot be ended is told of and keeps no other from its end."""
    ends = await asyncio.gather(*(part.stop() for part in parts), return_exceptions=True)
    for part, failure in zip(parts, ends, strict=True):
        if isinstance(failure, BaseException):
            _log.error("%s could not be ended: %r", part.name, failure)


async def cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until each has ended; whoever is cancelled as he waits is cancelled.

    What they failed of is nobody's concern any more.
    """
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
