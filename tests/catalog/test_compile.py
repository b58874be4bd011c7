"""Compiled prices against the data they come from, and against its own arithmetic."""

import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from math import ceil

import pytest
from genai_prices.data import providers
from genai_prices.data_units import unit_data
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)
from genai_prices.types import Usage as TheirUsage

from meterproxy.catalog.compile import _KINDS, FOREVER_US, NOT_COUNTED, compile_price
from meterproxy.core.price import only_when_asked
from meterproxy.core.usage import INPUT_KINDS, OUTPUT_KINDS, Usage

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def provider_of(*models: ModelInfo) -> Provider:
    return Provider(id="test", name="Test", api_pattern="", models=list(models))


def model_of(prices: ModelPrice | list[ConditionalPrice], variants: list[PriceVariant] | None = None) -> ModelInfo:
    return ModelInfo(id="m", match=ClauseEquals(equals="m"), prices=prices, price_variants=variants)


def usd(**rates: str) -> ModelPrice:
    return ModelPrice(**{key: Decimal(rate) for key, rate in rates.items()})


def conditional(prices: ModelPrice, constraint: StartDateConstraint | TimeOfDateConstraint | None) -> ConditionalPrice:
    return ConditionalPrice(constraint, prices=prices)


def test_every_price_key_of_the_data_is_decided_about() -> None:
    """A new release of the data cannot bring a price that we overlook in silence."""
    used = {
        key
        for provider in providers
        for model in provider.models
        for prices in [
            *([model.prices] if isinstance(model.prices, ModelPrice) else [entry.prices for entry in model.prices]),
            *(variant.prices for variant in model.price_variants or ()),
        ]
        for key in vars(prices)
    }
    assert used <= set(_KINDS) | NOT_COUNTED


def test_unit_sizes_are_those_of_the_data() -> None:
    """A rate means the same number of units here and there; seconds are our thousand milliseconds."""
    from meterproxy.core.price import SIZES

    sizes = {unit["price_key"]: unit["per"] for unit in unit_data.values()}
    for key, kind in _KINDS.items():
        assert getattr(SIZES, kind) == sizes[key] * (1000 if kind == "audio_ms" else 1), key


CHECKED = ("openai", "anthropic", "google", "deepseek", "mistral", "x-ai", "cohere", "cerebras", "moonshotai")
MOMENTS = [NOW, datetime(2025, 3, 1, 2, 30, tzinfo=UTC), datetime(2026, 9, 10, 0, 30, tzinfo=UTC)]
SHAPES = [
    Usage(input=1234, output=567),
    Usage(input=7, cache_read=1999, cache_write=311, cache_write_1h=13, output=1, reasoning=89),
    Usage(input=150_001, cache_read=50_000, output=4096),
    Usage(input=271_999, cache_read=2, output=1),
    Usage(input=3, input_audio=11, cache_read_audio=5, input_image=7, cache_read_image=2, output=9, output_audio=4),
]


def theirs(usage: Usage) -> TheirUsage:
    """The same usage as the data's own arithmetic wants it: totals that contain their parts."""
    return TheirUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read + usage.cache_read_audio + usage.cache_read_image,
        cache_write_tokens=usage.cache_write + usage.cache_write_1h,
        cache_write_1h_tokens=usage.cache_write_1h,
        input_audio_tokens=usage.input_audio + usage.cache_read_audio,
        cache_audio_read_tokens=usage.cache_read_audio,
        input_image_tokens=usage.input_image + usage.cache_read_image,
        cache_image_read_tokens=usage.cache_read_image,
        output_audio_tokens=usage.output_audio,
        output_image_tokens=usage.output_image,
        output_reasoning_tokens=usage.reasoning,
    )


@pytest.mark.parametrize("provider", [one for one in providers if one.id in CHECKED], ids=lambda one: one.id)
def test_amounts_agree_with_the_datas_own_arithmetic(provider: Provider) -> None:
    """Where none of its traps applies, both calculations come to the same within the one rounding up."""
    compared = 0
    for model in provider.models:
        for moment in MOMENTS:
            price = compile_price(provider, model, micros(moment)).price
            if price is None:
                continue
            for name, card in price.cards.items():
                if only_when_asked(name) and name != "batch":
                    continue
                context = {"processing": "batch"} if name == "batch" else {"service_tier": name}
                written = card.written_kinds
                for shape in SHAPES:
                    usage = Usage(**{k: v for k, v in shape._asdict().items() if k in written})
                    expected = model.get_prices(moment, context).calc_price(theirs(usage))["total_price"]
                    exact = (expected - per_request(model, moment, context)) * 10**9
                    assert price.amounts(usage, name, 1_000_000).cost_nanos == ceil(exact), (model.id, name, usage)
                    compared += 1
    assert compared > 10


def per_request(model: ModelInfo, moment: datetime, context: dict[str, str]) -> Decimal:
    fee = vars(model.get_prices(moment, context)).get("requests_kcount")
    return Decimal(0) if fee is None else fee / 1000


def test_tiers_of_several_kinds_share_their_cliffs() -> None:
    """A kind without tiers keeps its rate on every cliff of the others."""
    tiered = TieredPrices(Decimal(1), [Tier(100, Decimal(2)), Tier(300, Decimal(4))])
    other = TieredPrices(Decimal(5), [Tier(200, Decimal(6))])
    price = compile_price(
        provider_of(),
        model_of(ModelPrice(input_mtok=tiered, output_mtok=other, cache_read_mtok=Decimal("0.5"))),
        micros(NOW),
    ).price
    assert price is not None
    steps = [
        (tier.above_input_tokens, tier.rates.input // 10**9, tier.rates.output // 10**9, tier.rates.cache_read)
        for tier in price.card_for(None).tiers
    ]
    half = 500_000_000
    assert steps == [(-1, 1, 5, half), (100, 2, 5, half), (200, 2, 6, half), (300, 4, 6, half)]


DATED = [
    conditional(usd(input_mtok="1", output_mtok="1"), None),
    conditional(usd(input_mtok="2", output_mtok="2"), StartDateConstraint(date(2026, 8, 17))),
    conditional(
        usd(input_mtok="3", output_mtok="3"), TimeOfDateConstraint(time(22, tzinfo=UTC), time(4, 30, tzinfo=UTC))
    ),
]
TIMES = """
# accepted             | input | from                | until
2026-08-01 12:00:00    | 1     | 2026-08-01 04:30:00 | 2026-08-01 22:00:00
2026-08-01 21:59:59    | 1     | 2026-08-01 04:30:00 | 2026-08-01 22:00:00
2026-08-01 22:00:00    | 3     | 2026-08-01 22:00:00 | 2026-08-02 04:30:00
2026-08-02 04:29:59    | 3     | 2026-08-01 22:00:00 | 2026-08-02 04:30:00
2026-08-02 04:30:00    | 1     | 2026-08-02 04:30:00 | 2026-08-02 22:00:00
2026-08-16 23:00:00    | 3     | 2026-08-16 22:00:00 | 2026-08-17 00:00:00
2026-08-17 00:00:00    | 3     | 2026-08-17 00:00:00 | 2026-08-17 04:30:00
2026-08-17 05:00:00    | 2     | 2026-08-17 04:30:00 | 2026-08-17 22:00:00
"""


@pytest.mark.parametrize("row", [line for line in TIMES.strip().splitlines() if not line.startswith("#")])
def test_price_is_chosen_by_the_accept_time(row: str) -> None:
    """Dates begin at midnight UTC, hours may cross it, the last active entry wins, and each price says until when."""
    accepted, rate, begin, end = (cell.strip() for cell in row.split("|"))
    at, from_, until = (micros(datetime.fromisoformat(cell).replace(tzinfo=UTC)) for cell in (accepted, begin, end))
    compiled = compile_price(provider_of(), model_of(DATED), at)
    assert compiled.price is not None
    assert compiled.price.card_for(None).rates_for(0).input == int(rate) * 10**9
    assert (compiled.from_us, compiled.until_us) == (from_, until)
    assert compiled.holds(from_)
    assert compiled.holds(until - 1)
    assert not compiled.holds(until)
    assert not compiled.holds(from_ - 1)


@pytest.mark.parametrize("provider_id", ["deepseek", "openai", "anthropic"])
def test_price_stays_the_same_within_its_interval(provider_id: str) -> None:
    """Whatever hour of a long week is asked for, the interval's price is the one compiled for that very hour."""
    provider = next(one for one in providers if one.id == provider_id)
    for model in [one for one in provider.models if isinstance(one.prices, list)][:12]:
        compiled = compile_price(provider, model, micros(datetime(2026, 8, 14, tzinfo=UTC)))
        for quarter in range(0, 24 * 4 * 5, 3):
            at = micros(datetime(2026, 8, 14, tzinfo=UTC) + timedelta(minutes=15 * quarter))
            fresh = compile_price(provider, model, at)
            compiled = compiled if compiled.holds(at) else fresh
            assert compiled == fresh


def test_first_entry_holds_where_none_is_active() -> None:
    """Before its first date a model has the price of its first entry."""
    entries = [
        conditional(usd(input_mtok="1", output_mtok="1"), StartDateConstraint(date(2030, 1, 1))),
        conditional(usd(input_mtok="2", output_mtok="2"), StartDateConstraint(date(2031, 1, 1))),
    ]
    compiled = compile_price(provider_of(), model_of(entries), micros(NOW))
    assert compiled.price is not None
    assert compiled.price.card_for(None).rates_for(0).input == 10**9
    assert compiled.from_us == -FOREVER_US


def variant(when: dict[str, str], prices: ModelPrice, starts: date | None = None) -> PriceVariant:
    return PriceVariant(when, prices, None if starts is None else StartDateConstraint(starts))


def test_variants_override_the_standard_rates() -> None:
    """A variant changes what it names and keeps the rest; a later one of the same name fills what is left."""
    model = model_of(
        usd(input_mtok="2", output_mtok="8", cache_read_mtok="0.5"),
        [
            variant({"service_tier": "priority"}, usd(input_mtok="4")),
            variant({"service_tier": "priority"}, usd(input_mtok="9", output_mtok="16")),
            variant({"service_tier": "flex"}, usd(input_mtok="1"), date(2030, 1, 1)),
            variant({"service_tier": "default"}, usd()),
            variant({"processing": "batch"}, usd(input_mtok="1", output_mtok="4")),
            variant({"speed": "fast"}, usd(output_mtok="80")),
        ],
    )
    compiled = compile_price(provider_of(model), model, micros(NOW))
    assert compiled.price is not None
    assert compiled.until_us == micros(datetime(2030, 1, 1, tzinfo=UTC))
    rates = {name: card.rates_for(0) for name, card in compiled.price.cards.items()}
    assert {name: (r.input // 10**9, r.output // 10**9, r.cache_read) for name, r in rates.items()} == {
        "default": (2, 8, 500_000_000),
        "priority": (4, 16, 500_000_000),
        "batch": (1, 4, 500_000_000),
        "speed=fast": (2, 80, 500_000_000),
    }


def test_variants_do_not_travel_to_other_providers() -> None:
    """One who sells another provider's models has that provider's standard prices only."""
    model = model_of(usd(input_mtok="2", output_mtok="8"), [variant({"service_tier": "flex"}, usd(input_mtok="1"))])
    price = compile_price(provider_of(), model, micros(NOW)).price
    assert price is not None
    assert set(price.cards) == {"default"}


@pytest.mark.parametrize(
    "prices",
    [
        [],
        ModelPrice(),
        usd(input_document_kpages="1"),
        usd(input_mtok="-1", output_mtok="1"),
        usd(input_mtok="NaN", output_mtok="1"),
        usd(input_mtok="1e30", output_mtok="1"),
        usd(input_mtok="1", output_mtok="1", unheard_of_kcount="1"),
    ],
    ids=["no list", "empty", "only uncounted", "negative", "not a number", "absurd", "unknown fee"],
)
def test_what_cannot_be_priced_is_unpriced(prices: ModelPrice | list[ConditionalPrice]) -> None:
    """Nothing written, nothing we count, or nothing that can be right: no price, rather than a free ride."""
    assert compile_price(provider_of(), model_of(prices), micros(NOW)).price is None


def test_written_zero_is_free_and_splinters_round_up() -> None:
    """Zero is a price; less than a nanodollar is one."""
    free = compile_price(provider_of(), model_of(usd(input_mtok="0", output_mtok="0")), micros(NOW)).price
    assert free is not None
    assert free.free
    tiny = compile_price(provider_of(), model_of(usd(input_mtok="0.0000000001", output_mtok="0")), micros(NOW)).price
    assert tiny is not None
    assert tiny.card_for(None).rates_for(0).input == 1


def test_all_shipped_models_compile() -> None:
    """Every model of the data is either priced or unpriced today; none breaks."""
    at = micros(NOW)
    priced = sum(
        compile_price(provider, model, at).price is not None for provider in providers for model in provider.models
    )
    assert priced > 2000
    assert not re.search("[A-Z]", "".join([*INPUT_KINDS, *OUTPUT_KINDS]))
