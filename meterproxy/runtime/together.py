"""Together: work that is done once for all who ask for it before it begins.

Who asks while it runs wants what the running one may have missed, so he shares the next one. However many ask, it never
runs more than once at a time, and at most one more waits.
"""

import asyncio
from collections.abc import Awaitable, Callable


class Together:
    """One kind of work, shared by who asks at the same time."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """Have it done from its beginning to its end; raises what it raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._running))
        await asyncio.shield(self._next)

    async def _after(self, running: asyncio.Task[None] | None) -> None:
        if running is not None:
            await asyncio.wait({running})
        self._running, self._next = self._next, None
        await self._work()
