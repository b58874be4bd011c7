"""Exchanges: all requests of one worker that are being answered, and the care for those that run too long.

Rules
-----
- Once a second, for all together: what is over its time is ended, and the progress of streams is journaled.
- At a shutdown they may end by themselves for a while; then they are told to.
"""

import asyncio
import logging
from collections.abc import Iterator
from typing import Final

from meterproxy.errors import ApiError, Case
from meterproxy.proxy.client import Client, Room
from meterproxy.proxy.exchange import Exchange
from meterproxy.proxy.house import House, Ports
from meterproxy.proxy.provider import Provider
from meterproxy.proxy.settings import ExchangeSettings

TICK_SECONDS: Final = 1.0

_log: Final = logging.getLogger(__name__)


class Exchanges:
    """All exchanges of one worker."""

    def __init__(
        self, settings: ExchangeSettings, ports: Ports, providers: tuple[Provider, ...], room: Room | None = None
    ) -> None:
        self.house = House.built(settings, ports, providers, room)
        self.open: dict[Exchange, None] = {}
        """Those that are not answered yet, the oldest first."""
        self._tick: asyncio.TimerHandle | None = None
        self._none_open: asyncio.Event | None = None

    async def run(self, client: Client) -> None:
        """Answer one request."""
        exchange = Exchange(self.house, client)
        self.open[exchange] = None
        if self._tick is None:
            self._tick = asyncio.get_running_loop().call_later(TICK_SECONDS, self._look_after)
        try:
            await exchange.run()
        finally:
            del self.open[exchange]
            if self._none_open is not None and not self.open:
                self._none_open.set()

    async def finish(self, seconds: float) -> None:
        """Wait for running exchanges; those still open after so many seconds are ended as broken."""
        if not await self._all_ended(seconds):
            self.cut_all_short(ApiError(Case.UNAVAILABLE, "The service is shutting down."))
            if not await self._all_ended(self.house.settings.count_seconds + 1.0):
                _log.error("exchanges did not end when they were told to", extra={"exchanges": len(self.open)})

    async def close(self) -> None:
        """Close all connections to providers."""
        if self._tick is not None:
            self._tick.cancel()
        for provider in self.house.router.providers:
            await provider.upstream.close()

    def cut_all_short(self, error: ApiError) -> None:
        """End every running exchange; each tells its client this error and books what was delivered."""
        for exchange in list(self.open):
            exchange.cut_short(error)

    async def _all_ended(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while self.open:  # one may have begun while the end of the last one was on its way here
                    self._none_open = asyncio.Event()
                    await self._none_open.wait()
        except TimeoutError:
            return False
        finally:
            self._none_open = None
        return True

    def _look_after(self) -> None:
        """Once a second: end what is over its time, and journal the progress of streams."""
        self._tick = None
        now_us = self.house.ports.clock.elapsed_us()
        overdue_us = now_us - int(self.house.settings.max_seconds * 1_000_000)
        for exchange in list(self._overdue(overdue_us)):
            exchange.cut_short(ApiError(Case.UPSTREAM_TIMEOUT, "The request took longer than is allowed."))
        for exchange in list(self.open):
            if exchange.relay is not None:
                exchange.relay.notice_absence()
                exchange.relay.tell_progress(now_us)
        if self.open:
            self._tick = asyncio.get_running_loop().call_later(TICK_SECONDS, self._look_after)

    def _overdue(self, before_us: int) -> Iterator[Exchange]:
        """The exchanges begun before an instant; the oldest come first, so that this costs nothing as a rule."""
        for exchange in self.open:
            if exchange.begun_us >= before_us:
                return
            yield exchange
