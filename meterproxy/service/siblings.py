"""Siblings: what a worker asks the other processes of its host, and what it answers them.

Rules
-----
- Nobody is waited for beyond his time; without an answer a worker does what it can alone.
- Figures are the host's or none: the supervisor puts them together (`figures`), since one worker's alone would look
  like counters that went back.
- A worker that ends without having been replaced asks for a successor, so that nobody waits in its socket's queue for
  as long as its own exchanges take.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from meterproxy.errors import ApiError, Case, StoreUnavailable
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.runtime.metrics import CONTENT_TYPE, Metrics
from meterproxy.runtime.peers import answer_at, ask, ask_all
from meterproxy.runtime.together import Together
from meterproxy.service.figures import FAREWELL, HOST, HOST_SECONDS, METRICS, WORKER_SECONDS, socket_of

SETTLE: Final = "settle"
SUCCESSOR: Final = "successor"
FRESH_SECONDS: Final = 1.0


class Siblings:
    """One worker among those of its host.

    Args:
        settle: settles what this one has captured.
        count: how many workers the whole fleet has. Raises StoreUnavailable.
        others_seconds: what workers of other hosts take to settle by themselves.
    """

    def __init__(
        self,
        run_dir: Path,
        slot: int,
        metrics: Metrics,
        settle: Callable[[], Awaitable[None]],
        count: Callable[[], Awaitable[int]],
        others_seconds: float,
    ) -> None:
        self._run_dir = run_dir
        self._slot = slot
        self._metrics = metrics
        self._settle = settle
        self._count = count
        self._others_seconds = others_seconds
        self._server: asyncio.Server | None = None
        self.settle_everywhere: Final = Together(self._settle_everywhere)
        """Have settled what all workers captured before now; for at most a second, once for all who ask together."""

    async def answer(self) -> None:
        """Begin to answer; this worker owns its slot."""
        path = socket_of(self._run_dir, self._slot)
        self._server = await answer_at(path, {METRICS: self._asked_for_figures, SETTLE: self._asked_to_settle})

    def close(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()
            socket_of(self._run_dir, self._slot).unlink(missing_ok=True)

    async def exposition(self) -> tuple[bytes, str]:
        """The metrics of the whole host. Raises ApiError where its supervisor does not answer."""
        text = await ask(self._run_dir / HOST, METRICS, HOST_SECONDS)
        if text is None:
            raise ApiError(Case.UNAVAILABLE, "The host's figures cannot be had right now.")
        return text, CONTENT_TYPE

    async def _settle_everywhere(self) -> None:
        """Those of this host are asked. Others settle by themselves all the time, so where there are any it is waited
        for as long as that takes.
        """
        own = socket_of(self._run_dir, self._slot)
        here = [path for path in own.parent.glob("worker-*") if path != own]
        loop = asyncio.get_running_loop()
        over = loop.time() + self._others_seconds
        with contextlib.suppress(TimeoutError, StoreUnavailable):
            async with asyncio.timeout(FRESH_SECONDS):
                _, answered = await asyncio.gather(self._settle(), ask_all(here, SETTLE, FRESH_SECONDS))
                if await self._count() > 1 + len(answered):
                    await asyncio.sleep(over - loop.time())

    async def ask_for_successor(self) -> None:
        """Have the supervisor start somebody on this worker's seat."""
        await ask(self._run_dir / HOST, SUCCESSOR, WORKER_SECONDS, str(self._slot).encode())

    async def say_farewell(self) -> None:
        """Leave this worker's last figures with the supervisor."""
        await ask(self._run_dir / HOST, FAREWELL, WORKER_SECONDS, await self._asked_for_figures())

    async def _asked_for_figures(self, _question: bytes = b"") -> bytes:
        return msgspec.msgpack.encode(await self._metrics.snapshot(self._slot))

    async def _asked_to_settle(self, _question: bytes) -> bytes:
        await self._settle()
        return b"settled"


async def settle_now(ledger: WorkerLedger) -> None:
    """Settle what a worker captured before now, and report what is held; for at most a second."""
    with contextlib.suppress(TimeoutError, StoreUnavailable):
        async with asyncio.timeout(FRESH_SECONDS):
            await ledger.settler.catch_up()
            await ledger.borrower.report()
