"""Inheritance: the journal of a worker that is gone, settled to its end by somebody else.

Rules
-----
- Who inherits holds the journal's lock for as long as that takes, so no journal is settled by two.
- What is done is what the next owner would have done at its start (`recover`): endings are settled, open holds are
  ended by policy, then the sessions that wrote the journal are proved and what they had leased returns.
- It may fail or be killed anywhere and be done again by anybody.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from meterproxy.ledger.book import Book
from meterproxy.ledger.journal import Journal
from meterproxy.ledger.ports import SessionStore, SettleStore
from meterproxy.ledger.recover import OpenHoldPolicy, prove, replay, take_up
from meterproxy.ledger.settle import Observer, Settler

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Estate:
    """What was found in a journal: records that PostgreSQL lacked, holds without an ending, sessions not ended yet."""

    records: int
    open_holds: int
    sessions: int


async def inherit(
    open_journal: Callable[[], Journal],
    sessions: SessionStore,
    settlement: SettleStore,
    policy: OpenHoldPolicy,
    observe: Observer = lambda _endings, _seconds: None,
) -> Estate:
    """Settle a journal to its end and prove its sessions.

    Raises:
        JournalLocked: it has an owner.
        StoreUnavailable, JournalFailed: it could not be done now.
    """
    journal = open_journal()
    try:
        estate = await _settled(journal, sessions, settlement, policy, observe)
        journal.sweep(journal.open_from)
    finally:
        journal.close()
    if any((estate.records, estate.open_holds, estate.sessions)):
        _log.warning("settled the journal of a worker that is gone", extra=_told(journal.directory, estate))
    return estate


async def _settled(
    journal: Journal, sessions: SessionStore, settlement: SettleStore, policy: OpenHoldPolicy, observe: Observer
) -> Estate:
    position, open_from = await settlement.progress(journal.journal_id)
    found = await asyncio.to_thread(replay, journal, position, open_from)
    heir = uuid4()  # no session of its own: everything in there was drawn by others
    open_holds = 0
    if found.items or found.open:
        journal.start(position)
        settler = Settler(settlement, journal, Book(), position, heir)
        settler.observe = observe
        abandoned = await sessions.abandoned_sessions(journal.journal_id)
        open_holds = take_up(journal, found, settler, policy, abandoned)
        while settler.queued:
            await settler.settle_batch()
    proved = await prove(sessions, journal.journal_id, heir)
    return Estate(len(found.items), open_holds, proved)


def _told(directory: Path, estate: Estate) -> dict[str, object]:
    return {
        "journal": directory.name,
        "records": estate.records,
        "open_holds": estate.open_holds,
        "sessions": estate.sessions,
    }
