"""Dialing: from a provider's name to a connected transport, by way of a proxy and TLS where asked for.

Rules:
- Everything together takes at most `connect_seconds`, or it is `UpstreamUnreachable`; nothing of a request was sent.
- Names are resolved at every dial, so a changed address is seen when connections retire. All addresses are raced, one
  family delayed against the other (RFC 8305), since event loops other than asyncio's own have no such race.
- Proxies are for https origins only and only see `CONNECT`; `NO_PROXY` knows names, suffixes, ports, networks, `*`.
- TLS verifies name and chain and offers nothing but http/1.1.
"""

import asyncio
import base64
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import aiohappyeyeballs

from meterproxy.errors import ConfigError
from meterproxy.proxy.connection import Connection
from meterproxy.proxy.upstream_errors import UpstreamUnreachable
from meterproxy.proxy.upstream_origin import Origin, bracketed

AddressInfo = tuple[int, int, int, str, Any]
Resolve = Callable[[str, int], Awaitable[Sequence[AddressInfo]]]

_EYEBALLS_DELAY_SECONDS = 0.25
_CONNECT_HEAD_LIMIT_BYTES = 16384
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 4))


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that tunnels by CONNECT; `authorization` is the whole header's value, if it wants one."""

    host: str
    port: int
    authorization: str | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Take the proxy's URL apart, such as `http://user:password@proxy:3128`.

        Raises:
            ConfigError: not an http URL with a host.
        """
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port or 80
        except ValueError as error:
            raise ConfigError(f"HTTPS_PROXY cannot be read: {error}") from error
        if parts.scheme != "http" or not host:
            raise ConfigError("HTTPS_PROXY must be a URL of the form http://host:port")
        return cls(host, port, _basic(parts.username, parts.password))


def _basic(user: str | None, password: str | None) -> str | None:
    if user is None:
        return None
    credentials = f"{unquote(user)}:{unquote(password or '')}"
    return "Basic " + base64.b64encode(credentials.encode()).decode()


def proxy_for(origin: Origin, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy that the environment names for this origin, if any."""
    url = environ.get("https_proxy") or environ.get("HTTPS_PROXY")
    if origin.scheme != "https" or not url:
        return None
    exceptions = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if any(_excepts(entry.strip().lower(), origin) for entry in exceptions.split(",")):
        return None
    return Proxy.from_url(url)


def _excepts(entry: str, origin: Origin) -> bool:
    """Whether one entry of NO_PROXY speaks of this origin."""
    if entry == "*":
        return True
    name, colon, port = entry.rpartition(":")
    if colon and port.isdigit() and (":" not in name or name.endswith("]")):
        return int(port) == origin.port and _excepts(name, origin)
    name = entry.strip("[]").removeprefix("*").lstrip(".")
    if not name:
        return False
    if origin.host == name or origin.host.endswith("." + name):
        return True
    try:
        return ipaddress.ip_address(origin.host) in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False


def tls_context(origin: Origin) -> ssl.SSLContext | None:
    """The TLS settings for an origin; None for plain http.

    Raises:
        ConfigError: `tls_ca_file` cannot be read, or `tls_ca` holds no certificates.
    """
    if origin.scheme != "https":
        return None
    if origin.tls_ca is not None:
        return trusting(origin.tls_ca)
    return _default_context() if origin.tls_ca_file is None else _context(cafile=origin.tls_ca_file)


def trusting(tls_ca: str) -> ssl.SSLContext:
    """The TLS settings that trust these authorities only, which are certificates in PEM. Raises ConfigError."""
    return _context(cadata=tls_ca)


@lru_cache(maxsize=1)
def _default_context() -> ssl.SSLContext:
    """One for all who trust what the system does: reading its authorities takes 20 ms."""
    return _context()


def _context(cafile: str | None = None, cadata: str | None = None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=cafile, cadata=cadata)
    except (OSError, ValueError, ssl.SSLError) as error:
        what = "tls_ca" if cafile is None else f"tls_ca_file {cafile!r}"
        raise ConfigError(f"{what} cannot be used: {error}") from error
    context.set_alpn_protocols(["http/1.1"])
    return context


async def resolve(host: str, port: int) -> Sequence[AddressInfo]:
    """Ask the system for a name's addresses, best first."""
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


class Dialer:
    """Dials one origin; made once, since reading the authorities takes a while.

    Raises:
        ConfigError: the proxy's URL, `tls_ca_file` or `tls_ca` cannot be used.
    """

    def __init__(self, origin: Origin, *, environ: Mapping[str, str], resolve: Resolve = resolve) -> None:
        self._origin = origin
        self._proxy = proxy_for(origin, environ)
        self._tls = tls_context(origin)
        self._resolve = resolve

    async def dial(self, make: Callable[[], Connection]) -> Connection:
        """Connect once.

        Raises:
            UpstreamUnreachable: with reason dns, connect, proxy, tls or connect_timeout.
        """
        try:
            async with asyncio.timeout(self._origin.connect_seconds):
                return await self._dial(make)
        except TimeoutError as error:
            raise self._unreachable("connect_timeout", f"took over {self._origin.connect_seconds} s") from error

    async def _dial(self, make: Callable[[], Connection]) -> Connection:
        sock = await self._connect()
        try:
            _tune(sock)
            if self._proxy is not None:
                await self._tunnel(sock, self._proxy)
        except BaseException:
            sock.close()
            raise
        return await self._attach(sock, make)  # from here on the transport owns the socket

    async def _connect(self) -> socket.socket:
        target = self._proxy or self._origin
        try:
            addresses = await self._resolve(target.host, target.port)
        except (socket.gaierror, UnicodeError) as error:
            raise self._unreachable("dns", str(error)) from error
        if not addresses:
            raise self._unreachable("dns", "the name has no address")
        try:
            return await aiohappyeyeballs.start_connection(
                list(addresses), happy_eyeballs_delay=_EYEBALLS_DELAY_SECONDS, interleave=1
            )
        except OSError as error:
            raise self._unreachable("connect", str(error)) from error

    async def _tunnel(self, sock: socket.socket, proxy: Proxy) -> None:
        """Have the proxy connect this socket to the origin; reads not a byte beyond its answer's head."""
        loop = asyncio.get_running_loop()
        target = f"{bracketed(self._origin.host)}:{self._origin.port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        head = b""
        try:
            await loop.sock_sendall(sock, "\r\n".join([*lines, "", ""]).encode("ascii"))
            while b"\r\n\r\n" not in head and len(head) < _CONNECT_HEAD_LIMIT_BYTES:
                piece = await loop.sock_recv(sock, 4096)
                if not piece:
                    break
                head += piece
        except OSError as error:
            raise self._unreachable("proxy", str(error)) from error
        version, _, rest = head.partition(b" ")
        if not (
            head.endswith(b"\r\n\r\n") and version.startswith(b"HTTP/1.") and rest[:3].isdigit() and rest[:1] == b"2"
        ):
            raise self._unreachable("proxy", "the proxy refused to connect")

    async def _attach(self, sock: socket.socket, make: Callable[[], Connection]) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            if self._tls is None:
                _, connection = await loop.create_connection(make, sock=sock)
            else:
                _, connection = await loop.create_connection(
                    make, sock=sock, ssl=self._tls, server_hostname=self._origin.host
                )
        except OSError as error:  # ssl.SSLError is one
            raise self._unreachable("tls" if self._tls else "connect", str(error)) from error
        return connection

    def _unreachable(self, reason: str, details: str) -> UpstreamUnreachable:
        return UpstreamUnreachable(reason, f"cannot connect to {self._origin.authority}: {details}")


def _tune(sock: socket.socket) -> None:
    """Small writes at once; and probes, so that a middlebox does not forget an answer that is long in coming."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
