"""A provider that follows a script, byte by byte, and a client of ours for it.

`provider(script, script)` serves the first connection by the first script, the second by the second; a connection too
many fails the test. A script gets a `Peer`; what it raises fails the test too.
"""

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from meterproxy.proxy.upstream import Origin, Upstream, UpstreamAnswer

TLS = Path(__file__).parent / "upstream_tls"
CA_FILE = str(TLS / "ca.pem")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True)
class Request:
    line: str
    headers: list[tuple[str, str]]
    body: bytes


class Peer:
    """The provider's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> Request:
        """Read a request's head only."""
        line, *fields = (await self.reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
        return Request(line, [(name, value) for name, _, value in (field.partition(": ") for field in fields)], b"")

    async def request(self) -> Request:
        request = await self.head()
        length = int(dict(request.headers).get("Content-Length", "0"))
        return replace(request, body=await self.reader.readexactly(length))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, data: bytes) -> Request:
        """Read a request, then say this."""
        request = await self.request()
        await self.send(data)
        return request

    def close(self) -> None:
        self.writer.close()

    def close_raggedly(self) -> None:
        """End the connection below TLS, without its closing alert."""
        with socket.socket(fileno=os.dup(self.writer.get_extra_info("socket").fileno())) as raw:
            raw.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """End the connection by RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def closed(self) -> bytes:
        """Wait until the client closes; what it still sent."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""


Script = Callable[[Peer], Awaitable[None]]


def answers(*payloads: bytes) -> Script:
    """Answer one request after the other with these bytes, then wait for the client to close."""

    async def script(peer: Peer) -> None:
        for payload in payloads:
            await peer.answer(payload)
        assert await peer.closed() == b""

    return script


def answers_then_close(*payloads: bytes) -> Script:
    async def script(peer: Peer) -> None:
        for payload in payloads:
            await peer.answer(payload)
        peer.close()

    return script


class Provider:
    """The listening side; `names` are the server names that TLS clients asked for, `protocols` what ALPN agreed on."""

    def __init__(self, scripts: tuple[Script, ...]) -> None:
        self._scripts = scripts
        self.connections = 0
        self.names: list[str | None] = []
        self.protocols: list[str | None] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        session = writer.get_extra_info("ssl_object")
        if session is not None:
            self.protocols.append(session.selected_alpn_protocol())
        try:
            assert self.connections <= len(self._scripts), "a connection too many"
            await self._scripts[self.connections - 1](Peer(reader, writer))
        finally:
            writer.close()

    def tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / "server.pem")
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        return context

    async def finish(self) -> None:
        """Wait for every script's end and raise what went wrong in one."""
        async with asyncio.timeout(10):
            results = await asyncio.gather(*self.tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result


@asynccontextmanager
async def provider(*scripts: Script, tls: bool = False) -> AsyncIterator[Provider]:
    served = Provider(scripts)
    # A task of our own, so that asyncio does not log what `finish` raises.
    server = await asyncio.start_server(
        lambda reader, writer: asyncio.ensure_future(served.serve(reader, writer)) and None,
        "127.0.0.1",
        0,
        ssl=served.tls() if tls else None,
    )
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
        await served.finish()
    finally:
        server.close()
        for task in served.tasks:
            task.cancel()
        await asyncio.gather(*served.tasks, return_exceptions=True)


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def origin(port: int, **settings: Any) -> Origin:
    return replace(Origin.from_base_url(f"http://127.0.0.1:{port}/v1"), **settings)


@asynccontextmanager
async def client(served: Provider, *, clock: Hands | None = None, **settings: Any) -> AsyncIterator[Upstream]:
    """A client of ours for a provider without TLS."""
    upstream = Upstream(origin(served.port, **settings), environ={}, clock=clock or Hands())
    try:
        yield upstream
    finally:
        await upstream.close()


async def post(upstream: Upstream, body: bytes = b"{}", **settings: Any) -> UpstreamAnswer:
    settings = {"before_first_byte": lambda: None, **settings}
    return await upstream.send(b"POST", "/chat", [(b"Accept", b"*/*")], body, **settings)


async def exchange(upstream: Upstream, body: bytes = b"{}") -> bytes:
    return await (await post(upstream, body)).read_all(1 << 30)


async def turns_until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


def on_each_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on asyncio's own event loop and on uvloop."""

    @pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    def run(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(test())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run
