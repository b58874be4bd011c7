"""A price under which a token costs 1 000 nanodollars, so that amounts can be read."""

from meterproxy.core.price import Price, RateCard

NANOS_PER_TOKEN = 1000
PRICE = Price(
    provider="test",
    model="test-model",
    cards={"default": RateCard.written([(-1, {"input": NANOS_PER_TOKEN * 10**6, "output": NANOS_PER_TOKEN * 10**6})])},
)
