"""Requests over real sockets, to a provider that follows a script."""

import asyncio
from time import monotonic
from typing import NoReturn

import pytest

from meterproxy.errors import ConfigError
from meterproxy.proxy.upstream import (
    Origin,
    Upstream,
    UpstreamAnswer,
    UpstreamBroken,
    UpstreamSilent,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tests.proxy.scripted import (
    OK,
    Hands,
    Peer,
    Request,
    answers,
    answers_then_close,
    client,
    exchange,
    on_each_loop,
    post,
    provider,
    turns_until,
)

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


async def broken(answer: UpstreamAnswer) -> tuple[bytes, str]:
    """Read until the answer breaks; what came before, and the reason."""
    body = b""
    try:
        while piece := await answer.read():
            body += piece
    except UpstreamBroken as error:
        return body, error.reason
    pytest.fail("a truncated answer looks complete")


@on_each_loop
async def test_request_and_answer() -> None:
    """The request is exactly ours, the answer exactly the provider's, the connection serves again."""
    seen: list[Request] = []

    async def script(peer: Peer) -> None:
        seen.append(
            await peer.answer(
                b"HTTP/1.1 201 Made\r\nX-A: 1\r\nContent-Type: text/plain; a=b\r\nContent-Length: 2\r\n\r\nok"
            )
        )
        seen.append(await peer.answer(OK))
        seen.append(await peer.answer(OK))

    async with provider(script) as served, client(served) as upstream:
        headers = [
            (b"X-One", b"1"),
            (b"host", b"evil"),
            (b"Content-length", b"9"),
            (b"TE", b"trailers"),
            (b"x-one", b"2"),
        ]
        answer = await upstream.send("POST", "/chat?a=b", headers, b"body", before_first_byte=lambda: None)
        assert (answer.status, answer.reason, answer.content_type, answer.content_length) == (
            201,
            b"Made",
            b"text/plain",
            2,
        )
        assert answer.headers[0] == (b"X-A", b"1")
        assert answer.read_nowait() == b"ok"
        assert await answer.read() == b""
        assert answer.read_nowait() == b""
        await (await upstream.send(b"GET", "/models", [], b"", before_first_byte=lambda: None)).read_all(10)
        await (await upstream.send(b"POST", "/empty", [], b"", before_first_byte=lambda: None)).read_all(10)
        assert upstream.stats() == (1, 1, 0, 1, 2)
    host = ("Host", f"127.0.0.1:{served.port}")
    assert seen == [
        Request("POST /v1/chat?a=b HTTP/1.1", [host, ("X-One", "1"), ("x-one", "2"), ("Content-Length", "4")], b"body"),
        Request("GET /v1/models HTTP/1.1", [host], b""),
        Request("POST /v1/empty HTTP/1.1", [host, ("Content-Length", "0")], b""),
    ]


@on_each_loop
async def test_stale_connection_is_replaced_once() -> None:
    """A reused connection that ends before any answer byte costs one more attempt, on a new connection."""
    starts = []

    async def stale(peer: Peer) -> None:
        await peer.answer(OK)
        await peer.request()

    async with provider(stale, answers(OK)) as served, client(served) as upstream:
        assert await exchange(upstream) == b"ok"
        answer = await post(upstream, before_first_byte=lambda: starts.append(upstream.stats().dials))
        assert await answer.read_all(2) == b"ok"
        assert starts == [1, 2]
        assert upstream.stats() == (1, 1, 0, 2, 1)


@on_each_loop
async def test_nothing_is_repeated_twice() -> None:
    """When the new connection ends without an answer too, that is the answer."""

    async def stale(peer: Peer) -> None:
        await peer.answer(OK)
        await peer.request()

    async def silent(peer: Peer) -> None:
        await peer.request()

    async with provider(stale, silent, silent) as served, client(served) as upstream:
        await exchange(upstream)
        with pytest.raises(UpstreamSilent, match="closed_before_answer"):
            await post(upstream)
        with pytest.raises(UpstreamSilent) as caught:  # on a new connection: not even once
            await post(upstream)
        assert caught.value.sent
        assert upstream.stats().open == 0


async def test_partial_answer_is_never_repeated() -> None:
    """One byte of an answer means that the provider works on it."""

    async def partial(peer: Peer) -> None:
        await peer.answer(OK)
        await peer.answer(b"H")

    async with provider(partial) as served, client(served) as upstream:
        await exchange(upstream)
        with pytest.raises(UpstreamBroken, match="truncated_head") as caught:
            await post(upstream)
        assert not isinstance(caught.value, UpstreamSilent)


async def test_repetition_that_cannot_connect_was_sent() -> None:
    """The first attempt may have reached the provider, so that the error must not promise the opposite."""

    async def resolve(host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        return addresses

    async def stale(peer: Peer) -> None:
        await peer.answer(OK)
        addresses.clear()
        await peer.request()

    async with provider(stale) as served:
        addresses = [(2, 1, 6, "", ("127.0.0.1", served.port))]
        upstream = Upstream(Origin.from_base_url("http://provider.test/v1"), environ={}, resolve=resolve)
        await exchange(upstream)
        with pytest.raises(UpstreamUnreachable) as caught:
            await post(upstream)
        assert caught.value.sent
        with pytest.raises(UpstreamUnreachable) as caught:
            await post(upstream)
        assert not caught.value.sent
        await upstream.close()


async def test_refusal_before_the_first_byte_sends_nothing() -> None:
    """The connection goes back unused, new or reused, and the refusal is passed on."""

    def refuse() -> NoReturn:
        raise KeyError("no trust")

    async with provider(answers(OK, OK)) as served, client(served) as upstream:
        for _ in range(2):
            with pytest.raises(KeyError):
                await post(upstream, before_first_byte=refuse)
            assert upstream.stats()[:2] == (1, 1)
            assert await exchange(upstream) == b"ok"
        assert upstream.stats().dials == 1


@on_each_loop
async def test_interim_answers_are_read_over() -> None:
    """Any number of 1xx before the answer; 101 alone is a fault."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"

    async def script(peer: Peer) -> None:
        await peer.answer(interim * 3)
        await peer.send(OK)
        await peer.answer(upgrade)
        await peer.closed()

    async with provider(script) as served, client(served) as upstream:
        answer = await post(upstream)
        assert (answer.status, await answer.read_all(2)) == (200, b"ok")
        assert answer.headers == [(b"Content-Length", b"2")]
        with pytest.raises(UpstreamBroken, match="unexpected_upgrade"):
            await post(upstream)


@on_each_loop
async def test_answers_without_body() -> None:
    """HEAD, 204 and 304 end with their head whatever length it names, and leave the connection usable."""
    script = answers(
        HEAD + b"Content-Length: 1000\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
        HEAD + b"Content-Length: 0\r\n\r\n",
        OK,
    )
    async with provider(script) as served, client(served) as upstream:
        for method, status in [("HEAD", 200), ("HEAD", 200), ("POST", 204), ("GET", 304), ("GET", 200)]:
            answer = await upstream.send(method, "/", [], b"", before_first_byte=lambda: None)
            assert (answer.status, await answer.read()) == (status, b"")
        assert await exchange(upstream) == b"ok"
        assert upstream.stats().dials == 1


@on_each_loop
async def test_truncated_bodies_raise() -> None:
    """A body cut short gives what arrived, then raises: by length, in chunks, before the last chunk's end."""
    cases = [
        (HEAD + b"Content-Length: 3\r\n\r\nok", b"ok"),
        (CHUNKED + b"2\r\nok\r\n", b"ok"),
        (CHUNKED + b"2\r\nok\r\n0\r\n", b"ok"),
        (CHUNKED + b"3\r\nok", b"ok"),
        (HEAD + b"Content-Length: 3\r\n\r\n", b""),
    ]
    async with provider(*[answers_then_close(data) for data, _ in cases]) as served, client(served) as upstream:
        for _, body in cases:
            assert await broken(await post(upstream)) == (body, "truncated_body")
        assert upstream.stats().open == 0


@on_each_loop
async def test_bodies_ended_by_closing() -> None:
    """A proper close ends the body; a reset is a cut; the connection is over in any case."""

    async def reset(peer: Peer) -> None:
        await peer.answer(HEAD + b"\r\nok")
        await read.wait()
        peer.reset()

    read = asyncio.Event()
    async with provider(answers_then_close(HEAD + b"\r\nok"), reset) as served, client(served) as upstream:
        assert await exchange(upstream) == b"ok"
        answer = await post(upstream)
        assert await answer.read() == b"ok"
        read.set()
        assert await broken(answer) == (b"", "truncated_body")
        assert upstream.stats()[:2] == (0, 0)


@on_each_loop
async def test_garbage_in_a_body_raises() -> None:
    """What was whole before it is still given out."""
    async with provider(answers(CHUNKED + b"2\r\nok\r\nzz\r\n")) as served, client(served) as upstream:
        assert await broken(await post(upstream)) == (b"ok", "malformed_body")


@on_each_loop
async def test_answer_before_the_request_is_written() -> None:
    """An early refusal of a large body arrives, though the body does not, and the connection is not used again."""
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"

    async def early(peer: Peer) -> None:
        await peer.head()
        await peer.send(refusal)
        await gone.wait()

    async def early_then_close(peer: Peer) -> None:
        await peer.head()
        await peer.send(refusal)
        peer.close()

    gone = asyncio.Event()
    body = bytes(32 << 20)
    async with provider(early, early_then_close, answers(OK)) as served, client(served) as upstream:
        for _ in range(2):
            answer = await post(upstream, body)
            assert (answer.status, await answer.read_all(2)) == (413, b"no")
            assert upstream.stats().open == 0
        gone.set()
        assert await exchange(upstream) == b"ok"


@on_each_loop
async def test_large_body_arrives_whole() -> None:
    """Bodies beyond one slice are written piece by piece; the connection serves again."""
    body = bytes(range(256)) * 40000
    bodies = []

    async def script(peer: Peer) -> None:
        bodies.extend([(await peer.answer(OK)).body for _ in range(2)])

    async with provider(script) as served, client(served) as upstream:
        assert await exchange(upstream, body) == b"ok"
        assert await exchange(upstream, body) == b"ok"
        assert upstream.stats().dials == 1
    assert bodies == [body, body]


@on_each_loop
async def test_bytes_after_the_end() -> None:
    """Whether they come with the answer or later, the connection is closed and the answer is good."""

    async def later(peer: Peer) -> None:
        await peer.answer(OK)
        await done.wait()
        await peer.send(b"\r\n")
        await peer.closed()

    done = asyncio.Event()
    async with provider(answers(OK + b"x"), later, answers(OK)) as served, client(served) as upstream:
        assert await exchange(upstream) == b"ok"
        assert upstream.stats().open == 0
        assert await exchange(upstream) == b"ok"
        assert upstream.stats().idle == 1
        done.set()
        await turns_until(lambda: upstream.stats().open == 0)
        assert await exchange(upstream) == b"ok"


async def test_provider_closing_an_idle_connection_is_noticed() -> None:
    """It is not lent again."""
    async with provider(answers_then_close(OK), answers(OK)) as served, client(served) as upstream:
        await exchange(upstream)
        await turns_until(lambda: upstream.stats().open == 0)
        await exchange(upstream)
        assert upstream.stats() == (1, 1, 0, 2, 0)


@pytest.mark.parametrize(
    "leaving", [b"HTTP/1.0 200 OK\r\n", HEAD + b"Connection: close\r\n", HEAD + b"Transfer-Encoding: chunked\r\n"]
)
async def test_answers_that_end_their_connection(leaving: bytes) -> None:
    """HTTP/1.0, `Connection: close`, a length beside chunks."""
    body = b"2\r\nok\r\n0\r\n\r\n" if b"chunked" in leaving else b"ok"
    data = leaving + b"Content-Length: 2\r\n\r\n" + body
    async with provider(answers(data)) as served, client(served) as upstream:
        assert await exchange(upstream) == b"ok"
        assert upstream.stats().open == 0


@on_each_loop
async def test_oversize_head_is_refused() -> None:
    """64 KiB of head is the end of patience."""

    async def script(peer: Peer) -> None:
        await peer.answer(HEAD + b"X: " + b"x" * 70000)
        await peer.closed()

    async with provider(script) as served, client(served) as upstream:
        with pytest.raises(UpstreamBroken, match="head_too_large"):
            await post(upstream)


@on_each_loop
async def test_slow_bytes() -> None:
    """An answer byte by byte is the same answer."""

    async def script(peer: Peer) -> None:
        await peer.request()
        for byte in b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"3\r\none\r\n3\r\ntwo\r\n0\r\nX: y\r\n\r\n":
            await peer.send(bytes([byte]))
            await asyncio.sleep(0)
        await peer.answer(OK)

    async with provider(script) as served, client(served) as upstream:
        assert await exchange(upstream) == b"onetwo"
        assert await exchange(upstream) == b"ok"
        assert upstream.stats().dials == 1


@on_each_loop
async def test_no_answer_in_time() -> None:
    """Sent but not answered, even if a 1xx or half a head came: a timeout, not repeated on a reused connection."""
    clock = Hands()

    async def script(peer: Peer) -> None:
        await peer.answer(OK)
        await peer.answer(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2")
        asked.set()
        await peer.closed()

    asked = asyncio.Event()
    async with provider(script) as served, client(served, clock=clock) as upstream:
        await exchange(upstream)
        waiting = asyncio.ensure_future(post(upstream))
        await asked.wait()
        clock.now += 599
        upstream.sweep()
        clock.now += 1
        assert not waiting.done()
        upstream.sweep()
        with pytest.raises(UpstreamTimeout, match="600") as caught:
            await waiting
        assert (caught.value.sent, caught.value.reason) == (True, "first_byte")


async def test_sweeping_goes_on_by_itself() -> None:
    """Nobody has to call it."""

    async def script(peer: Peer) -> None:
        await peer.closed()

    async with provider(script) as served, client(served, clock=monotonic, first_byte_seconds=0.01) as upstream:
        with pytest.raises(UpstreamTimeout):
            await post(upstream)


@on_each_loop
async def test_silence_within_a_body() -> None:
    """Every piece buys another `between_bytes_seconds`; then the body is broken."""
    clock = Hands()

    async def script(peer: Peer) -> None:
        await peer.answer(CHUNKED + b"3\r\none\r\n")
        await more.wait()
        await peer.send(b"3\r\ntwo\r\n")
        await peer.closed()

    more = asyncio.Event()
    async with provider(script) as served, client(served, clock=clock) as upstream:
        answer = await post(upstream)
        assert await answer.read() == b"one"
        clock.now += 299
        upstream.sweep()
        more.set()
        assert await answer.read() == b"two"
        clock.now += 299
        upstream.sweep()
        assert answer.read_nowait() is None
        clock.now += 1
        upstream.sweep()
        assert await broken(answer) == (b"", "between_bytes")


@on_each_loop
async def test_slow_reader_slows_the_provider() -> None:
    """A little is kept, the rest waits at the provider; our reader's slowness is not the provider's silence."""
    clock = Hands()
    body = bytes(16 << 20)
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.answer(HEAD + b"Content-Length: %d\r\n\r\n" % len(body))
        for start in range(0, len(body), 65536):
            await peer.send(body[start : start + 65536])
            sent = start
        await peer.answer(OK)

    async with provider(script) as served, client(served, clock=clock, between_bytes_seconds=10) as upstream:
        answer = await post(upstream)
        before = -1
        while sent != before:
            before = sent
            for _ in range(200):
                await asyncio.sleep(0)
        assert sent < len(body) - 65536
        clock.now += 100
        upstream.sweep()
        piece = await answer.read()
        assert len(piece) < 1 << 20
        assert piece + await answer.read_all(len(body)) == body
        assert await exchange(upstream) == b"ok"
        assert upstream.stats().dials == 1


@on_each_loop
async def test_cancelled_request_closes_its_connection() -> None:
    """The provider is told by the only means there is."""

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        assert await peer.closed() == b""

    asked = asyncio.Event()
    async with provider(script) as served, client(served) as upstream:
        waiting = asyncio.ensure_future(post(upstream))
        await asked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert upstream.stats().open == 0


@on_each_loop
async def test_cancelled_in_the_moment_of_the_answer() -> None:
    """An answer that ended in the same step has given its connection back, which is not ours to close any more."""

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.answer(OK)
        await peer.closed()

    asked = asyncio.Event()
    async with provider(script) as served, client(served) as upstream:
        waiting = asyncio.ensure_future(post(upstream))
        await asked.wait()
        (connection,) = upstream._pool._live
        connection.data_received(OK)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await exchange(upstream) == b"ok"
        assert upstream.stats().dials == 1


@on_each_loop
async def test_abort_stops_the_provider() -> None:
    """It closes the connection, once, and reading raises from then on."""

    async def script(peer: Peer) -> None:
        await peer.answer(CHUNKED + b"3\r\none\r\n")
        assert await peer.closed() == b""

    async with provider(script) as served, client(served) as upstream:
        answer = await post(upstream)
        reading = asyncio.ensure_future(answer.read())
        assert await reading == b"one"
        reading = asyncio.ensure_future(answer.read())
        await asyncio.sleep(0)
        answer.abort()
        answer.abort()
        with pytest.raises(UpstreamBroken, match="aborted"):
            await reading
        with pytest.raises(UpstreamBroken, match="aborted"):
            answer.read_nowait()
        assert upstream.stats().open == 0


async def test_abort_after_the_end_hurts_nobody() -> None:
    """The connection belongs to another request by then; what was unread is gone, and that is not a proper end."""
    async with provider(answers(OK, OK, OK)) as served, client(served) as upstream:
        unread = await post(upstream)
        read = await post(upstream)
        assert await read.read_all(2) == b"ok"
        unread.abort()
        read.abort()
        with pytest.raises(UpstreamBroken, match="aborted"):
            await unread.read()
        assert await read.read() == b""
        assert await exchange(upstream) == b"ok"
        assert upstream.stats().dials == 1


async def test_reading_up_to_a_limit() -> None:
    """`read_up_to` says whether that is all; `read_all` refuses more than its limit and aborts."""
    large = HEAD + b"Content-Length: 4\r\n\r\nbody"
    async with provider(answers(large, large)) as served, client(served) as upstream:
        assert await (await post(upstream)).read_up_to(4) == (b"body", True)
        answer = await post(upstream)
        assert await answer.read_up_to(3) == (b"body", False)
        assert await answer.read() == b""
    async with provider(answers(HEAD + b"Content-Length: 9\r\n\r\nbody")) as served, client(served) as upstream:
        with pytest.raises(UpstreamBroken, match="more than 3 bytes"):
            await (await post(upstream)).read_all(3)
        assert upstream.stats().open == 0


@pytest.mark.parametrize(
    ("path", "header"),
    [
        ("/a", (b"x", b"1\r\nEvil: 1")),
        ("/a", (b"x", b"1\n")),
        ("/a", (b"x\r", b"1")),
        ("/a", (b"x", b"1\0")),
        ("/a HTTP/1.1\r\nEvil: 1\r\n", (b"x", b"1")),
        ("/a b", (b"x", b"1")),
        ("/\x7f", (b"x", b"1")),
        ("/ü", (b"x", b"1")),
    ],
)
async def test_nobody_writes_into_the_head(path: str, header: tuple[bytes, bytes]) -> None:
    """Line ends, NUL and unescaped characters are a fault of the caller, told before anything is dialed."""
    async with provider() as served, client(served) as upstream:
        with pytest.raises(ValueError):  # UnicodeEncodeError is one
            await upstream.send("GET", path, [header], b"", before_first_byte=lambda: None)
        assert upstream.stats().dials == 0


@pytest.mark.parametrize(
    ("base_url", "told"),
    [
        ("http://127.0.0.1:8000/v1/", ("http", "127.0.0.1", 8000, "/v1", "127.0.0.1:8000")),
        ("https://api.openai.com/v1", ("https", "api.openai.com", 443, "/v1", "api.openai.com")),
        ("http://[::1]", ("http", "::1", 80, "", "[::1]")),
        ("https://[::1]:8443/a/b", ("https", "::1", 8443, "/a/b", "[::1]:8443")),
        ("https://bücher.example:443", ("https", "xn--bcher-kva.example", 443, "", "xn--bcher-kva.example")),
    ],
)
def test_base_urls(base_url: str, told: tuple[str, str, int, str, str]) -> None:
    """A base URL taken apart."""
    origin = Origin.from_base_url(base_url)
    assert (origin.scheme, origin.host, origin.port, origin.path_prefix, origin.authority) == told


@pytest.mark.parametrize(
    "base_url",
    [
        "api.openai.com/v1",
        "ftp://a/",
        "https://",
        "https://u:p@a/",
        "https://a/?b",
        "https://a/#b",
        "https://a/b c",
        "https://a:x/",
        "http://[::1/",
        "https://a/\x7f",
        "https://a/?",
        "https://a/#",
        "https://a:0/",
        "https://a\0b/",
        "https://a b/",
        "https://a\x0bb/",
        "https://a\\b/",
        'https://a"b/',
        "https://a/\n",
        "ht\ntps://a/",
        " https://a/",
        "http://[fe80::1%é]/",
        "http://[fe80::1%a b]/",
    ],
)
def test_base_urls_that_cannot_be_used(base_url: str) -> None:
    """They are told as configuration errors."""
    with pytest.raises(ConfigError):
        Origin.from_base_url(base_url)
