"""Listening sockets: several slots on one port, and a port that is taken."""

import asyncio
import socket

import pytest

from meterproxy.errors import StartFailed
from meterproxy.runtime.listening import close_all, listen


async def test_slots_share_a_port() -> None:
    """Every slot has a socket of its own on the same, freely chosen port."""
    sockets = await listen("127.0.0.1", 0, 3)
    assert len({listening.getsockname() for listening in sockets}) == 1
    assert len({listening.fileno() for listening in sockets}) == 3
    close_all(sockets)


@pytest.mark.parametrize("shared", [False, True])
async def test_taken_port_is_told(shared: bool) -> None:
    """A port that somebody listens on is refused, even if they would share it."""
    with socket.socket() as other:
        if shared:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StartFailed, match=f"port {port} on 127.0.0.1 is in use"):
            await listen("127.0.0.1", port, 1)


async def test_port_of_the_departing_is_waited_for() -> None:
    """With patience, a port that becomes free a moment later is taken."""
    other = socket.socket()
    other.bind(("127.0.0.1", 0))
    other.listen()
    port = other.getsockname()[1]
    asyncio.get_running_loop().call_soon(other.close)
    close_all(await listen("127.0.0.1", port, 1, patience_seconds=60))


async def test_foreign_address_is_told() -> None:
    """An address that is not this machine's cannot be listened on."""
    with pytest.raises(StartFailed, match=r"cannot listen on 192\.0\.2\.1:0"):
        await listen("192.0.2.1", 0, 1)
