"""Inside: the whole path of requests in one process, without sockets and without PostgreSQL.

The server, the exchange, the ledger with a real journal, the metrics: all are the real ones. Their transports keep what
is written in memory, the provider answers with bytes made once, and the database is an object that lends whatever is
asked for and has booked whatever it is given. So a run does the same thing every time, and what it does can be counted.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from bench import exchanges
from meterproxy.catalog.catalog import Catalog
from meterproxy.core.account import AccountEntry
from meterproxy.core.hold import DueHold, DurableHold
from meterproxy.core.key import KeyEntry, KeyPolicy, digest_of
from meterproxy.core.lending import Batch, Borrow, LeaseKey, Lent, Met, News, Ownership, Rest, SessionFacts, Totals
from meterproxy.core.limit import Limit, Measure, Scope
from meterproxy.core.resource import ResourceKey
from meterproxy.core.window import WindowKind
from meterproxy.ledger.settle import BATCH_ENDINGS
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.proxy.client_connection import ClientConnection
from meterproxy.proxy.connection import Connection
from meterproxy.proxy.connection_pool import ConnectionPool
from meterproxy.proxy.exchanges import Exchanges
from meterproxy.proxy.house import Ports
from meterproxy.proxy.provider import Provider
from meterproxy.proxy.server import Dispatch, HttpServer
from meterproxy.proxy.settings import ExchangeSettings
from meterproxy.proxy.upstream import Origin, Upstream
from meterproxy.runtime.metrics import Metrics

_KEY: Final = "mp-inside"
_LIFE: Final = uuid4()
_PLENTY: Final = 2**60
_AGES: Final = 1e6
"""Seconds that a session is trusted: nobody renews it here."""
_STREAM: Final = b'"stream":true'
_USAGE: Final = b"include_usage"
_END_OF_CHUNKS: Final = b"0\r\n\r\n"


class EasyStore:
    """Fulfils the ports of the ledger: lends all that is wanted, and has settled what it is given."""

    def __init__(self) -> None:
        self.booked = 0

    async def open_session(self, session_id: UUID, journal_id: UUID, host: str, slot: int, ttl_seconds: float) -> int:
        return time.time_ns() // 1000

    async def renew_session(self, session_id: UUID, ttl_seconds: float, life: UUID) -> int:
        return time.time_ns() // 1000

    async def meet(self, missed: UUID | None, ttl_seconds: float) -> Met:
        return Met(_LIFE, paused=False)

    async def present(
        self, session: SessionFacts, ttl_seconds: float, life: UUID, totals: Mapping[LeaseKey, Totals]
    ) -> int:
        return time.time_ns() // 1000

    async def abandoned_sessions(self, journal_id: UUID) -> frozenset[UUID]:
        return frozenset()

    async def earlier_sessions(self, journal_id: UUID, session_id: UUID) -> list[UUID]:
        return []

    async def end_session(self, session_id: UUID, state: str) -> int:
        return 0

    async def lend(self, session_id: UUID, borrows: Sequence[Borrow]) -> Sequence[Lent]:
        return [Lent(_PLENTY, _PLENTY, 0, 0, _PLENTY, _PLENTY)] * len(borrows)

    async def read_rests(self, session_id: UUID, keys: Sequence[LeaseKey]) -> Sequence[Rest]:
        return [Rest(_PLENTY, 0, 0)] * len(keys)

    async def give_back(self, session_id: UUID, returned: Mapping[LeaseKey, int]) -> None: ...

    async def report_held(self, session_id: UUID, held: Mapping[LeaseKey, int]) -> None: ...

    async def ask_reclaim(self, session_id: UUID, key: LeaseKey, wanted: int) -> None: ...

    async def end_reclaim(self, session_id: UUID, key: LeaseKey) -> None: ...

    async def poll(self, session_id: UUID, version: int) -> News:
        return News((), (), 0, _LIFE)

    async def change_version(self) -> int:
        return 0

    async def progress(self, journal_id: UUID) -> tuple[int, int]:
        return (0, 0)

    async def book(self, batch: Batch) -> int:
        self.booked += len(batch.endings)
        return len(batch.endings)

    async def reject(self, batch: Batch, error: str) -> None:
        raise AssertionError(f"nothing here is rejected: {error}")

    async def find_owners(self, session_id: UUID, keys: Sequence[ResourceKey]) -> Ownership:
        return Ownership({}, alone=True)

    async def forgotten_owners(self) -> Sequence[ResourceKey]:
        return ()

    async def find_durable(self, key: ResourceKey) -> DurableHold | None:
        return None

    async def take_due(self, most: int, term_seconds: float) -> Sequence[DueHold]:
        return ()

    async def put_off(self, hold: DurableHold, seconds: float) -> None: ...


class OneKey:
    """Fulfils `proxy.ports.Directory` with the one key there is; `limited`: under limits of every scope and measure."""

    def __init__(self, *, limited: bool) -> None:
        self._digest = digest_of(_KEY.encode())
        self._entry = KeyEntry(
            uuid4(), AccountEntry(uuid4(), uuid4(), uuid4()), uuid4(), KeyPolicy(), team_id=uuid4(), origin_id=uuid4()
        )
        if limited:
            self._entry.account.change(tuple(_limits_of(self._entry)), frozen=False)

    def known(self, digest: bytes) -> KeyEntry | bool:
        return self._entry if digest == self._digest else False

    async def find(self, digest: bytes) -> KeyEntry | None:
        return self._entry if digest == self._digest else None


def _limits_of(key: KeyEntry) -> Iterator[Limit]:
    """The same twelve limits as the key of `bench.targets` has."""
    assert key.team_id is not None
    assert key.origin_id is not None
    scopes = {
        Scope.KEY: key.origin_id, Scope.USER: key.user_id, Scope.TEAM: key.team_id, Scope.ACCOUNT: key.account_id,
    }  # fmt: skip
    for scope, scope_id in scopes.items():
        for measure, window in (
            (Measure.REQUESTS, WindowKind.MINUTE),
            (Measure.TOKENS, WindowKind.MINUTE),
            (Measure.AMOUNT, WindowKind.DAY),
        ):
            yield Limit(uuid4(), scope, scope_id, measure, window, _PLENTY)


class Unclaimed:
    """Fulfils `proxy.ports.IdempotencyStore`: nobody sends a key."""

    async def claim(self, request: Any) -> Any:
        raise AssertionError(f"nobody claims {request}")

    async def end(self, ended: Any) -> None:
        raise AssertionError(f"nothing was claimed: {ended}")


class Uncounted:
    """Fulfils `proxy.ports.TokenCounter`: every answer here brings its usage."""

    async def count(self, model: str, texts: Sequence[str]) -> tuple[int, bool] | None:
        raise AssertionError(f"nothing of {model} has to be counted")


class Wire(asyncio.Transport):
    """A transport that hands what is written to whoever is behind it."""

    def __init__(self, connection: asyncio.BaseProtocol, written: Callable[[bytes], None]) -> None:
        super().__init__()
        self.write = written  # type: ignore[method-assign,assignment]
        self._connection = connection
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)

    def close(self) -> None:
        self.abort()


class MemoryProvider:
    """Answers each request on one connection with bytes made once.

    Args:
        together: so many pieces of a stream come in one read.
    """

    def __init__(self, connection: Connection, together: int) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._plain = exchanges.plain_answer()
        self._streams = {usage: _joined(exchanges.stream_pieces(usage), together) for usage in (False, True)}

    def written(self, data: bytes) -> None:
        """A whole request: they come in one write."""
        if data.find(_STREAM) < 0:
            self._loop.call_soon(self._connection.data_received, self._plain)
        else:
            self._next(iter(self._streams[data.find(_USAGE) >= 0]))

    def _next(self, pieces: Any) -> None:
        piece = next(pieces, None)
        if piece is not None:
            self._loop.call_soon(self._connection.data_received, piece)
            self._loop.call_soon(self._next, pieces)


def _joined(pieces: list[bytes], together: int) -> list[bytes]:
    return [b"".join(pieces[at : at + together]) for at in range(0, len(pieces), together)]


class MemoryClient:
    """One connection of a client that asks again as soon as it is answered."""

    def __init__(self, connection: ClientConnection, request: bytes, *, stream: bool, done: Callable[[], bool]) -> None:
        self._connection = connection
        self._request = request
        self._stream = stream
        self._done = done
        self._loop = asyncio.get_running_loop()
        connection.connection_made(Wire(connection, self._written))

    def ask(self) -> None:
        self._loop.call_soon(self._connection.data_received, self._request)

    def _written(self, data: bytes) -> None:
        whole = data.endswith(_END_OF_CHUNKS) if self._stream else data.startswith(b"HTTP/1.1 200")
        if not whole and (not self._stream or data.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))):
            raise AssertionError(f"not the answer that was asked for: {data[:400]!r}")
        if whole and not self._done():
            self._loop.call_soon(self.ask)


class Inside:
    """The parts of a worker, and some clients of it."""

    def __init__(self, server: HttpServer, ledger: WorkerLedger, store: EasyStore) -> None:
        self._store = store
        self._server = server
        self._ledger = ledger
        self._unasked = 0
        self._running = 0

    @property
    def settled(self) -> int:
        """How many exchanges are in the books."""
        return self._store.booked

    async def answer(self, requests: int, *, stream: bool, connections: int = 8) -> None:
        """Have so many requests answered, and their endings settled."""
        self._running = min(connections, requests)
        self._unasked = requests - self._running
        request = exchanges.request_bytes(host="inside", key=_KEY, stream=stream)
        for _ in range(self._running):
            MemoryClient(self._server(), request, stream=stream, done=self._answered).ask()
        settler = self._ledger.settler
        while self._running or settler.queued:
            if settler.queued >= BATCH_ENDINGS or not self._running:
                await settler.settle_batch()
            await asyncio.sleep(0)

    def _answered(self) -> bool:
        """Whether the client that was answered may rest now."""
        if self._unasked:
            self._unasked -= 1
            return False
        self._running -= 1
        return True


@asynccontextmanager
async def built(directory: Path, *, together: int = 1, limited: bool = False) -> AsyncIterator[Inside]:
    """Build everything with a journal in this directory."""
    store, metrics, catalog = EasyStore(), Metrics(), Catalog()
    catalog.load()
    ledger = WorkerLedger(store, store, directory / "journal", owner_rows=store, durable_rows=store, ttl_seconds=_AGES)
    await ledger.start()
    ledger.settler.observe = metrics.settled
    upstream = _upstream(together)
    ports = Ports(
        ledger.clock, OneKey(limited=limited), ledger.holds, Uncounted(), catalog, metrics, ledger.owners,
        ledger.durable, Unclaimed(),
    )  # fmt: skip
    running = Exchanges(ExchangeSettings(), ports, (Provider("openai", upstream, api_key="sk-inside"),))
    server = HttpServer(Dispatch(running.run, _nobody, _nobody))
    try:
        yield Inside(server, ledger, store)
    finally:
        await running.close()
        await ledger.stop()


def _upstream(together: int) -> Upstream:
    """A provider's client whose connections end in memory."""
    origin = Origin.from_base_url("http://127.0.0.1:1/v1")
    upstream = Upstream(origin, environ={})

    async def dial(make: Callable[[], Connection]) -> Connection:
        connection = make()
        connection.connection_made(Wire(connection, MemoryProvider(connection, together).written))
        return connection

    upstream._pool = ConnectionPool(origin, dial, time.monotonic)  # noqa: SLF001  nothing else has to be other
    return upstream


def _nobody(request: Any) -> Any:
    raise AssertionError(f"everything here is asked of the data plane, not {request}")
