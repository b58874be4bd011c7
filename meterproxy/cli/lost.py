"""`journal list | abandon | import`: what is done about workers and journals that do not come back."""

from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from meterproxy.cli.arguments import actor
from meterproxy.cli.invocation import Invocation, invoked
from meterproxy.errors import MeterproxyError

if TYPE_CHECKING:
    from meterproxy.cli.session import Session
    from meterproxy.ledger.bring import Brought


class NotBrought(MeterproxyError):
    """A journal cannot be imported from there, or not now."""


@click.command("list")
@click.option("--lost", "only_lost", is_flag=True, help="Only sessions whose worker does not come back.")
@invoked
def list_(invocation: Invocation, only_lost: bool) -> None:
    """List the worker sessions of all hosts that have not ended, lost ones first, and the credit each was lent."""
    from meterproxy.store.lost import LostSessions

    rows = invocation.with_session(lambda session: LostSessions(session.pool).list())
    shown = [row for row in rows if row.state == "lost" or not only_lost]
    invocation.show_all(shown, ("state", "host", "slot", "session_id", "journal_id", "expires_at", "credit"))


@click.command()
@click.argument("id_", type=click.UUID, metavar="JOURNAL_ID|SESSION_ID")
@invoked
def abandon(invocation: Invocation, id_: UUID) -> None:
    """Give up a lost session (or all of a journal): what it was lent returns to the limits at once.

    Should its journal turn up later, what it says is booked all the same, as late.
    """
    from meterproxy.store.lost import LostSessions

    rows = invocation.with_session(lambda session: LostSessions(session.pool, actor()).abandon(id_))
    invocation.show_all(rows, ("session_id", "host", "slot", "returned"))


@click.command("import")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR")
@invoked
def import_(invocation: Invocation, directory: Path) -> None:
    """Settle the journals in DIR (one, or a directory of them) to their end and prove their sessions.

    DIR may be a copy from another host; it is only read. Its workers must not be running.
    """
    from meterproxy.ledger.bring import journals_in

    journals = journals_in(directory)
    if not journals:
        raise NotBrought(f"there is no journal in {directory}: name the directory with the file `id`, or the one above")
    rows = invocation.with_session(lambda session: _bring_all(session, journals))
    invocation.show_all(rows, ("journal_id", "records", "open_holds", "proved", "abandoned"))


async def _bring_all(session: "Session", journals: list[Path]) -> list["Brought"]:
    return [await _bring(session, journal) for journal in journals]


async def _bring(session: "Session", directory: Path) -> "Brought":
    import dataclasses

    from meterproxy.ledger.bring import bring
    from meterproxy.ledger.journal import Journal
    from meterproxy.ledger.recover import OpenHoldPolicy
    from meterproxy.store.lost import LostSessions
    from meterproxy.store.sessions import Sessions
    from meterproxy.store.settle import Settlement

    lost = LostSessions(session.pool, actor())
    journal = Journal(directory)
    try:
        if await lost.living(journal.journal_id):
            raise NotBrought(f"the worker of {directory} lives, or did a moment ago: it settles its journal by itself")
        policy = OpenHoldPolicy(session.config.recovery.open_hold)
        brought = await bring(journal, Sessions(session.pool), Settlement(session.pool), policy)
        await lost.note_import(journal.journal_id, dataclasses.asdict(brought))
        return brought
    finally:
        journal.close()


COMMANDS = (list_, abandon, import_)
