"""Refusing: what limits refuse is counted in memory, bounded, and told in sums; an outage loses none of it."""

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from meterproxy.core.lending import LeaseKey
from meterproxy.errors import StoreUnavailable
from meterproxy.service import refusing as module
from meterproxy.service.refusing import Refusing
from meterproxy.store.refusals import Refused

ACCOUNT, LIMIT, KEY = (UUID(int=number) for number in range(1, 4))
WINDOW = LeaseKey(ACCOUNT, LIMIT, 0)


class Rows:
    """Takes what it is told, unless it is away."""

    def __init__(self) -> None:
        self.told: list[list[tuple[LeaseKey, Refused]]] = []
        self.away = False
        self.meanwhile = lambda: None

    async def note(self, refused: list[tuple[LeaseKey, Refused]]) -> None:
        self.meanwhile()
        if self.away:
            raise StoreUnavailable("gone")
        self.told.append(refused)


def refuse(refusing: Refusing, at_us: int, amount: int, window: LeaseKey = WINDOW) -> None:
    """A limit's window and a request, as far as refusing looks at them."""
    planned: Any = SimpleNamespace(key=window)
    request: Any = SimpleNamespace(key=SimpleNamespace(key_id=KEY), occurred_us=at_us, accepted_us=0)
    refusing.refused(planned, request, amount)


async def test_what_was_refused_in_an_outage_is_told_afterwards() -> None:
    """Summed up with what came meanwhile, of which the last is the latest."""
    rows: Any = Rows()
    refusing = Refusing(rows)
    refuse(refusing, 1, 10)
    refuse(refusing, 2, 20)
    rows.away, rows.meanwhile = True, lambda: refuse(refusing, 3, 30)
    with pytest.raises(StoreUnavailable):
        await refusing.note()
    rows.away, rows.meanwhile = False, lambda: None
    await refusing.note()
    await refusing.note()
    assert rows.told == [[(WINDOW, Refused(3, 3, KEY, 30))]]


async def test_memory_of_refusals_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known goes on being counted; new windows wait until there is room."""
    monkeypatch.setattr(module, "MOST_REMEMBERED", 2)
    rows: Any = Rows()
    refusing = Refusing(rows)
    windows = [LeaseKey(ACCOUNT, LIMIT, start) for start in range(3)]
    for window in (*windows, *windows):
        refuse(refusing, 1, 1, window)
    await refusing.note()
    assert {key: each.count for key, each in rows.told[0]} == dict.fromkeys(windows[:2], 2)


async def test_what_no_limit_has_is_told_as_far_as_it_can_be_kept() -> None:
    """A request that asks for more than any number in PostgreSQL must not stop the telling of all others."""
    rows: Any = Rows()
    refusing = Refusing(rows)
    refuse(refusing, 1, 2**70)
    await refusing.note()
    assert rows.told == [[(WINDOW, Refused(1, 1, KEY, 2**63 - 1))]]
