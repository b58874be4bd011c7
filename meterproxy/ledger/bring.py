"""Bringing a journal: one that lies where no worker owns it (copied from a lost host, found on its disk) is settled.

Rules
-----
- It is only read. It may be a copy, whose original somebody goes on writing; so PostgreSQL's progress is moved to the
  end of what was read and no further, and what the original has beyond that is settled when it turns up.
- Holds without an ending are ended by policy, at that same position. Should their true endings turn up later, the rows
  that are there win.
- Then the sessions that wrote it are proved. Those that were given up stay so, and what is booked for them is late.
- It may fail or be killed anywhere and be done again by anybody.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from meterproxy.ledger.book import Book
from meterproxy.ledger.journal import Journal
from meterproxy.ledger.ports import SessionStore, SettleStore
from meterproxy.ledger.recover import OpenHoldPolicy, prove, recovered_ends, replay, take_in
from meterproxy.ledger.settle import Settler


@dataclass(frozen=True, slots=True)
class Brought:
    """What came of a journal: records that PostgreSQL lacked, holds without an ending, sessions proved or given up."""

    journal_id: UUID
    records: int
    open_holds: int
    proved: int
    abandoned: int


async def bring(journal: Journal, sessions: SessionStore, settlement: SettleStore, policy: OpenHoldPolicy) -> Brought:
    """Settle a journal as far as it goes, and prove its sessions. Raises StoreUnavailable."""
    position, open_from = await settlement.progress(journal.journal_id)
    found = await asyncio.to_thread(replay, journal, position, open_from, open_from)
    bringer = uuid4()  # no session of its own: everything in there was drawn by others
    settler = Settler(settlement, journal, Book(), position, bringer)
    abandoned = await sessions.abandoned_sessions(journal.journal_id)
    recovered = recovered_ends(found, policy, max(position, journal.position))
    take_in(found, recovered, settler, abandoned)
    while settler.queued:
        await settler.settle_batch()
    proved = await prove(sessions, journal.journal_id, bringer)
    return Brought(journal.journal_id, len(found.items), len(recovered), proved, len(abandoned))


def journals_in(directory: Path) -> list[Path]:
    """The journals that a directory is, or has one level below."""
    found = [directory] if (directory / "id").exists() else sorted(path.parent for path in directory.glob("*/id"))
    return [path for path in found if any(path.glob("*.journal"))]
