"""Prices: what holds of every price, usage and bound."""

from fractions import Fraction
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from meterproxy.core.bound import Bound
from meterproxy.core.price import SIZES, Amounts, Price, RateCard
from meterproxy.core.usage import INPUT_KINDS, KINDS, OTHER_KINDS, OUTPUT_KINDS, Usage

NANOS = st.integers(0, 10**12)
COUNTS = st.integers(0, 10**6)
MARKUPS = st.integers(0, 10**7)
TIERS = ("default", "flex", "priority", "fast")
AUDIO = {"input_audio", "cache_read_audio"}
IMAGE = {"input_image", "cache_read_image"}


@st.composite
def cards(draw: st.DrawFn) -> RateCard:
    """A card with any kinds written and up to three cliffs, which may lead up or down."""
    kinds = draw(st.sets(st.sampled_from(KINDS), min_size=1))
    above = draw(st.lists(st.integers(0, 3000), max_size=3, unique=True))
    return RateCard.written([(step, {kind: draw(NANOS) for kind in kinds}) for step in (-1, *sorted(above))])


@st.composite
def prices(draw: st.DrawFn) -> Price:
    names = draw(st.sets(st.sampled_from([*TIERS[1:], "batch"]), max_size=3))
    return Price("provider", "model", {name: draw(cards()) for name in ("default", *sorted(names))})


@st.composite
def bounds(draw: st.DrawFn) -> Bound:
    return Bound(
        input_tokens=draw(st.integers(0, 5000)),
        output_tokens=draw(st.integers(0, 5000)),
        input_audio_tokens=draw(st.integers(0, 5000)),
        input_image_tokens=draw(st.integers(0, 5000)),
        output_audio=draw(st.booleans()),
        output_image=draw(st.booleans()),
        cache_write_1h=draw(st.booleans()),
        requests=draw(st.integers(0, 2)),
        images=draw(st.integers(0, 3)),
        audio_ms=draw(st.integers(0, 10**7)),
        characters=draw(st.integers(0, 5000)),
        web_searches=draw(st.integers(0, 3)),
        file_searches=draw(st.integers(0, 3)),
        variants=draw(st.none() | st.lists(st.sampled_from(TIERS), max_size=3).map(tuple)),
    )


def usage_within(draw: st.DrawFn, bound: Bound) -> Usage:
    """Any usage that the bound allows."""
    counts = dict.fromkeys(KINDS, 0)
    rest = {"input": bound.input_tokens, "audio": bound.input_audio_tokens, "image": bound.input_image_tokens}
    for kind in draw(st.permutations(INPUT_KINDS)):
        part = "audio" if kind in AUDIO else "image" if kind in IMAGE else "input"
        if kind == "cache_write_1h" and not bound.cache_write_1h:
            continue
        counts[kind] = draw(st.integers(0, min(rest["input"], rest[part])))
        rest[part] -= counts[kind]
        if part != "input":
            rest["input"] -= counts[kind]
    output = bound.output_tokens
    for kind in draw(st.permutations(OUTPUT_KINDS)):
        if (kind == "output_audio" and not bound.output_audio) or (kind == "output_image" and not bound.output_image):
            continue
        counts[kind] = draw(st.integers(0, output))
        output -= counts[kind]
    for kind in OTHER_KINDS:
        counts[kind] = draw(st.integers(0, getattr(bound, kind)))
    return Usage(**counts)


@given(st.data(), prices(), bounds(), MARKUPS)
def test_hold_covers_whatever_stays_within_the_bound(
    data: st.DataObject, price: Price, bound: Bound, markup_ppm: int
) -> None:
    """No usage within the bound, on any card that the bound leaves open, comes to more than was held."""
    usage = data.draw(st.composite(lambda draw: usage_within(draw, bound))())
    possible = [name for name in price.cards if name != "batch"] if bound.variants is None else bound.variants
    service_tier = data.draw(st.sampled_from([*possible] or [None]))
    assert price.amounts(usage, service_tier, markup_ppm).amount_nanos <= price.hold_nanos(bound, markup_ppm)


@given(cards(), st.builds(Usage, **dict.fromkeys(KINDS, COUNTS)), MARKUPS)
def test_amount_is_the_exact_fraction_rounded_up_once(card: RateCard, usage: Usage, markup_ppm: int) -> None:
    """Cost and amount are the exact rational sum, each rounded up once."""
    rates = card.rates_for(usage.input_tokens)
    exact = sum(Fraction(count * rate, size) for count, rate, size in zip(usage, rates, SIZES, strict=True))
    amounts = Price("provider", "model", {"default": card}).amounts(usage, None, markup_ppm)
    assert amounts == Amounts(ceil(exact), ceil(exact * Fraction(markup_ppm, 10**6)))


@given(prices())
def test_every_price_survives_its_document(price: Price) -> None:
    """A document read back is the same price under the same id."""
    again = Price.from_document(price.document())
    assert (again, again.id, again.document()) == (price, price.id, price.document())


@given(cards())
def test_no_kind_is_cheaper_than_what_it_stands_for(card: RateCard) -> None:
    """A kind that nobody priced costs at least the dearest written rate of its direction."""
    for tier in card.tiers:
        rates = tier.rates._asdict()
        for kinds in (INPUT_KINDS, OUTPUT_KINDS):
            dearest = max((rates[kind] for kind in kinds if kind in card.written_kinds), default=0)
            assert all(rates[kind] == dearest for kind in kinds if kind in card.unpriced)
