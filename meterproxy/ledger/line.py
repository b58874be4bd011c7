"""The line: where this worker waits at PostgreSQL for what others hold.

Rules
-----
- Who waits stands in line at PostgreSQL, and nobody who came later is lent what is wanted there. Holders hear of the
  line with their next look and give back what is free; the first in line hears with its own that it can borrow.
- A wish is told again every `ASKED_SECONDS`, and taken back when the last request that waits here has gone.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from meterproxy.core.lending import LeaseKey
from meterproxy.errors import StoreUnavailable
from meterproxy.ledger.asking import answered
from meterproxy.ledger.clock import elapsed_us
from meterproxy.ledger.ports import SessionStore
from meterproxy.ledger.session import Session

ASKED_SECONDS: Final = 1.5
"""How long a wish is not told again; PostgreSQL forgets it after three seconds."""
NEVER_US: Final = -(2**62)


class Line:
    """The limits that requests of this worker wait for."""

    def __init__(self, store: SessionStore, session: Session) -> None:
        self._store = store
        self._session = session
        self._waiting: Counter[LeaseKey] = Counter()
        self._asked: dict[LeaseKey, int] = {}
        self._over: set[LeaseKey] = set()

    def __contains__(self, key: LeaseKey) -> bool:
        """Whether a request waits for this limit."""
        return key in self._waiting

    @contextmanager
    def waiting(self, key: LeaseKey) -> Iterator[None]:
        """Wait for this limit; when the last one has left, others need not give back any more."""
        self._waiting[key] += 1
        try:
            yield
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
                if key in self._asked:
                    self._over.add(key)

    async def ask(self, key: LeaseKey, amount: int) -> None:
        """Stand in line for this much more, unless PostgreSQL has just heard. Raises StoreUnavailable."""
        asked_us = self._asked.get(key)
        if asked_us is not None and elapsed_us() - asked_us < ASKED_SECONDS * 1e6:
            return
        self._asked[key] = elapsed_us()
        try:
            await answered(self._store.ask_reclaim(self._session.session_id, key, amount))
        except StoreUnavailable:
            self._asked[key] = NEVER_US  # others may have heard all the same
            raise

    def leave(self, key: LeaseKey) -> None:
        """PostgreSQL has struck this worker off; who still waits asks again."""
        self._asked.pop(key, None)

    async def tell_over(self) -> None:
        """Tell what nobody waits for any more. Raises StoreUnavailable."""
        for key in list(self._over):
            if key in self._asked and key not in self._waiting:
                await self._store.end_reclaim(self._session.session_id, key)
                self.leave(key)  # who came meanwhile asks again
            self._over.discard(key)
