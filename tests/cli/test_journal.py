"""`journal …` on journals written by the real thing."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from meterproxy.core.limit import Measure
from meterproxy.core.path import Draw, Draws
from meterproxy.core.record import DeferRecord, Ending, EndRecord, ForgetRecord, OwnerRecord, PlaceRecord, Subject
from meterproxy.core.resource import Resource
from meterproxy.core.usage import Usage
from meterproxy.ledger.journal import Journal
from meterproxy.store.lost import LostSessions
from tests.cli.conftest import Command
from tests.ledger.bank import customer, hold_request, ledger_of, pool_of
from tests.ledger.test_journal import kill

LIMIT, SESSION = uuid4(), uuid4()


def subject() -> Subject:
    """An exchange that holds half a dollar."""
    return Subject(
        request_id=uuid4(), occurred_us=1, account_id=uuid4(), user_id=uuid4(), key_id=uuid4(), operation="chat",
        provider="openai", model="gpt-5-mini", price_id=uuid4(), markup_ppm=1_000_000, hold_nanos=500_000_000,
        bound_input_tokens=10, bound_output_tokens=20, stream=False,
        draws=Draws.of([Draw(LIMIT, 0, SESSION, 7, Measure.TOKENS), Draw(LIMIT, 0, SESSION, 500_000_000)]),
    )  # fmt: skip


def ended(place: Subject) -> EndRecord:
    """It ended with a quarter."""
    ending = Ending(outcome="completed", status=200, usage_source="provider", usage=Usage(input=1, output=2))
    return EndRecord("captured", place, ending, 250_000_000, 250_000_000, 0)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """An open journal with one exchange that ended and one that did not."""
    journal = Journal(tmp_path / "data" / "journals" / "0", segment_bytes=1 << 20)
    journal.start()
    for _ in range(2):
        place = subject()
        placed_at = journal.place(PlaceRecord(place))
    journal.end(ended(place), placed_at)
    yield journal
    journal.close()


def test_inspect(command: Command, journal: Journal) -> None:
    """The summary of a journal in use names its open holds."""
    shown = command("journal", "inspect", "--json").json
    (segment,) = shown["segments"]
    assert (segment["journal"], segment["places"], segment["ends"], segment["end"]) == ("0", 2, 1, journal.position)
    (hold,) = shown["open_holds"]
    assert (hold["model"], hold["hold"]) == ("gpt-5-mini", "0.50")
    assert "1 open holds" in command("journal", "inspect").out


def test_inspect_records(command: Command, journal: Journal) -> None:
    """Every record can be read, in order, down to each limit that it draws from."""
    records = command("journal", "inspect", "--records", "--json").json
    assert [record["record"] for record in records] == ["place", "place", "end"]
    assert records[2]["content"]["ending"]["usage"]["output"] == 2
    tokens, credit = records[2]["content"]["subject"]["draws"]
    assert (tokens["measure"], tokens["amount"], credit["amount"]) == (Measure.TOKENS, 7, 500_000_000)
    assert (credit["limit_id"], credit["session_id"], credit["counted"]) == (str(LIMIT), str(SESSION), False)
    assert command("journal", "inspect", journal.directory, "--records").out.count("gpt") == 0


def test_what_is_said_of_resources(command: Command, journal: Journal) -> None:
    """Owners and deferrals are counted and told; a hold that became durable is not open."""
    place = subject()
    resource = Resource(place.account_id, "response", "resp_1", "openai")
    journal.defer(DeferRecord(place, resource), journal.place(PlaceRecord(place)))
    journal.describe(OwnerRecord(resource, 1))
    journal.describe(ForgetRecord(resource, 2))
    shown = command("journal", "inspect", "--json").json
    (segment,) = shown["segments"]
    assert [segment[kind] for kind in ("places", "ends", "deferrals", "owners", "other")] == [3, 1, 1, 2, 0]
    assert len(shown["open_holds"]) == 1
    records = command("journal", "inspect", "--records", "--json").json[-3:]
    assert [(record["record"], record["resource"]) for record in records] == [
        ("defer", "resp_1"), ("owner", "resp_1"), ("forget", "resp_1"),
    ]  # fmt: skip
    assert records[0]["amount"] == "0.50"
    (segment,) = command("journal", "verify", "--files-only", "--json").json
    assert (segment["deferrals"], segment["owners"]) == (1, 2)
    assert command("journal", "inspect", "--records").out.count("resp_1") == 3


def test_verify_whole(command: Command, journal: Journal) -> None:
    """A journal in use is whole."""
    done = command("journal", "verify", "--files-only", "--json")
    assert done.status == 0
    assert [(segment["damaged_bytes"], segment["torn_bytes"]) for segment in done.json] == [(0, 0)]


def test_verify_torn(command: Command, journal: Journal) -> None:
    """Half a record at the end is what a crash leaves: told, and no failure."""
    path = next(journal.directory.glob("*.journal"))
    data = bytearray(path.read_bytes())
    data[journal.position : journal.position + 3] = b"abc"
    path.write_bytes(data)
    done = command("journal", "verify", "--files-only", "--json")
    assert (done.status, done.json[0]["torn_bytes"]) == (0, 3)


def test_verify_damaged(command: Command, journal: Journal) -> None:
    """A flipped byte in the middle is a failure that names the file."""
    path = next(journal.directory.glob("*.journal"))
    data = bytearray(path.read_bytes())
    data[100] ^= 0xFF
    path.write_bytes(data)
    done = command("journal", "verify", "--files-only")
    assert done.status == 1
    assert done.err.startswith("meterproxy: damaged segments: 1")


def test_verify_asks_how_far_postgresql_has_come(on_database: Command, journal: Journal) -> None:
    """Each segment says how much of it is settled; nothing of a journal that PostgreSQL never heard of."""
    (segment,) = on_database("journal", "verify", "--json").json
    assert (segment["settled"], segment["problem"]) == ("no", None)


def test_verify_misses_what_is_not_settled(on_database: Command, journal: Journal, tmp_path: Path) -> None:
    """A segment that is gone before PostgreSQL had it is a failure, however whole the others are."""
    later = Journal(tmp_path / "data" / "journals" / "1", segment_bytes=1 << 20)
    later.start(position=5000)
    later.close()
    done = on_database("journal", "verify", later.directory, "--json")
    assert done.status == 1
    assert done.json[0]["problem"] == "5000 bytes before it are missing"
    assert "missing" in done.err


async def lost_worker(dsn: str, directory: Path) -> tuple[str, str]:
    """A worker that was killed for good with a hold open; answers its session and its journal."""
    async with pool_of(dsn) as pool:
        key = await customer(pool, 10_000_000)
        ledger = ledger_of(pool, directory, host="far-away", slot=3)
        await ledger.start()
        await ledger.holds.place(hold_request(ledger, key, 200_000, input_estimate=50))
        kill(ledger.journal)
        await pool.execute("UPDATE worker_sessions SET expires_at = now() - interval '1 minute'")
        await LostSessions(pool).sweep(0.01, 3600)
        return str(ledger.session.session_id), str(ledger.journal.journal_id)


def test_a_lost_worker_is_listed_and_given_up(on_database: Command, database: str, tmp_path: Path) -> None:
    """It is told by host and slot with the credit it keeps; what was given up is gone from the list."""
    session_id, journal_id = asyncio.run(lost_worker(database, tmp_path / "far"))
    (row,) = on_database("journal", "list", "--lost", "--json").json
    assert (row["state"], row["host"], row["slot"]) == ("lost", "far-away", 3)
    assert (row["session_id"], row["journal_id"]) == (session_id, journal_id)
    assert row["credit_nanos"] >= 200_000
    done = on_database("audit")
    assert (done.status, "1 lost" in done.err) == (0, True)
    assert "far-away" in on_database("journal", "abandon", journal_id).out
    assert on_database("journal", "list", "--json").json == []
    assert on_database("audit").err == ""
    done = on_database("journal", "abandon", session_id)
    assert done.status == 1
    assert done.err.startswith(f"meterproxy: {session_id} is no session that could be given up")


def test_a_journal_is_imported(on_database: Command, database: str, tmp_path: Path) -> None:
    """From the directory itself or from the one above; a second time there is nothing left to do."""
    _, journal_id = asyncio.run(lost_worker(database, tmp_path / "far" / "slot-3"))
    (row,) = on_database("journal", "import", tmp_path / "far", "--json").json
    assert (row["journal_id"], row["open_holds"], row["proved"]) == (journal_id, 1, 1)
    (row,) = on_database("journal", "import", tmp_path / "far" / "slot-3", "--json").json
    assert (row["records"], row["open_holds"], row["proved"]) == (0, 0, 0)
    assert on_database("audit").status == 0
    done = on_database("journal", "import", tmp_path)
    assert (done.status, done.err.startswith(f"meterproxy: there is no journal in {tmp_path}")) == (1, True)


def test_a_journal_in_use_is_not_imported(on_database: Command, journal: Journal) -> None:
    """Its owner settles it."""
    done = on_database("journal", "import", journal.directory)
    assert (done.status, "another process owns the journal" in done.err) == (1, True)
