"""The mock provider: as light as a provider can be, so that what is measured is the proxy.

Not the simulator: it parses nothing it does not need and answers with bytes made once. Each event of a stream is a
write of its own, one in each turn of the loop, so that a proxy sees events and not a file.

Run by `python -m bench.provider --port N [--cpu N] [--certificate F --certificate-key F]`; prints its port when ready.
"""

import argparse
import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import uvloop

from bench import exchanges
from bench.processes import pin, raise_file_limit

_END_OF_HEAD: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
_STREAM: Final = (b'"stream":true', b'"stream": true')
_USAGE: Final = b"include_usage"
_LOOKED_AT: Final = 1_024
"""Bytes at each end of a body in which the options stand; long prompts are in between."""

_PLAIN: Final = exchanges.plain_answer()
_STREAMS: Final = {include_usage: exchanges.stream_pieces(include_usage) for include_usage in (False, True)}


class Connection(asyncio.Protocol):
    """One connection from the proxy; answers one request after the other."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = 0
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._needed:
            end = self._buffer.find(_END_OF_HEAD)
            if end < 0:
                return
            self._needed = end + 4 + _content_length(self._buffer[:end])
        if len(self._buffer) >= self._needed:
            options = bytes(self._buffer[:_LOOKED_AT] + self._buffer[-_LOOKED_AT:])
            del self._buffer[: self._needed]
            self._needed = 0
            self._answer(options)

    def _answer(self, options: bytes) -> None:
        assert self._transport is not None
        if not any(wanted in options for wanted in _STREAM):
            self._transport.write(_PLAIN)
            return
        pieces = iter(_STREAMS[_USAGE in options])
        self._transport.write(next(pieces))
        if exchanges.HOLD_MARKER not in options:
            self._loop.call_soon(self._next, pieces)

    def _next(self, pieces: Iterator[bytes]) -> None:
        piece = next(pieces, None)
        if piece is not None and self._transport is not None:
            self._transport.write(piece)
            self._loop.call_soon(self._next, pieces)


def _content_length(head: bytearray) -> int:
    lowered = head.lower()
    at = lowered.find(_LENGTH)
    return int(lowered[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0


async def _serve(port: int, context: ssl.SSLContext | None) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, ssl=context, backlog=8_192)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cpu", type=int)
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--certificate-key", type=Path)
    options = parser.parse_args()
    pin(options.cpu)
    raise_file_limit()
    context = None
    if options.certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.certificate, options.certificate_key)
    uvloop.run(_serve(options.port, context))


if __name__ == "__main__":
    main()
