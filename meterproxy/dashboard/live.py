"""Live: tells the pages that are open when an account's books have moved, by server-sent events.

One look at the database a second for all accounts that anybody watches, not one for each page.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

from aiohttp import web

from meterproxy.control.access import Permission
from meterproxy.control.call import Call, Services
from meterproxy.control.route import Route
from meterproxy.errors import ApiError, Case, StoreUnavailable

LOOK_SECONDS: Final = 1.0
QUIET_SECONDS: Final = 15.0
"""How long nothing may be said: what lies between would take the connection for dead."""
MOST_WATCHERS: Final = 512
MOST_OF_ACCOUNT: Final = 64
"""So that nobody takes all of them."""

Look = Callable[[Sequence[UUID]], Awaitable[Mapping[UUID, tuple[int, ...]]]]
"""What may change of some accounts."""


class Live:
    """The pages that are open at one worker."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._watching: dict[UUID, set[asyncio.Event]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    async def watch(self, account_id: UUID, request: web.BaseRequest) -> web.StreamResponse:
        """Say `changed` whenever the account has, until the page or the worker goes. Raises ApiError OVERLOADED."""
        of_account = len(self._watching.get(account_id, ()))
        if of_account >= MOST_OF_ACCOUNT or sum(map(len, self._watching.values())) >= MOST_WATCHERS:
            raise ApiError(Case.OVERLOADED, "Too many pages are open right now.")
        moved = asyncio.Event()
        self._watching.setdefault(account_id, set()).add(moved)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._keep_looking(), name="live")
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        try:
            await response.prepare(request)
            await response.write(b"retry: 2000\n\n")
            while not self._closed.is_set():
                await response.write(await self._next(moved))
        finally:
            self._watching[account_id].discard(moved)
            if not self._watching[account_id]:
                del self._watching[account_id]
        return response

    def close(self) -> None:
        """Let all pages go: they come again, to another worker."""
        self._closed.set()
        for watchers in self._watching.values():
            for moved in watchers:
                moved.set()
        if self._looking is not None:
            self._looking.cancel()

    async def _next(self, moved: asyncio.Event) -> bytes:
        try:
            async with asyncio.timeout(QUIET_SECONDS):
                await moved.wait()
        except TimeoutError:
            return b": still here\n\n"
        moved.clear()
        return b"event: changed\ndata: {}\n\n"

    async def _keep_looking(self) -> None:
        seen: dict[UUID, tuple[int, ...]] = {}
        while self._watching:
            with contextlib.suppress(StoreUnavailable):
                found = await self._look(list(self._watching))
                for account_id, state in found.items():
                    if seen.get(account_id, state) != state:
                        for moved in self._watching.get(account_id, ()):
                            moved.set()
                seen = dict(found)
            await asyncio.sleep(LOOK_SECONDS)


async def _live(on: Services, call: Call) -> web.StreamResponse:
    return await on.watch(call.account_id, call.request)


ROUTES: Final[tuple[Route, ...]] = (
    Route(method="GET", path="/live", permission=Permission.READ_OWN, endpoint=_live, summary="/live", is_page=True),
)
