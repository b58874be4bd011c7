"""Money: text and integers, and rounding in one direction only."""

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproxy.core.money import MAX_NANOS, div_ceil, dollars, format_usd, parse_usd

EXAMPLES = """
5.00            5000000000
5               5000000000
0.000000001     1
-0.000000001    -1
0               0
-0              0
2.50            2500000000
0.1             100000000
9223372036.854775807  9223372036854775807
"""


@pytest.mark.parametrize("row", EXAMPLES.strip().splitlines())
def test_text_is_read_to_the_nanodollar(row: str) -> None:
    """Decimal text becomes exactly its nanodollars."""
    text, nanos = row.split()
    assert parse_usd(text) == int(nanos)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.",
        ".5",
        "1e3",
        "1,000",
        " 1",
        "1 ",
        "+1",
        "$1",
        "0.0000000001",
        "٣",
        "nan",
        "9223372036.854775808",
        "1" * 13,
    ],
)
def test_what_is_not_an_amount_is_refused(text: str) -> None:
    """More than nine decimals, foreign digits, exponents and amounts beyond a bigint are errors, not roundings."""
    with pytest.raises(ValueError):
        parse_usd(text)


@given(st.integers(-MAX_NANOS, MAX_NANOS))
def test_format_and_parse_are_inverse(nanos: int) -> None:
    """Every amount of a ledger survives being written and read."""
    text = format_usd(nanos)
    assert parse_usd(text) == nanos
    assert len(text.partition(".")[2]) in range(2, 10)


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**20))
def test_division_rounds_up(numerator: int, denominator: int) -> None:
    """The quotient is the ceiling of the exact fraction, for negative numbers too."""
    assert div_ceil(numerator, denominator) == ceil(Fraction(numerator, denominator))


@pytest.mark.parametrize(("nanos", "text"), [
    (0, "$0.00"), (10_000_000_000_000, "$10,000.00"), (-5_000_000_000, "−$5.00"), (1, "$0.000000001"),
    (-1_234_567_890_123_456_789, "−$1,234,567,890.123456789"),
])  # fmt: skip
def test_amounts_are_read_in_groups(nanos: int, text: str) -> None:
    """With a real minus, and as exact as they are."""
    assert dollars(nanos) == text
