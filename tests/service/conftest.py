"""One running service for all tests that do not harm it; those that do start their own."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests import postgres
from tests.service.running import Service, service


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared() -> AsyncIterator[Service]:
    """A service that tests share: they make accounts of their own and leave it as it was."""
    with postgres.reachable_directory() as directory:
        async with service(directory) as running:
            yield running
            await running.audit()
