"""Refusals: what clients are told of limits that have no room for them."""

from uuid import UUID

import pytest

from meterproxy.core.lending import LeaseKey
from meterproxy.core.limit import Limit, Measure, Scope
from meterproxy.core.plan import Planned
from meterproxy.core.window import WindowKind
from meterproxy.ledger.refusal import refusal

KEY = LeaseKey(UUID(int=1), UUID(int=2), 0)
BUDGET = Limit(
    UUID(int=2), measure=Measure.AMOUNT, scope=Scope.ACCOUNT, scope_id=UUID(int=1), window=WindowKind.TOTAL,
    cap=10**13, name="this year",
)  # fmt: skip


@pytest.mark.parametrize("limit", [None, BUDGET])
def test_money_is_told_as_pages_tell_it(limit: Limit | None) -> None:
    """In dollars with their thousands apart, whatever it is that is spent."""
    told = refusal(Planned(KEY, Measure.AMOUNT, limit=limit), 10_000 * 10**9 + 5, 0, spent=True).message
    assert "this request may cost up to $10,000.000000005, more than " in told
