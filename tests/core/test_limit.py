"""Limits: what they apply to, in which order requests draw from them, and when an account's change is one."""

from itertools import permutations
from uuid import UUID

import pytest

from meterproxy.core.account import AccountEntry
from meterproxy.core.limit import Limit, Measure, Scope
from meterproxy.core.window import WindowKind


def limit(number: int = 1, scope: Scope = Scope.ACCOUNT, measure: Measure = Measure.AMOUNT, **parts: object) -> Limit:
    given = {"window": WindowKind.DAY, "cap": 10, **parts}
    return Limit(UUID(int=number), scope, UUID(int=99), measure, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("operation", "pattern", "applies"),
    [
        (None, None, True),
        ("chat", None, True),
        ("embedding", None, False),
        (None, "gpt-*", True),
        (None, "GPT-*", False),
        (None, "o?", False),
        ("chat", "gpt-5", True),
        ("chat", "gpt", False),
    ],
)
def test_operation_and_model_decide(operation: str | None, pattern: str | None, applies: bool) -> None:
    """Both must fit; a pattern is a glob over the whole name, in its own case."""
    assert limit(operation=operation, model_pattern=pattern).applies("chat", "gpt-5") is applies


@pytest.mark.parametrize(
    ("hard", "cap", "leased"), [(True, 1, True), (True, 0, True), (True, None, False), (False, 1, False)]
)
def test_what_refuses_is_leased(hard: bool, cap: int | None, leased: bool) -> None:
    """A soft limit, and one without a cap, only count; a cap of nothing refuses everything."""
    assert limit(hard=hard, cap=cap).leased is leased


def test_the_order_is_fixed() -> None:
    """Key, user, team, organization, account; requests, concurrent, tokens, amount; then by id."""
    ordered = [
        limit(9, Scope.KEY, Measure.AMOUNT),
        limit(1, Scope.USER, Measure.REQUESTS),
        limit(8, Scope.TEAM, Measure.REQUESTS),
        limit(2, Scope.TEAM, Measure.CONCURRENT),
        limit(3, Scope.ORGANIZATION, Measure.TOKENS),
        limit(4, Scope.ACCOUNT, Measure.AMOUNT),
        limit(5, Scope.ACCOUNT, Measure.AMOUNT),
    ]
    account = AccountEntry(UUID(int=1), UUID(int=2), UUID(int=3))
    for shuffled in list(permutations(ordered))[::501]:
        account.change(shuffled, frozen=False)
        assert list(account.limits) == ordered
    assert account.version == 1


def test_only_a_change_is_one() -> None:
    """What was derived from the limits stays good while they are the same."""
    account = AccountEntry(UUID(int=1), UUID(int=2), UUID(int=3))
    account.change((), frozen=False)
    assert account.version == 0
    account.change((limit(),), frozen=False)
    account.change((limit(),), frozen=False)
    assert account.version == 1
    account.change((limit(cap=11),), frozen=False)
    account.change((limit(cap=11),), frozen=True)
    assert (account.version, account.frozen) == (3, True)
