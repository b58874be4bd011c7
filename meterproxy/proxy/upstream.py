"""The provider client: one request to one provider over pooled HTTP/1.1 connections.

Rules:
- `before_first_byte` is called in the same step as the write of each attempt's first byte; if it raises, nothing is
  sent and the connection goes back.
- A request on a reused connection that ends before any byte of an answer is sent once more, on a new connection.
  Nothing else is repeated here: a provider may have done, and billed, what it did not answer.
- An error says by `sent` whether any attempt's bytes left us; a repetition that fails to connect says True.
- `Host`, `Content-Length`, `Connection` and their like are written here and nowhere else; what the caller has of
  them is left out. A line end or NUL in what goes into the head is a fault of the caller.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from meterproxy.proxy.body import Body
from meterproxy.proxy.connection_pool import ConnectionPool, Stats
from meterproxy.proxy.dial import Dialer, Resolve, resolve
from meterproxy.proxy.upstream_answer import UpstreamAnswer
from meterproxy.proxy.upstream_errors import (
    ReadInterrupted,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamSilent,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from meterproxy.proxy.upstream_origin import Origin

__all__ = [
    "Origin",
    "ReadInterrupted",
    "Stats",
    "Upstream",
    "UpstreamAnswer",
    "UpstreamBroken",
    "UpstreamBusy",
    "UpstreamError",
    "UpstreamSilent",
    "UpstreamTimeout",
    "UpstreamUnreachable",
]

_OURS = frozenset(
    b"host content-length connection transfer-encoding keep-alive proxy-connection te trailer upgrade expect".split()
)
_WITH_BODY = frozenset({b"POST", b"PUT", b"PATCH"})


class ProviderHead(NamedTuple):
    """A request's head without the length of its body, for all requests that differ in nothing else."""

    upstream: "Upstream"
    start: bytes
    with_body: bool
    bodiless: bool


class Upstream:
    """One provider.

    Args:
        origin: where it lives and how patient we are.
        environ: where `HTTPS_PROXY` and `NO_PROXY` are looked up.
        resolve: finds addresses.
        clock: monotonic seconds.

    Raises:
        ConfigError: the proxy's URL, `tls_ca_file` or `tls_ca` cannot be used.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        environ: Mapping[str, str] = os.environ,
        resolve: Resolve = resolve,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.origin = origin
        self._pool = ConnectionPool(origin, Dialer(origin, environ=environ, resolve=resolve).dial, clock)
        self._prefix = origin.path_prefix.encode("ascii")
        self._line_end = b" HTTP/1.1\r\nHost: " + origin.authority.encode("ascii") + b"\r\n"

    async def send(
        self,
        method: bytes | str,
        path: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: Body,
        *,
        before_first_byte: Callable[[], None],
    ) -> UpstreamAnswer:
        """Send one request and wait for its answer's head. Whoever gets the answer reads it to its end or aborts it.

        Args:
            method: in upper case.
            path: appended to the origin's path prefix; percent-encoded, with its query if any.
            headers: end-to-end headers, in order.
            body: the whole body, in one piece or several.
            before_first_byte: called before each attempt's first byte; what it raises, this raises.

        Raises:
            UpstreamUnreachable, UpstreamBusy, UpstreamTimeout, UpstreamBroken: as their names say.
        """
        head = self.prepare(method, path, headers)
        return await self.send_prepared(head, body, before_first_byte=before_first_byte)

    def prepare(self, method: bytes | str, path: str, headers: Sequence[tuple[bytes, bytes]]) -> ProviderHead:
        """Make a request's head, to be sent once or often; arguments as those of `send`."""
        method = method.encode("ascii") if isinstance(method, str) else method
        lines = [method + b" " + self._prefix + path.encode("ascii") + self._line_end]
        lines += [b"%b: %b\r\n" % header for header in headers if not _is_ours(header[0])]
        ends = len(lines) + 1  # the first line of all holds two
        start = b"".join(lines)
        if start.count(b"\n") != ends or start.count(b"\r") != ends or b"\0" in start:
            raise ValueError("a header or the path has a line end or NUL in it")
        if not path.isprintable() or " " in path:
            raise ValueError("the path has an unescaped character in it")
        return ProviderHead(self, start, method in _WITH_BODY, method == b"HEAD")

    async def send_prepared(
        self, head: ProviderHead, body: Body, *, before_first_byte: Callable[[], None]
    ) -> UpstreamAnswer:
        """As `send`, with a head that `prepare` has made."""
        size = len(body) if isinstance(body, bytes) else sum(map(len, body))
        end = b"Content-Length: %d\r\n\r\n" % size if size or head.with_body else b"\r\n"
        start = head.start + end
        connection = self._pool.take() or await self._pool.lease()
        reused = connection.reused
        try:
            return await connection.exchange(start, body, before_first_byte, bodiless=head.bodiless)
        except UpstreamSilent:
            if not reused:
                raise
        try:
            connection = await self._pool.lease(fresh=True)
        except UpstreamError as error:
            error.sent = True
            raise
        return await connection.exchange(start, body, before_first_byte, bodiless=head.bodiless)

    def stats(self) -> Stats:
        """Counts of connections for metrics."""
        return self._pool.stats()

    def sweep(self) -> None:
        """Close what has been idle, silent or alive too long; done by itself every second or more often."""
        self._pool.sweep()

    async def close(self) -> None:
        """Close every connection at once, also those in use; later requests raise UpstreamUnreachable."""
        await self._pool.close()


@lru_cache(maxsize=1024)
def _is_ours(name: bytes) -> bool:
    return name.lower() in _OURS
