"""`kill -9` at random under load, again and again: of the worker, of the supervisor, of everything at once."""

import random
from pathlib import Path

import pytest

from tests.service.load import PAUSE_SECONDS, Load, check_books, check_closed, customer
from tests.service.running import MORTAL, Service, alive, kill, service, until

SEED = 7
CLIENTS = 8
KILLS = ["worker"] * 6 + ["supervisor", "everything"]
"""Hundreds by `python -m bench.kills`."""


@pytest.mark.timeout(300)
async def test_kills_at_random_lose_nothing_and_book_nothing_twice(reachable_dir: Path) -> None:
    """Whatever dies whenever: every answer received whole is in the books once, and no lease stays with the dead."""
    chance = random.Random(SEED)
    kills = chance.sample(KILLS, len(KILLS))
    (reachable_dir / "deaths").mkdir()
    environment = {"METERPROXY_TEST_DEATHS": str(reachable_dir / "deaths")}
    async with service(reachable_dir, environment=environment, program=MORTAL) as running:
        customers = [await customer(running) for _ in range(4)]
        async with Load(running, customers, SEED, pause_seconds=PAUSE_SECONDS).running(CLIENTS) as load:
            for target in kills:
                await until(load.more(chance.randint(1, 30)), "answers")
                await _struck(running, target)
            await until(load.more(1), "answers after the last kill")
        endings = await check_books(running, customers, load.whole)
        assert endings["captured"] >= len(load.whole) >= len(KILLS)
        assert endings["recovered"] >= 1
        assert all(refused.says_try_again for refused in load.refused), load.refused
        await running.audit()
        await _ended_in_order(running)


async def _struck(running: Service, target: str) -> None:
    if target == "worker":
        worker = running.worker()
        kill(worker)
        await running.replaced(worker)
    elif target == "supervisor":
        left = running.processes()
        await running.kill()
        await running.start()
        await until(lambda: not any(alive(pid) for pid in left), "the end of what was left")
    else:
        await running.kill_everything()
        await running.start()


async def _ended_in_order(running: Service) -> None:
    """What is left lent after an orderly end is nothing."""
    assert await running.stop() == 0
    await running.start()
    await check_closed(running)
