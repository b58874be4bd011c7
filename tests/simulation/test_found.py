"""What the simulation found in a worker, each by itself: connections that hang, windows that end meanwhile."""

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any
from uuid import UUID

import pytest

from meterproxy.core.lending import LeaseKey, News
from meterproxy.errors import StoreUnavailable
from meterproxy.ledger.book import Book
from meterproxy.ledger.clock import DatabaseClock
from meterproxy.ledger.lease import Borrower
from meterproxy.ledger.session import Session
from meterproxy.ledger.worker import WorkerLedger
from tests.ledger.memory_store import MemoryStore
from tests.simulation.borders import simulated
from tests.simulation.disk import Disk, Owner
from tests.simulation.timeline import Loop, Timeline

TTL_SECONDS = 30.0


class Hanging:
    """PostgreSQL behind a connection on which the first request of each kind is never answered."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    async def _answer(self, name: str) -> None:
        if name not in self.asked:
            self.asked.add(name)
            await asyncio.get_running_loop().create_future()

    async def open_session(self, *_: object) -> int:
        return 1_700_000_000_000_000

    async def renew_session(self, *_: object) -> int:
        await self._answer("renew_session")
        return 1_700_000_000_000_000

    async def poll(self, *_: object) -> News:
        await self._answer("poll")
        return News((), (), 0, UUID(int=0))


def run(work: Coroutine[Any, Any, None]) -> float:
    """Run something in virtual time; answers how many seconds it took."""
    timeline = Timeline(Random(1))
    loop = Loop(timeline, "one")
    timeline.loops.append(loop)
    task = loop.create_task(work)
    assert timeline.run(600_000_000, task.done)
    task.result()
    return timeline.now_us / 1e6


def test_a_renewal_that_hangs_does_not_take_the_trust_with_it() -> None:
    """The next one is tried when it is due, on a connection of its own, and the worker serves without a break."""

    async def scenario() -> None:
        session = Session(Hanging(), DatabaseClock(), UUID(int=1), UUID(int=2), TTL_SECONDS)  # type: ignore[arg-type]
        await session.open("host", 0)
        with pytest.raises(StoreUnavailable):
            await session.renew()
        assert session.trusted
        await session.renew()
        assert session.trusted

    with simulated(Random(1), lambda *_: None):
        assert run(scenario()) < TTL_SECONDS / 2


def test_a_look_at_the_news_that_hangs_is_given_up() -> None:
    """Others wait for what this worker has leased and does not use: it looks again while they still do."""

    async def scenario() -> None:
        store: Any = Hanging()
        directory: Any = Owner(Disk(Random(1), lambda: 0)).path("/0")
        ledger = WorkerLedger(store, store, directory, owner_rows=store, durable_rows=store)
        with pytest.raises(StoreUnavailable):
            await ledger.look()
        await ledger.look()

    with simulated(Random(1), lambda *_: None):
        assert run(scenario()) < 10


def test_a_window_that_ended_meanwhile_is_asked_of_nobody() -> None:
    """A request whose window ends while it waits is served or refused, whatever was let go of in between."""

    async def scenario() -> None:
        store = MemoryStore()
        session = Session(store, DatabaseClock(), UUID(int=1), UUID(int=2), TTL_SECONDS)
        await Borrower(store, session, Book()).ask_reclaim(LeaseKey(UUID(int=3), UUID(int=4), 60_000_000), 1)
        assert not store.reclaims

    with simulated(Random(1), lambda *_: None):
        assert run(scenario()) == 0
