"""The HTTP server, on bare sockets: framing, deadlines, order, and how a connection ends."""

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator

import aiohttp
import orjson
import pytest
from aiohttp import web

from meterproxy.errors import ApiError, Case
from meterproxy.proxy.client import Client, Room
from meterproxy.proxy.server import HttpServer
from meterproxy.proxy.server_limits import ServerLimits
from tests.proxy.house import until
from tests.proxy.raw import Raw, connected, serving

ROOM = Room(1 << 26)
LIMIT = 1 << 21


async def echo(client: Client) -> None:
    """Answer with method, target and body."""
    body = await client.read_body(LIMIT, ROOM)
    client.answer(200, [(b"x-target", client.target.encode())], client.method.encode() + b" " + body)


async def echo_or_refuse(client: Client) -> None:
    from meterproxy.errors import ApiError

    try:
        await echo(client)
    except ApiError as error:
        client.refuse(error)


@pytest.fixture
async def served() -> AsyncIterator[tuple[HttpServer, int]]:
    async with serving(echo_or_refuse) as pair:
        yield pair


@pytest.fixture
async def raw(served: tuple[HttpServer, int]) -> AsyncIterator[Raw]:
    async with connected(served[1]) as connection:
        yield connection


POST = b"POST /v1/x HTTP/1.1\r\nHost: a\r\n"


LARGE_CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n" + (b"80000\r\n" + b"b" * 0x80000 + b"\r\n") * 5


class TestFraming:
    @pytest.mark.parametrize(
        ("request_bytes", "status"),
        [
            (b"\x16\x03\x01\x02\x00secret-bytes\r\n\r\n", 400),
            (b"GET /v1/x HTTP/1.1\r\n\r\n", 400),
            (b"GET /v1/x HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n", 400),
            (b"GET /v1/x HTTP/1.1\r\nHost : a\r\n\r\n", 400),
            (b"GET /v1/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
            (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
            (POST + b"Content-Length: -1\r\n\r\n", 400),
            (POST + b"Content-Length: 1e3\r\n\r\n", 400),
            (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
            (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
            (POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
            (POST + b"X: " + b"secret-bytes" * 2000 + b"\r\n\r\n", 431),
            (b"GET /v1/" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
            (POST + b"".join(b"X%d: y\r\n" % n for n in range(200)) + b"\r\n", 431),
            (POST + b"X: a\x00b\r\n\r\n", 400),
            (POST + b"X: a\r\n secret\r\n\r\n", 400),
            (POST + b"X: a\nContent-Length: 3\r\n\r\n", 400),
            (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok", 400),
            (POST + b"Content-Length: +2\r\n\r\nok", 400),
            (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
            (POST + b"Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", 400),
            (b"POST /v1/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
            (b"GET /v1/x HTTP/2.0\r\nHost: a\r\n\r\n", 400),
            (b"GET /v1/secret\r\n\r\n", 400),
            (b"GET ftp://secret/v1/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ],
    )
    async def test_faults_are_answered_in_our_shape(self, raw: Raw, request_bytes: bytes, status: int, caplog) -> None:
        """A fault in framing gets an error over HTTP/1.1, without a byte of the request, and the connection ends."""
        caplog.set_level(logging.DEBUG)
        raw.send(request_bytes)
        answer = await raw.answer()
        assert answer.status == status
        assert answer.error["type"] == "invalid_request_error"
        assert answer.headers["connection"] == "close"
        assert "server" not in answer.headers
        assert b"secret" not in answer.body
        assert await raw.ended()
        assert "secret" not in caplog.text

    async def test_fault_in_a_chunked_body(self, raw: Raw) -> None:
        """A body whose chunks are damaged ends the wait for it at once."""
        raw.send(POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        raw.send(b"zz\r\n")
        answer = await raw.answer()
        assert answer.status == 400
        assert answer.error["code"] is None
        assert await raw.ended()

    async def test_fault_behind_a_good_request(self, raw: Raw) -> None:
        """A fault after a good request is answered in its turn."""
        raw.send(POST + b"Content-Length: 2\r\n\r\nok")
        assert (await raw.answer()).body == b"POST ok"
        raw.send(b"\x00\x00\x00\r\n\r\n")
        assert (await raw.answer()).status == 400
        assert await raw.ended()

    async def test_fault_behind_a_running_request(self) -> None:
        """A fault that comes while a request is being answered waits for its turn."""
        go = asyncio.Event()

        async def slow(client: Client) -> None:
            await go.wait()
            await echo(client)

        async with serving(slow) as (_, port), connected(port) as raw:
            raw.send(POST + b"\r\n" + b"\x00\r\n\r\n" + POST + b"\r\n")
            await asyncio.sleep(0)
            go.set()
            assert (await raw.answer()).status == 200
            assert (await raw.answer()).status == 400
            assert await raw.ended()

    async def test_part_of_a_fault_is_enough(self, raw: Raw) -> None:
        """What can no longer become a request is refused before it is whole."""
        raw.send(b"\x16\x03\x01")
        assert (await raw.answer()).status == 400
        assert await raw.ended()

    async def test_big_junk_does_not_reset_the_connection(self, raw: Raw) -> None:
        """A client that sends far more than is read still gets the answer."""
        raw.send(POST + b"X: " + b"y" * 4_000_000)
        await raw.writer.drain()
        assert (await raw.answer()).status == 431


class TestBodies:
    async def test_large_body(self, raw: Raw) -> None:
        """A body over aiohttp's one megabyte passes."""
        raw.send(POST + b"Content-Length: 2000000\r\n\r\n" + b"b" * 2_000_000)
        assert len((await raw.answer()).body) == 2_000_005

    async def test_chunked_body(self, raw: Raw) -> None:
        """A chunked body passes, and the connection stays usable."""
        for _ in range(2):
            raw.send(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
            assert (await raw.answer()).body == b"POST abc"

    async def test_tiny_chunks(self, raw: Raw) -> None:
        """A body of very many chunks is read in several goes, and what is behind it in its turn."""
        raw.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n")
        raw.send(POST + b"\r\n")
        assert (await raw.answer()).body == b"POST " + b"x" * 50_000
        assert (await raw.answer()).body == b"POST "

    async def test_pieces_of_any_size(self, raw: Raw) -> None:
        """Heads and bodies that come byte by byte are the same requests."""
        data = POST + b"Content-Length: 3\r\n\r\nabc" + POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nd\r\n0\r\n\r\n"
        for byte in data:
            raw.send(bytes([byte]))
            await asyncio.sleep(0)
        assert [(await raw.answer()).body for _ in range(2)] == [b"POST abc", b"POST d"]

    async def test_body_that_nobody_reads_is_not_kept(self) -> None:
        """What a client sends ahead of its reader stops at a bound, and flows on when it is read."""
        go, arrived = asyncio.Event(), asyncio.Event()

        async def late(client: Client) -> None:
            arrived.set()
            await go.wait()
            await echo(client)

        async with serving(late) as (server, port), connected(port) as raw:
            raw.send(POST + b"Content-Length: 2000000\r\n\r\n" + b"b" * 2_000_000)
            await arrived.wait()
            [connection] = server.connections
            await until(lambda: connection.reading_paused)
            assert connection._body is not None
            assert connection._body.waiting_bytes < 1_000_000
            go.set()
            assert len((await raw.answer()).body) == 2_000_005

    async def test_whole_body(self) -> None:
        """A body that came whole is there at once, once, and counted; one on its way is not there yet."""
        seen = []

        async def handler(client: Client) -> None:
            first = client.whole_body(LIMIT, ROOM)
            seen.append((first, client.whole_body(LIMIT, ROOM), client.body_bytes))
            rest = b"" if first is not None else await client.read_body(LIMIT, ROOM)
            client.answer(200, [], rest)

        async with serving(handler) as (_, port), connected(port) as raw:
            raw.send(POST + b"Content-Length: 2\r\n\r\nok")
            await raw.answer()
            raw.send(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
            await raw.answer()
            raw.send(POST + b"Content-Length: 2\r\n\r\n")
            await until(lambda: len(seen) == 3)
            raw.send(b"ok")
            assert (await raw.answer()).body == b"ok"
        assert seen == [(b"ok", None, 2), (b"ok", None, 2), (None, None, 0)]

    async def test_declared_too_large(self, raw: Raw) -> None:
        """A body declared too large is refused without waiting for it, and may be sent on all the same."""
        raw.send(POST + b"Content-Length: 3000000\r\n\r\n")
        answer = await raw.answer()
        assert answer.status == 413
        assert answer.error["code"] == "request_too_large"
        raw.send(b"b" * 3_000_000 + POST + b"Content-Length: 1\r\n\r\nx")
        assert (await raw.answer()).body == b"POST x"

    async def test_chunked_too_large(self, raw: Raw) -> None:
        """A chunked body is counted as it comes."""
        raw.send(LARGE_CHUNKED)
        assert (await raw.answer()).status == 413

    async def test_encoded_body_is_not_decompressed(self, raw: Raw) -> None:
        """A body with a content coding arrives as it was sent."""
        raw.send(POST + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\njunk")
        assert (await raw.answer()).body == b"POST junk"

    async def test_body_that_never_comes(self) -> None:
        """A body that pauses too long ends in 408."""
        limits = ServerLimits(body_gap_seconds=0.01)
        async with serving(echo_or_refuse, limits=limits) as (_, port), connected(port) as raw:
            raw.send(POST + b"Content-Length: 4\r\n\r\nab")
            answer = await raw.answer()
            assert answer.status == 408
            assert answer.error["code"] == "request_timeout"
            assert answer.headers["connection"] == "close"
            assert await raw.ended()

    async def test_body_that_drips(self) -> None:
        """A body that never pauses for long but takes forever ends in 408."""
        limits = ServerLimits(body_seconds=0.02)
        async with serving(echo_or_refuse, limits=limits) as (_, port), connected(port) as raw:
            raw.send(POST + b"Content-Length: 400000\r\n\r\n")
            answering = asyncio.create_task(raw.answer())
            while not answering.done():
                raw.send(b"a")
                await asyncio.sleep(0.002)
            assert (await answering).status == 408

    async def test_room_is_shared(self) -> None:
        """When all bodies together are too much, a request is refused for now, and the room is never overdrawn."""
        room = Room(10)

        async def handler(client: Client) -> None:
            from meterproxy.errors import ApiError

            try:
                await client.read_body(100, room)
            except ApiError as error:
                client.refuse(error)

        async with serving(handler) as (_, port), connected(port) as raw:
            raw.send(POST + b"Content-Length: 11\r\n\r\n" + b"b" * 11)
            answer = await raw.answer()
            assert answer.status == 503
            assert answer.headers["retry-after"] == "1"
            assert room.taken_bytes == 0


class TestExpect:
    async def test_continue(self, raw: Raw) -> None:
        """`Expect: 100-continue` is answered before the body is read."""
        raw.send(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await raw.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.send(b"ok")
        assert (await raw.answer()).body == b"POST ok"

    async def test_refused_without_continue(self, raw: Raw) -> None:
        """A refusal goes out without asking for the body, and ends the connection."""
        raw.send(POST + b"Expect: 100-continue\r\nContent-Length: 3000000\r\n\r\n")
        answer = await raw.answer()
        assert answer.status == 413
        assert answer.headers["connection"] == "close"

    async def test_not_asked_twice(self, raw: Raw) -> None:
        """Who sends the body all the same is not told to go on."""
        raw.send(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nok")
        assert (await raw.answer()).body == b"POST ok"

    async def test_old_clients_are_not_told(self, raw: Raw) -> None:
        """HTTP/1.0 knows no `100 Continue`."""
        raw.send(b"POST /v1/x HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        raw.send(b"ok")
        assert (await raw.answer()).body == b"POST ok"


class TestConnections:
    async def test_keep_alive_and_pipelining(self, raw: Raw) -> None:
        """Requests on one connection are answered in order."""
        raw.send(b"".join(POST + b"Content-Length: 1\r\n\r\n%d" % n for n in range(5)))
        assert [(await raw.answer()).body for _ in range(5)] == [b"POST %d" % n for n in range(5)]

    async def test_remembered_head(self) -> None:
        """A head that comes again is the same object, whatever the length of its body, and so what was kept with it."""
        heads = []

        async def handler(client: Client) -> None:
            heads.append(client.head)
            assert (client.head.digest is None) == (len(heads) == 1)
            client.head.digest = b"kept"
            await echo(client)

        async with serving(handler) as (_, port), connected(port) as raw:
            for body in (b"a", b"bcd", b""):
                raw.send(POST + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
                assert (await raw.answer()).body == b"POST " + body
        assert len(set(map(id, heads))) == 1

    async def test_pipelining_is_bounded(self) -> None:
        """What comes while a request is being answered is read up to a bound, and answered in its turn."""
        go, arrived = asyncio.Event(), asyncio.Event()

        async def slow(client: Client) -> None:
            arrived.set()
            await go.wait()
            await echo(client)

        one = POST + b"Content-Length: 1000\r\n\r\n" + b"b" * 1000
        async with serving(slow) as (server, port), connected(port) as raw:
            raw.send(one * 3000)
            await arrived.wait()
            [connection] = server.connections
            await until(lambda: connection.reading_paused)
            assert len(connection._held) < 1_000_000
            go.set()
            for _ in range(3000):
                assert len((await raw.answer()).body) == 1005

    @pytest.mark.parametrize("method", [b"OPTIONS", b"DELETE", b"PATCH", b"PUT"])
    async def test_methods(self, raw: Raw, method: bytes) -> None:
        """Other methods reach the handler as they are, with a body or without."""
        raw.send(method + b" /v1/x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await raw.answer()).body == method + b" "
        raw.send(method + b" /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
        assert (await raw.answer()).body == method + b" x"

    async def test_empty_lines_between_requests(self, raw: Raw) -> None:
        """What old clients send behind a body is passed over."""
        for _ in range(2):
            raw.send(POST + b"Content-Length: 2\r\n\r\nok\r\n")
            assert (await raw.answer()).body == b"POST ok"

    async def test_close_is_answered_by_close(self, raw: Raw) -> None:
        """A client that wants its connection to end gets that."""
        raw.send(POST + b"Connection: close\r\nContent-Length: 2\r\n\r\nok")
        assert (await raw.answer()).headers["connection"] == "close"
        assert await raw.ended()

    async def test_a_refused_body_that_never_ends(self) -> None:
        """An unwanted body is dropped only for a while; then the connection ends."""
        limits = ServerLimits(linger_seconds=0.01, close_seconds=0.01)
        async with serving(echo_or_refuse, limits=limits) as (server, port), connected(port) as raw:
            raw.send(POST + b"Content-Length: 3000000\r\n\r\nx")
            assert (await raw.answer()).status == 413
            assert await raw.ended()
            await until(lambda: not server.connections)

    async def test_client_that_takes_nothing(self) -> None:
        """A client that does not take its answer does not keep the connection for ever."""
        limits = ServerLimits(linger_seconds=0.05)

        async def large(client: Client) -> None:
            client.answer(200, [], b"x" * (64 << 20))

        async with serving(large, limits=limits) as (server, port):
            with socket.create_connection(("127.0.0.1", port)) as sock:
                sock.sendall(POST + b"\r\n")
                await until(lambda: server.connections)
                await until(lambda: not server.connections)

    async def test_slow_reader(self, raw: Raw) -> None:
        """An answer is congested while its client takes nothing, and goes on when it does."""
        seen = []

        async def large(client: Client) -> None:
            client.begin(200, [])
            for _ in range(16):
                client.send(b"x" * (1 << 20))
                if client.congested:
                    seen.append(True)
                    await client.drain()
            client.end()

        async with serving(large) as (_, port), connected(port) as raw:
            raw.send(POST + b"\r\n" + POST + b"Connection: close\r\n\r\n")
            for _ in range(2):
                answer = await raw.answer()
                assert len(answer.body) == 16 << 20
            assert seen
            assert await raw.ended()

    async def test_answer_without_an_end(self) -> None:
        """A handler that leaves its answer unfinished does not make it look whole, nor hang its client."""

        async def half(client: Client) -> None:
            client.begin(200, [])
            client.send(b"half")

        async with serving(half) as (_, port), connected(port) as raw:
            raw.send(POST + b"\r\n")
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await raw.answer()

    async def test_no_server_header(self, raw: Raw) -> None:
        """Nothing names our software."""
        raw.send(b"GET /v1/x HTTP/1.1\r\nHost: a\r\n\r\nGET /other HTTP/1.1\r\nHost: a\r\n\r\n")
        assert "server" not in (await raw.answer()).headers
        assert "server" not in (await raw.answer()).headers

    async def test_connect_is_refused(self, raw: Raw) -> None:
        """CONNECT opens no tunnel."""
        raw.send(b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        answer = await raw.answer()
        assert answer.status == 405
        assert answer.error["code"] == "method_not_supported"
        assert await raw.ended()

    async def test_upgrade_is_not_taken(self, raw: Raw) -> None:
        """A request that offers a websocket is answered as the plain request that it is, and so is the next."""
        raw.send(b"GET /v1/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (await raw.answer()).body == b"GET "
        raw.send(b"GET /v1/y HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await raw.answer()).headers["x-target"] == "/v1/y"

    async def test_raw_target(self, raw: Raw) -> None:
        """The target reaches us undecoded."""
        raw.send(b"GET /v1/a%2Fb/%2e%2e/c?x=%00 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await raw.answer()).headers["x-target"] == "/v1/a%2Fb/%2e%2e/c?x=%00"

    @pytest.mark.parametrize(
        ("target", "seen"),
        [
            (b"http://a/v1/models?x", "/v1/models?x"),
            (b"HTTPS://a:1/v1/%2e", "/v1/%2e"),
            (b"http://a/v1/http://b/", "/v1/http://b/"),
        ],
    )
    async def test_absolute_target(self, raw: Raw, target: bytes, seen: str) -> None:
        """A target with scheme and authority means its path."""
        raw.send(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\nGET http://a/other HTTP/1.1\r\nHost: a\r\n\r\n" % target)
        assert (await raw.answer()).headers["x-target"] == seen
        assert b'"/other"' in (await raw.answer()).body

    async def test_head(self, raw: Raw) -> None:
        """HEAD gets the head of the answer only."""
        raw.send(b"HEAD /v1/x HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await raw.answer(bodiless=True)).headers["content-length"] == "5"
        assert (await raw.answer()).body == b"GET "

    @pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
    async def test_streams_without_a_body(self, method: bytes, status: int) -> None:
        """An answer that may have no body has none, in however many pieces it comes; the next one follows at once."""

        async def streaming(client: Client) -> None:
            client.begin(status if client.target == "/v1/x" else 200, [])
            client.send(b"some")
            client.end(b"thing")

        async with serving(streaming) as (_, port), connected(port) as raw:
            raw.send(method + b" /v1/x HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/y HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = await raw.answer(bodiless=True)
            assert (answer.status, "transfer-encoding" in answer.headers) == (status, status == 200)
            assert (await raw.answer()).body == b"something"

    async def test_http_1_0(self, raw: Raw) -> None:
        """A client of HTTP/1.0 gets its answer and the end of the connection."""
        raw.send(b"POST /v1/x HTTP/1.0\r\nContent-Length: 2\r\n\r\nok")
        answer = await raw.answer()
        assert (answer.body, answer.headers["connection"]) == (b"POST ok", "close")
        assert await raw.ended()

    async def test_half_closed_client(self, raw: Raw) -> None:
        """A client that closed its sending half gets its answers, then the end."""
        raw.send(POST + b"Content-Length: 1\r\n\r\na" + POST + b"Content-Length: 1\r\n\r\nb")
        raw.writer.write_eof()
        assert (await raw.answer()).body == b"POST a"
        answer = await raw.answer()
        assert (answer.body, answer.headers["connection"]) == (b"POST b", "close")
        assert await raw.ended()

    async def test_half_closed_in_mid_body(self, raw: Raw) -> None:
        """A body that ends before its length is a fault, not a wait."""
        raw.send(POST + b"Content-Length: 9\r\n\r\na")
        raw.writer.write_eof()
        assert (await raw.answer()).status == 400

    async def test_head_deadline(self) -> None:
        """A head that does not come whole in time is told off."""
        async with serving(echo, limits=ServerLimits(head_seconds=0.01)) as (_, port), connected(port) as raw:
            raw.send(b"GET /v1/x HT")
            assert (await raw.answer()).status == 408
            assert await raw.ended()

    @pytest.mark.parametrize("first", [b"Content-Length: 2\r\n\r\nok", b"\r\n"])
    async def test_head_deadline_behind_a_request(self, first: bytes) -> None:
        """A part of a head that came with the request before it is not waited for any longer."""
        async with serving(echo, limits=ServerLimits(head_seconds=0.01)) as (_, port), connected(port) as raw:
            raw.send(POST + first + b"GET /v1/x HT")
            assert (await raw.answer()).status == 200
            assert (await raw.answer()).status == 408
            assert await raw.ended()

    @pytest.mark.parametrize(
        "pieces",
        [
            [POST + b"\r\n"],
            [POST + b"Content-Length: 2\r\n\r\nok"],
            [POST + b"Content-Length: 2\r\n\r\no", b"k"],
            [POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"],
            [POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\no", b"k\r\n0\r\n\r\n"],
        ],
    )
    async def test_no_head_deadline_without_a_head(self, pieces: list[bytes]) -> None:
        """After a whole request nothing is expected of the client but what it likes."""
        async with serving(echo) as (server, port), connected(port) as raw:
            for piece in pieces:
                raw.send(piece)
                await asyncio.sleep(0.01)
            assert (await raw.answer()).status == 200
            [connection] = server.connections
            assert connection.idle
            assert connection.deadline > asyncio.get_running_loop().time() + 70

    @pytest.mark.parametrize("loop_turns", [0, 3])
    async def test_left_without_a_byte(self, served: tuple[HttpServer, int], loop_turns: int) -> None:
        """A client that only connects and ends its half is let go at once."""
        server, port = served
        async with connected(port) as raw:
            for _ in range(loop_turns):
                await asyncio.sleep(0)
            raw.writer.write_eof()
            assert await raw.ended()
        with socket.create_connection(("127.0.0.1", port)):
            pass
        await until(lambda: not server.connections)

    async def test_half_closed_in_mid_head(self, raw: Raw) -> None:
        """A head that will not come whole is no request: the ones before it are answered, then the connection ends."""
        raw.send(POST + b"\r\nPOST /v1")
        raw.writer.write_eof()
        assert (await raw.answer()).body == b"POST "
        assert await raw.ended()

    async def test_half_closed_in_the_next_body(self, raw: Raw) -> None:
        """A body that will not come whole is a fault in its turn."""
        raw.send(POST + b"\r\n" + POST + b"Content-Length: 9\r\n\r\nabc")
        raw.writer.write_eof()
        assert (await raw.answer()).body == b"POST "
        assert (await raw.answer()).status == 400
        assert await raw.ended()

    @pytest.mark.parametrize("rest", [b"zz\r\n", b""])
    async def test_broken_body_after_a_refusal(self, raw: Raw, rest: bytes, caplog) -> None:
        """What becomes of a body that nobody wants any more is no error of ours."""
        raw.send(LARGE_CHUNKED)
        assert (await raw.answer()).status == 413
        if rest:
            raw.send(rest)
        raw.writer.write_eof()
        await raw.reader.read()
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    async def test_reset_after_a_refusal(self, served: tuple[HttpServer, int], caplog) -> None:
        """A client that resets its connection while its unwanted body is dropped leaves nothing behind."""
        server, port = served
        async with connected(port) as raw:
            raw.send(LARGE_CHUNKED)
            assert (await raw.answer()).status == 413
            sock = raw.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.writer.transport.abort()
            async with asyncio.timeout(10):
                await until(lambda: not server.connections)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    async def test_idle_connection_ends(self) -> None:
        """A connection without requests ends after the keep-alive time."""
        async with serving(echo, limits=ServerLimits(keepalive_seconds=0.01)) as (_, port), connected(port) as raw:
            assert await raw.ended()

    async def test_keep_alive_is_longer_than_a_load_balancers(self) -> None:
        """The default keeps connections longer than the sixty seconds of common load balancers."""
        assert ServerLimits().keepalive_seconds == 75

    async def test_handler_outlives_its_client(self) -> None:
        """A client that leaves does not cancel the handler; `gone` tells."""
        arrived, left, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def slow(client: Client) -> None:
            arrived.set()
            await left.wait()
            while not client.gone:
                client.send(b"x" * 1000)
                await asyncio.sleep(0)
            client.end()
            done.set()

        async with serving(slow) as (_, port):
            async with connected(port) as raw:
                raw.send(b"GET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n")
                await arrived.wait()
                sock = raw.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raw.writer.transport.abort()
            left.set()
            async with asyncio.timeout(10):
                await done.wait()

    async def test_reset_is_noticed_without_writing(self) -> None:
        """A client that resets its connection is gone, though nothing is written to it."""
        arrived, noticed = asyncio.Event(), asyncio.Event()

        async def waiting(client: Client) -> None:
            arrived.set()
            await until(lambda: client.gone)
            noticed.set()
            client.answer(200, [], b"to nobody")

        async with serving(waiting) as (server, port):
            async with connected(port) as raw:
                raw.send(POST + b"\r\n")
                await arrived.wait()
                sock = raw.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raw.writer.transport.abort()
            await noticed.wait()
            await until(lambda: not server.connections)

    async def test_left(self) -> None:
        """A client that closed its sending half has left as far as one knows, but is not gone, and gets its answer."""
        arrived = asyncio.Event()

        async def waiting(client: Client) -> None:
            assert not client.left
            arrived.set()
            await until(lambda: client.left)
            client.answer(200, [], b"gone" if client.gone else b"here")

        async with serving(waiting) as (_, port), connected(port) as raw:
            raw.send(POST + b"\r\n")
            await arrived.wait()
            raw.writer.write_eof()
            assert (await raw.answer()).body == b"here"
            assert await raw.ended()

    async def test_draining(self, served: tuple[HttpServer, int]) -> None:
        """A draining server ends idle connections at once and the others after their answer."""
        server, port = served
        async with connected(port) as idle, connected(port) as busy:
            busy.send(POST + b"Content-Length: 2\r\n\r\no")
            idle.send(POST + b"Content-Length: 2\r\n\r\nok")
            await idle.answer()
            server.drain()
            assert await idle.ended()
            busy.send(b"k")
            answer = await busy.answer()
            assert (answer.body, answer.headers["connection"]) == (b"POST ok", "close")
            assert await busy.ended()

    async def test_shutdown_waits(self) -> None:
        """A shutdown lets a running request end, and its answer reach the client."""
        go = asyncio.Event()

        async def slow(client: Client) -> None:
            await go.wait()
            client.answer(200, [], b"x" * 1_000_000)

        async with serving(slow) as (server, port), connected(port) as raw:
            raw.send(POST + b"\r\n")
            await until(lambda: any(not connection.idle for connection in server.connections))
            shutdown = asyncio.create_task(server.shutdown(5))
            await asyncio.sleep(0)
            go.set()
            assert len((await raw.answer()).body) == 1_000_000
            await shutdown
            assert not server.connections

    async def test_shutdown_cuts(self) -> None:
        """What has not ended in time is cancelled and cut."""
        ended = asyncio.Event()

        async def endless(client: Client) -> None:
            client.begin(200, [])
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with serving(endless) as (server, port), connected(port) as raw:
            raw.send(POST + b"\r\n")
            await raw.head()
            await server.shutdown(0.01)
            assert ended.is_set()
            assert not server.connections

    async def test_failing_handler(self) -> None:
        """A handler that raises is answered with 500 in our shape."""

        async def failing(_client: Client) -> None:
            raise ZeroDivisionError

        async with serving(failing) as (_, port), connected(port) as raw:
            raw.send(b"GET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = await raw.answer()
            assert answer.status == 500
            assert answer.error["code"] == "internal_error"


class TestOther:
    async def test_other_paths_reach_the_other_handler(self, raw: Raw) -> None:
        """Paths outside of the data plane get aiohttp's request with its body read."""
        raw.send(b"POST /admin/keys HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        assert (await raw.answer()).body == b'{"path": "/admin/keys", "body": "hi"}'

    @pytest.mark.parametrize(
        ("line", "path"),
        [
            (b"GET //b/admin?x=1#y", "//b/admin"),
            (b"GET /a%20b", "/a b"),
            (b"GET http://b//c", "//c"),
            (b"GET /a:b@c?d=/e?f", "/a:b@c"),
            (b"OPTIONS *", "*"),
        ],
    )
    async def test_other_targets(self, raw: Raw, line: bytes, path: str) -> None:
        """A target is a path, never a host, however it begins."""
        raw.send(line + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert orjson.loads((await raw.answer()).body)["path"] == path

    async def test_refusals_of_the_other_handler(self) -> None:
        """An aiohttp exception becomes an error in our shape, without its page."""

        async def refusing(_request: web.BaseRequest) -> web.StreamResponse:
            raise web.HTTPNotFound

        async with serving(echo, refusing) as (_, port), connected(port) as raw:
            raw.send(b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = await raw.answer()
            assert answer.status == 404
            assert answer.error["code"] == "unknown_url"

    async def test_refused_by_its_head(self) -> None:
        """What may not be asked is refused before its body has come."""

        def admit(_request: web.BaseRequest) -> None:
            raise ApiError(Case.ADMIN_TOKEN_INVALID, "no")

        async with serving(echo, admit=admit) as (_, port), connected(port) as raw:
            raw.send(b"POST /admin/keys HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
            assert (await raw.answer()).status == 401
            raw.send(b"x" * 1_000_000 + b"GET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await raw.answer()).body == b"GET "

    async def test_large_body_for_the_other_handler(self, raw: Raw) -> None:
        """A body too large for the operator's endpoints is refused in our shape."""
        raw.send(b"POST /admin/keys HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000)
        assert (await raw.answer()).error["code"] == "request_too_large"

    async def test_form(self) -> None:
        """A handler may read its body in any of aiohttp's ways."""

        async def form(request: web.BaseRequest) -> web.StreamResponse:
            fields = await request.post()
            return web.json_response(
                {"fields": dict(fields), "length": request.content_length, "read": request.body_exists}
            )

        async with serving(echo, form) as (_, port), connected(port) as raw:
            for data, kind in (
                (b"a=1&b=%20", b"application/x-www-form-urlencoded"),
                (
                    b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n',
                    b"multipart/form-data; boundary=x",
                ),
            ):
                raw.send(b"POST /form HTTP/1.1\r\nHost: a\r\nContent-Type: %b\r\n" % kind)
                raw.send(b"Content-Length: %d\r\n\r\n%b" % (len(data), data))
                answer = orjson.loads((await raw.answer()).body)
                assert answer["fields"]["a"] == "1"
                assert (answer["length"], answer["read"]) == (len(data), True)

    async def test_streamed_answer(self) -> None:
        """A handler may write its answer piece by piece; the connection stays usable."""

        async def streaming(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(3):
                await response.write(b"x" * 500_000)
            return response

        async with serving(echo, streaming) as (_, port), connected(port) as raw:
            for _ in range(2):
                raw.send(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n")
                assert len((await raw.answer()).body) == 1_500_000

    async def test_failure_in_a_streamed_answer(self) -> None:
        """A refusal that comes too late is no second answer; the connection is cut."""

        async def failing(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"x")
            raise ApiError(Case.INTERNAL, "too late")

        async with serving(echo, failing) as (_, port), connected(port) as raw:
            raw.send(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n")
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await raw.answer()

    @pytest.mark.parametrize("leaves", [False, True])
    async def test_websocket(self, leaves: bool) -> None:
        """A handler may go on as a websocket, both ways and under back-pressure, until either side ends it."""
        ended = asyncio.Event()

        async def echoing(request: web.BaseRequest) -> web.StreamResponse:
            socket = web.WebSocketResponse(max_msg_size=1 << 24)
            await socket.prepare(request)
            async for message in socket:
                await asyncio.sleep(0)
                await socket.send_bytes(message.data)
            ended.set()
            return socket

        async with serving(echo, echoing) as (server, port), aiohttp.ClientSession() as session:
            client = await session.ws_connect(f"http://127.0.0.1:{port}/live", max_msg_size=1 << 24)
            for size in (1, 70_000, 5_000_000):
                await client.send_bytes(b"x" * size)
                assert len(await client.receive_bytes()) == size
            if leaves:
                assert client._response.connection is not None
                client._response.connection.transport.abort()
            else:
                await client.close()
                assert client.close_code == 1000
            await ended.wait()
            await until(lambda: not server.connections)
