"""Facts about a PostgreSQL data directory and about the server that runs on it, read without a connection.

Rules
-----
- A process id from `postmaster.pid` is believed only after the process itself was looked at: it is called `postgres`
  and its working directory is this data directory. A stranger who got the same number is never signalled.
"""

import re
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

PORT: Final = 5432
"""Names the socket file; nothing listens on a network port."""
SOCKET_PATH_BYTES: Final = 107
"""What fits into a `sockaddr_un` on Linux, without its closing NUL (103 on the BSDs, which have `/proc` neither)."""

_VERSION: Final = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")
_NO_PROCESS: Final = 2**31 - 2
"""Above every kernel's highest process id."""


class Postmaster(NamedTuple):
    """A running server as its pid file describes it; `ready` as `pg_ctl` decides it (line 8)."""

    pid: int
    socket_dir: Path
    ready: bool


def running(cluster: Path) -> Postmaster | None:
    """The server that runs on this data directory, verified; None if none does."""
    lines = _pid_file_lines(cluster)
    pid = _integer(lines[0]) if lines else None
    if pid is None or not _serves(pid, cluster):
        return None
    socket_dir = Path(lines[4]) if len(lines) > 4 and lines[4] else cluster
    status = lines[7].strip() if len(lines) > 7 else ""
    return Postmaster(pid, socket_dir, status in {"ready", "standby"})


def last_socket_dir(cluster: Path) -> Path | None:
    """Where the last server of this data directory had its socket, if its pid file was left behind."""
    lines = _pid_file_lines(cluster)
    return Path(lines[4]) if len(lines) > 4 and lines[4] else None


def disown_pid_file(cluster: Path) -> None:
    """Make a left pid file name no process, so that a stranger with that number does not keep PostgreSQL from starting.

    The file is kept: its shared memory key lets PostgreSQL notice children that outlived their postmaster.
    """
    lines = _pid_file_lines(cluster)
    if lines:
        (cluster / "postmaster.pid").write_text("\n".join([str(_NO_PROCESS), *lines[1:]]) + "\n")


def data_version(cluster: Path) -> int | None:
    """The major version whose format the data directory has; None if it holds no data."""
    try:
        return _integer((cluster / "PG_VERSION").read_text())
    except FileNotFoundError:
        return None


def binary_version(bin_dir: Path) -> tuple[int, str]:
    """Major version and full version of the `postgres` in this directory. Raises OSError if there is none."""
    said = subprocess.run([bin_dir / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    version = _VERSION.search(said)
    if version is None:
        raise OSError(f"{bin_dir / 'postgres'} does not tell its version")
    return int(version[2]), version[1]


def _serves(pid: int, cluster: Path) -> bool:
    if Path("/proc/self").exists():
        return _serves_by_proc(pid, cluster)
    shown = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return "postgres" in shown and str(cluster) in shown


def _serves_by_proc(pid: int, cluster: Path) -> bool:
    process = Path("/proc", str(pid))
    try:
        program = str((process / "exe").readlink()).removesuffix(" (deleted)")
        directory = str((process / "cwd").readlink()).removesuffix(" (deleted)")
    except OSError:
        return False
    return Path(program).name == "postgres" and directory == str(cluster.resolve())


def _pid_file_lines(cluster: Path) -> list[str]:
    try:
        return (cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _integer(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None
