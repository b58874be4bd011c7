"""The worker session: the trust under which a worker spends what it has leased.

Rules
-----
- Trust lasts `ttl_seconds` from the instant at which the last successful renewal was *begun*: local time only
  shortens it.
- Without trust no hold is placed and nothing is sent to a provider.
- A session that somebody else has ended never comes back to life: `over` stays True.
- A renewal that is not answered until the next one would be due is given up: one connection that hangs must not take
  the trust with it.
- A session is renewed only in the life of the database that its leases are known to.
"""

from uuid import UUID

from meterproxy.errors import SessionOver, StoreUnavailable
from meterproxy.ledger.clock import DatabaseClock, elapsed_us
from meterproxy.ledger.ports import SessionStore
from meterproxy.runtime.tasks import at_most

RENEWALS_PER_TTL = 3
UNKNOWN_LIFE = UUID(int=0)


class Session:
    """One worker's session, opened once."""

    def __init__(
        self, store: SessionStore, clock: DatabaseClock, session_id: UUID, journal_id: UUID, ttl_seconds: float
    ) -> None:
        self.session_id = session_id
        self.over = False
        self.life = UNKNOWN_LIFE
        self.ttl_seconds = ttl_seconds
        self._store = store
        self._clock = clock
        self._journal_id = journal_id
        self._trusted_until_us = 0
        self._trusted_since_us = 0

    @property
    def trusted(self) -> bool:
        """Whether this worker may spend right now."""
        return self.trusted_us() != 0

    def now_us(self) -> int:
        """What time it is as the database sees it: what windows end by."""
        return self._clock.now_us()

    def trusted_us(self) -> int:
        """What time it is on `elapsed_us` if this worker may spend, 0 if it may not."""
        now_us = elapsed_us()
        return now_us if now_us < self._trusted_until_us and not self.over else 0

    @property
    def renewal_seconds(self) -> float:
        """How long to wait between two renewals."""
        return self.ttl_seconds / RENEWALS_PER_TTL

    @property
    def trusted_seconds(self) -> float:
        """For how long this session has been trusted without a break: PostgreSQL was there all the time."""
        now_us = self.trusted_us()
        return (now_us - self._trusted_since_us) / 1e6 if now_us else 0.0

    async def open(self, host: str, slot: int) -> None:
        """Make the session known. Raises StoreUnavailable."""
        asked = elapsed_us()
        now = await self._store.open_session(self.session_id, self._journal_id, host, slot, self.ttl_seconds)
        self._trust(now, asked)

    async def renew(self) -> None:
        """Extend the trust. Raises StoreUnavailable, SessionOver, Forgotten."""
        asked = elapsed_us()
        try:
            renewed = self._store.renew_session(self.session_id, self.ttl_seconds, self.life)
            now = await at_most(self.renewal_seconds, renewed)
        except SessionOver:
            self.over = True
            raise
        except TimeoutError:
            raise StoreUnavailable("PostgreSQL does not answer") from None
        self._trust(now, asked)

    def _trust(self, database_us: int, asked_us: int) -> None:
        self._clock.correct(database_us, asked_us, elapsed_us())
        if asked_us > self._trusted_until_us:
            self._trusted_since_us = asked_us
        self._trusted_until_us = asked_us + int(self.ttl_seconds * 1_000_000)
