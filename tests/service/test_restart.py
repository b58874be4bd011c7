"""Told to stop once more: what still runs is ended at once, and charged."""

import asyncio
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.service.load import check_books, customer
from tests.service.running import service
from tests.service.test_host import streaming


async def test_a_second_signal_ends_the_wait_for_running_exchanges(reachable_dir: Path) -> None:
    """Its stream breaks long before `drain_seconds` are over, its worker ends in order, and its lease is back."""
    async with service(reachable_dir) as host, aiohttp.ClientSession() as session:
        who = await customer(host)
        endless = await streaming(session, host, who, "slow=0.05,tokens=2000")
        process = host.process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        while True:
            try:
                async with session.get(f"{host.origin}/healthz"):
                    pass
            except aiohttp.ClientConnectionError:
                break
        process.send_signal(signal.SIGTERM)
        with pytest.raises(aiohttp.ClientPayloadError, match="an error event"):
            await endless
        assert await asyncio.to_thread(process.wait, 60) == 0
        await host.start()
        (row,) = await host.rows("SELECT ending, outcome, amount_nanos FROM usage_events")
        assert (row["ending"], row["outcome"]) == ("captured", "stream_broken")
        assert row["amount_nanos"] > 0
        await check_books(host, [who], [])
        states = await host.rows("SELECT state, count(*) AS sessions FROM worker_sessions GROUP BY 1")
        assert {row["state"]: row["sessions"] for row in states} == {"closed": 1, "live": 1}
