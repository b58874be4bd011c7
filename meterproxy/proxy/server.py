"""The HTTP server: who answers what, and the care for all connections.

Rules
-----
- Requests under `/v1/`, reports aside, go to the exchange as they are; everything else goes to the handler that
  `service` hands in, as aiohttp's own request.
- One sweep looks after the deadlines of all connections.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from meterproxy.proxy.client import Client, Room
from meterproxy.proxy.client_connection import ClientConnection
from meterproxy.proxy.other_request import OtherRequests
from meterproxy.proxy.server_limits import ServerLimits

DATA_PLANE: Final = "/v1/"
REPORTS: Final = "/v1/organization/"
"""What below it is no request to a provider."""
OTHER_BODIES_BYTES: Final = 32 << 20
"""Memory that the bodies of all requests outside of the data plane may take together."""
CUT_SECONDS: Final = 1.0
"""How long what was cut at a shutdown may take to end."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Who answers what: `exchange` the data plane (it never raises), `other` all the rest.

    `admit` raises ApiError for what `other` would refuse by its head alone, before a body is read.
    """

    exchange: Callable[[Client], Awaitable[None]]
    other: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
    admit: Callable[[web.BaseRequest], object]


class HttpServer:
    """Makes a connection for each client that a listening socket accepts: `loop.create_server(HttpServer(…))`."""

    def __init__(self, dispatch: Dispatch, limits: ServerLimits | None = None, room: Room | None = None) -> None:
        self.limits = limits or ServerLimits()
        self.draining = False
        self.connections: set[ClientConnection] = set()
        self._exchange = dispatch.exchange
        self._others = OtherRequests(dispatch.other, dispatch.admit, room or Room(OTHER_BODIES_BYTES))
        self._sweeping: asyncio.TimerHandle | None = None
        self._none_open: asyncio.Event | None = None

    def __call__(self) -> ClientConnection:
        return ClientConnection(self)

    def handle(self, client: Client) -> Awaitable[None]:
        """Have one request answered by whoever it is for."""
        if client.target.startswith(DATA_PLANE) and not client.target.startswith(REPORTS):
            return self._exchange(client)
        return self._others.answer(client)

    def opened(self, connection: ClientConnection) -> None:
        """Look after a connection from now on."""
        self.connections.add(connection)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(self.limits.sweep_seconds, self._sweep)

    def over(self, connection: ClientConnection) -> None:
        """Forget a connection for which nothing is left to do."""
        self.connections.discard(connection)
        if self._none_open is not None and not self.connections:
            self._none_open.set()

    def _sweep(self) -> None:
        """Tell the connections whose deadline has passed."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [connection for connection in self.connections if connection.deadline < now]:
            connection.overdue(now)
        self._sweeping = loop.call_later(self.limits.sweep_seconds, self._sweep) if self.connections else None

    def drain(self) -> None:
        """Ask every connection to end after its running request; the others end now."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain()

    async def linger(self, seconds: float) -> None:
        """Let connections go on for so long, each until its next answer, which says that it is the last one."""
        self.draining = True
        await self._all_over(seconds)

    async def shutdown(self, seconds: float) -> None:
        """Wait so long for the connections to end, then cut them."""
        self.drain()
        if not await self._all_over(seconds):
            for connection in list(self.connections):
                connection.cut()
            await self._all_over(CUT_SECONDS)
        if self._sweeping is not None:
            self._sweeping.cancel()

    async def _all_over(self, seconds: float) -> bool:
        if not self.connections:
            return True
        self._none_open = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await self._none_open.wait()
        except TimeoutError:
            return False
        return True
