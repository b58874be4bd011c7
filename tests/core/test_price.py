"""Prices: the table of usage and price shapes, exact to the nanodollar."""

from decimal import Decimal
from uuid import UUID

import orjson
import pytest

from meterproxy.core.bound import Bound
from meterproxy.core.price import DENOMINATOR, SIZES, Amounts, Price, RateCard, Rates, RateTier
from meterproxy.core.usage import KINDS, Usage

PRICES = """
plain    default  input=2.50 output=10
cached   default  input=2.50 cache_read=1.25 output=10
writes   default  input=3 cache_read=0.30 cache_write=3.75 cache_write_1h=6 output=15
5m       default  input=3 cache_write=3.75 output=15
thinks   default  input=1.25 output=10 reasoning=20
hears    default  input=2.50 cache_read=1.25 input_audio=40 cache_read_audio=2.50 output=10 output_audio=80
partly   default  input=2.50 input_audio=40 output=10
paints   default  input=5 input_image=10 cache_read_image=2.50 output=12 output_image=40
cliff    default  input=1.25 cache_read=0.31 output=10 | >200000 input=2.50 cache_read=0.625 output=15
stairs   default  input=1 output=2 | >1000 input=0.50 output=1 | >2000 input=4 output=8
tiers    default  input=2 output=8
tiers    flex     input=1 output=4
tiers    priority input=3.50 output=14
embeds   default  input=0.02
extras   default  input=1 output=1 requests=5 web_searches=10 file_searches=2.50
hours    default  audio_ms=0.36
speaks   default  characters=15
draws    default  images=0.04
free     default  input=0 output=0
tiny     default  input=0.000000001 output=0.000000001
"""
"""Name, service tier, dollars per unit size by kind; `>` begins the next cliff."""

CASES = """
# price | usage                                                   | tier     | markup   |                  cost |                amount | flagged
plain   | input=1000 output=100                                   | -        |      1.0 |               3500000 |               3500000 | -
plain   | input=1                                                 | -        |      1.0 |                  2500 |                  2500 | -
plain   | output=1                                                | -        |      1.0 |                 10000 |                 10000 | -
plain   | -                                                       | -        |      1.0 |                     0 |                     0 | -
plain   | input=9007199254740992 output=9007199254740992          | -        |      1.0 | 112589990684262400000 | 112589990684262400000 | -
plain   | input=1000 output=100                                   | -        |      1.2 |               3500000 |               4200000 | -
plain   | input=1 output=1                                        | -        | 1.000001 |                 12500 |                 12501 | -
plain   | input=1000 output=100                                   | -        |        0 |               3500000 |                     0 | -
plain   | input=10 cache_read=90 reasoning=5                      | -        |      1.0 |                300000 |                300000 | -
plain   | input=10 cache_write=7 cache_write_1h=3                 | -        |      1.0 |                 50000 |                 50000 | -
plain   | input_audio=10 output_audio=10                          | -        |      1.0 |                125000 |                125000 | input_audio,output_audio
plain   | input=100 output=10                                     | priority |      1.0 |                350000 |                350000 | -
cached  | input=200 cache_read=800 output=50                      | -        |      1.0 |               2000000 |               2000000 | -
cached  | cache_read=3                                            | -        |      1.0 |                  3750 |                  3750 | -
cached  | input=1 cache_read=1 cache_write=1 output=1             | -        |      1.5 |                 16250 |                 24375 | -
writes  | input=5 cache_read=1000 cache_write=2000 output=300     | -        |      1.0 |              12315000 |              12315000 | -
writes  | cache_write=10 cache_write_1h=10                        | -        |      1.0 |                 97500 |                 97500 | -
5m      | cache_write=10 cache_write_1h=10                        | -        |      1.0 |                 75000 |                 75000 | -
thinks  | input=100 output=10 reasoning=990                       | -        |      1.0 |              20025000 |              20025000 | -
hears   | input=50 input_audio=120 output=20 output_audio=300     | -        |      1.0 |              29125000 |              29125000 | -
hears   | cache_read=7 cache_read_audio=11                        | -        |      1.0 |                 36250 |                 36250 | -
hears   | input_image=10                                          | -        |      1.0 |                400000 |                400000 | input_image
partly  | input_audio=10 cache_read_audio=10                      | -        |      1.0 |                800000 |                800000 | -
partly  | output_audio=10 input_image=10                          | -        |      1.0 |                500000 |                500000 | input_image,output_audio
paints  | input=20 input_image=765 cache_read_image=10            | -        |      1.0 |               7775000 |               7775000 | -
paints  | output=1 output_image=4160                              | -        |      1.0 |             166412000 |             166412000 | -
cliff   | input=200000 output=1000                                | -        |      1.0 |             260000000 |             260000000 | -
cliff   | input=200001 output=1000                                | -        |      1.0 |             515002500 |             515002500 | -
cliff   | input=100000 cache_read=100000 output=1                 | -        |      1.0 |             156010000 |             156010000 | -
cliff   | input=100000 cache_read=100001 output=1                 | -        |      1.0 |             312515625 |             312515625 | -
stairs  | input=1000 output=1                                     | -        |      1.0 |               1002000 |               1002000 | -
stairs  | input=1001 output=1                                     | -        |      1.0 |                501500 |                501500 | -
stairs  | input=2001 output=1                                     | -        |      1.0 |               8012000 |               8012000 | -
tiers   | input=1000 output=1000                                  | -        |      1.0 |              10000000 |              10000000 | -
tiers   | input=1000 output=1000                                  | default  |      1.0 |              10000000 |              10000000 | -
tiers   | input=1000 output=1000                                  | flex     |      1.0 |               5000000 |               5000000 | -
tiers   | input=1000 output=1000                                  | priority |      1.1 |              17500000 |              19250000 | -
tiers   | input=1000 output=1000                                  | scale    |      1.0 |              10000000 |              10000000 | -
embeds  | input=8191                                              | -        |      1.0 |                163820 |                163820 | -
embeds  | input=1                                                 | -        |      1.0 |                    20 |                    20 | -
embeds  | input=1 output=5                                        | -        |      1.0 |                    20 |                    20 | output
extras  | input=1 output=1 requests=1                             | -        |      1.0 |               5002000 |               5002000 | -
extras  | requests=1 web_searches=3 file_searches=1               | -        |      1.3 |              37500000 |              48750000 | -
plain   | requests=1 web_searches=2                               | -        |      1.0 |                     0 |                     0 | web_searches
hours   | audio_ms=1                                              | -        |      1.0 |                   100 |                   100 | -
hours   | audio_ms=61500                                          | -        |      1.0 |               6150000 |               6150000 | -
speaks  | characters=4096                                         | -        |      1.0 |              61440000 |              61440000 | -
draws   | images=3                                                | -        |      1.0 |             120000000 |             120000000 | -
draws   | images=1 input=1                                        | -        |      1.0 |              40000000 |              40000000 | input
free    | input=1000000 output=1000000 reasoning=5                | -        |      1.2 |                     0 |                     0 | -
free    | output_audio=5                                          | -        |      1.0 |                     0 |                     0 | output_audio
tiny    | input=1 output=1                                        | -        |      1.0 |                     1 |                     1 | -
tiny    | input=999999 output=1                                   | -        |      1.0 |                     1 |                     1 | -
tiny    | input=999999 output=2                                   | -        |      1.0 |                     2 |                     2 | -
"""


def parse_counts(text: str) -> dict[str, str]:
    return dict(word.split("=") for word in text.split()) if text != "-" else {}


def nanos_by_kind(text: str) -> dict[str, int]:
    return {kind: int(Decimal(usd) * 10**9) for kind, usd in parse_counts(text).items()}


def parse_card(text: str) -> RateCard:
    base, *cliffs = (part.strip() for part in text.split("|"))
    tiers = [(-1, nanos_by_kind(base))]
    for cliff in cliffs:
        above, rates = cliff.removeprefix(">").split(maxsplit=1)
        tiers.append((int(above), nanos_by_kind(rates)))
    return RateCard.written(tiers)


def read_prices(table: str) -> dict[str, Price]:
    cards: dict[str, dict[str, RateCard]] = {}
    for line in table.strip().splitlines():
        name, tier, rates = line.split(maxsplit=2)
        cards.setdefault(name, {})[tier] = parse_card(rates)
    return {name: Price("test", name, of_tier) for name, of_tier in cards.items()}


PRICE = read_prices(PRICES)
ROWS = [line for line in CASES.strip().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row.split("|")[0].split() + row.split("|")[1].split()))
def test_amounts_are_exact_to_the_nanodollar(row: str) -> None:
    """Every shape of usage and price comes to the amount worked out with fractions beforehand."""
    name, counts, tier, markup, cost, amount, flagged = (cell.strip() for cell in row.split("|"))
    usage = Usage(**{kind: int(count) for kind, count in parse_counts(counts).items()})
    service_tier = None if tier == "-" else tier
    markup_ppm = int(Decimal(markup) * 1_000_000)

    assert PRICE[name].amounts(usage, service_tier, markup_ppm) == Amounts(int(cost), int(amount))
    flags = tuple(f"unpriced_kind:{kind}" for kind in flagged.split(",")) if flagged != "-" else ()
    assert PRICE[name].flags(usage, service_tier) == flags


def test_table_is_as_long_as_promised() -> None:
    """At least thirty shapes are in the table."""
    assert len(ROWS) >= 30


def test_rates_follow_the_kinds_of_usage() -> None:
    """Rates, sizes and usage agree on kinds and their order, and every size divides the denominator."""
    assert Rates._fields == KINDS == Usage._fields
    assert all(DENOMINATOR % size == 0 for size in SIZES)


def test_price_is_named_by_its_content() -> None:
    """The same content has the same id wherever it is compiled; one nanodollar makes another price."""
    one = read_prices("x default input=1 output=2")["x"]
    same = read_prices("x default output=2 input=1")["x"]
    other = read_prices("x default input=1 output=2.000000001")["x"]
    assert one.id == same.id
    assert one == same
    assert hash(one) == hash(same)
    assert one.id != other.id
    assert one.id == UUID("4baab218-d268-848c-a674-083a485a09dd")
    assert one.id.version == 8


@pytest.mark.parametrize("name", PRICE)
def test_document_round_trips(name: str) -> None:
    """A price read from its document is the same price, with the same amounts."""
    price = PRICE[name]
    again = Price.from_document(price.document())
    usage = Usage(*range(1, 19))
    assert again == price
    assert again.id == price.id
    assert again.document() == price.document()
    assert again.amounts(usage, "flex", 1_100_000) == price.amounts(usage, "flex", 1_100_000)
    assert again.flags(usage, None) == price.flags(usage, None)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"provider":"p","model":"m","cards":{}}',
        b'{"provider":"p","model":"m","cards":{"default":{}}}',
        b'{"provider":"p","model":"m","cards":{"default":{"tiers":[],"substituted":[],"unpriced":[]}}}',
    ],
)
def test_what_is_no_document_is_refused(document: bytes) -> None:
    """Anything but a whole document is a ValueError."""
    with pytest.raises(ValueError):
        Price.from_document(document)


@pytest.mark.parametrize("rate", [-1, 1.5, True, "1"])
def test_rate_is_a_whole_number(rate: object) -> None:
    """A document with a negative rate or one that is not an integer is refused."""
    tree = orjson.loads(PRICE["plain"].document())
    tree["cards"]["default"]["tiers"][0]["rates"]["input"] = rate
    with pytest.raises((ValueError, TypeError)):
        Price.from_document(orjson.dumps(tree))


@pytest.mark.parametrize(
    "tiers",
    [
        [],
        [(0, {"input": 1})],
        [(-1, {"input": 1}), (-1, {"input": 2})],
        [(-1, {"input": 1}), (20, {"input": 2}), (10, {"input": 2})],
        [(-1, {"input": 1}), (10, {"output": 2})],
        [(-1, {"inputs": 1})],
        [(-1, {"input": -1})],
    ],
)
def test_card_that_makes_no_sense_is_refused(tiers: list[tuple[int, dict[str, int]]]) -> None:
    """Tiers begin at the bottom, rise, and name the same known kinds with rates that are not negative."""
    with pytest.raises(ValueError):
        RateCard.written(tiers)


def test_price_needs_a_default_card() -> None:
    """A price without a default card could not charge an answer of unknown tier."""
    with pytest.raises(ValueError):
        Price("test", "x", {"flex": parse_card("input=1")})


def test_free_is_what_was_written_as_zero() -> None:
    """Zeros throughout are free; a price of anything is not."""
    assert PRICE["free"].free
    assert not PRICE["tiny"].free
    assert not PRICE["hours"].free


def test_kinds_say_where_their_rate_came_from() -> None:
    """A card knows what was written, what came from a parent and what nobody priced."""
    card = parse_card("input=1 output=2 input_audio=3")
    assert card.written_kinds == {"input", "output", "input_audio"}
    assert card.substituted == {"cache_read", "cache_write", "cache_write_1h", "cache_read_audio", "reasoning"}
    assert card.unpriced == set(KINDS) - card.written_kinds - card.substituted - {"requests"}


def test_rates_for_chooses_by_the_whole_input() -> None:
    """A cliff begins with the first token above it."""
    card = PRICE["cliff"].card_for(None)
    assert card.rates_for(0).input == 1_250_000_000
    assert card.rates_for(200_000).input == 1_250_000_000
    assert card.rates_for(200_001).input == 2_500_000_000
    assert card.tiers[1] == RateTier(200_000, card.rates_for(200_001))


HOLDS = """
# price | bound                                                       | markup | hold
plain   | input_tokens=1000 output_tokens=100                         | 1.0    | 3500000
plain   | input_tokens=1000 output_tokens=100                         | 1.2    | 4200000
plain   | input_tokens=0 output_tokens=0                              | 1.0    | 0
cached  | input_tokens=1000 output_tokens=0                           | 1.0    | 2500000
writes  | input_tokens=1000 output_tokens=0                           | 1.0    | 3750000
writes  | input_tokens=1000 output_tokens=0 cache_write_1h=1          | 1.0    | 6000000
thinks  | input_tokens=0 output_tokens=10                             | 1.0    | 200000
hears   | input_tokens=1000 output_tokens=10                          | 1.0    | 2600000
hears   | input_tokens=1000 input_audio_tokens=100 output_tokens=10   | 1.0    | 6350000
hears   | input_tokens=1000 output_tokens=10 output_audio=1           | 1.0    | 3300000
paints  | input_tokens=1000 input_image_tokens=900 output_tokens=0    | 1.0    | 9500000
paints  | input_tokens=0 output_tokens=10 output_image=1              | 1.0    | 400000
cliff   | input_tokens=200000 output_tokens=0                         | 1.0    | 250000000
cliff   | input_tokens=200001 output_tokens=0                         | 1.0    | 500002500
stairs  | input_tokens=1100 output_tokens=0                           | 1.0    | 1000000
stairs  | input_tokens=1100 output_tokens=1000                        | 1.0    | 3000000
stairs  | input_tokens=2001 output_tokens=0                           | 1.0    | 8004000
tiers   | input_tokens=1000 output_tokens=0                           | 1.0    | 3500000
tiers   | input_tokens=1000 output_tokens=0 variants=default          | 1.0    | 2000000
tiers   | input_tokens=1000 output_tokens=0 variants=flex             | 1.0    | 1000000
tiers   | input_tokens=1000 output_tokens=0 variants=flex,default     | 1.0    | 2000000
tiers   | input_tokens=1000 output_tokens=0 variants=scale            | 1.0    | 2000000
extras  | input_tokens=0 output_tokens=0                              | 1.0    | 5000000
extras  | input_tokens=0 output_tokens=0 requests=0 web_searches=2    | 1.0    | 20000000
draws   | input_tokens=0 output_tokens=0 images=4                     | 1.0    | 160000000
free    | input_tokens=1000 output_tokens=1000                        | 1.2    | 0
"""


def parse_bound(text: str) -> Bound:
    words: dict[str, object] = {}
    for name, value in parse_counts(text).items():
        words[name] = tuple(value.split(",")) if name == "variants" else int(value)
    return Bound(**words)  # type: ignore[arg-type]


@pytest.mark.parametrize("row", [line for line in HOLDS.strip().splitlines() if not line.startswith("#")])
def test_hold_is_the_dearest_that_can_happen(row: str) -> None:
    """A hold takes the dearest kind, tier and variant that the bound leaves open, and no dearer one."""
    name, bound, markup, hold = (cell.strip() for cell in row.split("|"))
    assert PRICE[name].hold_nanos(parse_bound(bound), int(Decimal(markup) * 1_000_000)) == int(hold)


def test_batch_and_asked_for_prices_are_not_held_for_unasked() -> None:
    """An open service tier can become any tier, but neither a batch nor what only a member of the request brings."""
    cards = {"default": parse_card("input=1 output=1")}
    dear = parse_card("input=9 output=9")
    bound = Bound(input_tokens=1000, output_tokens=0)
    assert Price("p", "m", {**cards, "batch": dear, "speed=fast": dear}).hold_nanos(bound, 1_000_000) == 1_000_000
    assert Price("p", "m", {**cards, "priority": dear}).hold_nanos(bound, 1_000_000) == 9_000_000
    asked = Bound(input_tokens=1000, output_tokens=0, variants=("batch",))
    assert Price("p", "m", {**cards, "batch": dear}).hold_nanos(asked, 1_000_000) == 9_000_000
