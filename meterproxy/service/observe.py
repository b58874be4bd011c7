"""Observe: what the parts know of themselves, told to the metrics."""

from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from meterproxy.core.lending import Borrow, Lent
from meterproxy.errors import MeterproxyError
from meterproxy.ledger.clock import elapsed_us
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.runtime.metrics import Metrics
from meterproxy.store.sessions import Sessions

LEASE_ADDS_UP: Final = "lease_adds_up"
HOLD_NOT_TOO_OLD: Final = "hold_not_older_than_the_longest_exchange"
ENDED_ONCE: Final = "hold_ended_once"
CHECKED_AT_ONCE: Final = 2000
"""Leases whose arithmetic is checked per scrape, in turn, so that a scrape never stalls requests."""


class CountedSessions(Sessions):
    """Worker sessions whose borrowing is counted."""

    metrics: Metrics

    async def lend(self, session_id: UUID, borrows: Sequence[Borrow]) -> Sequence[Lent]:
        """See `Sessions.lend`."""
        try:
            answers = await super().lend(session_id, borrows)
        except MeterproxyError:
            self.metrics.lease_requests.labels("failed").inc(len(borrows))
            raise
        for lent in answers:
            self.metrics.lease_requests.labels("granted" if lent.granted else "refused").inc()
        return answers


def gauges_of(ledger: WorkerLedger, metrics: Metrics, max_seconds: float) -> Callable[[], None]:
    """What brings the gauges up to date before each scrape."""
    checked = 0

    def update() -> None:
        nonlocal checked
        holds = ledger.holds.open
        oldest = next(iter(holds.values())).placed_us if holds else None
        age_seconds = (elapsed_us() - oldest) / 1e6 if oldest is not None else 0.0
        metrics.holds_open.set(len(holds))
        metrics.hold_oldest_seconds.set(age_seconds)
        metrics.journal_unsettled_records.set(ledger.settler.queued)
        waiting = ledger.settler.oldest_us
        metrics.journal_oldest_seconds.set((ledger.clock.now_us() - waiting) / 1e6 if waiting is not None else 0)
        metrics.database_up.set(int(ledger.database_up))
        metrics.clock_skew_seconds.set(ledger.clock.skew_us / 1e6)
        metrics.rejected_to(ledger.settler.rejected)
        metrics.shadowed_to(ledger.holds.shadowed)
        leases = list(ledger.book.leases.values())
        part = leases[checked : checked + CHECKED_AT_ONCE]
        checked = checked + CHECKED_AT_ONCE if checked + CHECKED_AT_ONCE < len(leases) else 0
        wrong = not all(map(ledger.book.adds_up, part))
        metrics.invariant_failed.labels(LEASE_ADDS_UP).set(int(wrong))
        metrics.invariant_failed.labels(HOLD_NOT_TOO_OLD).set(int(age_seconds > max_seconds + 60))
        metrics.invariant_failed.labels(ENDED_ONCE).set(int(bool(ledger.holds.anomalies)))

    return update
