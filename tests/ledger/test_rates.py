"""Rates: the tightest limit of each measure is the one that is told."""

from collections.abc import Mapping
from uuid import UUID

from meterproxy.core.account import AccountEntry
from meterproxy.core.hold import Rate, Rates
from meterproxy.core.key import KeyEntry, KeyPolicy
from meterproxy.core.lending import LeaseKey
from meterproxy.core.limit import Limit, Measure, Scope
from meterproxy.core.plan import plan_for
from meterproxy.core.window import ENDLESS, US, WindowKind
from meterproxy.ledger.rates import rates_of
from meterproxy.ledger.route import Route
from meterproxy.ledger.view import View

ACCOUNT, ORGANIZATION, CREDIT, KEY, USER = (UUID(int=number) for number in range(1, 6))
NOW = 90 * US


def limit(number: int, cap: int | None, **parts: object) -> Limit:
    given = {
        "scope": Scope.KEY,
        "scope_id": KEY,
        "measure": Measure.REQUESTS,
        "window": WindowKind.MINUTE,
        "cap": cap,
        **parts,
    }
    return Limit(UUID(int=number), **given)  # type: ignore[arg-type]


def key(*limits: Limit) -> KeyEntry:
    account = AccountEntry(ACCOUNT, ORGANIZATION, CREDIT)
    account.change(limits, frozen=False)
    return KeyEntry(KEY, account, USER, KeyPolicy())


def told(key: KeyEntry, known: Mapping[LeaseKey, int]) -> Rates | None:
    views = {lease: View(None, ENDLESS, rest=rest, heard=True) for lease, rest in known.items()}
    route = Route(plan_for(key, "chat", "gpt-5", NOW), None, UUID(int=6), views, {})
    return rates_of(route, NOW)


def test_the_tightest_is_told() -> None:
    """By what is left, as last heard; what nobody has heard of is whole."""
    known = {LeaseKey(ACCOUNT, UUID(int=11), 60 * US): 7, LeaseKey(ACCOUNT, UUID(int=12), 0): -3}
    rates = told(
        key(
            limit(10, 60),
            limit(11, 40, grace=10),
            limit(12, 100, measure=Measure.TOKENS, window=WindowKind.DAY),
        ),
        known,
    )
    assert rates is not None
    assert rates.requests == Rate(50, 7, 30 * US)
    assert rates.tokens == Rate(100, 0, 86_400 * US - NOW)


def test_only_what_could_refuse_is_told() -> None:
    """Not soft limits, nor those without a cap, nor those of others or of other models, nor money."""
    rates = told(
        key(
            limit(10, 5, hard=False),
            limit(11, None),
            limit(12, 5, scope_id=USER, scope=Scope.KEY, operation="embedding"),
            limit(13, 5, model_pattern="o*"),
            limit(14, 5, scope_id=UUID(int=77)),
            limit(15, 5, measure=Measure.AMOUNT),
        ),
        {},
    )
    assert rates is None
