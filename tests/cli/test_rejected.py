"""Rejected records by commands, as an operator whom an alert has called types them."""

import asyncio
from uuid import uuid4

from meterproxy.core.lending import Batch, Settling
from meterproxy.store.settle import Settlement
from tests.cli.conftest import Command
from tests.ledger.bank import pool_of
from tests.ledger.records import end


def refused(database: str) -> str:
    """A record that PostgreSQL would not take at all: there is no such account."""
    record = end(7, account_id=uuid4())

    async def reject() -> None:
        async with pool_of(database) as pool:
            await Settlement(pool).reject(Batch(uuid4(), 0, 1, 1, [Settling(1, record)], {}, None), "refused")

    asyncio.run(reject())
    return str(record.subject.request_id)


def test_an_alert_is_looked_into_and_closed(on_database: Command, database: str) -> None:
    """The audit fails and names it; list and show say what it is; after `seen` the audit passes."""
    request_id = refused(database)
    failed = on_database("audit")
    assert (failed.status, "no_record_waits_for_a_person" in failed.err) == (1, True)
    (row,) = on_database("rejected", "list", "--json").json
    assert (row["request_id"], row["booked"], row["seen_at"]) == (request_id, "nothing", None)
    shown = on_database("rejected", "show", request_id, "--json").json
    assert "does not exist" in shown["error"]
    assert request_id in str(shown["record"])
    assert on_database("rejected", "seen", request_id, "--reason", "a test").status == 0
    assert on_database("audit").status == 0
    assert on_database("rejected", "list", "--json").json == []
    assert len(on_database("rejected", "list", "--all", "--json").json) == 1
    stranger = on_database("rejected", "seen", str(uuid4()))
    assert (stranger.status, stranger.err.startswith("meterproxy: No record of request")) == (1, True)
