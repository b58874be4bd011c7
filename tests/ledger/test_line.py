"""The line: others hear of a wish once in a while, and of its end when nobody is left who has it."""

from typing import Any
from uuid import UUID

import pytest

from meterproxy.core.lending import LeaseKey
from meterproxy.errors import StoreUnavailable
from meterproxy.ledger import line as module
from meterproxy.ledger.line import ASKED_SECONDS, Line

KEY = LeaseKey(UUID(int=1), UUID(int=2), 0)


class Store:
    """Writes down what it is told."""

    session_id = UUID(int=3)

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.away = False

    async def ask_reclaim(self, _session_id: UUID, _key: LeaseKey, amount: int) -> None:
        if self.away:
            raise StoreUnavailable("gone")
        self.told.append(amount)

    async def end_reclaim(self, _session_id: UUID, _key: LeaseKey) -> None:
        self.told.append("over")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    at = [5_000_000]
    monkeypatch.setattr(module, "elapsed_us", lambda: at[0])
    return at


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def line(store: Store, now: list[int]) -> Line:
    del now
    return Line(store, store)  # type: ignore[arg-type]


async def test_a_wish_is_told_once_in_a_while(line: Line, store: Store, now: list[int]) -> None:
    """Many requests that wait do not ask each for themselves; one that was served asks again at once."""
    await line.ask(KEY, 7)
    await line.ask(KEY, 8)
    assert store.told == [7]
    now[0] += int(ASKED_SECONDS * 1e6)
    await line.ask(KEY, 9)
    line.leave(KEY)
    await line.ask(KEY, 10)
    assert store.told == [7, 9, 10]


async def test_a_wish_that_may_not_have_been_heard_is_told_again(line: Line, store: Store) -> None:
    """And taken back in the end, since it may have been heard all the same."""
    store.away = True
    with line.waiting(KEY):
        with pytest.raises(StoreUnavailable):
            await line.ask(KEY, 7)
        store.away = False
        await line.ask(KEY, 7)
        store.away = True
    store.away = False
    await line.tell_over()
    assert store.told == [7, "over"]


async def test_the_end_is_told_when_the_last_one_has_left(line: Line, store: Store) -> None:
    """Not while another waits, not where nobody had asked, and not twice."""
    with line.waiting(KEY):
        assert KEY in line
    await line.tell_over()
    with line.waiting(KEY), line.waiting(KEY):
        await line.ask(KEY, 7)
    assert KEY not in line
    with line.waiting(KEY):
        await line.tell_over()
        assert store.told == [7]
    await line.tell_over()
    await line.tell_over()
    assert store.told == [7, "over"]
