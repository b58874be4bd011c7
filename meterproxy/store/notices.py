"""Notices: hear at once that something was changed, on a connection of its own.

Rules
-----
- A notice says only that there is news; what it is, whoever waits reads as it always does. So a notice that gets lost,
  or a connection that does, costs the time until the next look and nothing else: nothing may rely on being noticed.
- It needs a session with PostgreSQL: behind a pooler that lends connections by the transaction it must go around that.
"""

import asyncio
import logging
from typing import Any, Final

from meterproxy.errors import StoreUnavailable
from meterproxy.runtime.tasks import set_within
from meterproxy.store.connector import Connector
from meterproxy.store.pool import translated

CHANNEL: Final = "meterproxy_changes"
FIRST_RETRY_SECONDS: Final = 0.5
LONGEST_RETRY_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 5.0
BREATH_SECONDS: Final = 0.05
"""How long who has just looked does not look again, however many notices come: a fleet is changed in bursts."""

_log: Final = logging.getLogger(__name__)


class Notices:
    """Listens for changes in PostgreSQL at `dsn`."""

    def __init__(self, dsn: str) -> None:
        self._connect = Connector(dsn)
        self._news = asyncio.Event()

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until there is news."""
        breath = min(BREATH_SECONDS, seconds)
        await asyncio.sleep(breath)
        await set_within(self._news, seconds - breath)
        self._news.clear()

    async def keep_heard(self) -> None:
        """Listen for ever; where the connection is lost connect again, the longer it takes the less often."""
        retry_seconds = FIRST_RETRY_SECONDS
        while True:
            try:
                await self._listen()
                retry_seconds = FIRST_RETRY_SECONDS
            except StoreUnavailable as error:
                _log.debug("notices of changes are not heard", extra={"error": str(error)})
                retry_seconds = min(2 * retry_seconds, LONGEST_RETRY_SECONDS)
            await asyncio.sleep(retry_seconds)

    async def _listen(self) -> None:
        """Listen until the connection ends. Raises StoreUnavailable where there is none to be had."""
        over = asyncio.Event()
        with translated():
            connection = await self._connect(
                timeout=CONNECT_SECONDS, server_settings={"application_name": "meterproxy"}
            )
        try:
            with translated():
                connection.add_termination_listener(lambda _connection: over.set())
                await connection.add_listener(CHANNEL, self._noticed)
            self._news.set()  # what happened until now was not heard
            await over.wait()
        finally:
            connection.terminate()

    def _noticed(self, *_notice: Any) -> None:
        self._news.set()
