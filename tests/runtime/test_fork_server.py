"""The fork server, with real processes."""

import asyncio
import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from meterproxy.errors import StartFailed
from meterproxy.runtime import fork_server as module
from meterproxy.runtime.child import UNSEEN_EXIT, describe_exit
from meterproxy.runtime.fork_server import Forked, ForkServer
from meterproxy.runtime.parent import READY_FD
from meterproxy.runtime.supervisor import ParentPipe

COMMAND = (sys.executable, "-m", "tests.runtime.forked")


class Pipe:
    """A pipe whose ends are closed once."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)

    async def line(self) -> Any:
        return json.loads(await asyncio.to_thread(os.read, self.read_end, 65_536))


@pytest.fixture
async def server() -> AsyncIterator[ForkServer]:
    pipe = ParentPipe()
    made = ForkServer(COMMAND, pipe.read_end)
    await made.start()
    yield made
    await made.stop()
    pipe.close()


@pytest.fixture
async def pipe() -> AsyncIterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def pid_of(server: ForkServer) -> int:
    assert server._part is not None
    assert server._part.pid is not None
    return server._part.pid


def open_in(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def test_a_child_has_what_it_was_given_and_nothing_else(server: ForkServer, pipe: Pipe) -> None:
    """Variables, descriptors under numbers of its own, a session of its own; also when others came before it."""
    waits = Pipe()
    earlier = [await server.fork({"DO": "wait"}, {"OUT": pipe.write_end, "WAIT": waits.read_end}) for _ in range(3)]
    own, idle = Pipe(), Pipe()
    child = await server.fork({"DO": "exit 0", "GIVEN": "ü = x"}, {"OUT": own.write_end, "IDLE": idle.read_end})
    found = await own.line()
    assert await child.ended() == child.exit_code == 0
    assert found["pid"] == found["session"] == child.pid
    assert found["variables"]["GIVEN"] == "ü = x"
    assert not [name for name in found["variables"] if name.startswith("METERPROXY_INTERNAL_FORKS")]
    assert found["open"] == sorted(
        str(Path(f"/proc/self/fd/{end}").readlink()) for end in (own.write_end, idle.read_end)
    )
    for one in earlier:
        one.send(signal.SIGKILL)
        assert await one.ended() == -signal.SIGKILL
    for made in (waits, own, idle):
        made.close()


@pytest.mark.parametrize(("end", "code"), [("exit 0", 0), ("exit 3", 3), ("die 11", -11), ("die 9", -9)])
async def test_how_a_child_ends_is_told_to_everybody_who_waits(
    server: ForkServer, pipe: Pipe, end: str, code: int
) -> None:
    """Its exit code, or the signal that ended it."""
    child = await server.fork({"DO": end}, {"OUT": pipe.write_end})
    given_up = asyncio.create_task(child.ended())
    await asyncio.sleep(0)
    given_up.cancel()
    assert await asyncio.gather(child.ended(), child.ended()) == [code, code]
    assert await child.ends_within(30)
    child.send(signal.SIGTERM)  # to nobody


async def test_a_child_runs_until_it_is_told(server: ForkServer, pipe: Pipe) -> None:
    """There is no exit code before; a signal reaches it."""
    waits = Pipe()
    child = await server.fork({"DO": "wait"}, {"OUT": pipe.write_end, "WAIT": waits.read_end})
    await pipe.line()
    assert child.exit_code is None
    assert not await child.ends_within(0)
    child.send(signal.SIGTERM)
    assert await child.ended() == -signal.SIGTERM
    waits.close()


async def test_a_server_keeps_nothing_of_children_that_have_ended(server: ForkServer, pipe: Pipe) -> None:
    """No descriptor, no zombie."""
    counts = []
    for _ in range(20):
        assert await (await server.fork({"DO": "exit 0"}, {"OUT": pipe.write_end})).ended() == 0
        await pipe.line()
        counts.append(open_in(pid_of(server)))
    assert max(counts) - min(counts) <= 1  # it may not have closed what it has just told through
    assert Path(f"/proc/{pid_of(server)}/task/{pid_of(server)}/children").read_text() == ""


async def test_children_outlive_their_server_and_another_takes_its_place(server: ForkServer, pipe: Pipe) -> None:
    """Where it was killed, who wants a child waits until it runs again; how the earlier ones end is not known."""
    waits = Pipe()
    child = await server.fork({"DO": "wait"}, {"OUT": pipe.write_end, "WAIT": waits.read_end})
    found = await pipe.line()
    os.kill(pid_of(server), signal.SIGKILL)
    assert await server.ended() == "was ended by SIGKILL"
    assert found["pid"] == child.pid
    assert child.exit_code is None
    waiting = asyncio.create_task(server.fork({"DO": "exit 5"}, {"OUT": pipe.write_end}))
    await server.start()
    assert await (await waiting).ended() == 5
    os.write(waits.write_end, b"x")
    assert describe_exit(await child.ended()) == "ended, and nobody saw how"
    waits.close()


async def test_a_process_1_learns_how_those_end_who_have_lost_their_server(server: ForkServer, pipe: Pipe) -> None:
    """Orphans are given to it, here because it asks for them; it waits for them, so that none stays a zombie."""
    waits = Pipe()
    child = await server.fork({"DO": "wait"}, {"OUT": pipe.write_end, "WAIT": waits.read_end})
    await pipe.line()
    with _given_orphans():
        os.kill(pid_of(server), signal.SIGKILL)
        await server.ended()
        os.write(waits.write_end, b"x")
        assert describe_exit(await child.ended()) == "exited with 7"
        assert not Path(f"/proc/{child.pid}").exists()
    waits.close()


@contextlib.contextmanager
def _given_orphans() -> Iterator[None]:
    set_child_subreaper = 36
    libc = ctypes.CDLL(None)
    assert libc.prctl(set_child_subreaper, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        libc.prctl(set_child_subreaper, 0, 0, 0, 0)


async def test_a_server_that_is_stuck_is_killed(
    server: ForkServer, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it is started again, and the supervisor does not wait for ever."""
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.05)
    await server.stop()
    await server.start()
    os.kill(pid_of(server), signal.SIGSTOP)
    with pytest.raises(StartFailed, match="does not answer"):
        await server.fork({"DO": "exit 0"}, {"OUT": pipe.write_end})
    assert await server.ended() == "was ended by SIGKILL"


async def test_without_a_server_that_somebody_keeps_nothing_is_forked(server: ForkServer, pipe: Pipe) -> None:
    """Who waited would wait for ever: nobody has seen it die, or it was ended on purpose."""
    os.kill(pid_of(server), signal.SIGKILL)
    assert server._part is not None
    await server._part.ended()
    with pytest.raises(StartFailed, match="the fork server does not answer"):
        await server.fork({"DO": "exit 0"}, {"OUT": pipe.write_end})
    await server.stop()
    with pytest.raises(StartFailed, match="the fork server does not run"):
        await server.fork({"DO": "exit 0"}, {"OUT": pipe.write_end})


async def test_a_child_that_ends_beside_a_server_that_is_stuck_is_missed(
    server: ForkServer, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever to be told how it ended: it is followed, or the service ends."""
    monkeypatch.setattr(module, "_TOLD_SECONDS", 0.05)
    waits = Pipe()
    child = await server.fork({"DO": "wait"}, {"OUT": pipe.write_end, "WAIT": waits.read_end})
    await pipe.line()
    os.kill(pid_of(server), signal.SIGSTOP)
    child.send(signal.SIGKILL)
    assert await asyncio.gather(child.ended(), child.ended()) == [UNSEEN_EXIT, UNSEEN_EXIT]
    assert await child.ends_within(0)
    os.kill(pid_of(server), signal.SIGCONT)
    waits.close()


async def test_a_server_ends_with_its_supervisor(pipe: Pipe) -> None:
    """As soon as its socket does."""
    parent = ParentPipe()
    server = ForkServer(COMMAND, parent.read_end)
    await server.start()
    child: Forked = await server.fork({"DO": "exit 0"}, {"OUT": pipe.write_end})
    assert await child.ended() == 0
    server._hang_up()
    assert await server.ended() == "exited with 0"
    parent.close()


async def test_a_server_whose_supervisor_has_given_it_up_while_it_forks_ends_in_order(
    server: ForkServer, pipe: Pipe
) -> None:
    """Nobody takes the child that it has made; the child hears so when it says that it is ready."""
    os.kill(pid_of(server), signal.SIGSTOP)
    assert server._server is not None
    ready = Pipe()
    wish = json.dumps([{"DO": "say ready"}, ["OUT", READY_FD]]).encode()
    socket.send_fds(server._server, [wish], [pipe.write_end, ready.write_end])
    os.close(ready.write_end)
    os.close(ready.read_end)
    server._hang_up()
    os.kill(pid_of(server), signal.SIGCONT)
    assert await server.ended() == "exited with 0"
    assert (await pipe.line())["heard"] is False


async def test_a_supervisor_without_descriptors_left_says_so(server: ForkServer, pipe: Pipe) -> None:
    """It keeps none of what it could not take, and can have children again afterwards."""
    before = open_in(os.getpid())
    for free in (0, 1):
        with _only(free):
            with pytest.raises(StartFailed, match="what was forked cannot be kept: Too many open files"):
                await server.fork({"DO": "exit 0"}, {"OUT": pipe.write_end})
        await pipe.line()
        assert open_in(os.getpid()) == before
    assert await (await server.fork({"DO": "exit 5"}, {"OUT": pipe.write_end})).ended() == 5


@contextlib.contextmanager
def _only(free: int) -> Iterator[None]:
    """So many descriptors can be opened in this process, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    made = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (made[0] + 8, hard))
    with contextlib.suppress(OSError):
        while True:
            made.append(os.open(os.devnull, os.O_RDONLY))
    for _ in range(free):
        os.close(made.pop())
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in made:
            os.close(descriptor)


async def test_what_cannot_be_forked_is_said(server: ForkServer, pipe: Pipe) -> None:
    """A limit that is reached is no reason for the server to end."""
    pid = pid_of(server)
    assert await (await server.fork({"DO": "exit 0"}, {"OUT": pipe.write_end})).ended() == 0
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_in(pid), before[1]))
    with pytest.raises(StartFailed, match=r"cannot fork: .*Too many open files"):
        await server.fork({"DO": "exit 0"}, {})
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert await (await server.fork({"DO": "exit 0"}, {"OUT": pipe.write_end})).ended() == 0
