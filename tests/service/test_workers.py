"""Several workers on one host: they serve together, die one by one, follow another configuration, and leave nothing."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import yaml

from tests.service.load import PAUSE_SECONDS, Customer, Load, Refused, Whole, ask, check_books, check_closed, customer
from tests.service.running import Service, alive, kill, service, until, until_asked
from tests.service.test_host import streaming
from tests.service.test_metrics import Samples, scrape

CLIENTS = 6
ANSWERED = "requests_total{model=gpt-4o-mini,provider=openai,route=/v1/chat/completions,status=2xx}"


class Settings:
    """The configuration file of a service, which a test changes while it runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.of: dict[str, object] = {}

    def write(self, **changes: object) -> None:
        self.of |= changes
        self.path.write_text(yaml.safe_dump(self.of))


@asynccontextmanager
async def crew(
    directory: Path, workers: int, *, kept_socket: bool = False, **more: object
) -> AsyncIterator[tuple[Service, Settings]]:
    """A service with some workers, and its configuration file."""
    settings = Settings(directory / "config.yaml")
    provider = {"base_url": "${OPENAI_BASE_URL}", "api_key": "sk-provider"}
    settings.write(workers=workers, providers={"openai": provider}, **more)
    environment = {"METERPROXY_CONFIG": str(settings.path)}
    async with service(directory, environment=environment, kept_socket=kept_socket) as running:
        yield running, settings


def workers_of(running: Service) -> set[int]:
    return set(running.children().get("mp worker", ()))


async def hung_up(running: Service, said: str) -> None:
    """Send SIGHUP and wait for what the log says of it."""
    before = running.whole_log().count(said)
    assert running.process is not None
    running.process.send_signal(signal.SIGHUP)
    try:
        await until(lambda: running.whole_log().count(said) > before, said)
    except AssertionError as error:
        raise AssertionError(f"{error}; the log ends with:\n{running.whole_log()[-4000:]}") from None


async def test_workers_die_one_by_one_and_are_replaced_under_load_without_an_error(reachable_dir: Path) -> None:
    """A killed worker breaks its own answers only; three SIGHUPs under load break none, whatever they ask for.

    A connection that nobody has taken yet may go with the socket of a worker that is given up; its client, which has
    got nothing, asks again.
    """
    async with crew(reachable_dir, 3) as (running, settings):
        customers = [await customer(running) for _ in range(3)]
        first = workers_of(running)
        assert len(first) == 3
        async with Load(running, customers, pause_seconds=PAUSE_SECONDS).running(CLIENTS) as load:
            await until(load.more(60), "answers of three workers")
            before = await scrape(running)
            await _killed(running, load, before)
            broken, broken_off = load.broken.total(), load.broken["ClientPayloadError"]
            await _refused(running, settings)
            await _replaced(running, settings, load)
            await until(load.more(30), "answers of two workers")
            assert load.broken["ClientPayloadError"] == broken_off
            assert load.broken.total() - broken <= len(customers)
            assert not load.refused
        endings = await check_books(running, customers, load.whole)
        assert endings["captured"] >= len(load.whole)
        assert (await scrape(running))[ANSWERED] >= len(load.whole) - broken
        assert await running.stop() == 0
        settings.write(database_url=None)
        await running.start()
        await check_closed(running)


async def _killed(running: Service, load: Load, before: Samples) -> None:
    """kill -9 of one: the others serve, its seat is taken again, and no counter goes back."""
    assert before["workers"] == 3
    victim = min(workers_of(running))
    kill(victim)
    assert (await scrape(running))[ANSWERED] >= before[ANSWERED]
    await until(load.more(20), "answers of those who are left")
    await until(lambda: len(workers_of(running) - {victim}) == 3, "a successor")
    async with asyncio.timeout(60):
        while (after := await scrape(running))["workers"] < 3:
            await asyncio.sleep(0.05)
    assert after[ANSWERED] >= before[ANSWERED]


async def _ended_by_hand(running: Service, load: Load) -> None:
    """SIGTERM to one worker whose streams run on: its successor is there long before they end, and they do end."""
    async with aiohttp.ClientSession() as session:
        slow = [await streaming(session, running, load.customers[0], "slow=0.03,tokens=200") for _ in range(3)]
        here = workers_of(running)
        victim = min(here)
        os.kill(victim, signal.SIGTERM)
        await until(lambda: len(workers_of(running)) > len(here) or not alive(victim), "its successor")
        assert all(isinstance(answer, Whole) for answer in await asyncio.gather(*slow))
        await until(lambda: len(workers_of(running)) == len(here) and not alive(victim), "its end")


async def _refused(running: Service, settings: Settings) -> None:
    """A configuration with two faults, or one that no worker can start with, is told in one line and changes nothing."""
    here = workers_of(running)
    providers = settings.of["providers"]
    settings.write(providers={"openai": {"base_url": "https://127.0.0.1:1/v1", "tls_ca_file": "/nonexistent"}})
    await hung_up(running, "the new configuration is given up, the old one stays in force: a worker cannot run: ")
    settings.write(providers=providers)
    settings.write(workers="many", drain_seconds=-1)
    await hung_up(running, "the configuration is refused, the old one stays in force: 2 problems in")
    line = [line for line in running.whole_log().splitlines() if "is refused" in line][-1]
    assert "drain_seconds: must be greater than 0; workers: must be a whole number" in line
    assert workers_of(running) == here


async def _replaced(running: Service, settings: Settings, load: Load) -> None:
    """One that is good is followed, by fewer workers; the database is not changed, and a stream under way comes to its end."""
    poor = Customer(*await running.customer("0"), 0)
    async with aiohttp.ClientSession() as session:
        before = workers_of(running)
        slow = await streaming(session, running, load.customers[0], "slow=0.02,tokens=300")
        settings.write(workers=2, drain_seconds=30, out_of_credit_status=402, database_url="postgresql://elsewhere/x")
        await hung_up(running, "the new configuration is in force")
        assert "only a restart changes database_url" in running.whole_log()

        async def follows() -> bool:
            """A worker that is leaving may have taken a connection in its last moment."""
            answer = await ask(session, running, poor, stream=False)
            assert isinstance(answer, Refused)
            return answer.status == 402

        await until_asked(follows, "a worker that follows the new configuration")
        assert isinstance(await slow, Whole)
        await until(lambda: len(workers_of(running)) == 2, "the leave of three workers")
        assert not workers_of(running) & before


async def test_journals_of_workers_that_are_no_more_are_settled_by_those_who_are(reachable_dir: Path) -> None:
    """A host that is killed with three workers and comes back with one: nothing is left lent, everything is booked.

    They settle by themselves every minute, so a fresh balance is one that all of them were asked for. A service
    manager keeps the socket, so who comes while nobody is there is answered later.
    """
    async with crew(reachable_dir, 3, kept_socket=True, settle={"interval_ms": 60_000}) as (running, settings):
        who = await customer(running)
        whole = [await _asked_anybody(running, who) for _ in range(6)]
        assert await running.balance_nanos(who.account_id) == who.credit_nanos - sum(one.amount_nanos for one in whole)
        whole += [await _asked_anybody(running, who) for _ in range(6)]
        async with aiohttp.ClientSession() as session:
            streams = [await streaming(session, running, who, "slow=0.05,tokens=2000") for _ in range(5)]
            sessions = await _lent(running)
            await running.kill_everything()
            assert all(isinstance(end, Exception) for end in await asyncio.gather(*streams, return_exceptions=True))
        settings.write(workers=1)
        waiting = asyncio.create_task(_asked_anybody(running, who))
        await running.start()
        whole.append(await waiting)
        async with asyncio.timeout(60):
            while await _lent(running) & sessions:
                await asyncio.sleep(0.05)
        assert len(workers_of(running)) == 1
        endings = await check_books(running, [who], whole)
        assert endings.total() == 18
        assert endings["captured"] >= 13


async def _asked_anybody(running: Service, who: Customer) -> Whole:
    """An answer over a connection of its own, which may be any worker's."""
    async with aiohttp.ClientSession() as session:
        answer = await ask(session, running, who, stream=False)
    assert isinstance(answer, Whole)
    return answer


async def _lent(running: Service) -> set[str]:
    """Sessions to which something is lent."""
    rows = await running.rows("SELECT DISTINCT session_id::text FROM leases WHERE granted <> consumed + returned")
    return {row["session_id"] for row in rows}
