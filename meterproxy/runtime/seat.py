"""A seat: where one child of a kind serves, whoever it is just now.

Rules
-----
- One that dies is started again on the same terms.
- One that is replaced goes when its successor serves, and takes its time in the background; where the successor cannot
  be started, it stays as if nothing had been asked.
- Whoever leaves is released once it is gone, never before: what it owned may then be given to others.
"""

import asyncio
from collections.abc import Callable

from meterproxy.runtime.keeping import cancelled
from meterproxy.runtime.part import ChildPart


class Seat:
    """A part whose child may be replaced while it serves.

    Args:
        make: makes a child that was not started yet.
        release: told of each child that is gone and will not be started again.

    Attributes:
        current: who serves, or was the last one that did.
    """

    def __init__(self, name: str, make: Callable[[], ChildPart], release: Callable[[ChildPart], None]) -> None:
        self.name = name
        self._make = make
        self._release = release
        self.current = make()
        self._coming: ChildPart | None = None
        self._leaving: dict[ChildPart, asyncio.Task[None]] = {}
        self._changing = asyncio.Lock()
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Have somebody serve. Raises StartFailed."""
        async with self._changing:
            if not self.current.running:
                await self.current.start()

    async def replace(self) -> None:
        """Let a new child take over as soon as it serves. Raises StartFailed; the old one then goes on."""
        async with self._changing:
            self._coming = self._make()
            try:
                await self._coming.start()
            except BaseException:
                self._release(self._coming)
                self._coming = None
                raise
            self._see_off(self.current)
            self.current, self._coming = self._coming, None
            self._changed.set()

    async def ended(self) -> str:
        """Wait until who serves just then ends by itself, and say how."""
        while True:
            current, self._changed = self.current, asyncio.Event()
            ending = asyncio.create_task(current.ended())
            changed = asyncio.create_task(self._changed.wait())
            try:
                await asyncio.wait((ending, changed), return_when=asyncio.FIRST_COMPLETED)
                if not changed.done():
                    return ending.result()
            finally:
                await cancelled([ending, changed])

    async def stop(self) -> None:
        """End everybody who is here, as soon as that goes."""
        here = [self.current, *self._leaving]
        await asyncio.gather(*(child.stop() for child in here), return_exceptions=True)
        self._release(self.current)
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)

    async def leave(self) -> None:
        """Give the seat up: whoever serves takes its leave, and nobody follows."""
        self._see_off(self.current)
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)

    def hasten(self) -> None:
        """Cut short whatever is ending."""
        for child in (self.current, *self._leaving):
            child.hasten()

    def _see_off(self, child: ChildPart) -> None:
        self._leaving[child] = asyncio.create_task(self._seen_off(child), name=f"the leave of a {child.name}")

    async def _seen_off(self, child: ChildPart) -> None:
        try:
            await child.leave()
        finally:
            self._release(child)
            self._leaving.pop(child, None)
