"""Listening sockets, one per worker on the same port.

Rules
-----
- The port is tried without `SO_REUSEPORT` first: with it, a second meterproxy would silently share the port.
- The sockets belong to the supervisor and are handed to each successor of a worker, so that a restart loses no
  connection of the backlog.
- A service manager may own the socket instead (systemd's protocol): then it outlives the supervisor too, and
  connections that come while nothing runs wait in its backlog.
"""

import asyncio
import errno
import os
import socket
from collections.abc import MutableMapping
from typing import Any, Final

from meterproxy.errors import StartFailed

BACKLOG: Final = 1024
_FIRST_KEPT: Final = 3
_AGAIN_SECONDS: Final = 0.05

_Address = tuple[Any, ...]
"""As the socket module has it: two members for IPv4, four for IPv6."""


async def listen(host: str, port: int, slots: int, *, patience_seconds: float = 0.0) -> list[socket.socket]:
    """Bind one listening socket per slot; port 0 picks a free one, the same for all.

    Args:
        host: a name or address; the first address it stands for is used.
        port: 0 for any.
        slots: how many workers share the port.
        patience_seconds: how long to wait for a port that children of a killed supervisor may still hold.

    Raises:
        StartFailed: the port is taken, or the address is not ours.
    """
    family, address = _resolve(host, port)
    deadline = asyncio.get_running_loop().time() + patience_seconds
    while (obstacle := _obstacle(family, address)) is not None:
        if obstacle.errno != errno.EADDRINUSE or asyncio.get_running_loop().time() >= deadline:
            raise StartFailed(_explained(host, port, obstacle)) from obstacle
        await asyncio.sleep(_AGAIN_SECONDS)
    sockets: list[socket.socket] = []
    try:
        sockets.append(_bound(family, address, shared=True))
        sockets.extend(share(sockets[0]) for _ in range(slots - 1))
        for listening in sockets:
            listening.listen(BACKLOG)
    except OSError as error:
        close_all(sockets)
        raise StartFailed(_explained(host, port, error)) from error
    return sockets


def share(first: socket.socket) -> socket.socket:
    """One more socket on the same port, which takes connections once somebody has it listen. Raises OSError.

    Where the first one's owner does not want its port shared, it is the same socket under another number.
    """
    if not first.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
        return first.dup()
    return _bound(first.family, first.getsockname(), shared=True)


def take_kept(environ: MutableMapping[str, str] = os.environ) -> socket.socket | None:
    """The listening socket that a service manager keeps for us, if there is one.

    Source: sd_listen_fds(3). The variables are taken away, so that no child acts on them.

    Raises:
        StartFailed: what it hands over is not one listening socket.
    """
    meant_for, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if meant_for != str(os.getpid()):
        return None
    try:
        kept = socket.socket(fileno=_FIRST_KEPT)
        listens = kept.type == socket.SOCK_STREAM and kept.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartFailed(f"the service manager's descriptor {_FIRST_KEPT} is no socket: {error.strerror}") from error
    if count != "1" or not listens:
        raise StartFailed("the service manager must hand over exactly one listening stream socket")
    kept.set_inheritable(False)
    kept.setblocking(False)
    return kept


def listen_on(kept: socket.socket, slots: int) -> list[socket.socket]:
    """One socket per slot on the port of one that is kept. Raises StartFailed."""
    sockets = [kept]
    try:
        for _ in range(slots - 1):
            sockets.append(share(kept))
            sockets[-1].listen(BACKLOG)
    except OSError as error:
        raise StartFailed(f"the service manager's socket cannot be shared: {error.strerror}") from error
    return sockets


def close_all(sockets: list[socket.socket]) -> None:
    """Close our copies, so that nothing more queues up behind workers that are ending."""
    for listening in sockets:
        listening.close()


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, _Address]:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartFailed(f"cannot listen on {host!r}: {error.strerror}") from error
    family, _, _, _, address = found[0]
    return family, address


def _obstacle(family: socket.AddressFamily, address: _Address) -> OSError | None:
    try:
        _bound(family, address, shared=False).close()
    except OSError as error:
        return error
    return None


def _bound(family: socket.AddressFamily, address: _Address, *, shared: bool) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.setblocking(False)
        listening.bind(address)
    except BaseException:
        listening.close()
        raise
    return listening


def _explained(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: stop what listens there, or choose another with --listen"
    return f"cannot listen on {host}:{port}: {error.strerror}"
