"""The crew: the workers of a host, one on each seat, and how another configuration takes hold of them.

A *seat* is a listening socket and the worker that serves it; a *slot* is a journal. A seat keeps its socket for good; a
worker takes the lowest slot that no other worker of this host has.

Rules
-----
- A worker that dies is started again on its seat and its slot, and so recovers its own journal.
- With another configuration workers are replaced one after the other. The successor begins on a slot of its own and
  serves, together with the old worker, on the same socket; only then the old one leaves. So no connection is refused,
  none has to wait, and no journal ever has two owners.
- Where a successor cannot start, those before it are replaced once more, by the configuration that was in force.
- A slot is free again when its worker is gone. What a worker that did not end in order has left in it is settled by
  whichever worker takes it next, or by any that finds it ownerless (`heirs`).
"""

import asyncio
import itertools
import logging
import os
import socket
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from meterproxy.config import Config
from meterproxy.errors import StartFailed
from meterproxy.runtime.fork_server import ForkServer
from meterproxy.runtime.keeping import cancelled, keep, start_together, stop_together
from meterproxy.runtime.listening import share
from meterproxy.runtime.part import ChildPart, ChildSpec
from meterproxy.runtime.seat import Seat
from meterproxy.service.handover import LEAVE_SIGNAL, LINGER_SECONDS, LISTENING_FD, WORKER_FD, Handover, hand_over

SPARE_STOP_SECONDS: Final = 15.0
"""What a worker has beyond `drain_seconds` to settle and give back its leases."""
WORKER_READY_SECONDS: Final = 86_400.0
"""A worker is ready only when the database is; an operator ends the wait, not a timer."""

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Premises:
    """What all workers of a host share whatever the configuration: the database, the sockets, where they come from."""

    dsn: str
    direct_dsn: str
    pooled: bool
    run_dir: Path
    parent_fd: int
    fork_server: ForkServer


class Crew:
    """All workers of a host, as one part.

    Args:
        config: what is in force at first.
        sockets: one per seat; seats that come later share their port.
    """

    name = "workers"

    def __init__(self, premises: Premises, config: Config, sockets: list[socket.socket]) -> None:
        self._premises = premises
        self._config = config
        self._sockets = sockets
        self._seats: list[Seat] = []
        self._given_up: dict[Seat, asyncio.Task[None]] = {}
        self._keepers: dict[Seat, asyncio.Task[None]] = {}
        self._slots: dict[ChildPart, int] = {}
        self._handovers: dict[ChildPart, int] = {}
        self._change: asyncio.Task[None] | None = None
        self._succeeding: set[asyncio.Task[None]] = set()
        self._ending = False

    async def start(self) -> None:
        """Have all seats served. Raises StartFailed; then none is."""
        try:
            self._seats = [self._seat(number) for number in range(len(self._sockets))]
            await start_together(self._seats)
        except BaseException:
            await stop_together(self._seats)
            raise
        for seat in self._seats:
            self._keep(seat)

    @property
    def complete(self) -> bool:
        """Whether all workers of the start serve, so that they may be replaced."""
        return bool(self._keepers)

    async def ended(self) -> str:
        """Never: each worker is kept by itself."""
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never

    async def stop(self) -> None:
        """End all workers, also those that are leaving already."""
        self._ending = True
        changing = [self._change] if self._change is not None else []
        await cancelled([*changing, *self._succeeding, *self._keepers.values()])
        await stop_together([*self._seats, *self._given_up])

    def hasten(self) -> None:
        """Cut short whatever is ending."""
        for seat in (*self._seats, *self._given_up):
            seat.hasten()

    def follow(self, config: Config) -> None:
        """Bring another configuration into force; one that is still on its way is given up where it got to."""
        earlier = self._change
        self._change = asyncio.create_task(self._follow(config, earlier), name="another configuration")

    async def succeed(self, slot: bytes) -> bytes:
        """Replace a worker that ends though nobody here has told it to, while its exchanges still run."""
        seat = next((seat for seat in self._seats if self._slots.get(seat.current) == int(slot)), None)
        if seat is None or self._ending:
            return b"no"
        _log.warning("%s ends by itself; its successor is started", seat.name)
        self._succeeding.add(succeeding := asyncio.create_task(self._replaced(seat)))
        succeeding.add_done_callback(self._succeeding.discard)
        return b"yes"

    async def _replaced(self, seat: Seat) -> None:
        try:
            await seat.replace()
        except StartFailed as error:
            _log.error("%s has no successor yet: %s", seat.name, error)

    # ── another configuration ───────────────────────────────────────────────────────────────────────────────────────

    async def _follow(self, config: Config, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None and not earlier.done():
            earlier.cancel()
            await asyncio.wait((earlier,))
        before, self._config = self._config, config
        replaced: list[Seat] = []
        try:
            for seat in self._seats[: config.workers]:
                await seat.replace()
                replaced.append(seat)
            while len(self._seats) < config.workers:
                await self._add()
        except (StartFailed, OSError) as error:
            _log.error("the new configuration is given up, the old one stays in force: %s", error)
            self._config = before
            await self._put_back(replaced)
            return
        while len(self._seats) > config.workers:
            self._give_up_last()
        _log.info("the new configuration is in force", extra={"workers": len(self._seats)})

    async def _put_back(self, replaced: list[Seat]) -> None:
        for seat in replaced:
            try:
                await seat.replace()
            except StartFailed as error:
                _log.error("%s keeps the new configuration: %s", seat.name, error)

    async def _add(self) -> None:
        """One more seat, whose socket takes connections when its worker does. Raises StartFailed, OSError."""
        self._sockets.append(share(self._sockets[0]))
        try:
            seat = self._seat(len(self._seats))
            try:
                await seat.start()
            except BaseException:
                await seat.stop()
                raise
        except BaseException:
            self._sockets.pop().close()
            raise
        self._seats.append(seat)
        self._keep(seat)

    def _give_up_last(self) -> None:
        """Let the last seat's worker leave; its socket goes with it."""
        seat = self._seats.pop()
        self._sockets.pop().close()
        self._keepers.pop(seat).cancel()
        self._given_up[seat] = asyncio.create_task(self._given(seat), name=f"the end of {seat.name}")

    async def _given(self, seat: Seat) -> None:
        await seat.leave()
        del self._given_up[seat]

    # ── workers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _seat(self, number: int) -> Seat:
        return Seat(f"worker {number}", partial(self._worker, number), self._release)

    def _keep(self, seat: Seat) -> None:
        self._keepers[seat] = asyncio.create_task(keep(seat), name=f"the keeper of {seat.name}")

    def _worker(self, number: int) -> ChildPart:
        """A worker for a seat. Raises StartFailed."""
        premises, config = self._premises, self._config
        slot = next(slot for slot in itertools.count() if slot not in self._slots.values())
        handover = Handover(
            slot=slot,
            config=config,
            dsn=premises.dsn,
            direct_dsn=premises.direct_dsn,
            pooled=premises.pooled,
            run_dir=premises.run_dir,
        )
        try:
            descriptor = hand_over(handover)
        except OSError as error:
            raise StartFailed(f"worker {number} cannot be run: {error}") from error
        spec = ChildSpec(
            name=f"worker {number}",
            fork=premises.fork_server.fork,
            descriptors={WORKER_FD: descriptor, LISTENING_FD: self._sockets[number].fileno()},
            ready_seconds=WORKER_READY_SECONDS,
            stop_seconds=config.drain_seconds + SPARE_STOP_SECONDS,
            leave_signal=LEAVE_SIGNAL,
            leave_seconds=config.drain_seconds + SPARE_STOP_SECONDS + LINGER_SECONDS,
        )
        worker = ChildPart(spec, premises.parent_fd)
        self._slots[worker], self._handovers[worker] = slot, descriptor
        return worker

    def _release(self, worker: ChildPart) -> None:
        """Forget a worker that is gone; may be told twice."""
        if self._slots.pop(worker, None) is not None:
            os.close(self._handovers.pop(worker))
