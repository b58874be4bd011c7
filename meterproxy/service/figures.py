"""Figures: what a host has counted, put together by its supervisor, which outlives every worker.

Rules
-----
- A worker that is asked for the host's metrics asks the supervisor, and that asks all workers, for a second at most.
  One that does not answer costs the scrape its gauges, and its counters are as they were last heard.
- A worker that ends in order says its last figures. One that is killed takes with it what it had counted since the
  last scrape, of which Prometheus never heard; the books have everything.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from meterproxy.runtime.peers import Answer, answer_at, ask_all
from meterproxy.runtime.snapshot import Snapshot, Tally, exposition

WORKER_SECONDS: Final = 1.0
HOST_SECONDS: Final = 2.0
HOST: Final = "host"
"""The supervisor's socket."""
METRICS: Final = "metrics"
FAREWELL: Final = "farewell"

_DECODER: Final = msgspec.msgpack.Decoder(Snapshot)


def socket_of(run_dir: Path, slot: int) -> Path:
    """Where the worker of a slot answers its host."""
    return run_dir / f"worker-{slot}"


class Figures:
    """The supervisor's side, a part of the host; `others` are further questions that it answers."""

    name = "figures"

    def __init__(self, run_dir: Path, others: Mapping[str, Answer] = MappingProxyType({})) -> None:
        self._run_dir = run_dir
        self._others = others
        self._tally = Tally()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to answer."""
        own = {METRICS: self._metrics, FAREWELL: self._farewell}
        self._server = await answer_at(self._run_dir / HOST, {**own, **self._others})

    async def ended(self) -> str:
        """Never: it ends with the host."""
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never

    async def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()

    def hasten(self) -> None:
        """Nothing to wait for."""

    async def _metrics(self, _rest: bytes) -> bytes:
        sockets = sorted(self._run_dir.glob("worker-*"))
        answered = [_DECODER.decode(answer) for answer in await ask_all(sockets, METRICS, WORKER_SECONDS)]
        for snapshot in answered:
            self._tally.hear(snapshot)
        return b"".join(map(exposition, self._tally.families(answered)))

    async def _farewell(self, rest: bytes) -> bytes:
        self._tally.hear(_DECODER.decode(rest))
        return b"farewell"
