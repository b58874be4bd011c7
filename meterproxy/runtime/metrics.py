"""Metrics: what one worker counts for Prometheus; `snapshot` puts those of a host together.

Rules
-----
- Money and usage are counted from settled batches, so they agree with the books and cost a request nothing.
- What an exchange itself must report is put aside and counted some hundred at once.
- Labels are bounded: route templates, providers, at most `MODELS_NAMED` models; never a raw path, key or user.
"""

import asyncio
import collections
from collections.abc import Callable, Sequence
from typing import Final, Protocol
from uuid import uuid4

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from meterproxy import __version__
from meterproxy.core.lending import Settling
from meterproxy.core.money import NANOS_PER_USD
from meterproxy.core.usage import INPUT_KINDS, OUTPUT_KINDS
from meterproxy.runtime.histogram import DurationHistogram
from meterproxy.runtime.snapshot import Snapshot, Together, family_of

MODELS_NAMED: Final = 30
OTHER: Final = "other"
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
RELEASED: Final = "released"
"""How a hold ended whose exchange used nothing, so that there is no source to count."""
COUNTED_AT_ONCE: Final = 256
"""Finished exchanges are counted this many at once, which takes a fraction of a millisecond."""

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_OVERHEAD: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_RECORDS: Final = (1, 2, 5, 10, 25, 50, 100, 200, 512)


class FinishedExchange(Protocol):
    """What an exchange reports at its end; times in microseconds."""

    @property
    def route(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def total_us(self) -> int: ...
    @property
    def upstream_us(self) -> int: ...
    @property
    def first_byte_us(self) -> int | None: ...


class Metrics:
    """The metrics of one worker; fulfils `proxy.ports.Observer`."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each, which nobody asks for
        registry = self.registry = CollectorRegistry()
        self._models: set[str] = set()
        self._rejected = 0
        self._shadowed = 0
        self._finished: list[FinishedExchange] = []
        self._together: dict[str, Together] = {}
        self._life = uuid4().hex

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"meterproxy_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str, together: Together = Together.HIGHEST) -> Gauge:
            self._together[f"meterproxy_{name}"] = together
            return Gauge(f"meterproxy_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"meterproxy_{name}", text, registry=registry, buckets=buckets)

        def durations(name: str, text: str, buckets: Sequence[float]) -> DurationHistogram:
            return DurationHistogram(f"meterproxy_{name}", text, "route", buckets, registry)

        self.requests = counter("requests_total", "Answered requests.", "route", "model", "provider", "status")
        self.request_seconds = durations("request_seconds", "From accept to the last byte.", _SECONDS)
        self.overhead_seconds = durations(
            "overhead_seconds", "The part of it that was not waiting for the provider.", _OVERHEAD
        )
        self.first_byte_seconds = durations("first_byte_seconds", "From accept to the first byte.", _SECONDS)
        self.streams_open = gauge("streams_open", "Streams in progress.", together=Together.SUM)
        self.tokens = counter("tokens_total", "Tokens by disjoint kind.", "kind")
        self.amount_usd = counter("amount_usd_total", "What was charged.")
        self.refusals = counter("refusals_total", "Errors of our own.", "reason")
        self.usage_source = counter("usage_source_total", "Where usage came from.", "source")
        self.holds_open = gauge("holds_open", "Holds in progress.", together=Together.SUM)
        self.hold_oldest_seconds = gauge("hold_oldest_seconds", "Age of the oldest hold.")
        self.durable_holds_open = gauge("durable_holds_open", "Holds that outlived their exchange, fleet-wide.")
        self.durable_hold_oldest_seconds = gauge("durable_hold_oldest_seconds", "Age of the oldest of them.")
        self.lease_requests = counter("lease_requests_total", "Borrowing from PostgreSQL.", "result")
        self.lost_lease_nanos = gauge("lost_lease_nanos", "Credit lent to workers that are gone without proof.")
        self.journal_unsettled_records = gauge(
            "journal_unsettled_records", "Records that PostgreSQL does not have.", together=Together.SUM
        )
        self.journal_oldest_seconds = gauge("journal_oldest_seconds", "Age of the oldest of them.")
        self.settle_seconds = histogram("settle_seconds", "How long a batch takes.", _SECONDS)
        self.settle_records = histogram("settle_records", "How large a batch is.", _RECORDS)
        self.settle_rejected = counter("settle_rejected_total", "Records that PostgreSQL refused, kept for a person.")
        self.shadowed = counter("shadowed_total", "Requests served in shadow mode that limits would have refused.")
        self.rows_dropped = counter("rows_dropped_total", "Records that were lost; stays 0.")
        self.overrun_usd = counter("overrun_usd_total", "What was charged above holds.")
        self.invariant_failed = gauge("invariant_failed", "1 while an invariant of the books is broken.", "name")
        self.database_up = gauge(
            "database_up", "1 if PostgreSQL answered the last time it was asked.", together=Together.LOWEST
        )
        self.clock_skew_seconds = gauge(
            "clock_skew_seconds", "How far this machine's clock is ahead of PostgreSQL's.", together=Together.FARTHEST
        )
        self.replayed_total = counter(
            "replayed_total", "Answers that were kept under an Idempotency-Key and given again."
        )
        self.letters = counter(
            "letters_total", "Mail to people: sent, failed, dropped (too many, or at the end).", "outcome"
        )
        self.upstream_errors = counter("upstream_errors_total", "Trouble with a provider.", "reason", "provider")
        gauge("workers", "Workers that answer.", together=Together.SUM).set(1)
        gauge("build_info", "The release that runs.", "version").labels(__version__).set(1)
        self.before_scrape: list[Callable[[], None]] = [self._count_finished]

    # ── told by the exchange ────────────────────────────────────────────────────────────────────────────────────────

    def finished(self, finished: FinishedExchange) -> None:
        """An exchange has been answered: put aside, and counted when there are enough or somebody scrapes."""
        self._finished.append(finished)
        if len(self._finished) >= COUNTED_AT_ONCE:
            self._count_finished()

    def refused(self, reason: str, route: str) -> None:  # noqa: ARG002  the route is counted with the answer
        """A request was answered with an error of our own."""
        self.refusals.labels(reason).inc()

    def stream_opened(self) -> None:
        self.streams_open.inc()

    def stream_closed(self) -> None:
        self.streams_open.dec()

    def replayed(self) -> None:
        self.replayed_total.inc()

    def upstream_failed(self, provider: str, reason: str) -> None:
        self.upstream_errors.labels(reason, provider).inc()

    # ── told by settle ──────────────────────────────────────────────────────────────────────────────────────────────

    def settled(self, endings: Sequence[Settling], seconds: float) -> None:
        """A batch is in PostgreSQL."""
        self.settle_seconds.observe(seconds)
        self.settle_records.observe(len(endings))
        records = [settling.record for settling in endings]
        sources = collections.Counter([record.ending.usage_source for record in records if record.how != RELEASED])
        tokens = map(sum, zip(*[record.ending.usage for record in records], strict=True))  # a column for each kind
        amount = sum([record.amount_nanos for record in records])
        overrun = sum([record.overrun_nanos for record in records])
        for source, count in sources.items():
            self.usage_source.labels(source).inc(count)
        for kind, count in zip(INPUT_KINDS + OUTPUT_KINDS, tokens, strict=False):  # the others are no tokens
            if count:
                self.tokens.labels(kind).inc(count)
        self.amount_usd.inc(amount / NANOS_PER_USD)
        self.overrun_usd.inc(overrun / NANOS_PER_USD)

    def rejected_to(self, total: int) -> None:
        """So many records have been refused by PostgreSQL since the start."""
        self.settle_rejected.inc(total - self._rejected)
        self._rejected = total

    def shadowed_to(self, total: int) -> None:
        """So many requests have been served since the start that would have been refused but for shadow mode."""
        self.shadowed.inc(total - self._shadowed)
        self._shadowed = total

    # ── asked by Prometheus ─────────────────────────────────────────────────────────────────────────────────────────

    async def snapshot(self, slot: int = 0) -> Snapshot:
        """Everything that was counted so far, collected family by family with a turn of the loop in between."""
        for prepare in self.before_scrape:
            prepare()
        families = []
        for metric in self.registry.collect():
            families.append(family_of(metric, self._together.get(metric.name, Together.SUM)))
            await asyncio.sleep(0)
        return Snapshot(slot, self._life, families)

    def _count_finished(self) -> None:
        finished, self._finished = self._finished, []
        answers = collections.Counter([(one.route, one.model, one.provider, one.status) for one in finished])
        for (route, model, provider, status), count in answers.items():
            self.requests.labels(route, self._model(model), provider, _status_class(status)).inc(count)
        for route in {one.route for one in finished}:
            of_route = [one for one in finished if one.route == route]
            self.request_seconds.observe(route, [one.total_us for one in of_route])
            self.overhead_seconds.observe(route, [one.total_us - one.upstream_us for one in of_route])
            first_bytes = [one.first_byte_us for one in of_route if one.first_byte_us is not None]
            self.first_byte_seconds.observe(route, first_bytes)

    def _model(self, model: str) -> str:
        if not model or model in self._models:
            return model
        if len(self._models) < MODELS_NAMED:
            self._models.add(model)
            return model
        return OTHER


def _status_class(status: int) -> str:
    return f"{status // 100}xx" if status else "none"
