"""Purchases: credit that is ordered here, paid elsewhere, and booked when somebody has seen the money."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from meterproxy.core.money import NANOS_PER_USD

CODE_BYTES: Final = 5
_LETTERS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Of letters that are taken for one another, only one is there."""
_READ_AS: Final = str.maketrans("OILU", "011V", " -")


class PurchaseState(StrEnum):
    """Where a purchase is: all but the first are endings, and it has one."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    DECLINED = "declined"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class PurchaseTerms:
    """What may be bought, and what people are told about how to pay."""

    least_nanos: int = 5 * NANOS_PER_USD
    highest_nanos: int = 10_000 * NANOS_PER_USD
    instructions: str = ""


def code_of(random: bytes) -> str:
    """Forty random bits as a code that people can read out, type and write on a transfer: `7K3D-9QXF`."""
    number = int.from_bytes(random[:CODE_BYTES])
    letters = "".join(_LETTERS[number >> 5 * place & 31] for place in reversed(range(8)))
    return f"{letters[:4]}-{letters[4:]}"


def code_as_written(text: str) -> str:
    """A code as it is kept, from what somebody typed."""
    letters = text.upper().translate(_READ_AS)
    return f"{letters[:4]}-{letters[4:]}"
