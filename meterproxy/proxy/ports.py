"""Ports: what the proxy needs of the rest of the house, as narrow protocols next to their consumer.

`service` hands in what fulfils them; nothing in `proxy` can reach PostgreSQL but through `Directory.find` and
`Ledger.place`, and those only when memory cannot answer.
"""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

import msgspec

from meterproxy.core.bound import ModelFacts
from meterproxy.core.hold import Hold as Hold  # noqa: PLC0414  re-exported for the consumer
from meterproxy.core.hold import HoldRequest as HoldRequest  # noqa: PLC0414
from meterproxy.core.hold import Rates as Rates  # noqa: PLC0414
from meterproxy.core.hold import Receipt as Receipt  # noqa: PLC0414
from meterproxy.core.hold import Rest as Rest  # noqa: PLC0414
from meterproxy.core.idempotency import ClaimRequest, EndedClaim, Found
from meterproxy.core.key import KeyEntry
from meterproxy.core.price import Price
from meterproxy.core.record import Ending
from meterproxy.core.resource import Resource
from meterproxy.core.usage import Usage


class Clock(Protocol):
    """Time as the database sees it, carried on by this machine's monotonic clock."""

    def now_us(self) -> int:
        """Unix time in microseconds; never goes backwards within a process."""
        ...

    def elapsed_us(self) -> int:
        """Microseconds on a steady clock that nobody corrects: what durations are measured by."""
        ...


class Directory(Protocol):
    """Keys by the digest of their secret."""

    def known(self, digest: bytes) -> KeyEntry | bool:
        """The live key if memory has it; False if it is known not to exist; True if only `find` can tell."""
        ...

    async def find(self, digest: bytes) -> KeyEntry | None:
        """Look the key up in PostgreSQL and remember the answer.

        Raises:
            StoreUnavailable: PostgreSQL cannot be asked; the client must get a 503, never a 401.
        """
        ...


class Ledger(Protocol):
    """Holds in memory, backed by leases and the journal."""

    def try_place(self, request: HoldRequest) -> Hold | None:
        """Place a hold from what this worker has leased, without waiting; None if `place` must be asked.

        Raises:
            ApiError: CREDIT_SPENT, BUDGET_SPENT, REQUESTS_LIMITED or TOKENS_LIMITED where it is known that it cannot
                fit; UNAVAILABLE without trust in the session; OVERLOADED where the journal has no room.
            NoExposure: what the request leaves unheld has no room.
        """
        ...

    async def place(self, request: HoldRequest) -> Hold:
        """Place a hold, borrowing from PostgreSQL and waiting in line up to `hold.wait_ms` where needed.

        Raises:
            ApiError: as `try_place`, and CREDIT_HELD where it would fit once running requests end.
        """
        ...

    def rest(self, request: HoldRequest) -> Rest | None:
        """The least that is left for this request fleet-wide of all limits on its path, as last heard.

        None where PostgreSQL was never asked about one of them.
        """
        ...

    async def fetch_rest(self, request: HoldRequest) -> Rest:
        """As `rest`, asked of PostgreSQL now where memory does not know. Raises ApiError UNAVAILABLE."""
        ...

    def rates(self, key: KeyEntry, operation: str, model: str, at_us: int) -> Rates | None:
        """What is left of the requests and tokens that this key may use, for an answer's headers; None if unlimited."""
        ...

    def confirm(self, hold: Hold) -> None:
        """Check in the step that sends the first byte upstream that this worker may still spend.

        Raises:
            ApiError: UNAVAILABLE where the session's trust has run out; the caller releases the hold.
        """
        ...

    def extend(self, hold: Hold, more_nanos: int) -> bool:
        """Hold so much more, from what this worker has leased; False where it has not, or where nothing can be written.

        Synchronous; only for a hold that was placed with `exposed_nanos`, whose exposure gets as much back.
        """
        ...

    async def make_room(self, hold: Hold, more_nanos: int) -> bool:
        """Borrow what `extend` lacks, waiting in line up to `hold.wait_ms`; whether it is worth trying again."""
        ...

    def progress(self, hold: Hold, usage: Usage) -> None:
        """Journal what a stream has delivered so far (called at least every ten seconds)."""
        ...

    def capture(self, hold: Hold, ending: Ending, status_unwritten: int | None = None) -> Receipt:
        """End the hold with what was consumed; written to the journal when this returns. Synchronous.

        `status_unwritten` is what the client is sent instead of `ending.status` where it cannot be written.

        Raises:
            JournalFailed: the ending is kept in memory for settle but not on disk; the client must be told of an
                error before the terminal event.
        """
        ...

    def release(self, hold: Hold, ending: Ending) -> None:
        """End the hold with nothing charged; the row keeps `ending.status` and outcome. Synchronous."""
        ...


class Owners(Protocol):
    """Whose the resources are that requests mention."""

    def known(self, account_id: UUID, kind: str, resource_id: str) -> Resource | bool:
        """The account's resource if memory has it; False if it is freshly known to have none; True: ask `find`."""
        ...

    async def find(self, account_id: UUID, kind: str, resource_id: str, *, patient: bool = True) -> Resource | None:
        """Look the account's resource up in PostgreSQL and remember the answer.

        One that another worker has claimed is found as soon as its journal is settled; a miss is not final before that,
        which only those who are not patient do not wait for.

        Raises:
            StoreUnavailable: PostgreSQL cannot be asked; the client must get a 503, never a 404.
        """
        ...

    def claim(self, resource: Resource, occurred_us: int) -> None:
        """Write down that an account has made this, before its id reaches the client; again is harmless. Synchronous.

        Raises:
            JournalFailed: it could not be written, so the id must not go out.
        """
        ...

    def forget(self, resource: Resource, occurred_us: int) -> None:
        """Write down that a resource was deleted: from now on nobody owns it. Synchronous; raises JournalFailed."""
        ...


class DurableHolds(Protocol):
    """Holds that outlive their exchange and their worker: what runs at a provider in the background."""

    def defer(self, hold: Hold, resource: Resource) -> None:
        """Turn an open hold into a durable one; written to the journal when this returns. Synchronous.

        Raises:
            JournalFailed: it could not be written; the hold is still open.
        """
        ...

    async def find(self, resource: Resource) -> Hold | None:
        """The durable hold of a resource while it has not ended, as far as is known here. Raises StoreUnavailable."""
        ...

    def capture(self, hold: Hold, ending: Ending) -> Receipt:
        """End a durable hold with what was consumed; whoever sees the end first is the one who counts. Synchronous.

        `hold` is what `find` gave, or the one that was deferred here. Ended again on this worker it gets the receipt of
        the first time.

        Raises:
            JournalFailed: it could not be written; the hold is still open, and ends with the next one who sees the end.
        """
        ...

    def release(self, hold: Hold, ending: Ending) -> None:
        """End a durable hold with nothing charged: the provider never ran it. Otherwise as `capture`."""
        ...

    def end(self, hold: Hold, ending: Ending) -> None:
        """Capture what was consumed, or release where that is nothing. Raises JournalFailed, as `capture`."""
        ...


class IdempotencyStore(Protocol):
    """Which requests have claimed their keys, and what is kept of the answers."""

    async def claim(self, request: ClaimRequest) -> Found:
        """Ask for a key; the same request gets it again.

        Raises:
            StoreUnavailable: PostgreSQL cannot be asked; it may have been claimed all the same.
        """
        ...

    async def end(self, ended: Sequence[EndedClaim]) -> None:
        """Tell how claims ended, once or more often; a claim that somebody else has taken over stays his.

        Raises:
            StoreUnavailable: PostgreSQL may not have heard.
        """
        ...


class TokenCounter(Protocol):
    """The tokenizer's helper process."""

    async def count(self, model: str, texts: Sequence[str]) -> tuple[int, bool] | None:
        """Tokens of the texts and whether the vocabulary is the model's own (`counted`) or another (`estimated`).

        None where the helper's queue is full or it is away: the caller uses the bytes bound and says `estimated`.
        """
        ...


class Catalog(Protocol):
    """Prices and facts of models."""

    def price(self, prices_id: str, model: str, at_us: int, operation: str | None = None) -> Price | None:
        """The price in force at a time, None where what the operation needs has none."""
        ...

    def facts(self, model: str, prices_id: str | None = None) -> ModelFacts:
        """What is known of a model's size, with defaults where nothing is."""
        ...


class Finished(msgspec.Struct, frozen=True):
    """How one exchange ended, for the metrics; times in microseconds.

    `upstream_us` is what was spent waiting for the provider; `ending` and `receipt` are there where a hold was.
    """

    route: str
    model: str
    provider: str
    status: int
    stream: bool
    total_us: int
    upstream_us: int
    first_byte_us: int | None
    ending: Ending | None
    receipt: Receipt | None


class Observer(Protocol):
    """Metrics: told what happened, once each; must be cheap and never raise."""

    def finished(self, finished: Finished) -> None:
        """An exchange has been answered."""
        ...

    def refused(self, reason: str, route: str) -> None:
        """A request was answered with an error of our own; `reason` is `ApiError.reason`."""
        ...

    def stream_opened(self) -> None:
        """A stream has begun."""
        ...

    def stream_closed(self) -> None:
        """A stream has ended, however it did."""
        ...

    def replayed(self) -> None:
        """A request was answered by what was kept of an earlier one."""
        ...

    def upstream_failed(self, provider: str, reason: str) -> None:
        """A provider could not be reached, broke off, or refused our account."""
        ...
