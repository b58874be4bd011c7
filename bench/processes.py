"""Processes: CPU and memory by process tree from /proc, and which core a process may use.

PostgreSQL's processes are told by their name (`postgres`) wherever they are in a tree, so that what the database costs
is known apart from what the proxy costs. Linux only.
"""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_MICROSECONDS: Final = 1_000_000


class Process(NamedTuple):
    """One process at one moment; CPU includes children it has waited for."""

    pid: int
    parent: int
    name: str
    command: str
    cpu_us: int
    rss_bytes: int

    @property
    def is_postgres(self) -> bool:
        return self.name == "postgres"


class Spent(NamedTuple):
    """CPU microseconds of a tree, PostgreSQL's apart."""

    proxy_us: int
    postgres_us: int

    def since(self, before: "Spent") -> "Spent":
        return Spent(self.proxy_us - before.proxy_us, self.postgres_us - before.postgres_us)


def tree(root: int) -> list[Process]:
    """All processes from `root` downwards that are alive now."""
    alive = {process.pid: process for process in _all()}
    found, pending = [], [root]
    while pending:
        pid = pending.pop()
        if pid in alive:
            found.append(alive[pid])
            pending.extend(child.pid for child in alive.values() if child.parent == pid)
    return found


def _all() -> Iterator[Process]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield _read(entry)
            except (FileNotFoundError, ProcessLookupError):
                continue


def _read(entry: Path) -> Process:
    stat = (entry / "stat").read_text(errors="replace")
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    fields = stat[stat.rindex(")") + 2 :].split()
    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    ticks = sum(map(int, fields[11:15]))
    return Process(
        int(entry.name), int(fields[1]), name, command, ticks * _MICROSECONDS // _TICKS, int(fields[21]) * _PAGE_BYTES
    )


def spent(root: int) -> Spent:
    """CPU of a tree so far."""
    processes = tree(root)
    return Spent(
        sum(process.cpu_us for process in processes if not process.is_postgres),
        sum(process.cpu_us for process in processes if process.is_postgres),
    )


def busiest(before: list[Process], after: list[Process]) -> Process:
    """The process of a tree that worked most between two moments: the one that serves."""
    earlier = {process.pid: process.cpu_us for process in before}
    own = [process for process in after if not process.is_postgres]
    return max(own, key=lambda process: process.cpu_us - earlier.get(process.pid, 0))


def pin(cpu: int | None, pid: int = 0) -> None:
    """Let a process, all its threads and what they start run on one core only; None leaves it alone."""
    if cpu is None:
        return
    for task in _tasks(pid):
        try:
            os.sched_setaffinity(task, {cpu})
        except ProcessLookupError:
            continue


def _tasks(pid: int) -> list[int]:
    try:
        return [int(task.name) for task in Path(f"/proc/{pid or 'self'}/task").iterdir()]
    except FileNotFoundError:
        return []


def pin_tree(root: int, proxy_cpu: int | None, postgres_cpu: int | None) -> None:
    """Give the proxy's processes one core, PostgreSQL's the other."""
    for process in tree(root):
        pin(postgres_cpu if process.is_postgres else proxy_cpu, process.pid)


def raise_file_limit() -> None:
    """Allow as many open connections as the system lets us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
