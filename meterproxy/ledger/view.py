"""Views: what one worker knows of a limit window beyond its own lease, and how much it would borrow of it.

Rules
-----
- What was captured here and PostgreSQL had not booked when it answered is not coming back; telling the two apart by
  what is unsettled *now* would count it twice while a settle's answer is on its way. What became durable may come back.
- Requests that run here are kept whatever becomes of them, as a rule, so they do not come back either.
- A borrow sooner than `QUICK_SECONDS` after the last one doubles what is asked for; one later than `IDLE_SECONDS`
  halves it.
"""

from dataclasses import dataclass
from typing import Final

from meterproxy.core.lending import Borrow, LeaseKey, Rest
from meterproxy.core.limit import Limit, Measure
from meterproxy.core.plan import Planned
from meterproxy.core.window import Window
from meterproxy.ledger.book import Lease

IDLE_SECONDS: Final = 10.0
QUICK_SECONDS: Final = 2.0
MOST_DOUBLINGS: Final = 14
FIRST_DOUBLINGS: Final = 4
MOST_BORROWED: Final = 2**62
"""No limit has this much, so that whoever needs it is told that it is spent."""
DENIAL_US: Final = 1_000_000
AHEAD_US: Final = 5_000_000
"""How long before a window ends the next one is borrowed from at the earliest."""
AHEAD_SHARE: Final = 6
"""The part of a short window that this may be instead."""


@dataclass(slots=True)
class View:
    """What is known of one limit window; amounts are in the limit's own measure."""

    limit: Limit | None
    window: Window
    rest: int = 0
    outstanding: int = 0
    consumed: int = 0
    heard: bool = False
    denied_until_us: int = 0
    denied: int = 0
    """The least that PostgreSQL has refused to lend in that time."""
    last_borrow_us: int = 0
    doublings: int = FIRST_DOUBLINGS
    unit: int = 0
    want: int = 0
    repeat: Borrow | None = None
    used_us: int = 0
    reported: int | None = 0
    continued: bool = False
    """Whether the window after this one has been borrowed from ahead."""

    def note(self, rest: Rest) -> None:
        """PostgreSQL has told how things stand."""
        self.rest, self.outstanding, self.consumed = rest
        self.heard = True

    def deny(self, need: int, now_us: int) -> None:
        """PostgreSQL has refused to lend so much: it is not asked for that again for a while."""
        self.denied = min(need, self.denied) if self.denied_until_us > now_us else need
        self.denied_until_us = now_us + DENIAL_US
        self.doublings = 0

    def refuses(self, missing: int, now_us: int) -> bool:
        """Whether it is known that PostgreSQL would not lend so much right now."""
        return self.denied_until_us > now_us and missing >= self.denied

    def potential(self, lease: Lease | None) -> int:
        """What could be held if every hold ended, as last heard."""
        captured = 0
        if lease is not None:
            captured = lease.consumed + lease.unsettled - lease.deferred
            if self.limit is not None and self.limit.measure is Measure.REQUESTS:
                captured += lease.held
        return self.rest + self.outstanding - max(captured - self.consumed, 0)

    def size(self, now_us: int, missing: int, waiting: int) -> tuple[int, int]:
        """What to borrow for a hold that lacks `missing` while all who wait lack `waiting`: (need, want)."""
        since = (now_us - self.last_borrow_us) / 1e6
        if self.last_borrow_us and since < QUICK_SECONDS:
            self.doublings = min(self.doublings + 1, MOST_DOUBLINGS)
        elif since > IDLE_SECONDS:
            self.doublings = max(self.doublings - 1, FIRST_DOUBLINGS)
        self.unit = missing if waiting else self.unit
        self.want = min(max(waiting, missing, self.unit << self.doublings), MOST_BORROWED)
        return missing, self.want

    def next_window(self, key: LeaseKey, now_us: int) -> Planned | None:
        """The window after this one where it is time to borrow from it, a little earlier or later by the key."""
        if self.limit is None or self.continued:
            return None
        lead_us = min(AHEAD_US, (self.window.end_us - self.window.start_us) // AHEAD_SHARE)
        from_us = self.window.end_us - lead_us + key.limit_id.int % (lead_us // 2 + 1)
        if not from_us <= now_us < self.window.end_us:
            return None
        window = self.limit.window_at(self.window.end_us)
        return Planned(LeaseKey(key.account_id, key.limit_id, window.start_us), self.limit.measure, window, self.limit)
