"""`journal`: what workers wrote down before they acted; looked into without owning it, right under traffic.

What is done about journals that do not come back is in `lost`.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from meterproxy.cli import lost
from meterproxy.cli.invocation import Invocation, invoked, note
from meterproxy.errors import MeterproxyError

if TYPE_CHECKING:
    from meterproxy.cli.session import Session
    from meterproxy.config import Config
    from meterproxy.ledger.segment import Entry

COUNTED = frozenset({"place", "end", "defer", "owner", "forget"})
"""Kinds of records that have a column of their own."""
DIRECTORY = "journals"
"""Below `data_dir`: one journal per worker slot."""


COUNTS = ("places", "ends", "deferrals", "owners", "other")


class NoJournal(MeterproxyError):
    """There is no journal where one was looked for."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What one file of a journal holds; `damaged` and `torn` are bytes that belong to no whole record."""

    journal: str
    segment: str
    start: int
    end: int
    places: int
    ends: int
    deferrals: int
    owners: int
    other: int
    damaged_bytes: int
    torn_bytes: int
    settled: str | None = None
    problem: str | None = None


@click.group()
def command() -> None:
    """Journals: what workers wrote down before they acted."""


for other in lost.COMMANDS:
    command.add_command(other)


@command.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@click.option("--records", is_flag=True, help="Print every record instead of a summary.")
@invoked
def inspect(invocation: Invocation, directory: Path | None, records: bool) -> None:
    """Summarise journals (of one DIRECTORY, else all of this host) and list the holds that are open in them."""
    journals = _journals(invocation.load(), directory)
    if records:
        invocation.show_all(
            _records(journals), ("journal", "position", "record", "request_id", "amount", "outcome", "resource")
        )
        return
    open_holds = list(_open_holds(journals))
    if invocation.as_json:
        invocation.show({"segments": list(_segments(journals)), "open_holds": open_holds})
        return
    invocation.show_all(_segments(journals), ("journal", "segment", "start", "end", *COUNTS))
    print(f"\n{len(open_holds)} open holds")
    if open_holds:
        invocation.show_all(open_holds, ("request_id", "account_id", "model", "hold"))


@command.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@click.option("--files-only", is_flag=True, help="Do not ask PostgreSQL how far it has settled them.")
@invoked
def verify(invocation: Invocation, directory: Path | None, files_only: bool) -> int:
    """Check that every record is whole and nothing is missing that is not settled; exit 1 otherwise.

    A torn tail is what a crash leaves, and harmless.
    """
    journals = _journals(invocation.load(), directory)
    progress = {} if files_only else invocation.with_session(lambda session: _progress(session, journals))
    segments = [
        checked
        for journal in journals
        for checked in _compared(list(_segments([journal])), progress.get(journal), known=not files_only)
    ]
    invocation.show_all(segments, ("journal", "segment", *COUNTS, "damaged_bytes", "torn_bytes", "settled", "problem"))
    damaged = [segment for segment in segments if segment.damaged_bytes]
    if damaged:
        note(f"meterproxy: damaged segments: {len(damaged)}; keep them: whole records are settled, the rest is not")
    missing = [segment for segment in segments if segment.problem]
    if missing:
        note(f"meterproxy: segments with something missing before them: {len(missing)}")
    return 1 if damaged or missing else 0


async def _progress(session: "Session", journals: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """How far PostgreSQL has settled journals, and from where it would need them again."""
    from meterproxy.store.settle import known_progress

    ids = {journal: UUID((journal / "id").read_text().strip()) for journal in journals}
    known = await known_progress(session.pool, list(ids.values()))
    return {journal: known[id_] for journal, id_ in ids.items() if id_ in known}


def _compared(segments: list[Segment], progress: tuple[int, int] | None, *, known: bool) -> Iterator[Segment]:
    """A journal's segments with how much of each is settled, and what is missing between them that is not."""
    position, open_from = progress or (0, 0)
    behind = min(open_from, position) if known else None
    for segment in segments:
        problem = None
        if behind is not None and segment.start > behind:
            problem = f"{segment.start - behind} bytes before it are missing"
        behind = max(segment.end, position)
        yield dataclasses.replace(segment, settled=_settled(segment, position) if known else None, problem=problem)


def _settled(segment: Segment, position: int) -> str:
    """How much of a segment PostgreSQL has."""
    if segment.end <= position:
        return "all"
    return "no" if segment.start >= position else "in part"


def _journals(config: "Config", directory: Path | None) -> list[Path]:
    place = config.data_dir / DIRECTORY
    found = [directory] if directory else sorted(place.glob("*/"))
    if not found or not all((journal / "id").exists() for journal in found):
        raise NoJournal(f"there is no journal in {directory or place}")
    return found


def _segments(journals: Iterable[Path]) -> Iterator[Segment]:
    from meterproxy.ledger.segment import HEADER_BYTES, read_unowned

    for journal in journals:
        for path, entries in read_unowned(journal):
            base = int(path.stem)
            end = entries[-1].end if entries else base + HEADER_BYTES
            kinds = Counter(_kind(entry) for entry in entries)
            covered = sum(entry.end - entry.start for entry in entries)
            yield Segment(
                journal=journal.name,
                segment=path.name,
                start=base,
                end=end,
                places=kinds["place"],
                ends=kinds["end"],
                deferrals=kinds["defer"],
                owners=kinds["owner"] + kinds["forget"],
                other=sum(kinds[kind] for kind in kinds if kind not in COUNTED),
                damaged_bytes=end - base - HEADER_BYTES - covered,
                torn_bytes=_used_bytes(path, end - base),
            )


def _used_bytes(path: Path, offset: int) -> int:
    """How many bytes behind `offset` are not preallocated emptiness."""
    return len(path.read_bytes()[offset:].rstrip(b"\0"))


def _kind(entry: "Entry") -> str:
    return str(entry.record.__struct_config__.tag)


def _records(journals: Iterable[Path]) -> Iterator[dict[str, object]]:
    from meterproxy.ledger.segment import read_unowned

    for journal in journals:
        for _, entries in read_unowned(journal):
            for entry in entries:
                yield {"journal": journal.name, "position": entry.start, "record": _kind(entry), **_said(entry)}


def _said(entry: "Entry") -> dict[str, object]:
    """The members that a table shows, and the record itself for JSON."""
    from meterproxy.core.record import (
        DeferRecord,
        EndRecord,
        ExtendRecord,
        ForgetRecord,
        OwnerRecord,
        PlaceRecord,
        ProgressRecord,
    )

    record = entry.record
    if isinstance(record, PlaceRecord):
        return {"request_id": record.subject.request_id, "amount_nanos": record.subject.hold_nanos, "content": record}
    if isinstance(record, EndRecord):
        return {
            "request_id": record.subject.request_id,
            "amount_nanos": record.amount_nanos,
            "outcome": record.ending.outcome,
            "content": record,
        }
    if isinstance(record, ExtendRecord):
        return {"request_id": record.request_id, "amount_nanos": record.hold_nanos, "content": record}
    if isinstance(record, ProgressRecord):
        return {"request_id": record.request_id, "content": record}
    if isinstance(record, DeferRecord):
        return {
            "request_id": record.subject.request_id,
            "amount_nanos": record.subject.hold_nanos,
            "resource": record.resource.id,
            "content": record,
        }
    if isinstance(record, OwnerRecord | ForgetRecord):
        return {"resource": record.resource.id, "content": record}
    return {"content": record}


def _open_holds(journals: Iterable[Path]) -> Iterator[dict[str, object]]:
    from meterproxy.core.record import DeferRecord, EndRecord, ExtendRecord, PlaceRecord, Subject, extended
    from meterproxy.ledger.segment import read_unowned

    for journal in journals:
        placed: dict[UUID, Subject] = {}
        for _, entries in read_unowned(journal):
            for entry in entries:
                if isinstance(entry.record, PlaceRecord):
                    placed[entry.record.subject.request_id] = entry.record.subject
                elif isinstance(entry.record, ExtendRecord) and entry.record.request_id in placed:
                    placed[entry.record.request_id] = extended(placed[entry.record.request_id], entry.record)
                elif isinstance(entry.record, EndRecord | DeferRecord):
                    placed.pop(entry.record.subject.request_id, None)
        for subject in placed.values():
            yield {
                "journal": journal.name,
                "request_id": subject.request_id,
                "account_id": subject.account_id,
                "operation": subject.operation,
                "model": subject.model,
                "hold_nanos": subject.hold_nanos,
                "occurred_us": subject.occurred_us,
            }
