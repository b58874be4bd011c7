"""Rate headers: OpenAI's names and its way of writing times."""

import pytest

from meterproxy.core.hold import Rate, Rates
from meterproxy.proxy.rate_headers import duration, rate_headers


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0, "0ms"),
        (-5, "0ms"),
        (1, "1ms"),
        (120_000, "120ms"),
        (999_001, "1s"),
        (1_000_000, "1s"),
        (7_660_000, "7.66s"),
        (59_999_001, "1m0s"),
        (72_000_000, "1m12s"),
        (360_000_000, "6m0s"),
        (48_000_000_000, "13h20m0s"),
        (3_600_500_000, "1h0m1s"),
        (59_951_000, "59.951s"),
    ],
)
def test_times_are_written_as_openai_does(us: int, text: str) -> None:
    """Rounded up, so that nobody comes back too soon."""
    assert duration(us) == text.encode()


def test_a_client_is_told_of_both_measures() -> None:
    """Cap, rest and reset each; what never begins anew has no reset, what is not limited is not told."""
    assert rate_headers(None) == []
    rates = Rates(Rate(60, 59, 1_000_000), Rate(9000, 0, 2**62))
    assert rate_headers(rates) == [
        (b"x-ratelimit-limit-requests", b"60"),
        (b"x-ratelimit-remaining-requests", b"59"),
        (b"x-ratelimit-reset-requests", b"1s"),
        (b"x-ratelimit-limit-tokens", b"9000"),
        (b"x-ratelimit-remaining-tokens", b"0"),
    ]
