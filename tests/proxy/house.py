"""A whole proxy in the test's own loop: real sockets on both sides, the simulated provider, honest fakes of the ports."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from meterproxy.catalog.catalog import Catalog
from meterproxy.core.key import KeyEntry
from meterproxy.proxy.exchanges import Exchanges
from meterproxy.proxy.house import Ports
from meterproxy.proxy.provider import Provider
from meterproxy.proxy.settings import ExchangeSettings
from meterproxy.proxy.upstream import Origin, Upstream
from meterproxy.simulator.app import running
from meterproxy.simulator.settings import SimulatorSettings
from tests.proxy import raw
from tests.proxy.fakes import (
    SECRET,
    FakeClock,
    FakeCounter,
    FakeDirectory,
    FakeDurableHolds,
    FakeIdempotencyStore,
    FakeLedger,
    FakeObserver,
    FakeOwners,
    key_entry,
)

CATALOG = Catalog()
PROMPT = "Tell me something about proxies."


@dataclass
class House:
    """Everything that a test may look at or turn."""

    port: int
    provider_url: str
    exchanges: Exchanges
    provider: Provider
    clock: FakeClock
    directory: FakeDirectory
    ledger: FakeLedger
    counter: FakeCounter
    observer: FakeObserver
    owners: FakeOwners
    durable: FakeDurableHolds
    idempotency: FakeIdempotencyStore

    @asynccontextmanager
    async def client(self) -> AsyncIterator[raw.Raw]:
        async with raw.connected(self.port) as connection:
            yield connection

    async def ask(self, path: str = "/v1/chat/completions", body: Any = None, **headers: str) -> raw.Answer:
        """One request on a connection of its own."""
        async with self.client() as connection:
            connection.send(request(path, body, **headers))
            return await connection.answer()

    async def ended(self) -> None:
        """Wait until no exchange is open."""
        await until(lambda: not self.exchanges.open)

    async def calls(self) -> list[dict[str, Any]]:
        """What the provider has received."""
        host, _, port = self.provider_url.split("/")[2].partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        connection = raw.Raw(reader, writer)
        connection.send(b"GET /_simulator/calls HTTP/1.1\r\nHost: sim\r\n\r\n")
        answer = await connection.answer()
        connection.close()
        calls: list[dict[str, Any]] = orjson.loads(answer.body)["calls"]
        return calls


async def until(true: Callable[[], object]) -> None:
    """Let the loop run until something holds that nobody signals; the test's own time limit bounds it."""
    while not true():
        await asyncio.sleep(0.001)


def chat(simulate: str = "", **members: Any) -> dict[str, Any]:
    """The body of a chat request; `simulate` asks the provider for faults."""
    text = PROMPT + (f" [[simulate: {simulate}]]" if simulate else "")
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": text}], "max_tokens": 50, **members}


def request(path: str, body: Any = None, *, method: str = "POST", secret: str = SECRET, **headers: str) -> bytes:
    """A request's bytes; header names are written with underscores."""
    data = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
    fields = {"Host": "proxy.test", "Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    if data or method == "POST":
        fields["Content-Length"] = str(len(data))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data


@asynccontextmanager
async def built(
    settings: ExchangeSettings | None = None,
    *,
    simulator: SimulatorSettings | None = None,
    ledger: Any = None,
    key: KeyEntry | None = None,
    clock: Any = None,
    first_byte_seconds: float = 20.0,
    between_bytes_seconds: float = 20.0,
    provider_url: str | None = None,
    **server: Any,
) -> AsyncIterator[House]:
    """Build and run the house; `ledger`, `key` and `clock` replace the fakes by what a test has of its own.

    `server` is what `raw.serving` takes besides.
    """
    async with running(simulator or SimulatorSettings(), shutdown_seconds=0.1) as url:
        origin = Origin.from_base_url(
            provider_url or url,
            first_byte_seconds=first_byte_seconds,
            between_bytes_seconds=between_bytes_seconds,
        )
        provider = Provider("openai", Upstream(origin, environ={}), api_key="sk-upstream")
        clock, directory, books = (
            clock or FakeClock(),
            FakeDirectory({SECRET: key or key_entry()}),
            ledger or FakeLedger(),
        )
        counter, observer = FakeCounter(), FakeObserver()
        owners, durable, idempotency = FakeOwners(), FakeDurableHolds(books), FakeIdempotencyStore()
        ports = Ports(clock, directory, books, counter, CATALOG, observer, owners, durable, idempotency)
        exchanges = Exchanges(settings or ExchangeSettings(), ports, (provider,))
        telling = asyncio.create_task(exchanges.house.idempotency.keep_told())
        try:
            async with raw.serving(exchanges.run, **server) as (_, port):
                yield House(
                    port,
                    url,
                    exchanges,
                    provider,
                    clock,
                    directory,
                    books,
                    counter,
                    observer,
                    owners,
                    durable,
                    idempotency,
                )
                exchanges.cut_all_short(_over())
        finally:
            telling.cancel()
            await exchanges.close()


def _over() -> Any:
    from meterproxy.errors import ApiError, Case

    return ApiError(Case.UNAVAILABLE, "The test is over.")
