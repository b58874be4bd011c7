"""The exhibit: what is made up can be looked at, adds up, and is made once."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from meterproxy.catalog.catalog import Catalog
from meterproxy.control.passwords import Passwords
from meterproxy.service.exhibit import KEYS, ORGANIZATION, PEOPLE, NotExhibit, make_exhibit
from meterproxy.store.accounts import Accounts
from meterproxy.store.audit import audit
from meterproxy.store.limits import Limits
from meterproxy.store.members import Members
from meterproxy.store.people import People
from meterproxy.store.settle import Settlement
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
    used_from = await pool.fetchval("SELECT min(occurred_at) FROM usage_events")
    assert await pool.fetchval("SELECT created_at FROM ledger_entries WHERE kind = 'grant'") < used_from
    account = await Accounts(pool).read(exhibit.account_id)
    assert 0 < account.balance_nanos < account.credits_nanos
    people = People(pool, Accounts(pool))
    for email in exhibit.sign_in:
        found = await people.find(email)
        assert found is not None
        assert await Passwords().check(exhibit.password, found.password_hash)
    roles = await pool.fetch("SELECT u.email, m.role FROM memberships m JOIN users u ON u.id = m.user_id")
    assert {(row["email"], row["role"]) for row in roles} == {(email, role) for _, email, role in PEOPLE}
    again = await make_exhibit(pool, Catalog(), rows=300)
    assert (again.account_id, again.requests, again.again) == (exhibit.account_id, 0, True)
    assert again.password != exhibit.password
    assert await pool.fetchval("SELECT count(*) FROM organizations WHERE name = $1", ORGANIZATION) == 1


@pytest.mark.parametrize(
    ("owner", "name", "done_before"),
    [(Accounts, "create_user", 1), (Members, "change", 1), (Settlement, "book", 0), (Limits, "create", 1)],
)
async def test_one_that_was_cut_off_is_made_whole_by_the_next(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, done_before: int
) -> None:
    """Wherever the first was killed, the second makes what is missing, nothing twice, and tells a password that works."""
    real, left = getattr(owner, name), [True] * done_before

    async def cut_off(*arguments: Any, **named: Any) -> Any:
        if not left:
            raise ConnectionError("killed")
        left.pop()
        return await real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, cut_off)
        with pytest.raises(ConnectionError):
            await make_exhibit(pool, Catalog(), rows=60)
    exhibit = await make_exhibit(pool, Catalog(), rows=60)
    assert [result for result in await audit(pool) if not result.ok] == []
    counts = "(SELECT count(*) FROM memberships), (SELECT count(*) FROM keys), (SELECT count(*) FROM teams)"
    made = await pool.fetchrow(f"SELECT {counts}, (SELECT count(*) FROM limits WHERE kind = 'budget')")
    assert tuple(made) == (len(PEOPLE), len(KEYS), 2, 2)
    assert await pool.fetchval("SELECT count(*) FROM usage_events") == 60
    found = await People(pool, Accounts(pool)).find(exhibit.sign_in[0])
    assert found is not None
    assert await Passwords().check(exhibit.password, found.password_hash)


async def test_somebody_elses_organization_of_its_name_gets_no_credit(pool: asyncpg.Pool) -> None:
    """Whoever takes the name first has nothing of it."""
    account = await Accounts(pool).create(ORGANIZATION)
    with pytest.raises(NotExhibit, match="was not made by this command"):
        await make_exhibit(pool, Catalog(), rows=60)
    assert (await Accounts(pool).read(account.id)).credits_nanos == 0
