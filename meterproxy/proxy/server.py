"""The HTTP server: aiohttp's connection handling without what a client of OpenAI would notice.

What is kept of aiohttp is its parser, keep-alive, pipelining and flow control. What is replaced: faults in framing are
answered in OpenAI's shape, over HTTP/1.1, and neither echoed nor logged; bodies are never decompressed; a client that
closed its sending half still gets its answer; heads and bodies that do not come are not waited for.

Rules
-----
- Requests under `/v1/` become a `Client` and go to the exchange; everything else goes to the handler that `service`
  hands in, as aiohttp's own request with its body already read, once it was admitted by its head. The bodies of the two
  do not share their room.
- A handler is never cancelled because a client left; it asks `Client.gone`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web, web_protocol
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestPayloadError

from meterproxy.errors import ApiError, Case
from meterproxy.proxy.client import JSON_TYPE, Client, Room, head_of

_log = logging.getLogger(__name__)

DATA_PLANE: Final = "/v1/"
OTHER_BODY_BYTES: Final = 1 << 20
"""The largest body that a request outside of the data plane may have."""
OTHER_BODIES_BYTES: Final = 32 << 20
"""Memory that the bodies of all such requests may take together."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """How long and how much a connection may ask of us before its request is understood."""

    head_seconds: float = 10.0
    keepalive_seconds: float = 75.0
    linger_seconds: float = 30.0
    line_bytes: int = 8190
    field_bytes: int = 16384
    fields: int = 128


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Who answers what: `exchange` the data plane (it never raises), `other` all the rest.

    `admit` raises ApiError for what `other` would refuse by its head alone, before a body is read.
    """

    exchange: Callable[[Client], Awaitable[None]]
    other: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
    admit: Callable[[web.BaseRequest], object]


class Written:
    """Stands for an answer that is already on the wire, where `RequestHandler` expects a response."""

    __slots__ = ("keep_alive",)

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive

    async def prepare(self, _request: object) -> None:
        """Nothing to prepare."""

    async def write_eof(self) -> None:
        """Nothing left to write."""


_KEPT: Final = Written(keep_alive=True)
_CLOSED: Final = Written(keep_alive=False)


class _OtherRequest(web.BaseRequest):
    """A request outside of the data plane; its answer does not name our software."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers.pop("Server", None)


class Connection(web_protocol.RequestHandler):
    """One connection of a client."""

    __slots__ = ("_body", "_departed", "_faulted", "_head_deadline", "half_closed", "server")

    def __init__(self, server: "HttpServer") -> None:
        limits = server.limits
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=limits.keepalive_seconds,
            lingering_time=limits.linger_seconds,
            max_line_size=limits.line_bytes,
            max_field_size=limits.field_bytes,
            max_headers=limits.fields,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]  # aiohttp reads None as "no access log"
            logger=_log,
        )
        self.server = server
        self.half_closed = False
        self._body: StreamReader | None = None
        self._faulted = False
        self._head_deadline: asyncio.TimerHandle | None = None
        self._departed: asyncio.Future[None] | None = None

    def ends_after(self, client: Client) -> bool:
        """Whether the connection closes after this client's answer for reasons of our own."""
        return self.server.draining or self._faulted or (self.half_closed and not self._messages) or client.closing

    @property
    def idle(self) -> bool:
        """Whether no request is being read, waiting or answered."""
        return self._waiter is not None and not self._waiter.done() and not self._messages

    def data_received(self, data: bytes) -> None:
        if self._faulted:
            return
        seen, in_body = self._request_count, self._body is not None and not self._body.is_eof()
        super().data_received(data)
        if self._request_count != seen:
            self._head_arrived()
            if self._body is not None and self._body.is_eof() and not _ends_with_request(data, self._body):
                self._expect_head()
        elif data and not in_body and self._head_deadline is None:
            self._expect_head()

    def _expect_head(self) -> None:
        self._head_deadline = self._loop.call_later(self.server.limits.head_seconds, self._head_overdue)

    def _head_arrived(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None
        message, payload = self._messages[-1]
        if isinstance(message, RawRequestMessage):
            self._body = payload
            return
        self._faulted = True
        if self._body is not None and not self._body.is_eof():
            self._body.set_exception(RequestPayloadError("faulty framing"))

    def _head_overdue(self) -> None:
        self._head_deadline = None
        if self.transport is None:
            return
        if not self.idle:
            self._expect_head()  # the request before it is still being answered
        else:
            error = ApiError(Case.REQUEST_TIMEOUT, "The request's headers did not arrive in time.")
            self.transport.write(_error_bytes(error, error.status))
            self.force_close()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio allows an answer; aiohttp declares none
        """Keep the sending half open while somebody still waits for an answer."""
        self.half_closed = True
        self._depart()
        return not self.idle and self._request_count > 0

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log what is unexpected; a client that vanishes, or breaks off a body that nobody wants, is not."""
        if not isinstance(kw.get("exc_info"), (RequestPayloadError, HttpProcessingError, ConnectionError)):
            super().log_exception(*args, **kw)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._depart()
        if self._head_deadline is not None:
            self._head_deadline.cancel()
        super().connection_lost(exc)

    def _depart(self) -> None:
        """Nothing more comes from the client: who waits for it, waits no longer."""
        if self._body is not None and not self._body.is_eof():
            self._body.set_exception(RequestPayloadError("the body broke off"))
        if self._departed is not None and not self._departed.done():
            self._departed.set_result(None)

    async def linger(self) -> None:
        """Close our half and drop what still comes, so that a reset does not overtake the answer."""
        if self.transport is None or self.half_closed:
            return
        self._departed = self._loop.create_future()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._resume_transport_reading()
        try:
            async with asyncio.timeout(2.0):
                await self._departed
        except TimeoutError:
            return

    def _make_error_handler(self, err_info: Any) -> Callable[[Any], Awaitable[Any]]:
        too_long = isinstance(err_info.exc, LineTooLong) or "Too many headers" in err_info.message

        async def answer_fault(_client: Client) -> Written:
            error = ApiError(Case.MALFORMED, "The HTTP request could not be understood.")
            self._write_error(error, 431 if too_long else error.status)
            await self.linger()
            return _CLOSED

        return answer_fault

    def _write_error(self, error: ApiError, status: int) -> None:
        if self.transport is not None:
            self.transport.write(_error_bytes(error, status))

    def handle_error(
        self, request: Any, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> Any:
        """Answer what a handler should never have raised; only its class and origin are logged."""
        del status, message
        _log.error("a request handler failed", exc_info=exc)
        if isinstance(request, Client) and request.answered_status is None:
            request.closing = True
            request.refuse(ApiError(Case.INTERNAL, "The server had an error while processing your request."))
        else:
            self.force_close()
        return _CLOSED


class HttpServer(web.Server):
    """Makes a `Connection` for each client that a listening socket accepts: `loop.create_server(HttpServer(…))`."""

    def __init__(self, dispatch: Dispatch, limits: ServerLimits | None = None, room: Room | None = None) -> None:
        super().__init__(self._handle, request_factory=self._make_client)  # type: ignore[arg-type]
        self.limits = limits or ServerLimits()
        self.draining = False
        self._dispatch = dispatch
        self._room = room or Room(OTHER_BODIES_BYTES)

    def __call__(self) -> Connection:
        return Connection(self)

    def _make_client(self, *parts: Any) -> Client:
        return Client(*parts)

    def drain(self) -> None:
        """Ask every connection to end after its running request; idle ones end now."""
        self.draining = True
        for connection in self.connections:
            if isinstance(connection, Connection) and connection.idle:
                connection.force_close()

    async def _handle(self, client: Client) -> Any:
        if client.method == "CONNECT":
            client.closing = True
            client.refuse(ApiError(Case.METHOD_NOT_ALLOWED, "CONNECT is not supported."))
        elif client.message.chunked and client.message.headers.getall("Transfer-Encoding") != _CHUNKED:
            client.closing = True
            client.refuse(ApiError(Case.MALFORMED, "No Transfer-Encoding but chunked is supported."))
        elif client.target.startswith(DATA_PLANE):
            await self._dispatch.exchange(client)
        else:
            return await self._other(client)
        if client.congested:
            await client.drain()
        return _CLOSED if client.closing else _KEPT

    async def _other(self, client: Client) -> Any:
        try:
            return await self._answer_other(client)
        except ApiError as error:
            client.refuse(error)
        except web.HTTPException as error:
            case = _CASES_OF_STATUS.get(error.status, Case.MALFORMED)
            client.refuse(ApiError(case, error.reason or "The request could not be answered."))
        except ConnectionError:
            client.closing = True
        finally:
            self._room.give_back(client.body_bytes)
        return _CLOSED if client.closing else _KEPT

    async def _answer_other(self, client: Client) -> web.StreamResponse:
        request = client.as_aiohttp(_OtherRequest)
        self._dispatch.admit(request)
        request._read_bytes = await client.read_body(OTHER_BODY_BYTES, self._room)  # noqa: SLF001 - spares a second limit
        response = await self._dispatch.other(request)
        if client.ends_here():
            response.force_close()
        client.answered_status = response.status
        await response.prepare(request)
        await response.write_eof()
        return response


_CASES_OF_STATUS: Final = {
    404: Case.PATH_UNKNOWN,
    405: Case.METHOD_NOT_ALLOWED,
    413: Case.TOO_LARGE,
    500: Case.INTERNAL,
    503: Case.UNAVAILABLE,
}


_CHUNKED: Final = ["chunked"]


def _ends_with_request(data: bytes, body: StreamReader) -> bool:
    """Whether bytes in which a request ended have nothing behind it, as far as can be told without parsing them."""
    size = body.total_bytes
    return (
        data.endswith(b"\r\n\r\n")
        if size == 0
        else data[-size - 4 : -size] == b"\r\n\r\n" or data.endswith(_LAST_CHUNK)
    )


_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


def _error_bytes(error: ApiError, status: int) -> bytes:
    body = error.body()
    return head_of(status, [JSON_TYPE], b"content-length: %d\r\nconnection: close\r\n" % len(body)) + body
