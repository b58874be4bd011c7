"""Parts: what a supervisor keeps running. A child process is one; the embedded PostgreSQL is another.

Rules
-----
- `start` returns when the part serves, or raises; after it raised nothing of it is left running.
- `stop` returns when nothing of the part is left, however unwilling it is; it may be called at any time.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

from meterproxy.errors import StartFailed
from meterproxy.runtime.child import Child, Spawned, describe_exit
from meterproxy.runtime.parent import PARENT_FD, READY_FD

_log = logging.getLogger(__name__)

_LINE_BYTES: Final = 4_096
_HASTE_SECONDS: Final = 4.0


class Part(Protocol):
    """Something that runs beside us, is watched, and is ended by us."""

    name: str

    async def start(self) -> None:
        """Run it, and wait until it serves. Raises StartFailed."""
        ...

    async def ended(self) -> str:
        """Wait until it ends by itself, and say how."""
        ...

    async def stop(self) -> None:
        """End it in order, by force where that takes too long."""
        ...

    def hasten(self) -> None:
        """Cut a stop that is under way short."""
        ...


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to run one child process: by its command, or by `fork` where a fork server has its program.

    `environment` is added to ours; the child inherits `descriptors` and finds the number of each in the environment,
    under its name. With `says_ready` the child calls
    `parent.say_ready` within `ready_seconds`, else it counts as serving once it was started. It has `stop_seconds` to
    end after `stop_signal`, and `leave_seconds` after `leave_signal`, with which it makes room for its successor.
    """

    name: str
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    descriptors: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    fork: Callable[[Mapping[str, str], Mapping[str, int]], Awaitable[Child]] | None = None
    says_ready: bool = True
    ready_seconds: float = 60.0
    stop_signal: int = signal.SIGTERM
    stop_seconds: float = 30.0
    leave_signal: int = signal.SIGTERM
    leave_seconds: float = 30.0


class ChildPart:
    """A child process as a part.

    Args:
        spec: how to run it.
        parent_fd: the end to read of a pipe that only the supervisor holds open; the child sees it end with us.
    """

    def __init__(self, spec: ChildSpec, parent_fd: int) -> None:
        self.name = spec.name
        self._spec = spec
        self._parent_fd = parent_fd
        self._child: Child | None = None
        self._hastened = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._child.pid if self._child else None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended since."""
        return self._child is not None and self._child.exit_code is None

    async def start(self) -> None:
        """Run it, and wait for its word. Raises StartFailed."""
        try:
            read_end, write_end = os.pipe()
        except OSError as error:
            raise StartFailed(f"{self.name} cannot be run: {error}") from error
        os.set_blocking(read_end, False)
        try:
            self._child = await self._spawned(write_end)
            if self._spec.says_ready:
                await self._until_ready(self._child, read_end)
        except BaseException:
            await self._end_at_once()
            raise
        finally:
            os.close(read_end)

    async def ended(self) -> str:
        """Wait until it ends, and say how."""
        return describe_exit(await self._child.ended()) if self._child else "never ran"

    async def stop(self) -> None:
        """Signal it, wait, and kill it where it does not end."""
        await self._end_by(self._spec.stop_signal, self._spec.stop_seconds)

    async def leave(self) -> None:
        """The same where its successor serves already: it may take its leave of clients."""
        await self._end_by(self._spec.leave_signal, self._spec.leave_seconds)

    def hasten(self) -> None:
        """Signal it once more, and give it a few seconds."""
        if self._child is not None:
            self._child.send(self._spec.stop_signal)
        self._hastened.set()

    def kill(self) -> None:
        """End it by force; whoever waits for its end hears of it."""
        if self._child is not None:
            self._child.send(signal.SIGKILL)

    async def _end_by(self, signal_number: int, seconds: float) -> None:
        child = self._child
        if child is None:
            return
        child.send(signal_number)
        if not await self._ends_within(child, seconds):
            _log.warning("%s did not end in time and is killed", self.name)
        await self._end_at_once()

    async def _spawned(self, ready_fd: int) -> Child:
        spec = self._spec
        descriptors = {**spec.descriptors, READY_FD: ready_fd, PARENT_FD: self._parent_fd}
        try:
            if spec.fork is not None:
                return await spec.fork(spec.environment, descriptors)
            numbers = {name: str(descriptor) for name, descriptor in descriptors.items()}
            environment = {**os.environ, **spec.environment, **numbers}
            return Spawned(spec.command, environment=environment, pass_fds=tuple(descriptors.values()))
        except OSError as error:
            raise StartFailed(f"{self.name} cannot be run: {error}") from error
        finally:
            os.close(ready_fd)

    async def _until_ready(self, child: Child, descriptor: int) -> None:
        try:
            async with asyncio.timeout(self._spec.ready_seconds):
                said = await _line_from(descriptor)
        except TimeoutError:
            raise StartFailed(f"{self.name} was not ready after {self._spec.ready_seconds:g} s") from None
        if said == "ready":
            return
        if said.startswith("failed "):
            raise StartFailed(said.removeprefix("failed "))
        how = describe_exit(await child.ended()) if await child.ends_within(_HASTE_SECONDS) else "closed its pipe"
        raise StartFailed(f"{self.name} {how} before it was ready")

    async def _ends_within(self, child: Child, seconds: float) -> bool:
        hastened = asyncio.create_task(self._hastened.wait())
        ended = asyncio.create_task(child.ended())
        try:
            await asyncio.wait((hastened, ended), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if hastened.done() and not ended.done():
                await asyncio.wait((ended,), timeout=_HASTE_SECONDS)
            return ended.done()
        finally:
            hastened.cancel()
            ended.cancel()
            self._hastened.clear()

    async def _end_at_once(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.send(signal.SIGKILL)
            await child.ended()


async def _line_from(descriptor: int) -> str:
    """The first line of a pipe; what came before its end if it has none."""
    loop = asyncio.get_running_loop()
    received = bytearray()
    done = loop.create_future()

    def read() -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(descriptor, _LINE_BYTES)
            received.extend(data)
            if (not data or b"\n" in data or len(received) > _LINE_BYTES) and not done.done():
                done.set_result(None)

    loop.add_reader(descriptor, read)
    try:
        await done
    finally:
        loop.remove_reader(descriptor)
    return received.decode("utf-8", "replace").partition("\n")[0]
