"""Listening sockets: several slots on one port, and a port that is taken."""

import asyncio
import os
import socket
import subprocess
import sys

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


KEPT = """
import os, sys
from meterproxy.errors import StartFailed
from meterproxy.runtime.listening import listen_on, take_kept
os.environ["LISTEN_PID"] = str(os.getpid() if sys.argv[1] == "ours" else 1)
try:
    kept = take_kept()
except StartFailed as error:
    print(error)
else:
    sockets = listen_on(kept, 3) if kept else []
    print(*{socket.getsockname()[1] for socket in sockets}, len(sockets), "LISTEN_FDS" in os.environ)
"""


def kept_by(descriptor: socket.socket, count: str, whose: str = "ours") -> str:
    """What a process says to which a manager hands this as its third descriptor."""
    moved = os.dup(descriptor.fileno())
    try:
        return subprocess.run(
            [sys.executable, "-c", f"import os; os.dup2({moved}, 3); exec({KEPT!r})", whose],
            env={**os.environ, "LISTEN_FDS": count},
            pass_fds=(moved,),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    finally:
        os.close(moved)


@pytest.mark.parametrize("shared", [False, True])
def test_a_socket_that_a_service_manager_keeps_is_used(shared: bool) -> None:
    """By all workers, whether or not its port may be shared; its variables do not reach children."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=shared) as kept:
        assert kept_by(kept, "1") == f"{kept.getsockname()[1]} 3 False"


def test_what_a_service_manager_meant_for_another_process_is_left_alone() -> None:
    """As a shell in between would pass it on."""
    with socket.create_server(("127.0.0.1", 0)) as kept:
        assert kept_by(kept, "1", "another's") == "0 False"


def test_a_service_manager_that_is_set_up_wrongly_is_told() -> None:
    """Two sockets, or one that does not listen."""
    with socket.create_server(("127.0.0.1", 0)) as kept, socket.socket() as mute:
        assert "exactly one listening stream socket" in kept_by(kept, "2")
        assert "exactly one listening stream socket" in kept_by(mute, "1")
