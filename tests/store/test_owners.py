"""Owners that age: providers forget responses by themselves, so their owners go, and only theirs."""

import asyncpg

from meterproxy.store import upkeep
from meterproxy.store.upkeep import OWNER_DAYS, delete_old_owners
from tests.ledger.bank import pool_of

ROWS = """
    response        old     alive   -> gone
    chat_completion old     alive   -> gone
    conversation    old     alive   -> kept
    file            old     alive   -> kept
    file            old     dead    -> gone
    response        young   alive   -> kept
    response        young   buried  -> kept
    file            old     buried  -> kept
"""
DAYS = {"old": OWNER_DAYS + 1, "young": OWNER_DAYS - 1, "dead": OWNER_DAYS + 1, "buried": OWNER_DAYS - 1}


async def add(pool: asyncpg.Pool, number: int, kind: str, age: str, state: str) -> None:
    await pool.execute(
        "INSERT INTO owners VALUES (gen_random_uuid(), $1, $2, 'openai', now() - make_interval(days => $3),"
        " now() - make_interval(days => $4))",
        kind, str(number), DAYS[age], DAYS.get(state),
    )  # fmt: skip


async def test_owners_are_kept_for_longer_than_any_provider_knows_the_resource(database: str, monkeypatch) -> None:
    """What ages goes in slices, tombstones go when no journal can contradict them, the rest stays for ever."""
    monkeypatch.setattr(upkeep, "OWNERS_AT_ONCE", 1)
    lines = [line.split() for line in ROWS.strip().splitlines()]
    async with pool_of(database) as pool:
        for number, (kind, age, state, *_) in enumerate(lines):
            await add(pool, number, kind, age, state)
        assert await delete_old_owners(pool) == 3
        left = {int(row["id"]) for row in await pool.fetch("SELECT id FROM owners")}
        assert left == {number for number, line in enumerate(lines) if line[-1] == "kept"}
        assert await delete_old_owners(pool) == 0


async def test_what_ages_is_found_by_an_index(database: str) -> None:
    """The condition of the query is the index's, so that upkeep never walks through the table."""
    query = upkeep._UPKEEP["delete_old_owners"]
    async with pool_of(database) as pool, pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL enable_seqscan = off")
        rows = await connection.fetch(f"EXPLAIN {query.replace('$1', '60').replace('$2', '10')}")
    plan = "\n".join(row[0] for row in rows)
    assert "owners_that_age" in plan
    assert "owners_forgotten" in plan
