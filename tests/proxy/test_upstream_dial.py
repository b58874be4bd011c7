"""Getting a connection: names, addresses, proxies, TLS."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from meterproxy.errors import ConfigError
from meterproxy.proxy.dial import AddressInfo, Proxy, proxy_for
from meterproxy.proxy.upstream import Origin, Upstream, UpstreamBroken, UpstreamUnreachable
from tests.proxy.scripted import (
    CA_FILE,
    OK,
    Hands,
    Peer,
    Provider,
    Request,
    answers,
    answers_then_close,
    exchange,
    on_each_loop,
    origin,
    post,
    provider,
)


def v4(port: int) -> AddressInfo:
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))


def v6(port: int) -> AddressInfo:
    return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))


class Names:
    """A resolver with a table that may change."""

    def __init__(self, *addresses: AddressInfo) -> None:
        self.addresses = list(addresses)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[AddressInfo]:
        self.asked.append((host, port))
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return self.addresses


@asynccontextmanager
async def reaching(
    url: str, names: Names, *, environ: dict[str, str] | None = None, **settings: Any
) -> AsyncIterator[Upstream]:
    where = Origin.from_base_url(url, **settings)
    upstream = Upstream(where, environ=environ or {}, resolve=names)
    try:
        yield upstream
    finally:
        await upstream.close()


async def unreachable(upstream: Upstream) -> str:
    """Why it is; nothing was sent, asked for or left behind."""
    with pytest.raises(UpstreamUnreachable) as caught:
        await post(upstream, before_first_byte=lambda: pytest.fail("nothing is sent"))
    assert not caught.value.sent
    assert upstream.stats()[:3] == (0, 0, 0)
    return caught.value.reason


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@on_each_loop
async def test_name_of_the_system() -> None:
    """The system's own resolver is asked, and its refusal told."""
    async with provider(answers(OK)) as served:
        upstream = Upstream(origin(served.port, host="localhost"), environ={})
        assert await exchange(upstream) == b"ok"
        await upstream.close()


@on_each_loop
async def test_nobody_there() -> None:
    """An unknown name, a closed port."""
    async with reaching("http://provider.test", Names()) as upstream:
        assert await unreachable(upstream) == "dns"
    async with reaching("http://provider.test", Names(v4(closed_port()))) as upstream:
        assert await unreachable(upstream) == "connect"


@on_each_loop
async def test_first_family_refuses() -> None:
    """IPv6 first and closed: IPv4 answers."""
    async with provider(answers(OK)) as served:
        async with reaching("http://provider.test", Names(v6(closed_port()), v4(served.port))) as upstream:
            assert await exchange(upstream) == b"ok"


async def test_first_family_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPv6 first and swallowing every packet: IPv4 is not kept waiting for it."""
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect
    swallowed = asyncio.Event()

    async def swallow(sock: socket.socket, address: Any) -> None:
        if sock.family == socket.AF_INET6:
            swallowed.set()
            await asyncio.Event().wait()
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", swallow)
    async with provider(answers(OK)) as served:
        async with reaching("http://provider.test", Names(v6(9), v4(served.port))) as upstream:
            assert await exchange(upstream) == b"ok"
    assert swallowed.is_set()


@on_each_loop
async def test_changed_address_is_followed() -> None:
    """Once the old connection has retired by age, the name is asked again."""
    clock = Hands()
    async with provider(answers(OK, OK)) as old, provider(answers(OK)) as new:
        names = Names(v4(old.port))
        where = Origin.from_base_url("http://provider.test:81")
        upstream = Upstream(where, environ={}, resolve=names, clock=clock)
        await exchange(upstream)
        names.addresses = [v4(new.port)]
        clock.now += 29
        await exchange(upstream)
        assert (old.connections, new.connections) == (1, 0)
        clock.now += 300
        await exchange(upstream)
        assert (old.connections, new.connections) == (1, 1)
        assert names.asked == [("provider.test", 81)] * 2
        await upstream.close()


@on_each_loop
async def test_tls() -> None:
    """The server is told the name, agrees on http/1.1, and is checked against `tls_ca_file`."""
    async with provider(answers(OK, OK), tls=True) as served:
        names = Names(v4(served.port))
        async with reaching("https://provider.test", names, tls_ca_file=CA_FILE) as upstream:
            assert await exchange(upstream) == b"ok"
            assert await exchange(upstream, bytes(1 << 20)) == b"ok"
            assert upstream.stats() == (1, 1, 0, 1, 1)
        assert (served.names, served.protocols) == (["provider.test"], ["http/1.1"])


@on_each_loop
async def test_tls_by_address() -> None:
    """A certificate may name an IP address."""
    async with provider(answers(OK), tls=True) as served:
        url = f"https://127.0.0.1:{served.port}"
        async with reaching(url, Names(v4(served.port)), tls_ca_file=CA_FILE) as upstream:
            assert await exchange(upstream) == b"ok"


@on_each_loop
async def test_tls_that_cannot_be_trusted() -> None:
    """An unknown authority, another name, no TLS at all."""
    for url, settings in [("https://provider.test", {}), ("https://other.test", {"tls_ca_file": CA_FILE})]:
        async with provider(tls=True) as served:
            async with reaching(url, Names(v4(served.port)), **settings) as upstream:
                assert await unreachable(upstream) == "tls"

    async def plain(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.closed()

    async with provider(plain) as served:
        async with reaching("https://provider.test", Names(v4(served.port)), tls_ca_file=CA_FILE) as upstream:
            assert await unreachable(upstream) == "tls"


@on_each_loop
async def test_handshake_takes_too_long() -> None:
    """`connect_seconds` covers all of it, and the connection is not left open."""

    async def dead(peer: Peer) -> None:
        await peer.closed()

    async with provider(dead) as served:
        names = Names(v4(served.port))
        async with reaching("https://provider.test", names, tls_ca_file=CA_FILE, connect_seconds=0.05) as upstream:
            assert await unreachable(upstream) == "connect_timeout"


@on_each_loop
async def test_tls_connection_cut_without_notice() -> None:
    """A body that closing ends is whole only if TLS says that it closes; anybody can cut the wire."""
    head = b"HTTP/1.1 200 OK\r\n\r\nok"
    read = asyncio.Event()

    async def ragged(peer: Peer) -> None:
        await peer.answer(head)
        await read.wait()
        peer.close_raggedly()

    async with provider(answers_then_close(head), ragged, tls=True) as served:
        async with reaching("https://provider.test", Names(v4(served.port)), tls_ca_file=CA_FILE) as upstream:
            assert await exchange(upstream) == b"ok"
            answer = await post(upstream)
            assert await answer.read() == b"ok"
            read.set()
            with pytest.raises(UpstreamBroken, match="truncated_body"):
                await answer.read()


def test_authorities_that_cannot_be_read(tmp_path: Any) -> None:
    """A configuration error when the client is made, not at the first request."""
    (tmp_path / "empty.pem").write_text("nothing")
    for file in ("missing.pem", "empty.pem"):
        with pytest.raises(ConfigError, match="tls_ca_file"):
            Upstream(Origin.from_base_url("https://a", tls_ca_file=str(tmp_path / file)), environ={})
    with pytest.raises(ConfigError, match="tls_ca cannot be used"):
        Upstream(Origin.from_base_url("https://a", tls_ca="nothing"), environ={})


class Tunnel:
    """A proxy's script: take CONNECT, then pass bytes to and from the provider."""

    def __init__(
        self, served: Provider, answer: bytes = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n"
    ) -> None:
        self._port = served.port
        self._answer = answer
        self.request: Request | None = None

    async def __call__(self, peer: Peer) -> None:
        self.request = await peer.head()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        for byte in self._answer:
            await peer.send(bytes([byte]))

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(copy(peer.reader, writer), copy(reader, peer.writer))


@on_each_loop
async def test_by_proxy() -> None:
    """The proxy hears CONNECT with its own credentials and nothing else; names are its business."""
    async with provider(answers(OK), tls=True) as served:
        tunnel = Tunnel(served)
        async with provider(tunnel) as proxy:
            names = Names(v4(proxy.port))
            environ = {"HTTPS_PROXY": "http://us%65r:p%40ss@proxy.test:3128"}
            async with reaching("https://provider.test/v1", names, environ=environ, tls_ca_file=CA_FILE) as upstream:
                assert await exchange(upstream) == b"ok"
            assert names.asked == [("proxy.test", 3128)]
    assert served.names == ["provider.test"]
    authorization = ("Proxy-Authorization", "Basic dXNlcjpwQHNz")
    host = ("Host", "provider.test:443")
    assert tunnel.request == Request("CONNECT provider.test:443 HTTP/1.1", [host, authorization], b"")


@on_each_loop
async def test_proxy_that_refuses() -> None:
    """Or closes, or talks garbage, or says more than it should: no request is sent."""
    for said in (
        b"HTTP/1.1 407 Authenticate\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nx",
        b"x" * 20000,
    ):

        async def refuse(peer: Peer, said: bytes = said) -> None:
            await peer.head()
            await peer.send(said)

        async with provider(refuse) as proxy:
            environ = {"https_proxy": "proxy.test:80"}
            async with reaching("https://provider.test", Names(v4(proxy.port)), environ=environ) as upstream:
                assert await unreachable(upstream) == "proxy"


@pytest.mark.parametrize(
    ("url", "no_proxy", "proxied"),
    [
        ("https://api.openai.com", "", True),
        ("http://api.openai.com", "", False),
        ("https://api.openai.com", "*", False),
        ("https://api.openai.com", "other.com, API.openai.com", False),
        ("https://api.openai.com", "openai.com", False),
        ("https://api.openai.com", ".openai.com", False),
        ("https://api.openai.com", "*.openai.com", False),
        ("https://api.openai.com", "penai.com", True),
        ("https://api.openai.com", "api.openai.com:443", False),
        ("https://api.openai.com", "api.openai.com:8443", True),
        ("https://10.1.2.3", "10.0.0.0/8", False),
        ("https://10.1.2.3", "10.1.2.3", False),
        ("https://11.1.2.3", "10.0.0.0/8", True),
        ("https://[fd00::1]", "fd00::/8", False),
        ("https://[fd00::1]:8443", "[fd00::1]:8443", False),
        ("https://[fd00::1]:8443", "fd00::1", False),
        ("https://api.openai.com", ",, ,", True),
        ("https://api.openai.com", ".", True),
    ],
)
def test_who_is_proxied(url: str, no_proxy: str, proxied: bool) -> None:
    """HTTPS_PROXY for https origins, unless NO_PROXY speaks of them."""
    environ = {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": no_proxy}
    assert proxy_for(Origin.from_base_url(url), environ) == (Proxy("proxy", 3128) if proxied else None)


@pytest.mark.parametrize("url", ["https://proxy:1", "socks5://proxy:1", "http://", "http://proxy:port"])
def test_proxies_that_cannot_be_used(url: str) -> None:
    """They are told when the client is made."""
    with pytest.raises(ConfigError, match="HTTPS_PROXY"):
        Upstream(Origin.from_base_url("https://a"), environ={"HTTPS_PROXY": url})
