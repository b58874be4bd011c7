"""The directory: keys by digest and their accounts, in memory, asked of PostgreSQL once and made anew when it says so.

Rules
-----
- Bounded: at most `KEYS_KEPT` keys (the least recently found go first) and `UNKNOWN_KEPT` digests of strangers.
- A stranger is remembered for `UNKNOWN_SECONDS` only, so that a key made a moment ago works.
- Who waits for a key waits for `FIND_SECONDS` at most, however PostgreSQL is stuck.
- A key is looked up once for all who want it at a time; `AT_ONCE` look-ups are under way and `MOST_WANTED` keys waited
  for, so that a flood of wrong keys leaves connections to others.
- An answer that was asked for before a change arrived is not kept: it may be older than the change.
- All keys of an account share one entry of it, for as long as anybody has one of them. What changes about the account
  is read once for all of them, in the background; until then, and while PostgreSQL is away, the old stays in force.
"""

import asyncio
import time
from collections import OrderedDict
from itertools import islice
from typing import Any, Final
from uuid import UUID
from weakref import WeakValueDictionary

import asyncpg

from meterproxy.core.account import AccountEntry
from meterproxy.core.key import KeyEntry
from meterproxy.errors import StoreUnavailable
from meterproxy.runtime.tasks import at_most
from meterproxy.store.found_keys import FoundKey, find_key
from meterproxy.store.limits import read_accounts
from meterproxy.store.pool import Connection, transaction

KEYS_KEPT: Final = 200_000
UNKNOWN_KEPT: Final = 10_000
UNKNOWN_SECONDS: Final = 1.0
FIND_SECONDS: Final = 5.0
AT_ONCE: Final = 3
MOST_WANTED: Final = 1000
ACCOUNTS_AT_ONCE: Final = 200
"""How many accounts are read anew in one statement."""
RETRY_SECONDS: Final = 0.25


class KeyDirectory:
    """Fulfils `proxy.ports.Directory`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._keys: dict[bytes, KeyEntry] = {}
        self._digests: dict[UUID, bytes] = {}
        self._accounts: WeakValueDictionary[UUID, AccountEntry] = WeakValueDictionary()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._generation = 0
        self._wanted: dict[bytes, asyncio.Task[KeyEntry | None]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._account_changes = 0
        self._stale: dict[UUID, None] = {}
        self._have_stale = asyncio.Event()

    # ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────────

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
            entry = await self._read(digest)
        if entry is None:
            self._unknown[digest] = time.monotonic() + UNKNOWN_SECONDS
            self._unknown.move_to_end(digest)
            _cut(self._unknown, UNKNOWN_KEPT)
        elif generation == self._generation:
            self._keep(digest, entry)
        return entry

    async def _read(self, digest: bytes) -> KeyEntry | None:
        async with transaction(self._pool) as connection:
            found = await find_key(connection, digest)
            if found is None:
                return None
            return found.entry(self._accounts.get(found.account_id) or await self._read_account(connection, found))

    def _keep(self, digest: bytes, entry: KeyEntry) -> None:
        self._keys.pop(digest, None)
        self._keys[digest] = entry
        self._digests[entry.key_id] = digest
        while len(self._keys) > KEYS_KEPT:
            dropped = self._keys.pop(next(iter(self._keys)))
            del self._digests[dropped.key_id]

    def key_changed(self, key_id: UUID) -> None:
        """Forget one key; the next request with it asks again, and does not wait for an answer that may be older."""
        self._generation += 1
        self._wanted.clear()
        digest = self._digests.pop(key_id, None)
        if digest is not None:
            del self._keys[digest]
        self._unknown.clear()

    def forget_all(self) -> None:
        """Forget everything, as after an outage of unknown extent."""
        self._generation += 1
        self._wanted.clear()
        self._keys.clear()
        self._digests.clear()
        self._unknown.clear()
        for account_id in list(self._accounts):
            self.account_changed(account_id)

    # ── accounts ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _read_account(self, connection: Connection, found: FoundKey) -> AccountEntry:
        """The account of a key that was found, whose entry nobody has yet."""
        account_id, changes = found.account_id, self._account_changes
        states = await read_accounts(connection, (account_id,))
        account = self._accounts.get(account_id)
        if account is None:
            account = self._accounts[account_id] = found.new_account()
            account.change(states[account_id].limits, frozen=states[account_id].frozen)
        if changes != self._account_changes:
            self.account_changed(account_id)
        return account

    def account_changed(self, account_id: UUID) -> None:
        """Have an account read anew, if anybody has one of its keys."""
        self._account_changes += 1
        if account_id in self._accounts:
            self._stale[account_id] = None
            self._have_stale.set()

    async def keep_fresh(self) -> None:
        """Read accounts anew as they change."""
        while True:
            await self._have_stale.wait()
            try:
                await self.refresh()
            except StoreUnavailable:
                await asyncio.sleep(RETRY_SECONDS)

    async def refresh(self) -> None:
        """Read what is known to have changed, until nothing is left of it. Raises StoreUnavailable."""
        while self._stale:
            taken = tuple(islice(self._stale, ACCOUNTS_AT_ONCE))
            for account_id in taken:
                del self._stale[account_id]
            try:
                async with transaction(self._pool) as connection:
                    states = await read_accounts(connection, taken)
            except BaseException:
                self._stale.update(dict.fromkeys(taken))
                raise
            for account_id, state in states.items():
                account = self._accounts.get(account_id)
                if account is not None:
                    account.change(state.limits, frozen=state.frozen)
        self._have_stale.clear()


def _cut(entries: OrderedDict[bytes, Any], most: int) -> None:
    while len(entries) > most:
        entries.popitem(last=False)
