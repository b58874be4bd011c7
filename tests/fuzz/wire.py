"""A whole proxy on a real socket: whatever comes, its client gets no 5xx, and nothing is left behind."""

import asyncio
import contextlib
import re
from functools import lru_cache

from meterproxy.proxy.server_limits import ServerLimits
from tests.proxy.fakes import SECRET
from tests.proxy.hostile import ROWS
from tests.proxy.house import House, built, until
from tests.proxy.test_hostile import nothing

SEEDS = tuple(row.sent(SECRET) for row in ROWS if "×" not in row.wire)
LIMITS = ServerLimits(
    head_seconds=0.2, body_gap_seconds=0.2, keepalive_seconds=0.5, linger_seconds=0.2, close_seconds=0.2
)
SECONDS = 20
_STATUS = re.compile(rb"^HTTP/1\.1 (\d{3}) ", re.MULTILINE)
_LOOP = asyncio.new_event_loop()
_STACK = contextlib.AsyncExitStack()


@lru_cache(maxsize=1)
def house() -> House:
    """One house for all inputs; it ends with the process."""
    made = _LOOP.run_until_complete(_STACK.enter_async_context(built(other=nothing, limits=LIMITS)))
    made.ledger.balance_nanos = 10**18
    return made


def check(data: bytes) -> None:
    """Each answer is one that a client's fault explains, and then nothing is open, held or taken."""
    asked = house()
    said = _LOOP.run_until_complete(_told(asked, data))
    statuses = [int(status) for status in _STATUS.findall(said)]
    assert all(status < 500 for status in statuses), said
    assert not asked.ledger.open
    assert asked.exchanges.house.room.taken_bytes == asked.exchanges.house.pool.taken_bytes == 0
    asked.ledger.rows.clear()
    asked.ledger.placed.clear()
    asked.observer.ended.clear()


async def _told(asked: House, data: bytes) -> bytes:
    async with asyncio.timeout(SECONDS), asked.client() as connection:
        connection.send(data)
        connection.writer.write_eof()
        try:
            said = await connection.reader.read()
        except ConnectionError:
            said = b""
        await until(lambda: not asked.exchanges.open)
    return said
