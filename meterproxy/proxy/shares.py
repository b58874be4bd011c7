"""Shares: of what all accounts use together, each has at most so much at once; the rest of it waits in line."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

from meterproxy.errors import ApiError, Case

WAITING: Final = 1024
"""How many of one account may wait."""


class Shares:
    """So many at once for each account; who has nothing to do takes no memory."""

    __slots__ = ("_lines", "_most", "_waiting")

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: dict[UUID, asyncio.Semaphore] = {}
        self._waiting: dict[UUID, int] = {}

    @asynccontextmanager
    async def taken(self, account_id: UUID) -> AsyncIterator[None]:
        """Wait for a share and have it for the block. Raises ApiError OVERLOADED where too many of it wait."""
        waiting = self._waiting.get(account_id, 0)
        if waiting >= WAITING:
            raise ApiError(Case.OVERLOADED, "Too many requests of this organization wait already. Please try again.")
        self._waiting[account_id] = waiting + 1
        try:
            async with self._lines.setdefault(account_id, asyncio.Semaphore(self._most)):
                yield
        finally:
            self._waiting[account_id] -= 1
            if not self._waiting[account_id]:
                del self._waiting[account_id], self._lines[account_id]

    def __len__(self) -> int:
        return len(self._waiting)
