"""Metrics: what Prometheus is told about one worker.

Rules
-----
- Money and usage are counted from settled batches, so they agree with the books and cost a request nothing.
- What an exchange itself must report is put aside and counted some hundred at once.
- Labels are bounded: route templates, providers, at most `MODELS_NAMED` models; never a raw path, key or user.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from meterproxy import __version__
from meterproxy.core.lending import Settling
from meterproxy.core.money import NANOS_PER_USD
from meterproxy.core.usage import INPUT_KINDS, OUTPUT_KINDS

MODELS_NAMED: Final = 30
OTHER: Final = "other"
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
RELEASED: Final = "released"
"""How a hold ended whose exchange used nothing, so that there is no source to count."""
TIMES_AT_ONCE: Final = 512
"""Times are counted this many at once, which takes about a millisecond."""

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_OVERHEAD: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_RECORDS: Final = (1, 2, 5, 10, 25, 50, 100, 200, 256)


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
        self._answers: dict[tuple[str, str, str, int], int] = {}
        self._times: list[tuple[str, int, int, int | None]] = []

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"meterproxy_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"meterproxy_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"meterproxy_{name}", text, labels, registry=registry, buckets=buckets)

        self.requests = counter("requests_total", "Answered requests.", "route", "model", "provider", "status")
        self.request_seconds = histogram("request_seconds", "From accept to the last byte.", _SECONDS, "route")
        self.overhead_seconds = histogram(
            "overhead_seconds", "The part of it that was not waiting for the provider.", _OVERHEAD, "route"
        )
        self.first_byte_seconds = histogram("first_byte_seconds", "From accept to the first byte.", _SECONDS, "route")
        self.streams_open = gauge("streams_open", "Streams in progress.")
        self.tokens = counter("tokens_total", "Tokens by disjoint kind.", "kind")
        self.amount_usd = counter("amount_usd_total", "What was charged.")
        self.refusals = counter("refusals_total", "Errors of our own.", "reason")
        self.usage_source = counter("usage_source_total", "Where usage came from.", "source")
        self.holds_open = gauge("holds_open", "Holds in progress.")
        self.hold_oldest_seconds = gauge("hold_oldest_seconds", "Age of the oldest hold.")
        self.lease_requests = counter("lease_requests_total", "Borrowing from PostgreSQL.", "result")
        self.lost_lease_nanos = gauge("lost_lease_nanos", "Credit lent to workers that are gone without proof.")
        self.journal_unsettled_records = gauge("journal_unsettled_records", "Records that PostgreSQL does not have.")
        self.journal_oldest_seconds = gauge("journal_oldest_seconds", "Age of the oldest of them.")
        self.settle_seconds = histogram("settle_seconds", "How long a batch takes.", _SECONDS)
        self.settle_records = histogram("settle_records", "How large a batch is.", _RECORDS)
        self.settle_rejected = counter("settle_rejected_total", "Records booked with minimal columns, kept aside.")
        self.rows_dropped = counter("rows_dropped_total", "Records that were lost; stays 0.")
        self.overrun_usd = counter("overrun_usd_total", "What was charged above holds.")
        self.invariant_failed = gauge("invariant_failed", "1 while an invariant of the books is broken.", "name")
        self.database_up = gauge("database_up", "1 if PostgreSQL answered the last time it was asked.")
        self.clock_skew_seconds = gauge("clock_skew_seconds", "How far this machine's clock is ahead of PostgreSQL's.")
        self.upstream_errors = counter("upstream_errors_total", "Trouble with a provider.", "reason", "provider")
        gauge("build_info", "The release that runs.", "version").labels(__version__).set(1)
        self.before_scrape: list[Callable[[], None]] = [self._count_answers, self._count_times]

    # ── told by the exchange ────────────────────────────────────────────────────────────────────────────────────────

    def finished(self, finished: FinishedExchange) -> None:
        """An exchange has been answered: counted now, its times when there are enough or somebody scrapes."""
        model = self._model(finished.model) if finished.model else ""
        labels = (finished.route, model, finished.provider, finished.status)
        self._answers[labels] = self._answers.get(labels, 0) + 1
        self._times.append((finished.route, finished.total_us, finished.upstream_us, finished.first_byte_us))
        if len(self._times) >= TIMES_AT_ONCE:
            self._count_times()

    def refused(self, reason: str, route: str) -> None:  # noqa: ARG002  the route is counted with the answer
        """A request was answered with an error of our own."""
        self.refusals.labels(reason).inc()

    def stream_opened(self) -> None:
        self.streams_open.inc()

    def stream_closed(self) -> None:
        self.streams_open.dec()

    def upstream_failed(self, provider: str, reason: str) -> None:
        self.upstream_errors.labels(reason, provider).inc()

    # ── told by settle ──────────────────────────────────────────────────────────────────────────────────────────────

    def settled(self, endings: Sequence[Settling], seconds: float) -> None:
        """A batch is in PostgreSQL."""
        self.settle_seconds.observe(seconds)
        self.settle_records.observe(len(endings))
        sources: dict[str, int] = {}
        tokens = [0] * len(INPUT_KINDS + OUTPUT_KINDS)
        amount = overrun = 0
        for settling in endings:
            record, ending = settling.record, settling.record.ending
            if record.how != RELEASED:
                sources[ending.usage_source] = sources.get(ending.usage_source, 0) + 1
            amount += record.amount_nanos
            overrun += record.overrun_nanos
            tokens = [total + count for total, count in zip(tokens, ending.usage, strict=False)]
        for source, count in sources.items():
            self.usage_source.labels(source).inc(count)
        for kind, count in zip(INPUT_KINDS + OUTPUT_KINDS, tokens, strict=True):
            if count:
                self.tokens.labels(kind).inc(count)
        self.amount_usd.inc(amount / NANOS_PER_USD)
        self.overrun_usd.inc(overrun / NANOS_PER_USD)

    def rejected_to(self, total: int) -> None:
        """So many records have been refused by PostgreSQL since the start."""
        self.settle_rejected.inc(total - self._rejected)
        self._rejected = total

    # ── asked by Prometheus ─────────────────────────────────────────────────────────────────────────────────────────

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        for prepare in self.before_scrape:
            prepare()
        return generate_latest(self.registry)

    def _count_answers(self) -> None:
        answers, self._answers = self._answers, {}
        for (route, model, provider, status), count in answers.items():
            self.requests.labels(route, model, provider, _status_class(status)).inc(count)

    def _count_times(self) -> None:
        histograms = (self.request_seconds, self.overhead_seconds, self.first_byte_seconds)
        routes = {times[0] for times in self._times}
        of_route = {route: [histogram.labels(route) for histogram in histograms] for route in routes}
        for route, total_us, upstream_us, first_byte_us in self._times:
            request, overhead, first_byte = of_route[route]
            request.observe(total_us / 1e6)
            overhead.observe((total_us - upstream_us) / 1e6)
            if first_byte_us is not None:
                first_byte.observe(first_byte_us / 1e6)
        self._times.clear()

    def _model(self, model: str) -> str:
        if model in self._models:
            return model
        if len(self._models) < MODELS_NAMED:
            self._models.add(model)
            return model
        return OTHER


def _status_class(status: int) -> str:
    return f"{status // 100}xx" if status else "none"
