"""Owners: whose the resources are that requests mention, as one worker knows it.

Rules
-----
- What this worker has claimed is known from that step on, and for as long as PostgreSQL may not have it.
- A claim is in the journal before it counts; what the journal does not take was not claimed.
- A miss is final only when no other worker can be about to settle the resource: at once where this worker is alone,
  else after a second. A client cannot mention an id before the claim, so nobody waits for longer than that; who
  looks through others' things takes the first answer, and then nothing is remembered of it.
- Whatever is asked at the same time is asked in one statement, one at a time, and only so much may wait, of one account
  too: a flood of foreign ids takes neither the connections nor the places of others.
- Memory is bounded; what PostgreSQL has may be forgotten here and asked again.
- A deletion is heard from other workers by looking at the latest ones twice a second. Should one be missed, nothing is
  lost: the provider itself says that the resource is gone.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Final, TypeVar
from uuid import UUID

from meterproxy.core.lending import Noted
from meterproxy.core.record import DeferRecord, ForgetRecord, NoteRecord, OwnerRecord
from meterproxy.core.resource import Resource, ResourceKey, key_of, ownable
from meterproxy.errors import JournalFailed, JournalFull, StoreUnavailable
from meterproxy.ledger.clock import elapsed_us
from meterproxy.ledger.journal import Journal
from meterproxy.ledger.ports import OwnerStore
from meterproxy.ledger.settle import Settler
from meterproxy.runtime.tasks import at_most, set_within

V = TypeVar("V")

KNOWN_KEPT: Final = 30_000
UNKNOWN_KEPT: Final = 10_000
UNKNOWN_US: Final = 1_000_000
"""How long a final miss is remembered."""
FIND_SECONDS: Final = 5.0
MOST_WANTED: Final = 2000
MOST_WANTED_OF_ACCOUNT: Final = 500
ASKED_AT_ONCE: Final = 500
ASKED_AGAIN_US: Final = 100_000
PATIENCE_US: Final = 1_000_000
"""How long another worker may take to settle a claim, which it does at once; many times what that takes as a rule."""
HEARD_SECONDS: Final = 0.5
MISSED_US: Final = 10_000_000
"""Who has not heard of deletions for so long may have missed some."""


class Wanted:
    """A resource that somebody waits for; `patient` says that a miss must be final."""

    __slots__ = ("answer", "final_us", "next_us", "patient")

    def __init__(self, answer: "asyncio.Future[Resource | None]") -> None:
        self.answer = answer
        self.next_us = 0
        self.final_us: int | None = None
        self.patient = False


class Owners:
    """Fulfils `proxy.ports.Owners`; `settler` is set before anything is claimed."""

    settler: Settler

    def __init__(self, rows: OwnerStore, journal: Journal, session_id: UUID) -> None:
        self._rows = rows
        self._journal = journal
        self._session_id = session_id
        self._patience_us = PATIENCE_US
        self._claimed: dict[ResourceKey, Resource] = {}
        self._forgotten: set[ResourceKey] = set()
        self._known: OrderedDict[ResourceKey, Resource] = OrderedDict()
        self._unknown: OrderedDict[ResourceKey, int] = OrderedDict()
        self._wanted: dict[ResourceKey, Wanted] = {}
        self._wanted_of: Counter[UUID] = Counter()
        self._more = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None

    # ── asked and told by requests ──────────────────────────────────────────────────────────────────────────────────

    def known(self, account_id: UUID, kind: str, resource_id: str) -> Resource | bool:
        """See `proxy.ports.Owners.known`."""
        key = (account_id, kind, resource_id)
        resource = self._claimed.get(key) or self._known.get(key)
        if resource is not None:
            return resource
        if key in self._forgotten or not ownable(resource_id):
            return False
        until_us = self._unknown.get(key)
        return until_us is None or until_us < elapsed_us()

    async def find(self, account_id: UUID, kind: str, resource_id: str, *, patient: bool = True) -> Resource | None:
        """See `proxy.ports.Owners.find`."""
        known = self.known(account_id, kind, resource_id)
        if known is not True:
            return known or None
        key = (account_id, kind, resource_id)
        wanted = self._wanted.get(key) or self._want(key)
        wanted.patient = wanted.patient or patient
        try:
            return await at_most(FIND_SECONDS, wanted.answer)
        except TimeoutError:
            raise StoreUnavailable("PostgreSQL does not answer") from None

    def claim(self, resource: Resource, occurred_us: int) -> None:
        """See `proxy.ports.Owners.claim`."""
        key = key_of(resource)
        if key in self._claimed or key in self._known:
            return
        if not ownable(resource.id):
            raise JournalFailed("a provider's id is none that anything could be looked up by")
        self._note(OwnerRecord(resource, occurred_us))

    def forget(self, resource: Resource, occurred_us: int) -> None:
        """See `proxy.ports.Owners.forget`."""
        if key_of(resource) not in self._forgotten:
            self._note(ForgetRecord(resource, occurred_us))

    def _note(self, record: OwnerRecord | ForgetRecord) -> None:
        """Write it down, and have it settled at once: whoever mentions the resource next may ask another worker."""
        if self._journal.unsettled_bytes > self._journal.max_bytes:
            raise JournalFailed("the journal holds more unsettled records than it may")
        try:
            position = self._journal.describe(record)
        except JournalFull as error:
            raise JournalFailed(str(error)) from error
        self.settler.add(Noted(position, record))
        self.settler.hasten()

    # ── told by settle ──────────────────────────────────────────────────────────────────────────────────────────────

    def queued(self, record: NoteRecord) -> None:
        """See `settle.NoteObserver`: the journal has it and PostgreSQL has not, or not any more."""
        if isinstance(record, DeferRecord):
            return
        key = key_of(record.resource)
        self._unknown.pop(key, None)
        if isinstance(record, ForgetRecord):
            self._forgotten.add(key)
            self._claimed.pop(key, None)
            self._known.pop(key, None)
            self._answer(key, None)
        elif key not in self._forgotten:
            self._claimed[key] = record.resource
            self._answer(key, record.resource)

    def settled(self, record: NoteRecord) -> None:
        """See `settle.NoteObserver`: PostgreSQL has it."""
        key = key_of(record.resource)
        if isinstance(record, ForgetRecord):
            self._forgotten.discard(key)
        elif isinstance(record, OwnerRecord) and (resource := self._claimed.pop(key, None)) is not None:
            self._know(key, resource)

    # ── looking up ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _want(self, key: ResourceKey) -> Wanted:
        account_id = key[0]
        if len(self._wanted) >= MOST_WANTED or self._wanted_of[account_id] >= MOST_WANTED_OF_ACCOUNT:
            raise StoreUnavailable("too many resources are being looked up")
        wanted = self._wanted[key] = Wanted(asyncio.get_running_loop().create_future())
        self._wanted_of[account_id] += 1
        self._more.set()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_for_all(), name="owners")
        return wanted

    async def _ask_for_all(self) -> None:
        """Ask for whatever is wanted until nothing is."""
        try:
            while self._wanted:
                self._more.clear()
                now_us = elapsed_us()
                due = [key for key, wanted in self._wanted.items() if wanted.next_us <= now_us][:ASKED_AT_ONCE]
                if due:
                    await self._ask(due, now_us)
                else:
                    await self._pause(min(wanted.next_us for wanted in self._wanted.values()) - now_us)
        finally:
            self._fail(list(self._wanted), StoreUnavailable("the look-up was ended"))

    async def _pause(self, for_us: int) -> None:
        """Wait until something is due again, or somebody wants more."""
        await set_within(self._more, for_us / 1e6)

    async def _ask(self, keys: Sequence[ResourceKey], asked_us: int) -> None:
        try:
            found, alone = await at_most(FIND_SECONDS, self._rows.find_owners(self._session_id, keys))
        except (StoreUnavailable, TimeoutError) as error:
            self._fail(keys, StoreUnavailable(str(error) or "PostgreSQL does not answer"))
            return
        for key in keys:
            if (resource := found.get(key)) is None:
                self._missed(key, asked_us, final=alone)
            elif key not in self._forgotten:
                self._know(key, resource)  # what was forgotten while this was asked is heard of yet
                self._answer(key, resource)

    def _missed(self, key: ResourceKey, asked_us: int, *, final: bool) -> None:
        wanted = self._wanted.get(key)
        if wanted is None:
            return  # claimed here meanwhile
        if wanted.final_us is None:
            wanted.final_us = asked_us + self._patience_us
        if final or asked_us >= wanted.final_us:
            self._unknown[key] = elapsed_us() + UNKNOWN_US
            _cut(self._unknown, UNKNOWN_KEPT)
            self._answer(key, None)
        elif not wanted.patient:
            self._answer(key, None)
        else:
            wanted.next_us = min(asked_us + ASKED_AGAIN_US, wanted.final_us)

    def _know(self, key: ResourceKey, resource: Resource) -> None:
        self._known[key] = resource
        self._known.move_to_end(key)
        _cut(self._known, KNOWN_KEPT)

    def _answer(self, key: ResourceKey, resource: Resource | None) -> None:
        wanted = self._done(key)
        if wanted is not None and not wanted.answer.done():
            wanted.answer.set_result(resource)

    def _fail(self, keys: Sequence[ResourceKey], error: StoreUnavailable) -> None:
        for key in keys:
            wanted = self._done(key)
            if wanted is not None and not wanted.answer.done():
                wanted.answer.set_exception(error)
                wanted.answer.exception()  # nobody may be left who waits for it

    def _done(self, key: ResourceKey) -> Wanted | None:
        wanted = self._wanted.pop(key, None)
        if wanted is not None:
            self._wanted_of[key[0]] -= 1
            if not self._wanted_of[key[0]]:
                del self._wanted_of[key[0]]
        return wanted

    # ── in the background ───────────────────────────────────────────────────────────────────────────────────────────

    async def keep_heard(self) -> None:
        """Hear of what other workers have forgotten; who knows nothing has nothing to hear."""
        heard_us = elapsed_us()
        while True:
            await asyncio.sleep(HEARD_SECONDS)
            asked_us = elapsed_us()
            if self._known:
                try:
                    await self.hear()
                except StoreUnavailable:
                    continue
                if asked_us - heard_us > MISSED_US:
                    self._known.clear()
            heard_us = asked_us

    async def hear(self) -> None:
        """One look at the latest deletions. Raises StoreUnavailable."""
        for key in await self._rows.forgotten_owners():
            self._known.pop(key, None)

    async def close(self) -> None:
        """End what is being looked up."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait((self._asking,))
        self._fail(
            list(self._wanted), StoreUnavailable("the look-up was ended")
        )  # a task that never ran has told nobody


def _cut(entries: OrderedDict[ResourceKey, V], most: int) -> None:
    while len(entries) > most:
        entries.popitem(last=False)
