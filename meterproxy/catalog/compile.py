"""Compile: from the maintained price data (genai-prices) to integer rate cards.

Rules
-----
- Only what is written counts. A price key we have a kind for is compiled; keys in `NOT_COUNTED` price things that no
  usage we read can report; a key in neither table makes the model unpriced, because a fee that we would overlook is
  worse than a refusal.
- A rate that is not a whole number of nanodollars is rounded up. (Such rates are artefacts of floats in the data.)
- One interval of time has one price: which entry is active is asked of the data's own rules (last one first; the first
  of all where none is active), and the interval ends where any constraint changes its mind.
- Variants are overrides of the standard rates of the same moment. `service_tier` names its card by its value,
  `processing: batch` is "batch", anything else is named "member=value". A variant that changes nothing has no card.
- Variants hold only with the provider that names them, not with one that sells another provider's models.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import ROUND_CEILING, Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from meterproxy.core.money import MAX_NANOS, NANOS_PER_USD
from meterproxy.core.price import BATCH, DEFAULT, Price, RateCard

if TYPE_CHECKING:
    from genai_prices.types import (
        ModelInfo,
        ModelPrice,
        Provider,
        StartDateConstraint,
        TieredPrices,
        TimeOfDateConstraint,
    )

_KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "input_mtok": "input",
        "input_text_mtok": "input",
        "cache_read_mtok": "cache_read",
        "cache_text_read_mtok": "cache_read",
        "cache_write_mtok": "cache_write",
        "cache_write_5m_mtok": "cache_write",
        "cache_text_write_mtok": "cache_write",
        "cache_text_write_5m_mtok": "cache_write",
        "cache_write_1h_mtok": "cache_write_1h",
        "cache_text_write_1h_mtok": "cache_write_1h",
        "input_audio_mtok": "input_audio",
        "cache_audio_read_mtok": "cache_read_audio",
        "input_image_mtok": "input_image",
        "cache_image_read_mtok": "cache_read_image",
        "output_mtok": "output",
        "output_text_mtok": "output",
        "output_reasoning_mtok": "reasoning",
        "output_text_reasoning_mtok": "reasoning",
        "output_audio_mtok": "output_audio",
        "output_image_mtok": "output_image",
        "requests_kcount": "requests",
        "audio_hours": "audio_ms",
        "input_audio_hours": "audio_ms",
        "output_audio_hours": "audio_ms",
        "input_mchars": "characters",
        "web_searches_kcount": "web_searches",
        "storage_searches_kcount": "file_searches",
    }
)
"""Where several keys fall on one kind, the dearest holds."""

NOT_COUNTED: Final = frozenset(
    {
        "input_video_mtok",
        "output_video_mtok",
        "cache_video_read_mtok",
        "output_citation_mtok",
        "input_document_kpages",
        "input_annotated_document_kpages",
        "input_text_messages_kcount",
        "input_gpixels",
        "rerank_searches_kcount",
        "social_searches_kcount",
        "code_executions_kcount",
    }
)
"""Prices of units that no answer of the operations we forward reports."""

FOREVER_US: Final = 2**63 - 1


class _NotCompilable(Exception):
    """The data says something that cannot become integer rates."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A model's price in `[from_us, until_us)`; None: unpriced."""

    price: Price | None
    from_us: int
    until_us: int

    def holds(self, at_us: int) -> bool:
        return self.from_us <= at_us < self.until_us


def compile_price(provider: "Provider", model: "ModelInfo", at_us: int) -> Compiled:
    """The price of a model that requests accepted at `at_us` are charged by."""
    from_us, until_us = _interval(model, at_us)
    try:
        return Compiled(_price(provider, model, at_us), from_us, until_us)
    except _NotCompilable:
        return Compiled(None, from_us, until_us)


def _price(provider: "Provider", model: "ModelInfo", at_us: int) -> Price | None:
    if not model.prices:
        return None
    moment = datetime.fromtimestamp(at_us // 1_000_000, UTC)
    standard = _card(model.get_prices(moment))
    if standard is None:
        return None
    cards = {DEFAULT: standard}
    own = any(model is one for one in provider.models)
    for variant in (model.price_variants or ()) if own else ():
        name = _card_name(variant.when)
        card = _card(model.get_prices(moment, variant.when))
        if card is not None and card != standard:
            cards[name] = card
    return Price(provider.id, model.id, cards)


def _card_name(when: Mapping[str, str]) -> str:
    if when.keys() == {"service_tier"}:
        return when["service_tier"]
    if when == {"processing": "batch"}:
        return BATCH
    return ",".join(f"{member}={value}" for member, value in sorted(when.items()))


def _card(prices: "ModelPrice") -> RateCard | None:
    """The card of what is written; None where nothing is."""
    written = [
        (_kind(key), _steps(value))
        for key, value in vars(prices).items()
        if value is not None and not key.startswith("_") and key not in NOT_COUNTED
    ]
    if not written:
        return None
    cliffs = sorted({-1} | {above for _, steps in written for above, _ in steps})
    return RateCard.written([(cliff, _rates_at(cliff, written)) for cliff in cliffs])


def _kind(key: str) -> str:
    kind = _KINDS.get(key)
    if kind is None:
        raise _NotCompilable(key)
    return kind


def _steps(value: "Decimal | TieredPrices") -> list[tuple[int, int]]:
    """A price as rising (above, nanos) steps, the first at -1."""
    if isinstance(value, Decimal):
        return [(-1, _nanos(value))]
    return [(-1, _nanos(value.base)), *((tier.start, _nanos(tier.price)) for tier in value.tiers)]


def _nanos(usd: Decimal) -> int:
    if not usd.is_finite() or usd < 0:
        raise _NotCompilable(str(usd))
    nanos = int((usd * NANOS_PER_USD).to_integral_value(ROUND_CEILING))
    if nanos > MAX_NANOS:
        raise _NotCompilable(str(usd))
    return nanos


def _rates_at(cliff: int, written: Sequence[tuple[str, list[tuple[int, int]]]]) -> dict[str, int]:
    rates: dict[str, int] = {}
    for kind, steps in written:
        rate = [nanos for above, nanos in steps if above <= cliff][-1]
        rates[kind] = max(rate, rates.get(kind, 0))
    return rates


def _interval(model: "ModelInfo", at_us: int) -> tuple[int, int]:
    """The longest time around `at_us` in which no constraint of the model changes between active and not."""
    from_us, until_us = -FOREVER_US, FOREVER_US
    for constraint in _constraints(model):
        for boundary_us in _boundaries(constraint, at_us):
            if boundary_us <= at_us:
                from_us = max(from_us, boundary_us)
            else:
                until_us = min(until_us, boundary_us)
    return from_us, until_us


def _constraints(model: "ModelInfo") -> "Iterator[StartDateConstraint | TimeOfDateConstraint]":
    conditional = model.prices if isinstance(model.prices, list) else ()
    for entry in (*conditional, *(model.price_variants or ())):
        if entry.constraint is not None:
            yield entry.constraint


def _boundaries(constraint: "StartDateConstraint | TimeOfDateConstraint", at_us: int) -> Iterator[int]:
    """The instants next to `at_us` at which a constraint changes: midnight UTC of a start date, or times of day."""
    start_date = getattr(constraint, "start_date", None)
    if start_date is not None:
        yield _micros(datetime.combine(start_date, time(tzinfo=UTC)))
        return
    today = datetime.fromtimestamp(at_us // 1_000_000, UTC).date()
    for day in (today - timedelta(days=1), today, today + timedelta(days=1)):
        for moment in (constraint.start_time, constraint.end_time):  # type: ignore[union-attr] # else it has a date
            aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
            yield _micros(datetime.combine(day, aware))


def _micros(moment: datetime) -> int:
    return int((moment - datetime.fromtimestamp(0, UTC)) / timedelta(microseconds=1))
