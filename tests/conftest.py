"""Fixtures that every test may use: real PostgreSQL, and directories that its user can reach.

`database` is the URL of a fresh, migrated database; `empty_database` of one without migrations; `own_postgres` a
server of the test's own, to be stopped, killed and started; `reachable_dir` a short directory it may live in.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from meterproxy.runtime.embedded import EmbeddedPostgres
from tests import clusters, postgres
from tests.environment import scrub

scrub()
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")  # how long an example takes is the machine's, which is shared

_DATABASE_FIXTURES = {"database", "empty_database", "own_postgres", "postgres_server"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "database: touches PostgreSQL (set by itself, for runs on other versions)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _DATABASE_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("database")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    with postgres.serving() as server:
        yield server


@pytest.fixture
def database(postgres_server: postgres.Server) -> Iterator[str]:
    with postgres_server.database() as dsn:
        yield dsn


@pytest.fixture
def empty_database(postgres_server: postgres.Server) -> Iterator[str]:
    with postgres_server.empty_database() as dsn:
        yield dsn


@pytest.fixture
def reachable_dir() -> Iterator[Path]:
    with postgres.reachable_directory() as directory:
        yield directory


@pytest.fixture
async def own_postgres(reachable_dir: Path) -> AsyncIterator[EmbeddedPostgres]:
    await clusters.lay(reachable_dir, postgres.bin_dir())
    server = EmbeddedPostgres(reachable_dir, postgres.bin_dir())
    await server.start()
    yield server
    await server.stop()
