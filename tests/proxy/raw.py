"""A client on a bare socket, for what no HTTP library would send or show."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson
from aiohttp import web

from meterproxy.proxy.client import Client, Room
from meterproxy.proxy.server import Dispatch, HttpServer
from meterproxy.proxy.server_limits import ServerLimits


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, object]:
        error = orjson.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert self.headers["content-type"] == "application/json"
        return error


class Raw:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> tuple[int, dict[str, str]]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        line, *fields = head[:-4].decode("latin-1").split("\r\n")
        version, status = line.split(" ")[:2]
        assert version == "HTTP/1.1"
        headers = {}
        for field in fields:
            name, value = field.split(": ", 1)
            assert name.lower() not in headers, f"{name} twice"
            headers[name.lower()] = value
        return int(status), headers

    async def chunk(self) -> bytes:
        size = int(await self.reader.readuntil(b"\n"), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def answer(self, *, bodiless: bool = False) -> Answer:
        status, headers = await self.head()
        body = b""
        if bodiless:
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while chunk := await self.chunk():
                body += chunk
        elif "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif status not in {204, 304}:
            body = await self.reader.read()
        return Answer(status, headers, body)

    async def answer_body(self) -> bytes:
        """The rest of a chunked answer whose head was read."""
        body = b""
        while chunk := await self.chunk():
            body += chunk
        return body

    async def ended(self) -> bool:
        """Whether the server closed the connection without another byte."""
        return await self.reader.read() == b""

    def close(self) -> None:
        self.writer.close()


async def nothing_else(request: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"path": request.path, "body": (await request.text())})


@asynccontextmanager
async def serving(
    exchange: Callable[[Client], Awaitable[None]],
    other: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] = nothing_else,
    limits: ServerLimits | None = None,
    admit: Callable[[web.BaseRequest], object] = lambda _request: None,
) -> AsyncIterator[tuple[HttpServer, int]]:
    """Run a server with these handlers on a free port."""
    server = HttpServer(Dispatch(exchange, other, admit), limits, Room(1 << 26))
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        yield server, listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await server.shutdown(5)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
    raw = Raw(reader, writer)
    try:
        yield raw
    finally:
        writer.close()
