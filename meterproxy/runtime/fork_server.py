"""The fork server: a process that has imported a program once and forks a child of it whenever it is asked.

Such a child serves after a fraction of what a new interpreter needs to import the program, and shares its memory with
the others.

Rules
-----
- The server has one thread, no event loop and nothing open but its socket: a fork tears nothing apart.
- It decides nothing. It tells how its children end; when it dies they go on, and only a supervisor that is process 1
  learns their exit codes.
- It goes when the supervisor does.
- A child of which the supervisor could not be told ends when it has nobody to say that it is ready to.
"""

import asyncio
import contextlib
import errno
import gc
import json
import os
import select
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Final

from meterproxy.errors import StartFailed
from meterproxy.runtime.child import UNSEEN_EXIT, Child, readable
from meterproxy.runtime.parent import PARENT_FD, call_process, die_with_parent, say_ready
from meterproxy.runtime.part import ChildPart, ChildSpec

FORKS_FD: Final = "METERPROXY_INTERNAL_FORKS_FD"

_WISH_BYTES: Final = 65_536
_MOST_DESCRIPTORS: Final = 16
_ANSWER_SECONDS: Final = 10.0
_TOLD_SECONDS: Final = 2.0
"""A server that has not told so long after a child's end how it was is stuck."""


class Forked(Child):
    """A child that the fork server has made: signalled by its pidfd; its exit code comes through a pipe."""

    def __init__(self, pid: int, pidfd: int, exit_pipe: int) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._exit_pipe = exit_pipe
        self._exit_code: int | None = None
        os.set_blocking(exit_pipe, False)

    def __del__(self) -> None:
        os.close(self._pidfd)
        os.close(self._exit_pipe)

    @property
    def exit_code(self) -> int | None:
        """As `subprocess` says it; `UNSEEN_EXIT` where the server could not tell; None until it is known."""
        if self._exit_code is None:
            with contextlib.suppress(BlockingIOError):
                if told := os.read(self._exit_pipe, 16):
                    self._exit_code = int(told)
                elif _is_over(self._pidfd):
                    self._exit_code = _inherited_exit(self.pid)
        return self._exit_code

    def send(self, signal_number: int) -> None:
        """Signal the process if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal_number)

    async def ended(self) -> int:
        """Wait until the process has ended and give its exit code; cancelling the wait changes nothing."""
        if (code := self.exit_code) is not None:
            return code
        await readable(self._pidfd)  # the kernel tells, whatever has become of the server
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TOLD_SECONDS):
                await readable(self._exit_pipe)
        if (code := self.exit_code) is None:
            code = self._exit_code = UNSEEN_EXIT
        return code


class ForkServer:
    """The fork server as a part of the supervisor's; it forks while it runs.

    Args:
        command: what calls `fork_when_asked`.
        parent_fd: as for every child.
    """

    name = "fork server"

    def __init__(self, command: tuple[str, ...], parent_fd: int) -> None:
        self._command = command
        self._parent_fd = parent_fd
        self._part: ChildPart | None = None
        self._server: socket.socket | None = None
        self._runs = asyncio.Event()
        self._returns = False
        """Whether somebody has heard that it ended, who starts it again."""

    async def start(self) -> None:
        """Run it, and wait until it has imported the program. Raises StartFailed."""
        self._hang_up()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            spec = ChildSpec(self.name, self._command, descriptors={FORKS_FD: theirs.fileno()}, stop_seconds=5.0)
            self._part = ChildPart(spec, self._parent_fd)
            try:
                await self._part.start()
            except BaseException:
                ours.close()
                raise
        ours.settimeout(_ANSWER_SECONDS)
        self._server = ours
        self._runs.set()

    async def ended(self) -> str:
        """Wait until it ends, and say how; its children go on. Whoever was told is to start it again."""
        how = await self._part.ended() if self._part else "never ran"
        self._hang_up()
        self._returns = True
        return how

    async def stop(self) -> None:
        """End it; its children go on."""
        self._hang_up()
        self._returns = False
        if self._part is not None:
            await self._part.stop()

    def hasten(self) -> None:
        """It never takes long."""

    async def fork(self, environment: Mapping[str, str], descriptors: Mapping[str, int]) -> Forked:
        """A new child, which runs already; where the server is about to be started again, as soon as it is.

        Args:
            environment: added to the server's.
            descriptors: what the child inherits, by the variable in which it finds the number.

        Raises:
            StartFailed: the server is gone, or cannot fork.
        """
        if self._returns:
            await self._runs.wait()
        if self._server is None:
            raise StartFailed("the fork server does not run")
        wish = json.dumps([dict(environment), list(descriptors)]).encode()
        try:
            socket.send_fds(self._server, [wish], list(descriptors.values()))
            told, received, flags, _ = socket.recv_fds(self._server, _WISH_BYTES, 2)
        except OSError as error:
            self._give_up()
            raise StartFailed(f"the fork server does not answer: {error}") from error
        if len(received) == 2:
            return Forked(int(told), *received)
        for descriptor in received:
            os.close(descriptor)
        if flags & socket.MSG_CTRUNC:
            raise StartFailed(f"what was forked cannot be kept: {os.strerror(errno.EMFILE)}")
        raise StartFailed(f"the fork server cannot fork: {told.decode('utf-8', 'replace') or 'it is gone'}")

    def _give_up(self) -> None:
        """Have a server that is stuck started again."""
        self._hang_up()
        if self._part is not None:
            self._part.kill()

    def _hang_up(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._runs.clear()


def fork_when_asked(run: Callable[[], int]) -> int:
    """Be the fork server of the supervisor that started this process; answers the exit code.

    It returns in the server when the supervisor is gone, and in each child what `run` says there.
    """
    die_with_parent()
    os.close(int(os.environ.pop(PARENT_FD)))  # each child has one of its own, and the socket tells the same
    call_process("mp fork server")
    gc.collect()
    gc.freeze()  # what is never looked through again stays shared
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends them to everybody; the supervisor decides
    with socket.socket(fileno=int(os.environ.pop(FORKS_FD))) as wishes:
        say_ready()
        is_child = _Forks(wishes).serve()
    return run() if is_child else 0


class _Forks:
    """The server's own process: its socket and its children, by pidfd."""

    def __init__(self, wishes: socket.socket) -> None:
        self._wishes = wishes
        self._children: dict[int, tuple[int, int]] = {}
        self._poll = select.poll()
        self._poll.register(wishes, select.POLLIN)

    def serve(self) -> bool:
        """Fork until the supervisor is gone: then False; True in a child."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor != self._wishes.fileno():
                    self._reap(descriptor)
                    continue
                try:
                    wish, received, _, _ = socket.recv_fds(self._wishes, _WISH_BYTES, _MOST_DESCRIPTORS)
                except ConnectionError:  # the supervisor has ended without reading an answer
                    return False
                if not wish:
                    return False
                if self._fork(wish, received):
                    return True

    def _fork(self, wish: bytes, received: list[int]) -> bool:
        """Make a child and tell of it, or why there is none; True in the child."""
        environment, names = json.loads(wish)
        with contextlib.ExitStack() as given_away:
            for descriptor in received:
                given_away.callback(os.close, descriptor)
            if len(received) < len(names):
                self._tell(os.strerror(errno.EMFILE))
                return False
            try:
                read_end, write_end = os.pipe()
                given_away.callback(os.close, read_end)
                pidfd = self._forked(write_end)
            except OSError as error:
                self._tell(str(error))
                return False
            if pidfd is not None:
                pid, _ = self._children[pidfd]
                self._tell(str(pid), pidfd, read_end)
                return False
            os.close(read_end)
            given_away.pop_all()
        os.setsid()
        os.environ.update(environment)
        os.environ.update({name: str(descriptor) for name, descriptor in zip(names, received, strict=True)})
        return True

    def _tell(self, answer: str, *descriptors: int) -> None:
        with contextlib.suppress(OSError):  # where nobody listens any more, the next wish is the end
            socket.send_fds(self._wishes, [answer.encode()], descriptors)

    def _forked(self, exit_pipe: int) -> int | None:
        """A new child's pidfd; None in the child, which has nothing of the server's open. Raises OSError."""
        pid = -1
        try:
            pid = os.fork()
            if pid == 0:
                os.close(exit_pipe)
                for pidfd, (_, other_pipe) in self._children.items():
                    os.close(pidfd)
                    os.close(other_pipe)
                return None
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.close(exit_pipe)
            if pid > 0:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            raise
        self._children[pidfd] = pid, exit_pipe
        self._poll.register(pidfd, select.POLLIN)
        return pidfd

    def _reap(self, pidfd: int) -> None:
        pid, exit_pipe = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(BrokenPipeError):
            os.write(exit_pipe, str(code).encode())
        os.close(exit_pipe)


def _inherited_exit(pid: int) -> int:
    """How a child has ended that the dead server had not waited for: ours to wait for where we are process 1."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, os.WNOHANG)[1])
    except ChildProcessError:
        return UNSEEN_EXIT


def _is_over(pidfd: int) -> bool:
    """Whether this process has ended."""
    look = select.poll()
    look.register(pidfd, select.POLLIN)
    return bool(look.poll(0))
