"""A URL with several hosts leads to the one that serves, whatever the others do."""

import socket

import pytest

from meterproxy.errors import StoreUnavailable
from meterproxy.store import connector
from meterproxy.store.connector import Connector, single_hosts
from meterproxy.store.pool import open_pool, transaction


def test_hosts_are_told_apart() -> None:
    """Each keeps the credentials, its own port and what is asked of a session."""
    assert single_hosts("postgresql://u:p%40@a:1,b:2/d?target_session_attrs=read-write") == [
        "postgresql://u:p%40@a:1/d?target_session_attrs=read-write",
        "postgresql://u:p%40@b:2/d?target_session_attrs=read-write",
    ]
    assert single_hosts("postgresql:///d?host=/run") == ["postgresql:///d?host=/run"]


async def test_a_host_that_does_not_answer_keeps_nobody_from_the_next(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent one costs a moment, and afterwards the one that served is asked first."""
    monkeypatch.setattr(connector, "HOST_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connect = Connector(f"postgresql://meterproxy@127.0.0.1:{silent.getsockname()[1]}/meterproxy")
        connect._dsns.append(database)
        for _ in range(2):
            connection = await connect(timeout=5)
            assert await connection.fetchval("SELECT 1") == 1
            await connection.close()
            assert connect._dsns[0] == database


async def test_the_silence_of_a_server_is_noticed_early(database: str) -> None:
    """Keep-alives are on where there is a network between us; hosts that are all away are an outage."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    pool = await open_pool(f"postgresql://meterproxy@127.0.0.1:{port},127.0.0.1:{port}/meterproxy")
    with pytest.raises(StoreUnavailable):
        async with transaction(pool):
            pass
    await pool.close()
