"""The audit log: a chain of rows, whoever writes at once, in which every change shows."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from meterproxy.store.accounts import Accounts
from meterproxy.store.audit import audit
from meterproxy.store.audit_log import AuditFilter, AuditLog
from tests.ledger.bank import pool_of

CHAIN = "audit_log_is_a_chain"


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


async def broken(pool: asyncpg.Pool) -> str | None:
    """What the audit says of the chain; None where it is whole."""
    (result,) = [result for result in await audit(pool) if result.name == CHAIN]
    return None if result.ok else result.detail


async def tamper(pool: asyncpg.Pool, statement: str) -> None:
    """Do as somebody does who may do anything with the database."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(statement)


async def test_everybody_at_once_makes_one_chain(pool: asyncpg.Pool) -> None:
    """Whoever commits first is first; nobody waits for ever."""
    await asyncio.gather(*(Accounts(pool, f"person {number}").create(f"Acme {number}") for number in range(20)))
    assert await broken(pool) is None
    assert await pool.fetchval("SELECT number FROM audit_head") == await pool.fetchval("SELECT count(*) FROM audit_log")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET actor = 'nobody' WHERE id = (SELECT audit_id FROM audit_chain WHERE number = 3)",
        "UPDATE audit_log SET detail = '{}' WHERE id = (SELECT audit_id FROM audit_chain WHERE number = 3)",
        "UPDATE audit_log SET occurred_at = occurred_at - interval '1 day'",
        "DELETE FROM audit_log WHERE id = (SELECT audit_id FROM audit_chain WHERE number = 3)",
        """
        WITH gone AS (DELETE FROM audit_chain WHERE number = 5 RETURNING audit_id)
        DELETE FROM audit_log WHERE id IN (SELECT audit_id FROM gone)
        """,
        "INSERT INTO audit_log (actor, action, subject_kind) VALUES ('nobody', 'x', 'y')",
        "UPDATE audit_chain c SET digest = sha256(''::bytea) WHERE number = 2",
    ],
    ids=["actor", "detail", "instant", "row gone", "last gone with its link", "row put in", "link"],
)
async def test_what_was_changed_shows(pool: asyncpg.Pool, statement: str) -> None:
    """Also for somebody who has switched all triggers off."""
    for number in range(5):
        await Accounts(pool, "person").create(f"Acme {number}")
    assert await broken(pool) is None
    await tamper(pool, statement)
    assert await broken(pool) is not None


async def test_it_is_read_page_by_page_and_by_what_is_looked_for(pool: asyncpg.Pool) -> None:
    """The latest first; by actor, action and subject."""
    made = [await Accounts(pool, f"person {number % 2}").create(f"Acme {number}") for number in range(4)]
    log = AuditLog(pool)
    first = await log.list(AuditFilter(), None, 3)
    rest = await log.list(AuditFilter(), first[-1].id, 3)
    assert [row.subject_id for row in [*first, *rest]] == [account.id for account in reversed(made)]
    assert {row.actor for row in await log.list(AuditFilter(actor="person 1"), None, 9)} == {"person 1"}
    (found,) = await log.list(AuditFilter(subject_id=made[2].id, action="account.create"), None, 9)
    assert (found.subject_id, found.detail) == (made[2].id, {"name": "Acme 2"})
    assert await log.list(AuditFilter(action="key.create"), None, 9) == []
