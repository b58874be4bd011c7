"""PostgreSQL stalls, is shut down and is killed under load: leases carry on for a while, then 503, and nothing is lost."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import aiohttp

from meterproxy.runtime import postmaster
from meterproxy.runtime.cluster import home_of
from tests.service.load import PAUSE_SECONDS, Customer, Load, Refused, ask, check_books, check_closed, customer
from tests.service.running import Service, kill, service, until

CLIENTS = 6
TTL_SECONDS = 2


async def test_an_outage_of_postgresql_costs_refusals_that_say_when_to_come_again_and_nothing_else(
    reachable_dir: Path,
) -> None:
    """Stalled for longer than the leases' trust, then shut down, then killed; each time it goes on by itself."""
    environment = {"METERPROXY_LEASE__TTL_SECONDS": str(TTL_SECONDS)}
    async with service(reachable_dir, environment=environment) as running:
        customers = [await customer(running) for _ in range(3)]
        strangers_to_memory = await customer(running)
        async with Load(running, customers, pause_seconds=PAUSE_SECONDS).running(CLIENTS) as load:
            await until(load.more(30), "answers")
            await _stalled(running, load, strangers_to_memory)
            for end in (_shut_down, kill):
                await until(load.more(30), "answers between two outages")
                await _ended(running, end)
                await until(load.more(30), "answers after an outage")
        assert load.refused
        assert all(refused.says_try_again for refused in load.refused), load.refused
        assert not load.broken
        endings = await check_books(running, [*customers, strangers_to_memory], load.whole)
        refused_late = endings.pop("released", 0)  # trust ran out between the hold and the first byte
        assert endings == {"captured": len(load.whole)}
        assert refused_late <= len(load.refused)
        await running.audit()
        assert await running.stop() == 0
        await running.start()
        await check_closed(running)


async def _stalled(running: Service, load: Load, stranger: Customer) -> None:
    """PostgreSQL does not answer: what memory knows goes on, then everybody is told to come again."""
    processes = running.children()["postgres"]
    before = len(load.whole)
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        await until(lambda: len(load.refused) > 0, "a refusal")
        assert len(load.whole) > before, "leases carry on"
        async with aiohttp.ClientSession() as session:
            unknown = await ask(session, running, stranger, stream=False)
        assert isinstance(unknown, Refused)
        assert unknown.says_try_again
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
    await running.ready()


async def _ended(running: Service, end: Callable[[int], None]) -> None:
    """PostgreSQL goes, and the supervisor starts it again."""
    gone = _postmaster(running)
    end(gone)
    await until(lambda: _postmaster(running) not in {0, gone}, "a new PostgreSQL")


def _postmaster(running: Service) -> int:
    """The PostgreSQL that serves, 0 if none does."""
    server = postmaster.running((home_of(running.data_dir) / "data").resolve())
    return server.pid if server and server.ready else 0


def _shut_down(pid: int) -> None:
    os.kill(pid, signal.SIGINT)
