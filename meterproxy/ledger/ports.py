"""Ports: what the ledger needs of PostgreSQL, as narrow protocols next to their consumer."""

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

from meterproxy.core.hold import DueHold, DurableHold
from meterproxy.core.lending import Batch, Borrow, LeaseKey, Lent, News, Ownership, Rest
from meterproxy.core.resource import ResourceKey


class SessionStore(Protocol):
    """Worker sessions and their leases."""

    async def open_session(
        self, session_id: UUID, journal_id: UUID, host: str, slot: int, ttl_seconds: float
    ) -> int: ...

    async def renew_session(self, session_id: UUID, ttl_seconds: float) -> int: ...

    async def earlier_sessions(self, journal_id: UUID, session_id: UUID) -> list[UUID]: ...

    async def end_session(self, session_id: UUID, state: str) -> int: ...

    async def lend(self, session_id: UUID, borrows: Sequence[Borrow]) -> Sequence[Lent]: ...

    async def read_rests(self, session_id: UUID, keys: Sequence[LeaseKey]) -> Sequence[Rest]: ...

    async def give_back(self, session_id: UUID, returned: Mapping[LeaseKey, int]) -> None: ...

    async def report_held(self, session_id: UUID, held: Mapping[LeaseKey, int]) -> None: ...

    async def ask_reclaim(self, session_id: UUID, key: LeaseKey, wanted: int) -> None: ...

    async def end_reclaim(self, session_id: UUID, key: LeaseKey) -> None: ...

    async def poll(self, session_id: UUID, version: int) -> News: ...

    async def change_version(self) -> int: ...


class SettleStore(Protocol):
    """The books."""

    async def progress(self, journal_id: UUID) -> tuple[int, int]: ...

    async def book(self, batch: Batch) -> int: ...

    async def reject(self, batch: Batch, error: str) -> None: ...


class OwnerStore(Protocol):
    """Whose the resources are, as far as it was settled."""

    async def find_owners(self, session_id: UUID, keys: Sequence[ResourceKey]) -> Ownership: ...

    async def forgotten_owners(self) -> Sequence[ResourceKey]: ...


class DurableStore(Protocol):
    """Durable holds, as far as they were settled."""

    async def find_durable(self, key: ResourceKey) -> DurableHold | None: ...

    async def take_due(self, most: int, term_seconds: float) -> Sequence[DueHold]: ...

    async def put_off(self, hold: DurableHold, seconds: float) -> None: ...
