"""Keep-alive: comments for the client of a stream whose provider is silent.

They keep what stands between from cutting the connection, and tell us of clients that have left. They may stand between
events only; whoever sends them knows where that is.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from meterproxy.proxy.upstream import UpstreamAnswer

KEEPALIVE: Final = b": keepalive\n\n"


async def next_piece(answer: UpstreamAnswer, keepalive_seconds: float, keep_alive: Callable[[], None]) -> bytes:
    """The next piece of a stream, empty at its end; each time that none has come for so long (0: never) `keep_alive`.

    Raises:
        UpstreamError: as `UpstreamAnswer.read`.
    """
    piece = answer.read_nowait()
    if piece is not None:
        return piece
    if not keepalive_seconds:
        return await answer.read()
    while True:
        try:
            async with asyncio.timeout(keepalive_seconds):
                return await answer.read()
        except TimeoutError:
            keep_alive()
