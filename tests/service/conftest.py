"""One running service for all tests that do not harm it, one for those that kill its worker; others start their own."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests import postgres
from tests.service.mortal import DEATHS
from tests.service.running import MORTAL, Service, service


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared() -> AsyncIterator[Service]:
    """A service that tests share: they make accounts of their own and leave it as it was."""
    with postgres.reachable_directory() as directory:
        async with service(directory) as running:
            yield running
            await running.audit()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def mortal() -> AsyncIterator[Service]:
    """A service whose workers die where a test wants it, shared by those tests: each leaves it serving."""
    with postgres.reachable_directory() as directory:
        (directory / "deaths").mkdir()
        async with service(directory, environment={DEATHS: str(directory / "deaths")}, program=MORTAL) as running:
            yield running
            await running.audit()
