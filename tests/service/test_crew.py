"""The crew without a database: workers that only say what they were told, replaced in every way that there is.

`python -m tests.service.test_crew` is the fork server of such workers. One cannot start if its `drain_seconds` are those of FAILS and its
seat is the one in `METERPROXY_TEST_SEAT`, and never becomes ready with those of HANGS.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meterproxy.config import Config
from meterproxy.runtime import parent
from meterproxy.runtime.fork_server import ForkServer, fork_when_asked
from meterproxy.runtime.listening import close_all, listen
from meterproxy.runtime.supervisor import ParentPipe
from meterproxy.service.crew import Crew, Premises
from meterproxy.service.handover import LEAVE_SIGNAL, listening_socket, take_over

FAILS, HANGS = 7.0, 8.0


def work() -> int:
    """Say by a file's name which slot and which configuration this one has, until told to end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, LEAVE_SIGNAL})
    handover = take_over()
    drain_seconds = handover.config.drain_seconds
    if drain_seconds == FAILS and _inode(listening_socket()) == os.environ["METERPROXY_TEST_SEAT"]:
        parent.say_failed("no room")
        return 0
    told = handover.run_dir / f"{os.getpid()} {handover.slot} {drain_seconds}"
    told.touch()
    if drain_seconds != HANGS:
        parent.say_ready()
    signal.sigwait({signal.SIGTERM, LEAVE_SIGNAL})
    told.unlink()
    return 0


def _inode(seat: socket.socket) -> str:
    return str(os.fstat(seat.fileno()).st_ino)


def serving(run_dir: Path) -> set[tuple[int, float]]:
    """Who serves: (slot, drain_seconds). One that was killed could not take its word back: only who still runs counts."""
    told = [path.name.split() for path in run_dir.iterdir()]
    return {(int(slot), float(drain_seconds)) for pid, slot, drain_seconds in told if Path("/proc", pid).exists()}


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.02)


def config(workers: int, drain_seconds: float) -> Config:
    return Config.load(None, {"METERPROXY_WORKERS": str(workers), "METERPROXY_DRAIN_SECONDS": str(drain_seconds)})


@asynccontextmanager
async def crew(run_dir: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> AsyncIterator[Crew]:
    sockets: list[socket.socket] = await listen("127.0.0.1", 0, workers)
    monkeypatch.setenv("METERPROXY_TEST_SEAT", _inode(sockets[-1]))
    pipe = ParentPipe()
    fork_server = ForkServer((sys.executable, "-m", "tests.service.test_crew"), pipe.read_end)
    made = Crew(Premises("", "", False, run_dir, pipe.read_end, fork_server), config(workers, 1), sockets)
    try:
        await fork_server.start()
        await made.start()
        yield made
    finally:
        await made.stop()
        await fork_server.stop()
        close_all(sockets)
        pipe.close()
    assert serving(run_dir) == set()


async def test_a_number_of_workers_is_followed_up_and_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each successor has a slot of its own while its predecessor is there; slots come free and are taken again."""
    async with crew(tmp_path, monkeypatch, 1) as made:
        assert serving(tmp_path) == {(0, 1.0)}
        made.follow(config(2, 2))
        await until(lambda: serving(tmp_path) in ({(1, 2.0), (0, 2.0)}, {(1, 2.0), (2, 2.0)}))
        made.follow(config(1, 3))
        await until(lambda: {drain_seconds for _, drain_seconds in serving(tmp_path)} == {3.0})
        assert len(serving(tmp_path)) == 1


async def test_where_one_cannot_start_all_are_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first was replaced already when the second failed: it is replaced back."""
    async with crew(tmp_path, monkeypatch, 2) as made:
        made.follow(config(2, FAILS))
        change = made._change
        assert change is not None
        await change
        await until(lambda: {drain_seconds for _, drain_seconds in serving(tmp_path)} == {1.0})
        await until(lambda: len(serving(tmp_path)) == 2)
        made.follow(config(2, 4))
        await until(lambda: {drain_seconds for _, drain_seconds in serving(tmp_path)} == {4.0})


async def test_a_later_configuration_overtakes_one_that_gets_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that never became ready is ended, and the old one has served all the while."""
    async with crew(tmp_path, monkeypatch, 1) as made:
        made.follow(config(1, HANGS))
        await until(lambda: (1, HANGS) in serving(tmp_path))
        assert (0, 1.0) in serving(tmp_path)
        made.follow(config(1, 5))
        await until(lambda: (1, 5.0) in serving(tmp_path) or (2, 5.0) in serving(tmp_path))
        await until(lambda: {drain_seconds for _, drain_seconds in serving(tmp_path)} == {5.0})


if __name__ == "__main__":
    sys.exit(fork_when_asked(work))
