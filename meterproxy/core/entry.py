"""Ledger entries: what kinds there are."""

from typing import Final, Literal, get_args

EntryKind = Literal["grant", "purchase", "refund", "adjustment", "expiry", "deduction", "overrun"]
ENTRY_KINDS: Final[tuple[EntryKind, ...]] = get_args(EntryKind)
USAGE_KINDS: Final[tuple[EntryKind, ...]] = ("deduction", "overrun")
"""What usage is booked as; all others are credit."""
CREDIT_KINDS: Final[tuple[EntryKind, ...]] = tuple(kind for kind in ENTRY_KINDS if kind not in USAGE_KINDS)
