"""Integer money: everything is counted in nanodollars (1e-9 USD).

Rules
-----
- No float and no true division anywhere near money.
- Amounts are rounded once, upwards, by `div_ceil`, at the end of a sum.
- Text amounts have at most nine decimals; more precision is an error, never rounded away.
"""

import re
from typing import Final, NewType

Nanos = NewType("Nanos", int)

NANOS_PER_USD: Final = 1_000_000_000
MAX_NANOS: Final = 2**63 - 1
"""The largest amount a `bigint` column holds (about 9.2 billion dollars)."""

PPM: Final = 1_000_000
"""Parts per million: the scale of a markup, so that 1.2 × is 1_200_000."""

_DECIMAL: Final = re.compile(r"(-?)(\d{1,12})(?:\.(\d{1,9}))?", re.ASCII)


def div_ceil(numerator: int, denominator: int) -> int:
    """Divide and round towards positive infinity."""
    return -(-numerator // denominator)


def parse_usd(text: str) -> Nanos:
    """Read a decimal string in USD ("5.00", "-0.000000001") as nanodollars.

    Raises:
        ValueError: not a plain decimal, more than nine decimals, or beyond what a ledger can hold.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError(f"not an amount in USD with at most nine decimals: {text[:40]!r}")
    sign, whole, fraction = match.groups()
    nanos = int(whole) * NANOS_PER_USD + int((fraction or "0").ljust(9, "0"))
    if nanos > MAX_NANOS:
        raise ValueError(f"amount is too large: {text[:40]!r}")
    return Nanos(-nanos if sign else nanos)


def dollars(nanos: int) -> str:
    """Write nanodollars as people read them ("$10,000.00", "−$0.000000001")."""
    whole, _, part = format_usd(abs(nanos)).partition(".")
    return f"{'−' if nanos < 0 else ''}${int(whole):,}.{part}"


def format_usd(nanos: int) -> str:
    """Write nanodollars as a decimal string with two to nine decimals ("5.00", "0.000000001")."""
    if nanos < 0:
        return "-" + format_usd(-nanos)
    digits = f"{nanos:010d}"
    return f"{digits[:-9]}.{digits[-9:-7]}{digits[-7:].rstrip('0')}"  # two decimals stay
