"""Looking: what PostgreSQL says of something is looked at again whenever it has changed, or may have."""

import asyncio
from abc import ABC, abstractmethod
from typing import Final

from meterproxy.errors import StoreUnavailable

RETRY_SECONDS: Final = 0.25


class Looking(ABC):
    """Keeps a part of a worker as PostgreSQL says; while that is away the part stays as it was."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def look_again(self) -> None:
        """Something has changed, or may have."""
        self._changed.set()

    async def keep_told(self) -> None:
        """Look again whenever there is a reason to."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self.look()
            except StoreUnavailable:
                self._changed.set()
                await asyncio.sleep(RETRY_SECONDS)
            except BaseException:
                self._changed.set()  # whoever starts this anew looks at once
                raise

    @abstractmethod
    async def look(self) -> None:
        """Do as PostgreSQL says. Raises StoreUnavailable."""
