"""The supervisor, with real processes; the end of their shared output proves that none is left."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meterproxy.runtime import postmaster
from meterproxy.runtime.embedded import attach
from meterproxy.runtime.keeping import Backoff
from tests.runtime.test_embedded import ask


class Supervised:
    def __init__(self, stages: str) -> None:
        command = [sys.executable, "-m", "tests.runtime.supervised", "supervisor", stages]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        self.port = int(self.line().removeprefix("port "))

    def line(self) -> str:
        return self.process.stdout.readline().strip()

    def started(self) -> int:
        return int(self.line().rsplit(" ", 1)[1])

    def rest(self) -> list[str]:
        """What is told until the last process that could tell anything is gone."""
        lines = self.process.stdout.read().splitlines()
        self.process.wait()
        return lines


@pytest.fixture
def supervise() -> Iterator[type[Supervised]]:
    made: list[Supervised] = []

    def make(stages: str) -> Supervised:
        made.append(Supervised(stages))
        return made[-1]

    yield make
    for supervised in made:
        if supervised.process.poll() is None:
            supervised.process.kill()
        supervised.process.stdout.close()
        supervised.process.wait()


def test_stages_start_in_order_and_end_backwards(supervise) -> None:
    """The first stage serves before the next one starts, and is the last one to end."""
    run = supervise("database:good;tokenizer:good;worker:good")
    assert [run.line().split()[0] for _ in range(4)] == ["database", "tokenizer", "worker", "ready"]
    run.process.send_signal(signal.SIGTERM)
    assert run.rest() == ["worker ended", "tokenizer ended", "database ended", "over"]
    assert run.process.returncode == 0


def test_interrupt_of_the_whole_group_keeps_the_order(supervise) -> None:
    """Ctrl-C in a terminal reaches the supervisor alone, so the order holds."""
    run = supervise("database:good;worker:good")
    assert [run.line().split()[0] for _ in range(3)] == ["database", "worker", "ready"]
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.rest() == ["worker ended", "database ended", "over"]


def test_killed_child_is_started_again(supervise) -> None:
    """What dies is running again, under another number."""
    run = supervise("worker:good")
    first = run.started()
    assert run.line() == "ready"
    os.kill(first, signal.SIGKILL)
    assert run.started() != first
    run.process.send_signal(signal.SIGTERM)
    assert run.rest()[-1] == "over"


def test_children_follow_a_killed_supervisor(supervise) -> None:
    """After kill -9 of the supervisor its children end by themselves, in their own order."""
    run = supervise("database:good;worker:good")
    assert [run.line().split()[0] for _ in range(3)] == ["database", "worker", "ready"]
    run.process.kill()
    assert sorted(run.rest()) == ["database ended", "worker ended"]


@pytest.mark.parametrize(
    ("mode", "why"),
    [("refusing", "failed: no room in here"), ("dying", "failed: worker exited with 3 before it was ready")],
)
def test_first_start_that_fails_ends_everything(supervise, mode: str, why: str) -> None:
    """A part that cannot start the first time is told in its own words, and nothing is left running."""
    run = supervise(f"database:good;worker:{mode}")
    assert run.started()
    assert run.rest() == ["database ended", why]
    assert run.process.returncode == 1


def test_second_interrupt_hastens(supervise) -> None:
    """A child that will not end in order is killed soon after the second signal."""
    run = supervise("database:good;worker:stubborn")
    assert [run.line().split()[0] for _ in range(3)] == ["database", "worker", "ready"]
    run.process.send_signal(signal.SIGINT)
    assert run.line() == "worker asked"
    run.process.send_signal(signal.SIGINT)
    assert run.rest() == ["worker asked", "database ended", "over"]


def test_successor_gets_the_backlog(supervise) -> None:
    """A connection made while a worker is away is served by its successor."""
    run = supervise("worker:serving")
    first = run.started()
    assert run.line() == "ready"
    os.kill(first, signal.SIGSTOP)
    with socket.create_connection(("127.0.0.1", run.port)) as connection:
        os.kill(first, signal.SIGKILL)
        second = run.started()
        assert int(connection.recv(100)) == second != first
    run.process.send_signal(signal.SIGTERM)
    assert run.rest()[-1] == "over"


@pytest.mark.database
async def test_killed_supervisor_and_its_postgres(supervise, reachable_dir: Path) -> None:
    """After kill -9 of a supervisor the next start ends the PostgreSQL it left and goes on with its data."""
    stages = f"postgres:{reachable_dir};worker:good"
    first = supervise(stages)
    assert first.started()
    assert first.line() == "ready"
    await ask(await attach(reachable_dir), "CREATE TABLE kept AS SELECT 7 AS number")
    first.process.kill()
    assert first.rest() == ["worker ended"]
    cluster = reachable_dir / "postgres" / "data"
    left = postmaster.running(cluster)
    second = supervise(stages)
    assert second.started()
    assert second.line() == "ready"
    assert postmaster.running(cluster).pid != left.pid
    assert await ask(await attach(reachable_dir), "SELECT number FROM kept") == 7
    second.process.send_signal(signal.SIGTERM)
    assert second.rest() == ["worker ended", "over"]
    assert postmaster.running(cluster) is None


@pytest.mark.database
async def test_killed_postgres_is_started_again(supervise, reachable_dir: Path) -> None:
    """A PostgreSQL that dies is running again, with what was committed."""
    run = supervise(f"postgres:{reachable_dir}")
    assert run.line() == "ready"
    await ask(await attach(reachable_dir), "CREATE TABLE kept AS SELECT 7 AS number")
    cluster = reachable_dir / "postgres" / "data"
    killed = postmaster.running(cluster)
    os.kill(killed.pid, signal.SIGKILL)
    while (server := postmaster.running(cluster)) is None or server.pid == killed.pid:
        await asyncio.sleep(0)
    assert await ask(await attach(reachable_dir), "SELECT number FROM kept") == 7
    run.process.send_signal(signal.SIGTERM)
    assert run.rest() == ["over"]


def test_waits_grow_and_are_forgotten() -> None:
    """Back-off doubles from 0.1 s to 10 s, and begins anew after a life of half a minute."""
    backoff = Backoff()
    waits = [backoff.next_delay_seconds(lived) for lived in (0, 0, 0, 29, 0, 0, 0, 0, 0, 30)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 0.1]
