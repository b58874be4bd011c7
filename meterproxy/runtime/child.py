"""Child processes: started without help of the event loop's own machinery, awaited through their pidfds.

Rules
-----
- A child never shares the terminal's process group: Ctrl-C reaches the supervisor alone, which ends things in order.
- `send` never signals a child that was reaped, so never a stranger.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from meterproxy.runtime.unprivileged import RunAs

UNSEEN_EXIT: Final = 256
"""For the exit code of a child whose parent could not tell it; no process ends with it."""

_POLL_SECONDS: Final = 0.05


class Child(ABC):
    """One process of ours, from its start to its exit code."""

    pid: int

    @property
    @abstractmethod
    def exit_code(self) -> int | None:
        """As `subprocess` says it (negative: the signal that ended it); None while it runs."""

    @abstractmethod
    def send(self, signal_number: int) -> None:
        """Signal the process if it still runs."""

    @abstractmethod
    async def ended(self) -> int:
        """Wait until the process has ended and give its exit code; cancelling the wait changes nothing."""

    async def ends_within(self, seconds: float) -> bool:
        """Wait for the end for at most so long; whether it came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ended()
                return True
        return False


class Spawned(Child):
    """A command that runs at once, inherits only `pass_fds`, and reads nothing from stdin."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        output: int | None = None,
        run_as: RunAs | None = None,
        directory: Path | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=None if environment is None else dict(environment),
            cwd=directory,
            pass_fds=pass_fds,
            start_new_session=True,
            umask=0o077 if run_as else -1,
            user=run_as and run_as.uid,
            group=run_as and run_as.gid,
            extra_groups=[] if run_as else None,
        )
        self.pid = self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def send(self, signal_number: int) -> None:
        self._process.send_signal(signal_number)

    async def ended(self) -> int:
        if (code := self.exit_code) is not None:
            return code
        try:
            descriptor = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            return await self._polled()
        try:
            await readable(descriptor)
        finally:
            os.close(descriptor)
        return self._process.wait()

    async def _polled(self) -> int:
        while (code := self._process.poll()) is None:  # noqa: ASYNC110 - without pidfd nothing else tells
            await asyncio.sleep(_POLL_SECONDS)
        return code


async def readable(descriptor: int) -> None:
    """Wait until there is something to read, or nothing more to come; of a pidfd: until its process has ended.

    Any number may wait for the same one.
    """
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    own = os.dup(descriptor)  # a loop knows one reader for each number
    loop.add_reader(own, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(own)
        os.close(own)


def describe_exit(code: int) -> str:
    """An exit code in words: "exited with 1", "was ended by SIGKILL"."""
    if code == UNSEEN_EXIT:
        return "ended, and nobody saw how"
    if code >= 0:
        return f"exited with {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
