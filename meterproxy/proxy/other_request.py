"""Requests outside of the data plane: handed to their handler as aiohttp's own, and answered by its responses.

Rules
-----
- A request is admitted by its head, before its body is read; the handler gets it with the body already there.
- Its bodies have a limit and a room of their own, so that they cannot take the data plane's.
- aiohttp's exceptions become errors in our shape; nothing names our software.
- A handler may answer by a websocket; the connection is that websocket's from then on.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http import RawRequestMessage, StreamWriter
from aiohttp.streams import StreamReader
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from meterproxy.errors import ApiError, Case
from meterproxy.proxy.client import Client, Room
from meterproxy.proxy.request_head import RequestHead

if TYPE_CHECKING:
    from meterproxy.proxy.client_connection import ClientConnection

OTHER_BODY_BYTES: Final = 1 << 20
"""The largest body that such a request may have."""

_KEPT: Final = frozenset(
    {b"host", b"user-agent", b"x-meterproxy-conversation", b"x-meterproxy-tags", b"idempotency-key"}
)
"""Headers of a request that is asked instead of another one which stay."""
_CASES_OF_STATUS: Final = {
    404: Case.PATH_UNKNOWN,
    405: Case.METHOD_NOT_ALLOWED,
    413: Case.TOO_LARGE,
    500: Case.INTERNAL,
    503: Case.UNAVAILABLE,
}


class OtherRequests:
    """Answers all requests outside of the data plane."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        admit: Callable[[web.BaseRequest], object],
        room: Room,
    ) -> None:
        self._handler = handler
        self._admit = admit
        self._room = room

    async def answer(self, client: Client) -> None:
        """Answer one request."""
        try:
            await self._answer(client)
        except ApiError as error:
            _refuse(client, error)
        except web.HTTPException as error:
            case = _CASES_OF_STATUS.get(error.status, Case.MALFORMED)
            _refuse(client, ApiError(case, error.reason or "The request could not be answered."))
        except ConnectionError:
            client.abort()
        finally:
            self._room.give_back(client.body_bytes)

    async def _answer(self, client: Client) -> None:
        wire = _Wire(client.connection)
        body = StreamReader(cast("Any", wire), OTHER_BODY_BYTES, loop=wire.loop)
        request = _request(client, wire, body)
        self._admit(request)
        body.feed_data(await client.read_body(OTHER_BODY_BYTES, self._room))
        body.feed_eof()
        response = await self._handler(request)
        if client.ended:
            return  # by way of `asked_instead`
        if client.ends_here():
            response.force_close()
        await response.prepare(request)
        await response.write_eof()
        client.ended = True


async def asked_instead(
    request: web.BaseRequest, target: str, secret: str, body: bytes, exchange: Callable[[Client], Awaitable[None]]
) -> None:
    """Have a request answered by the data plane, as if its client had asked there with this secret and body."""
    client: Client = cast("_OtherRequest", request).client
    own = client.head
    kept = [(name, value) for name, value in own.raw_headers if name.lower() in _KEPT]
    head = RequestHead(
        "POST",
        target,
        (*kept, (b"Authorization", b"Bearer " + secret.encode()), (b"Content-Type", b"application/json")),
        http_1_1=own.http_1_1,
        closes=client.closing,
        chunked=False,
        expects_continue=False,
        upgrades=False,
        idempotency_keys=own.idempotency_keys,
    )
    asked = Client(client.connection, head, len(body), body)
    try:
        await exchange(asked)
    finally:
        client.answered_status, client.ended, client.closing = asked.answered_status, asked.ended, asked.closing


def _refuse(client: Client, error: ApiError) -> None:
    if client.answered_status is None:
        client.refuse(error)
    else:
        client.abort()  # its handler had begun another answer


class _OtherRequest(web.BaseRequest):
    """A request outside of the data plane; its answer does not name our software."""

    ATTRS = web.BaseRequest.ATTRS | frozenset({"client"})
    client: Client

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers.pop("Server", None)
        self.client.answered_status = response.status


class _Wire:
    """What aiohttp's request and writer ask of the protocol that they belong to."""

    __slots__ = ("_connection", "loop")

    ssl_context = None
    max_field_size = 8190
    max_headers = 128
    _timeout_ceil_threshold = 5

    def __init__(self, connection: "ClientConnection") -> None:
        self._connection = connection
        self.loop = asyncio.get_running_loop()

    @property
    def transport(self) -> asyncio.Transport | None:
        return self._connection.transport

    @property
    def peername(self) -> Any:
        return self._told("peername")

    @property
    def sockname(self) -> Any:
        return self._told("sockname")

    def _told(self, what: str) -> Any:
        transport = self._connection.transport
        return None if transport is None else transport.get_extra_info(what)

    @property
    def _paused(self) -> bool:
        return self._connection.writing_paused

    async def _drain_helper(self) -> None:
        await self._connection.drained()

    @property
    def _reading_paused(self) -> bool:
        return self._connection.reading_paused

    def pause_reading(self) -> None:
        self._connection.pause_reading()

    def resume_reading(self, *, resume_parser: bool = True) -> None:
        del resume_parser
        self._connection.resume_reading()

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        self._connection.take_over(_Frames(parser, data_received_cb))

    def keep_alive(self, val: bool) -> None:
        """A websocket's connection is never used again."""


class _Frames:
    """Hands the bytes of a websocket to aiohttp's reader, and tells its heartbeat of them."""

    __slots__ = ("_feed", "_heard", "feed_eof")

    def __init__(self, reader: Any, heard: Callable[[], None] | None) -> None:
        self._feed = reader.feed_data
        self._heard = heard
        self.feed_eof = reader.feed_eof

    def feed_data(self, data: bytes) -> None:
        self._feed(data)
        if self._heard is not None:
            self._heard()


def _request(client: Client, wire: _Wire, body: StreamReader) -> web.BaseRequest:
    head = client.head
    headers = CIMultiDict(head.headers)
    if client.length > 0:
        headers["Content-Length"] = str(client.length)
    message = RawRequestMessage(
        head.method,
        head.target,
        HttpVersion11 if head.http_1_1 else HttpVersion10,
        CIMultiDictProxy(headers),
        head.raw_headers,
        head.closes,
        None,
        upgrade=head.upgrades,
        chunked=head.chunked,
        url=_url(head.target),
    )
    writer = StreamWriter(cast("Any", wire), wire.loop)
    task = cast("asyncio.Task[None]", asyncio.current_task())
    request = _OtherRequest(
        message, body, cast("Any", wire), writer, task, wire.loop, client_max_size=OTHER_BODY_BYTES + 1
    )
    request.client = client
    return request


def _url(target: str) -> URL:
    """The target as a path with its query, whatever its path looks like."""
    path, _, query = target.partition("#")[0].partition("?")
    return URL.build(path=path, query_string=query, encoded=True)
