"""The clock: the database's time, carried on between two looks by this machine's monotonic clock.

Rules
-----
- All instants of the books come from here; a wrong clock on a host does no harm.
- It never goes backwards within a process: a correction to the past stands still until time has caught up.
- CLOCK_BOOTTIME goes on while the machine sleeps, so trust does not survive a suspended laptop.
"""

import time
from typing import Final

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_read: Final = time.clock_gettime_ns


def elapsed_us() -> int:
    """Microseconds on this machine's steady clock, sleep included."""
    return _read(_CLOCK) // 1000


class DatabaseClock:
    """Fulfils `proxy.ports.Clock`; until PostgreSQL was asked once, the system's clock stands in."""

    def __init__(self) -> None:
        self._offset_us = time.time_ns() // 1000 - elapsed_us()
        self._last_us = 0
        self.skew_us = 0
        """How far the system's clock is ahead of the database's."""

    def now_us(self) -> int:
        """Unix time in microseconds; never goes backwards."""
        now = elapsed_us() + self._offset_us
        self._last_us = max(self._last_us, now)
        return self._last_us

    elapsed_us = staticmethod(elapsed_us)
    """Microseconds on this machine's steady clock, whatever PostgreSQL says the time is."""

    def correct(self, database_us: int, asked_us: int, answered_us: int) -> None:
        """Take over the database's time as read between two instants of `elapsed_us`."""
        self._offset_us = database_us - (asked_us + answered_us) // 2
        self.skew_us = time.time_ns() // 1000 - elapsed_us() - self._offset_us
