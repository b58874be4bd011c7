"""The exhibit: what is made up can be looked at, adds up, and is made once."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from meterproxy.catalog.catalog import Catalog
from meterproxy.control.passwords import Passwords
from meterproxy.service.exhibit import ORGANIZATION, PEOPLE, ExhibitThere, make_exhibit
from meterproxy.store.accounts import Accounts
from meterproxy.store.audit import audit
from meterproxy.store.people import People
from tests.ledger.bank import pool_of


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


async def test_it_is_made_once_and_the_books_balance(pool: asyncpg.Pool) -> None:
    """Its people can sign in, its name says what it is, and its credit does not run out while somebody looks."""
    exhibit = await make_exhibit(pool, Catalog(), rows=300)
    assert "made up" in exhibit.organization
    assert [result for result in await audit(pool) if not result.ok] == []
    account = await Accounts(pool).read(exhibit.account_id)
    assert 0 < account.balance_nanos < account.credits_nanos
    people = People(pool, Accounts(pool))
    for email in exhibit.sign_in:
        found = await people.find(email)
        assert found is not None
        assert await Passwords().check(exhibit.password, found.password_hash)
    roles = await pool.fetch("SELECT u.email, m.role FROM memberships m JOIN users u ON u.id = m.user_id")
    assert {(row["email"], row["role"]) for row in roles} == {(email, role) for _, email, role in PEOPLE}
    with pytest.raises(ExhibitThere, match="there already"):
        await make_exhibit(pool, Catalog(), rows=300)
    assert await pool.fetchval("SELECT count(*) FROM organizations WHERE name = $1", ORGANIZATION) == 1
