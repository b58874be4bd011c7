"""Marking: what was settled under limits is looked at, what was not is not, and nothing is forgotten in an outage."""

import asyncio
import logging
from typing import Any
from uuid import UUID

import pytest

from meterproxy.core.lending import LeaseKey
from meterproxy.core.path import Draw, Draws
from meterproxy.errors import StoreUnavailable
from meterproxy.service import marking as module
from meterproxy.service.marking import Marking
from meterproxy.store.foreseen import Foreseen

ACCOUNT, LIMIT, CREDIT, SESSION = (UUID(int=number) for number in range(1, 5))


class Settled:
    """An ending with these draws, as far as marking looks at it."""

    def __init__(self, *limits: UUID) -> None:
        self.record = self
        self.subject = self
        self.account_id = ACCOUNT
        self.draws = Draws.of([Draw(limit, 0, SESSION, 1) for limit in limits])


async def test_only_windows_of_limits_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that draw from credit alone leave only their account; an outage leaves it all to be done."""
    looked: list[list[LeaseKey]] = []
    charged: list[list[UUID]] = []
    away = True

    class Transaction:
        def __init__(self, _pool: object) -> None: ...

        async def __aenter__(self) -> None:
            if away:
                raise StoreUnavailable("gone")

        async def __aexit__(self, *_error: object) -> None: ...

    async def mark(_connection: object, windows: list[LeaseKey]) -> list[Any]:
        looked.append(windows)
        return []

    async def mark_credit(_connection: object, account_ids: list[UUID]) -> list[Any]:
        charged.append(account_ids)
        return []

    monkeypatch.setattr(module, "transaction", Transaction)
    monkeypatch.setattr(module, "mark_credit", mark_credit)
    monkeypatch.setattr(module, "mark_crossings", mark)
    none: Any = None
    marking = Marking(none)
    alone: Any = Settled(CREDIT)
    limited: Any = Settled(LIMIT, CREDIT)
    marking.settled([alone])
    with pytest.raises(StoreUnavailable):
        await marking.look()
    marking.settled([limited, limited])
    with pytest.raises(StoreUnavailable):
        await marking.look()
    away = False
    await marking.look()
    await marking.look()
    assert looked == [[LeaseKey(ACCOUNT, LIMIT, 0), LeaseKey(ACCOUNT, CREDIT, 0)]]
    assert charged == [[ACCOUNT]]


async def test_forecasts_are_looked_at_again_after_an_outage(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And what was told is in the log."""
    looks: list[Any] = [StoreUnavailable("gone"), [Foreseen(ACCOUNT, 3)], []]
    all_looked = asyncio.Event()

    async def look_ahead(_pool: object) -> list[Foreseen]:
        look = looks.pop(0) if looks else []
        if not looks:
            all_looked.set()
        if isinstance(look, Exception):
            raise look
        return look  # type: ignore[no-any-return]

    monkeypatch.setattr(module, "look_ahead", look_ahead)
    monkeypatch.setattr(module, "TURN_SECONDS", 0)
    none: Any = None
    with caplog.at_level(logging.INFO):
        task = asyncio.create_task(Marking(none).keep_foreseen())
        await all_looked.wait()
        task.cancel()
    (told,) = [record for record in caplog.records if hasattr(record, "days")]
    assert (told.account_id, told.days) == (str(ACCOUNT), 3)  # type: ignore[attr-defined]
