"""The connector: how a pool gets to a PostgreSQL that may have moved, and notices when the one it talks to is gone.

Rules
-----
- A URL with several hosts (`postgresql://u@a:5432,b:5432/d?target_session_attrs=read-write`) is tried host by host,
  first the one that served last, each for a short time only: a host that is gone does not answer at all.
- A connection whose other end vanished without a word is given up within seconds, not when the kernel does so.
"""

import asyncio
import socket
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

HOST_SECONDS: Final = 2.0
"""How long each of several hosts may take to let us in."""
SILENCE_MS: Final = 5000
"""How long what was sent may stay unacknowledged."""
_OPTIONS: Final = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 3),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", SILENCE_MS),
)


class Connector:
    """What a pool calls in place of `asyncpg.connect`."""

    def __init__(self, dsn: str) -> None:
        self._dsns = single_hosts(dsn)

    async def __call__(self, _dsn: str | None = None, **options: Any) -> asyncpg.Connection:
        """Connect to the first host that takes us. Raises as `asyncpg.connect` does, for the last of them."""
        if len(self._dsns) > 1:
            options["timeout"] = HOST_SECONDS
        *others, last = list(self._dsns)
        for dsn in others:
            try:
                return await self._connect(dsn, options)
            except (OSError, asyncpg.PostgresError, asyncpg.InternalClientError):
                continue
        return await self._connect(last, options)

    async def _connect(self, dsn: str, options: dict[str, Any]) -> asyncpg.Connection:
        connection: asyncpg.Connection = await asyncpg.connect(dsn, **options)
        self._dsns.remove(dsn)
        self._dsns.insert(0, dsn)
        _give_up_early(connection)
        return connection


def single_hosts(dsn: str) -> list[str]:
    """A URL for each host that a URL names."""
    url = urlsplit(dsn)
    user, at, hosts = url.netloc.rpartition("@")
    if "," not in hosts:
        return [dsn]
    return [urlunsplit(url._replace(netloc=f"{user}{at}{host}")) for host in hosts.split(",")]


def _give_up_early(connection: asyncpg.Connection) -> None:
    """Have the kernel end a connection whose other end is silent; asyncpg has no setting for that."""
    transport: asyncio.Transport = getattr(connection, "_transport")  # noqa: B009 - private, and the only way to it
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return
    for level, name, value in _OPTIONS:
        if hasattr(socket, name):
            sock.setsockopt(level, getattr(socket, name), value)
