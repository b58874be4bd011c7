"""Delivery: a reply's way over the wire, at the speed and with the accidents that were asked for.

The only part of the simulator that sleeps, writes and closes connections.
"""

import asyncio
import socket
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from aiohttp import web

from meterproxy.simulator.calls import Call
from meterproxy.simulator.faults import Faults
from meterproxy.simulator.provider import Reply
from meterproxy.simulator.settings import SimulatorSettings

_BATCH_BYTES: Final = 65_536
_OWED_BYTES: Final = 100
_LEFT_POLL_SECONDS: Final = 0.02
_WINDOW_BITS: Final = {"gzip": 31, "deflate": 15}
_AFTER_END: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nextra"
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Cut(Exception):
    """The connection was closed on purpose; nothing more can be written."""


@dataclass(frozen=True, slots=True)
class Transmission:
    """What goes over the wire: pieces of the body, seconds between them, and the length that the head promises."""

    pieces: tuple[bytes, ...]
    gap_seconds: float
    promised_bytes: int | None
    headers: Mapping[str, str]

    def batches(self) -> Iterator[bytes]:
        """The pieces as they are written: each by itself if time or a fault separates them, else as many as fit."""
        batch = bytearray()
        for piece in self.pieces:
            batch += piece
            if len(batch) >= _BATCH_BYTES:
                yield bytes(batch)
                batch.clear()
        if batch:
            yield bytes(batch)


def plan(reply: Reply, headers: Mapping[str, str], token_ms: float) -> Transmission:
    """Decide what is really sent of a reply."""
    faults = reply.faults
    streamed = reply.events is not None
    units = list(reply.events) if reply.events is not None else [reply.body]
    sent_headers = dict(headers)
    if faults.compress is not None:
        units = _compressed(units, faults.compress)
        sent_headers["Content-Encoding"] = faults.compress
    promised = None if streamed else sum(map(len, units)) + (_OWED_BYTES if faults.truncate else 0)
    units = _cut(units, faults, streamed)
    piece_bytes = faults.piece or (1 if faults.slow and not streamed else 0)
    if piece_bytes:
        whole = b"".join(units)
        units = [whole[at : at + piece_bytes] for at in range(0, len(whole), piece_bytes)]
    gap_seconds = faults.slow or (token_ms / 1000 if streamed else 0.0)
    return Transmission(tuple(units), gap_seconds, promised, sent_headers)


def _compressed(units: list[bytes], coding: str) -> list[bytes]:
    """Compress so that each unit can be read as soon as it arrives."""
    compressor = zlib.compressobj(wbits=_WINDOW_BITS[coding])
    made = [compressor.compress(unit) + compressor.flush(zlib.Z_SYNC_FLUSH) for unit in units]
    return [*made[:-1], made[-1] + compressor.flush()]


def _cut(units: list[bytes], faults: Faults, streamed: bool) -> list[bytes]:
    kept = faults.cut if faults.cut is not None else faults.cut_rst
    if kept is None:
        return units
    return units[:kept] if streamed else [units[0][:kept]]


async def deliver(
    request: web.Request,
    reply: Reply,
    headers: Mapping[str, str],
    settings: SimulatorSettings,
    call: Call,
    *,
    reused: bool,
    closing: asyncio.Event,
) -> web.StreamResponse:
    """Send a reply; notes in the call how it ended, and never raises for a client that left."""
    sending = plan(reply, headers, settings.token_ms)
    response = web.StreamResponse(status=reply.status, headers=sending.headers)
    try:
        await _before_head(request, reply, settings, reused=reused, closing=closing)
        if reply.faults.close_delimited:
            await _send_until_close(request, reply.status, sending, call)
        await _send(request, response, sending, reply.faults, call)
        call.ended = "complete"
    except Cut:
        call.ended = "cut"
    except ConnectionError:
        call.ended = "left"
    return response


async def _before_head(
    request: web.Request, reply: Reply, settings: SimulatorSettings, *, reused: bool, closing: asyncio.Event
) -> None:
    faults = reply.faults
    if faults.drop or (faults.drop_reused and reused):
        await _close(request, reset=False)
    while faults.hang and not closing.is_set():
        _transport(request)
        await asyncio.sleep(_LEFT_POLL_SECONDS)
    generating_ms = settings.token_ms * reply.tokens if reply.events is None else 0
    seconds = (settings.ttft_ms + generating_ms) / 1000 + faults.delay
    if seconds:
        await asyncio.sleep(seconds)
    if faults.informational is not None:
        _transport(request).write(b"HTTP/1.1 %d Simulated\r\nx-early: yes\r\n\r\n" % faults.informational)


async def _send(
    request: web.Request, response: web.StreamResponse, sending: Transmission, faults: Faults, call: Call
) -> None:
    response.content_length = sending.promised_bytes
    await response.prepare(request)
    separate = sending.gap_seconds or faults.piece
    for part in sending.pieces if separate else sending.batches():
        await response.write(part)
        call.sent_bytes += len(part)
        if separate:
            await asyncio.sleep(sending.gap_seconds)
    if faults.cut is not None or faults.cut_rst is not None or faults.truncate:
        await _close(request, reset=faults.cut_rst is not None)
    await response.write_eof()
    if faults.after_end:
        _transport(request).write(_AFTER_END)


async def _send_until_close(request: web.Request, status: int, sending: Transmission, call: Call) -> NoReturn:
    """Write an answer whose end is the connection's, which aiohttp would not."""
    lines = [f"HTTP/1.1 {status} Simulated", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in sending.headers.items()]
    _transport(request).write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    for part in sending.pieces:
        _transport(request).write(part)
        call.sent_bytes += len(part)
        await asyncio.sleep(sending.gap_seconds)
    await _close(request, reset=False)


async def _close(request: web.Request, *, reset: bool) -> NoReturn:
    """Close the connection, what is written delivered first.

    Raises:
        Cut: always.
    """
    for _ in range(3):
        await asyncio.sleep(0)  # uvloop writes at the end of a turn
    transport = _transport(request)
    if reset:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()
    else:
        transport.close()
    raise Cut


def _transport(request: web.Request) -> asyncio.Transport:
    """The connection.

    Raises:
        ConnectionResetError: the client left.
    """
    if request.transport is None:
        raise ConnectionResetError
    return request.transport
