"""The directory: keys by digest, in memory, asked of PostgreSQL once and dropped when the change counter says so.

Rules
-----
- Bounded: at most `KEYS_KEPT` keys (the least recently found go first) and `UNKNOWN_KEPT` digests of strangers.
- A stranger is remembered for `UNKNOWN_SECONDS` only, so that a key made a moment ago works.
- Who waits for a key waits for `FIND_SECONDS` at most, however PostgreSQL is stuck.
- A key is looked up once for all who want it at a time; `AT_ONCE` look-ups are under way and `MOST_WANTED` keys waited
  for, so that a flood of wrong keys leaves connections to others.
- An answer that was asked for before a change arrived is not kept: it may be older than the change.
"""

import asyncio
import time
from collections import OrderedDict
from typing import Any, Final
from uuid import UUID

import asyncpg

from meterproxy.core.key import KeyEntry
from meterproxy.errors import StoreUnavailable
from meterproxy.runtime.tasks import at_most
from meterproxy.store.keys import find_key

KEYS_KEPT: Final = 200_000
UNKNOWN_KEPT: Final = 10_000
UNKNOWN_SECONDS: Final = 1.0
FIND_SECONDS: Final = 5.0
AT_ONCE: Final = 3
MOST_WANTED: Final = 1000


class KeyDirectory:
    """Fulfils `proxy.ports.Directory`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._keys: OrderedDict[bytes, KeyEntry] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._generation = 0
        self._wanted: dict[bytes, asyncio.Task[KeyEntry | None]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    def known(self, digest: bytes) -> KeyEntry | bool:
        """The live key if memory has it; False if it is known not to exist; True if only `find` can tell."""
        entry = self._keys.get(digest)
        if entry is not None:
            return entry
        until = self._unknown.get(digest)
        return until is None or until < time.monotonic()

    async def find(self, digest: bytes) -> KeyEntry | None:
        """Look the key up in PostgreSQL and remember the answer. Raises StoreUnavailable."""
        try:
            return await at_most(FIND_SECONDS, self._wanted.get(digest) or self._look_up(digest))
        except TimeoutError:
            raise StoreUnavailable("PostgreSQL does not answer") from None

    def _look_up(self, digest: bytes) -> "asyncio.Task[KeyEntry | None]":
        if len(self._wanted) >= MOST_WANTED:
            raise StoreUnavailable("too many keys are being looked up")
        task = self._wanted[digest] = asyncio.ensure_future(self._found(digest))
        task.add_done_callback(lambda done: self._wanted.get(digest) is done and self._wanted.pop(digest))
        return task

    async def _found(self, digest: bytes) -> KeyEntry | None:
        async with self._turns:
            generation = self._generation
            entry = await find_key(self._pool, digest)
        if entry is None:
            self._unknown[digest] = time.monotonic() + UNKNOWN_SECONDS
            self._unknown.move_to_end(digest)
            _cut(self._unknown, UNKNOWN_KEPT)
        elif generation == self._generation:
            self._keys[digest] = entry
            self._keys.move_to_end(digest)
            _cut(self._keys, KEYS_KEPT)
        return entry

    def key_changed(self, key_id: UUID) -> None:
        """Forget one key; the next request with it asks again, and does not wait for an answer that may be older."""
        self._generation += 1
        self._wanted.clear()
        for digest in [digest for digest, entry in self._keys.items() if entry.key_id == key_id]:
            del self._keys[digest]
        self._unknown.clear()

    def forget_all(self) -> None:
        """Forget everything, as after an outage of unknown extent."""
        self._generation += 1
        self._wanted.clear()
        self._keys.clear()
        self._unknown.clear()


def _cut(entries: OrderedDict[bytes, Any], most: int) -> None:
    while len(entries) > most:
        entries.popitem(last=False)
