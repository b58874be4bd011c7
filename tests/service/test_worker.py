"""A worker by itself: how it takes its leave."""

import asyncio
from pathlib import Path
from typing import Any

from meterproxy.config import Config
from meterproxy.service.handover import Handover
from meterproxy.service.worker import Worker


class Connected:
    """A server whose clients never hear of the end, told when somebody waits for them."""

    def __init__(self) -> None:
        self.waited_for = asyncio.Event()

    async def linger(self, _seconds: float) -> None:
        self.waited_for.set()
        await asyncio.Event().wait()


async def test_a_worker_that_lingers_ends_as_soon_as_its_supervisor_has(tmp_path: Path) -> None:
    """The next supervisor wants its journal."""
    worker = Worker(Handover(0, Config.load(None, {}), "", "", False, tmp_path))
    worker._leave()
    server: Any = Connected()
    lingering = asyncio.create_task(worker._linger(server))
    await server.waited_for.wait()
    assert not lingering.done()
    worker._orphaned()
    async with asyncio.timeout(10):
        await lingering
