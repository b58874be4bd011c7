"""Serving: what a worker does for its API, from when its ledger has recovered until its connections are drained."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from uuid import UUID

from aiohttp import web

from meterproxy.control.call import Machine
from meterproxy.core.logged import LoggedUsage
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.direct import log_usage
from meterproxy.proxy.exchanges import Exchanges
from meterproxy.proxy.models import Offer
from meterproxy.proxy.other_request import asked_instead
from meterproxy.service.siblings import Siblings
from meterproxy.store.explain import explain
from meterproxy.store.pool import Pool

CHAT_PATH: Final = "/v1/chat/completions"
FINISH_SECONDS: Final = 10.0


class Serving:
    """One worker's part in what its API answers.

    Args:
        unready: why the worker cannot serve, or None.
        settle: settles what this worker has captured.
    """

    def __init__(
        self,
        pool: Pool,
        siblings: Siblings,
        unready: Callable[[], str | None],
        settle: Callable[[], Awaitable[None]],
        markup_ppm: int,
    ) -> None:
        self._pool = pool
        self._unready = unready
        self._settle = settle
        self._exchanges: Exchanges | None = None
        self._closing = False
        self._logging: set[asyncio.Future[None]] = set()
        self.machine: Final = Machine(
            unready, siblings.exposition, siblings.settle_everywhere, self._explain, self._offers, self._chat,
            self._log, markup_ppm,
        )  # fmt: skip

    def begin(self, exchanges: Exchanges) -> None:
        """What is asked from now on can be had."""
        self._exchanges = exchanges

    async def finish(self) -> None:
        """Let what is being logged come into the journal, and nothing more."""
        self._closing = True
        if self._logging:
            await asyncio.wait(self._logging, timeout=FINISH_SECONDS)

    async def _offers(self) -> Sequence[Offer]:
        if self._exchanges is None:
            raise ApiError(Case.UNAVAILABLE, f"The service is starting: {self._unready()}.")
        house = self._exchanges.house
        return await house.models.offers(house.ports.clock.now_us())

    async def _chat(self, request: web.BaseRequest, secret: str, body: bytes) -> None:
        await asked_instead(request, CHAT_PATH, secret, body, self._open().run)

    async def _log(self, logged: LoggedUsage) -> None:
        exchanges = self._open()
        done = asyncio.get_running_loop().create_future()
        self._logging.add(done)
        try:
            await log_usage(exchanges.house, logged)
        finally:
            self._logging.discard(done)
            done.set_result(None)
        await self._settle()

    def _open(self) -> Exchanges:
        """The way to the ledger for who does not come by way of the server's connections, which are drained."""
        if self._exchanges is None or self._closing:
            raise ApiError(Case.UNAVAILABLE, "The service is starting or ending right now.")
        return self._exchanges

    async def _explain(self, request_id: UUID) -> dict[str, Any]:
        return await explain(self._pool, request_id)
